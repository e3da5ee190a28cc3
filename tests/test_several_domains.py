"""Several sources and targets, and weights of the label loss: values by hand, the binary case to the bit, bad input."""
from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xfer_course.dann import DANN, MultiDomainDANN, lambda_schedule
from xfer_course.data import Images, domain_batches, moons, multi_domain_batches
from xfer_course.evaluation import accuracy
from xfer_course.training import choose_accelerator, data_fingerprint, fit, part_of_batch

DRAWN = torch.Generator().manual_seed(0)
X, Y = torch.randn(12, 2, generator=DRAWN), torch.arange(12) % 2
SMALL, TARGET, OTHER = X[:3] + 1, X[:5] - 1, X[:7] * 2


def modules(outputs: int, seed: int = 0, norm: bool = False) -> tuple[nn.Module, nn.Module, nn.Module]:
    torch.manual_seed(seed)
    features = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8) if norm else nn.Tanh(), nn.Linear(8, 4))
    return features, nn.Linear(4, 2), nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, outputs))


def multi(domains: int, **options) -> MultiDomainDANN:
    norm = options.pop("norm", False)
    return MultiDomainDANN(*modules(1 if domains == 2 else domains, norm=norm), domains=domains, **options)


def gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    return torch.autograd.grad(loss, [*model.parameters()])


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- two domains: DANN as it is


BOTH = (True, False)


@pytest.mark.parametrize("joint_batch, reduction, norm", [*itertools.product(BOTH, ("mean", "sum"), BOTH)])
def test_two_domains_are_dann_to_the_bit(joint_batch, reduction, norm):
    options = {"joint_batch": joint_batch, "domain_reduction": reduction}
    one, other = multi(2, norm=norm, **options), DANN(*modules(1, norm=norm), **options)
    ours, theirs = one.loss([(X, Y)], [TARGET], 0.3), other.loss(X, Y, TARGET, 0.3)
    assert same(ours, theirs) and same(gradients(one, ours.total), gradients(other, theirs.total))
    assert same(one.state_dict().values(), other.state_dict().values()), "statistics of batch norm"
    assert same(one.eval()(X), other.eval()(X)) and one(X).domain_logits.shape == (12,)


def test_a_softmax_of_two_outputs_is_the_logistic_head():
    "Ours with D outputs for D = 2, by hand, is the binary loss: so the general form is its generalisation."
    binary = multi(2)
    wide = nn.Linear(6, 2)
    with torch.no_grad():
        last = binary.domain_classifier[2]
        wide.weight.copy_(torch.cat([torch.zeros_like(last.weight), last.weight]))
        wide.bias.copy_(torch.cat([torch.zeros(1), last.bias]))
    logits = wide(binary.domain_classifier[:2](binary.feature_extractor(torch.cat([X, TARGET]))))
    source, target = F.cross_entropy(logits[:12], Y * 0), F.cross_entropy(logits[12:], Y[:5] * 0 + 1)
    torch.testing.assert_close(binary.loss([(X, Y)], [TARGET]).domain, (source + target) / 2)


# --- more of them


DOMAINS = {
    "two sources, one target": ([(X, Y), (SMALL, Y[:3])], [TARGET]),
    "one source, two targets": ([(X, Y)], [TARGET, OTHER]),
    "two and two": ([(X, Y), (SMALL, Y[:3])], [TARGET, OTHER]),
    "three sources of different sizes": ([(X, Y), (SMALL, Y[:3]), (OTHER, Y[:7])], []),
}


