"""TEEN against arrays from the authors' code: every case in the folder of the kind `teen_*`."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import parity_cases
from xfer_course.fewshot import TEEN, calibrate_prototypes
from xfer_course.training import unit_vectors


@pytest.mark.parametrize("name", parity_cases("fewshot", "teen"))
def test_calibrated_prototypes_and_logits(parity, name):
    case = parity("fewshot", name)
    base, support, query, options = case.tensor("base_prototypes"), case.tensor("support"), case["query"], case.options
    means = support.unflatten(1, (options["way"], options["shot"])).mean(2)
    case.assert_close(means, "raw_prototypes")
    knobs = options["shift_weight"], options["softmax_t"]
    moved = torch.stack([calibrate_prototypes(each, base, *knobs) for each in means])
    case.assert_close(moved, "calibrated")
    everything = unit_vectors(torch.cat([base, moved.flatten(0, 1)]))
    case.assert_close(options["temperature"] * unit_vectors(torch.from_numpy(query)) @ everything.T, "logits")

    model = TEEN(*knobs).fit(base, np.arange(len(base)))  # a mean of one row is the row
    for number, each in enumerate(support):
        first = len(base) + number * options["way"]
        model.partial_fit(each, np.repeat(np.arange(first, first + options["way"]), options["shot"]))
    case.assert_close(model.prototypes_[len(base):].reshape(moved.shape), "calibrated")
    case.assert_close(options["temperature"] * model.decision_function(query), "logits")
