"""States on lines and in sums, batch norm measured anew, shifted digits, Fisher merging: exact cases and refusals."""
from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xfer_course.merging import (
    SHIFTS,
    DigitNetwork,
    add_vectors,
    barrier,
    fisher_diagonal,
    fisher_merge,
    fisher_norm,
    grid_weights,
    interpolate,
    loss_along,
    merge_grid,
    merge_states,
    reset_statistics,
    shifted_digits,
    task_vector,
    train_network,
    weighted_mean,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0, norm: str = "batch") -> DigitNetwork:
    torch.manual_seed(seed)
    return DigitNetwork(2, norm, 3).eval()


@pytest.fixture
def pair() -> list[dict[str, torch.Tensor]]:
    return [network(seed).state_dict() for seed in (0, 1)]


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Lines, means and sums

def test_both_ends_of_a_line_are_the_states_to_the_bit(pair):
    assert same(interpolate(*pair, 0), pair[0]) and same(interpolate(*pair, 1) | counts(pair[0]), pair[1])


def counts(state: dict) -> dict:
    return {name: x for name, x in state.items() if not x.is_floating_point()}


def test_the_middle_is_the_mean_and_whole_numbers_are_the_first_ones(pair):
    pair[0]["body.1.num_batches_tracked"], pair[1]["body.1.num_batches_tracked"] = torch.tensor(4), torch.tensor(9)
    middle, mean = interpolate(*pair), weighted_mean(pair)
    for name, x in middle.items():
        torch.testing.assert_close(x, mean[name])
    assert middle["body.1.num_batches_tracked"] == mean["body.1.num_batches_tracked"] == 4


