"""What matching two networks of ResNet-18's size and fitting their layers costs, beside the procedure as its authors
released it; on one thread."""
from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.measuring import Measurement, allocated_bytes, kinds_of
from xfer_course.evaluation import predict
from xfer_course.merging import (
    Matching,
    fit_layers,
    match_permutation,
    partial_merge,
    reset_statistics,
    unit_blocks,
)

THREADS = 1
WEIGHTS, ACTIVATIONS, RELEASED = "weights", "activations", "released"  # the last: as in the authors' code


class Setting(NamedTuple):
    "Two networks and the inputs that both procedures see."

    first: nn.Module
    second: nn.Module
    images: Tensor
    held_out: Tensor
    batch_size: int
    steps: int


def resnet18() -> nn.Module:
    from torchvision.models import resnet18

    return resnet18(weights=None, num_classes=100)


@cache
def setting(build: Callable[[], nn.Module] = resnet18, shape: tuple[int, ...] = (3, 64, 64), rows: int = 128,
            batch_size: int = 32, steps: int = 401) -> Setting:
    """Networks from two random starts, whose batch norms have seen the images: seconds and bytes do not depend on what
    they have learned."""
    torch.manual_seed(0)
    images = torch.randn(2 * rows, *shape)
    first, second = (reset_statistics(build().eval(), images[:rows]) for _ in range(2))
    return Setting(first, second, images[:rows], images[rows:], batch_size, steps)


def matched(given: Setting, way: str) -> Matching:
    by = ACTIVATIONS if way == RELEASED else way
    return match_permutation(given.first, given.second, given.images, by, batch_size=given.batch_size,
                             released=way == RELEASED)


def fitted(given: Setting, way: str, matching: Matching, steps: int | None = None) -> nn.Module:
    "At width 1; both ways fit the same layers to the same wanted outputs, from the same start."
    blocks = unit_blocks(matching)
    merged = partial_merge(given.first, given.second, matching.groups, blocks)
    released = {"solver": "adam", "steps": steps or given.steps, "released": True} if way == RELEASED else {}
    return fit_layers(merged, given.first, given.second, matching.groups, blocks, given.images,
                      batch_size=given.batch_size, **released)


def seconds_of(action: Callable[[], object]) -> list[float]:
    "Of one run: minutes need no warming up."
    started = time.perf_counter()
    action()
    return [time.perf_counter() - started]


def distance_to_mean(given: Setting, network: nn.Module) -> float:
    "Mean squared distance of the logits from the mean of the parents', on other inputs, as a share of its variance."
    reset_statistics(network, given.images)
    wanted = sum(predict(each, given.held_out, given.batch_size) for each in (given.first, given.second)) / 2
    found = predict(network, given.held_out, given.batch_size)
    return float((found - wanted).square().mean() / wanted.var())


def described(given: Setting) -> str:
    count = sum(p.numel() for p in given.first.parameters())
    return (f"two networks of {count / 1e6:.1f} million weights, {len(given.images)} inputs of "
            f"{'×'.join(map(str, given.images.shape[1:]))}")


def matching_units(given: Setting | None = None) -> list[Measurement]:
    "Seconds and peak bytes of finding partners."
    given = given or setting()
    names = {WEIGHTS: "by weights", ACTIVATIONS: "by activations of all batches",
             RELEASED: "by activations, the last batch alone (released)"}
    values = {"s": {names[way]: seconds_of(lambda way=way: matched(given, way)) for way in names},
              "bytes": {names[way]: [float(allocated_bytes(lambda way=way: matched(given, way)))] for way in names}}
    what = {"s": "partners for all units", "bytes": "peak of PyTorch's tensors while partners are found"}
    return [Measurement("merging", f"{what[unit]}, {described(given)}", unit, found,
                        kinds_of(found, "by weights", {})) for unit, found in values.items()]


def fitting_layers(given: Setting | None = None) -> list[Measurement]:
    """Seconds and peak bytes of the least squares step, from the same matching. The bytes of Adam are those of its
    first two steps, as every step needs the same."""
    given = given or setting()
    matching, networks = matched(given, WEIGHTS), {}
    names = {WEIGHTS: "closed form", RELEASED: f"{given.steps} steps of Adam (released)"}

    def fit(way: str) -> None:
        networks[way] = fitted(given, way, matching)

    seconds = {names[way]: seconds_of(lambda way=way: fit(way)) for way in names}
    held = {names[way]: [float(allocated_bytes(lambda way=way: fitted(given, way, matching, 2)))] for way in names}
    blocks = unit_blocks(matching)
    start = partial_merge(given.first, given.second, matching.groups, blocks)
    quality = {f"logits' squared distance from the parents' mean, {name}": f"{distance_to_mean(given, network):.3f}"
               for name, network in {"before": start, **{names[way]: networks[way] for way in names}}.items()}
    kinds, of = kinds_of(seconds, "closed form", {}), described(given)
    return [Measurement("merging", f"every layer fitted at width 1, {of}", "s", seconds, kinds, notes=quality),
            Measurement("merging", f"peak of PyTorch's tensors while layers are fitted, {of}", "bytes", held, kinds)]


MEASUREMENTS = (matching_units, fitting_layers)
