"""The key-value bottleneck: what is fetched, what moves, what stays, and bad input."""
from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xfer_course.fewshot import KeyValueBottleneck, class_counts, fit_values, shared_codes, voting_logits


def points(n: int, d: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def clouds(classes: list[int], n: int = 80, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    "Well separated clouds on a circle of eight."
    rng = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes)[torch.randint(len(classes), (n,), generator=rng)]
    angles = labels * torch.pi / 4
    return torch.stack([angles.cos(), angles.sin()], 1) + 0.08 * torch.randn(n, 2, generator=rng), labels


# --- fetching


def test_the_nearest_key_of_every_projection_is_fetched():
    model, x = KeyValueBottleneck(6, 3, 5, 2, 4), points(7)
    model.values.data.normal_()
    codes, found = model.nearest(x), model(x)
    for n in range(7):
        for c in range(3):
            far = (x[n] @ model.projection[c] - model.keys[c]).norm(dim=1)
            assert codes[n, c, 0] == far.argmin()
            assert torch.equal(found[n, c], model.values[c, far.argmin()])
    torch.testing.assert_close(model.projection.norm(dim=1), torch.ones(3, 2))


def test_several_keys_are_added():
    model, x = KeyValueBottleneck(6, 3, 5, 2, 4, k=2), points(7)
    model.values.data.normal_()
    codes = model.nearest(x)
    assert codes.shape == (7, 3, 2) and torch.equal(
        codes[..., :1], KeyValueBottleneck(6, 3, 5, 2, 4).nearest(x)), "the nearest stands first"
    torch.testing.assert_close(model(x)[2, 1], model.values[1, codes[2, 1]].sum(0))
    every = KeyValueBottleneck(6, 3, 5, 2, 4, k=5)
    every.values.data.normal_()
    torch.testing.assert_close(every(x)[0], every.values.sum(1))


def test_only_what_was_fetched_has_a_gradient():
    model, x, y = KeyValueBottleneck(6, 3, 50, 2, 4), points(7), torch.arange(7) % 4
    F.cross_entropy(voting_logits(model(x)), y).backward()
    fetched = torch.zeros(3, 50, dtype=torch.bool)
    for row in model.nearest(x)[..., 0]:
        fetched[range(3), row] = True
    assert torch.equal(model.values.grad.any(-1), fetched)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["values"]


def test_tables_vote_by_their_mean():
    values = points(6).view(2, 3, 6)
    torch.testing.assert_close(voting_logits(values)[1], (values[1, 0] + values[1, 1] + values[1, 2]) / 3)


def test_fetches_are_counted_in_training_alone():
    model, x = KeyValueBottleneck(6, 3, 5, 2, 4), points(7)
    model(x)
    model(x[:2])
    assert model.counts.sum(1).tolist() == [9, 9, 9]
    model.eval()(x)
    assert model.counts.sum() == 27


def test_predictions_use_keys_that_were_fetched_before():
    model, x = KeyValueBottleneck(6, 3, 40, 2, 4), points(4)
    model(x)
    used = model.counts > 0
    model.eval()
    others = points(200, seed=1)
    assert used[torch.arange(3), model.nearest(others)[..., 0]].all()
    model.used_only = False
    assert not used[torch.arange(3), model.nearest(others)[..., 0]].all()


def test_before_anything_was_fetched_all_keys_take_part():
    model, x = KeyValueBottleneck(6, 3, 40, 2, 4), points(50)
    assert torch.equal(model.eval().nearest(x), model.train().nearest(x))


# --- keys


def test_one_step_of_the_running_means_is_what_the_formula_says():
    model, x = KeyValueBottleneck(6, 2, 4, 3, 2, decay=0.9), points(30)
    start, codes = model.keys.clone(), model.nearest(x)[..., 0]
    model.place_keys(x[None], epochs=1, dead=0)
    for c in range(2):
        heads = x @ model.projection[c]
        sizes = torch.stack([(codes[:, c] == j).sum() * 0.1 for j in range(4)])
        sums = torch.stack([0.9 * start[c, j] + 0.1 * heads[codes[:, c] == j].sum(0) for j in range(4)])
        smoothed = (sizes + 1e-5) / (sizes.sum() + 4e-5) * sizes.sum()
        torch.testing.assert_close(model.keys[c], sums / smoothed[:, None], rtol=1e-4, atol=1e-4)


def test_dead_keys_jump_onto_features():
    model, x = KeyValueBottleneck(6, 2, 40, 3, 2), points(30)
    model.place_keys(x[None], epochs=1, dead=1e9)
    heads = (x @ model.projection)
    assert (torch.cdist(model.keys, heads, compute_mode="donot_use_mm_for_euclid_dist").amin(2) == 0).all()
    alone = KeyValueBottleneck(6, 2, 40, 3, 2).place_keys(x[None], epochs=1, dead=0)
    far = torch.cdist(alone.keys, heads).amin(2)
    assert (far > 1).sum() > 10, "without jumps some stay where nothing is"


def test_placed_keys_are_nearer_to_the_data_and_more_of_them_are_used():
    x = 5 + points(400)
    before, after = KeyValueBottleneck(6, 4, 30, 3, 2), KeyValueBottleneck(6, 4, 30, 3, 2).place_keys(x)
    for model in (before, after):
        model(x)
    assert (after.counts > 0).sum() > 2 * (before.counts > 0).sum()


def test_few_features_are_passed_over_until_the_random_start_has_faded():
    "Sizes sum to the rows of a batch times one less what is left of the start."
    model = KeyValueBottleneck(6, 2, 10, 3, 2).place_keys(points(50), batch_size=50)
    assert (model.key_sizes.sum(1) > 0.999 * 50).all()
    model = KeyValueBottleneck(6, 2, 10, 3, 2).place_keys(points(50), 10, 50)
    torch.testing.assert_close(model.key_sizes.sum(1), torch.full((2,), 50 * (1 - 0.95**10)))


def test_batches_come_in_their_order_and_rows_are_shuffled_by_a_seed():
    x, make = points(60), lambda: KeyValueBottleneck(6, 2, 10, 3, 2)
    listed, stacked = make().place_keys([x[:20], x[20:40], x[40:]], 2), make().place_keys(x.view(3, 20, 6), 2)
    assert torch.equal(listed.keys, stacked.keys)
    one, same, other = (make().place_keys(x, 2, 20, seed=seed).keys for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_frozen_keys_stay_and_are_saved():
    model = KeyValueBottleneck(6, 2, 10, 3, 2).place_keys(points(60)).freeze_keys()
    keys = model.keys.clone()
    with pytest.raises(ValueError, match="before freeze_keys"):
        model.place_keys(points(60))
    fit_values(model, points(60), torch.arange(60) % 2, epochs=2)
    assert torch.equal(model.keys, keys)
    again = KeyValueBottleneck(6, 2, 10, 3, 2, seed=9)
    again.load_state_dict(model.state_dict())
    assert again.frozen and torch.equal(again.eval()(points(5)), model.eval()(points(5)))


# --- the stream


def test_a_step_is_a_plain_gradient_step():
    model, x, y = KeyValueBottleneck(6, 3, 20, 2, 4), points(12), torch.arange(12) % 4
    values = model.values.detach().clone().requires_grad_()
    for _ in range(2):
        logits = torch.stack([values[c, model.nearest(x)[:, c, 0]] for c in range(3)]).mean(0)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, label_smoothing=0.1), values)
        norm = gradient.norm()
        values = (values - 5.0 * gradient * min(1.0, 0.05 / norm.item())).detach().requires_grad_()
    fit_values(model, x, y, epochs=2, lr=5.0, clip_norm=0.05)
    torch.testing.assert_close(model.values, values, rtol=1e-4, atol=1e-6)


