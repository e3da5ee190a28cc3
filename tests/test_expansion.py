"""Linear expansion: lines over depth, stacks and free blocks, how straight layers are, distillation, refusals."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from replicas import assert_two_processes_learn_alike, replica_of
from xfer_course.clip import Transformer
from xfer_course.merging import (
    LinearExpansion,
    PatchTransformer,
    descendant,
    distillation_loss,
    expand_linear,
    linearity,
)
from xfer_course.training import seed_everything


def block(width: int = 8) -> nn.Module:
    seed_everything(0)
    return Transformer(width, 1, 2, "gelu").resblocks[0]


def stack(depth: int = 4) -> LinearExpansion:
    made = LinearExpansion(block(), depth)
    for each in made.slope.parameters():
        nn.init.normal_(each, std=0.1)
    return made


TOKENS = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network(depth: int = 4) -> PatchTransformer:
    return PatchTransformer(stack(depth), 8, 3)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_first_layer_is_the_base_and_the_last_lacks_one_step(depth):
    base, slope = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([10.0, -10.0])}
    states = expand_linear(base, slope, depth)
    assert len(states) == depth and torch.equal(states[0]["w"], base["w"])
    torch.testing.assert_close(states[-1]["w"], base["w"] + (depth - 1) / depth * slope["w"])


@pytest.mark.parametrize("depth", [1, 4, 7])
def test_free_blocks_do_what_the_stack_does(depth):
    made = stack(depth)
    torch.testing.assert_close(made.expand()(TOKENS), made(TOKENS))


def test_gradients_of_base_and_slope_are_sums_over_the_layers():
    made = stack(3)
    made(TOKENS).square().sum().backward()
    free = made.expand()
    free(TOKENS).square().sum().backward()
    for name, each in made.base.named_parameters():
        layers = torch.stack([dict(each.named_parameters())[name].grad for each in free])
        torch.testing.assert_close(each.grad, layers.sum(0), rtol=1e-4, atol=1e-4)
        wanted = (torch.arange(3).view(-1, *[1] * each.ndim) / 3 * layers).sum(0)
        torch.testing.assert_close(dict(made.slope.named_parameters())[name].grad, wanted, rtol=1e-4, atol=1e-4)


def test_a_new_slope_is_small_for_matrices_and_zero_for_vectors():
    given = block()
    made = LinearExpansion(given, 3, spread=0.02)
    for name, each in made.slope.named_parameters():
        assert (0 < each.abs().max() <= 0.04) if each.ndim > 1 else not each.any(), name
    assert all(torch.equal(a, b) for a, b in zip(made.base.parameters(), given.parameters()))
    assert not any(each.any() for each in LinearExpansion(given, 3, spread=0).slope.parameters())


def test_nothing_that_is_the_callers_changes_and_expanded_blocks_are_free():
    given, made = block(), stack()
    LinearExpansion(given, 2).base.ln_1.weight.data.zero_()
    assert given.ln_1.weight.all()
    before = copy.deepcopy(made.state_dict())
    free = made.expand(2)
    for each in free.parameters():
        each.data.zero_()
    assert all(torch.equal(each, before[name]) for name, each in made.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    made = stack().to(dtype)
    assert made(TOKENS.to(dtype)).dtype == dtype and made.expand(2)(TOKENS.to(dtype)).dtype == dtype


class Twice(nn.Module):
    "A block with one matrix in two places."

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 8), nn.Linear(8, 8)
        self.leave.weight = self.enter.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.leave(self.enter(x).relu())


@pytest.mark.parametrize("made", [stack(), LinearExpansion(Twice(), 3, spread=0.3)], ids=["transformer", "tied"])
def test_a_replica_says_and_learns_what_the_stack_does(made):
    said, again = made(TOKENS), replica_of(made)(TOKENS)
    torch.testing.assert_close(again, said)
    slopes = [torch.autograd.grad(each.square().sum(), list(made.parameters())) for each in (said, again)]
    torch.testing.assert_close(*slopes)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    assert_two_processes_learn_alike(stack(3), torch.randn(4, 5, 8), tmp_path)


@pytest.mark.parametrize("tied", (False, True))
def test_a_compiled_stack_says_the_same_and_autocast_nearly(tied):
    made = LinearExpansion(Twice(), 3, spread=0.3) if tied else stack()
    torch.testing.assert_close(torch.compile(made, backend="eager")(TOKENS), made(TOKENS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made(TOKENS)
    torch.testing.assert_close(found.float(), made(TOKENS), rtol=0.1, atol=0.1)


def test_a_descendant_of_the_same_depth_is_the_network_and_a_new_head_is_new():
    trained = network()
    torch.testing.assert_close(descendant(trained, 4)(IMAGES), trained(IMAGES))
    other = descendant(trained, 2, classes=5)
    assert other(IMAGES).shape == (3, 5) and len(other.blocks) == 2 and isinstance(trained.blocks, LinearExpansion)
    assert torch.equal(other.places, trained.places)


def test_layers_on_a_line_are_straight_and_random_ones_are_not():
    made = stack(5)
    assert min(linearity(made.expand()).values()) > 0.999
    free = made.expand()
    for each in free.parameters():
        nn.init.normal_(each)
    full, along = linearity(free), linearity(free, component=True)
    assert max(full.values()) < 0.7 and all(0 <= each <= 1 for each in along.values())
    same = nn.Sequential(*(copy.deepcopy(free[0]) for _ in range(3)))
    assert set(linearity(same).values()) == {1.0}


def test_a_bend_over_depth_is_no_line():
    layers = [nn.Linear(1, 1, bias=False) for _ in range(3)]
    for layer, value in zip(layers, (1.0, 0.0, 1.0)):
        layer.weight.data.fill_(value)
    assert linearity(layers)["weight"] == pytest.approx(0)


STUDENT = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
TEACHER = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 1, 2, 0])


def test_the_loss_in_its_limits():
    torch.testing.assert_close(distillation_loss(STUDENT, STUDENT), torch.tensor(0.0))
    torch.testing.assert_close(distillation_loss(STUDENT, TEACHER, LABELS, alpha=0),
                               F.cross_entropy(STUDENT, LABELS))
    torch.testing.assert_close(distillation_loss(STUDENT, TEACHER, LABELS, kind="none"),
                               F.cross_entropy(STUDENT, LABELS))
    torch.testing.assert_close(distillation_loss(STUDENT, TEACHER, kind="hard"),
                               F.cross_entropy(STUDENT, TEACHER.argmax(1)))
    torch.testing.assert_close(3 * distillation_loss(STUDENT, TEACHER, released=True),
                               distillation_loss(STUDENT, TEACHER))


def test_temperature_divides_both_and_no_gradient_reaches_the_teacher():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    loss = distillation_loss(student, teacher, LABELS, alpha=0.25, tau=2.0)
    p, q = (TEACHER / 2).softmax(1), (STUDENT / 2).softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(loss, 0.75 * F.cross_entropy(STUDENT, LABELS) + 0.25 * 4 * divergence)
    loss.backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


W = {"w": torch.ones(2)}


@pytest.mark.parametrize("call, words", [
    (lambda: expand_linear(W, W, 0), "depth must"), (lambda: expand_linear(W, {}, 2), "slope must have.*got no 'w'"),
    (lambda: expand_linear(W, {"w": torch.ones(3)}, 2), r"slope\['w'\] must be of shape \(2,\), got \(3,\)"),
    (lambda: LinearExpansion(nn.ReLU(), 2), "block must have parameters"),
    (lambda: LinearExpansion(block(), 0), "depth must"), (lambda: LinearExpansion(block(), 2, -1), "spread must"),
    (lambda: stack().expand(0), "depth must"), (lambda: linearity([block(), block()]), "blocks must be at least three"),
    (lambda: linearity([block(), block(), block(4)]), r"blocks\[2\] must have the names and shapes"),
    (lambda: linearity([block()] * 3, 1), "component must"),
    (lambda: PatchTransformer(stack(), 8, 3, 8, 3), "patch must"),
    (lambda: PatchTransformer(stack(), 8, 0), "classes must"), (lambda: descendant(network(), 2, 0), "classes must"),
    (lambda: distillation_loss(STUDENT, TEACHER[:2]), "teacher must"),
    (lambda: distillation_loss(STUDENT, TEACHER, alpha=0.5), "labels must be given"),
    (lambda: distillation_loss(STUDENT, TEACHER, alpha=2), "alpha must"),
    (lambda: distillation_loss(STUDENT, TEACHER, tau=0), "tau must"),
    (lambda: distillation_loss(STUDENT, TEACHER, kind="half"), "kind must"),
    (lambda: distillation_loss(STUDENT, TEACHER, LABELS[:2], alpha=0), "labels must hold 4"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("call, words", [
    (lambda: expand_linear([1], W, 2), "base must be a dict"), (lambda: expand_linear(W, {"w": [1.0]}, 2), "slope"),
    (lambda: expand_linear(W, {"w": W["w"].double()}, 2), "slope"), (lambda: LinearExpansion(3, 2), "block must"),
    (lambda: linearity([1, 2, 3]), r"blocks\[0\] must"), (lambda: descendant(block(), 2), "network must"),
    (lambda: descendant(PatchTransformer(block(), 8, 3), 2), "network.blocks must"),
    (lambda: PatchTransformer(3, 8, 3), "blocks must"),
])
def test_other_kinds_are_refused(call, words):
    with pytest.raises(TypeError, match=words):
        call()


# What users bring

@pytest.mark.parametrize("made, words", [
    (nn.Linear(8, 4), "got shape"), (nn.LSTM(8, 8, batch_first=True), "got tuple")])
def test_a_block_whose_output_is_unlike_its_input_is_refused(made, words):
    with pytest.raises(ValueError, match=f"block must give a tensor of its input's shape, .* {words}"):
        LinearExpansion(made, 3)(TOKENS)


def test_layers_with_nan_have_no_straightness():
    blocks = [nn.Linear(2, 2) for _ in range(3)]
    nn.init.constant_(blocks[1].weight, float("nan"))
    with pytest.raises(ValueError, match="must be finite"):
        linearity(blocks)


def test_a_class_that_the_teacher_rules_out_adds_nothing():
    student, teacher = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.3, 0.1, -torch.inf]])
    p = teacher.softmax(1)[:, :2]
    wanted = (p * (p.log() - student.log_softmax(1)[:, :2])).sum()
    torch.testing.assert_close(distillation_loss(student, teacher), wanted)
