"""Your own data without writing code: what the commands `xfer adapt`, `probe`, `prompts`, `embed` and `search` do.

One module each: `examples` (what they read), `backbones` (from pictures to features), `report` (what they leave),
`kept` (the network beside an index), `collection` (what nearest others tell), `embed_page`, `embed` and `search`.
"""
from .backbones import (IMAGENET_MEAN, IMAGENET_STD, Backbone, cached_weights, cut_head, features_of, load_backbone,
                        rotation_backbone)
from .collection import (Nearest, farthest, near_duplicates, nearest_others, retrieval_precision, usual_distance)
from .embed import embed_examples
from .embed_page import IndexFacts, index_page, show_items
from .examples import Examples, read_examples
from .kept import keep_backbone, kept_backbone
from .report import Page, ResultFolder, csv_text
from .search import PictureIndex, search_pictures

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Backbone", "cached_weights", "cut_head", "features_of", "load_backbone",
           "rotation_backbone", "Nearest", "farthest", "near_duplicates", "nearest_others", "retrieval_precision",
           "usual_distance", "embed_examples", "IndexFacts", "index_page", "show_items", "Examples", "read_examples",
           "keep_backbone", "kept_backbone", "Page", "ResultFolder", "csv_text", "PictureIndex", "search_pictures"]
