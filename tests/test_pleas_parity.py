"""Matching, partial merge and least squares against arrays from the authors' code of PLeaS: every case there is."""
from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from conftest import parity_cases
from xfer_course.merging import fit_layers, match_permutation, partial_merge, permuted, unit_blocks, unit_groups

CASES = parity_cases("merging", "pleas")


def network(case, sizes: list[int], start: str = "a") -> nn.Sequential:
    "A chain of the case's layers, as many as `sizes` says, with the weights of one parent."
    conv, layers = case.options["kind"] == "conv", OrderedDict()
    inner = len(sizes) - (2 if conv else 1)
    for number in range(1, inner + 1):
        shape = sizes[number - 1], sizes[number]
        if conv:
            weight = case[f"{start}.conv{number}.weight"]
            layers[f"conv{number}"] = nn.Conv2d(*shape, weight.shape[-1], padding=weight.shape[-1] // 2,
                                                bias=f"{start}.conv{number}.bias" in case.data.files)
            layers[f"bn{number}"] = nn.BatchNorm2d(shape[1])
        else:
            layers[f"fc{number}"] = nn.Linear(*shape)
        if conv or number < inner:
            layers[f"relu{number}"] = nn.ReLU()
    if conv:
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(*sizes[-2:])}
    model = nn.Sequential(layers)
    own = {name.removeprefix(f"{start}."): torch.from_numpy(case[name]) for name in case.data.files
           if name.startswith(f"{start}.")}
    assert set(own) == {name for name in model.state_dict() if "num_batches" not in name}
    model.load_state_dict(own, strict=False)
    return model.eval()


def parts(case):
    first, second = (network(case, case.options["sizes"], start) for start in "ab")
    x = torch.from_numpy(case["x"])
    by = {"weight": "weights", "activation": "activations"}[case.options["matching"]]
    matching = match_permutation(first, second, x, by, seed=case.options.get("seed", 0), released=True)
    return first, second, x, matching


def merged_parts(case):
    first, second, x, matching = parts(case)
    ratio = case.options["ratio"]
    width = {name: 1 + share for name, share in ratio.items()} if isinstance(ratio, dict) else 1 + ratio
    blocks = unit_blocks(matching, width, released=True)
    merged = partial_merge(first, second, matching.groups, blocks, released=True)
    return first, second, x, matching, blocks, merged


def assert_state(case, model: nn.Module, start: str) -> None:
    compared = [name for name in case.data.files if name.startswith(f"{start}.")]
    state = model.state_dict()
    for name in compared:
        case.assert_close(state[name.removeprefix(f"{start}.")].numpy(), name)


@pytest.mark.parametrize("name", CASES)
def test_groups(parity, name):
    case = parity("merging", name)
    first = network(case, case.options["sizes"])
    groups = unit_groups(first, torch.from_numpy(case["x"]))
    assert {group.name: sorted(f"{tensor} axis {axis}" for tensor, axis, run in group.axes if run == 1)
            for group in groups} == {key: sorted(value) for key, value in case.options["groups"].items()}
    assert [group.name for group in groups] == list(case.options["groups"])


@pytest.mark.parametrize("name", CASES)
def test_partners(parity, name):
    "The released matrix of weights belongs to a second network that is permuted already."
    case = parity("merging", name)
    first, second, x, matching = parts(case)
    for key, order in matching.order.items():
        case.assert_close(order.numpy(), f"perm.{key}")
        similarity = matching.similarity[key]
        case.assert_close((similarity[:, order] if matching.by == "weights" else similarity).numpy(), f"cost.{key}")
    torch.testing.assert_close(permuted(second, matching)(x), second(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_partial_merge(parity, name):
    case = parity("merging", name)
    _, _, x, _, blocks, merged = merged_parts(case)
    for key, found in blocks.items():
        for part, which in zip(found, ("merged_a", "merged_b", "separate_a", "separate_b"), strict=True):
            case.assert_close(part.numpy(), f"{which}.{key}")
    assert_state(case, merged, "merged")
    case.assert_close(merged(x).detach().numpy(), "merged_output")


@pytest.mark.parametrize("solver", ["closed", "adam"])
@pytest.mark.parametrize("name", CASES)
def test_least_squares(parity, name, solver):
    case = parity("merging", name)
    start = {"closed": "lsq", "adam": "trained"}[solver]
    if not any(each.startswith(f"{start}.") for each in case.data.files):
        pytest.skip(f"the case has no arrays of {start}")
    first, second, x, matching, blocks, merged = merged_parts(case)
    options = {"ridge": 0} if solver == "closed" else {
        "steps": case.options["steps"], "rate": case.options["lr"], "released": True}
    assert_state(case, fit_layers(merged, first, second, matching.groups, blocks, x, solver=solver,
                                  batch_size=len(x), **options), start)
