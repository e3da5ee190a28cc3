"""One embedding whose every prefix is an embedding too: choose the size after training.

Heads and losses are in `heads`, their fused arithmetic in `fused`, the cascade over sizes in `cascade`, staged search
in `retrieval`, its choice of sizes in `sizes`, rounded first stages in `codes`, ids, additions, deletions and filters in
`index`, files and faiss in `storage`, and what a search finds and costs in `metrics`.
"""
from .cascade import AdaptiveClassifier, oracle
from .codes import BinaryCodes, Float32Codes, Int8Codes
from .fused import (
    check_pairs, class_targets, paired_loss, relative_importance, tied_logits, tied_loss, untied_loss)
from .heads import MatryoshkaContrastive, MatryoshkaHead, MatryoshkaLoss, digit_rotations, doubling_dims, truncate
from .index import GrowingRows, LivingIndex, RowIds, allowed_rows, rows_left_out
from .metrics import SearchCost, mean_average_precision_at_k, precision_at_k, search_cost, top1_nearest_neighbour
from .retrieval import AdaptiveRetrieval, FunnelRetrieval, rerank_scores
from .sizes import SearchSizes, choose_sizes, search_grid, simulated_embeddings
from .storage import StoredIndex

__all__ = [
    "doubling_dims", "digit_rotations", "truncate", "MatryoshkaLoss", "MatryoshkaHead", "MatryoshkaContrastive",
    "tied_logits", "tied_loss",
    "untied_loss", "paired_loss", "check_pairs", "class_targets", "relative_importance", "AdaptiveClassifier", "oracle",
    "mean_average_precision_at_k", "precision_at_k",
    "top1_nearest_neighbour", "SearchCost", "search_cost", "rerank_scores", "FunnelRetrieval", "AdaptiveRetrieval",
    "SearchSizes",
    "search_grid", "choose_sizes", "simulated_embeddings", "Float32Codes", "Int8Codes", "BinaryCodes",
    "GrowingRows", "RowIds", "LivingIndex", "StoredIndex", "allowed_rows", "rows_left_out",
]
