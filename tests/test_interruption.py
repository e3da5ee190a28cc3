"""Nothing is lost: training, labs and downloads killed at random moments, full disks, folders that cannot be written.

The cases run in children of a fresh process, which are killed, limited in the size of files, or lose their rights.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import numpy as np
import pytest

from conftest import ROOT
from test_training import EPOCHS, STEPS, Run, numbers, subprocess_options, weights
from xfer_course import data
from xfer_course.data import catalogue
from xfer_course.results import Record, run_grid

pytestmark = pytest.mark.full
KILLS = 5  # at least so many for each of fit and the download


# --- children that something happens to


def in_child(action: Callable[[], None], kill_after: Callable[[], None] | None = None) -> int:
    "Exit code of a forked child that runs `action`; with `kill_after` it gets SIGKILL when that returns."
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(code)
    if kill_after is not None:
        kill_after()
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def sentence_of(action: Callable[[], None], before: Callable[[], None]) -> str:
    "The error of `action` in a child, in one line; `before` takes something away from the child."
    reading, writing = os.pipe()

    def child() -> None:
        before()
        try:
            action()
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        else:
            os.write(writing, b"no error")

    in_child(child)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read().decode()


def run_cases(names: list[str], folder: Path) -> dict:
    "Results of these functions of this file, run in one fresh process: forking the tests' own process is not safe."
    code = "import json, pathlib, sys, torch\ntorch.set_num_threads(1)\nimport test_interruption as t\n"
    code += f"folder = pathlib.Path({str(folder)!r})\n"
    code += f"print('RESULT' + json.dumps({{name: getattr(t, name)(folder / name) for name in {names}}}))"
    for name in names:
        (folder / name).mkdir()
    done = subprocess.run([sys.executable, "-c", code], **subprocess_options())
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT")[1])


# --- fit and downloads, killed at random moments


def train_slowly(folder: Path, pause: float = 0.01) -> None:
    run = Run(hook=lambda p: time.sleep(pause))
    history = run.fit(checkpoint=folder)
    (folder / "numbers.json").write_text(json.dumps([numbers(history), weights(run)]))


def kill_training(folder: Path) -> dict:
    "One run, killed and resumed until it has been killed often enough, then left alone."
    kills, moments = 0, random.SystemRandom()
    while kills < KILLS:
        kills += (
            in_child(lambda: train_slowly(folder), lambda: time.sleep(moments.uniform(0.0, EPOCHS * STEPS * 0.01 / 2)))
            == -signal.SIGKILL
        )
    assert in_child(lambda: train_slowly(folder, 0.0)) == 0
    return {"kills": kills, "numbers": json.loads((folder / "numbers.json").read_text())}


CONTENT = hashlib.sha256(b"seed").digest() * 20_000  # 640 kB


class Trickle(BaseHTTPRequestHandler):
    "Sends a file in pieces, slowly."

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        for start in range(0, len(CONTENT), 32_000):
            try:
                self.wfile.write(CONTENT[start : start + 32_000])
            except OSError:  # the reader was killed
                return
            self.server.sent += 1
            time.sleep(self.server.pause)


def declare_toy(url: str) -> None:
    known = {"bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest(), "md5": None}
    part = {"file": "x.bin", "urls": [url], "unpack": False, "gives": {"x.bin": "toy/x.bin"}, **known}
    toy = {
        "title": "Toy",
        "kind": "files",
        "source": "http://example.org",
        "by_hand": "put it there",
        "licence": "none",
        "forms": [{"files": [{"path": "toy/x.bin", **known}]}],
        "download": [part],
    }
    catalogue.manifest = lambda: {"toy": toy}


def serve() -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Trickle)
    server.sent, server.pause = 0, 0.01
    threading.Thread(target=server.serve_forever, daemon=True).start()
    declare_toy(f"http://127.0.0.1:{server.server_port}/x.bin")
    return server


def kill_download(folder: Path) -> dict:
    "A download, killed while its pieces come in, and at last left alone."
    server, moments, kills, states = serve(), random.SystemRandom(), 0, []
    for _ in range(KILLS):
        enough = server.sent + moments.randint(1, 15)

        def wait(enough: int = enough) -> None:
            deadline = time.time() + 20
            while server.sent < enough and time.time() < deadline:
                time.sleep(0.002)

        kills += in_child(lambda: data.get("toy", folder), wait) == -signal.SIGKILL
        states.append((folder / "toy/x.bin").exists() and (folder / "toy/x.bin").read_bytes() != CONTENT)
    server.pause = 0
    assert in_child(lambda: data.get("toy", folder)) == 0
    return {"kills": kills, "ever half there": any(states), "whole": (folder / "toy/x.bin").read_bytes() == CONTENT}


def test_fit_and_downloads_survive_sigkill_at_random_moments(tmp_path, record_property):
    undisturbed, found = Run(), run_cases(["kill_training", "kill_download"], tmp_path)
    assert found["kill_training"]["kills"] >= KILLS
    assert found["kill_training"]["numbers"] == [numbers(undisturbed.fit()), weights(undisturbed)], (
        "the same numbers, to the bit"
    )
    assert found["kill_download"] == {"kills": KILLS, "ever half there": False, "whole": True}
    record_property("SIGKILL during fit", f"{found['kill_training']['kills']} times, same numbers to the bit")
    record_property("SIGKILL during a download", f"{KILLS} times, then whole; never half a file in place")


# --- a lab under `xfer run`, killed at random moments

LAB = [
    'profile = "cpu"\nseeds = [0, 1, 2, 3, 4]\ndevice = "auto"\nout = None',
    """import time
