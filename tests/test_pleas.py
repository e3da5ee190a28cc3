"""Units, partners, partial merges and least squares: groups, what a permutation keeps, limits, a naive reference."""
from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from xfer_course.merging import (
    Blocks,
    DigitNetwork,
    Matching,
    UnitGroup,
    checked_groups,
    fit_layers,
    least_squares_merge,
    match_permutation,
    partial_merge,
    permuted,
    pleas,
    reordered,
    unit_activations,
    unit_blocks,
    unit_groups,
    unit_rows,
)
from xfer_course.peft import TokenTransformer


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mlp(seed: int = 0, sizes: tuple[int, ...] = (5, 8, 6, 3)) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).eval()


class Residual(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.inner, self.outer, self.head = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1, bias=False), nn.Linear(6, 3)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stream = F.relu(self.norm(self.stem(x)))
        stream = stream + self.deep(stream)
        stream += self.outer(F.gelu(self.inner(stream)))
        return self.head(F.avg_pool2d(stream, 2).mean((2, 3)))


class Tied(nn.Module):
    "Two names for one layer, and one that is called twice."

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.again, self.last = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.alias = self.again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.alias(self.again(self.first(x).tanh()).tanh()).tanh())


def transformer(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(TokenTransformer(layers=2), nn.Linear(32, 4)).eval()


def digits(norm: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return DigitNetwork(width=4, norm=norm).eval()


NETWORKS = {
    "mlp": (mlp, (6, 5), [8, 6]), "residual": (Residual, (6, 1, 8, 8), [6, 4]), "tied": (Tied, (6, 5), [6]),
    "transformer": (transformer, (3, 1, 8, 8), [32, 128, 128]),
    **{f"digits, {norm}": (lambda seed=0, norm=norm: digits(norm, seed), (3, 1, 14, 14), [4, 8])
       for norm in ("none", "batch", "layer")},
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def made(name: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    build, shape, _ = NETWORKS[name]
    return build(seed).eval(), normal(*shape, seed=9)


# Units


@every_network
def test_groups_have_the_sizes_of_hidden_layers(name):
    model, x = made(name)
    assert [group.size for group in unit_groups(model, x)] == NETWORKS[name][2]


@every_network
def test_any_order_of_units_computes_the_same(name):
    model, x = made(name)
    before, groups = copy.deepcopy(model.state_dict()), unit_groups(model, x)
    torch.manual_seed(3)
    order = {group.name: torch.randperm(group.size) for group in groups}
    mixed = permuted(model, Matching(groups, order, {}))
    torch.testing.assert_close(mixed(x), model(x), atol=1e-5, rtol=1e-5)
    assert any(not torch.equal(value, before[key]) for key, value in mixed.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_flatten_joins_maps_of_channels():
    groups = unit_groups(digits("none"), torch.rand(2, 1, 14, 14))
    assert groups[1].axes[-1] == ("head.weight", 1, 9) and groups[1].reads == ("head.weight",)


@pytest.mark.parametrize("layer", [nn.Softmax(1), nn.GroupNorm(2, 8), nn.MultiheadAttention(8, 2), nn.RNN(8, 8)])
def test_what_may_depend_on_the_order_keeps_it(layer):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.layer, self.after, self.last = nn.Linear(5, 8), layer, nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x):
            h = self.before(x)
            h = layer(h, h, h)[0] if isinstance(layer, nn.MultiheadAttention) else layer(h)
            return self.last(self.after(h[0] if isinstance(h, tuple) else h))

    model, x = Around().eval(), normal(4, 5)
    assert [group.name for group in unit_groups(model, x)] == ["after.weight|0"]


def test_activations_do_not_depend_on_what_follows_in_place():
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)).eval()
    x = normal(6, 5)
    (linear, relu), = unit_activations(model, x, unit_groups(model, x)).values()
    torch.testing.assert_close(linear, model[0](x).T.double())
    torch.testing.assert_close(relu, linear.relu())


def test_rows_and_orders_of_runs():
    x = torch.arange(12).view(2, 6)
    assert unit_rows(x, 1, 3).tolist() == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
    assert reordered(x, 1, 3, torch.tensor([1])).tolist() == [[3, 4, 5], [9, 10, 11]]


# Partners


@pytest.mark.parametrize("by", ["activations", "weights"])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "transformer"])
def test_a_permuted_copy_is_put_back(name, by):
    model, x = made(name)
    groups = unit_groups(model, x)
    torch.manual_seed(4)
    order = {group.name: torch.randperm(group.size) for group in groups}
    found = match_permutation(model, permuted(model, Matching(groups, order, {})), x, by)
    assert all(torch.equal(order[name][each], torch.arange(len(each))) for name, each in found.order.items())


