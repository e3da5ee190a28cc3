"""Networks as points in the space of their weights: on lines between them, averaged, merged, and grown."""
from .permutations import Blocks, Matching, match_permutation, permuted, unit_blocks
from .pleas import fit_layers, least_squares_merge, partial_merge
from .states import (
    State, add_vectors, barrier, interpolate, loss_along, merge_states, reset_statistics, task_vector, weighted_mean,
)
from .tasks import SHIFTS, DigitNetwork, shifted_digits, train_network
from .units import UnitGroup, checked_groups, reordered, unit_activations, unit_groups, unit_rows

__all__ = [
    "Blocks", "DigitNetwork", "Matching", "SHIFTS", "State", "UnitGroup", "add_vectors", "barrier", "checked_groups",
    "fit_layers", "interpolate", "least_squares_merge", "loss_along", "match_permutation", "merge_states",
    "partial_merge", "permuted", "reordered", "reset_statistics", "shifted_digits", "task_vector", "train_network", "unit_activations", "unit_blocks", "unit_groups", "unit_rows",
    "weighted_mean",
]
