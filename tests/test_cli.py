"""The command line: what it prints, what it leaves, how it fails."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from conftest import ROOT
from xfer_course import labs
from xfer_course.cli import (
    CourseNotebook,
    Run,
    course_notebooks,
    emitted_record,
    execute,
    main,
    offline_html,
    plan_run,
    select_notebooks,
)


def xfer(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from xfer_course.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=options.pop("cwd", ROOT), timeout=300, **options)


def a_notebook(folder: Path, *sources: str, name: str = "toy") -> CourseNotebook:
    cells = [nbformat.v4.new_markdown_cell("# Toy\n\n> A notebook for tests, with $x^2$.")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return CourseNotebook(f"toy/{name}", path, "Toy", ())


def test_a_reader_that_stops_early_hears_nothing():
    "`xfer results | head -1`: no words about a broken pipe."
    command = f'"{sys.executable}" -c "from xfer_course.cli import main; main()" results | head -c 1'
    process = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert process.stderr == ""


def test_help_answers_without_torch():
    code = ("import sys\nfrom xfer_course.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in "
            "sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "Commands:" in done.stdout


def test_list_names_every_notebook():
    done = xfer("list")
    assert done.returncode == 0
    assert all(notebook.name in done.stdout for notebook in course_notebooks())


def test_doctor_and_results_and_data_list():
    for command in (["doctor"], ["results"], ["data", "list"]):
        done = xfer(*command)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_select_by_chapter_and_by_name():
    notebooks = course_notebooks()
    chapter = select_notebooks(("dann",), notebooks)
    assert ({"dann/moons", "dann/digits"} < {n.name for n in chapter}
            == {f"dann/{p.stem}" for p in (ROOT / "nbs/dann").glob("*.ipynb")})
    assert select_notebooks(("dann/moons", "dann"), notebooks)[0].name == "dann/moons"
    assert len(select_notebooks(("dann/moons", "dann"), notebooks)) == len(chapter)


def test_run_leaves_notebook_page_and_record_and_then_loads_them(tmp_path):
    arguments = ("run", "dann/moons", "--profile", "smoke", "--out", str(tmp_path))
    done = xfer(*arguments)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "dann/moons/smoke"
    assert {p.name for p in folder.iterdir() if p.is_file()} == {"moons.ipynb", "moons.html", "dann-moons-smoke.json"}
    assert "Claims" in done.stdout and f"page: {folder / 'moons.html'}" in done.stdout
    stamp = (folder / "moons.ipynb").stat().st_mtime_ns
    again = xfer(*arguments)
    assert "finished earlier, loaded" in again.stdout and (folder / "moons.ipynb").stat().st_mtime_ns == stamp


def test_paths_among_the_knobs_are_meant_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pics/train").mkdir(parents=True)
    (tmp_path / "mnist").mkdir()
    labs = {n.name: n for n in course_notebooks()}

    def knob(lab: str, **knobs) -> object:
        return plan_run(labs[lab], Path("out"), "smoke", (), "auto", knobs).parameters[next(iter(knobs))]

    assert knob("mrl/classify", data="pics") == str(tmp_path / "pics")
    assert knob("mrl/classify", data="mnist") == "mnist" and knob("mrl/classify", epochs=3) == 3
    for name in ("weights", "vocabulary", "folder", "root"):
        assert knob("coop/real_clip", **{name: "clip/file"}) == str(tmp_path / "clip/file")
        assert knob("coop/real_clip", **{name: "/clip"}) == "/clip" and knob("coop/real_clip", **{name: None}) is None
    assert knob("coop/train_tiny_clip", save="~/kept") == str(Path.home() / "kept")
    here = plan_run(labs["mrl/classify"], Path("/out"), "smoke", (), "auto", {"data": "pics"}).folder
    (tmp_path / "other/pics/train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "other")
    assert plan_run(labs["mrl/classify"], Path("/out"), "smoke", (), "auto", {"data": "pics"}).folder != here


def test_a_notebook_works_where_the_user_stands_and_imports_nothing_from_there(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for module in ("random", "json", "mine"):
        Path(f"{module}.py").write_text("raise RuntimeError('imported from the working folder')")
    notebook = a_notebook(tmp_path, "import json, os, random, torch\nopen('left.txt', 'w').write(os.getcwd())",
                          "try:\n    import mine\nexcept ModuleNotFoundError:\n    print('not there')")
    execute(plan_run(notebook, Path("out"), "cpu", (), "auto", {}), bar=False)
    assert Path("left.txt").read_text() == str(tmp_path / "work")


def test_a_notebook_that_is_run_from_the_checkout_imports_this_very_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    notebook = a_notebook(tmp_path, f"import xfer_course\nassert xfer_course.__file__.startswith({str(ROOT)!r})")
    execute(plan_run(notebook, tmp_path / "out", "cpu", (), "auto", {}), bar=False)


def test_other_seeds_get_a_folder_of_their_own(tmp_path):
    lab = next(n for n in course_notebooks() if n.name == "dann/moons")
    folders = {plan_run(lab, tmp_path, "cpu", seeds, "auto", {}).folder for seeds in ((), (0,), (0, 1))}
    assert len(folders) == 3


def test_failing_cell_keeps_the_notebook_and_gives_one_line(tmp_path):
    from xfer_course.cli import NotebookFailed

    run = Run(a_notebook(tmp_path, "x = 1", "raise ValueError('steps is -1; it must be positive')"), {},
              tmp_path / "out")
    with pytest.raises(NotebookFailed, match="steps is -1"):
        execute(run, bar=False)
    assert run.executed.exists()


@pytest.mark.parametrize("command", ["raise SystemExit(1)", "print('no kernel')"])
def test_a_foreign_kernel_of_the_same_name_is_not_used(tmp_path, monkeypatch, command):
    "Another environment's python3 may stand first on Jupyter's path."
    folder = tmp_path / "jupyter/kernels/python3"
    folder.mkdir(parents=True)
    kernel = {"argv": [sys.executable, "-c", command, "{connection_file}"], "display_name": "x", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    run = Run(a_notebook(tmp_path, "import sys", f"assert sys.executable == {sys.executable!r}"), {}, tmp_path / "out")
    execute(run, bar=False)
    assert run.executed.exists()


@pytest.mark.parametrize("interpreter, said", [("/elsewhere/bin/python", True), ("python", False),
                                               (sys.executable, False)])
def test_jupyterlab_with_a_foreign_kernel_is_said(tmp_path, monkeypatch, interpreter, said):
    from xfer_course.cli import machine

    (tmp_path / "kernels/python3").mkdir(parents=True)
    kernel = {"argv": [interpreter, "-m", "ipykernel"], "display_name": "x", "language": "python"}
    (tmp_path / "kernels/python3/kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert machine._other_kernel() == (interpreter if said else None)


def test_emitted_record_is_the_last_one():
    from xfer_course.results import RECORD_TYPE

    outputs = [nbformat.v4.new_output("display_data", data={RECORD_TYPE: {"lab": name}})
               for name in ("first", "second")]
    cells = [nbformat.v4.new_code_cell("1", outputs=outputs)]
    assert emitted_record(nbformat.v4.new_notebook(cells=cells)) == {"lab": "second"}
    assert emitted_record(nbformat.v4.new_notebook()) is None


def test_page_needs_no_network(tmp_path):
    notebook = a_notebook(tmp_path, "#| hide\nsecret = 1", "print('shown')")
    page = offline_html(notebook.path)
    assert "<math" in page and "secret" not in page and "shown" in page
    assert "src=\"http" not in page and "cdn" not in page.lower()


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_interrupt_keeps_what_was_done(tmp_path):
    command = [sys.executable, "-c", "from xfer_course.cli import main; main()", "run", "foundations/training",
               "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               start_new_session=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    deadline = time.time() + 120
    while not list(tmp_path.rglob("training.ipynb")) and time.time() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors and "Traceback" not in errors and "never retrieved" not in errors
    nbformat.read(next(tmp_path.rglob("training.ipynb")), as_version=4)


FAKE_JUPYTER = """import signal, sys, time
asked = []
def ask(number, frame):
    asked.append(number)
    print("asked", flush=True)
    if len(asked) == 2:
        sys.exit(7)