def test_a_mean_is_that_of_the_formula_whatever_the_sum_of_weights():
    states = [{"w": normal(3, seed=seed).double()} for seed in range(3)]
    wanted = (2 * states[0]["w"] + 6 * states[2]["w"]) / 8
    torch.testing.assert_close(weighted_mean(states, (2, 0, 6))["w"], wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_precision_is_that_of_the_first_and_a_vector_brings_the_other_back(dtype):
    before, after = ({"w": normal(50, seed=seed).to(dtype), "n": torch.tensor(seed)} for seed in (0, 1))
    assert interpolate(before, after)["w"].dtype == dtype
    vector = task_vector(before, after)
    assert vector.keys() == {"w"} and vector["w"].dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(add_vectors(before, [vector])["w"], after["w"])


def test_half_precision_does_not_overflow_in_a_mean():
    states = [{"w": torch.tensor([60000.0], dtype=torch.float16)}] * 3
    assert weighted_mean(states)["w"] == 60000


def test_masks_stay_and_infinities_that_differ_are_refused():
    mask = torch.full((2, 2), -torch.inf).triu(1)
    states = [{"mask": mask, "w": normal(2, seed=seed)} for seed in (0, 1)]
    for merged in (interpolate(*states), weighted_mean(states), add_vectors(states[0], [task_vector(*states)])):
        assert torch.equal(merged["mask"], mask)
    with pytest.raises(ValueError, match="finite where they differ.*'mask'"):
        interpolate(states[0], states[1] | {"mask": torch.zeros(2, 2)})


def test_tied_weights_stay_one_tensor_and_ties_that_differ_are_refused():
    tied = [normal(3, seed=seed) for seed in (0, 1)]
    states = [{"in": x, "out": x} for x in tied]
    merged = weighted_mean(states)
    assert merged["in"] is merged["out"]
    torch.testing.assert_close(merged["in"], sum(tied) / 2)
    vector = task_vector(*states)
    torch.testing.assert_close(add_vectors(states[0], [vector])["out"], tied[1])
    with pytest.raises(ValueError, match="ties, got 'in' and 'out'"):
        weighted_mean([states[0], {"in": tied[0], "out": tied[1]}])


def test_nothing_given_is_changed_and_nothing_of_it_is_shared(pair):
    before = copy.deepcopy(pair)
    vector = task_vector(*pair)
    for merged in (interpolate(*pair, 0), weighted_mean(pair), add_vectors(pair[0], [vector], 0.5),
                   merge_states(pair, lambda name, parts: parts[0])):
        for x in merged.values():
            x.zero_()
    assert all(same(one, other) for one, other in zip(pair, before))


def test_a_sum_of_vectors_with_a_scale_each(pair):
    third = network(2).state_dict()
    vectors = [task_vector(pair[0], other) for other in (pair[1], third)]
    found = add_vectors(pair[0], vectors, (0.25, 0.5))["head.weight"]
    torch.testing.assert_close(found, 0.25 * pair[0]["head.weight"] + 0.25 * pair[1]["head.weight"]
                               + 0.5 * third["head.weight"])


def test_a_barrier_is_measured_from_the_line_between_the_ends():
    assert barrier([0.2, 0.9, 0.4]) == pytest.approx(0.6) and barrier([1.0, 0.0, 1.0]) == 0
    assert barrier([0, 1, 4], shares=[0, 0.25, 1]) == 0


def test_losses_along_a_line_are_those_of_its_networks(pair):
    model, x, y = network(), normal(6, 1, 14, 14), torch.tensor([0, 1, 2, 0, 1, 2])
    before = copy.deepcopy(model.state_dict())
    losses = loss_along(model, *pair, x, y, (0, 0.3, 1))
    for share, loss in zip((0, 0.3, 1), losses):
        model.load_state_dict(interpolate(*pair, share))
        assert loss == pytest.approx(F.cross_entropy(model(x), y).item(), abs=1e-5)
    model.load_state_dict(before)
    anew = loss_along(model, *pair, x, y, (0.5,), statistics=x)
    assert same(model.state_dict(), before) and anew != loss_along(model, *pair, x, y, (0.5,))


# Batch norm

def test_new_statistics_are_those_of_all_rows_in_whatever_batches():
    x, model = normal(60, 1, 14, 14), network()
    reset_statistics(model, x)
    found = model.body[0](x)
    torch.testing.assert_close(model.body[1].running_mean, found.mean((0, 2, 3)))
    torch.testing.assert_close(model.body[1].running_var, found.var((0, 2, 3)))
    again = reset_statistics(network(), iter(x.split((25, 25, 10))))
    torch.testing.assert_close(again.body[1].running_mean, model.body[1].running_mean)
    torch.testing.assert_close(again.body[1].running_var, model.body[1].running_var, rtol=0.02, atol=0)


def test_modes_momentum_and_weights_stay():
    model = nn.Sequential(network(), nn.Dropout(0.5)).train()
    model[0].body.eval()
    weights, modes = {name: p.clone() for name, p in model.named_parameters()}, [m.training for m in model.modules()]
    reset_statistics(model, normal(8, 1, 14, 14))
    assert [m.training for m in model.modules()] == modes and model[0].body[1].momentum == 0.1
    assert not model[0].body[1]._forward_pre_hooks
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("batches", [[], [normal(4, 1, 14, 14), "no tensor"]])
def test_after_an_error_the_statistics_are_the_old_ones(batches):
    model = reset_statistics(network(), normal(8, 1, 14, 14))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((ValueError, TypeError)):
        reset_statistics(model, iter(batches))
    assert same(model.state_dict(), before)
    assert model.body[1].momentum == 0.1 and not model.body[1].training


def test_a_layer_that_no_input_reaches_keeps_its_statistics():
    model = network()
    model.spare = nn.BatchNorm1d(2)
    model.spare.running_mean.fill_(3)
    reset_statistics(model, normal(8, 1, 14, 14))
    assert (model.spare.running_mean == 3).all()


# Digits and networks

def test_parts_share_no_digit_and_a_seed_repeats():
    for shift in SHIFTS:
        one, again, other = (shifted_digits(shift, 20, seed) for seed in (0, 0, 1))
        assert torch.equal(one.images, again.images) and not torch.equal(one.images, other.images)
    plain, half = shifted_digits("plain", 9), shifted_digits({"faint": 1.0}, 9)
    torch.testing.assert_close(half.images, 0.25 * plain.images)
    torch.testing.assert_close(shifted_digits({"left": 1.0}, 9).images, shifted_digits("left", 9).images)


def test_turned_left_is_turned_counter_clockwise():
    right = shifted_digits("left", 1).images
    bright = torch.zeros(1, 1, 14, 14)
    assert right.shape == bright.shape
    from xfer_course.merging.tasks import _turned
    bright[..., 6:8, 11] = 1  # at the right edge; turned left it moves up
    rows = _turned(bright, 35.0)[0, 0].sum(1)
    assert rows[:6].sum() > rows[8:].sum()


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_training_changes_a_copy_and_lowers_the_loss(norm):
    data, start = shifted_digits("plain", 64), DigitNetwork(4, norm)
    before = copy.deepcopy(start.state_dict())
    model = train_network(data, start, steps=15, rate=0.01)
    assert same(start.state_dict(), before) and not model.training
    assert F.cross_entropy(model(data.images), data.labels) < F.cross_entropy(start.eval()(data.images), data.labels)


# Fisher information

def slow(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    "The formula, one image and one class at a time."
    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image in x:
        log_p = model(image[None])[0].log_softmax(0)
        for k in range(len(log_p)):
            slopes = torch.autograd.grad(log_p[k], list(model.parameters()), retain_graph=True)
            for name, slope in zip(found, slopes):
                found[name] += log_p[k].exp().detach() * slope**2 / len(x)
    return found


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_the_expected_fisher_is_that_of_two_loops(norm):
    model, x = network(norm=norm), normal(5, 1, 14, 14)
    found = fisher_diagonal(model, x, batch_size=2)
    for name, wanted in slow(model, x).items():
        torch.testing.assert_close(found[name], wanted)


def test_sampled_labels_come_near_and_true_ones_are_another_thing():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double(), normal(4000, 1, 2, 2).double()
    options = {"max_rows": 4000, "batch_size": 500}
    expected, sampled = (fisher_diagonal(model, x, kind, **options) for kind in ("expected", "sampled"))
    torch.testing.assert_close(sampled["1.weight"], expected["1.weight"], rtol=0.15, atol=0.005)
    true = fisher_diagonal(model, x[:50], torch.zeros(50, dtype=torch.long))
    assert not torch.allclose(true["1.weight"], expected["1.weight"], rtol=0.15)


def test_a_dead_unit_has_no_information_and_where_chooses_names():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.constant_(model[1].bias, -100)
    found = fisher_diagonal(model, normal(5, 1, 2, 2), where="1.*")
    assert found.keys() == {"1.weight", "1.bias"} and not any(part.any() for part in found.values())


def test_half_precision_is_counted_in_single():
    model, x = network(norm="none"), normal(4, 1, 14, 14)
    found = fisher_diagonal(copy.deepcopy(model).bfloat16(), x.bfloat16())
    assert found["head.weight"].dtype == torch.float32
    for name, wanted in fisher_diagonal(model, x).items():
        torch.testing.assert_close(found[name], wanted, rtol=0.2, atol=0.01)


def test_tied_weights_count_once_and_the_model_stays(pair):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4, bias=False)
            self.two = nn.Linear(4, 4, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x).tanh())

    model, x = Tied().train(), normal(6, 4)
    found = fisher_diagonal(model, x)
    assert found.keys() == {"one.weight"} and model.training
    torch.testing.assert_close(found["one.weight"], slow(model, x)["one.weight"])
    merged = fisher_merge([model.state_dict(), Tied().state_dict()], [found, found])
    assert merged["one.weight"] is merged["two.weight"]


