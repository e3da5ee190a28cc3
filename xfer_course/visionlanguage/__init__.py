"""Vision and language: what a contrastive model knows, and how it is repaired."""
from .align import (
    BOILERPLATE, NOISE, NoisyCaptions, align_loss, combined_query, exchange_rate, noisy_captions, similarity_filter,
    text_filter,
)
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
from .objectives import (
    WORD_FORMS, PromptTable, ToyTowers, bag_of_words_loss, caption_words, effective_robustness, prompt_table,
    vocabulary, word_bags, word_zero_shot,
)

__all__ = [
    "ApproximatePrompt", "ApproximatedAttention", "BOILERPLATE", "CrossEncoder", "CutCLIP", "DeepPromptAttention",
    "FrechetClassifier", "LayerProjections", "MMRL", "MMRLOutput", "MMRLPlusPlus", "NOISE", "NoisyCaptions",
    "OneSidedLosses", "PairedMaps", "PromptTable", "ResidualProjection", "SharedProjections", "SpaceTokens",
    "SplitAttention", "TokenLearner", "ToyTowers", "WORD_FORMS", "align_loss", "alignment", "attach_prompts",
    "bag_of_words_loss", "by_teacher", "caption_words", "combined_query", "detach_prompts", "effective_robustness",
    "exchange_rate", "feature_distances", "fit_mmrl", "frechet_one_hot", "frechet_predict", "frechet_scores",
    "frozen_features", "geodesic_mix", "grid_distances", "hard_candidates", "hard_negative_loss", "locus",
    "locus_distances", "lower_states", "m2_mix_loss", "mmrl_loss", "mmrl_output", "mmrl_text", "modality_gap",
    "next_label", "noisy_captions", "partial_ranking_loss", "project_simplex", "prompt_attention", "prompt_cost",
    "prompt_table", "random_tree", "reachable", "seen_labels", "similarity_filter", "text_filter",
    "through_blocks", "tree_distances", "tree_scores", "uni_mix_losses", "uniformity", "vocabulary", "word_bags",
    "word_zero_shot",
]
