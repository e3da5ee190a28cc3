"""Embeddings that survive a model upgrade: the criterion and its baseline, three ways to train for it,
and a gallery that knows its model."""
from __future__ import annotations

from .bt2 import Bases, BasisTransformation, basis_loss
from .gallery import (Gallery, UpgradeCheck, UpgradeCost, VersionedEmbeddings, check_upgrade, load_gallery,
                      multiply_adds, save_gallery, upgrade_cost)
from .measures import (
    CosineClassifier, UpgradeTask, average_accuracy, average_compatibility, class_mean_loss, class_means,
    class_prototypes, compatibility_figure, compatibility_matrix, compatible_pairs, cosine_gap, cross_test,
    influence_loss, small_encoder, train_with, update_gain, upgrade_task,
)
from .oca import OrthogonalCompatibleHead, OrthogonalLayer, cayley
from .stationary import SimplexClassifier, higher_order_loss, simplex

__all__ = [
    "Bases", "BasisTransformation", "basis_loss",
    "Gallery", "UpgradeCheck", "UpgradeCost", "VersionedEmbeddings", "check_upgrade", "load_gallery", "multiply_adds",
    "save_gallery", "upgrade_cost",
    "CosineClassifier", "UpgradeTask", "average_accuracy", "average_compatibility", "class_mean_loss", "class_means",
    "class_prototypes", "compatibility_figure", "compatibility_matrix", "compatible_pairs", "cosine_gap", "cross_test",
    "influence_loss", "small_encoder", "train_with", "update_gain", "upgrade_task",
    "OrthogonalCompatibleHead", "OrthogonalLayer", "cayley",
    "SimplexClassifier", "higher_order_loss", "simplex",
]
