"""Captioned pictures whose every factor is known.

Moved to `xfer_course.data`: `shapes`, `scenes`, `captions` and `captioned`."""
from ..data.captions import caption, synonyms
from ..data.captioned import SHIFTS, TEMPLATES, FewShotTask, Pictures, few_shot_tasks, pictures, shifted
from ..data.scenes import (BACKGROUNDS, COLOURS, COUNTS, FACTORS, POSITIONS, SIZES, STYLES, TEXTURES, Factors,
                           draw_factors, render)
from ..data.shapes import REACH, SHAPES, distance_fields

__all__ = [
    "caption", "synonyms",
    "SHIFTS", "TEMPLATES", "FewShotTask", "Pictures", "few_shot_tasks", "pictures", "shifted",
    "BACKGROUNDS", "COLOURS", "COUNTS", "FACTORS", "POSITIONS", "SIZES", "STYLES", "TEXTURES", "Factors",
    "draw_factors", "render",
    "REACH", "SHAPES", "distance_fields",
]
