"""SHERL: exact cases, what is kept for the backward pass, what is frozen, refusals."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xfer_course.peft import (
    SHERL,
    BitFit,
    ConvLateRoute,
    ConvSHERL,
    LadderSide,
    LateLayers,
    LateRoute,
    LayerMixture,
    LoRA,
    TokenTransformer,
    digit_task,
    digit_transformer,
    inject,
    redundancy,
    saved_bytes,
    train_on,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def equal_scores(mixture: LayerMixture) -> LayerMixture:
    "Every row gets the score 1."
    nn.init.zeros_(mixture.score.weight)
    nn.init.ones_(mixture.score.bias)
    return mixture


# Redundancy and weights

@pytest.mark.parametrize("copies", [1, 2, 5])
def test_copies_at_right_angles_to_the_rest_weigh_together_as_much_as_one(copies):
    one, other, guide = torch.eye(6)[:3]
    rows = torch.stack([one] * copies + [other, 3 * other.roll(1) + 0 * one, guide])
    assert redundancy(rows[:-1])[0] == pytest.approx(copies)
    weights = equal_scores(LayerMixture(6)).weights(rows)
    torch.testing.assert_close(weights[:copies].sum(), torch.tensor(1 / 3))
    torch.testing.assert_close(equal_scores(LayerMixture(6, "scores")).weights(rows)[:copies].sum(),
                               torch.tensor(copies / (copies + 2)))


def test_length_does_not_count_and_opposites_do_not_repeat():
    a, b = torch.tensor([1.0, 0]), torch.tensor([0, 2.0])
    torch.testing.assert_close(redundancy(torch.stack([a, 5 * a, -a, b])), torch.tensor([2.0, 2, 1, 1]))


def test_redundancy_is_a_sum_over_pairs():
    rows = normal(3, 5, 4)
    for batch, found in zip(rows, redundancy(rows)):
        naive = [sum(max(0.0, F.cosine_similarity(a, b, dim=0).item()) for b in batch) for a in batch]
        torch.testing.assert_close(found, torch.tensor(naive))


def test_rows_of_zeros_and_scores_below_zero_leave_numbers():
    mixture = LayerMixture(4)
    nn.init.zeros_(mixture.score.weight)
    nn.init.constant_(mixture.score.bias, -1)
    rows = normal(2, 5, 4)
    assert (mixture.weights(rows) == 0).all()
    torch.testing.assert_close(mixture(rows), rows[:, -1])  # the guide alone is left
    nn.init.ones_(mixture.score.bias)
    zeros = torch.zeros(2, 5, 4, requires_grad=True)
    mixture(zeros).sum().backward()
    assert zeros.grad.isfinite().all()


@pytest.mark.parametrize("weigh", ["distinct", "scores", "redundancy", "uniform"])
@pytest.mark.parametrize("guide", [True, False])
def test_weights_sum_to_one_over_the_rows_that_are_weighed(weigh, guide):
    mixture = LayerMixture(4, weigh, guide)
    if mixture.score is not None:
        equal_scores(mixture)
    weights = mixture.weights(normal(2, 3, 5, 4))
    assert weights.shape == (2, 3, 4 if guide else 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))


def test_the_shorter_ways_to_weigh():
    rows = normal(2, 5, 4)
    torch.testing.assert_close(LayerMixture(4, "uniform")(rows), rows[:, :-1].mean(1) + rows[:, -1])
    torch.testing.assert_close(LayerMixture(4, "uniform", guide=False)(rows), rows.mean(1))
    torch.testing.assert_close(LayerMixture(4, "none")(rows), rows[:, -1])
    weights = 1 / redundancy(rows[:, :-1])
    torch.testing.assert_close(LayerMixture(4, "redundancy").weights(rows), weights / weights.sum(-1, keepdim=True))


# The early route

def test_the_gate_decides_how_much_of_the_last_layer_passes():
    features = normal(4, 2, 3, 8)
    side = SHERL(8, 4, 2).eval()
    closed = side(features)
    nn.init.constant_(side.theta, 100)
    torch.testing.assert_close(side(features), closed + features[-1])
    fixed = SHERL(8, 4, 2, gate=-0.5).eval()
    fixed.load_state_dict({name: each for name, each in side.state_dict().items() if name != "theta"})
    torch.testing.assert_close(fixed(features), closed - 0.5 * features[-1])


def test_tokens_do_not_mix_in_the_early_route():
    features, side = normal(4, 2, 5, 8), SHERL(8, 4, 2).eval()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(side(features[:, :, order]), side(features)[:, order])


def test_only_a_shared_projection_sees_a_copy():
    layer, features = normal(2, 3, 8), list(normal(3, 2, 3, 8, seed=1))
    torch.manual_seed(0)
    for shared, same in ((True, True), (False, False)):
        rows = SHERL(8, 5, 4, shared=shared).rows([layer, layer, *features])
        assert torch.allclose(rows[..., 0, :], rows[..., 1, :]) is same


def test_without_norm_and_dropout_the_way_out_is_linear():
    side = SHERL(8, 3, 4, out_norm=False, dropout=0, gate=0.0)
    features = normal(3, 2, 3, 8)
    mixed = side.mixture(side.rows(features))
    torch.testing.assert_close(side(features), side.out[1](mixed.relu()))


def test_a_ladder_with_closed_gates_is_its_lowest_rung():
    "With gates at 1 the blocks see nothing of the layers above the embedding."
    ladder, features = LadderSide(8, 4, 4, heads=2), normal(4, 2, 3, 8)
    nn.init.constant_(ladder.alpha, 100)
    other = torch.cat([features[:1], normal(3, 2, 3, 8, seed=1)])
    torch.testing.assert_close(ladder(features), ladder(other))


# The late route

def test_early_and_late_are_the_route():
    network, images = TokenTransformer(layers=3).eval(), normal(4, 1, 8, 8)
    for late in (0, 1, 2):
        route = LateRoute(copy.deepcopy(network), SHERL(32, 4 - late, 4), late).eval()
        features = route.early(images)
        assert features.shape == (4, 4 - late, 17, 32) and not features.requires_grad
        torch.testing.assert_close(features, torch.stack(network.layers(images)[:4 - late], 1))
        torch.testing.assert_close(route(images), route.late(features))


def test_a_side_that_passes_the_last_layer_on_gives_the_network_back():
    class Last(nn.Module):
        def forward(self, features):
            return features[-1]

    network, images = TokenTransformer(layers=3).eval(), normal(2, 1, 8, 8)
    for late in (0, 1, 2):
        torch.testing.assert_close(LateRoute(network, Last(), late)(images), network(images))


def test_training_changes_the_side_and_nothing_of_the_network():
    network, task = TokenTransformer(layers=3).eval(), digit_task("near", 40)
    route = LateRoute(network, SHERL(32, 3, 4))
    before, side = copy.deepcopy(network.state_dict()), copy.deepcopy(route.late.side.state_dict())
    train_on(nn.Sequential(route.late, nn.Linear(32, 10)), route.early(task.train.images), task.train.labels, rate=0.01,
             epochs=2)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    moved = {name for name, value in route.late.side.state_dict().items() if not torch.equal(value, side[name])}
    assert {"theta", "mixture.score.weight", "down.0.0.weight", "out.1.weight"} <= moved


def test_one_step_is_a_step_down_the_gradient():
    "Plain SGD on the whole route, against numbers of the gradient by differences."
    torch.manual_seed(0)
    network, images = TokenTransformer(layers=2, width=8, heads=2).double().eval(), normal(2, 1, 8, 8).double()
    route = LateRoute(network, SHERL(8, 2, 2, dropout=0).double())
    loss = lambda: route(images).pow(2).sum()  # noqa: E731 (called again and again)
    loss().backward()
    theta = route.late.side.theta
    with torch.no_grad():
        ends = []
        for shift in (1e-5, -2e-5):
            theta += shift
            ends.append(loss())
    assert theta.grad.item() == pytest.approx(((ends[0] - ends[1]) / 2e-5).item(), rel=1e-5)


def test_a_few_steps_beat_chance():
    network, task = digit_transformer(layers=2, epochs=3), digit_task("near", 200)
    route = LateRoute(network, SHERL(32, 2, 8))
    model = nn.Sequential(route.late, nn.Linear(32, 10))
    train_on(model, route.early(task.train.images), task.train.labels, rate=0.03, epochs=10)
    right = model.eval()(route.early(task.test.images)).argmax(1) == task.test.labels
    assert right.float().mean() > 0.3


# What is kept

def kept(model: nn.Module, inputs: torch.Tensor) -> int:
    return saved_bytes(model, lambda: model(inputs).pow(2).sum())


def test_the_memory_of_a_late_block_is_that_of_a_block():
    "Each block in the graph costs as much as one block of the network; the side module has one layer less to read."
    images, by_late = normal(8, 1, 8, 8), {}
    for late in (1, 2, 3):
        route = LateRoute(TokenTransformer(layers=8), SHERL(32, 9 - late, 4, weigh="uniform"), late)
        by_late[late] = kept(route, images)
    assert by_late[3] - by_late[2] == by_late[2] - by_late[1] > 0


def test_only_the_late_route_is_in_the_graph():
    images = normal(8, 1, 8, 8)
    route = LateRoute(TokenTransformer(layers=8), SHERL(32, 8, 4))
    assert kept(route, images) == kept(route.late, route.early(images))
    tuned = {}
    for name, (config, where) in {"LoRA": (LoRA(4), "*.attn.[qv]"), "biases": (BitFit(), "*")}.items():
        network = TokenTransformer(layers=8)
        inject(network, config, where)
        tuned[name] = kept(network, images)
    assert kept(route, images) < tuned["biases"] / 2 < tuned["LoRA"] / 2 < kept(TokenTransformer(layers=8), images) / 2


def test_features_are_kept_once():
    "A batch of stored features, its layers second, must not be copied layer by layer."
    route = LateRoute(TokenTransformer(layers=8), SHERL(32, 8, 4))
    features = route.early(normal(8, 1, 8, 8))
    own = nn.ModuleList([route.late])
    apart = [each.contiguous() for each in features.unbind(1)]
    through = saved_bytes(own, lambda: route.late.norm(route.late.blocks(route.late.side(apart))).sum())
    assert saved_bytes(own, lambda: route.late.tokens(features).sum()) == through


def test_a_saved_route_is_loaded_again(tmp_path):
    images = normal(2, 1, 8, 8)
    first = LateRoute(TokenTransformer(layers=3), SHERL(32, 3, 4)).eval()
    torch.save(first.state_dict(), tmp_path / "route.pt")
    again = LateRoute(TokenTransformer(layers=3), SHERL(32, 3, 4)).eval()
    again.load_state_dict(torch.load(tmp_path / "route.pt", weights_only=True))
    torch.testing.assert_close(again(images), first(images))


# Convolutional networks

def small_stages() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in ((1, 4), (4, 6), (6, 8))]


def conv_route(**options) -> ConvLateRoute:
    late = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten())
    return ConvLateRoute(small_stages(), ConvSHERL((4, 6, 8), (4, 2, 1), 5, **options), late)


def test_a_place_of_pooled_stages_is_what_a_token_was():
    torch.manual_seed(0)
    side = ConvSHERL((2, 3, 4), (4, 2, 1), 5, gate=0.25).eval()
    maps = [normal(2, 2, 8, 12), normal(2, 3, 4, 6, seed=1), normal(2, 4, 2, 3, seed=2)]
    found = side(maps)
    assert found.shape == maps[-1].shape
    for down in (*side.down, side.out):
        down[1].running_mean.normal_(), down[1].running_var.uniform_(0.5, 2)
    found, place = side(maps), (1, 2)
    rows = []
    for each, down, window in zip(maps, side.down, (4, 2, 1)):
        corner = [slice(at * window, (at + 1) * window) for at in place]
        pooled = each[:, :, corner[0], corner[1]].amax((2, 3)) + each[:, :, corner[0], corner[1]].mean((2, 3))
        mapped = pooled @ down[0].weight[:, :, 0, 0].T + down[0].bias
        rows.append(F.batch_norm(mapped, down[1].running_mean, down[1].running_var, down[1].weight, down[1].bias))
    shallow, guide = torch.stack(rows[:-1], 1), rows[-1]
    scores = side.mixture.score(shallow * guide[:, None]).squeeze(-1).relu() / redundancy(shallow)
    mixed = (scores / (scores.sum(-1, keepdim=True) + 1e-8))[..., None].mul(shallow).sum(1) + guide
    way_out = mixed @ side.out[0].weight[:, :, 0, 0].T + side.out[0].bias
    norm = side.out[1]
    way_out = F.batch_norm(way_out, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()
    torch.testing.assert_close(found[:, :, place[0], place[1]], way_out + 0.25 * maps[-1][:, :, place[0], place[1]])


def test_a_side_that_passes_the_last_map_on_gives_the_convolutional_network_back():
    route, images = conv_route(gate=1.0).eval(), normal(3, 1, 16, 16)
    nn.init.zeros_(route.side.out[0].weight), nn.init.zeros_(route.side.out[0].bias)
    torch.testing.assert_close(route(images), nn.Sequential(*route.stages, route.late)(images))


def test_stages_and_late_part_are_frozen_with_their_statistics_and_out_of_the_graph():
    route, images = conv_route().train(), normal(8, 1, 16, 16)
    before = copy.deepcopy({key: each for key, each in route.state_dict().items() if not key.startswith("side")})
    train_on(nn.Sequential(route, nn.Linear(8, 2)), images, torch.arange(8) % 2, rate=0.05, epochs=3)
    assert all(torch.equal(each, route.state_dict()[key]) for key, each in before.items())
    assert {key.split(".")[0] for key, each in route.named_parameters() if each.requires_grad} == {"side"}
    assert route.side.out[1].num_batches_tracked > 0 and not any(each.requires_grad for each in route.early(images))
    maps = route.early(images)
    assert kept(route, images) == saved_bytes(route, lambda: route.late(route.side(maps)).pow(2).sum())


def test_a_few_steps_of_the_convolutional_route_beat_chance():
    labels = torch.arange(80) % 2
    images = normal(80, 1, 16, 16) + labels.view(-1, 1, 1, 1)
    torch.manual_seed(0)
    model = train_on(nn.Sequential(conv_route(), nn.Linear(8, 2)), images, labels, rate=0.02, epochs=15).eval()
    assert (model(images).argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("call, words", [
    (lambda: ConvSHERL((4,), (1,), 2), "channels must be two numbers or more"),
    (lambda: ConvSHERL((4, 8), (2, 2, 1), 2), "windows must"),
    (lambda: ConvSHERL((4, 8), (2, 2), 2), "the last of windows must"),
    (lambda: ConvSHERL((4, 8), (0, 1), 2), r"windows\[0\] must"),
    (lambda: ConvSHERL((4, 8), (2, 1), 2)([normal(1, 8, 2, 2)]), "maps must be a list of 2 tensors.*got 1"),
    (lambda: ConvSHERL((4, 8), (2, 1), 2)([normal(1, 4, 5, 4), normal(1, 8, 2, 2)]), r"maps\[0\] must be of shape"),
    (lambda: ConvSHERL((4, 8), (2, 1), 2)(normal(2, 1, 8, 2)), "maps must be a list of 2 tensors"),
    (lambda: redundancy(normal(4)), "rows must have at least two axes"),
    (lambda: LayerMixture(4, "mean"), "weigh must"),
    (lambda: LayerMixture(4, "none", guide=False), "guide must be True"),
    (lambda: SHERL(8, 1, 2), "layers must"), (lambda: SHERL(8, 4, 0), "hidden must"),
    (lambda: SHERL(8, 4, 2, gate=2), "gate must"), (lambda: SHERL(8, 4, 2, temperature=0), "temperature must"),
    (lambda: SHERL(8, 4, 2, dropout=1.5), "dropout must"), (lambda: SHERL(8, 4, 2, shared=2), "shared must"),
    (lambda: SHERL(8, 4, 2)(normal(3, 2, 5, 8)), "features must be 4 tensors, one for each layer, got 3"),
    (lambda: SHERL(8, 4, 2)(normal(4, 2, 5, 9)), r"features must be of shape \(N L 8\)"),
    (lambda: SHERL(8, 2, 2)([normal(2, 5, 8), normal(2, 4, 8)]), "features must be of shape"),
    (lambda: LadderSide(8, 4, 3, heads=2), "heads must divide hidden, 3, got 2"),
    (lambda: LateRoute(TokenTransformer(layers=2), SHERL(32, 2, 4), 2), "late must"),
    (lambda: LateRoute(TokenTransformer(layers=2), SHERL(32, 3, 4))(normal(1, 1, 8, 8)), "features must be 3 tensors"),
    (lambda: LateLayers(SHERL(8, 4, 2), nn.Identity(), nn.Identity())(normal(2, 5, 8)), "features must be of shape"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("call, words", [
    (lambda: SHERL(8, 4, 2)("abcd"), "features must be a tensor or a list of tensors"),
    (lambda: LateRoute(nn.Linear(2, 2), SHERL(8, 4, 2)), "network must be a TokenTransformer"),
    (lambda: LateLayers("side", nn.Identity(), nn.Identity()), "side must be an nn.Module"),
    (lambda: ConvLateRoute(nn.Identity(), nn.Identity(), nn.Identity()), "stages must"),
    (lambda: ConvLateRoute([nn.Identity(), 3], nn.Identity(), nn.Identity()), r"stages\[1\] must be an nn.Module"),
    (lambda: ConvLateRoute([nn.Identity()], nn.Identity(), "late"), "late must be an nn.Module"),
])
def test_other_kinds_are_refused(call, words):
    with pytest.raises(TypeError, match=words):
        call()


def test_half_precision_keeps_rows_of_zeros_and_scores_of_zero():
    assert redundancy(torch.zeros(2, 3).half()).tolist() == [0, 0]
    mixture = LayerMixture(4).half()
    mixture.score.bias.data.fill_(-50)  # no score is above 0
    rows = normal(2, 3, 4).half()
    assert (mixture.weights(rows) == 0).all() and torch.equal(mixture(rows), rows[:, -1])


@pytest.mark.parametrize("build", [
    lambda network: LateRoute(network, SHERL(32, 3, 4), 9), lambda network: LateRoute(network, "side"),
    lambda network: LateLayers(SHERL(32, 3, 4), network.blocks, "norm"),
])
def test_what_is_refused_freezes_nothing(build):
    network = TokenTransformer(layers=3)
    with pytest.raises((TypeError, ValueError)):
        build(network)
    assert all(each.requires_grad for each in network.parameters())


@pytest.mark.parametrize("side", [SHERL(32, 3, 4), LadderSide(32, 3, 4)])
def test_features_of_another_precision_are_named(side):
    with pytest.raises(TypeError, match="features must be torch.float32 as the weights, got torch.float64"):
        side([normal(2, 5, 32), normal(2, 5, 32), normal(2, 5, 32).double()])
    with pytest.raises(TypeError, match="features must be torch.float32"):
        LateRoute(TokenTransformer(layers=3).double(), side)(normal(2, 1, 8, 8).double())
