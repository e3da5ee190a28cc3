"""What the rotations cost, beside loops over images and torchvision; on one thread."""
from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.functional import rotate, to_tensor

from benchmarks.measuring import Measurement, kinds_of, seconds_in_turns
from xfer_course.rotation import NetworkInNetwork, RotationPretext, rotate_batch

THREADS = 1


def some_images(count: int = 512) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def copies(rounds: int = 5) -> Measurement:
    """Four turned copies of every image against four plain copies in the same order, by the fastest call
    that PyTorch has for it."""
    images = some_images()
    ways = {"rotate_batch": lambda: rotate_batch(images), "plain copies": lambda: images.repeat_interleave(4, dim=0)}
    seconds = seconds_in_turns(ways, rounds, runs=30, clock=time.process_time)
    return Measurement(
        "rotation",
        "four turned copies of 512 images of 32 x 32 (lower bound: copying alone)",
        "s",
        seconds,
        kinds_of(seconds, "rotate_batch", {}),
    )


def turns(rounds: int = 5) -> Measurement:
    """The obvious loops, and torchvision turn by turn. Pillow starts from finished pictures, as torchvision's data sets
    hold them, and ends in the tensor that a network needs; turning tensors into pictures first is not counted."""
    images = some_images()
    arrays = images.numpy()
    pictures = [Image.fromarray(image) for image in (images * 255).byte().permute(0, 2, 3, 1).numpy()]

    def numpy_loop() -> np.ndarray:
        return np.stack([np.rot90(image, k, axes=(1, 2)) for image in arrays for k in range(4)])

    def pillow_loop() -> torch.Tensor:
        return torch.stack([to_tensor(picture.rotate(90 * k)) for picture in pictures for k in range(4)])

    def torchvision_batch() -> torch.Tensor:
        return torch.stack([rotate(images, 90.0 * k) for k in range(4)], dim=1).flatten(0, 1)

    expected = rotate_batch(images)[0]
    assert np.array_equal(numpy_loop(), expected.numpy()) and (torchvision_batch() - expected).abs().max() < 1e-5
    library = {"torchvision, the whole batch": torchvision_batch}
    ways = {
        "rotate_batch": lambda: rotate_batch(images),
        "NumPy, image by image": numpy_loop,
        "Pillow, image by image": pillow_loop,
        **library,
    }
    seconds = seconds_in_turns(ways, rounds, runs=10, clock=time.process_time)
    return Measurement(
        "rotation",
        "four turned copies of 512 images of 32 x 32",
        "s",
        seconds,
        kinds_of(seconds, "rotate_batch", library),
    )


def pretext_step(rounds: int = 7) -> Measurement:
    "A step that turns 32 images itself against a supervised step on the 128 finished ones."
    torch.manual_seed(0)
    pretext = RotationPretext(NetworkInNetwork(None, 3, channels=24), 24)
    optimizer = torch.optim.SGD(pretext.parameters(), lr=0.01, momentum=0.9)
    images = some_images(32)
    rotated, labels = rotate_batch(images)

    def step(loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        return run

    ways = {
        "pretext step": step(lambda: pretext.loss(images)),
        "supervised step on as many images": step(lambda: F.cross_entropy(pretext(rotated), labels)),
    }
    seconds = seconds_in_turns(ways, rounds, runs=3, clock=time.process_time)
    return Measurement(
        "rotation",
        "one training step, 4 x 32 images, Network-in-Network with 24 channels",
        "s",
        seconds,
        kinds_of(seconds, "pretext step", {}),
    )


MEASUREMENTS = (copies, turns, pretext_step)
