"""The script that runs the labs unattended: order, resuming, a lab that fails or hangs, the summary.

No GPU is needed."""

from __future__ import annotations

import json
import sys
import time

import pytest
from click.testing import CliRunner

from tools import gpu
from xfer_course.cli import course_notebooks, plan_run
from xfer_course.results import Claim, Record, code_hash

LABS = gpu.wanted_order(course_notebooks())


def test_labs_run_in_the_wanted_order():
    names = [lab.name for lab in LABS]
    present = [name for name in gpu.FIRST if name in names]
    assert names[: len(present)] == present and {"dann/mnist_m", "rotation/cifar10", "mrl/classify"} <= set(present)
    assert len(set(names)) == len(names) and all(lab.is_lab for lab in LABS)


def test_what_is_unrun_is_listed():
    recorded = [record.lab for record in gpu.load_records() if record.profile == "gpu"]
    assert sorted(gpu.unrun() + recorded) == sorted(lab.name for lab in LABS)
    listed = CliRunner().invoke(gpu.main, ["--list"]).output
    assert all(f"unrun in gpu: {name}" in listed for name in gpu.unrun())


def writes_a_record(lab: str, out, expected: str = "reproduced") -> list[str]:
    "A command that leaves what a lab leaves."
    planned = plan_run(next(each for each in LABS if each.name == lab), out, "smoke", (), "cpu", {})
    claim = Claim("c", (0.1, 0.2), at_least=0.0, expected=expected)
    measured = {"commit": None, "experiment": "v2:0", "inputs": {}, "date": "2026-01-01", "device": "example",
                "cpu": "a CPU", "kernels": "k", "threads": 1, "versions": {"torch": "0"}}
    record = Record(lab, "smoke", (0, 1), {}, {}, (claim,), measured, code_hash(planned.notebook.path), 3.0, 2**30,
                    0.01)
    code = (f"import pathlib, sys; p = pathlib.Path({str(planned.record_file)!r}); p.parent.mkdir(parents=True); "
            "p.write_text(sys.argv[1]); print('ran')")
    return [sys.executable, "-c", code, json.dumps(record.to_json())]


def fails(words: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; print('first words'); sys.exit({words!r})"]


@pytest.mark.parametrize("arguments", [["--minutes", "-5"], ["--minutes", "nan"], ["--list", "--profile", "nope"]])
def test_bad_options_are_refused(arguments):
    result = CliRunner().invoke(gpu.main, arguments)
    assert result.exit_code == 2 and arguments[-2] in result.output


HANGS = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; "
    "time.sleep(60)'])\ntime.sleep(60)",
]


def test_a_lab_that_fails_or_hangs_does_not_stop_the_rest(tmp_path, monkeypatch):
    commands = {"dann/mnist_m": fails("xfer: dann/mnist_m: ValueError: mnist is not here"), "mrl/classify": HANGS,
                "dann/moons": writes_a_record("dann/moons", tmp_path / "out")}
    monkeypatch.setattr(gpu, "command_of", lambda lab, *rest: commands[lab])
    arguments = [
        *commands,
        "--profile",
        "smoke",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "out"),
        "--records",
        str(tmp_path / "records"),
        "--minutes",
        "0.02",
    ]
    started = time.time()
    result = CliRunner().invoke(gpu.main, arguments)
    assert time.time() - started < 30, "what hangs is ended"
    assert result.exit_code == 1, result.output
    assert "[1/3] dann/mnist_m: failed" in result.output and "mnist is not here" in result.output
    assert "[2/3] mrl/classify: stopped at the limit" in result.output
    assert "[3/3] dann/moons: recorded" in result.output and "1.00 GiB" in result.output
    assert [file.name for file in (tmp_path / "records").iterdir()] == ["dann-moons-smoke.json"]

    # nothing runs: its command would fail now, the folder exists
    again = CliRunner().invoke(gpu.main, ["dann/moons", *arguments[3:]])
    assert again.exit_code == 0 and "dann/moons: finished earlier" in again.output


@pytest.mark.slow
def test_a_real_lab_runs_to_its_record(tmp_path):
    arguments = [
        "dann/moons",
        "--profile",
        "smoke",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "out"),
        "--records",
        str(tmp_path / "records"),
    ]
    result = CliRunner().invoke(gpu.main, arguments)
    assert result.exit_code == 0, result.output
    record = gpu.load_records(tmp_path / "records")[0]
    assert (
        record.lab == "dann/moons"
        and record.seconds > 0
        and record.peak_memory_bytes > 2**20
        and "torch" in record.measured["versions"]
    )
    assert "not judged (smoke)" in result.output


@pytest.mark.parametrize("arguments, word", [(["no/such"], "no/such"), (["--device", "quantum"], "quantum")])
def test_bad_input_gets_one_sentence(arguments, word):
    result = CliRunner().invoke(gpu.main, ["--device", "cpu", *arguments])
    assert result.exit_code == 1 and word in result.output and "Traceback" not in result.output