def test_batches_do_not_matter_but_for_the_released_matching():
    first, second, x = mlp(0), mlp(1), normal(20, 5)
    whole, parts = (match_permutation(first, second, x, batch_size=size) for size in (20, 7))
    last = match_permutation(first, second, x[14:])
    released = match_permutation(first, second, x, batch_size=7, released=True)
    for name, similarity in whole.similarity.items():
        torch.testing.assert_close(parts.similarity[name], similarity)
        torch.testing.assert_close(released.similarity[name], last.similarity[name])


def test_weights_of_matched_networks_are_nearer():
    first, second, x = mlp(0), mlp(1), normal(20, 5)
    near = permuted(second, match_permutation(first, second, x, "weights"))
    distance = [sum((p - q).square().sum() for p, q in zip(first.parameters(), model.parameters()))
                for model in (near, second)]
    assert distance[0] < distance[1]


def test_given_groups_match_what_cannot_be_watched():
    first, second = mlp(0), mlp(1)
    groups = unit_groups(first, normal(2, 5))
    bare = [UnitGroup(group.name, group.size, group.axes, reads=group.reads) for group in groups]
    given = match_permutation(first, second, normal(2, 5), "weights", groups=bare)
    own = match_permutation(first, second, normal(2, 5), "weights")
    assert all(torch.equal(given.order[group.name], own.order[group.name]) for group in groups)
    with pytest.raises(ValueError, match="groups must have places"):
        match_permutation(first, second, normal(2, 5), groups=bare)


@pytest.mark.parametrize("width, apart", [(1.0, [0, 0]), (1.5, [4, 3]), (1.25, [2, 2]), (2.0, [8, 6])])
def test_the_least_alike_stay_apart(width, apart):
    matching = match_permutation(mlp(0), mlp(1), normal(20, 5))
    for (name, blocks), count in zip(unit_blocks(matching, width).items(), apart, strict=True):
        assert len(blocks.only_first) == len(blocks.only_second) == count
        score = matching.matched(name)
        assert not count or count == len(score) or score[blocks.only_first].max() <= score[blocks.first].min()


def test_widths_of_single_groups():
    matching = match_permutation(mlp(0), mlp(1), normal(20, 5))
    blocks = unit_blocks(matching, {"2.weight|0": 2.0})
    assert [len(each.only_first) for each in blocks.values()] == [0, 6]


# Merge


def merged(name: str, width: float, seeds: tuple[int, int] = (0, 1)):
    (first, x), (second, _) = (made(name, seed) for seed in seeds)
    matching = match_permutation(first, second, x)
    blocks = unit_blocks(matching, width)
    return first, second, x, matching, blocks, partial_merge(first, second, matching.groups, blocks)


@every_network
def test_width_one_is_the_mean_after_the_permutation(name):
    first, second, _, matching, _, model = merged(name, 1.0)
    partner = permuted(second, matching).state_dict()
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (first.state_dict()[key] + partner[key]) / 2)


@pytest.mark.parametrize("name", ["mlp", "residual", "digits, none", "digits, batch"])
def test_width_two_is_the_ensemble(name):
    first, second, x, _, _, model = merged(name, 2.0)
    torch.testing.assert_close(model(x), (first(x) + second(x)) / 2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "transformer"])
