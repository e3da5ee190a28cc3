"""How good are features, how far apart are two domains, and is a difference between two methods more than luck?

The measures, with the intervals and the figures that go with them.
"""
from ..figures import (
    FLIPBOOK_BYTES,
    PALETTE,
    STYLE,
    arms_figure,
    confusion_figure,
    course_style,
    flipbook,
    frame_png,
    show,
    training_figure,
    tsne_figure,
)
from ..intervals import Interval, interval_text, mean_and_interval, paired_difference
from .measures import (
    accuracy,
    accuracy_per_class,
    balanced_accuracy,
    evaluation_mode,
    features_and_labels,
    knn_accuracy,
    linear_probe,
    logits_of,
    predict,
    proxy_a_distance,
)

__all__ = [
    "FLIPBOOK_BYTES",
    "Interval",
    "PALETTE",
    "STYLE",
    "accuracy",
    "accuracy_per_class",
    "arms_figure",
    "balanced_accuracy",
    "confusion_figure",
    "course_style",
    "evaluation_mode",
    "features_and_labels",
    "flipbook",
    "frame_png",
    "interval_text",
    "knn_accuracy",
    "linear_probe",
    "logits_of",
    "mean_and_interval",
    "paired_difference",
    "predict",
    "proxy_a_distance",
    "show",
    "training_figure",
    "tsne_figure",
]