@pytest.mark.parametrize("joint_batch", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("domains", DOMAINS.values(), ids=DOMAINS)
@pytest.mark.parametrize("lambda_", [0.0, 0.7])
def test_loss_and_gradients_are_those_of_the_literal_players(domains, reduction, joint_batch, lambda_):
    sources, targets = domains
    count = len(sources) + len(targets)
    model = multi(count, joint_batch=joint_batch, domain_reduction=reduction)
    loss = model.loss(sources, targets, lambda_)
    features = [model.feature_extractor(x) for x in [x for x, _ in sources] + targets]
    labels = torch.cat([y for _, y in sources])
    label = F.cross_entropy(model.label_predictor(torch.cat(features[: len(sources)])), labels)
    terms = [F.cross_entropy(model.domain_classifier(f), torch.full((len(f),), d)) for d, f in enumerate(features)]
    domain = sum(terms) / (count if reduction == "mean" else 1)
    torch.testing.assert_close((loss.label, loss.domain, loss.total), (label, domain, label + domain))
    ours, head = gradients(model, loss.total), [*model.domain_classifier.parameters()]
    rest = [*model.feature_extractor.parameters(), *model.label_predictor.parameters()]
    expected = torch.autograd.grad(label - lambda_ * domain, rest, retain_graph=True)
    torch.testing.assert_close(ours, [*expected, *torch.autograd.grad(domain, head)], rtol=1e-4, atol=1e-6)


def test_a_guess_costs_log_of_the_number_of_domains():
    for count, reduction in itertools.product((2, 3, 5), ("mean", "sum")):
        model = multi(count, domain_reduction=reduction)
        nn.init.zeros_(model.domain_classifier[2].weight), nn.init.zeros_(model.domain_classifier[2].bias)
        loss = model.loss([(X, Y)], [TARGET] * (count - 1)).domain.item()
        assert loss == pytest.approx(math.log(count) * (count if reduction == "sum" else 1), rel=1e-6)


def test_domains_count_alike_however_many_rows_they_have():
    model = multi(3)
    once = model.loss([(X, Y), (SMALL, Y[:3])], [TARGET])
    twice = model.loss([(X, Y), (SMALL, Y[:3])], [TARGET.repeat(2, 1)])
    torch.testing.assert_close(once.domain, twice.domain)


def test_batch_norm_sees_each_domain_alone_or_all_together():
    domains = ([(X, Y), (SMALL, Y[:3])], [TARGET])
    apart, joint = (multi(3, norm=True, joint_batch=joint_batch) for joint_batch in (False, True))
    apart.loss(*domains), joint.loss(*domains)
    assert [m.feature_extractor[1].num_batches_tracked.item() for m in (apart, joint)] == [3, 1]


def test_it_is_used_like_dann():
    model = multi(4)
    output = model(X)
    assert output.class_logits.shape == (12, 2) and output.domain_logits.shape == (12, 4)
    torch.testing.assert_close(model.source_loss(X, Y), F.cross_entropy(output.class_logits, Y))
    assert accuracy(model, X, Y) == (output.class_logits.argmax(1) == Y).double().mean().item()


def turned(degrees: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    points, classes = moons(300, degrees, seed=seed)
    return torch.tensor(points).float(), torch.tensor(classes)


def trained(strength: float, seed: int = 0) -> float:
    torch.manual_seed(seed)
    features = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 32), nn.Tanh())
    head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    model, (x, y) = MultiDomainDANN(features, nn.Linear(32, 2), head, domains=3), turned(45, 9)
    loader = multi_domain_batches([turned(0, 1), turned(20, 2)], [x], steps=300)

    def step(batch, p):
        return model.loss(*batch, lambda_=strength * lambda_schedule(p)).total, {}

    fit(step, loader, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), epochs=1, progress=False,
        accelerator=choose_accelerator("cpu"))
    return accuracy(model, x, y)


def test_two_sources_adapt_to_a_target():
    assert trained(1.0) > trained(0.0) + 0.08


# --- weights of the label loss


LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 3.0]])
LABELS = torch.tensor([0, 1, 1, 0])
LOSSES = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), math.log(2), math.log(1 + math.exp(3))]


def label_loss(**weights) -> float:
    "Of a network that hands its input through: the logits are the input."
    return DANN(nn.Identity(), nn.Identity(), nn.Linear(2, 1)).loss(LOGITS, LABELS, LOGITS, **weights).label.item()


def test_weighted_means_by_hand():
    one, two, three, four = LOSSES
    assert label_loss() == pytest.approx(sum(LOSSES) / 4)
    assert label_loss(class_weights=torch.tensor([1.0, 3.0])) == pytest.approx((one + 3 * two + 3 * three + four) / 8)
    assert label_loss(sample_weights=torch.tensor([0.0, 1.0, 2.0, 0.5])) == pytest.approx(
        (two + 2 * three + 0.5 * four) / 3.5)
    both = {"class_weights": [2, 1], "sample_weights": np.array([0.5, 1, 0, 4])}
    assert label_loss(**both) == pytest.approx((one + two + 8 * four) / 10)
    assert label_loss(sample_weights=torch.zeros(4)) == 0
    assert label_loss(class_weights=torch.tensor([0, 5])) == pytest.approx((two + three) / 2)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_class_weights_are_those_of_torch_and_scale_does_not_count(scale):
    weights = torch.tensor([0.3, 1.7])
    expected = F.cross_entropy(LOGITS, LABELS, weight=weights).item()
    assert label_loss(class_weights=scale * weights) == pytest.approx(expected, rel=1e-5)
    assert label_loss(sample_weights=torch.full((4,), scale)) == pytest.approx(sum(LOSSES) / 4, rel=1e-5)


