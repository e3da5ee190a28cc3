"""Networks as points in the space of their weights: on lines between them, averaged, merged, and grown."""
from .diversity import (
    Agreement, agreement, averaged_weights, balanced_step, colour_network, feature_votes, fine_tune, mixup,
    multicolour_digits, output_weights, right_votes, signal_to_noise, smooth_labels, vote_scores,
)
from .expansion import LinearExpansion, PatchTransformer, descendant, distillation_loss, expand_linear, linearity
from .files import MERGE_METHODS, merge, some_inputs
from .fisher import MergeGrid, fisher_diagonal, fisher_merge, fisher_norm, grid_weights, merge_grid
from .merge_report import (
    Closeness, MergedTensor, MergeReport, MergeScores, closeness, layer_of, report_from_json, report_sentences,
    report_tables, score_merge,
)
from .permutations import Blocks, Matching, alike_states, match_permutation, permuted, unit_blocks
from .pleas import fit_layers, least_squares_merge, partial_merge
from .scaling import (
    LinearComposer, LinearisedModel, Negation, TaskVectorComposer, learn_scaling, live_parameters, negate,
    trusted_images, ufm_loss,
)
from .states import (
    State, add_vectors, barrier, interpolate, loss_along, merge_shares, merge_states, reset_statistics, task_vector,
    weighted_mean,
)
from .tasks import SHIFTS, DigitNetwork, shifted_digits, train_network
from .units import UnitGroup, checked_groups, reordered, unit_activations, unit_groups, unit_rows
from .weight_files import Weights, network_with, open_weights, safetensors_path, weights_of, write_weights

__all__ = [
    "Agreement", "Blocks", "Closeness", "DigitNetwork", "LinearComposer", "LinearExpansion", "LinearisedModel",
    "MERGE_METHODS", "Matching", "MergeGrid", "MergeReport", "MergeScores", "MergedTensor", "Negation",
    "PatchTransformer", "SHIFTS", "State", "TaskVectorComposer", "UnitGroup", "Weights", "add_vectors", "agreement",
    "alike_states", "averaged_weights", "balanced_step", "barrier", "checked_groups", "closeness", "colour_network",
    "descendant", "distillation_loss", "expand_linear", "feature_votes", "fine_tune", "fisher_diagonal",
    "fisher_merge", "fisher_norm", "fit_layers", "grid_weights", "interpolate", "layer_of", "learn_scaling",
    "least_squares_merge", "linearity", "live_parameters", "loss_along", "match_permutation", "merge", "merge_grid",
    "merge_shares", "merge_states", "mixup", "multicolour_digits", "negate", "network_with", "open_weights",
    "output_weights", "partial_merge", "permuted", "reordered", "report_from_json", "report_sentences",
    "report_tables", "reset_statistics", "right_votes", "safetensors_path", "score_merge", "shifted_digits",
    "signal_to_noise", "smooth_labels", "some_inputs", "task_vector", "train_network", "trusted_images", "ufm_loss",
    "unit_activations", "unit_blocks", "unit_groups", "unit_rows", "vote_scores", "weighted_mean", "weights_of",
    "write_weights",
]
