"""Networks as points in the space of their weights: on lines between them, averaged, merged, and grown."""
from .expansion import (
    LinearExpansion, PatchTransformer, descendant, distillation_loss, expand_linear, linearity,
)
from .fisher import MergeGrid, fisher_diagonal, fisher_merge, fisher_norm, grid_weights, merge_grid
from .scaling import Negation, TaskVectorComposer, learn_scaling, negate, trusted_images, ufm_loss
from .states import (
    State, add_vectors, barrier, interpolate, loss_along, merge_shares, merge_states, reset_statistics, task_vector,
    weighted_mean,
)
from .tasks import SHIFTS, DigitNetwork, shifted_digits, train_network

__all__ = [
    "SHIFTS", "DigitNetwork", "LinearExpansion", "MergeGrid", "Negation", "PatchTransformer", "State",
    "TaskVectorComposer", "add_vectors", "barrier", "descendant", "distillation_loss", "expand_linear",
    "fisher_diagonal", "fisher_merge", "fisher_norm", "grid_weights", "interpolate", "learn_scaling", "linearity",
    "loss_along", "merge_grid", "merge_shares", "merge_states", "negate", "reset_statistics", "shifted_digits",
    "task_vector", "train_network", "trusted_images", "ufm_loss", "weighted_mean",
]