def test_a_row_without_weight_has_no_gradient_and_weights_reach_the_adversary_nowhere():
    x = X.clone().requires_grad_()
    model = DANN(*modules(1))
    weights = torch.ones(12)
    weights[4] = 0
    loss = model.loss(x, Y, TARGET, 0.5, sample_weights=weights)
    assert torch.autograd.grad(loss.label, x, retain_graph=True)[0][4].abs().sum() == 0
    assert torch.equal(loss.domain, model.loss(X, Y, TARGET, 0.5).domain)
    none = model.loss(X, Y, TARGET, sample_weights=torch.zeros(12))
    assert none.label == 0 and all(g.isfinite().all() for g in gradients(model, none.total))


def test_half_precision_has_weights_too():
    model = DANN(nn.Identity(), nn.Identity(), nn.Linear(2, 1).half())
    loss = model.source_loss(LOGITS.half(), LABELS, class_weights=torch.tensor([1e5, 3e5]))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(label_loss(class_weights=[1.0, 3.0]), rel=1e-3)


def test_weights_of_sources():
    first, second = (X, Y), (SMALL, Y[:3])
    model, ones = multi(3), torch.ones(12)
    plain = model.loss([first, second], [TARGET])
    for sources in ([(*first, ones), second], [(*first, 2 * ones), (*second, torch.full((3,), 2))]):
        torch.testing.assert_close(model.loss(sources, [TARGET]).label, plain.label)
    only_second = model.loss([(*first, 0 * ones), second], [TARGET])
    torch.testing.assert_close(only_second.label, model.source_loss(*second))
    assert torch.equal(only_second.domain, plain.domain)
    weighted = model.loss([first, second], [TARGET], class_weights=torch.tensor([1.0, 4.0])).label
    logits, labels = model(torch.cat([X, SMALL])).class_logits, torch.cat([Y, Y[:3]])
    torch.testing.assert_close(weighted, F.cross_entropy(logits, labels, torch.tensor([1.0, 4.0])))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_weights_on_the_cpu_serve_a_network_on_a_gpu():
    model = multi(3).cuda()
    sources = [(X.cuda(), Y.cuda(), torch.ones(12)), (SMALL.cuda(), Y[:3].cuda())]
    loss = model.loss(sources, [TARGET.cuda()], class_weights=[1.0, 2.0])
    torch.testing.assert_close(loss.label.cpu(), multi(3).loss(
        [(X, Y), (SMALL, Y[:3])], [TARGET], class_weights=[1.0, 2.0]).label, rtol=1e-4, atol=1e-5)


# --- batches


def test_every_step_has_rows_of_every_domain_in_passes_of_their_own():
    rows = [torch.arange(10.0)[:, None], 100 + torch.arange(6.0)[:, None], 200 + torch.arange(4.0)[:, None]]
    labels, weights = torch.arange(10), torch.arange(6.0)
    loader = multi_domain_batches([(rows[0], labels), (rows[1], torch.arange(6), weights)], [rows[2]], 4, steps=15)
    seen = [[], [], []]
    for (first, second), (target,) in loader:
        assert [len(each) for each in (*first, *second, target)] == [4] * 6
        assert torch.equal(first[0].flatten().long(), first[1])
        assert torch.equal(second[0].flatten() - 100, second[2]) and torch.equal(second[1].float(), second[2])
        for values, x in zip(seen, (first[0], second[0] - 100, target - 200)):
            values += x.flatten().long().tolist()
    for values, size in zip(seen, (10, 6, 4)):
        assert len(values) == 60
        assert all(sorted(values[i:i + size]) == list(range(size)) for i in range(0, 60, size))


def test_one_source_and_one_target_come_in_the_order_of_domain_batches():
    pairs = zip(multi_domain_batches([Images(X, Y)], [TARGET], 4, steps=9, seed=3),
                domain_batches(Images(X, Y), TARGET, 4, steps=9, seed=3), strict=True)
    for (((x, y),), (target,)), expected in pairs:
        assert same((x, y, target), expected)


