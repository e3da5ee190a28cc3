"""Frozen features first: few labels, new classes, and what a class mean can do."""
from .nearest_mean import ContinualReport, NearestMeanClassifier, class_stream, continual_report, shrink_covariance
from .transductive import (
    Bound,
    Episode,
    TransductiveClustering,
    bound_update,
    episode_points,
    episodes,
    kernel_width,
    knn_affinity,
)

__all__ = [
    "Bound", "ContinualReport", "Episode", "NearestMeanClassifier", "TransductiveClustering", "bound_update",
    "class_stream", "continual_report", "episode_points", "episodes", "kernel_width", "knn_affinity",
    "shrink_covariance",
]
