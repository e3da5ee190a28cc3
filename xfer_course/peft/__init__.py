"""Small trained modules in a frozen network: LoRA, IA3, adapters, prefixes and biases, put in, merged, saved and read."""
from .files import load_trained, save_trained
from .injection import Config, Place, eject, inject, injected, layer_of, merge_, trainable_parameters
from .unified import StepCost, saved_bytes, step_cost
from .updates import (
    IA3, Adapter, BitFit, Bottleneck, Layer, LoRA, LowRank, Prefix, PrefixRows, Rows, Scaling, Update, prefix_attention,
)

__all__ = [
    "IA3", "Adapter", "BitFit", "Bottleneck", "Config", "Layer", "LoRA", "LowRank", "Place", "Prefix", "PrefixRows",
    "Rows", "Scaling", "StepCost", "Update", "eject", "inject", "injected", "layer_of", "load_trained", "merge_",
    "prefix_attention", "save_trained", "saved_bytes", "step_cost", "trainable_parameters",
]
