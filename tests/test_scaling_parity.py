"""Learned scaling against arrays from the authors' code: every case in the folder of the kinds `atlas_*`.

Networks are rebuilt from the names of their weights: linear layers, a layer norm and tanh, in that order. Masks of
parts, where a case has them, are one-hot `(K, ...)` or numbers, for a block or for its shape.
"""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import parity_cases
from xfer_course.merging import TaskVectorComposer, ufm_loss


def of(case, name: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(case[name]))


class Network(nn.Module):
    "Linear, layer norm, tanh, linear, of the sizes in a case."

    def __init__(self, state: dict[str, torch.Tensor], eps: float) -> None:
        super().__init__()
        self.a = self._linear(state, "a")
        self.n = nn.LayerNorm(len(state["n.weight"]), eps)
        self.b = self._linear(state, "b")
        self.to(state["a.weight"].dtype).load_state_dict(state)

    @staticmethod
    def _linear(state: dict[str, torch.Tensor], name: str) -> nn.Linear:
        return nn.Linear(*reversed(state[f"{name}.weight"].shape), bias=f"{name}.bias" in state)

    def forward(self, x):
        return self.b(torch.tanh(self.n(self.a(x))))


def state_of(case, start: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(start): of(case, name) for name in case.data.files if name.startswith(start)}


def parts_of(case, blocks: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    "The part of each entry, from masks named after a block or of a block's shape."
    masks = {name: of(case, name) for name in case.data.files if name.startswith(("mask", "part"))}
    found = {}
    for block, like in blocks.items():
        fitting = {name: each for name, each in masks.items()
                   if each.shape == like.shape or each.shape == (count, *like.shape)}
        own = [each for name, each in fitting.items() if name.endswith(block)] or list(fitting.values())
        if own:
            found[block] = (own[0] if own[0].shape == like.shape else own[0].argmax(0)).long()
    return found


def composer_of(case) -> TaskVectorComposer:
    o, base = case.options, state_of(case, "base.")
    tasks = len({name.split(".")[0] for name in case.data.files if name.startswith("task")})
    vectors = [state_of(case, f"task{task}.") for task in range(tasks)]
    network = Network(base, o.get("layer_norm_eps", 1e-5))
    if not o.get("partition"):
        return TaskVectorComposer(network, vectors, "block" if o.get("blockwise", True) else "vector")
    return TaskVectorComposer(network, vectors, o["partition"], parts=parts_of(case, base, o["partition"]),
                              seed=o.get("seed", 0), released=True)


@pytest.mark.parametrize("name", parity_cases("merging", "atlas", but=("atlas_ufm",)))
def test_coefficients_take_the_authors_steps(parity, name):
    case = parity("merging", name)
    o, composer = case.options, composer_of(case)
    x, y = of(case, "x"), of(case, "y")
    optimizer = torch.optim.AdamW([composer.coefficients], o["lr"], betas=tuple(o.get("betas", (0.9, 0.999))),
                                  eps=o.get("eps", 1e-8), weight_decay=o["weight_decay"])
    assert o.get("blocks", composer.blocks) == composer.blocks
    path = []
    for step in range(o["steps"]):
        optimizer.zero_grad()
        loss = F.cross_entropy(composer(x), y)
        loss.backward()
        if step == 0:
            case.assert_close(loss.detach(), "loss0")
            case.assert_close(composer.coefficients.grad, "grad0")
        optimizer.step()
        path.append(composer.coefficients.detach().clone())
    case.assert_close(torch.stack(path), "coefficients")
    case.assert_close(composer(x).detach(), "logits")


@pytest.mark.parametrize("name", parity_cases("merging", "atlas_ufm"))
def test_loss_without_labels(parity, name):
    case = parity("merging", name)
    strong = of(case, "logits_strong").requires_grad_()
    labels = of(case, "targets_one_hot").argmax(1) if "targets_one_hot" in case.data.files else None
    trusted = of(case, "trusted").bool() if labels is not None else None
    loss = ufm_loss(of(case, "logits_weak"), strong, labels, trusted, threshold=case.options["threshold"],
                    released=True)
    if np.isnan(case["loss"]):
        assert loss.isnan()
        return
    loss.backward()
    case.assert_close(loss.detach(), "loss")
    case.assert_close(strong.grad, "grad_strong")