def test_what_comes_later_elsewhere_changes_nothing_that_was_stored():
    model = KeyValueBottleneck(2, 1, 60, 2, 8, projection=torch.eye(2)[None])
    x, y = clouds(list(range(8)), 400)
    model.place_keys(x).freeze_keys()
    fit_values(model, *clouds([0, 1]), lr=1.0)
    before, seen = model.values.clone(), model.counts > 0
    fit_values(model, *clouds([4, 5]), lr=1.0)
    assert torch.equal(model.values[seen], before[seen]) and (model.counts > 0).sum() > seen.sum()


def test_a_stream_of_classes_is_kept_where_a_linear_layer_forgets():
    x, y = clouds(list(range(8)), 400, seed=9)
    tables, linear = KeyValueBottleneck(2, 10, 20, 2, 8).place_keys(clouds(list(range(8)), 400)[0]), nn.Linear(2, 8)
    for first in range(4):
        task = clouds([first, first + 4], seed=first)
        fit_values(tables, *task, lr=10.0, clip_norm=None)
        optimizer = torch.optim.Adam(linear.parameters(), 0.05)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(linear(task[0]), task[1]).backward()
            optimizer.step()
    right = [(logits.argmax(1) == y).double().mean() for logits in (voting_logits(tables.eval()(x)), linear(x))]
    assert right[0] > 0.9 and right[1] < 0.6, "one of eight by chance"


