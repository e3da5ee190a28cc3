"""How heavy the course and its tests are: seconds, slowest cells, memory. Writes `data/load.json`,
which the page of benchmarks shows.

python tools/load.py course               every chapter and lab in `smoke`, one on each core
python tools/load.py suite [PYTEST ...]   the tests, the memory of all their processes watched
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import click
import nbformat
import psutil

from xfer_course.cli import CourseNotebook, NotebookFailed, Run, course_notebooks, execute, plan_run
from xfer_course.data import write_atomically
from xfer_course.results import available_jobs, course_root, device_name

SLOWEST = 12


def keep(name: str, content: dict) -> None:
    "Put one part into the file; the other parts stay."
    path = course_root() / "data/load.json"
    whole = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    whole[name] = {"device": device_name("cpu"), "date": date.today().isoformat(), **content}
    text = json.dumps(whole, indent=1, sort_keys=True) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
    click.echo(f"{path.name}: {name}")


@click.group()
def main() -> None:
    "Measure what running the course and its tests takes."


@main.command()
def course() -> None:
    """Run every notebook of every chapter in `smoke`, one on each core; keep the seconds of all and of each,
    and the slowest cells."""
    cores, notebooks, cells, failed = available_jobs(), {}, [], {}
    os.environ |= {"XFER_JOBS": "1", "OMP_NUM_THREADS": "1"}  # notebooks run side by side, not their seeds
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        running = [pool.submit(run_in_smoke, notebook, Path(folder)) for notebook in course_notebooks()]
        for done in as_completed(running):
            name, seconds, error, found = done.result()
            notebooks[name], cells = seconds, cells + found
            failed |= {name: error} if error else {}
            click.echo(f"{name}: {seconds} s")
        whole = time.perf_counter() - started
    slowest = sorted(cells, key=lambda cell: -cell["seconds"])[:SLOWEST]
    keep(
        "smoke",
        {
            "seconds": round(whole, 1),
            "side by side": cores,
            "notebooks": dict(sorted(notebooks.items())),
            "slowest cells": slowest,
            "failed": failed,
        },
    )
    raise SystemExit(bool(failed))


def run_in_smoke(notebook: CourseNotebook, folder: Path) -> tuple[str, float, str, list[dict]]:
    "Name, seconds, error (empty if there was none) and cells of one notebook's run."
    started, error = time.perf_counter(), ""
    run = plan_run(notebook, folder, "smoke", (), "cpu", {})
    try:
        execute(run, bar=False)
    except NotebookFailed as failure:
        error = str(failure).splitlines()[0][:200]
    return notebook.name, round(time.perf_counter() - started, 1), error, cell_seconds(run)


def cell_seconds(run: Run) -> list[dict]:
    "What each code cell of an executed notebook took, by papermill's clock, with its first line of code."
    found = []
    for number, cell in enumerate(nbformat.read(run.executed, as_version=4).cells):
        seconds = cell.metadata.get("papermill", {}).get("duration")
        if cell.cell_type == "code" and seconds is not None:
            lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith("#")]
            found.append(
                {
                    "notebook": run.notebook.name,
                    "cell": number,
                    "seconds": round(seconds, 1),
                    "starts": (lines or [""])[0][:70],
                }
            )
    return found


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("pytest_options", nargs=-1, type=click.UNPROCESSED)
def suite(pytest_options: tuple[str, ...]) -> None:
    "Run the tests (all but the benchmarks, two processes, by default); keep what each file took and the peak memory."
    options = list(pytest_options) or ["-n", "2", "-m", "not benchmark"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", "-o", "junit_family=xunit1"]
        started = time.perf_counter()
        code, peak = watch(command)
        files, properties = read_report(report)
    keep(
        "suite",
        {
            "seconds": round(time.perf_counter() - started, 1),
            "peak memory bytes": sum(peak.values()),
            "at the peak": peak,
            "exit code": code,
            "options": options,
            "files": files,
            "properties": properties,
        },
    )
    raise SystemExit(code)


def watch(command: list[str], interval: float = 1.0) -> tuple[int, dict[str, int]]:
    """Exit code of a command, and what the parts of its tree of processes held (bytes) when they held most together.

    Shared pages count once.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    process, peak = subprocess.Popen(command, cwd=course_root(), env=environment), {}
    while process.poll() is None:
        peak = max(peak, tree_bytes(process.pid), key=lambda held: sum(held.values()))
        time.sleep(interval)
    return process.returncode, peak


def tree_bytes(pid: int) -> dict[str, int]:
    """Memory of a process and its descendants now, by their part: the proportional share of pages
    that several of them use."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    held = Counter()
    for member in family:
        try:
            used = member.memory_full_info()
            held[part_of(member.cmdline())] += getattr(used, "pss", used.rss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # ended meanwhile
            continue
    return dict(held)


def part_of(arguments: list[str]) -> str:
    "What a process is for, by its command line."
    line = " ".join(arguments)
    parts = {
        "ipykernel": "kernels",
        "loky": "seeds",
        "nbdev_test": "lessons",
        "twice.py": "lessons",
        "chrom": "browser",
        "playwright": "browser",
        # execnet starts pytest's workers with that line
        "jupyter": "JupyterLab",
        "pytest": "tests",
        "exec(eval(sys.stdin": "tests",
    }
    return next((part for word, part in parts.items() if word in line), "other")


def read_report(report: Path) -> tuple[dict[str, dict], dict[str, str]]:
    "From pytest's XML: file → tests, skipped, failed and seconds; and every property that a test recorded."
    files, properties = {}, {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("file", case.get("classname", "").replace(".", "/") + ".py")
        entry = files.setdefault(name, Counter())
        entry["tests"] += 1
        entry["skipped"] += case.find("skipped") is not None
        entry["failed"] += case.find("failure") is not None or case.find("error") is not None
        entry["seconds"] += float(case.get("time", 0))
        properties |= {each.get("name"): each.get("value") for each in case.iter("property")}
    return {
        name: {**counts, "seconds": round(counts["seconds"], 1)} for name, counts in sorted(files.items())
    }, properties


if __name__ == "__main__":
    main()
