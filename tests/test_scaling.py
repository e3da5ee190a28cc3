"""Learned scaling of task vectors: against plain sums, in the limits, without labels, backwards, refusals."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from replicas import assert_two_processes_learn_alike, replica_of
from xfer_course.data import Images
from xfer_course.merging import (
    LinearComposer,
    LinearisedModel,
    TaskVectorComposer,
    add_vectors,
    learn_scaling,
    negate,
    task_vector,
    trusted_images,
    ufm_loss,
)
from xfer_course.training import seed_everything


class Small(nn.Module):
    "A kernel, a norm with buffers, a matrix; and a matrix that is tied to it if asked for."

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, images):
        return self.second(self.first(self.norm(self.conv(images)).relu().mean((2, 3))))


def small(seed: int, **options) -> Small:
    seed_everything(seed)
    return Small(**options).eval()


@pytest.fixture
def base() -> Small:
    return small(0)


@pytest.fixture
def vectors(base) -> list[dict]:
    return [task_vector(base.state_dict(), small(seed).state_dict()) for seed in (1, 2)]


IMAGES, LABELS = torch.randn(12, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
SCALINGS = ("vector", "block", 1, 3)


def randomised(composer: TaskVectorComposer) -> TaskVectorComposer:
    nn.init.normal_(composer.coefficients)
    return composer.eval()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_it_begins_as_the_pretrained_network(base, vectors, scaling):
    composer = TaskVectorComposer(base, vectors, scaling)
    assert torch.equal(composer(IMAGES), base(IMAGES))
    state = composer.merged_state()
    assert all(torch.equal(each, state[name]) for name, each in base.state_dict().items())


@pytest.mark.parametrize("scaling, shape", [("vector", (2,)), ("block", (2, 8)), (3, (2, 8, 3))])
def test_coefficients_are_of_the_shape_that_the_scaling_says(base, vectors, scaling, shape):
    composer = TaskVectorComposer(base, vectors, scaling)
    assert composer.coefficients.shape == shape and len(composer.blocks) == 8
    assert [name for name, each in composer.named_parameters() if each.requires_grad] == ["coefficients"]


def test_one_scale_for_each_vector_is_task_arithmetic(base, vectors):
    composer = TaskVectorComposer(base, vectors, "vector")
    composer.coefficients.data = torch.tensor([0.3, -0.7])
    plain = copy.deepcopy(base)
    plain.load_state_dict({**add_vectors(base.state_dict(), vectors, (0.3, -0.7)),
                           **{name: each for name, each in base.state_dict().items() if "running" in name}})
    torch.testing.assert_close(composer.eval()(IMAGES), plain(IMAGES))


def test_blocks_of_equal_coefficients_and_parts_of_equal_coefficients_are_the_coarser_form(base, vectors):
    coarse = randomised(TaskVectorComposer(base, vectors, "vector"))
    for scaling in ("block", 1, 4):
        fine = TaskVectorComposer(base, vectors, scaling).eval()
        with torch.no_grad():
            fine.coefficients += coarse.coefficients.view(-1, *[1] * (fine.coefficients.ndim - 1))
        torch.testing.assert_close(fine(IMAGES), coarse(IMAGES))


def test_every_entry_of_a_part_has_its_coefficient(base, vectors):
    parts = {"first.weight": torch.arange(9).view(3, 3) % 2}
    composer = randomised(TaskVectorComposer(base, vectors, 2, parts=parts))
    column = composer.blocks.index("first.weight")
    wanted = base.first.weight.clone()
    for t, vector in enumerate(vectors):
        for i, part in enumerate(parts["first.weight"].flatten().tolist()):
            wanted.data.view(-1)[i] += composer.coefficients.data[t, column, part] * vector["first.weight"].view(-1)[i]
    torch.testing.assert_close(composer.merged_state()["first.weight"], wanted.detach())


def test_parts_follow_from_their_seed(base, vectors):
    states = [dict(TaskVectorComposer(base, vectors, 3, seed=seed).named_buffers()) for seed in (0, 0, 1)]
    assert torch.equal(states[0]["parts_0"], states[1]["parts_0"])
    assert not torch.equal(states[0]["parts_0"], states[2]["parts_0"])


def test_the_released_parts_leave_all_but_matrices_and_are_shared_by_shape(base, vectors):
    composer = randomised(TaskVectorComposer(base, vectors, 3, released=True))
    assert set(composer.composed()) == {"first.weight", "second.weight"}
    first, second = (composer.get_buffer(f"parts_{composer.blocks.index(name)}")
                     for name in ("first.weight", "second.weight"))
    assert torch.equal(first, second)


def test_a_gradient_is_the_inner_product_of_vector_and_gradient(base, vectors):
    composer = TaskVectorComposer(base, vectors)
    F.cross_entropy(composer.eval()(IMAGES), LABELS).backward()
    F.cross_entropy(base(IMAGES), LABELS).backward()
    wanted = [[(vector[name] * each.grad).sum() for name, each in base.named_parameters()] for vector in vectors]
    torch.testing.assert_close(composer.coefficients.grad, torch.tensor(wanted))


def test_tied_weights_are_composed_once_and_stay_tied():
    base = small(0, tied=True)
    vectors = [task_vector(base.state_dict(), small(1, tied=True).state_dict())]
    composer = randomised(TaskVectorComposer(base, vectors))
    assert len(composer.blocks) == 7
    again = copy.deepcopy(base)
    again.load_state_dict(composer.merged_state())
    torch.testing.assert_close(again(IMAGES), composer(IMAGES))
    assert again.first.weight is again.second.weight


def test_a_head_without_vectors_stays(base, vectors):
    trunk = [{name: each for name, each in vector.items() if not name.startswith("second")} for vector in vectors]
    composer = randomised(TaskVectorComposer(base, trunk))
    assert len(composer.blocks) == 6 and torch.equal(composer.merged_state()["second.weight"], base.second.weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_keep_their_precision_and_coefficients_are_single_at_least(base, vectors, dtype):
    composer = randomised(TaskVectorComposer(copy.deepcopy(base).to(dtype), vectors))
    assert composer.coefficients.dtype == torch.promote_types(dtype, torch.float32)
    assert {each.dtype for each in composer.composed().values()} == {dtype}
    assert composer(IMAGES.to(dtype)).dtype == dtype


def test_nothing_that_is_the_callers_changes(base, vectors):
    before, given = copy.deepcopy(base.state_dict()), copy.deepcopy(vectors)
    composer = learn_scaling(TaskVectorComposer(base, vectors), IMAGES, LABELS, steps=3)
    assert composer.coefficients.any() and not composer.training and base.first.weight.requires_grad
    assert all(torch.equal(each, before[name]) for name, each in base.state_dict().items())
    assert all(torch.equal(each, old[name]) for vector, old in zip(vectors, given) for name, each in vector.items())


def test_coefficients_alone_bring_it_back(base, vectors):
    composer = randomised(TaskVectorComposer(base, vectors))
    again = TaskVectorComposer(base, vectors).eval()
    again.coefficients.data = composer.coefficients.detach().clone()
    assert torch.equal(again(IMAGES), composer(IMAGES))
    assert not any(name.startswith(("vectors_", "parts_")) for name in composer.state_dict())


# Learning

def test_it_comes_near_a_composed_network_whose_answers_it_gets(base, vectors):
    wanted = TaskVectorComposer(base, vectors, "vector").eval()
    wanted.coefficients.data = torch.tensor([0.2, 0.4])
    answers = wanted(IMAGES).detach()
    composer = TaskVectorComposer(base, vectors, "vector")
    learn_scaling(composer, IMAGES, answers, objective=lambda x, y: F.mse_loss(composer.eval()(x), y), steps=150,
                  weight_decay=0.0)
    assert F.mse_loss(composer(IMAGES), answers) < 0.05 * F.mse_loss(base(IMAGES), answers)


def test_learning_is_the_same_for_the_same_seed(base, vectors):
    one, two = (learn_scaling(TaskVectorComposer(base, vectors), IMAGES, LABELS, steps=4, batch_size=5, seed=3)
                for _ in range(2))
    assert torch.equal(one.coefficients, two.coefficients)


def test_a_head_of_ones_own_learns_with_the_coefficients(base, vectors):
    both = nn.Sequential(TaskVectorComposer(base, vectors), nn.Linear(3, 2))
    before = both[1].weight.clone()
    learn_scaling(both, IMAGES, LABELS % 2, steps=2)
    assert not torch.equal(both[1].weight, before)


# Without labels

def test_without_trusted_pictures_only_sure_ones_count():
    weak, strong = torch.tensor([[9.0, 0.0], [0.1, 0.0]]), torch.tensor([[0.0, 0.0], [5.0, -5.0]])
    loss = ufm_loss(weak, strong, threshold=0.9)
    torch.testing.assert_close(loss, F.cross_entropy(strong[:1], (2 * weak[:1]).softmax(1)))


def test_trusted_pictures_count_with_their_label_and_sharpening_is_a_power():
    weak, strong = torch.tensor([[0.5, 0.0], [0.2, 0.0]]), torch.tensor([[1.0, 0.0], [5.0, -5.0]])
    labels, trusted = torch.tensor([1, 0]), torch.tensor([True, False])
    torch.testing.assert_close(ufm_loss(weak, strong, labels, trusted), F.cross_entropy(strong[:1], labels[:1]))
    soft = ufm_loss(weak, strong, threshold=0.0, temperature=0.5)
    q = weak.softmax(1) ** 2
    torch.testing.assert_close(soft, F.cross_entropy(strong, q / q.sum(1, keepdim=True)))
    released = ufm_loss(weak, strong, threshold=0.0, temperature=0.5, released=True)
    torch.testing.assert_close(released, F.cross_entropy(strong, weak.softmax(1)))


def test_where_no_picture_counts_the_loss_is_zero_and_as_released_no_number():
    weak, strong = torch.zeros(3, 2), torch.randn(3, 2, requires_grad=True)
    ufm_loss(weak, strong).backward()
    assert ufm_loss(weak, strong) == 0 and strong.grad.abs().sum() == 0
    assert ufm_loss(weak, strong, released=True).isnan()


def test_no_gradient_goes_through_the_weak_view():
    weak = torch.randn(3, 2, requires_grad=True)
    ufm_loss(weak, torch.randn(3, 2, requires_grad=True), threshold=0.0).backward()
    assert weak.grad is None


def test_the_surest_of_each_class_are_trusted():
    logits = torch.tensor([[5.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 4.0]])
    labels, trusted = trusted_images(logits, 1)
    assert labels.tolist() == [0, 0, 1, 1] and trusted.tolist() == [True, False, False, True]
    assert trusted_images(logits, 1, released=True)[1].all()
    assert trusted_images(torch.randn(90, 3))[1].sum() <= 9 and trusted_images(torch.randn(4, 3))[1].any()


# To forget

def test_what_is_forgotten_falls_and_a_control_that_would_fall_keeps_the_network(base, vectors):
    target, control = Images(IMAGES, base(IMAGES).argmax(1)), Images(IMAGES, base(IMAGES).argmax(1))
    composer = TaskVectorComposer(base, vectors)
    composer.coefficients.data.fill_(0.01)
    found = negate(composer, target, control, keep=1.5, epochs=2, batch_size=6)
    assert found.epoch == 0 and torch.equal(composer.coefficients, torch.full((2, 8), 0.01))
    found = negate(composer, target, control, keep=0.0, epochs=4, batch_size=6, rate=1.0)
    assert len(found.target) == len(found.control) == 5 and found.target[found.epoch] == min(found.target)


# Refusals

def without(vector: dict, name: str) -> dict:
    return {key: each for key, each in vector.items() if key != name}


@pytest.mark.parametrize("call, words", [
    (lambda b, v: TaskVectorComposer(b, []), "vectors must hold a parameter"),
    (lambda b, v: TaskVectorComposer(b, [{"odd": torch.ones(1)}]), r"vectors\[0\] must have names.*got 'odd'"),
    (lambda b, v: TaskVectorComposer(b, [v[0], without(v[1], "first.bias")]), r"vectors\[1\].*got no 'first.bias'"),
    (lambda b, v: TaskVectorComposer(b, [v[0] | {"first.bias": torch.ones(4)}]), r"of shape \(3,\), got \(4,\)"),
    (lambda b, v: TaskVectorComposer(b, [v[0] | {"first.bias": torch.full((3,), torch.nan)}]), "must be finite"),
    (lambda b, v: TaskVectorComposer(b, v, "all"), "scaling must be one of"),
    (lambda b, v: TaskVectorComposer(b, v, 0), "scaling must be a whole number"),
    (lambda b, v: TaskVectorComposer(b, v, 2, parts={"odd": torch.zeros(1)}), "parts must have names of blocks"),
    (lambda b, v: TaskVectorComposer(b, v, parts={"first.bias": torch.zeros(3)}), "parts must have names of blocks"),
    (lambda b, v: TaskVectorComposer(b, v, 2, parts={"first.bias": torch.tensor([0, 1, 2])}),
     r"parts.*lie in \[0, 1\]"),
    (lambda b, v: TaskVectorComposer(b, v, 2, parts={"first.bias": torch.tensor([0])}), r"of shape \(3,\)"),
    (lambda b, v: TaskVectorComposer(b, v, released=1), "released must"),
    (lambda b, v: LinearisedModel(nn.ReLU()), "model must have param"),
    (lambda b, v: learn_scaling(copy.deepcopy(b).requires_grad_(False), IMAGES, LABELS), "model must have a param"),
    (lambda b, v: learn_scaling(TaskVectorComposer(b, v), IMAGES, LABELS[:5]), "labels must hold 12"),
    (lambda b, v: learn_scaling(TaskVectorComposer(b, v), IMAGES, LABELS, rate=0), "rate must"),
    (lambda b, v: learn_scaling(TaskVectorComposer(b, v), IMAGES, LABELS, steps=0), "steps must"),
    (lambda b, v: ufm_loss(torch.zeros(2, 3), torch.zeros(3, 3)), "strong must"),
    (lambda b, v: ufm_loss(torch.zeros(2, 3), torch.zeros(2, 3), LABELS[:2]), "trusted must be given"),
    (lambda b, v: ufm_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0), "temperature must"),
    (lambda b, v: ufm_loss(torch.zeros(2, 3), torch.zeros(2, 3), threshold=2), "threshold must"),
    (lambda b, v: trusted_images(torch.zeros(2, 3), 3), "per_class must"),
    (lambda b, v: negate(TaskVectorComposer(b, v), Images(IMAGES, LABELS), Images(IMAGES, LABELS[:3])),
     "control.labels"),
    (lambda b, v: negate(TaskVectorComposer(b, v), *[Images(IMAGES, LABELS)] * 2, keep=-1), "keep must"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(base, vectors, call, words):
    with pytest.raises(ValueError, match=words) as refusal:
        call(base, vectors)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("call, words", [
    (lambda b, v: TaskVectorComposer(3, v), "model must"), (lambda b, v: TaskVectorComposer(b, v[0]), "vectors must"),
    (lambda b, v: TaskVectorComposer(b, [{"first.bias": [1.0]}]), r"vectors\[0\]\['first.bias'\] must"),
    (lambda b, v: TaskVectorComposer(b, v, 1.5), "scaling must"),
    (lambda b, v: learn_scaling(3, IMAGES), "model must"),
    (lambda b, v: learn_scaling(TaskVectorComposer(b, v)), "inputs must"),
    (lambda b, v: learn_scaling(TaskVectorComposer(b, v), IMAGES), "labels must"),
    (lambda b, v: ufm_loss(torch.zeros(2, 3), torch.zeros(2, 3), LABELS[:2], LABELS[:2]), "trusted must"),
    (lambda b, v: negate(b, *[Images(IMAGES, LABELS)] * 2), "composer must"),
])
def test_other_kinds_are_refused(base, vectors, call, words):
    with pytest.raises(TypeError, match=words):
        call(base, vectors)


# What users bring

@pytest.mark.parametrize("vector", [{"second.weight": torch.ones(3, 3)},
                                    {"first.weight": torch.zeros(3, 3), "second.weight": torch.ones(3, 3)}])
def test_a_vector_that_breaks_a_tie_is_refused(vector):
    with pytest.raises(ValueError, match="must agree about tied weights, got 'second.weight' other than"):
        TaskVectorComposer(small(0, tied=True), [vector])


def test_a_vector_that_half_precision_cannot_hold_is_refused(base):
    with pytest.raises(ValueError, match="as torch.float16 must be finite"):
        TaskVectorComposer(base.half(), [{"first.weight": torch.full((3, 3), 1e6)}])


def test_an_infinite_loss_that_does_not_count_is_left_out():
    strong = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]], requires_grad=True)
    assert ufm_loss(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), strong).isfinite()


def test_after_an_error_coefficients_are_as_before(base, vectors):
    composer = randomised(TaskVectorComposer(base, vectors))
    before = composer.coefficients.detach().clone()
    with pytest.raises((ValueError, RuntimeError)):
        negate(composer, Images(IMAGES, LABELS), Images(IMAGES, LABELS), rate=1e38, epochs=2)
    assert torch.equal(composer.coefficients, before) and not composer.training


# Linear in the change


def test_a_network_that_is_linear_in_its_weights_is_its_own_expansion():
    line, change = nn.Linear(4, 3), {"weight": torch.randn(3, 4), "bias": torch.randn(3)}
    x = torch.randn(5, 4)
    plain, linear = (randomised(kind(line, [change])) for kind in (TaskVectorComposer, LinearComposer))
    linear.coefficients.data.copy_(plain.coefficients)
    torch.testing.assert_close(linear(x), plain(x))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_expansion_is_the_slope_and_straight(base, vectors, scaling):
    base = base.double()
    vectors = [{name: x.double() for name, x in each.items()} for each in vectors]
    plain, linear = (kind(base, vectors, scaling).eval() for kind in (TaskVectorComposer, LinearComposer))
    x, c = IMAGES.double(), torch.randn_like(plain.coefficients)

    def said(composer, scale):
        composer.coefficients.data.copy_(scale * c)
        return composer(x).detach()

    torch.testing.assert_close(said(linear, 0), base(x))
    slope = (said(plain, 1e-5) - said(plain, -1e-5)) / 2e-5
    for scale in (-1, 0.5, 3):
        torch.testing.assert_close(said(linear, scale) - base(x), scale * slope, atol=1e-6, rtol=1e-5)


def test_a_linearised_network_learns_a_vector_and_nothing_else(base):
    tuned = LinearisedModel(base)
    assert torch.equal(tuned.train()(IMAGES), base(IMAGES))
    before = {name: each.clone() for name, each in base.state_dict().items()}
    seen = F.cross_entropy(tuned(IMAGES), LABELS).item()
    learn_scaling(tuned, IMAGES, LABELS, steps=20, rate=0.01)
    assert F.cross_entropy(tuned(IMAGES), LABELS).item() < seen
    assert all(torch.equal(each, before[name]) for name, each in tuned.model.state_dict().items()), "statistics too"
    again = LinearComposer(base, [tuned.vector()], "vector")
    again.coefficients.data.fill_(1)
    torch.testing.assert_close(again(IMAGES), tuned(IMAGES))


def test_coefficients_of_an_expansion_learn_without_touching_statistics(base, vectors):
    composer = learn_scaling(LinearComposer(base, vectors), IMAGES, LABELS, steps=3)
    assert composer.coefficients[:, :2].abs().min() > 0, "those of the kernel; norms are alike in all networks"
    assert torch.equal(composer.model.norm.running_mean, base.norm.running_mean)


# Replicas, processes, autocast, compilation


@pytest.mark.parametrize("tied", (False, True))
@pytest.mark.parametrize("kind", (TaskVectorComposer, LinearComposer))
def test_a_replica_says_and_learns_what_the_module_does(kind, tied):
    base = small(0, tied=tied)
    composer = randomised(kind(base, [task_vector(base.state_dict(), small(1, tied=tied).state_dict())]))
    replica = replica_of(composer)
    assert not list(replica.parameters())
    slopes = []
    for each in (composer, replica):
        said = each(IMAGES)
        slopes.append(torch.autograd.grad(F.cross_entropy(said, LABELS), composer.coefficients)[0])
        torch.testing.assert_close(said, composer(IMAGES))
    torch.testing.assert_close(*slopes)
    assert slopes[0].abs().max() > 0


@pytest.mark.parametrize("tied", (False, True))
def test_a_replica_of_a_linearised_network_says_and_learns_what_it_does(tied):
    tuned = LinearisedModel(small(0, tied=tied))
    for each in tuned.changes:
        nn.init.normal_(each, std=0.1)
    said, again = tuned(IMAGES), replica_of(tuned)(IMAGES)
    torch.testing.assert_close(again, said)
    slopes = [torch.autograd.grad(F.cross_entropy(each, LABELS), list(tuned.changes)) for each in (said, again)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_autocast_does_not_round_the_composed_weights(base, vectors, scaling):
    composer = randomised(TaskVectorComposer(base, vectors, scaling))
    wanted = composer.merged_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert composer(IMAGES).isfinite().all()
        found = composer.merged_state()
    assert all(torch.equal(each, found[name]) for name, each in wanted.items())


@pytest.mark.parametrize("kind", (TaskVectorComposer, LinearComposer))
def test_a_compiled_composer_says_the_same(base, vectors, kind):
    composer = randomised(kind(base, vectors))
    compiled = torch.compile(composer, backend="eager")
    torch.testing.assert_close(compiled(IMAGES), composer(IMAGES))
    F.cross_entropy(compiled(IMAGES), LABELS).backward()
    assert composer.coefficients.grad.abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", (TaskVectorComposer, LinearComposer, LinearisedModel))
def test_two_processes_learn_what_one_does(base, vectors, kind, tmp_path):
    network = kind(base) if kind is LinearisedModel else randomised(kind(base, vectors))
    assert_two_processes_learn_alike(network.eval(), IMAGES, tmp_path)
