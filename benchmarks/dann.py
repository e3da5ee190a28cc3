"""What the adversary costs per step, and what sparse blocks save in Algorithm 1; on one thread."""
from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn import functional as F

from benchmarks.measuring import Measurement, kinds_of, libraries, seconds_in_turns
from xfer_course.dann import ShallowDANN, mnist_dann

THREADS = 1


def training_steps() -> tuple[dict[str, Callable[[], None]], dict[str, Callable[[], None]], dict[str, str]]:
    """Whole training steps on 64 + 64 images with the paper's MNIST network: our ways, those of libraries,
    what was skipped."""
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

    def with_pytorch_adapt() -> Callable[[], None]:
        from pytorch_adapt.hooks import DANNHook

        model = mnist_dann()
        hook = DANNHook([torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)])
        parts = {
            "G": model.feature_extractor,
            "C": model.label_predictor,
            "D": torch.nn.Sequential(model.domain_classifier, torch.nn.Flatten(0)),
        }
        batch = {
            "src_imgs": source,
            "target_imgs": target,
            "src_labels": labels,
            "src_domain": torch.zeros(64),
            "target_domain": torch.ones(64),
        }

        def step() -> None:
            hook({**parts, **batch})

        step()
        return step

    ways = {
        "DANN": step_with(joint, lambda: joint.loss(source, labels, target).total),
        "source only, as many images": step_with(joint, lambda: joint.source_loss(all_images, all_labels)),
        "one batch per domain": step_with(separate, lambda: separate.loss(source, labels, target).total),
        "source forwarded twice": step_with(joint, source_twice),
    }
    found, skipped = libraries(
        {"pytorch-adapt, DANNHook": "pytorch-adapt"}, {"pytorch-adapt, DANNHook": with_pytorch_adapt}
    )
    return ways, found, skipped


def step_cost(rounds: int = 25) -> Measurement:
    ways, found, skipped = training_steps()
    seconds = seconds_in_turns(ways | found, rounds, clock=time.process_time)
    return Measurement(
        "dann",
        "one training step, 64 + 64 images, the paper's MNIST network",
        "s",
        seconds,
        kinds_of(seconds, "DANN", found),
        skipped,
    )


def bag_of_words(rows: int, rng: np.random.RandomState, features: int = 5000, per_row: int = 115) -> sp.csr_matrix:
    "Rows with about 100 of the features each, the frequent ones in many rows, as in text."
    frequency = 1 / np.arange(10, features + 10)
    words = rng.choice(features, size=rows * per_row, p=frequency / frequency.sum())
    counts = sp.csr_matrix((np.ones(len(words)), (np.repeat(np.arange(rows), per_row), words)), shape=(rows, features))
    counts.data[:] = 1.0
    return counts


def algorithm_1(rounds: int = 5, rows: int = 150) -> Measurement:
    """An epoch by sparse blocks against the printed loop over dense rows and, without an adversary,
    scikit-learn's network."""
    from tests.test_dann import algorithm_1 as printed_loop

    rng = np.random.RandomState(0)
    X, X_target, y = bag_of_words(rows, rng), bag_of_words(rows, rng), np.arange(rows) % 2
    dense, dense_target = X.toarray(), X_target.toarray()
    estimator = ShallowDANN(50, 1e-3, 0.1, max_iter=1, random_state=0)

    def with_scikit_learn() -> Callable[[], object]:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        network = MLPClassifier(
            (50,),
            activation="logistic",
            solver="sgd",
            batch_size=1,
            learning_rate_init=1e-3,
            momentum=0.0,
            max_iter=1,
            random_state=0,
        )

        def fit() -> None:
            with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
                network.fit(X, y)

        return fit

    name = "scikit-learn, MLPClassifier, batches of one, no adversary"
    found, skipped = libraries({name: "scikit-learn"}, {name: with_scikit_learn})
    expected = printed_loop(estimator, dense, y, dense_target, epochs=1)
    np.testing.assert_allclose(estimator.fit(X, y, X_target).W_, expected["W_"], atol=1e-10)
    ways = {
        "sparse blocks": lambda: estimator.fit(X, y, X_target),
        "loop over dense rows": lambda: printed_loop(estimator, dense, y, dense_target, epochs=1),
        **found,
    }
    seconds = seconds_in_turns(ways, rounds, clock=time.process_time)
    return Measurement(
        "dann",
        f"an epoch of Algorithm 1, {rows} pairs of texts with 5,000 words, 50 hidden units",
        "s",
        seconds,
        kinds_of(seconds, "sparse blocks", found),
        skipped,
    )


MEASUREMENTS = (step_cost, algorithm_1)