def test_a_network_of_any_width_runs_and_says_its_sizes(name):
    first, second, x, matching, blocks, model = merged(name, 1.5)
    assert model(x).shape == first(x).shape
    assert all(layer.weight.shape == (layer.out_features, layer.in_features) for layer in model.modules()
               if isinstance(layer, nn.Linear))
    fitted = fit_layers(model, first, second, matching.groups, blocks, x)
    assert fitted(x).isfinite().all()
    assert all(p.requires_grad for p in fitted.parameters())


def test_a_transformer_widens_where_its_code_does_not_say_the_width():
    (first, x), (second, _) = made("transformer", 0), made("transformer", 1)
    hidden = {group.name: 1.5 for group in unit_groups(first, x)[1:]}
    assert least_squares_merge(first, second, x, hidden)(x).shape == (3, 4)
    with pytest.raises(ValueError, match="width must be 1 for units whose number.*Sequential"):
        least_squares_merge(first, second, x, 1.5)


def test_a_tie_stays_a_tie():
    *_, model = merged("tied", 1.5)
    assert model.alias is model.again and model.again.weight.shape == (9, 9)


# Least squares


def test_one_layer_against_a_naive_regression():
    first, second, x = mlp(0), mlp(1), normal(40, 5)
    matching = match_permutation(first, second, x)
    blocks = unit_blocks(matching, 1.5)
    start = partial_merge(first, second, matching.groups, blocks)
    fitted = fit_layers(start, first, second, matching.groups, blocks, x, ridge=0.1, batch_size=13)
    found = blocks["2.weight|0"]
    z_a, z_b = (model[:4](x).double() for model in (first, second))
    z = torch.cat([(z_a[:, found.first] + z_b[:, found.second]) / 2, z_a[:, found.only_first],
                   z_b[:, found.only_second]], 1)
    y = ((first(x) + second(x)) / 2).double()
    centred, start_weight = z - z.mean(0), start[4].weight.double()
    pull = 0.1 * z.square().mean() * torch.eye(z.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(centred.T @ centred / 40 + pull,
                                centred.T @ (y - y.mean(0)) / 40 + pull @ start_weight.T).T
    torch.testing.assert_close(fitted[4].weight, weight.float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fitted[4].bias, (y.mean(0) - weight @ z.mean(0)).float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "residual", "digits, none"])
