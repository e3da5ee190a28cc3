"""CLIP from scratch: two towers, one space, and sentences as classifiers."""

from .configs import config_beside, infer_config
from .model import CLIP, TwoTowers, contrastive_loss, preprocess
from .pretraining import (
    LARGEST_SEED, SENTENCES, CaptionedBatches, learn_tokenizer, named_factor, pretrain, pull_to_teacher, warm_cosine,
)
from .tokenizer import END, START, Tokenizer, learn_merges, read_merges
from .towers import (
    OPENAI_MEAN, OPENAI_STD, Attention, AttentionPool, Bottleneck, CLIPConfig, ModifiedResNet, QuickGELU,
    ResidualAttentionBlock, Transformer, VisionTransformer,
)
from .weights import convert_torchscript, load, load_weights, openai_names, save
from .zero_shot import class_names, prompt_template, tiny_clip, tiny_vit_clip, zero_shot_weights

__all__ = [
    "END", "LARGEST_SEED", "SENTENCES", "CaptionedBatches", "learn_tokenizer", "named_factor", "pretrain",
    "pull_to_teacher", "warm_cosine", "OPENAI_MEAN", "OPENAI_STD", "START", "Attention", "AttentionPool",
    "Bottleneck", "CLIP", "CLIPConfig", "ModifiedResNet", "QuickGELU", "ResidualAttentionBlock", "Tokenizer",
    "Transformer", "TwoTowers", "VisionTransformer", "class_names", "config_beside", "contrastive_loss",
    "convert_torchscript", "infer_config", "learn_merges", "load", "load_weights", "openai_names", "preprocess",
    "prompt_template", "read_merges", "save", "tiny_clip", "tiny_vit_clip", "zero_shot_weights",
]
