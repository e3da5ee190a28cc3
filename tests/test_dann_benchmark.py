"""What the adversary costs per step, and what sparse blocks save in Algorithm 1; one thread, same run. Run alone: `-m benchmark`."""
from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.nn import functional as F

from xfer_course.dann import ShallowDANN, mnist_dann

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]


def step_seconds(steps: dict[str, Callable[[], None]], rounds: int = 25) -> dict[str, np.ndarray]:
    "Seconds of each step in each round; the steps take turns, so that a busy moment of the machine hits all of them."
    times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.process_time()
            step()
            times[name].append(time.process_time() - started)
    return {name: np.array(values) for name, values in times.items()}


def training_steps() -> dict[str, Callable[[], None]]:
    "Whole training steps on 64 + 64 images with the paper's MNIST network."
    torch.manual_seed(0)
    source, target = torch.rand(2, 64, 3, 28, 28)
    labels = torch.randint(10, (64,))
    all_images, all_labels = torch.cat([source, target]), torch.cat([labels, labels])
    joint, separate = mnist_dann(), mnist_dann(joint_batch=False)

    def source_twice() -> torch.Tensor:
        label = F.cross_entropy(joint.label_predictor(joint.feature_extractor(source)), labels)
        domain = [joint(images).domain_logits for images in (source, target)]
        return label + (F.softplus(domain[0]).mean() + F.softplus(-domain[1]).mean()) / 2

    def step_with(model, loss) -> Callable[[], None]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        return step

    return {
        "source only": step_with(joint, lambda: joint.source_loss(all_images, all_labels)),
        "DANN": step_with(joint, lambda: joint.loss(source, labels, target).total),
        "one batch per domain": step_with(separate, lambda: separate.loss(source, labels, target).total),
        "source forwarded twice": step_with(joint, source_twice),
    }


def test_one_step_costs_at_most_1_15_times_a_source_only_step(record_property):
    for attempt in range(3):  # the machine may be busy
        seconds = step_seconds(training_steps())
        ratios = {name: float(np.median(values / seconds["source only"])) for name, values in seconds.items()}
        if ratios["DANN"] <= 1.15 and ratios["DANN"] < ratios["source forwarded twice"]:
            break
    print({name: round(ratio, 3) for name, ratio in ratios.items()})
    record_property("step_cost", ratios)
    assert ratios["DANN"] <= 1.15, ratios
    assert ratios["DANN"] < ratios["source forwarded twice"], ratios


def bag_of_words(rows: int, rng: np.random.RandomState, features: int = 5000, per_row: int = 115) -> sp.csr_matrix:
    "Rows with about 100 of the features each, the frequent ones in many rows, as in text."
    frequency = 1 / np.arange(10, features + 10)
    words = rng.choice(features, size=rows * per_row, p=frequency / frequency.sum())
    counts = sp.csr_matrix((np.ones(len(words)), (np.repeat(np.arange(rows), per_row), words)), shape=(rows, features))
    counts.data[:] = 1.0
    return counts


def test_shallow_dann_on_an_amazon_sized_pair():
    "2,000 rows of 5,000 words, 50 hidden units: 200 epochs in 25 seconds, measured on 10 of them."
    rng = np.random.RandomState(0)
    X, X_target, y = bag_of_words(2000, rng), bag_of_words(2000, rng), rng.randint(2, size=2000)
    for attempt in range(3):
        started = time.process_time()
        ShallowDANN(50, 1e-3, 0.1, max_iter=10, random_state=0).fit(X, y, X_target)
        seconds = (time.process_time() - started) * 200 / 10
        if seconds < 25:
            break
    print(f"{seconds:.1f} s for 200 epochs")
    assert seconds < 25, seconds


def test_shallow_dann_is_five_times_faster_than_a_dense_loop():
    from test_dann import algorithm_1

    rng = np.random.RandomState(0)
    X, X_target, y = bag_of_words(150, rng), bag_of_words(150, rng), np.arange(150) % 2
    estimator = ShallowDANN(50, 1e-3, 0.1, max_iter=1, random_state=0)
    started = time.process_time()
    expected = algorithm_1(estimator, X.toarray(), y, X_target.toarray(), epochs=1)
    loop = time.process_time() - started
    started = time.process_time()
    estimator.fit(X, y, X_target)
    block = time.process_time() - started
    print(f"dense loop {loop:.3f} s, sparse blocks {block:.3f} s")
    np.testing.assert_allclose(estimator.W_, expected["W_"], atol=1e-10)
    assert loop >= 5 * block, (loop, block)
