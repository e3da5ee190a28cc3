"""What an episode and a new class cost, beside scikit-learn where it has the piece; on one thread."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from benchmarks.measuring import Measurement, kinds_of, seconds_in_turns
from xfer_course.fewshot import Episode, NearestMeanClassifier, TransductiveClustering, episode_points, episodes

THREADS = 1
LIBRARY, ALONE = "scikit-learn's KMeans from the same start", "queries alone, nearest mean"
ADDED, REFITTED = "partial_fit of the new class", "scikit-learn, fitted again with all classes"
ARMS = {"K-means": dict(laplacian=0.0), "modes": dict(mode="mode", laplacian=0.0), "K-means, neighbours": {},
        "modes, neighbours": dict(mode="mode")}


def clouds(classes: int, per_class: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    "Features of classes that overlap, and labels."
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    return 0.7 * rng.standard_normal((classes, width))[labels] + rng.standard_normal((len(labels), width)), labels


def library_episode(x: np.ndarray, y: np.ndarray, episode: Episode) -> np.ndarray:
    "Numbers of clusters of the queries, by scikit-learn, on the same points and from the same means."
    support, labels = x[episode.support], y[episode.support]
    points = episode_points(support, x[episode.query])
    start = np.stack([points[:len(labels)][labels == k].mean(0) for k in np.unique(labels)])
    return KMeans(len(start), init=start, n_init=1).fit(points).labels_[len(labels):]


def seconds_per_episode(ways: tuple[int, ...] = (5, 20), number: int = 20, width: int = 64,
                        rounds: int = 3) -> list[Measurement]:
    "Mean seconds of an episode with one shot and fifteen queries of each class, for every arm."
    found = []
    for way in ways:
        x, y = clouds(2 * way, 20, width)
        drawn = list(episodes(y, way, 1, 15, number))

        def measured(answer: Callable[[Episode], Any], drawn: list[Episode] = drawn) -> Callable[[], Any]:
            return lambda: [answer(each) for each in drawn]

        def alone(each: Episode, x: np.ndarray = x, y: np.ndarray = y) -> np.ndarray:
            return NearestMeanClassifier().fit(x[each.support], y[each.support]).predict(x[each.query])

        for arm, options in ARMS.items():
            model = TransductiveClustering(**options)
            actions = {arm: measured(lambda each, model=model, x=x, y=y: model.fit_predict(
                x[each.support], y[each.support], x[each.query])), ALONE: measured(alone)}
            if arm == "K-means":
                actions[LIBRARY] = measured(lambda each, x=x, y=y: library_episode(x, y, each))
            seconds = {name: [value / number for value in values]
                       for name, values in seconds_in_turns(actions, rounds).items()}
            what = f"{arm}: an episode of {way} classes, 1 shot, 15 queries of each, {width} features"
            found.append(Measurement("fewshot", what, "s", seconds, kinds_of(seconds, arm, {LIBRARY: None})))
    return found


def seconds_per_new_class(classes: int = 100, per_class: int = 20, width: int = 64,
                          rounds: int = 3) -> list[Measurement]:
    "Seconds until one more class can be answered, with plain means and with a shared covariance."
    torch.set_num_threads(THREADS)
    x, y = clouds(classes, per_class, width)
    old, found = y < classes - 1, []
    for name, options, other in (
            ("means", {}, NearestCentroid()),
            ("a shared covariance", dict(covariance="shared"), LinearDiscriminantAnalysis("lsqr", shrinkage="auto"))):
        model = NearestMeanClassifier(**options).fit(x[old], y[old])
        ways = {ADDED: lambda model=model: model.partial_fit(x[~old], y[~old]),
                REFITTED: lambda other=other: other.fit(x, y)}
        seconds = seconds_in_turns(ways, rounds)
        found.append(Measurement("fewshot", f"a class more, {name}, after {classes - 1} of {per_class} examples each, "
                                 f"{width} features", "s", seconds, kinds_of(seconds, ADDED, {REFITTED: None})))
    return found


MEASUREMENTS = (seconds_per_episode, seconds_per_new_class)
