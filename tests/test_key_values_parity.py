"""The key-value bottleneck against arrays from the authors' code: every case in the folder of the kind `dkvb_*`."""
from __future__ import annotations

import pytest
import torch

from conftest import parity_cases
from xfer_course.fewshot import KeyValueBottleneck, voting_logits
from xfer_course.training import cross_entropy


@pytest.mark.parametrize("name", parity_cases("fewshot", "dkvb"))
def test_keys_values_counts_and_predictions(parity, name):
    case = parity("fewshot", name)
    options, start = case.options, case.tensor("keys_start")
    model = KeyValueBottleneck(options["dim_in"], options["num_codebooks"], options["pairs"], options["dim_keys"],
                               options["dim_values"], options["decay"], projection=case.tensor("projection"))
    model.keys.copy_(start)
    model.key_sums.copy_(start)
    model.place_keys(case.tensor("init_batches"), epochs=1, dead=options["threshold_ema_dead_code"]).freeze_keys()
    case.assert_close(model.keys, "keys_end")
    case.assert_close(model.key_sizes, "cluster_size")

    optimizer = torch.optim.SGD([model.values], options["learning_rate"])
    codes, losses = [], []
    for number, (x, y) in enumerate(zip(case.tensor("train_x"), case.tensor("train_y"))):
        codes.append(model.nearest(x)[..., 0])
        loss = cross_entropy(voting_logits(model(x)), y, label_smoothing=options["label_smoothing"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([model.values], options["gradient_clip"])
        if not number:
            case.assert_close(model.values.grad, "grad_values_0")
        optimizer.step()
        losses.append(loss.item())
    case.assert_close(torch.stack(codes), "train_key_index")
    case.assert_close(torch.tensor(losses).double(), "loss")
    case.assert_close(model.values.detach(), "values_end")
    case.assert_close(model.counts, "counts")

    model.eval()
    x = case.tensor("test_x")
    case.assert_close(model.nearest(x)[..., 0], "test_index_used")
    case.assert_close(voting_logits(model(x)).detach(), "test_logits")
    model.used_only = False
    case.assert_close(model.nearest(x)[..., 0], "test_index_all")
