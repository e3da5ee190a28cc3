"""Shared by all tests: where data and parity vectors are, and an environment that kernels inherit."""
from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Kernels started by a test import this checkout, never another installed one, and use one thread each.
os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
os.environ.setdefault("OMP_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # the tests already run side by side: seeds that did too would cost memory and starts
    os.environ.setdefault("XFER_JOBS", "1")
os.environ["IN_TEST"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np  # noqa: E402  (after the environment is set)
import pytest  # noqa: E402


# Handed out in this order, before all else: what takes longest, and starts kernels or a browser while the processes of
# the tests themselves are still small.
LONG = ("test_claims_of_the_cpu_profile_hold", "test_lesson_runs", "test_browser", "test_lab_runs_in_smoke", "test_cells_may_be_run_twice")


def pytest_configure(config):
    "Side by side (`-n`), tests go out group by group, in the order that `pytest_collection_modifyitems` gives them."
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist, config.option.loadscopereorder = "loadgroup", False


def pytest_collection_modifyitems(items):
    "Long tests come first, each by itself; the others of a file go to one process, with what their fixtures build."
    items.sort(key=lambda item: next((place for place, name in enumerate(LONG) if name in (item.originalname, item.path.stem)), len(LONG)))
    for item in items:
        if item.originalname not in LONG:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def root() -> Path:
    "The checkout under test."
    return ROOT


@pytest.fixture(scope="module", autouse=True)
def memory_given_back():
    "After each file of tests: what its tests have freed goes back to the system, which the C library would put off."
    yield
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@pytest.fixture
def one_thread():
    "PyTorch on one thread: what is timed then does not depend on the number of cores."
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class ParityCase:
    "One case of arrays computed by the authors' own code."

    def __init__(self, folder: Path, name: str):
        self.data = np.load(folder / f"{name}.npz")
        self.options = json.loads((folder / f"{name}.json").read_text())["options"]
        self.info = json.loads((folder / "arrays.json").read_text())["cases"][name]["arrays"]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.data[name]

    def assert_close(self, got, name: str, tolerance: float | None = None) -> None:
        "Largest difference at most `tolerance` (default: the case's own) times the largest reference value."
        reference, got = self.data[name], np.asarray(got)
        tolerance = self.info[name]["tol"] if tolerance is None else tolerance
        assert got.shape == reference.shape, f"{name}: shape {got.shape}, expected {reference.shape}"
        difference = np.abs(got.astype(float) - reference).max(initial=0)
        scale = max(np.abs(reference).max(initial=0), 1e-3)
        assert difference <= tolerance * scale, f"{name}: differs by {difference:.3g}, allowed is {tolerance * scale:.3g}"


@pytest.fixture(scope="session")
def parity():
    "`parity(method, case)` loads a case; the test is skipped where the vectors are absent."

    def load(method: str, case: str) -> ParityCase:
        folder = Path(os.environ.get("XFER_PARITY", "")) / method
        if "XFER_PARITY" not in os.environ or not folder.is_dir():
            pytest.skip("parity vectors not found: set XFER_PARITY to the folder that holds them")
        return ParityCase(folder, case)

    return load
