"""Every public name stays importable from where it once was, whichever module defines it today."""
from __future__ import annotations

import importlib

import pytest

# module of `xfer_course` -> names that users import from there; names may be added, none may be taken away
NAMES = {
    "adaptation": [
        "CORRUPTIONS", "STREAMS", "METHODS", "corrupt", "jittered_digits", "source_network", "stream",
        "AlphaBatchNorm", "calibrate",
        "core_loss", "ClassStatistics", "class_statistics", "cafa_loss", "Adapted", "adapt", "label_shift_domains",
        "LatentClasses",
        "discover_classes", "matched_accuracy", "OnlineAdapter",
    ],
    "alignment": [
        "coral_loss", "mmd_loss", "conditional_features", "CDAN", "adapt_batch_norm", "entropy_loss",
        "SubspaceAlignment",
    ],
    "atlas": [
        "Paper", "families", "papers", "atlas_html",
    ],
    "checks": [
        "whole", "number", "one_of", "texts", "tensor", "finite_values", "same_length", "vectors", "directions",
        "same_dtype", "increasing", "as_array", "array", "labels", "label_array", "logits", "module",
    ],
    "cli": [
        "TEACHING_ORDER", "NOTEBOOK_ORDER", "CourseNotebook", "course_notebooks", "select_notebooks", "Run",
        "plan_run", "finished_record",
        "execute", "NotebookFailed", "emitted_record", "offline_html", "main", "list_notebooks", "run", "results",
        "data", "data_list",
        "data_get", "data_make", "doctor", "lab", "learner_copy", "start", "atlas",
    ],
    "clip": [
        "START", "END", "OPENAI_MEAN", "OPENAI_STD", "Tokenizer", "CLIPConfig", "QuickGELU", "Attention",
        "ResidualAttentionBlock",
        "Transformer", "VisionTransformer", "Bottleneck", "AttentionPool", "ModifiedResNet", "CLIP", "preprocess",
        "infer_config",
        "openai_names", "config_beside", "convert_torchscript", "contrastive_loss", "tiny_clip", "tiny_vit_clip",
        "zero_shot_weights",
    ],
    "coop": [
        "POSITIONS", "context_slots", "text_tower", "encode_prefix", "encode_prompts", "NearestWords", "nearest_rows",
        "random_distance",
        "image_size", "CoOp", "encode_images", "few_shot", "learning_rate", "paper_epochs", "fit_coop",
    ],
    "dann": [
        "gradient_reversal", "GradientReversal", "lambda_schedule", "learning_rate_schedule", "DANNOutput",
        "DANNLoss", "DANN",
        "mnist_dann", "svhn_dann", "gtsrb_dann", "max_norm_", "office_dann", "office_parameters", "ShallowDANN",
        "MarginalizedDenoiser",
        "reverse_validation", "MultiDomainDANN",
    ],
    "data": [
        "MAX_MEMBERS", "MAX_UNPACKED", "GREY", "CIFAR10_CLASSES", "AMAZON_DOMAINS", "AMAZON_FEATURES",
        "BSDS500_COUNTS", "data_root",
        "cache_root", "shipped", "Images", "digits", "photos", "split_photos", "photo_patches", "blend", "jitter",
        "moons", "moons_pair",
        "TensorBatches", "PassSampler", "batches", "domain_batches", "multi_domain_batches", "DataFileError",
        "manifest", "datasets",
        "read_idx", "unpack",
        "write_atomically", "mnist", "fashion_mnist", "usps", "cifar10", "svhn", "gtsrb", "image_folder", "upright_rgb",
        "office31", "Reviews",
        "amazon_reviews", "topic_shift_reviews", "bsds500", "mnist_m", "make", "get", "LazyImages", "LoaderBatches",
    ],
    "evaluation": [
        "PALETTE", "STYLE", "FLIPBOOK_BYTES", "course_style", "show", "flipbook", "evaluation_mode",
        "predict", "accuracy", "accuracy_per_class", "balanced_accuracy", "logits_of",
        "confusion_figure", "linear_probe", "knn_accuracy", "proxy_a_distance", "tsne_figure", "Interval",
        "mean_and_interval",
        "paired_difference", "arms_figure", "features_and_labels",
    ],
    "mrl": [
        "doubling_dims", "digit_rotations", "truncate", "MatryoshkaLoss", "MatryoshkaHead", "MatryoshkaContrastive",
        "AdaptiveClassifier",
        "oracle", "mean_average_precision_at_k", "precision_at_k", "top1_nearest_neighbour", "SearchCost",
        "search_cost", "rerank_scores",
        "FunnelRetrieval", "AdaptiveRetrieval", "SearchSizes", "search_grid", "choose_sizes", "simulated_embeddings",
    ],
    "pictures": [
        "SHAPES", "COLOURS", "TEXTURES", "SIZES", "POSITIONS", "BACKGROUNDS", "STYLES", "COUNTS", "SHIFTS",
        "TEMPLATES", "distance_fields",
        "Factors", "draw_factors", "render", "synonyms", "caption", "Pictures", "pictures", "shifted", "FewShotTask",
        "few_shot_tasks",
    ],
    "results": [
        "VERDICTS", "RECORD_TYPE", "README_MARKS", "choose_profile", "available_jobs", "run_grid", "Claim", "Claims",
        "course_root",
        "code_hash", "lab_notebook", "partial_folder", "device_name", "resolve_device", "speed_probe", "Record",
        "load_records", "finish",
        "claim_rows", "markdown_table", "describe", "show_record", "count_verdicts", "results_markdown", "with_results",
    ],
    "rotation": [
        "rotate", "rotate_degrees", "centre_square", "rotate_batch", "crop_and_flip", "RotationPretext",
        "NetworkInNetwork",
        "attention_map", "LinearProbe", "NonLinearProbe", "ConvProbe", "few_labels", "TransferClassifier",
    ],
    "selection": [
        "DANNClassifier", "mean_entropy", "mutual_information", "classifier_uniformity", "hopkins_statistic",
        "transfer_score",
        "Saturation", "saturation",
    ],
    "training": [
        "cosine", "epoch_seed", "seed_everything", "History", "Log", "peak_memory", "Checkpoint", "seed_epoch",
        "choose_accelerator",
        "part_of_batch", "broadcast_tensors", "average_gradients", "modules_of", "scheduled_rate", "set_learning_rate",
        "step_optimizer", "data_fingerprint", "step_settings", "rate_shares", "rate_groups",
        "WeightUpdates", "Validation", "fit",
    ],
    "upgrades": [
        "CosineClassifier", "cross_test", "compatibility_matrix", "compatible_pairs", "average_compatibility",
        "average_accuracy",
        "update_gain", "compatibility_figure", "class_prototypes", "influence_loss", "simplex", "SimplexClassifier",
        "higher_order_loss",
        "cayley", "OrthogonalLayer", "OrthogonalCompatibleHead", "Bases", "BasisTransformation", "basis_loss",
        "UpgradeCheck", "Gallery",
        "UpgradeCost", "upgrade_cost", "multiply_adds",
    ],
}


@pytest.mark.parametrize("module, name", [(module, name) for module, names in NAMES.items() for name in names])
def test_a_public_name_is_where_it_was(module, name):
    assert hasattr(importlib.import_module(f"xfer_course.{module}"), name)
