"""Training: one loop for every chapter, which can be watched, stopped, resumed and moved to other hardware."""
from .checkpoint import Checkpoint
from .devices import (
    WeightUpdates,
    average_gradients,
    broadcast_tensors,
    check_optimizer,
    choose_accelerator,
    cross_entropy,
    in_single_precision,
    part_of_batch,
    peak_memory,
    step_optimizer,
    unit_vectors,
)
from .fingerprints import code_fingerprint, is_own, value_fingerprint
from .history import History, Log
from .loop import cosine, epoch_seed, fit, modules_of, recorded_losses, seed_epoch, seed_everything
from .rates import rate_groups, rate_shares, scheduled_rate, set_learning_rate
from .recipe import train
from .same_run import data_fingerprint, step_settings
from .validation import Validation, Watch, as_validation, measuring

__all__ = [
    "Checkpoint",
    "History",
    "Log",
    "Validation",
    "Watch",
    "WeightUpdates",
    "as_validation",
    "average_gradients",
    "broadcast_tensors",
    "check_optimizer",
    "choose_accelerator",
    "code_fingerprint",
    "cosine",
    "cross_entropy",
    "data_fingerprint",
    "epoch_seed",
    "fit",
    "in_single_precision",
    "is_own",
    "measuring",
    "modules_of",
    "part_of_batch",
    "peak_memory",
    "rate_groups",
    "rate_shares",
    "recorded_losses",
    "scheduled_rate",
    "seed_epoch",
    "seed_everything",
    "set_learning_rate",
    "step_optimizer",
    "train",
    "unit_vectors",
    "value_fingerprint",
    "step_settings",
]