# Fisher merging

def states_and_fishers(n: int = 2) -> tuple[list, list]:
    return ([{"w": normal(5, seed=i).double(), "head": normal(2, seed=9 + i).double()} for i in range(n)],
            [{"w": normal(5, seed=5 + i).double() ** 2} for i in range(n)])


def test_equal_fishers_give_the_mean_and_what_has_none_stays_the_first_ones():
    states, fishers = states_and_fishers()
    merged = fisher_merge(states, [fishers[0]] * 2)
    torch.testing.assert_close(merged["w"], (states[0]["w"] + states[1]["w"]) / 2)
    assert torch.equal(merged["head"], states[0]["head"])
    assert all(torch.allclose(x, weighted_mean(states)[name]) for name, x in fisher_merge(states).items())


@pytest.mark.parametrize("normalise", [True, False])
def test_a_merge_is_the_top_of_the_product_of_bells(normalise):
    states, fishers = states_and_fishers(3)
    weights = (0.2, 0.5, 0.3)
    place = fisher_merge(states, fishers, weights, floor=0, normalise=normalise)["w"].requires_grad_()
    counts = [w / (fisher_norm(f) if normalise else 1) * f["w"] for w, f in zip(weights, fishers)]
    height = sum((count * (place - state["w"]) ** 2).sum() for count, state in zip(counts, states))
    assert torch.autograd.grad(height, place)[0].abs().max() < 1e-9


