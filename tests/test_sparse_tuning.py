"""Sparse fine-tuning: masks, updates that stay inside them, changes that are added and taken off, files, refusals."""
from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xfer_course.data import DataFileError
from xfer_course.peft import (
    LotteryTicketTuner,
    SparseDelta,
    from_released,
    load_delta,
    masked_updates,
    random_mask,
    save_delta,
    sparse_difference,
    to_released,
    top_k_mask,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0, middle: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), middle() if middle is nn.Tanh else middle(6), nn.Linear(6, 2))


X = normal(40, 4)
DATA = [(X[:20], (X[:20, 0] > 0).long()), (X[20:], (X[20:, 0] > 0).long())]


def step_of(model: nn.Module):
    return lambda batch, p: (F.cross_entropy(model(batch[0]), batch[1]), {})


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.5)


def tune(model: nn.Module, maskable="0.*", k: int = 5, optimizer=sgd, epochs: int = 2, mask=None, **options):
    tuner = LotteryTicketTuner(model, maskable, k, **options)
    return tuner, tuner.fit(step_of(model), DATA, optimizer, epochs, epochs, mask=mask)


def kept(mask: dict[str, torch.Tensor]) -> int:
    return sum(int(each.sum()) for each in mask.values())


def values_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(each, other[name]) for name, each in one.items())


# Masks

def test_the_largest_movements_over_all_tensors_are_kept():
    before, after = {"a": normal(30), "b": normal(5, 4, seed=1)}, {"a": normal(30, seed=2), "b": normal(5, 4, seed=3)}
    mask = top_k_mask(before, after, 7)
    moved = torch.cat([(after[name] - before[name]).abs().flatten() for name in before])
    chosen = torch.cat([mask[name].flatten() for name in before])
    assert set(chosen.nonzero().flatten().tolist()) == set(moved.argsort(descending=True)[:7].tolist())


def test_ties_are_kept_and_what_is_taken_does_not_compete():
    before = {"a": torch.zeros(4)}
    after = {"a": torch.tensor([3.0, -2.0, 2.0, 1.0])}
    assert top_k_mask(before, after, 2)["a"].tolist() == [True, True, True, False]
    taken = {"a": torch.tensor([True, False, False, False])}
    assert top_k_mask(before, after, 1, taken)["a"].tolist() == [True, True, True, False]
    assert top_k_mask(before, {"a": torch.tensor([0.0, 1.0, 0.0, 0.0])}, 2)["a"].all()  # K above what moved


def test_a_random_mask_has_k_entries_and_repeats_itself():
    tensors = {"a": normal(50), "b": normal(5, 10)}
    mask = random_mask(tensors, 30, seed=3)
    assert kept(mask) == 30 and same(mask, random_mask(tensors, 30, seed=3))
    assert not same(mask, random_mask(tensors, 30, seed=4)) and 0 < mask["a"].sum() < 30


# Updates

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "momentum and decay": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, 0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.5),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_entries_outside_the_mask_stay_to_the_bit(make):
    model, mask = network(), {"0.weight": torch.eye(6, 4).bool(), "0.bias": torch.zeros(6, dtype=torch.bool)}
    optimizer, step = make(model.parameters()), step_of(model)
    step(DATA[0], 0)[0].backward()
    optimizer.step()  # moments and momentum have something to remember
    old = values_of(model)
    with masked_updates(model, mask, optimizer):
        for batch in DATA:
            optimizer.zero_grad()
            step(batch, 0)[0].backward()
            assert (model[0].weight.grad[~mask["0.weight"]] == 0).all()
            optimizer.step()
    assert torch.equal(model[0].weight[~mask["0.weight"]], old["0.weight"][~mask["0.weight"]])
    assert torch.equal(model[0].bias, old["0.bias"]) and not torch.equal(model[2].bias, old["2.bias"])
    assert (model[0].weight != old["0.weight"])[mask["0.weight"]].all()
    step(DATA[0], 0)[0].backward()
    optimizer.step()  # outside the block everything moves again
    assert not torch.equal(model[0].weight[~mask["0.weight"]], old["0.weight"][~mask["0.weight"]])


