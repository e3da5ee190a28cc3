"""What it costs to measure while `fit` trains, beside a run that is not measured; on one thread."""
from __future__ import annotations

import time

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.measuring import Measurement, kinds_of, seconds_in_turns
from xfer_course.data import batches
from xfer_course.evaluation import accuracy
from xfer_course.training import Validation, choose_accelerator, fit, seed_everything

THREADS = 1
EPOCHS, EXAMPLES = 10, 1792


def measured_training(rounds: int = 25) -> Measurement:
    """A run of ten epochs on 64 features, whose accuracy on 500 other examples is taken after every epoch."""
    seed_everything(0)
    images, labels = torch.randn(EXAMPLES + 500, 64), torch.randint(10, (EXAMPLES + 500,))
    loader = batches(images[:EXAMPLES], labels[:EXAMPLES], batch_size=128)
    held_out, truth = images[EXAMPLES:], labels[EXAMPLES:]

    def train(validated: bool, afterwards: int = 0) -> list[float]:
        seed_everything(0)
        net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

        def step(batch, p):
            return F.cross_entropy(net(batch[0]), batch[1]), {}

        def measure() -> float:
            return accuracy(net, held_out, truth)

        history = fit(step, loader, torch.optim.Adam(net.parameters(), lr=0.01), epochs=EPOCHS, progress=False,
                      validate=Validation(measure, patience=EPOCHS) if validated else None,
                      accelerator=choose_accelerator("cpu"))
        for _ in range(afterwards):
            measure()
        return history.loss

    if train(True) != train(False):
        raise AssertionError("measuring has changed the training")
    ways = {
        "fit, measured after every epoch": lambda: train(True),
        "fit, then as many measurements": lambda: train(False, afterwards=EPOCHS),
        "fit, not measured": lambda: train(False),
    }
    seconds = seconds_in_turns(ways, rounds, clock=time.process_time)
    return Measurement("training", f"{EPOCHS} epochs of 14 steps, 128 examples each, a network of 19,000 weights", "s",
                       seconds, kinds_of(seconds, "fit, measured after every epoch", {}))


MEASUREMENTS = (measured_training,)
