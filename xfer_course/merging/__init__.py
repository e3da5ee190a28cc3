"""Networks as points in the space of their weights: on lines between them, averaged, merged, and grown."""
from .states import (
    State, add_vectors, barrier, interpolate, loss_along, merge_states, reset_statistics, task_vector, weighted_mean,
)
from .tasks import SHIFTS, DigitNetwork, shifted_digits, train_network

__all__ = [
    "SHIFTS", "DigitNetwork", "State", "add_vectors", "barrier", "interpolate", "loss_along", "merge_states",
    "reset_statistics", "shifted_digits", "task_vector", "train_network", "weighted_mean",
]
