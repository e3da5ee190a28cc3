"""Frozen features first: few labels, new classes, and what a class mean can do."""
from .encoder import (
    BASE_GLYPHS, CHANNELS, ENCODER_SEEDS, ENCODER_SOURCES, CharacterEncoder, character_encoder, train_encoder,
)
from .key_values import KeyValueBottleneck, class_counts, fit_values, shared_codes, voting_logits
from .teen import (
    TEEN, Calibration, Session, SessionScores, calibrate_prototypes, choose_calibration, harmonic_mean,
    incremental_sessions, session_scores,
)

__all__ = [
    "BASE_GLYPHS", "CHANNELS", "Calibration", "CharacterEncoder", "ENCODER_SEEDS", "ENCODER_SOURCES",
    "KeyValueBottleneck", "Session", "SessionScores", "TEEN", "calibrate_prototypes", "character_encoder",
    "choose_calibration", "class_counts", "fit_values", "harmonic_mean", "incremental_sessions", "session_scores",
    "shared_codes", "train_encoder", "voting_logits",
]
