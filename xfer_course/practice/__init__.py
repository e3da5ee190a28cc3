"""Your own data without writing code: what the commands `xfer adapt`, `probe`, `prompts`, `embed` and `search` do.

One module each: `examples` (what they read), `backbones` (from pictures to features), `report` (what they leave).
"""
from .backbones import (IMAGENET_MEAN, IMAGENET_STD, Backbone, cached_weights, cut_head, features_of, load_backbone,
                        rotation_backbone)
from .examples import Examples, read_examples
from .report import Page, ResultFolder, csv_text

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Backbone", "cached_weights", "cut_head", "features_of", "load_backbone",
           "rotation_backbone", "Examples", "read_examples", "Page", "ResultFolder", "csv_text"]
