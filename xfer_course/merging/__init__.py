"""Networks as points in the space of their weights: on lines between them, averaged, merged, and grown."""
from .diversity import (
    Agreement, agreement, averaged_weights, balanced_step, colour_network, feature_votes, fine_tune, mixup,
    multicolour_digits, output_weights, right_votes, signal_to_noise, smooth_labels, vote_scores,
)
from .fisher import MergeGrid, fisher_diagonal, fisher_merge, fisher_norm, grid_weights, merge_grid
from .states import (
    State, add_vectors, barrier, interpolate, loss_along, merge_shares, merge_states, reset_statistics, task_vector,
    weighted_mean,
)
from .tasks import SHIFTS, DigitNetwork, shifted_digits, train_network

__all__ = [
    "Agreement", "DigitNetwork", "MergeGrid", "SHIFTS", "State", "add_vectors", "agreement", "averaged_weights",
    "balanced_step", "barrier", "colour_network", "feature_votes", "fine_tune", "fisher_diagonal", "fisher_merge",
    "fisher_norm", "grid_weights", "interpolate", "loss_along", "merge_grid", "merge_shares", "merge_states",
    "mixup", "multicolour_digits", "output_weights", "reset_statistics", "right_votes", "shifted_digits",
    "signal_to_noise", "smooth_labels", "task_vector", "train_network", "vote_scores", "weighted_mean",
]
