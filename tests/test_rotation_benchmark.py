"""What the rotations cost, measured in the same run as what they are compared with, on one thread."""
from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.functional import to_tensor

from xfer_course.rotation import NetworkInNetwork, RotationPretext, rotate_batch

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]


def best_seconds(functions: dict[str, Callable], runs: int, turns: int = 4) -> dict[str, float]:
    """The shortest of many runs of each function, in seconds of this process's own time.

    Each function runs several times in a row: memory that another one gave back to the system has to be fetched anew,
    which can cost more than the copying. The functions take turns, so that a busy moment hits all of them.
    """
    times = {name: [] for name in functions}
    for _ in range(turns):
        for name, function in functions.items():
            for _ in range(runs):
                started = time.process_time()
                function()
                times[name].append(time.process_time() - started)
    return {name: min(values) for name, values in times.items()}


IMAGES = torch.rand(512, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_rotate_batch_costs_at_most_three_plain_copies():
    "The copies in the same order, by the fastest call that PyTorch has for it."
    seconds = best_seconds({"copies": lambda: IMAGES.repeat_interleave(4, dim=0), "turned": lambda: rotate_batch(IMAGES)}, runs=30)
    assert seconds["turned"] <= 3 * seconds["copies"], seconds


def test_rotate_batch_is_faster_than_numpy_and_pillow_image_by_image():
    """The obvious loops. Pillow starts from finished pictures, as torchvision's data sets hold them, and ends in the tensor that a network
    needs; turning tensors into pictures first is not counted."""
    arrays = IMAGES.numpy()
    pictures = [Image.fromarray(image) for image in (IMAGES * 255).byte().permute(0, 2, 3, 1).numpy()]

    def numpy_loop():
        return np.stack([np.rot90(image, k, axes=(1, 2)) for image in arrays for k in range(4)])

    def pillow_loop():
        return torch.stack([to_tensor(picture.rotate(90 * k)) for picture in pictures for k in range(4)])

    seconds = best_seconds({"batch": lambda: rotate_batch(IMAGES), "numpy": numpy_loop, "pillow": pillow_loop}, runs=4)
    assert seconds["numpy"] >= 2.5 * seconds["batch"], seconds
    assert seconds["pillow"] >= 8 * seconds["batch"], seconds


def test_a_pretext_step_costs_what_a_supervised_step_on_as_many_images_costs():
    torch.manual_seed(0)
    network = NetworkInNetwork(None, 3, channels=24)
    pretext = RotationPretext(network, 24)
    optimizer = torch.optim.SGD(pretext.parameters(), lr=0.01, momentum=0.9)
    images = IMAGES[:32]
    rotated, labels = rotate_batch(images)

    def step(loss: Callable) -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    steps = {"pretext": lambda: step(lambda: pretext.loss(images)),
             "supervised": lambda: step(lambda: F.cross_entropy(pretext(rotated), labels))}
    seconds = best_seconds(steps, runs=4)
    assert seconds["pretext"] <= 1.1 * seconds["supervised"], seconds