# --- shared keys


def test_counts_of_classes_are_those_of_a_loop():
    model, x, y = KeyValueBottleneck(6, 3, 5, 2, 4, k=2), points(20), torch.arange(20) % 3
    codes, expected = model.nearest(x), torch.zeros(4, 3, 5, dtype=torch.long)
    for n in range(20):
        for c in range(3):
            for j in codes[n, c]:
                expected[y[n], c, j] += 1
    assert torch.equal(class_counts(codes, y, 5, 4), expected)
    assert torch.equal(class_counts(codes, y, 5), expected[:3])


def test_a_pair_is_shared_if_two_classes_fetched_it():
    counts = torch.tensor([[[3, 0, 1, 0]], [[1, 2, 0, 0]]])
    assert shared_codes(counts) == pytest.approx(1 / 3)
    assert shared_codes(torch.eye(2)[:, None]) == 0


def test_double_precision_works_from_end_to_end():
    model = KeyValueBottleneck(6, 2, 10, 3, 2).double().place_keys(points(60).double())
    fit_values(model, points(60).double(), torch.arange(60) % 2, epochs=2)
    assert model(points(3).double()).dtype == torch.double


@pytest.mark.parametrize("call, sentence", [
    (lambda: KeyValueBottleneck(6, 2, 10, 3, 2, k=11), "k must be a whole number from 1 to 10"),
    (lambda: KeyValueBottleneck(6, 2, 10, 3, 2, decay=1.0), "decay must be a finite number of at least 0"),
    (lambda: KeyValueBottleneck(6, 2, 10, 3, 2, projection=torch.ones(2, 3, 6)), "projection must be of shape"),
    (lambda: KeyValueBottleneck(6, 2, 10, 3, 2)(points(4, 5)), "x must be of shape"),
    (lambda: KeyValueBottleneck(6, 2, 10, 3, 2)(points(4) * torch.nan), "x must be finite"),
    (lambda: KeyValueBottleneck(6, 2, 10, 3, 2).fetch(torch.full((1, 2, 1), 10)), "codes must lie in"),
    (lambda: KeyValueBottleneck(6, 2, 10, 3, 2).place_keys(points(4, 5)), "features must be of shape"),
    (lambda: KeyValueBottleneck(6, 2, 10, 3, 2).place_keys(iter([points(4)]), 2), "got none in pass 2 of 2"),
    (lambda: KeyValueBottleneck(6, 2, 10, 3, 2).place_keys(points(4), dead=-1), "dead"),
    (lambda: fit_values(KeyValueBottleneck(6, 2, 10, 3, 2), points(4), torch.arange(4)), "below 2"),
    (lambda: voting_logits(points(4)), "values must be of shape"),
    (lambda: class_counts(torch.zeros(2, 1, 1).long(), torch.zeros(3).long(), 4), "labels must hold 2 labels"),
    (lambda: class_counts(torch.full((2, 1, 1), 4), torch.zeros(2).long(), 4), "codes must lie in"),
    (lambda: shared_codes(torch.zeros(2, 1, 4)), "zeros alone"),
])
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("call, sentence", [
    (lambda: KeyValueBottleneck(6, 2, 10, 3, 2)(points(4).double()), "torch.float32 as the keys"),
    (lambda: KeyValueBottleneck(6, 2, 10, 3, 2).place_keys(3), "batches of them, got int"),
    (lambda: fit_values(nn.Linear(6, 2), points(4), torch.arange(4)), "KeyValueBottleneck"),
])
def test_things_of_the_wrong_kind_are_one_sentence(call, sentence):
    with pytest.raises(TypeError, match=sentence):
        call()