def test_an_optimizer_that_does_not_have_the_parameter_is_refused():
    model, other = network(), network()
    mask = {"0.bias": torch.zeros(6, dtype=torch.bool)}
    for optimizer in (sgd(other.parameters()), sgd(model[2].parameters())):
        with pytest.raises(ValueError, match="optimizer must train every parameter in mask.*lacks '0.bias' of model"):
            with masked_updates(model, mask, optimizer):
                pass
    assert not model[0].bias._post_accumulate_grad_hooks


# The procedure

def naive(model: nn.Module, k: int, epochs: int, rate: float) -> tuple[dict, dict]:
    "Both phases by hand, for plain gradient descent and maskable parameters of the first layer."
    start, mask = values_of(model), {name: torch.ones_like(each) for name, each in model.named_parameters()}
    for phase in range(2):
        for _ in range(epochs):
            for x, y in DATA:
                loss = F.cross_entropy(model(x), y)
                gradients = torch.autograd.grad(loss, list(model.parameters()))
                with torch.no_grad():
                    for (name, each), gradient in zip(model.named_parameters(), gradients):
                        each -= rate * gradient * mask[name]
        if not phase:
            moved = {name: (each.detach() - start[name]).abs() for name, each in model.named_parameters()}
            first = torch.cat([moved[name].flatten() for name in ("0.weight", "0.bias")])
            least = first.sort(descending=True).values[k - 1]
            for name in ("0.weight", "0.bias"):
                mask[name] = (moved[name] >= least).float()
            model.load_state_dict(start)
    return start, values_of(model)


def test_both_phases_are_those_of_a_naive_reference():
    model, other = network(), network()
    start, expected = naive(other, 5, 2, 0.5)
    tuner, delta = tune(model)
    for name, each in model.named_parameters():
        torch.testing.assert_close(each.detach(), expected[name])
    assert kept(tuner.mask) == len(delta) == 5 and set(delta.whole) == {"2.weight", "2.bias"}
    assert not any(each.requires_grad for each in delta.whole.values())
    for name, change in delta.differences.items():
        torch.testing.assert_close(change.to_dense().float(), expected[name] - start[name])


def test_what_is_put_on_is_what_was_tuned_and_what_is_taken_off_leaves_the_start():
    model = network()
    start = values_of(model)
    _, delta = tune(model, optimizer=lambda p: torch.optim.AdamW(p, 0.05))
    fresh = network()
    delta.apply(fresh)
    assert same(values_of(fresh), values_of(model))
    delta.revert(model)
    assert torch.equal(model[0].weight, start["0.weight"]) and torch.equal(model[0].bias, start["0.bias"])


def test_iterations_share_the_entries_and_keep_those_of_before():
    tuner, delta = tune(network(), k=9, iterations=3)
    assert kept(tuner.mask) == 9 and len(delta) <= 9
    assert kept(tune(network(), k=8, iterations=3)[0].mask) == 6  # the rest of 8 / 3 is not used
    first, _ = tune(network(), k=3)
    assert all((tuner.mask[name] | ~each).all() for name, each in first.mask.items())


def test_a_given_mask_is_used_and_nothing_is_tuned_in_full():
    mask = random_mask({name: each for name, each in network().named_parameters() if name[0] == "0"}, 6)
    tuner, delta = tune(network(), mask=mask)
    assert same(tuner.mask, mask) and not hasattr(tuner, "fully_tuned")
    assert all((mask[name] | (change.to_dense() == 0)).all() for name, change in delta.differences.items())