def test_parents_that_agree_are_kept(name):
    "The second parent is the first, with its units in another order."
    first, x = made(name)
    groups = unit_groups(first, x)
    second = permuted(first, Matching(groups, {group.name: torch.randperm(group.size) for group in groups}, {}))
    torch.testing.assert_close(least_squares_merge(first, second, normal(*x.shape), 1.0)(x).shape, first(x).shape)
    matching = match_permutation(first, second, x)
    blocks = unit_blocks(matching)
    start = partial_merge(first, second, matching.groups, blocks)
    fitted = fit_layers(start, first, second, matching.groups, blocks, x)
    torch.testing.assert_close(fitted(x), first(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("solver", ["closed", "adam"])
def test_units_of_one_parent_do_not_read_those_of_the_other(solver):
    first, second, x, matching, blocks, start = merged("digits, none", 1.5)
    fitted = fit_layers(start, first, second, matching.groups, blocks, x, across=False, solver=solver, steps=3)
    weight = fitted.body[3].weight
    only_first, only_second = slice(4, 8), slice(8, 12)
    assert weight[only_first, 4:6].eq(0).all() and weight[only_second, 2:4].eq(0).all()
    assert weight[only_first, 2:4].ne(0).all() and weight[only_second, 4:6].ne(0).all()


def test_a_strong_pull_keeps_the_start_and_none_fits_best():
    first, second, x, matching, blocks, start = merged("mlp", 1.0)
    x = normal(60, 5)
    kept = fit_layers(start, first, second, matching.groups, blocks, x, ridge=1e6)
    torch.testing.assert_close(kept[2].weight, start[2].weight, atol=1e-4, rtol=1e-4)

    def error(model: nn.Module) -> float:
        z = (first[:2](x)[:, blocks["0.weight|0"].first] + second[:2](x)[:, blocks["0.weight|0"].second]) / 2
        y = (first[:3](x)[:, blocks["2.weight|0"].first] + second[:3](x)[:, blocks["2.weight|0"].second]) / 2
        return F.mse_loss(model[2](z), y).item()

    errors = [error(fit_layers(start, first, second, matching.groups, blocks, x, ridge=r)) for r in (0, 1e-3, 1, 1e3)]
    assert errors == sorted(errors) and errors[0] < error(start)
    assert error(fit_layers(start, first, second, matching.groups, blocks, x, solver="adam", steps=300,
                            rate=0.05)) == pytest.approx(errors[0], rel=0.05)


def test_nothing_that_was_given_changes():
    first, second, x, matching, blocks, start = merged("digits, batch", 1.5)
    states = [copy.deepcopy(model.state_dict()) for model in (first, second, start)]
    first.train()
    fit_layers(start, first, second, matching.groups, blocks, x)
    least_squares_merge(first, second, x, 1.5)
    for model, state in zip((first, second, start), states):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert first.training and not second.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_stays(dtype):
    first, second = mlp(0).to(dtype), mlp(1).to(dtype)
    model = least_squares_merge(first, second, normal(30, 5).to(dtype), 1.5)
    assert {p.dtype for p in model.parameters()} == {dtype} and model(normal(3, 5).to(dtype)).isfinite().all()


# Refusals


def fits(**changed):
    "fit_layers on two small networks, with one argument exchanged."
    first, second, x, matching, blocks, start = merged("mlp", 1.5)
    given = {"merged": start, "first": first, "second": second, "groups": matching.groups, "blocks": blocks,
             "images": x}
    return fit_layers(**(given | changed))


@pytest.mark.parametrize("call, words", [
    (lambda: UnitGroup("a|0", 0, ()), "size must"), (lambda: UnitGroup(" ", 2, ()), "name must"),
    (lambda: UnitGroup("a|0", 2, (("a", -1, 1),)), "axis must"),
    (lambda: UnitGroup("a|0", 2, (("a", 0, 1),), reads=("b",)), "reads must"),
    (lambda: unit_groups(nn.Linear(5, 3), normal(2, 5)), "model must have hidden units.*got Linear"),
    (lambda: unit_groups(mlp(), normal(0, 5)), "images must"),
    (lambda: match_permutation(mlp(), mlp(sizes=(5, 7, 6, 3)), normal(2, 5)), "second must have.*'0.weight'"),
    (lambda: match_permutation(mlp(), mlp(1), normal(2, 5), "names"), "by must"),
    (lambda: match_permutation(mlp(), mlp(1), normal(2, 5) * torch.nan), "must be finite.*'0.weight|0'"),
    (lambda: unit_blocks(match_permutation(mlp(), mlp(1), normal(9, 5)), 2.1), "width must"),
    (lambda: unit_blocks(match_permutation(mlp(), mlp(1), normal(9, 5)), {"none": 1.5}), "a group in width must"),
    (lambda: checked_groups(unit_groups(mlp(), normal(2, 5)), mlp(sizes=(5, 3)).state_dict()), "groups must fit"),
    (lambda: reordered(torch.zeros(4), 0, 3, torch.tensor([0])), "run must divide"),
    (lambda: reordered(torch.zeros(4), 0, 2, torch.tensor([2])), "order must"),
    (lambda: partial_merge(mlp(), mlp(1), unit_groups(mlp(), normal(2, 5)), {}), "blocks must hold Blocks"),
    (lambda: partial_merge(mlp(), mlp(1), unit_groups(mlp(), normal(2, 5)),
                           dict.fromkeys(("0.weight|0", "2.weight|0"), Blocks(*[torch.zeros(1).long()] * 4))),
     "blocks must name each unit"),
    (lambda: fits(ridge=-1), "ridge must"), (lambda: fits(solver="sgd"), "solver must"),
    (lambda: fits(rate=0, solver="adam"), "rate must"), (lambda: fits(merged=mlp()), "groups must fit"),
    (lambda: fits(across=2), "across must"), (lambda: fits(steps=0, solver="adam"), "steps must"),
    (lambda: least_squares_merge(mlp(), mlp(1), normal(9, 5), 0.5), "width must"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("call, words", [
    (lambda: unit_groups(3, normal(2, 5)), "model must"), (lambda: unit_groups(mlp(), [1]), "images must"),
    (lambda: match_permutation(mlp(), 3, normal(2, 5)), "second must"),
    (lambda: match_permutation(mlp(), mlp(1), normal(2, 5), groups=[3]), "groups must"),
    (lambda: permuted(3, match_permutation(mlp(), mlp(1), normal(9, 5))), "model must"),
    (lambda: permuted(mlp(), 3), "matching must"), (lambda: unit_blocks(3), "matching must"),
    (lambda: UnitGroup("a|0", 2, (("a", 0),)), "axes must"), (lambda: fits(images=3), "images must"),
])
def test_other_kinds_are_refused(call, words):
    with pytest.raises(TypeError, match=words):
        call()


# What users bring

def grouped(seed: int = 0, groups: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=groups), nn.ReLU(),
                         nn.Conv2d(16, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()


@pytest.mark.parametrize("groups", [2, 8])
def test_convolutions_in_groups_keep_their_groups_and_parents_that_agree(groups):
    model, x = grouped(groups=groups), normal(20, 3, 8, 8)
    merged = least_squares_merge(model, copy.deepcopy(model), x)
    assert merged[2].groups == groups
    torch.testing.assert_close(merged(x), model(x), atol=1e-4, rtol=1e-4)
    assert least_squares_merge(model, grouped(1, groups), x, 1.5)(x).shape == (20, 4)


class Language(nn.Module):
    "Its last layer is its table of tokens."

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table, self.norm, self.last = nn.Embedding(11, 8), nn.LayerNorm(8), nn.Linear(8, 11, bias=False)
        self.block = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.last.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens)
        return self.last(self.norm(x + self.block(x)))


def test_a_table_that_is_also_the_last_layer_is_not_fitted_to_one_of_them():
    first, second, tokens = Language(0), Language(1), torch.arange(200).view(40, 5) % 11
    matching = match_permutation(first, second, tokens)
    start = partial_merge(first, second, matching.groups, unit_blocks(matching))
    merged = least_squares_merge(first, second, tokens, matching=matching)
    assert merged.last.weight is merged.table.weight and torch.equal(merged.table.weight, start.table.weight)
    assert not torch.equal(merged.block[0].weight, start.block[0].weight)


def test_frozen_parameters_stay_frozen_after_adam():
    first, second = mlp(0).requires_grad_(False), mlp(1)
    merged = least_squares_merge(first, second, normal(20, 5), solver="adam", steps=2)
    assert not any(p.requires_grad for p in merged.parameters())


class Turned(nn.Module):
    "Two layers in an order of its own."

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.one, self.two, self.turned = nn.Linear(5, 5), nn.Linear(5, 5), turned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, last = (self.two, self.one) if self.turned else (self.one, self.two)
        return last(first(x).relu())


def with_nan() -> nn.Module:
    model = mlp(1)
    nn.init.constant_(model[4].bias, float("nan"))
    return model


def weight_normed(seed: int) -> nn.Module:
    model = mlp(seed)
    nn.utils.parametrizations.weight_norm(model[0])
    return model


@pytest.mark.parametrize("first, second, options, words", [
    (Turned(False), Turned(True), {}, "second must use its tensors as first does"),
    (mlp(), mlp(1).double(), {}, "second must have the tensors of first, got another '0.weight'"),
    (mlp(), mlp(1).to("meta"), {}, "must hold numbers, got '0.weight' on the meta device"),
    (mlp(), with_nan(), {}, "second's '4.bias' must be finite"),
    (weight_normed(0), weight_normed(1), {}, "got one that is computed in '0'"),
    (mlp(), mlp(1), {"solver": "adam", "steps": 3, "rate": 1e30}, "fitted '0.weight' must be finite"),
])
def test_networks_that_would_give_wrong_numbers_are_refused(first, second, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        least_squares_merge(first.eval(), second.eval(), normal(20, 5), **options)


@pytest.mark.parametrize("order, words", [
    ({}, "order of '0.weight|0' must be a tensor"),
    ({"0.weight|0": torch.zeros(8, dtype=torch.long)}, "matching must hold a permutation of all units")])
def test_an_order_that_is_no_permutation_is_refused(order, words):
    matching = replace(match_permutation(mlp(), mlp(1), normal(9, 5)), order=order)
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        permuted(mlp(1), matching)


# Inputs from data sets and loaders; networks and groups that do not fit together


def inputs_in_many_ways(x: torch.Tensor) -> dict[str, object]:
    pairs = TensorDataset(x, torch.zeros(len(x)))
    return {"a data set": TensorDataset(x), "a data set with labels": pairs, "a loader": DataLoader(pairs, 7),
            "a loader of tensors": DataLoader(x, 11, shuffle=True)}


@pytest.mark.parametrize("way", inputs_in_many_ways(torch.zeros(1)))
@pytest.mark.parametrize("name", ["mlp", "digits, batch"])
def test_inputs_of_a_loader_give_what_a_tensor_gives(name, way):
    (first, x), (second, _) = made(name, 0), made(name, 1)
    x = normal(30, *x.shape[1:])
    given = inputs_in_many_ways(x)[way]
    whole, parts = match_permutation(first, second, x), match_permutation(first, second, given)
    assert all(torch.equal(order, parts.order[group]) for group, order in whole.order.items())
    blocks = unit_blocks(whole, 1.5)
    start = partial_merge(first, second, whole.groups, blocks)
    one, other = (fit_layers(start, first, second, whole.groups, blocks, each) for each in (x, given))
    for key, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, atol=1e-5, rtol=1e-4)
    assert least_squares_merge(first, second, given, solver="adam", steps=3)(x).shape == first(x).shape


def test_layers_are_solved_in_passes_that_need_no_more_room_than_the_largest(monkeypatch):
    first, second, x, matching, blocks, start = merged("residual", 1.0)
    wanted = fit_layers(start, first, second, matching.groups, blocks, x).state_dict()
    seen, inner = [], pleas._moments

    def watched(*given):
        found = inner(*given)
        seen.append({name: square.numel() for name, (square, _) in found.items()})
        return found

    monkeypatch.setattr(pleas, "_moments", watched)
    found = fit_layers(start, first, second, matching.groups, blocks, x).state_dict()
    largest = max(size for each in seen for size in each.values())
    assert len(seen) > 1 and all(sum(each.values()) <= 1.5 * largest for each in seen), "biases add a row"
    assert sorted(name for each in seen for name in each) == ["head", "inner", "outer", "stem"]
    assert all(torch.equal(value, wanted[key]) for key, value in found.items())


def test_groups_by_hand_must_be_complete():
    first, second, x = mlp(0), mlp(1), normal(20, 5)
    whole = unit_groups(first, x)
    assert match_permutation(first, second, x, groups=whole).order.keys() == {"0.weight|0", "2.weight|0"}
    for forgotten in ("0.bias", "2.weight"):
        cut = replace(whole[0], axes=tuple(axis for axis in whole[0].axes if axis[0] != forgotten), reads=())
        for by in ("activations", "weights"):
            with pytest.raises(ValueError, match="every axis of their units, got '0.weight|0' with 2 axes"):
                match_permutation(first, second, x, by, groups=(whole[1], cut))
