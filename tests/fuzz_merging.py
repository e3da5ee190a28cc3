"""How fuzzing calls the public functions of the chapter merging."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

import torch
from hypothesis import strategies as st
from torch import nn

from drawing import (
    NOT_DRAWN,
    any_float,
    any_images,
    any_int,
    any_labels,
    any_tensor,
    any_vectors,
    any_weights,
    class_numbers,
    filled,
    fuzz,
    images,
    small_int,
    vectors,
)
from xfer_course import merging
from xfer_course.data import Images

# --- states and tasks

NOT_DRAWN.update(["MergeGrid"])


def state_of(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"weight": weight, "count": torch.tensor(3)}


STATES = vectors(2, 3).map(state_of)
ANY_STATES = st.one_of(any_tensor.map(state_of), any_vectors.map(state_of), st.just({}), any_float)
SEVERAL = st.lists(STATES, min_size=1, max_size=3)
ANY_SEVERAL = st.one_of(st.lists(ANY_STATES, max_size=3), ANY_STATES)


def fits(result, arguments) -> bool:
    return result["weight"].shape == (2, 3) and result["count"] == 3


fuzz("interpolate", merging.interpolate, {"first": STATES, "second": STATES, "share": st.floats(-1, 2)},
     {"first": ANY_STATES, "second": ANY_STATES, "share": any_float}, lambda r, a: r.keys() == a["first"].keys())
fuzz("merge_states", lambda states: merging.merge_states(states, lambda name, parts: sum(parts)), {"states": SEVERAL},
     {"states": ANY_SEVERAL}, lambda r, a: r.keys() == a["states"][0].keys())
fuzz("merge_shares", merging.merge_shares, {"states": SEVERAL, "weights": st.none()},
     {"states": ANY_SEVERAL, "weights": any_weights}, lambda r, a: abs(sum(r) - 1) < 1e-6)
fuzz("weighted_mean", merging.weighted_mean, {"states": SEVERAL, "weights": st.none()},
     {"states": ANY_SEVERAL, "weights": any_weights}, lambda r, a: r.keys() == a["states"][0].keys())
fuzz("task_vector", merging.task_vector, {"before": STATES, "after": STATES},
     {"before": ANY_STATES, "after": ANY_STATES}, lambda r, a: "count" not in r)
fuzz("add_vectors", merging.add_vectors,
     {"before": STATES, "vectors": st.lists(vectors(2, 3).map(lambda x: {"weight": x}), min_size=1, max_size=3),
      "scale": st.floats(-1, 2)},
     {"before": ANY_STATES, "vectors": ANY_SEVERAL, "scale": st.one_of(any_float, any_weights)},
     lambda r, a: r.keys() == a["before"].keys())
fuzz("barrier", merging.barrier, {"losses": st.lists(st.floats(-2, 2), min_size=2, max_size=5), "shares": st.none()},
     {"losses": any_weights, "shares": any_weights}, lambda r, a: r >= 0)


def classifier(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), *([nn.BatchNorm1d(4)] if norm else []), nn.Linear(4, 3))


PICTURES = images(n=(3, 3), c=(1, 1), size=(4, 4))
fuzz("reset_statistics", lambda images, **options: merging.reset_statistics(classifier(), images, **options),
     {"images": PICTURES}, {"images": any_images, "batch_size": small_int}, lambda r, a: isinstance(r, nn.Module),
     also=(RuntimeError,))  # inputs that the layers themselves do not take
fuzz("loss_along",
     lambda images, labels, shares: merging.loss_along(classifier(), classifier().state_dict(), {
         name: x * 2 for name, x in classifier().state_dict().items()}, images, labels, shares),
     {"images": PICTURES, "labels": class_numbers(3, 3), "shares": st.lists(st.floats(0, 1), min_size=1, max_size=3)},
     {"images": any_images, "labels": any_labels, "shares": any_weights}, lambda r, a: len(r) == len(a["shares"]),
     also=(RuntimeError,))
MIXTURES = st.one_of(st.sampled_from(tuple(merging.SHIFTS)), st.just({"left": 0.5, "noise": 0.2}))
fuzz("shifted_digits", merging.shifted_digits,
     {"shift": MIXTURES, "n": st.integers(1, 4), "split": st.sampled_from(("train", "validation", "test"))},
     {"shift": st.one_of(st.text(max_size=2), any_float, st.dictionaries(st.text(max_size=1), any_float)),
      "n": small_int, "seed": any_int, "split": st.text(max_size=2)},
     lambda r, a: r.images.shape == (a["n"], 1, 14, 14) and r.images.isfinite().all())
fuzz("DigitNetwork", lambda **options: merging.DigitNetwork(**options)(filled((2, 1, 14, 14))),
     {"width": st.integers(1, 3), "norm": st.sampled_from(("none", "batch", "layer")), "classes": st.integers(1, 4)},
     {"width": small_int, "norm": st.text(max_size=2), "classes": small_int},
     lambda r, a: r.shape == (2, a["classes"]))
fuzz("train_network",
     lambda images, labels, **options: merging.train_network(Images(images, labels), classifier(False), **options),
     {"images": PICTURES, "labels": class_numbers(3, 3), "steps": st.integers(1, 2)},
     {"images": any_images, "labels": any_labels, "steps": small_int, "rate": any_float, "batch_size": small_int,
      "seed": any_int}, lambda r, a: not r.training, also=(RuntimeError, IndexError, FloatingPointError))

# --- Fisher merging

FISHERS = vectors(2, 3).map(lambda x: {"weight": x.abs() + 0.01})
ANY_FISHERS = st.one_of(any_vectors.map(lambda x: {"weight": x}), any_tensor.map(state_of), st.just({}), any_float)
fuzz("fisher_diagonal",
     lambda images, labels, **options: merging.fisher_diagonal(classifier(), images, labels, **options),
     {"images": PICTURES, "labels": st.one_of(st.sampled_from(("expected", "sampled")), class_numbers(3, 3))},
     {"images": any_images, "labels": st.one_of(any_labels, st.text(max_size=2)), "where": st.text(max_size=2),
      "max_rows": small_int, "batch_size": small_int, "seed": any_int},
     lambda r, a: all((part >= 0).all() for part in r.values()), also=(RuntimeError,))
fuzz("fisher_norm", merging.fisher_norm, {"fisher": FISHERS}, {"fisher": ANY_FISHERS}, lambda r, a: r >= 0)
fuzz("fisher_merge", merging.fisher_merge,
     {"states": st.lists(STATES, min_size=2, max_size=2), "fishers": st.lists(FISHERS, min_size=2, max_size=2),
      "favour_first": st.booleans(), "normalise": st.booleans()},
     {"states": ANY_SEVERAL, "fishers": st.lists(ANY_FISHERS, max_size=3), "weights": any_weights, "floor": any_float,
      "favour_first": any_float, "normalise": any_float}, fits)
fuzz("grid_weights", merging.grid_weights, {"states": st.integers(2, 4), "points": st.integers(2, 5)},
     {"states": small_int, "points": small_int, "seed": any_int},
     lambda r, a: r.shape == (a["points"], a["states"]) and abs(r.sum(1) - 1).max() < 1e-9)
fuzz("merge_grid", lambda states, score, **options: merging.merge_grid(states, lambda state: score, **options),
     {"states": st.lists(STATES, min_size=2, max_size=3), "score": st.floats(-1, 1), "points": st.integers(2, 3)},
     {"states": ANY_SEVERAL, "score": any_float, "points": small_int, "seed": any_int},
     lambda r, a: len(r.scores) == a["points"] and r.state.keys() == a["states"][0].keys())

# --- BANG

NOT_DRAWN.update(["Agreement"])
COUNTS = {"labels": class_numbers(4, 3), "classes": st.just(3), "invariant": st.integers(0, 2),
          "spurious": st.integers(0, 3), "p": st.floats(0, 1)}
fuzz("feature_votes", merging.feature_votes, COUNTS,
     {"labels": any_labels, "classes": small_int, "invariant": small_int, "spurious": small_int, "p": any_float,
      "seed": any_int}, lambda r, a: r.shape == (len(a["labels"]), a["invariant"] + a["spurious"]))
VOTES = st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=4).map(torch.tensor)
MASKS = st.lists(st.sampled_from((0.0, 1.0)), min_size=3, max_size=3).map(torch.tensor)
fuzz("vote_scores", merging.vote_scores, {"votes": VOTES, "weights": MASKS, "classes": st.just(3)},
     {"votes": any_labels, "weights": any_vectors, "classes": small_int}, lambda r, a: r.shape == (len(a["votes"]), 3))
fuzz("right_votes", merging.right_votes,
     {"scores": vectors(4, 3), "labels": class_numbers(4, 3), "ties": st.sampled_from(("wrong", "shared"))},
     {"scores": any_vectors, "labels": any_labels, "ties": st.text(max_size=2)},
     lambda r, a: r.shape == (4,) and ((r >= 0) & (r <= 1)).all())
for ways in ("output_weights", "averaged_weights"):
    fuzz(ways, getattr(merging, ways), {"first": MASKS, "second": MASKS},
         {"first": any_vectors, "second": any_tensor}, lambda r, a: ((r >= 0) & (r <= 1)).all())
fuzz("signal_to_noise", merging.signal_to_noise, {"weights": MASKS, "invariant": st.integers(0, 3)},
     {"weights": any_tensor, "invariant": small_int}, lambda r, a: r >= 0)
fuzz("agreement", merging.agreement, {name: class_numbers(4, 3) for name in ("first", "second", "merged", "labels")},
     {name: any_labels for name in ("first", "second", "merged", "labels")}, lambda r, a: -1 <= r.net <= 1)
fuzz("multicolour_digits", merging.multicolour_digits,
     {"n": st.integers(1, 3), "p": st.floats(0, 1), "patches": st.integers(1, 4),
      "informative": st.sampled_from((None, slice(2)))},
     {"n": small_int, "p": any_float, "seed": any_int, "split": st.text(max_size=2), "patches": small_int,
      "informative": any_int, "noise": any_float},
     lambda r, a: r.images.shape == (a["n"], 196 + 3 * a["patches"]) and r.images.isfinite().all())
fuzz("smooth_labels", merging.smooth_labels,
     {"labels": class_numbers(4, 3), "classes": st.just(3), "smoothing": st.floats(0, 1)},
     {"labels": any_labels, "classes": small_int, "smoothing": any_float},
     lambda r, a: torch.allclose(r.sum(1), torch.ones(len(r))))
fuzz("mixup", merging.mixup,
     {"inputs": vectors(4, 2), "targets": vectors(4, 3), "share": st.floats(0, 1), "order": class_numbers(4, 4)},
     {"inputs": any_vectors, "targets": any_vectors, "share": any_float, "order": any_labels},
     lambda r, a: r[0].shape == (4, 2) and r[1].shape == (4, 3))
fuzz("balanced_step",
     lambda images, labels, **options: merging.balanced_step(classifier(False), 3, **options)((images, labels), 0.5)[0],
     {"images": PICTURES, "labels": class_numbers(3, 3), "mixing": st.floats(0, 2)},
     {"images": any_images, "labels": any_labels, "smoothing": any_float, "mixing": any_float, "seed": any_int},
     lambda r, a: r.isfinite(), also=(RuntimeError,))
fuzz("colour_network", lambda **options: merging.colour_network(**options), {"hidden": st.integers(1, 3)},
     {"hidden": small_int, "patches": small_int, "seed": any_int}, lambda r, a: not r.training)
fuzz("fine_tune",
     lambda images, labels, **options: merging.fine_tune(classifier(False), Images(images, labels), **options),
     {"images": PICTURES, "labels": class_numbers(3, 3), "steps": st.integers(1, 2), "mixing": st.floats(0, 1)},
     {"images": any_images, "labels": any_labels, "steps": small_int, "rate": any_float, "batch_size": small_int,
      "smoothing": any_float, "mixing": any_float, "seed": any_int}, lambda r, a: not r.training,
     also=(RuntimeError, FloatingPointError))
# --- units, partners, PLeaS

NOT_DRAWN.update(["Blocks", "Matching", "UnitGroup"])
HIDDEN = merging.UnitGroup("0.weight|0", 4, (("0.weight", 0, 1), ("0.bias", 0, 1), ("2.weight", 1, 1)), (
    ("0 linear", 1, 1), ("1 relu", 1, 1)), ("2.weight",))


def perceptron(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


PAIR, ROWS = {"first": st.integers(0, 3).map(perceptron), "second": st.integers(4, 7).map(perceptron)}, vectors(5, 3)
OTHERS = st.one_of(PAIR["first"], st.just(nn.Linear(3, 2)), st.just(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))),
                   any_float)
ANY_PAIR, GROUPS = {"first": OTHERS, "second": OTHERS}, st.just((HIDDEN,))
WIDE = merging.UnitGroup("0.weight|0", 9, HIDDEN.axes)
ANY_GROUPS = st.sampled_from(((), (3,), (WIDE,), (HIDDEN,)))
NOT_TAKEN = (RuntimeError,)  # inputs that the layers themselves do not take
fuzz("unit_groups", merging.unit_groups, {"model": PAIR["first"], "images": ROWS},
     {"model": OTHERS, "images": any_vectors},
     lambda r, a: r[0].axes == HIDDEN.axes or a["model"][0].out_features != 4, also=NOT_TAKEN)
fuzz("unit_rows", merging.unit_rows, {"x": ROWS, "axis": st.just(0), "run": st.just(1)},
     {"x": any_tensor, "axis": any_int, "run": any_int}, lambda r, a: r.ndim == 2)
fuzz("reordered", merging.reordered, {"x": ROWS, "axis": st.just(0), "run": st.just(1),
                                      "order": class_numbers(4, 5)},
     {"x": any_tensor, "axis": any_int, "run": any_int, "order": any_labels}, lambda r, a: r.ndim == a["x"].ndim)
fuzz("checked_groups", merging.checked_groups,
     {"groups": GROUPS, "state": PAIR["first"].map(lambda model: model.state_dict())}, {"groups": ANY_GROUPS},
     lambda r, a: r == tuple(a["groups"]))
fuzz("unit_activations", merging.unit_activations, {"model": PAIR["first"], "images": ROWS, "groups": GROUPS},
     {"model": OTHERS, "images": any_vectors, "groups": ANY_GROUPS},
     lambda r, a: all(len(each) == 4 for rows in r.values() for each in rows), also=NOT_TAKEN)
fuzz("alike_states", merging.alike_states, PAIR, ANY_PAIR, lambda r, a: r[0].keys() == r[1].keys())
fuzz("match_permutation", merging.match_permutation,
     {**PAIR, "images": ROWS, "by": st.sampled_from(("activations", "weights"))},
     {**ANY_PAIR, "images": any_vectors, "by": st.text(max_size=2), "groups": ANY_GROUPS, "seed": small_int,
      "batch_size": small_int, "released": any_int},
     lambda r, a: all(sorted(order.tolist()) == [0, 1, 2, 3] for order in r.order.values()), also=NOT_TAKEN)
ORDER = torch.tensor([2, 0, 3, 1])


def matched(order: torch.Tensor) -> merging.Matching:
    return merging.Matching((HIDDEN,), {HIDDEN.name: order}, {HIDDEN.name: filled((4, 4))})


def parts(first: nn.Module, second: nn.Module, width: float) -> tuple:
    blocks = merging.unit_blocks(matched(ORDER), width)
    return blocks, merging.partial_merge(first, second, (HIDDEN,), blocks)


def fitted(first: nn.Module, second: nn.Module, width: float, images: torch.Tensor, **options) -> nn.Module:
    blocks, merged = parts(first, second, width)
    return merging.fit_layers(merged, first, second, (HIDDEN,), blocks, images, **options)


WIDTH, ANY_WIDTH = st.floats(1, 2), st.one_of(any_float, st.just({HIDDEN.name: 1.5}), st.just({"none": 1.5}))
ANY_FIT = {"ridge": any_float, "across": any_int, "solver": st.text(max_size=2), "batch_size": small_int}
fuzz("permuted", lambda model, order: merging.permuted(model, matched(order)),
     {"model": PAIR["first"], "order": st.permutations(range(4)).map(torch.tensor)},
     {"model": OTHERS, "order": any_labels}, lambda r, a: r[0].weight.shape[1] == 3)
fuzz("unit_blocks", lambda width, **options: merging.unit_blocks(matched(ORDER), width, **options),
     {"width": WIDTH, "released": st.booleans()}, {"width": ANY_WIDTH, "released": any_int},
     lambda r, a: len(r[HIDDEN.name].first) + len(r[HIDDEN.name].only_second) == 4)
fuzz("partial_merge", lambda **given: parts(**given)[1], {**PAIR, "width": WIDTH}, {**ANY_PAIR, "width": ANY_WIDTH},
     lambda r, a: 4 <= len(r[0].bias) <= 8)
fuzz("fit_layers", fitted, {**PAIR, "width": WIDTH, "images": ROWS},
     {**ANY_PAIR, "width": ANY_WIDTH, "images": any_vectors, **ANY_FIT}, lambda r, a: 4 <= len(r[0].bias) <= 8,
     also=NOT_TAKEN)
fuzz("least_squares_merge", merging.least_squares_merge, {**PAIR, "width": WIDTH, "images": ROWS},
     {**ANY_PAIR, "width": ANY_WIDTH, "images": any_vectors, **ANY_FIT}, lambda r, a: 4 <= len(r[0].bias) <= 8,
     also=NOT_TAKEN)
# --- learned scaling

NOT_DRAWN.add("Negation")


def changes(*seeds: int) -> list[dict[str, torch.Tensor]]:
    own = dict(classifier(False).named_parameters())
    return [{name: filled(each.shape, seed=seed) for name, each in own.items()} for seed in seeds]


def composer_of(scaling="block", **options) -> merging.TaskVectorComposer:
    return merging.TaskVectorComposer(classifier(False), changes(1, 2), scaling, **options)


SCALINGS = st.sampled_from(("block", "vector", 1, 3))
LOGITS = vectors(3, 4)
PARTIAL = st.sampled_from(({"2.bias": torch.tensor([0, 1, 0])}, {"odd": torch.zeros(1)}, {"2.bias": torch.zeros(3)}))
for kind in ("TaskVectorComposer", "LinearComposer"):
    fuzz(kind, lambda vectors, scaling, kind=kind, **options: getattr(merging, kind)(
             classifier(False), vectors, scaling, **options),
         {"vectors": st.lists(st.integers(0, 9), min_size=1, max_size=3).map(lambda seeds: changes(*seeds)),
          "scaling": SCALINGS, "released": st.booleans()},
         {"vectors": ANY_SEVERAL, "scaling": st.one_of(small_int, st.text(max_size=2)), "parts": PARTIAL,
          "seed": any_int, "released": any_int},
         lambda r, a: r(torch.zeros(2, 16)).shape == (2, 3) and len(r.coefficients) == len(a["vectors"]))
fuzz("live_parameters", merging.live_parameters, {"model": PAIR["first"]}, {"model": OTHERS},
     lambda r, a: r.keys() == dict(a["model"].named_parameters()).keys())
fuzz("LinearisedModel", merging.LinearisedModel, {"model": PAIR["first"]}, {"model": OTHERS},
     lambda r, a: r.vector().keys() == a["model"].state_dict().keys())
fuzz("learn_scaling",
     lambda images, labels, scaling, **options: merging.learn_scaling(composer_of(scaling), images, labels, **options),
     {"images": PICTURES, "labels": class_numbers(3, 3), "scaling": SCALINGS, "steps": st.integers(1, 2)},
     {"images": any_images, "labels": any_labels, "rate": any_float, "steps": small_int, "batch_size": small_int,
      "weight_decay": any_float, "seed": any_int},
     lambda r, a: not r.training, also=(RuntimeError, IndexError, FloatingPointError))
fuzz("ufm_loss", merging.ufm_loss,
     {"weak": LOGITS, "strong": LOGITS, "labels": class_numbers(3, 4), "trusted": st.just(torch.tensor([True] * 3)),
      "threshold": st.floats(0, 1), "released": st.booleans()},
     {"weak": any_vectors, "strong": any_vectors, "labels": any_labels, "trusted": any_labels, "threshold": any_float,
      "temperature": any_float, "released": any_int},
     lambda r, a: r.ndim == 0)
fuzz("trusted_images", merging.trusted_images, {"logits": LOGITS, "released": st.booleans()},
     {"logits": any_vectors, "per_class": small_int, "released": any_int},
     lambda r, a: r[0].shape == r[1].shape == (len(a["logits"]),) and r[1].any())
fuzz("negate",
     lambda images, labels, **options: merging.negate(composer_of(), Images(images, labels), Images(images, labels),
                                                      **options),
     {"images": PICTURES, "labels": class_numbers(3, 3), "epochs": st.integers(1, 2)},
     {"images": any_images, "labels": any_labels, "keep": any_float, "rate": any_float, "epochs": small_int,
      "batch_size": small_int, "weight_decay": any_float, "seed": any_int},
     lambda r, a: len(r.target) == len(r.control) == a["epochs"] + 1 and 0 <= r.epoch <= a["epochs"],
     also=(RuntimeError, IndexError, FloatingPointError))

# --- linear expansion

LINES = st.integers(0, 9).map(lambda seed: {"weight": filled((2, 3), seed=seed)})
ANY_LINES = st.one_of(any_tensor.map(lambda x: {"weight": x}), st.just({}), any_float)
fuzz("expand_linear", merging.expand_linear, {"base": LINES, "slope": LINES, "depth": st.integers(1, 4)},
     {"base": ANY_LINES, "slope": ANY_LINES, "depth": small_int},
     lambda r, a: len(r) == a["depth"] and torch.equal(r[0]["weight"], a["base"]["weight"]))
fuzz("LinearExpansion",
     lambda depth, spread: merging.LinearExpansion(nn.Linear(3, 3), depth, spread)(torch.zeros(2, 3)),
     {"depth": st.integers(1, 3), "spread": st.floats(0, 1)}, {"depth": small_int, "spread": any_float},
     lambda r, a: r.shape == (2, 3))


def patch_transformer(depth=2, **options) -> merging.PatchTransformer:
    blocks = merging.LinearExpansion(nn.Linear(4, 4), depth)
    return merging.PatchTransformer(blocks, **{"width": 4, "classes": 3} | options)


fuzz("PatchTransformer", lambda **options: patch_transformer(**options),
     {"classes": st.integers(1, 3), "size": st.just(4), "patch": st.sampled_from((1, 2, 4))},
     {"classes": small_int, "size": small_int, "patch": small_int, "channels": small_int, "width": small_int},
     lambda r, a: len(r.places) == (a["size"] // a["patch"]) ** 2 and len(r.head.weight) == a["classes"])
fuzz("descendant", lambda depth, classes: merging.descendant(patch_transformer(), depth, classes),
     {"depth": st.integers(1, 4), "classes": st.sampled_from((None, 2))}, {"depth": small_int, "classes": small_int},
     lambda r, a: len(r.blocks) == a["depth"])
fuzz("linearity", lambda widths, component: merging.linearity([nn.Linear(width, 2) for width in widths], component),
     {"widths": st.integers(3, 5).map(lambda n: [2] * n), "component": st.booleans()},
     {"widths": st.lists(st.integers(1, 3), max_size=4), "component": any_int},
     lambda r, a: all(-1e-9 <= each <= 1 + 1e-9 for each in r.values()))
fuzz("distillation_loss", merging.distillation_loss,
     {"student": LOGITS, "teacher": LOGITS, "labels": class_numbers(3, 4), "alpha": st.floats(0, 1),
      "tau": st.floats(0.5, 4), "kind": st.sampled_from(("soft", "hard", "none")), "released": st.booleans()},
     {"student": any_vectors, "teacher": any_vectors, "labels": any_labels, "alpha": any_float, "tau": any_float,
      "kind": st.text(max_size=2), "released": any_int},
     lambda r, a: r.ndim == 0)

# --- files of weights

NOT_DRAWN.update(["Closeness", "MergedTensor", "MergeReport", "MergeScores", "Weights"])
SHELF = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, SHELF, ignore_errors=True)
SHELVED = [merging.write_weights(SHELF / f"{seed}.safetensors", merging.weights_of(perceptron(seed).state_dict()))
           for seed in range(3)]
FILES, OUT = st.sampled_from(SHELVED), st.just(SHELF / "merged.safetensors")
ANY_FILE = st.one_of(st.sampled_from([SHELF, SHELF / "none", SHELVED[0]]), any_float, st.text(max_size=2))
REPORT = merging.merge(*SHELVED[:2], out=SHELF / "reported.safetensors")
NOT_THERE = (FileNotFoundError,)
fuzz("open_weights", merging.open_weights, {"path": FILES}, {"path": ANY_FILE}, lambda r, a: len(r.parts) == 4,
     also=NOT_THERE)
fuzz("weights_of", merging.weights_of, {"state": STATES, "said": st.just("x")}, {"state": ANY_STATES},
     lambda r, a: r.state().keys() == a["state"].keys())
fuzz("network_with", lambda model, path: merging.network_with(model, merging.open_weights(path)),
     {"model": PAIR["first"], "path": FILES}, {"model": OTHERS, "path": ANY_FILE}, lambda r, a: not r.training,
     also=NOT_THERE)
fuzz("safetensors_path", merging.safetensors_path, {"name": st.just("out"), "path": OUT}, {"path": ANY_FILE},
     lambda r, a: r.suffix == ".safetensors")
fuzz("write_weights", lambda path, state, **options: merging.write_weights(path, merging.weights_of(state), **options),
     {"path": OUT, "state": STATES, "numbers": st.integers(1, 9)},
     {"path": st.one_of(any_float, st.just(SHELF)), "state": ANY_STATES, "numbers": any_int},
     lambda r, a: r.is_file())
fuzz("closeness", merging.closeness, {"first": ROWS, "second": ROWS}, {"first": any_tensor, "second": any_vectors},
     lambda r, a: r.apart >= 0 and not abs(r.cosine) > 1)
fuzz("layer_of", merging.layer_of, {"name": st.sampled_from(("a.0.b", "c.d", "e"))}, {"name": any_float},
     lambda r, a: a["name"].startswith(r))
fuzz("report_from_json", merging.report_from_json, {"text": st.just(REPORT.json)},
     {"text": st.one_of(any_float, st.text(max_size=2), st.just("{}"), st.just("[]"))}, lambda r, a: r == REPORT)
for shown in ("report_sentences", "report_tables"):
    fuzz(shown, getattr(merging, shown), {"report": st.just(REPORT)}, {"report": any_float}, lambda r, a: len(r) > 0)
fuzz("score_merge", merging.score_merge,
     {"report": st.just(REPORT), "model": PAIR["first"], "images": ROWS, "labels": class_numbers(5, 2),
      "places": st.integers(2, 4)},
     {"report": any_float, "model": OTHERS, "images": any_vectors, "labels": any_labels, "places": small_int},
     lambda r, a: len(r.scores.line) == a["places"], also=NOT_TAKEN)
fuzz("some_inputs", merging.some_inputs, {"images": ROWS, "most": st.integers(1, 9)},
     {"images": any_tensor, "most": any_int}, lambda r, a: len(r) <= a["most"])
fuzz("merge", merging.merge,
     {"first": FILES, "second": FILES, "out": OUT, "method": st.sampled_from(("mean", "task_vectors")), "base": FILES,
      "weights": st.lists(st.floats(0.1, 2), min_size=2, max_size=2)},
     {"first": ANY_FILE, "second": ANY_FILE, "out": ANY_FILE, "method": st.text(max_size=2), "base": ANY_FILE,
      "weights": any_weights, "keep": st.lists(st.text(max_size=2), max_size=2), "fishers": st.lists(ANY_FILE),
      "model": OTHERS, "images": any_vectors, "labels": any_labels}, lambda r, a: len(r.tensors) == 4,
     also=(*NOT_TAKEN, *NOT_THERE))