def test_a_pull_keeps_things_near_and_the_released_one_does_nothing():
    def distance(**options) -> float:
        tuner, _ = tune(network(), epochs=5, **options)
        start = values_of(network())
        return sum(float((tuner.fully_tuned[name] - each).abs().sum()) for name, each in start.items())

    free = distance()
    assert distance(l1=2.0) < 0.8 * free
    assert distance(l1=2.0, l1_gradient="released") == free
    assert distance(l1=2.0) < distance(l1=2.0, l1_over="maskable") < free


def test_the_pulls_of_both_phases_are_their_own():
    def final(**options) -> dict[str, torch.Tensor]:
        model = network()
        tune(model, **options)
        return values_of(model)

    assert same(final(l1=0.5), final(l1=0.5, sparse_l1=0.5))
    assert not same(final(l1=0.5), final(l1=0.5, sparse_l1=0.0))


def test_where_training_fails_the_network_is_as_before():
    model = network()
    start, calls = values_of(model), []

    def step(batch, p):
        calls.append(1)
        loss = F.cross_entropy(model(batch[0]), batch[1])
        return loss * (float("nan") if len(calls) > 5 else 1), {}

    with pytest.raises(FloatingPointError):
        LotteryTicketTuner(model, "0.*", 3).fit(step, DATA, sgd, 2, 2)
    assert same(values_of(model), start)


def test_statistics_of_batch_norm_travel_in_full():
    model = network(middle=nn.BatchNorm1d)
    _, delta = tune(model)
    assert "1.running_mean" in delta.whole and "1.weight" in delta.whole
    fresh = network(middle=nn.BatchNorm1d)
    delta.apply(fresh)
    assert same(dict(fresh.state_dict()), dict(model.state_dict()))


class Counting(nn.Linear):
    "A layer with a buffer that is not saved, and with a state that is no tensor."

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return super().forward(x)

    def get_extra_state(self) -> dict:
        return {"version": 1}

    def set_extra_state(self, state: dict) -> None:
        pass


def test_buffers_that_are_not_saved_go_back_as_well():
    model = Counting()
    tune(model, "*", 3, epochs=2)
    assert model.seen.item() == 2 * len(DATA)  # the second phase began at the start
    with pytest.raises(FloatingPointError):
        step = step_of(model)
        LotteryTicketTuner(model, "*", 3).fit(lambda batch, p: (step(batch, p)[0] * torch.nan, {}), DATA, sgd, 1, 1)
    assert model.seen.item() == 2 * len(DATA)


def test_rounds_go_on_where_ties_have_taken_what_is_left():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 3), nn.Flatten(), nn.Linear(6, 2))
    ids = torch.tensor([[0, 1], [2, 3], [1, 2]])  # the other rows tie: none of them moves
    step = lambda batch, p: (F.cross_entropy(model(batch), torch.tensor([0, 1, 1])), {})  # noqa: E731
    tuner = LotteryTicketTuner(model, "0.*", 40, iterations=2)
    delta = tuner.fit(step, [ids], sgd, 1, 1)
    assert kept(tuner.mask) == 60 and 0 < len(delta) <= 12


def test_frozen_parameters_are_neither_tuned_nor_kept():
    model = network()
    model[2].requires_grad_(False)
    _, delta = tune(model)
    assert not delta.whole and torch.equal(model[2].weight, network()[2].weight)


def test_better_than_chance():
    model = network()
    tune(model, k=10, epochs=10)
    assert float((model(X).argmax(1) == (X[:, 0] > 0)).float().mean()) > 0.85


# Changes

def delta_of(seed: int, dtype: torch.dtype = torch.float32, share: float = 0.3) -> SparseDelta:
    before = values_of(network().to(dtype))
    change = {name: normal(*each.shape, seed=seed).to(dtype) * (normal(*each.shape, seed=seed + 1) > share)
              for name, each in before.items()}
    return sparse_difference(before, {name: each + change[name] for name, each in before.items()})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_on_and_off_in_every_precision(dtype):
    model = network().to(dtype)
    start, delta = values_of(model), delta_of(1, dtype)
    delta.apply(model)
    assert not same(values_of(model), start)
    delta.revert(model)
    assert same(values_of(model), start)


