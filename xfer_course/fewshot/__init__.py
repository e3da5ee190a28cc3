"""Frozen features first: few labels, new classes, and what a class mean can do."""
from .encoder import (
    BASE_GLYPHS, CHANNELS, ENCODER_SEEDS, ENCODER_SOURCES, CharacterEncoder, character_encoder, train_encoder,
)
from .nearest_mean import ContinualReport, NearestMeanClassifier, class_stream, continual_report, shrink_covariance
from .transductive import (
    Bound, Episode, TransductiveClustering, bound_update, episode_points, episodes, kernel_width, knn_affinity,
)

__all__ = [
    "BASE_GLYPHS", "Bound", "CHANNELS", "CharacterEncoder", "ContinualReport", "ENCODER_SEEDS", "ENCODER_SOURCES",
    "Episode", "NearestMeanClassifier", "TransductiveClustering", "bound_update", "character_encoder", "class_stream",
    "continual_report", "episode_points", "episodes", "kernel_width", "knn_affinity", "shrink_covariance",
    "train_encoder",
]
