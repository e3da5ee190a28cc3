"""Networks as points in the space of their weights: on lines between them, averaged, merged, and grown."""
from .fisher import MergeGrid, fisher_diagonal, fisher_merge, fisher_norm, grid_weights, merge_grid
from .permutations import Blocks, Matching, match_permutation, permuted, unit_blocks
from .pleas import fit_layers, least_squares_merge, partial_merge
from .states import (
    State, add_vectors, barrier, interpolate, loss_along, merge_shares, merge_states, reset_statistics, task_vector,
    weighted_mean,
)
from .tasks import SHIFTS, DigitNetwork, shifted_digits, train_network
from .units import UnitGroup, checked_groups, reordered, unit_activations, unit_groups, unit_rows

__all__ = [
    "Blocks", "DigitNetwork", "Matching", "MergeGrid", "SHIFTS", "State", "UnitGroup", "add_vectors", "barrier",
    "checked_groups", "fisher_diagonal", "fisher_merge", "fisher_norm", "fit_layers", "grid_weights", "interpolate",
    "least_squares_merge", "loss_along", "match_permutation", "merge_grid", "merge_shares", "merge_states",
    "partial_merge", "permuted", "reordered", "reset_statistics", "shifted_digits", "task_vector", "train_network",
    "unit_activations", "unit_blocks", "unit_groups", "unit_rows", "weighted_mean",
]
