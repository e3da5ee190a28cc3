"""What a step with LoRA costs, beside a plain hand-written layer, full tuning and PEFT; on one thread."""
from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measuring import Measurement, kinds_of, libraries, seconds_in_turns
from xfer_course.peft import LoRA, inject, merge_, trainable_parameters

THREADS = 1
WIDTH, LAYERS, ROWS, RANK = 256, 6, 512, 8


class PlainLoRA(nn.Module):
    "The layer as one writes it in a tutorial."

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.a = nn.Parameter(torch.empty(RANK, layer.in_features))
        self.b = nn.Parameter(torch.zeros(layer.out_features, RANK))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + 2 * (x @ self.a.T) @ self.b.T


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(part for _ in range(LAYERS) for part in (nn.Linear(WIDTH, WIDTH), nn.GELU())))


def step_of(model: nn.Module) -> Callable[[], float]:
    "A step of Adam on a batch of random rows; its loss."
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))

    def step() -> float:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def injected() -> nn.Module:
    model = network()
    inject(model, LoRA(RANK, 2 * RANK))
    return model


def plain() -> nn.Module:
    model = network()
    return nn.Sequential(*(PlainLoRA(part) if isinstance(part, nn.Linear) else part for part in model))


def of_peft() -> Callable[[], float]:
    from peft import LoraConfig, get_peft_model

    names = [name for name, part in network().named_modules() if isinstance(part, nn.Linear)]
    return step_of(get_peft_model(network(), LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=names)))


def lora_step(rounds: int = 9) -> Measurement:
    "One step of training with LoRA at every layer; all ways begin with the same loss."
    library, skipped = libraries({"peft": "peft"}, {"peft": of_peft})
    ways = {"inject": step_of(injected()), "a plain layer": step_of(plain()), "full tuning": step_of(network()),
            **library}
    losses = [step() for step in ways.values()]
    assert max(losses) - min(losses) < 1e-5, "the ways do not begin alike"
    seconds = seconds_in_turns(ways, rounds, runs=10, clock=time.process_time)
    return Measurement("peft", f"step with LoRA of rank {RANK} at {LAYERS} layers of width {WIDTH}, {ROWS} rows", "s",
                       seconds, kinds_of(seconds, "inject", library), skipped=skipped)


def merged_forward(rounds: int = 9) -> Measurement:
    "A forward pass after merging against the network that never had an update."
    model = injected()
    for parameter in trainable_parameters(model).values():
        nn.init.normal_(parameter, std=0.02)
    apart, x = copy.deepcopy(model), torch.randn(ROWS, WIDTH)
    merge_(model)
    with torch.inference_mode():
        assert torch.allclose(model(x), apart(x), atol=1e-4)

    def forward(of: nn.Module) -> Callable[[], Tensor]:
        return torch.inference_mode()(lambda: of(x))

    ways = {"merged": forward(model), "an untouched network": forward(network()), "not merged": forward(apart)}
    seconds = seconds_in_turns(ways, rounds, runs=20, clock=time.process_time)
    return Measurement("peft", f"forward pass of {LAYERS} layers of width {WIDTH} after LoRA, {ROWS} rows", "s",
                       seconds, kinds_of(seconds, "merged", {}))


MEASUREMENTS = (lora_step, merged_forward)
