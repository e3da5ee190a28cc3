"""Your own data without writing code: what the commands `xfer adapt`, `probe`, `prompts`, `embed`, `merge` do.

One module each: `examples` (what they read), `backbones` (from pictures to features), `report` (what they leave),
`copies` (the same picture twice), `adapt` and `adapt_page` (from labelled to unlabelled), `held_out` (what a page knows
about how good a classifier is), `linear`, `probe` and `probe_page`, `prompts` and `prompts_page`, `kept` (the network
beside an index), `collection` (what nearest others tell), `embed_page`, `embed` and `search`, `merge_page` (two results
in one).
"""
from ..dann import cut_head
from .adapt import (Adapted, AdaptOptions, PictureClassifier, adapt_domains, adaptable_network, choose_strength,
                    prepare, round_trip, standardisation, trained)
from .adapt_page import adapt_examples, adaptation_page, advice, load_adapted
from .backbones import (IMAGENET_MEAN, IMAGENET_STD, ROTATION_SIZE, Backbone, cached_weights, features_of,
                        load_backbone, rotation_backbone, stored_backbone)
from .collection import (Nearest, farthest, near_duplicates, nearest_others, retrieval_precision, usual_distance)
from .copies import check_copies, check_other_place, content_numbers, contents
from .embed import embed_examples
from .embed_page import IndexFacts, index_page, show_items
from .kept import keep_backbone, kept_backbone, result_backbone
from .examples import Examples, columns_in_order, read_examples
from .held_out import (HeldOut, balanced, calibration_sentence, certainty_figure, chance_of_difference, check_apart,
                       same_kind, class_advice, confusions, file_pieces, fingerprint, hold_out, labelled_examples,
                       prediction_rows, recognised, share_interval, share_text, show_certainty, show_classes,
                       show_mistakes, split_examples, weights_fingerprint)
from .linear import GRID, LinearClassifier, fit_linear, share_of_rows
from .merge_page import merge_advice, merge_page, merge_results
from .probe import Probe, load_probe, probe_examples
from .probe_page import Compared, compared, curve_figure, probe_advice, probe_page, still_rises
from .prompts import VOCABULARIES, fit_prompts
from .prompts_page import prompts_advice, prompts_page, show_nearest
from .report import RESULT_FILES, Page, ResultFolder, counted, csv_text
from .search import PictureIndex, search_pictures

__all__ = [
    "Adapted", "AdaptOptions", "PictureClassifier", "adapt_domains", "adaptable_network", "choose_strength", "prepare",
    "round_trip", "standardisation", "trained", "adapt_examples", "adaptation_page", "advice", "load_adapted",
    "IMAGENET_MEAN", "IMAGENET_STD", "ROTATION_SIZE", "Backbone", "cached_weights", "cut_head", "features_of",
    "load_backbone", "rotation_backbone", "stored_backbone", "Examples", "columns_in_order", "read_examples",
    "HeldOut", "balanced", "calibration_sentence", "certainty_figure", "chance_of_difference", "check_apart",
    "same_kind", "class_advice", "confusions", "fingerprint", "hold_out", "labelled_examples", "prediction_rows",
    "recognised", "share_interval", "share_text", "show_certainty", "show_classes", "show_mistakes",
    "GRID", "LinearClassifier", "fit_linear", "share_of_rows",
    "Probe", "load_probe", "probe_examples",
    "Compared", "compared", "curve_figure", "probe_advice", "probe_page", "still_rises",
    "VOCABULARIES", "fit_prompts", "prompts_advice", "prompts_page", "show_nearest",
    "Nearest", "farthest", "near_duplicates", "nearest_others", "retrieval_precision", "usual_distance",
    "embed_examples", "IndexFacts", "index_page", "show_items", "keep_backbone", "kept_backbone", "result_backbone",
    "PictureIndex", "search_pictures", "RESULT_FILES", "Page", "ResultFolder", "counted", "csv_text", "file_pieces",
    "weights_fingerprint", "check_copies", "check_other_place", "content_numbers", "contents", "merge_advice",
    "merge_page",
    "merge_results", "split_examples",
]