signal.signal(signal.SIGINT, ask)
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_interrupts_are_left_to_jupyterlab(tmp_path):
    "The terminal sends Ctrl-C to both programs; JupyterLab asks whether it is meant, so `xfer lab` must live on."
    (tmp_path / "jupyter.py").write_text(FAKE_JUPYTER)
    command = [sys.executable, "-c", "from xfer_course.cli import main; main()", "lab"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    time.sleep(0.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 7 and errors == ""


BAD_INPUT = {
    "unknown lab": (["run", "dann/digit"], 1, "dann/digit"),
    "unknown profile": (["run", "dann/moons", "--profile", "tiny"], 1, "'tiny'"),
    "unknown knob": (["run", "dann/moons", "-p", "colour=red"], 1, "'colour'"),
    "knob that is no parameter's value": (["run", "dann/moons", "-p", "epochs={1,2}"], 1, "epochs must be a number"),
    "knob without value": (["run", "dann/moons", "-p", "steps"], 2, "key=value"),
    "negative seed": (["run", "dann/moons", "--seed", "-1"], 2, "--seed"),
    "unknown device": (["run", "dann/moons", "--device", "quantum"], 1, "'quantum'"),
    "device without numbers": (["run", "dann/moons", "--device", "meta"], 1, "'meta'"),
    "unknown data set": (["data", "get", "imagenet22k"], 1, "imagenet22k"),
    "nothing to make": (["data", "make", "digits2"], 1, "digits2"),
    "no target": (["run"], 2, "TARGETS"),
}


@pytest.mark.parametrize("arguments, code, word", BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_gets_one_sentence(arguments, code, word, tmp_path):
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path)] if arguments[0] == "run" else arguments)
    assert result.exit_code == code
    assert word in result.output and "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_unwritable_output_folder(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    result = CliRunner().invoke(main, ["run", "dann/moons", "--out", str(blocked / "runs")])
    assert result.exit_code == 1 and str(blocked) in result.output


