"""Frozen features first: few labels, new classes, and what a class mean can do."""
from .encoder import (
    BASE_GLYPHS, CHANNELS, ENCODER_SEEDS, ENCODER_SOURCES, CharacterEncoder, character_encoder, train_encoder,
)
from .key_values import KeyValueBottleneck, class_counts, fit_values, shared_codes, voting_logits
from .nearest_mean import ContinualReport, NearestMeanClassifier, class_stream, continual_report, shrink_covariance
from .teen import (
    TEEN, Calibration, Session, SessionScores, calibrate_prototypes, choose_calibration, harmonic_mean,
    incremental_sessions, session_scores,
)
from .transductive import (
    Bound, Episode, TransductiveClustering, bound_update, episode_points, episodes, kernel_width, knn_affinity,
)

__all__ = [
    "BASE_GLYPHS", "Bound", "CHANNELS", "Calibration", "CharacterEncoder", "ContinualReport", "ENCODER_SEEDS",
    "ENCODER_SOURCES", "Episode", "KeyValueBottleneck", "NearestMeanClassifier", "Session", "SessionScores", "TEEN",
    "TransductiveClustering", "bound_update", "calibrate_prototypes", "character_encoder", "choose_calibration",
    "class_counts", "class_stream", "continual_report", "episode_points", "episodes", "fit_values", "harmonic_mean",
    "incremental_sessions", "kernel_width", "knn_affinity", "session_scores", "shared_codes", "shrink_covariance",
    "train_encoder", "voting_logits",
]
