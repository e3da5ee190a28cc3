"""CoOp: a frozen CLIP, and context vectors that are learned in the place of the words around a class name."""

from .context_file import context_options, load_context, save_context
from .encoding import (CHUNK_BYTES, activation_bytes, check_precision, encode_images, encode_prefix, encode_prompts,
                       image_size, in_chunks, text_tower)
from .nearest import NearestWords, nearest_rows, nearest_words, random_distance
from .prompts import POSITIONS, CoOp, PromptLayout, PromptLearner, context_slots, fill, first_context, lay_out
from .training import few_shot, fit_coop, learning_rate, paper_epochs

__all__ = [
    "CHUNK_BYTES", "CoOp", "NearestWords", "POSITIONS", "PromptLayout", "PromptLearner", "activation_bytes",
    "check_precision", "context_options",
    "context_slots", "encode_images", "encode_prefix", "encode_prompts", "few_shot", "fill", "first_context",
    "fit_coop", "image_size", "in_chunks", "lay_out",
    "learning_rate", "load_context", "nearest_rows", "nearest_words", "paper_epochs", "random_distance",
    "save_context", "text_tower",
]
