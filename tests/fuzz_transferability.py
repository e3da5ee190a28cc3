"""How fuzzing calls the public functions of the chapter transferability."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from drawing import NOT_DRAWN, any_array, any_float, any_images, any_int, any_labels, fuzz
from xfer_course import transferability

# --- scores of checkpoints, and the motion before them

NOT_DRAWN.update(["Balls", "Descent", "LogME", "Ranked"])

FEATURES = st.integers(0, 9).map(lambda seed: np.random.default_rng(seed).normal(size=(12, 3)))
LABELS = st.just(np.arange(12) % 3)
ANY_LABELS = st.one_of(any_labels, any_array)
SCORED = {"features": FEATURES, "labels": LABELS}
ANY_SCORED = {"features": any_array, "labels": ANY_LABELS}

for name in ("logme", "sfda", "h_score", "sfda_shrinkage"):
    fuzz(name, getattr(transferability, name), SCORED, ANY_SCORED, lambda r, a: np.isfinite(r))
fuzz("fit_logme", transferability.fit_logme, SCORED, ANY_SCORED, lambda r, a: (r.alphas > 0).all())
fuzz("nce", transferability.nce, {"source_labels": LABELS, "labels": LABELS},
     {"source_labels": ANY_LABELS, "labels": ANY_LABELS}, lambda r, a: r <= 1e-12)
fuzz("weighted_tau", transferability.weighted_tau,
     {"scores": st.just([1.0, 2.0, 3.0]), "accuracies": st.just([2, 1, 3])},
     {"scores": any_array, "accuracies": any_array}, lambda r, a: -1.0001 < r < 1.0001)
fuzz("rank_checkpoints", lambda images, labels, score: transferability.rank_checkpoints(
    {"a": torch.nn.Flatten()}, images, labels, score=score),
     {"images": FEATURES.map(lambda x: torch.from_numpy(x).float()), "labels": LABELS, "score": st.just("logme")},
     {"images": any_array.map(torch.from_numpy), "labels": ANY_LABELS, "score": st.sampled_from(("best", None))},
     lambda r, a: len(r) == 1)
MOVED = SCORED | {"general": FEATURES, "n_sigma": st.just(0.6), "strength": st.just(1.0)}
ANY_MOVED = ANY_SCORED | {"general": any_array, "n_sigma": any_float, "strength": any_float}
fuzz("potential_energy", transferability.potential_energy, MOVED, ANY_MOVED, lambda r, a: r >= 0)
fuzz("potential_energy_descent", transferability.potential_energy_descent,
     MOVED | {"dt": st.just(0.1), "max_steps": st.just(3), "exit_ratio": st.just(0.5)},
     ANY_MOVED | {"dt": any_float, "max_steps": any_int, "exit_ratio": any_float},
     lambda r, a: r.features.shape == a["features"].shape)

# --- anomalies

fuzz("AnomalyDetector", lambda X, keep, variance, distance: transferability.AnomalyDetector(
    keep=keep, variance=variance, distance=distance).fit(X).score_samples(X),
     {"X": FEATURES, "keep": st.just("npca"), "variance": st.just(0.9), "distance": st.just("mahalanobis")},
     {"X": any_array, "keep": st.sampled_from(("both", 1)), "variance": any_float, "distance": st.just("cosine")},
     lambda r, a: r.shape == (len(a["X"]),) and (r <= 0).all())
fuzz("principal_parts", transferability.principal_parts,
     {"features": FEATURES, "variance": st.just(0.9), "keep": st.just("pca")},
     {"features": any_array, "variance": any_float, "keep": st.just("all")}, lambda r, a: len(r) >= 1)
fuzz("sigma_threshold", transferability.sigma_threshold, {"dimensions": st.integers(1, 9), "n_sigma": st.just(2.0)},
     {"dimensions": any_int, "n_sigma": any_float}, lambda r, a: r > 0)


class _Maps(torch.nn.Module):
    def forward(self, images):
        return torch.cat([images, images**2], 1)


PICTURES = st.integers(0, 9).map(lambda seed: torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(seed)))
FITTED = transferability.AnomalyDetector(_Maps()).fit(torch.rand(8, 1, 4, 4))
fuzz("heat_map", lambda images, level: transferability.heat_map(FITTED, images, level),
     {"images": PICTURES, "level": st.just(0)}, {"images": any_images, "level": any_int},
     lambda r, a: r.shape == (len(a["images"]), *a["images"].shape[2:]))
