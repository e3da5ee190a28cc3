"""Small trained modules in a frozen network: LoRA, IA3, adapters, prefixes and biases, put in, merged, saved and read."""
from .files import load_trained, save_trained
from .injection import Config, Place, eject, inject, injected, layer_of, merge_, trainable_parameters
from .moments import MomentHead, RecalibratedBlock, Recalibration, cross_moments, head_pairs, recalibrate
from .tokens import DigitTask, TokenTransformer, digit_task, digit_transformer, train_on
from .unified import StepCost, saved_bytes, step_cost
from .updates import (
    IA3, Adapter, BitFit, Bottleneck, Layer, LoRA, LowRank, Prefix, PrefixRows, Rows, Scaling, Update, prefix_attention,
)
from .visual_queries import (
    CompressedHead, VisualQueries, compress, frozen_layers, group_lasso, join_parts, read_block, strongest_features,
)

__all__ = [
    "Adapter", "BitFit", "Bottleneck", "CompressedHead", "Config", "DigitTask", "IA3", "Layer", "LoRA", "LowRank",
    "MomentHead", "Place", "Prefix", "PrefixRows", "RecalibratedBlock", "Recalibration", "Rows", "Scaling", "StepCost",
    "TokenTransformer", "Update", "VisualQueries", "compress", "cross_moments", "digit_task", "digit_transformer",
    "eject", "frozen_layers", "group_lasso", "head_pairs", "inject", "injected", "join_parts", "layer_of",
    "load_trained", "merge_", "prefix_attention", "read_block", "recalibrate", "save_trained", "saved_bytes",
    "step_cost", "strongest_features", "train_on", "trainable_parameters",
]
