"""Sparse fine-tuning against arrays from the authors' code: every case in the folder whose kind is of this paper."""
from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import parity_cases
from xfer_course.peft import LotteryTicketTuner, SparseDelta, from_released, to_released


def of(case, prefix: str) -> dict[str, torch.Tensor]:
    "Name of a parameter → array, of everything whose name begins so."
    return {name.removeprefix(prefix): torch.from_numpy(case[name]) for name in case.data.files
            if name.startswith(prefix)}


def network_of(parameters: dict[str, torch.Tensor]) -> nn.Module:
    "A module whose parameters have these names and values."
    model = nn.Module()
    for name, value in parameters.items():
        *path, last = name.split(".")
        inner = model
        for part in path:
            if part not in inner._modules:
                inner.add_module(part, nn.Module())
            inner = inner.get_submodule(part)
        inner.register_parameter(last, nn.Parameter(value.clone()))
    return model


def logits_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    layers = list(model.children())
    for layer in layers[:-1]:
        x = torch.tanh(F.linear(x, layer.weight, layer.bias))
    return F.linear(x, layers[-1].weight, layers[-1].bias)


def tuned(case, l1_gradient: str = "detached") -> tuple[LotteryTicketTuner, nn.Module, SparseDelta]:
    o = case.options
    model = network_of(of(case, "p0."))
    tuner = LotteryTicketTuner(
        model, o["maskable"], o["K"], l1=o["full_l1"], sparse_l1=o["sparse_l1"], l1_gradient=l1_gradient,
        iterations=o.get("iterations", o.get("n_ft_iterations", 1)),
        l1_over="maskable" if o.get("apply_reg_to_sparse_only", False) else "trained")
    x, y = torch.from_numpy(case["x"]), torch.from_numpy(case["y"])

    def step(batch, p):
        return F.cross_entropy(logits_of(model, batch[0]), batch[1]), {}

    def optimizer(parameters):
        return torch.optim.SGD(parameters, o["lr"], o.get("momentum", 0.0), weight_decay=o.get("weight_decay", 0.0))

    return tuner, model, tuner.fit(step, [(x, y)], optimizer, o["full_steps"], o["sparse_steps"])


@pytest.mark.parametrize("name", parity_cases("peft", "ltsft"))
def test_both_phases(parity, name):
    case = parity("peft", name)
    tuner, model, delta = tuned(case)
    final = dict(model.named_parameters())
    for each in of(case, "full."):
        case.assert_close(tuner.fully_tuned[each], f"full.{each}")
    assert set(tuner.mask) == set(of(case, "mask."))
    for each, mask in tuner.mask.items():
        case.assert_close(mask, f"mask.{each}")
    for each in of(case, "final."):
        case.assert_close(final[each].detach(), f"final.{each}")
    assert set(delta.differences) == set(of(case, "diff.")) and set(delta.whole) == set(of(case, "abs."))
    for each, change in delta.differences.items():
        case.assert_close(change.to_dense(), f"diff.{each}")
    for each, value in delta.whole.items():
        case.assert_close(value, f"abs.{each}")


@pytest.mark.parametrize("name", parity_cases("peft", "ltsft_l1"))
def test_the_released_pull_has_no_gradient(parity, name):
    "Where the start is not detached, the run is that without a pull; the arrays come from a start that is."
    case = parity("peft", name)
    _, released, _ = tuned(case, "released")
    _, pulled, _ = tuned(case)
    case.options.update(full_l1=0.0, sparse_l1=0.0)
    _, free, _ = tuned(case)
    assert all(torch.equal(mine, other) for mine, other in zip(released.parameters(), free.parameters()))
    assert any(not torch.equal(mine, far) for mine, far in zip(released.parameters(), pulled.parameters()))


@pytest.mark.parametrize("name", parity_cases("peft", "sft_compose"))
def test_composition(parity, name):
    case = parity("peft", name)
    model = network_of(of(case, "p."))
    language, task = (SparseDelta({each: change.to_sparse() for each, change in of(case, f"{which}.").items()},
                                  of(case, f"{which}_abs.")) for which in ("language", "task"))
    together = network_of(of(case, "p."))
    (SparseDelta(language.differences) + task).apply(together)
    language.apply(model, whole=False)
    task.apply(model)
    for each, value in model.named_parameters():
        case.assert_close(value.detach(), f"composed.{each}")
        case.assert_close(together.get_parameter(each).detach(), f"composed.{each}")
    task.revert(model)
    for each, value in model.named_parameters():
        case.assert_close(value.detach(), f"reverted.{each}")


@pytest.mark.parametrize("name", parity_cases("peft", "sft_compose"))
def test_the_form_of_the_authors_files(parity, name):
    case = parity("peft", name)
    task = SparseDelta({each: change.to_sparse() for each, change in of(case, "task.").items()}, of(case, "task_abs."))
    said = to_released(task, torch.float64)
    weight = said["diffs"]["body.weight"]
    case.assert_close(weight["index_steps"], "code_steps")
    case.assert_close(weight["values"], "code_values")
    again = from_released(said)
    for each, change in task.differences.items():
        assert torch.equal(again.differences[each].to_dense(), change.to_dense())