from dataclasses import dataclass
import torch
from torch import nn
from xfer_course.results import Claims, choose_profile, finish, partial_folder, run_grid
from xfer_course.training import fit, seed_everything""",
    """@dataclass(frozen=True)
class Setting:
    epochs: int = 2

started, setting = time.perf_counter(), choose_profile({'smoke': Setting(), 'cpu': Setting()}, profile)""",
    """def experiment(seed, epochs):
    seed_everything(seed)
    net, x = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)), torch.randn(64, 4)

    def step(batch, p):
        return (net(batch) - batch.sum(1, keepdim=True)).square().mean(), {}

    optimizer = torch.optim.Adam(net.parameters())
    history = fit(step, list(x.split(8)), optimizer, epochs=epochs, seed=seed, progress=False)
    time.sleep(0.5)
    return {"loss": history.loss[-1]}""",
    """grid = [dict(seed=seed, epochs=setting.epochs) for seed in seeds]
runs = run_grid(experiment, grid, cache=partial_folder("toy/lab", out))""",
    """claims, losses = Claims(), [run["loss"] for run in runs]
claims.add("the loss is positive", losses, at_least=0.0, unit="loss")
finish("toy/lab", profile=profile, seeds=seeds, setting=setting, metrics={"loss": losses}, claims=claims,
       started=started, runs=runs, out=out);""",
]


def toy_course(folder: Path) -> Path:
    "A course with one lab, whose grid takes some seconds."
    (folder / "nbs/toy").mkdir(parents=True)
    (folder / "settings.ini").write_text("[DEFAULT]\nlib_name = xfer_course\n")
    cells = [nbformat.v4.new_markdown_cell("# A lab for tests")] + [nbformat.v4.new_code_cell(source) for source in LAB]
    cells[1].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "nbs/toy/lab.ipynb")
    return folder


def undisturbed_losses() -> list[float]:
    "The experiment of the lab, run here."
    namespace: dict = {}
    for source in (LAB[1], LAB[3]):
        exec(source, namespace)
    namespace["time"] = type("no waiting", (), {"sleep": staticmethod(lambda seconds: None)})
    return [namespace["experiment"](seed, 2)["loss"] for seed in range(5)]


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_a_lab_survives_sigkill_at_random_moments(tmp_path, record_property):
    course, moments = toy_course(tmp_path), random.SystemRandom()
    command = [
        sys.executable,
        "-c",
        "from xfer_course.cli import main; main()",
        "run",
        "toy/lab",
        "--profile",
        "smoke",
        "--out",
        "runs",
    ]
    options = {
        "cwd": course,
        "env": os.environ | {"PYTHONPATH": str(ROOT), "XFER_JOBS": "1", "OMP_NUM_THREADS": "1"},
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
    }
    kills = 0
    for wanted in (1, 3):  # points of the grid that are done when it is killed, and then a moment more
        process, deadline = subprocess.Popen(command, **options), time.time() + 600
        while len(list(course.rglob("partial/*/*.npz"))) < wanted and process.poll() is None and time.time() < deadline:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    kept = {path: path.read_bytes() for path in course.rglob("partial/*/*.npz")}
    done = subprocess.run(command, **options, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    record = Record.from_json(json.loads(next(course.rglob("toy-lab-smoke.json")).read_text()))
    assert record.metrics["loss"] == undisturbed_losses(), "the same numbers, to the bit"
    assert kills >= 1 and kept and all(path.read_bytes() == content for path, content in kept.items()), (
        "what was done is not done again"
    )
    record_property("SIGKILL during xfer run", f"{kills} times, same numbers to the bit")


# --- a full disk and a folder without rights


def no_more_than(size: int) -> Callable[[], None]:
    "Files above this size cannot be written: the system answers as it does on a full disk."
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def without_rights() -> None:
    "The superuser may write everywhere, so become somebody else."
    if os.geteuid() == 0:
        os.setgroups([])
        os.setuid(65534)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def square(seed: int) -> dict:
    return {"value": np.full(2000, seed)}


def a_record(date: str) -> Record:
    return Record(
        lab="toy/lab", profile="cpu", seeds=(0,), setting={}, metrics={"m": [1.0]}, claims=(), measured={"date": date},
        page="0", seconds=1.0, peak_memory_bytes=1, speed_probe_seconds=0.01, notes={"long": "x" * 5000},
    )


def full_disk(folder: Path) -> dict:
    "Sentence, and whether the earlier files are as they were, for everything that writes."
    server, found = serve(), {}
    server.pause = 0
    assert in_child(lambda: interrupted_after_an_epoch(folder / "fit")) == 0
    a_record("2026-01-01").save(folder / "record")
    os.environ["XFER_JOBS"] = "1"
    run_grid(square, [{"seed": 0}], cache=folder / "grid", device="meta")
    (folder / "get").mkdir()
    actions = {
        "fit": lambda: Run().fit(checkpoint=folder / "fit"),
        "record": lambda: a_record("2026-02-02").save(folder / "record"),
        "grid": lambda: run_grid(square, [{"seed": 0}, {"seed": 1}], cache=folder / "grid", device="meta"),
        "get": lambda: data.get("toy", folder / "get"),
    }
    for name, action in actions.items():
        before = files_below(folder / name)
        found[name] = [sentence_of(action, no_more_than(1000)), files_below(folder / name) == before]
    return found


def interrupted_after_an_epoch(folder: Path) -> None:
    def hook(p: float) -> None:
        if p >= 0.4:
            raise KeyboardInterrupt

    try:
        Run(hook=hook).fit(checkpoint=folder)
    except KeyboardInterrupt:
        pass


def read_only(folder: Path) -> dict:
    import accelerate.utils  # noqa: F401  (what is imported late could not be read without rights)
    from click.testing import CliRunner

    from xfer_course.cli import main

    (folder / "kept").write_text("as it was")
    declare_toy("http://127.0.0.1:9/x.bin")

    def run_command() -> None:
        result = CliRunner().invoke(main, ["run", "dann/moons", "--profile", "smoke", "--out", str(folder)])
        raise RuntimeError(f"exit code {result.exit_code}: {result.output.strip()}")

    actions = {
        "fit": lambda: Run().fit(checkpoint=folder / "fit"),
        "get": lambda: data.get("toy", folder),
        "record": lambda: a_record("2026-01-01").save(folder),
        "xfer run": run_command,
    }
    for parent in [folder, *folder.parents]:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o005 and parent != Path("/"):
            parent.chmod(0o755)  # pytest's own folders are closed to others
    folder.chmod(0o555)
    try:
        return {
            name: [sentence_of(action, without_rights), [path.name for path in folder.iterdir()] == ["kept"]]
            for name, action in actions.items()
        }
    finally:
        folder.chmod(0o755)


SENTENCES = {
    "full_disk": {
        "fit": "OSError: .*cannot write the checkpoint .* the one before it is intact",
        "record": "OSError: .*File too large",
        "grid": "OSError: .*File too large",
        "get": "OSError: .*x.bin could not be written into",
    },
    "read_only": {
        "fit": "PermissionError: .*cannot be written .* another folder for the checkpoints",
        "get": "PermissionError: .*cannot be written .* set XFER_DATA",
        "record": "PermissionError: .*Permission denied",
        "xfer run": "exit code 1: xfer: .*cannot be written",
    },
}


@pytest.mark.skipif(os.name == "nt", reason="limits and rights are those of POSIX")
def test_a_full_disk_and_a_read_only_folder_get_one_sentence_and_earlier_files_stay(tmp_path, record_property):
    import re

    found = run_cases(["full_disk", "read_only"], tmp_path)
    for case, sentences in SENTENCES.items():
        assert set(found[case]) == set(sentences)
        for name, (sentence, intact) in found[case].items():
            assert re.search(sentences[name], sentence), f"{case}, {name}: {sentence}"
            assert "\n" not in sentence and intact, f"{case}, {name}: {sentence}"
    record_property("full disk", f"{len(found['full_disk'])} writers: one sentence each, earlier files intact")
    record_property("read-only folder", f"{len(found['read_only'])} writers: one sentence each, earlier files intact")
