"""Vision and language: what a contrastive model knows, and how it is repaired."""
from .apt import (
    ApproximatedAttention, ApproximatePrompt, DeepPromptAttention, SplitAttention, attach_prompts, detach_prompts,
    prompt_attention, prompt_cost,
)
from .label_trees import locus, locus_distances, next_label, random_tree, seen_labels, tree_distances, tree_scores
from .loki import (
    FrechetClassifier, feature_distances, frechet_one_hot, frechet_predict, frechet_scores, grid_distances,
    project_simplex, reachable,
)
from .m2mix import (
    OneSidedLosses, PairedMaps, alignment, geodesic_mix, hard_negative_loss, m2_mix_loss, modality_gap, uni_mix_losses,
    uniformity,
)

__all__ = [
    "ApproximatePrompt", "ApproximatedAttention", "DeepPromptAttention", "FrechetClassifier", "OneSidedLosses",
    "PairedMaps", "SplitAttention", "alignment", "attach_prompts", "detach_prompts", "feature_distances",
    "frechet_one_hot", "frechet_predict", "frechet_scores", "geodesic_mix", "grid_distances", "hard_negative_loss",
    "locus", "locus_distances", "m2_mix_loss", "modality_gap", "next_label", "project_simplex", "prompt_attention",
    "prompt_cost", "random_tree", "reachable", "seen_labels", "tree_distances", "tree_scores", "uni_mix_losses",
    "uniformity",
]
