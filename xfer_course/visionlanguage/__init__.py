"""Vision and language: what a contrastive model knows, and how it is repaired."""
from .label_trees import locus, locus_distances, next_label, random_tree, seen_labels, tree_distances, tree_scores
from .loki import (
    FrechetClassifier, feature_distances, frechet_one_hot, frechet_predict, frechet_scores, grid_distances,
    project_simplex, reachable,
)

__all__ = [
    "FrechetClassifier", "feature_distances", "frechet_one_hot", "frechet_predict", "frechet_scores", "grid_distances",
    "locus", "locus_distances", "next_label", "project_simplex", "random_tree", "reachable", "seen_labels",
    "tree_distances", "tree_scores",
]
