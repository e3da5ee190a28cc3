"""Frozen features first: few labels, new classes, and what a class mean can do."""
from .teen import (
    TEEN, Calibration, Session, SessionScores, calibrate_prototypes, choose_calibration, harmonic_mean,
    incremental_sessions, session_scores,
)

__all__ = [
    "Calibration", "Session", "SessionScores", "TEEN", "calibrate_prototypes", "choose_calibration", "harmonic_mean",
    "incremental_sessions", "session_scores",
]
