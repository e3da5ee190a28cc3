"""Training: one loop for every chapter, which can be watched, stopped, resumed and moved to other hardware."""
from .checkpoint import Checkpoint
from .devices import (
    average_gradients,
    broadcast_tensors,
    choose_accelerator,
    part_of_batch,
    peak_memory,
    step_optimizer,
)
from .history import History, Log
from .loop import (
    cosine,
    epoch_seed,
    fit,
    modules_of,
    recorded_losses,
    scheduled_rate,
    seed_epoch,
    seed_everything,
    set_learning_rate,
)
from .same_run import data_fingerprint, step_settings

__all__ = [
    "Checkpoint",
    "History",
    "Log",
    "average_gradients",
    "broadcast_tensors",
    "choose_accelerator",
    "cosine",
    "data_fingerprint",
    "epoch_seed",
    "fit",
    "modules_of",
    "part_of_batch",
    "peak_memory",
    "recorded_losses",
    "scheduled_rate",
    "seed_epoch",
    "seed_everything",
    "set_learning_rate",
    "step_optimizer",
    "step_settings",
]
