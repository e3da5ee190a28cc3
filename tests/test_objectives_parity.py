"""CLIP's and ALIGN's losses and both forms of word prediction against arrays made from the formulas alone: every case
of the kind `losses_*`. No authors' code for training was released."""
from __future__ import annotations

import pytest
import torch

from conftest import parity_cases
from xfer_course.clip import contrastive_loss
from xfer_course.training import cross_entropy, unit_vectors
from xfer_course.visionlanguage import align_loss, bag_of_words_loss

CASES = parity_cases("visionlanguage", "losses")


@pytest.mark.parametrize("name", CASES)
def test_losses_of_matching_and_their_gradients(parity, name):
    case = parity("visionlanguage", name)
    image, text = case.tensor("image").requires_grad_(), case.tensor("text")
    log_scale = case.tensor("scale").log().requires_grad_()
    logits = log_scale.exp() * unit_vectors(image) @ unit_vectors(text).T
    own = torch.arange(len(image))
    for each, kind in ((logits, "image_to_text"), (logits.T, "text_to_image")):
        case.assert_close(cross_entropy(each, own).detach(), f"loss_{kind}")
    loss = contrastive_loss(image, text, log_scale.exp())
    case.assert_close(loss.detach(), "loss_clip")
    gradients = torch.autograd.grad(loss, (image, log_scale))
    case.assert_close(gradients[0], "grad_image")
    case.assert_close(gradients[1].squeeze(), "grad_log_scale")


@pytest.mark.parametrize("name", CASES)
def test_the_smoothed_sum_of_both_directions(parity, name):
    case = parity("visionlanguage", name)
    found = align_loss(case.tensor("image"), case.tensor("text"), case.tensor("scale").squeeze(),
                       case.options["label_smoothing"])
    case.assert_close(found, "loss_align_sum")


@pytest.mark.parametrize("name", CASES)
def test_both_forms_of_word_prediction(parity, name):
    case = parity("visionlanguage", name)
    word_logits = case.tensor("image") @ case.tensor("word_weight").T + case.tensor("word_bias")
    for form in ("softmax", "sigmoid"):
        case.assert_close(bag_of_words_loss(word_logits, case.tensor("bag"), form), f"loss_words_{form}")