def test_sums_are_those_of_numbers_in_any_order():
    one, other = delta_of(1), delta_of(5)
    for name in one.differences:
        expected = one.differences[name].to_dense() + other.differences[name].to_dense()
        assert torch.equal((one + other).differences[name].to_dense(), expected)
        assert torch.equal((other + one).differences[name].to_dense(), expected)
        assert torch.equal((0.5 * one).differences[name].to_dense(), 0.5 * one.differences[name].to_dense())
    assert len(one + other) > max(len(one), len(other))
    part = SparseDelta({"0.bias": one.differences["0.bias"]})
    assert set((part + SparseDelta({"2.bias": one.differences["2.bias"]})).differences) == {"0.bias", "2.bias"}


def test_a_head_that_is_kept_does_not_follow_the_network():
    model = network()
    delta = SparseDelta({}, {"2.bias": model[2].bias})
    old = model[2].bias.detach().clone()
    with torch.no_grad():
        model[2].bias.add_(1)
    assert torch.equal(delta.whole["2.bias"], old)


def test_of_two_heads_the_second_stays_and_language_heads_can_be_left_out():
    language = SparseDelta({}, {"2.bias": torch.ones(2)})
    task = SparseDelta({}, {"2.bias": torch.zeros(2)})
    assert torch.equal((language + task).whole["2.bias"], torch.zeros(2))
    model = network()
    delta_of(1).apply(model)
    bias = model[2].bias.detach().clone()
    language.apply(model, whole=False)
    assert torch.equal(model[2].bias, bias)
    task.revert(model)
    assert torch.equal(model[2].bias, bias)
    task.apply(model)
    assert (model[2].bias == 0).all()


def test_a_network_without_the_place_is_left_alone():
    model, delta = network(), delta_of(1)
    start = values_of(model)
    odd = delta + SparseDelta({"3.weight": torch.ones(2).to_sparse()})
    with pytest.raises(ValueError, match="model must have a '3.weight'.*got none"):
        odd.apply(model)
    with pytest.raises(ValueError, match="whole=False"):
        (delta + SparseDelta({}, {"decoder.bias": torch.ones(1)})).apply(model)
    assert same(values_of(model), start)


# Files

def test_a_file_gives_back_every_bit(tmp_path):
    delta = SparseDelta({**delta_of(1).differences, "alone": torch.tensor(0.1).to_sparse(),
                         "none": torch.zeros(3, 2).to_sparse(), "cube": normal(2, 3, 4).to_sparse()},
                        {"head.weight": normal(2, 3), "steps": torch.tensor(7), "half": normal(3).half()})
    again = load_delta(save_delta(delta, tmp_path / "a" / "delta.safetensors"))
    assert same({name: each.to_dense() for name, each in delta.differences.items()},
                {name: each.to_dense() for name, each in again.differences.items()})
    assert same(delta.whole, again.whole) and all(each.dtype == again.whole[n].dtype for n, each in delta.whole.items())


def test_the_released_form_there_and_back(tmp_path):
    delta = SparseDelta({"cube": (normal(4, 3, 5) * (normal(4, 3, 5, seed=1) > 0.5)).to_sparse(),
                         "none": torch.zeros(3).to_sparse()}, {"head.bias": normal(3)})
    torch.save(to_released(delta), tmp_path / "pytorch_diff.bin")
    again = from_released(torch.load(tmp_path / "pytorch_diff.bin", weights_only=True))
    for name, change in delta.differences.items():
        torch.testing.assert_close(again.differences[name].to_dense(), change.to_dense(), rtol=1e-6, atol=0)
    steps = to_released(SparseDelta({"a": torch.tensor([[0.0, 2.0], [1.0, 0.0]]).to_sparse()}))["diffs"]["a"]
    assert steps["index_steps"] == [1, 1] and steps["values"].tolist() == [1.0, 2.0]


