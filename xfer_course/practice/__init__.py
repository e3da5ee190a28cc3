"""Your own data without writing code: what the commands `xfer adapt`, `probe`, `prompts`, `embed` and `search` do.

One module each: `examples` (what they read), `backbones` (from pictures to features), `report` (what they leave),
`adapt` and `adapt_page` (from labelled to unlabelled).
"""
from .adapt import (Adapted, AdaptOptions, PictureClassifier, adapt_domains, adaptable_network, choose_strength,
                    prepare, round_trip, standardisation, trained)
from .adapt_page import adapt_examples, adaptation_page, advice, load_adapted
from .backbones import (IMAGENET_MEAN, IMAGENET_STD, ROTATION_SIZE, Backbone, cached_weights, cut_head, features_of,
                        load_backbone, rotation_backbone, stored_backbone)
from .examples import Examples, read_examples
from .report import Page, ResultFolder, csv_text

__all__ = [
    "Adapted", "AdaptOptions", "PictureClassifier", "adapt_domains", "adaptable_network", "choose_strength", "prepare",
    "round_trip", "standardisation", "trained", "adapt_examples", "adaptation_page", "advice", "load_adapted",
    "IMAGENET_MEAN", "IMAGENET_STD", "ROTATION_SIZE", "Backbone", "cached_weights", "cut_head", "features_of",
    "load_backbone", "rotation_backbone", "stored_backbone", "Examples", "read_examples", "Page", "ResultFolder",
    "csv_text",
]
