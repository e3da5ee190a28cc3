"""Vision and language: what a contrastive model knows, and how it is repaired."""
from .apt import (
    ApproximatedAttention, ApproximatePrompt, DeepPromptAttention, SplitAttention, attach_prompts, detach_prompts,
    prompt_attention, prompt_cost,
)
from .cprd import CrossEncoder, by_teacher, hard_candidates, partial_ranking_loss
from .label_trees import locus, locus_distances, next_label, random_tree, seen_labels, tree_distances, tree_scores
from .loki import (
    FrechetClassifier, feature_distances, frechet_one_hot, frechet_predict, frechet_scores, grid_distances,
    project_simplex, reachable,
)
from .m2mix import (
    OneSidedLosses, PairedMaps, alignment, geodesic_mix, hard_negative_loss, m2_mix_loss, modality_gap, uni_mix_losses,
    uniformity,
)
from .mmrl import (
    MMRL, CutCLIP, LayerProjections, MMRLOutput, SpaceTokens, TokenLearner, fit_mmrl, frozen_features, lower_states,
    mmrl_loss, mmrl_output, mmrl_text, through_blocks,
)
from .mmrl_plus_plus import MMRLPlusPlus, ResidualProjection, SharedProjections

__all__ = [
    "ApproximatePrompt", "ApproximatedAttention", "CrossEncoder", "CutCLIP", "DeepPromptAttention",
    "FrechetClassifier", "LayerProjections", "MMRL", "MMRLOutput", "MMRLPlusPlus", "OneSidedLosses", "PairedMaps",
    "ResidualProjection", "SharedProjections", "SpaceTokens", "SplitAttention", "TokenLearner", "alignment",
    "attach_prompts", "by_teacher", "detach_prompts", "feature_distances", "fit_mmrl", "frechet_one_hot",
    "frechet_predict", "frechet_scores", "frozen_features", "geodesic_mix", "grid_distances", "hard_candidates",
    "hard_negative_loss", "locus", "locus_distances", "lower_states", "m2_mix_loss", "mmrl_loss", "mmrl_output",
    "mmrl_text", "modality_gap", "next_label", "partial_ranking_loss", "project_simplex", "prompt_attention",
    "prompt_cost", "random_tree", "reachable", "seen_labels", "through_blocks", "tree_distances", "tree_scores",
    "uni_mix_losses", "uniformity",
]
