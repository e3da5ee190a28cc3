"""Small trained modules in a frozen network: LoRA, IA3, adapters, prefixes and biases, put in, merged, saved and read."""
from .files import from_released, load_delta, load_trained, save_delta, save_trained, to_released
from .injection import Config, Place, eject, inject, injected, layer_of, merge_, trainable_parameters
from .moments import MomentHead, RecalibratedBlock, Recalibration, cross_moments, head_pairs, recalibrate
from .sherl import ConvLateRoute, ConvSHERL, LadderSide, LateLayers, LateRoute, LayerMixture, SHERL, redundancy
from .sparse_tuning import (
    LotteryTicketTuner, SparseDelta, masked_updates, random_mask, sparse_difference, top_k_mask,
)
from .scalearn import AdapterFusion, Combination, ScaLearn, combine, digit_source, fold_, learned_scales
from .tokens import DigitTask, TokenTransformer, development_task, digit_task, digit_transformer, every_layer, train_on
from .unified import StepCost, saved_bytes, step_cost
from .updates import (
    IA3, Adapter, BitFit, Bottleneck, Layer, LoRA, LowRank, Prefix, PrefixRows, Rows, Scaling, Update, prefix_attention,
)
from .visual_queries import (
    CompressedHead, LayerAttention, VisualQueries, compress, frozen_layers, group_lasso, join_parts, read_block,
    strongest_features,
)

__all__ = [
    "Adapter", "AdapterFusion", "BitFit", "Bottleneck", "Combination", "CompressedHead", "Config", "ConvLateRoute",
    "ConvSHERL", "DigitTask",
    "IA3", "LadderSide", "LateLayers", "LateRoute", "Layer", "LayerAttention", "LayerMixture", "LoRA",
    "LotteryTicketTuner", "LowRank", "MomentHead", "Place", "Prefix", "PrefixRows", "RecalibratedBlock",
    "Recalibration", "Rows", "SHERL", "ScaLearn", "Scaling", "SparseDelta", "StepCost", "TokenTransformer",
    "Update", "VisualQueries", "combine", "compress", "cross_moments", "development_task", "digit_source",
    "digit_task", "digit_transformer", "eject", "every_layer", "fold_", "from_released", "frozen_layers",
    "group_lasso", "head_pairs", "inject", "injected", "join_parts", "layer_of", "learned_scales", "load_delta",
    "load_trained", "masked_updates", "merge_", "prefix_attention", "random_mask", "read_block", "recalibrate",
    "redundancy", "save_delta", "save_trained", "saved_bytes", "sparse_difference", "step_cost",
    "strongest_features", "to_released", "top_k_mask", "train_on", "trainable_parameters",
]
