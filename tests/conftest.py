"""Shared by all tests: where data and parity vectors are, and an environment that kernels inherit."""
from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from house import ROOT, cpu_seconds_of_children

# Kernels started by a test import this checkout, never another installed one, and use one thread each.
os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# the tests already run side by side: seeds that did too would cost memory and starts
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("XFER_JOBS", "1")
os.environ["IN_TEST"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np  # noqa: E402  (after the environment is set)
import pytest  # noqa: E402

# Fixtures that take many seconds to build; a test that asks for one of them is `slow`.
SLOW_FIXTURES = {"site", "wheel"}


def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def root() -> Path:
    "The checkout under test."
    return ROOT


@pytest.fixture(scope="session")
def built_once(tmp_path_factory):
    "`built_once(name, build)`: a folder that `build(folder)` fills once, for all processes of a run of the tests."
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(name: str, build: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second waits, and finds it built
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                build(folder)
                done.touch()
        return folder

    return folder_of


BUILD = ("import sys; from pathlib import Path; sys.path.insert(0, 'tools'); import docs; "
         "docs.build(docs.COURSE, Path(sys.argv[1]), docs.quarto_program())")


@pytest.fixture(scope="session")
def site(built_once) -> Path:
    "The site of the whole course, rendered once; XFER_SITE names one that is built already."
    if "XFER_SITE" in os.environ:
        return Path(os.environ["XFER_SITE"]).resolve()
    if not (os.environ.get("XFER_QUARTO") or shutil.which("quarto")):
        pytest.skip("Quarto is not here: install it (https://quarto.org/docs/get-started/), or name it in XFER_QUARTO")

    def build(folder: Path) -> None:
        done = subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]

    return built_once("site", build)


STACK = "import torch, torchvision, sklearn.linear_model, matplotlib.pyplot"


@pytest.fixture(scope="session")
def start() -> Callable[..., float]:
    """CPU seconds that a Python process needs now to import what every lab imports: the unit of the caps.

    Seconds differ between machines, and on one machine with what else uses its cores; a start is as much slower there.
    It is measured again after ten minutes, and where `now` is true.
    """
    measured: list[float] = []

    def seconds(now: bool = False) -> float:
        if now or not measured or time.monotonic() - measured[0] > 600:
            before = cpu_seconds_of_children()
            subprocess.run([sys.executable, "-c", STACK], check=True)
            measured[:] = time.monotonic(), cpu_seconds_of_children() - before
        return measured[1]

    return seconds


@pytest.fixture
def one_thread():
    "PyTorch on one thread: what is timed then does not depend on the number of cores."
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parity_cases(method: str, *kinds: str, but: tuple[str, ...] = ()) -> list:
    """Names of a method's cases that begin with one of `kinds` and with none of `but`; one that is skipped where the
    vectors are absent. The end of a name, after its kind, tells cases of one kind apart."""
    folder = Path(os.environ.get("XFER_PARITY", "")) / method
    names = sorted(path.stem for path in folder.glob("*.npz")) if "XFER_PARITY" in os.environ else []
    found = [name for name in names if name.startswith(kinds) and not name.startswith(but)]
    return found or [pytest.param(None, marks=pytest.mark.skip(reason="parity vectors not found: set XFER_PARITY"))]


class ParityCase:
    "One case of arrays computed by the authors' own code."

    def __init__(self, folder: Path, name: str):
        self.data = np.load(folder / f"{name}.npz")
        self.options = json.loads((folder / f"{name}.json").read_text())["options"]
        self.info = json.loads((folder / "arrays.json").read_text())["cases"][name]["arrays"]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.data[name]

    def tensor(self, name: str):
        "An array of the case as a tensor."
        import torch

        return torch.from_numpy(np.ascontiguousarray(self.data[name]))

    def assert_close(self, got, name: str, tolerance: float | None = None) -> None:
        "Largest difference at most `tolerance` (default: the case's own) times the largest reference value."
        reference, got = self.data[name], np.asarray(got)
        tolerance = self.info[name]["tol"] if tolerance is None else tolerance
        assert got.shape == reference.shape, f"{name}: shape {got.shape}, expected {reference.shape}"
        difference = np.abs(got.astype(float) - reference).max(initial=0)
        scale = max(np.abs(reference).max(initial=0), 1e-3)
        assert difference <= tolerance * scale, (
            f"{name}: differs by {difference:.3g}, allowed is {tolerance * scale:.3g}"
        )


@pytest.fixture(scope="session")
def parity():
    "`parity(method, case)` loads a case; the test is skipped where the vectors are absent."

    def load(method: str, case: str) -> ParityCase:
        folder = Path(os.environ.get("XFER_PARITY", "")) / method
        if "XFER_PARITY" not in os.environ or not folder.is_dir():
            pytest.skip("parity vectors not found: set XFER_PARITY to the folder that holds them")
        return ParityCase(folder, case)

    return load
