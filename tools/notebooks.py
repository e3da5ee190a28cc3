"""Keep the committed notebooks executed: run those whose code has changed since, and note the code they ran with.

    python tools/notebooks.py            execute what is stale
    python tools/notebooks.py --check    name what is stale, exit 1 if there is any
    python tools/notebooks.py dann/moons execute this one, stale or not
"""
from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import click
import nbformat

from xfer_course.cli import Run, execute
from xfer_course.registry import CourseNotebook, generated_files, notebooks, pages, select_notebooks
from xfer_course.results import code_hash, course_root, partial_folder

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def committed_notebooks() -> list[CourseNotebook]:
    "All notebooks that are committed executed: the chapters' and those at the top of `nbs/`."
    return notebooks() + pages()


def is_stale(notebook: CourseNotebook) -> bool:
    "Whether the notebook was executed with other code than what stands there now, or never."
    metadata = nbformat.read(notebook.path, as_version=4).metadata
    return metadata.get("xfer", {}).get("code") != code_hash(notebook.path)


def refresh(notebook: CourseNotebook) -> None:
    "Execute a notebook (a lab in its `cpu` profile, its record into `data/results`) and keep the outputs."
    results = course_root() / "data" / "results"
    parameters = {"profile": "cpu", "out": str(results)} if notebook.is_lab else {}
    with tempfile.TemporaryDirectory() as folder:
        run = Run(notebook, parameters, Path(folder))
        execute(run)
        executed = nbformat.read(run.executed, as_version=4)
    outputs = {cell.id: cell.outputs for cell in executed.cells if cell.cell_type == "code"}
    stored = nbformat.read(notebook.path, as_version=4)
    for cell in stored.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [_without_counts(o) for o in outputs.get(cell.id, []) if _is_kept(o)]
    stored.metadata.pop("widgets", None)
    stored.metadata["xfer"] = {**stored.metadata.get("xfer", {}), "code": code_hash(notebook.path)}
    nbformat.write(stored, notebook.path)
    if notebook.is_lab:  # finished: what an interrupted run would have resumed from is no longer needed
        shutil.rmtree(partial_folder(notebook.name, results), ignore_errors=True)


def _is_kept(output) -> bool:
    "Progress bars and live widgets are noise in a file; figures, tables, text and records stay."
    return output.get("name") != "stderr" and WIDGET_VIEW not in output.get("data", {})


def _without_counts(output):
    if "execution_count" in output:
        output.execution_count = None
    return output


@click.command()
@click.argument("names", nargs=-1)
@click.option("--check", is_flag=True, help="Only say what is stale.")
def main(names: tuple[str, ...], check: bool) -> None:
    there = committed_notebooks()
    chosen = select_notebooks(names, there) if names else [n for n in there if is_stale(n)]
    if check:
        for notebook in chosen:
            click.echo(f"stale: {notebook.name}")
        raise SystemExit(bool(chosen))
    for path, text in generated_files().items():
        path.write_text(text, "utf-8")
    for notebook in chosen:
        started = time.perf_counter()
        refresh(notebook)
        click.echo(f"{notebook.name}: executed in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