def test_large_tensors_do_not_overflow():
    "A place beyond 2**31, which the authors' reader counts in 32 bits."
    shape = (70_000, 70_000)
    change = torch.sparse_coo_tensor(torch.tensor([[69_999], [69_998]]), torch.tensor([1.5]), shape,
                                     check_invariants=True)
    again = from_released(to_released(SparseDelta({"large": change}))).differences["large"]
    assert again.indices().flatten().tolist() == [69_999, 69_998] and again.values().tolist() == [1.5]


@pytest.mark.parametrize("content", [
    {"places.a": torch.tensor([9]), "values.a": torch.ones(1), "shape.a": torch.tensor([3])},
    {"places.a": torch.tensor([-1]), "values.a": torch.ones(1), "shape.a": torch.tensor([3])},
    {"places.a": torch.tensor([1, 2]), "values.a": torch.ones(1), "shape.a": torch.tensor([3])},
    {"places.a": torch.tensor([1]), "shape.a": torch.tensor([3])},
    {"places.a": torch.tensor([1]), "values.a": torch.tensor([float("nan")]), "shape.a": torch.tensor([3])},
    {"places.a": torch.tensor([0]), "values.a": torch.ones(1), "shape.a": torch.tensor([-3])},
    {"weight": torch.ones(2)},
    {"places.a": torch.tensor([1, 1]), "values.a": torch.ones(2), "shape.a": torch.tensor([3])},
    {"places.a": torch.tensor([1.5]), "values.a": torch.ones(1), "shape.a": torch.tensor([3])},
    {"places.a": torch.tensor([1]), "values.a": torch.ones(1), "shape.a": torch.tensor([2**40, 2**40])},
    {"places.a": torch.tensor([0]), "values.a": torch.ones(1), "shape.a": torch.tensor([3, 0])},
], ids=["outside", "negative", "lengths", "no values", "NaN", "no shape", "another file", "twice", "half", "huge",
        "nothing"])
def test_files_of_other_content_are_refused(tmp_path, content):
    from safetensors.torch import save_file

    save_file(content, tmp_path / "x.safetensors")
    with pytest.raises(DataFileError, match="must hold a sparse delta") as refusal:
        load_delta(tmp_path / "x.safetensors")
    assert "\n" not in str(refusal.value)