def test_a_run_on_them_is_resumed_and_knows_its_data(tmp_path):
    def run(labels, p_stop=2.0):
        model = multi(3)
        loader = multi_domain_batches([(X, labels), (SMALL, Y[:3])], [TARGET], 4, steps=5)

        def step(batch, p):
            if p >= p_stop:
                raise KeyboardInterrupt
            return model.loss(*batch).total, {}

        history = fit(step, loader, torch.optim.Adam(model.parameters()), epochs=4, progress=False,
                      checkpoint=tmp_path, model=model, accelerator=choose_accelerator("cpu"))
        return model, history

    with pytest.raises(KeyboardInterrupt):
        run(Y, 0.6)
    with warnings.catch_warnings(action="ignore"):
        resumed, history = run(Y)
    (tmp_path / "checkpoint.safetensors").unlink()
    whole, expected = run(Y)
    assert history.loss == expected.loss and same(resumed.state_dict().values(), whole.state_dict().values())
    with pytest.raises(ValueError, match="run with other data"):
        run(1 - Y)


def test_several_processes_share_every_domain():
    batch = next(iter(multi_domain_batches([(X, Y), (SMALL, Y[:3], torch.ones(3))], [TARGET], 4, steps=1)))
    halves = [part_of_batch(batch, process, 2) for process in (0, 1)]
    assert [len(x) for half in halves for source in half[0] for x in source] == [2] * 10
    assert torch.equal(torch.cat([half[1][0] for half in halves]), batch[1][0])


def test_data_are_named_by_domain():
    assert len(data_fingerprint(multi_domain_batches([(X, Y), (SMALL, Y[:3])], [TARGET], 4, steps=1))) >= 5


# --- bad input


def loss_of(sources, targets=(), model=None, **options):
    return lambda: (model or multi(3)).loss(sources, targets, **options)


def batches_of(sources, targets=(), **options):
    return lambda: multi_domain_batches(sources, targets, **{"steps": 1} | options)


