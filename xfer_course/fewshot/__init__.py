"""Frozen features first: few labels, new classes, and what a class mean can do."""
from .key_values import KeyValueBottleneck, class_counts, fit_values, shared_codes, voting_logits
from .teen import (
    TEEN, Calibration, Session, SessionScores, calibrate_prototypes, choose_calibration, harmonic_mean,
    incremental_sessions, session_scores,
)

__all__ = [
    "Calibration", "KeyValueBottleneck", "Session", "SessionScores", "TEEN", "calibrate_prototypes",
    "choose_calibration", "class_counts", "fit_values", "harmonic_mean", "incremental_sessions", "session_scores",
    "shared_codes", "voting_logits",
]
