"""Frozen features first: few labels, new classes, and what a class mean can do."""
from .encoder import (
    BASE_GLYPHS, CHANNELS, ENCODER_SEEDS, ENCODER_SOURCES, CharacterEncoder, character_encoder, train_encoder,
)

__all__ = [
    "BASE_GLYPHS", "CHANNELS", "CharacterEncoder", "ENCODER_SEEDS", "ENCODER_SOURCES", "character_encoder",
    "train_encoder",
]