def test_where_nothing_counts_the_first_decides_or_the_mean():
    states = [{"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}]
    none = [{"w": torch.tensor([0.0])}] * 2
    merge = partial(fisher_merge, states, none, normalise=False)
    assert merge()["w"] == 1 and merge(favour_first=False)["w"] == 2
    assert merge(floor=0)["w"] == 1 and merge(floor=0, favour_first=False)["w"] == 2
    assert merge(weights=(0, 1))["w"] == 1 and merge(weights=(0, 1), favour_first=False)["w"] == 3


def test_the_floor_acts_before_the_values_are_divided():
    states = [{"w": torch.tensor([0.0, 0.0])}, {"w": torch.tensor([1.0, 1.0])}]
    fishers = [{"w": torch.tensor([4.0, 0.0])}, {"w": torch.tensor([0.0, 1e-6])}]
    assert fisher_merge(states, fishers)["w"][1] == pytest.approx(1 / (1 + 1 / 4e6), rel=1e-4)


def test_independent_parameters_are_recovered():
    "Each network is right about its half, and has noise in the other."
    truth, noise = normal(6), 10 * normal(6, seed=1)
    sure = torch.tensor([1.0] * 3 + [0.0] * 3)
    states = [{"w": truth * half + noise * (1 - half)} for half in (sure, 1 - sure)]
    merged = fisher_merge(states, [{"w": sure}, {"w": 1 - sure}])
    torch.testing.assert_close(merged["w"], truth, atol=1e-4, rtol=0)
    assert (weighted_mean(states)["w"] - truth).abs().max() > 1


def test_a_grid_begins_at_the_first_and_keeps_the_best():
    states, fishers = states_and_fishers()
    target = fisher_merge(states, fishers, (0.3, 0.7))["w"]
    found = merge_grid(states, lambda state: -float((state["w"] - target).abs().sum()), 11, fishers)
    assert found.best == pytest.approx((0.3, 0.7)) and torch.allclose(found.state["w"], target)
    assert found.weights[0].tolist() == [1, 0] and merge_grid(states, lambda state: 1.0).best == (1, 0)
    three = grid_weights(3, 50)
    assert np.allclose(three.sum(1), 1) and (three >= 0).all() and np.array_equal(three, grid_weights(3, 50))


# Refusals

W = {"w": torch.ones(2)}


@pytest.mark.parametrize("call, words", [
    (lambda: interpolate(W, {"v": torch.ones(2)}), "second must have the names.*got 'v' in it alone"),
    (lambda: interpolate(W, {"w": torch.ones(3)}), r"second\['w'\] must be torch.float32 of shape \(2,\).*\(3,\)"),
    (lambda: interpolate(W, {"w": torch.ones(2).half()}), "got torch.float16"),
    (lambda: interpolate(W, W, float("nan")), "share must"), (lambda: weighted_mean([W, W], (1, -1)), "weights must"),
    (lambda: weighted_mean([W, W], (0, 0)), "weights must"), (lambda: weighted_mean([W, W], (1,)), "weights must"),
    (lambda: weighted_mean([W, {"w": torch.tensor([1.0, torch.nan])}]), "finite where they differ"),
    (lambda: add_vectors(W, [{"v": torch.ones(2)}]), r"vectors\[0\] must have the names"),
    (lambda: add_vectors(W, [W], (1.0, 2.0)), "scale must"), (lambda: barrier([1.0]), "losses must"),
    (lambda: shifted_digits("upside down"), "shift must"),
    (lambda: shifted_digits({"left": 2}), r"shift\['left'\] must"),
    (lambda: shifted_digits(split="all"), "split must"), (lambda: DigitNetwork(norm="group"), "norm must"),
    (lambda: train_network(shifted_digits(n=4), rate=0), "rate must"),
    (lambda: fisher_diagonal(network(), normal(2, 1, 14, 14), "true"), "labels must"),
    (lambda: fisher_diagonal(network(), normal(2, 1, 14, 14), torch.tensor([0, 3])), "labels must"),
    (lambda: fisher_diagonal(network(), normal(2, 1, 14, 14), where="trunk.*"), "where must"),
    (lambda: fisher_diagonal(network(), normal(2, 1, 14, 14) * 1e30), "Fisher information of|finite"),
    (lambda: fisher_merge([W, W], [W]), "fishers must"), (lambda: fisher_merge([W, W], [W, {"v": W["w"]}]), "fishers"),
    (lambda: fisher_merge([W, W], [{"v": W["w"]}] * 2), r"fishers\[0\]\['v'\] must have the shape"),
    (lambda: fisher_merge([W, W], [W, {"w": -W["w"]}]), r"fishers\[1\]\['w'\] must"),
    (lambda: fisher_merge([W, W], [W, {"w": 0 * W["w"]}]), r"fishers\[1\] must hold a number above 0"),
    (lambda: fisher_merge([W, W], [W, W], floor=-1), "floor must"), (lambda: grid_weights(1), "states must"),
    (lambda: merge_grid([W, W], lambda state: float("nan")), "what evaluate returns must"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("call, words", [
    (lambda: interpolate([1], W), "first must map names"), (lambda: weighted_mean([]), "states must"),
    (lambda: weighted_mean(W), "states must"), (lambda: task_vector(W, {"w": 3}), r"after\['w'\] must be a tensor"),
    (lambda: fisher_merge([W], 3), "fishers must"), (lambda: fisher_merge([W], [{}]), "fishers"),
    (lambda: reset_statistics(3, normal(2, 2)), "model must"), (lambda: train_network(3), "data must"),
])
def test_other_kinds_are_refused(call, words):
    with pytest.raises(TypeError, match=words):
        call()


# What users bring

@pytest.mark.parametrize("first, second, share", [(60000, 1000, -1.0), (60000, -60000, -0.5)])
def test_a_number_that_half_precision_cannot_hold_is_refused(first, second, share):
    with pytest.raises(ValueError, match="states must give numbers that torch.float16 can hold"):
        interpolate({"w": torch.full((2,), first).half()}, {"w": torch.full((2,), second).half()}, share)


@pytest.mark.parametrize("kind, make", [
    ("meta", lambda: torch.ones(2, device="meta")), ("sparse", lambda: torch.eye(2).to_sparse()),
    ("quantized", lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))])
def test_tensors_without_dense_numbers_are_refused(kind, make):
    with pytest.raises(TypeError, match=f"got a {kind} one"):
        interpolate({"w": make()}, {"w": make()})


def test_numbers_of_eight_bits_are_merged_in_single_precision():
    pair = [{"w": torch.tensor([value, 2.0]).to(torch.float8_e4m3fn)} for value in (1.0, 3.0)]
    merged = weighted_mean(pair)["w"]
    assert merged.dtype == torch.float8_e4m3fn and merged.float().tolist() == [2.0, 2.0]


def test_complex_weights_count_by_real_fisher_values():
    states = [{"w": torch.tensor([value], dtype=torch.complex64)} for value in (1 + 1j, 3 - 1j)]
    merged = fisher_merge(states, [{"w": torch.ones(1)}, {"w": torch.full((1,), 3.0)}], normalise=False)["w"]
    torch.testing.assert_close(merged, torch.tensor([2.5 - 0.5j], dtype=torch.complex64))
    torch.testing.assert_close(fisher_merge(states)["w"], weighted_mean(states)["w"])


def test_fisher_values_too_large_to_multiply_are_refused():
    states = [{"w": torch.ones(1)}, {"w": torch.zeros(1)}]
    with pytest.raises(ValueError, match="got NaN or infinity in 'w'"):
        fisher_merge(states, [{"w": torch.tensor([1e300], dtype=torch.float64)}] * 2, normalise=False)


def test_tokens_and_other_precisions_have_a_fisher():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

        def forward(self, tokens):
            return self.head(self.table(tokens).mean(1))

    model, tokens = Tokens(), torch.arange(12).view(4, 3) % 7
    for name, wanted in slow(model, tokens).items():
        torch.testing.assert_close(fisher_diagonal(model, tokens)[name], wanted)
    linear, x = nn.Linear(4, 3).bfloat16(), normal(5, 4)
    torch.testing.assert_close(fisher_diagonal(linear, x), fisher_diagonal(linear.float(), x))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


@pytest.mark.parametrize("model", [nn.DataParallel(nn.Linear(4, 3)), Branching()])
def test_what_cannot_be_differentiated_alone_is_refused_by_name(model):
    with pytest.raises(ValueError, match=f"got {type(model).__name__}: "):
        fisher_diagonal(model, normal(5, 4))
    with pytest.raises(TypeError, match="model must hold real numbers"):
        fisher_diagonal(nn.Linear(4, 3, device="meta"), normal(5, 4))