def test_a_damaged_file_is_refused_and_a_missing_one_is_missing(tmp_path):
    path = save_delta(delta_of(1), tmp_path / "delta.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataFileError, match="must hold a sparse delta"):
        load_delta(path)
    with pytest.raises(FileNotFoundError):
        load_delta(tmp_path / "none")


def test_a_head_alone_is_a_change_and_nothing_is_none():
    head = SparseDelta({}, {"2.weight": torch.ones(2, 6)})
    assert head and len(head) == 0
    assert delta_of(1) and not SparseDelta({}) and not SparseDelta({"0.bias": torch.zeros(6).to_sparse()})


def test_an_infinite_gradient_outside_the_mask_does_no_harm():
    weight = nn.Parameter(torch.tensor([0.0, 1.0]))
    model = nn.ParameterDict({"weight": weight})
    optimizer = torch.optim.AdamW([weight], 0.1)
    with masked_updates(model, {"weight": torch.tensor([False, True])}, optimizer):
        for _ in range(2):
            optimizer.zero_grad()
            weight.sqrt().sum().backward()  # its slope at 0 is infinite
            assert weight.grad[0] == 0 and torch.isfinite(weight.grad).all()
            optimizer.step()
    assert weight[0] == 0 and weight[1] < 1


# Refusals

ONE = {"a": torch.zeros(3)}


@pytest.mark.parametrize("call, words", [
    (lambda: top_k_mask({}, {}, 1), "before must hold at least one tensor"),
    (lambda: top_k_mask(ONE, {"b": torch.zeros(3)}, 1), "after must hold the same names"),
    (lambda: top_k_mask(ONE, {"a": torch.zeros(4)}, 1), r"after\['a'\] must be of shape"),
    (lambda: top_k_mask(ONE, {"a": torch.tensor([0, 1, torch.nan])}, 1), "must be finite"),
    (lambda: top_k_mask(ONE, ONE, 4), "k must .* from 1 to 3, got 4"),
    (lambda: top_k_mask(ONE, ONE, 1, {"a": torch.ones(3, dtype=torch.bool)}), "k must"),
    (lambda: random_mask(ONE, 4), "k must"),
    (lambda: sparse_difference(ONE, ONE, drop=-1), "drop must"),
    (lambda: SparseDelta({"a": torch.ones(3).to_sparse()}, {"a": torch.ones(3)}), "whole must name other"),
    (lambda: SparseDelta({"a": torch.ones(3)}), "the layout of"),
    (lambda: delta_of(1) * float("inf"), "factor must"),
    (lambda: delta_of(1) + SparseDelta({"0.bias": torch.ones(3).to_sparse()}), "what is added must have"),
    (lambda: delta_of(1).apply(network(), whole=2), "whole must"),
    (lambda: LotteryTicketTuner(network(), "1.*", 3), "maskable must .* '1.*', which fits none"),
    (lambda: LotteryTicketTuner(network().requires_grad_(False), "*", 3), "maskable must"),
    (lambda: LotteryTicketTuner(network(), "0.*", 31), "k must"),
    (lambda: LotteryTicketTuner(network(), "0.*", 3, iterations=4), "iterations must"),
    (lambda: LotteryTicketTuner(network(), "0.*", 3, l1=-1), "l1 must"),
    (lambda: LotteryTicketTuner(network(), "0.*", 3, l1_over="all"), "l1_over must"),
    (lambda: LotteryTicketTuner(network(), "0.*", 3, l1_gradient="none"), "l1_gradient must"),
    (lambda: LotteryTicketTuner(network(), "0.*", 3).fit(step_of(network()), DATA, sgd, 0, 1), "full_epochs must"),
    (lambda: LotteryTicketTuner(network(), "0.*", 3).fit(step_of(network()), DATA, sgd, 1, 1, checkpoint="x"),
     "an option must"),
    (lambda: masked_updates(network(), {"3.bias": torch.ones(2).bool()}, None).__enter__(), "a name in mask must"),
    (lambda: from_released({"diffs": {}}), "content must"),
    (lambda: to_released(delta_of(1), torch.int64), "dtype must be one of"),
    (lambda: from_released({"diffs": {"a": {"size": (2,), "index_steps": [1, 0], "values": torch.ones(2)}}, "abs": {}}),
     "content must"),
    (lambda: from_released({"diffs": {"a": {"size": (2,), "index_steps": [5], "values": torch.ones(1)}}, "abs": {}}),
     "content must"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("call, words", [
    (lambda: top_k_mask([1], ONE, 1), "before must"),
    (lambda: top_k_mask(ONE, ONE, 1, {"a": torch.ones(3)}), "truth values"),
    (lambda: delta_of(1) + 3, "what is added must"), (lambda: SparseDelta([]), "differences must"),
    (lambda: delta_of(1).apply(3), "model must"), (lambda: save_delta({}, "x"), "delta must"),
    (lambda: masked_updates(network(), {}, None).__enter__(), "optimizer must"),
    (lambda: LotteryTicketTuner(3, "*", 3), "model must"),
    (lambda: LotteryTicketTuner(network(), "*", 3).fit(None, DATA, sgd(network().parameters()), 1, 1),
     "optimizer must be a Callable, got SGD"),
])
def test_other_kinds_are_refused_in_a_sentence(call, words):
    with pytest.raises(TypeError, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)