def test_full_disk_is_said_before_the_work(tmp_path, monkeypatch):
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 0))
    result = CliRunner().invoke(main, ["run", "dann/moons", "--out", str(tmp_path)])
    assert result.exit_code == 1 and "free" in result.output


def test_a_run_that_disagrees_with_its_record_fails(tmp_path, monkeypatch):
    """Exit code 1 and a sentence where the numbers of a run are not those of the committed record;
    its claims are shown before."""
    from test_records import a_record
    from xfer_course.cli import commands
    from xfer_course.labs import Record

    monkeypatch.setattr(commands, "finished_record", lambda run: a_record().to_json())
    monkeypatch.setattr(Record, "borders", lambda self: [])
    monkeypatch.setattr(Record, "surprises", lambda self: [f"{self.lab}: another number"])
    result = CliRunner().invoke(main, ["run", "dann/moons", "--out", str(tmp_path)])
    assert result.exit_code == 1 and "another number" in result.output
    assert result.output.index("Claims") < result.output.index("page: ") < result.output.index("1 notebook ran in ")
    assert "numbers agree" not in result.output


def test_the_end_of_a_run_is_said_in_sentences(tmp_path, monkeypatch):
    "Verdicts counted, whether the numbers are the recorded ones, and of a smoke run that it judges nothing."
    from test_records import a_record
    from xfer_course.cli import commands
    from xfer_course.labs import Claim, Record

    claims = (Claim("up", (0.10, 0.11), at_least=0), Claim("down", (-0.1, -0.2), at_least=0))
    monkeypatch.setattr(commands, "finished_record", lambda run: replace(
        a_record(), profile=run.parameters["profile"], claims=claims, metrics={}, seeds=(0, 1)).to_json())
    monkeypatch.setattr(Record, "borders", lambda self: [])
    monkeypatch.setattr(Record, "surprises", lambda self: [])
    monkeypatch.setattr(labs, "uncompared", lambda record: [])
    said = [CliRunner().invoke(main, ["run", "dann/moons", "--profile", profile, "--out", str(tmp_path)]).output
            for profile in ("cpu", "smoke")]
    assert "✓ reproduced" in said[0] and "✗ not reproduced here" in said[0]
    assert "1 of 2 claims held, 0 held partly and 1 did not.\nAll numbers agree with the recorded ones" in said[0]
    assert said[1].count("· not judged (smoke)") == 2 and "its claims are not judged" in said[1]
    assert "✓" not in said[1] and "numbers agree" not in said[1]
