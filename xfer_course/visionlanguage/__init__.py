"""Vision and language: what a contrastive model knows, and how it is repaired."""
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
    "FrechetClassifier", "OneSidedLosses", "PairedMaps", "alignment", "feature_distances", "frechet_one_hot",
    "frechet_predict", "frechet_scores", "geodesic_mix", "grid_distances", "hard_negative_loss", "locus",
    "locus_distances", "m2_mix_loss", "modality_gap", "next_label", "project_simplex", "random_tree", "reachable",
    "seen_labels", "tree_distances", "tree_scores", "uni_mix_losses", "uniformity",
]
