"""Adaptation at test time: corrupted streams, α-BN, Core, CAFA, and classes found by how their frequency shifts.

`adapt` walks through a stream with a rule: `AlphaBN`, `Tent`, `Core` or `CAFA`; `OnlineAdapter` takes it batch by batch.
"""
from __future__ import annotations

from .alpha_bn import (AlphaBatchNorm, AlphaBN, Adapted, LearningRule, OnlineAdapter, Tent, adapt, calibrate,
                       class_logits)
from .cafa import CAFA, METHODS, ClassStatistics, cafa_loss, class_statistics
from .core import Core, core_loss
from .label_shift import (LatentClasses, discover_classes, draw_class_shares, equal_domains, label_shift_domains,
                          matched_accuracy)
from .streams import CORRUPTIONS, STREAMS, corrupt, jittered_digits, source_network, stream

__all__ = [
    "AlphaBatchNorm", "AlphaBN", "Adapted", "LearningRule", "OnlineAdapter", "Tent", "adapt", "calibrate", "class_logits",
    "CAFA", "METHODS", "ClassStatistics", "cafa_loss", "class_statistics",
    "Core", "core_loss",
    "LatentClasses", "discover_classes", "draw_class_shares", "equal_domains", "label_shift_domains", "matched_accuracy",
    "CORRUPTIONS", "STREAMS", "corrupt", "jittered_digits", "source_network", "stream",
]
