"""Where points run: several devices, a Dask cluster of two workers of which one is killed;
the same numbers everywhere."""
from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from house import ROOT
from xfer_course.labs import chosen_cluster, chosen_devices, on_devices, run_grid, runs_at_a_time

SEEDS = range(6)


def training(seed: int, marks: str, seconds: float) -> dict:
    "A small network is trained; a file in `marks` says which process began and finished which seed."
    import torch

    from xfer_course.training import seed_everything

    mark = Path(marks) / f"{seed}-{os.getpid()}-{time.time_ns()}"
    mark.with_suffix(".begun").touch()
    seed_everything(seed)
    net, x = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1)), torch.randn(200, 20)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (net(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
    time.sleep(seconds)
    mark.with_suffix(".finished").touch()
    return {"loss": float((net(x) ** 2).mean()), "weights": net[0].weight.detach().numpy()}


def grid(marks: Path, seconds: float = 0.0) -> list[dict]:
    return [{"seed": seed, "marks": str(marks), "seconds": seconds} for seed in SEEDS]


def marked(marks: Path, kind: str) -> list[int]:
    "The seeds of the marks of a kind, with repetitions."
    return sorted(int(path.name.split("-")[0]) for path in marks.glob(f"*.{kind}"))


def same(ours, theirs) -> bool:
    return all(a["loss"] == b["loss"] and np.array_equal(a["weights"], b["weights"])
               for a, b in zip(ours, theirs, strict=True))


@pytest.fixture
def undisturbed(tmp_path):
    "What the grid gives on the cores of this machine."
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    return run_grid(training, grid(folder))


@pytest.mark.parametrize("variable, value, ask", [
    ("XFER_ENGINE", "spark://a:1", chosen_cluster), ("XFER_ENGINE", "dask://a", chosen_cluster),
    ("XFER_ENGINE", "dask:/a:1", chosen_cluster),
    ("XFER_DEVICES", "cuda:0,cuda:0", lambda: chosen_devices("cuda")),
    ("XFER_DEVICES", "0,1", lambda: chosen_devices("cuda")),
])
def test_a_bad_choice_is_refused_in_one_sentence(monkeypatch, variable, value, ask):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"^{variable} must .*, got {re.escape(repr(value))}$"):
        ask()


def test_devices_count_for_their_kind_alone(monkeypatch):
    monkeypatch.setenv("XFER_DEVICES", "cuda:0,cuda:2")
    assert chosen_devices("cuda") == ["cuda:0", "cuda:2"] and runs_at_a_time("cuda", 9) == 2
    assert chosen_devices("cpu") == ["cpu"] and chosen_devices("mps") == ["mps"]


def seen(number: int) -> dict:
    return {"visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}


@pytest.mark.parametrize("visible, expected", [("", {"0", "2"}), ("5,6,7", {"5", "7"})])
def test_each_device_has_a_process_that_sees_it_alone(monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = dict(on_devices(seen, range(6), ["cuda:0", "cuda:2"]))
    assert set(found) == set(range(6)) and {each["visible"] for each in found.values()} == expected
    assert len({each["pid"] for each in found.values()}) == 2


def test_a_process_that_dies_costs_one_more_try(tmp_path):
    def dies_once(number: int) -> dict:
        mark = tmp_path / str(number)
        if number == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"number": number}

    assert dict(on_devices(dies_once, range(3), ["cpu", "cpu"])) == {n: {"number": n} for n in range(3)}


def test_a_process_that_always_dies_ends_the_run():
    with pytest.raises(RuntimeError, match="died 3 times at point 0"):
        list(on_devices(lambda number: os.kill(os.getpid(), signal.SIGKILL), range(1), ["cpu"]))


def test_an_error_of_the_experiment_comes_through():
    def fails(number: int) -> dict:
        raise ZeroDivisionError("seed 0")

    with pytest.raises(ZeroDivisionError, match="seed 0"):
        list(on_devices(fails, range(1), ["cpu", "cpu"]))


# --- a scheduler and two workers on this machine


class Cluster:
    "A scheduler and workers, each a process of its own."

    def __init__(self, folder: Path):
        self.folder, self.processes = folder, []
        self.start("scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard", "--no-show")
        deadline = time.monotonic() + 300
        while not (found := re.search(r"tcp://(127\.0\.0\.1:\d+)", (folder / "0.log").read_text("utf-8"))):
            assert time.monotonic() < deadline and self.processes[0].poll() is None, "the scheduler does not start"
            time.sleep(0.1)
        self.address = found[1]

    def start(self, kind: str, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options]
        with open(self.folder / f"{len(self.processes)}.log", "w") as log:
            self.processes.append(subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log,
                                                   env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}))
        return self.processes[-1]

    def start_worker(self, threads: int = 1) -> subprocess.Popen:
        return self.start("worker", f"tcp://{self.address}", "--nthreads", str(threads), "--no-nanny", "--no-dashboard")

    def wait_for_workers(self, count: int) -> None:
        from distributed import Client

        with Client(self.address) as client:
            client.wait_for_workers(count, timeout=300)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'xfer_course[cluster]'")
    folder = tmp_path / "cluster"
    folder.mkdir()
    started = Cluster(folder)
    monkeypatch.setenv("XFER_ENGINE", f"dask://{started.address}")
    yield started
    started.stop()


@pytest.mark.slow
def test_a_killed_worker_loses_no_finished_point_and_its_point_runs_again(undisturbed, cluster, tmp_path):
    import threading

    marks, kept = tmp_path / "marks", tmp_path / "kept"
    marks.mkdir()
    workers = [cluster.start_worker(), cluster.start_worker()]
    cluster.wait_for_workers(2)
    done_before, killed = [], []

    def kill_one() -> None:
        "When something is kept, a worker in the middle of a point is killed, whichever it is."
        while not killed:
            time.sleep(0.02)
            victim = next((worker for worker in workers if unfinished(worker.pid)), None)
            if victim and list(kept.glob("*.npz")):
                done_before.extend(marked(marks, "finished"))
                victim.kill()
                killed.append(victim)

    def unfinished(pid: int) -> bool:
        begun, finished = ({p.stem for p in marks.glob(f"*-{pid}-*.{kind}")} for kind in ("begun", "finished"))
        return bool(begun - finished)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    runs = run_grid(training, grid(marks, seconds=1.0), cache=kept)
    killer.join(timeout=60)
    victim, = killed
    victim.wait(timeout=60)
    assert [worker.poll() is None for worker in workers].count(True) == 1, "one was killed, the other one lives"
    assert same(runs, undisturbed), "the same numbers as on this machine, to the bit"
    assert len(marked(marks, "begun")) > len(SEEDS), "the point of the killed worker has run again"
    assert set(marked(marks, "finished")) == set(SEEDS) and done_before
    again = run_grid(training, grid(marks, seconds=1.0), cache=kept)
    assert same(again, undisturbed) and len(list(kept.glob("*.npz"))) == len(SEEDS), "everything was kept"


@pytest.mark.slow
def test_a_worker_with_several_threads_is_refused(cluster, tmp_path):
    cluster.start_worker(threads=2)
    with pytest.raises(ValueError,
                       match="each worker must run one point at a time; start tcp://.* again with --nthreads 1"):
        run_grid(training, grid(tmp_path))


def test_without_dask_the_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("XFER_ENGINE", "dask://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'xfer_course\[cluster\]'"):
        run_grid(training, grid(tmp_path))
