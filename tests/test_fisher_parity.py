"""Fisher merging against arrays from the authors' code: every case in the folder of these kinds."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import parity_cases
from xfer_course.merging import fisher_diagonal, fisher_merge, fisher_norm, grid_weights


def of(case, start: str) -> dict[str, torch.Tensor]:
    "Arrays of a case called `start.NAME`, by that name."
    return {name.removeprefix(f"{start}."): torch.from_numpy(case[name]) for name in case.data.files
            if name.startswith(f"{start}.")}


@pytest.mark.parametrize("name", parity_cases("merging", "fisher_merge", "isotropic_merge"))
def test_merged_parameters(name, parity):
    case = parity("merging", name)
    options, coefficients = case.options, case["coefficients"]
    states = [of(case, f"model{i}") for i in range(len(coefficients))]
    fishers = [of(case, f"fisher{i}") for i in range(len(coefficients))] if options.get("fisher", True) else None
    merged = fisher_merge(states, fishers, coefficients, floor=options.get("floor", 1e-6),
                          favour_first=options.get("favor_target_model", True),
                          normalise=options.get("normalize_fishers", True))
    for part, value in merged.items():
        case.assert_close(value, f"merged.{part}")
    if "fisher_norms" in case.data.files:
        case.assert_close([fisher_norm(fisher) for fisher in fishers], "fisher_norms")


@pytest.mark.parametrize("name", parity_cases("merging", "fisher_grid"))
def test_grid_of_weights(name, parity):
    case = parity("merging", name)
    case.assert_close(grid_weights(2, case.options["n"]), "grid")


class Network(nn.Module):
    "Linear layers W1, b1, W2, ... with a function between them."

    def __init__(self, arrays: dict[str, torch.Tensor], between: str) -> None:
        super().__init__()
        for name, value in arrays.items():
            self.register_parameter(name, nn.Parameter(value))
        self.layers = sorted({int(name[1:]) for name in arrays})
        self.between = getattr(torch, between)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in self.layers:
            x = F.linear(x, getattr(self, f"W{i}"), getattr(self, f"b{i}", None))
            x = self.between(x) if i != self.layers[-1] else x
        return x


@pytest.mark.parametrize("name", parity_cases("merging", "fisher_diagonal"))
def test_fisher_diagonals(name, parity):
    case = parity("merging", name)
    arrays = {key: torch.from_numpy(case[key]) for key in case.data.files if key[0] in "Wb" and key[1:].isdigit()}
    network = Network(arrays, case.options.get("activation", "tanh"))
    x, y = torch.from_numpy(case["X"]), torch.from_numpy(case["y"])
    F.cross_entropy(network(x), y).backward()
    batch_square = {key: value.grad.square() for key, value in network.named_parameters()}
    found = {"fisher": fisher_diagonal(network, x, batch_size=4), "empirical": fisher_diagonal(network, x, y),
             "batch_square": batch_square}
    for start, part, value in ((start, part, value) for start, parts in found.items() for part, value in parts.items()):
        if f"{start}.{part}" in case.data.files:
            case.assert_close(value, f"{start}.{part}")


@pytest.mark.parametrize("name", parity_cases("merging", "fisher_diagonal"))
def test_the_mean_gradient_squared_is_far_from_both(name, parity):
    case = parity("merging", name)
    parts = [part for part in case.data.files if part.startswith("fisher.")]
    ratios = [np.abs(case[part]).sum() / np.abs(case[part.replace("fisher", "batch_square")]).sum() for part in parts]
    assert max(ratios) > 2
