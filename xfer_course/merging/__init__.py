"""Networks as points in the space of their weights: on lines between them, averaged, merged, and grown."""
from .fisher import MergeGrid, fisher_diagonal, fisher_merge, fisher_norm, grid_weights, merge_grid
from .states import (
    State, add_vectors, barrier, interpolate, loss_along, merge_shares, merge_states, reset_statistics, task_vector,
    weighted_mean,
)
from .tasks import SHIFTS, DigitNetwork, shifted_digits, train_network

__all__ = [
    "SHIFTS", "DigitNetwork", "MergeGrid", "State", "add_vectors", "barrier", "fisher_diagonal", "fisher_merge",
    "fisher_norm", "grid_weights", "interpolate", "loss_along", "merge_grid", "merge_shares", "merge_states",
    "reset_statistics", "shifted_digits", "task_vector", "train_network", "weighted_mean",
]
