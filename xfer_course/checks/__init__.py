"""Refusals in one form: small functions that look at an argument and give it back, or say in one sentence what it must
be and what it is.

`values` has the checks of numbers, texts, tensors, arrays and modules, `class_labels` those of labels and class scores.
"""
from .class_labels import label_array, labels, logit_head, logits, no_shares
from .values import (
    array,
    as_array,
    batch_norm,
    batch_norms,
    copied,
    directions,
    finite_values,
    increasing,
    module,
    number,
    one_of,
    one_scale,
    same_dtype,
    same_length,
    tensor,
    texts,
    vectors,
    whole,
)

__all__ = [
    "array", "as_array", "batch_norm", "batch_norms", "copied", "directions", "finite_values", "increasing",
    "label_array", "labels", "logit_head", "logits", "module", "no_shares", "number", "one_of", "one_scale",
    "same_dtype", "same_length", "tensor", "texts", "vectors", "whole",
]
