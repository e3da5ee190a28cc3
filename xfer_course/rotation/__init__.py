"""Turn every image by 0, 90, 180 and 270 degrees and let a network say which: features without a single label.

The pretext task and the paper's network are in `rotation`, probes and fine-tuning in `probes`.
"""
from .probes import ConvProbe, LinearProbe, NonLinearProbe, TransferClassifier, few_labels
from .rotation import (
    NetworkInNetwork,
    RotationPretext,
    attention_map,
    centre_square,
    crop_and_flip,
    nin_block,
    rotate,
    rotate_batch,
    rotate_degrees,
)

__all__ = [
    "rotate", "rotate_degrees", "centre_square", "rotate_batch", "crop_and_flip", "RotationPretext", "nin_block",
    "NetworkInNetwork",
    "attention_map", "LinearProbe", "NonLinearProbe", "ConvProbe", "few_labels", "TransferClassifier",
]