GOOD = [(X, Y), (SMALL, Y[:3])]
NAMES = np.array(["cat", "dog"])[Y]
BAD = {
    "no list": (loss_of(X, [TARGET]), TypeError, "sources must be a list with an entry for each domain, got Tensor"),
    "the arguments of DANN": (lambda: multi(3).loss(X, Y, TARGET), TypeError, "sources must be a list"),
    "one pair": (loss_of((X, Y), [TARGET]), TypeError, r"sources\[0\] must be \(x, y\) or .*, got Tensor"),
    "a target alone": (loss_of(GOOD, TARGET), TypeError, "targets must be a list with an entry .* got Tensor"),
    "too few": (loss_of(GOOD), ValueError, "must be 3 domains together, one of them a source, got 2 and 0"),
    "no source": (loss_of([], [TARGET] * 3), ValueError, "one of them a source, got 0 and 3"),
    "one domain": (lambda: multi(1), ValueError, "domains must be a whole number of at least 2, got 1"),
    "domains a word": (lambda: MultiDomainDANN(*modules(3), domains="3"), TypeError, "domains must be a whole number"),
    "not said": (lambda: MultiDomainDANN(*modules(3)), TypeError, "domains"),
    "four in a source": (loss_of([(X, Y, Y, Y), GOOD[1]], [TARGET]), TypeError, r"sources\[0\] must be \(x, y\)"),
    "head too narrow": (loss_of(GOOD, [TARGET], MultiDomainDANN(*modules(2), domains=3)), ValueError,
                        r"domain_classifier's output must be of shape \(20 3\), got \(20, 2\)"),
    "two outputs for two": (loss_of([(X, Y)], [TARGET], MultiDomainDANN(*modules(2), domains=2)), ValueError,
                            "must return one logit per example"),
    "shapes": (loss_of(GOOD, [TARGET[:, :1]]), ValueError, r"targets\[0\] must be of shape \(N 2\), got \(5, 1\)"),
    "types": (loss_of([(X, Y), (SMALL.double(), Y[:3])], [TARGET]), TypeError, r"x of sources\[1\] must be of type"),
    "empty": (loss_of([(X, Y), (SMALL[:0], Y[:0])], [TARGET]), ValueError, r"x of sources\[1\] must hold at least one"),
    "labels": (loss_of([(X, Y), (SMALL, Y[:4])], [TARGET]), ValueError,
               r"y of sources\[1\] must hold 3 labels, .* got 4"),
    "names": (loss_of([(X, NAMES), GOOD[1]], [TARGET]), TypeError,
              r"y of sources\[0\] must be a tensor .* got ndarray"),
    "range": (loss_of([(X, Y + 1), GOOD[1]], [TARGET]), ValueError, "class numbers from 0 up and below 2, got 2"),
    "float labels": (loss_of([(X, Y.float()), GOOD[1]], [TARGET]), TypeError, r"y of sources\[0\] must hold integer"),
    "reduction": (lambda: multi(3, domain_reduction="none"), ValueError, "domain_reduction must be one of"),
    "class weights: length": (lambda: label_loss(class_weights=torch.ones(3)), ValueError,
                              r"class_weights must be of shape \(2\), got \(3,\)"),
    "class weights: NaN": (lambda: label_loss(class_weights=[1.0, math.nan]), ValueError,
                           "class_weights must be finite"),
    "class weights: infinite": (lambda: label_loss(class_weights=torch.tensor([1, math.inf])), ValueError,
                                "class_weights must be finite, got inf"),
    "class weights: negative": (lambda: label_loss(class_weights=[1, -0.5]), ValueError,
                                "class_weights must hold numbers of at least 0, got -0.5"),
    "class weights: a word": (lambda: label_loss(class_weights="balanced"), TypeError, "class_weights must hold real"),
    "class weights: a dict": (lambda: label_loss(class_weights={0: 1, 1: 2}), TypeError,
                              "class_weights must hold real numbers"),
    "class weights: a column": (lambda: label_loss(class_weights=torch.ones(2, 1)), ValueError,
                                r"class_weights must be of shape \(2\)"),
    "class weights: complex": (lambda: label_loss(class_weights=torch.ones(2) * 1j), TypeError,
                               "class_weights must hold real numbers"),
    "sample weights: length": (lambda: label_loss(sample_weights=torch.ones(3)), ValueError,
                               r"sample_weights must be of shape \(4\), got \(3,\)"),
    "sample weights: negative": (lambda: label_loss(sample_weights=-torch.ones(4)), ValueError,
                                 "sample_weights must hold numbers of at least 0, got -1"),
    "sample weights: names": (lambda: label_loss(sample_weights=["a"] * 4), TypeError, "sample_weights must hold real"),
    "weights of a source": (loss_of([(X, Y, torch.ones(3)), GOOD[1]], [TARGET]), ValueError,
                            r"sample_weights of sources\[0\] must be of shape \(12\), got \(3,\)"),
    "unknown weights": (lambda: multi(3).source_loss(X, Y, weights=[1, 1]), TypeError, "unexpected keyword"),
    "batches: no list": (batches_of(X), TypeError, "sources must be a list with an entry for each domain, got Tensor"),
    "batches: no source": (batches_of([], [TARGET]), ValueError,
                           "the number of sources must be a whole number of at least 1, got 0"),
    "batches: one pair": (batches_of((X, Y)), TypeError, r"sources\[0\] must be \(x, y\) or .* got Tensor"),
    "batches: targets": (batches_of(GOOD, TARGET), TypeError, "targets must be a list"),
    "batches: empty": (batches_of(GOOD, [TARGET[:0]]), ValueError,
                       r"targets\[0\] must be of shape .* at least one row"),
    "batches: shapes": (batches_of(GOOD, [TARGET[:, :1]]), ValueError, r"targets\[0\] must have rows of shape \(2,\)"),
    "batches: labels": (batches_of([(X, Y[:4])]), ValueError, r"y of sources\[0\] must hold 12 labels"),
    "batches: names": (batches_of([(X, NAMES)]), TypeError, r"y of sources\[0\] must be a tensor"),
    "batches: weights": (batches_of([(X, Y, -torch.ones(12))]), ValueError,
                         r"sample_weights of sources\[0\] must be .* of at least 0, got -1"),
    "batches: NaN": (batches_of([(X, Y, torch.ones(12) * math.nan)]), ValueError, "must be finite, got nan"),
    "batches: short weights": (batches_of([(X, Y, torch.ones(3))]), ValueError, r"of shape \(12\), got \(3,\)"),
    "batches: steps": (batches_of(GOOD, steps=0), ValueError, "steps must be a whole number of at least 1, got 0"),
    "batches: size": (batches_of(GOOD, batch_size=0), ValueError, "batch_size must be a whole number of at least 1"),
    "batches: seed": (batches_of(GOOD, seed=-1), ValueError, "seed must be a whole number of at least 0, got -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_clear_sentence(case):
    call, error, sentence = BAD[case]
    with pytest.raises(error, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
