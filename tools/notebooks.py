"""Keep the committed notebooks executed and the records fresh.

    python tools/notebooks.py            do what is needed: execute lessons, vouch for labs or run them anew
    python tools/notebooks.py --check    name what is stale, exit 1 if there is any
    python tools/notebooks.py dann/moons run this one in full, stale or not (--profile long for that record)
    python tools/notebooks.py --replay   show labs again whose report has changed, from their finished points
    python tools/notebooks.py --fingerprint dann/moons   after a change of its smoke profile alone

A lab is asked for its fingerprint when the code of its experiment has changed: a smoke run whose numbers agree with the
recorded ones vouches for the record, another one means that the lab runs in full.
"""
from __future__ import annotations

import ast
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
import nbformat

from xfer_course.cli import Run, execute
from xfer_course.labs import (
    FINGERPRINT_SEEDS,
    RECORD_TYPE,
    Record,
    code_hash,
    committed_record,
    course_root,
    experiment_of,
    is_comparable,
    partial_folder,
    record_display,
    same_environment,
    vouch,
    with_fingerprint,
    with_repeat,
)
from xfer_course.registry import CourseNotebook, generated_files, notebooks, pages, select_notebooks

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def committed_notebooks() -> list[CourseNotebook]:
    "All notebooks that are committed executed: the chapters' and those at the top of `nbs/`."
    return notebooks() + pages()


def page_is_stale(notebook: CourseNotebook) -> bool:
    "Whether the stored outputs were made by other code than what stands there now, or never."
    metadata = nbformat.read(notebook.path, as_version=4).metadata
    return metadata.get("xfer", {}).get("code") != code_hash(notebook.path)


def profiles_of(notebook: CourseNotebook) -> list[str]:
    "The profiles of a lab that have a record; `cpu` always should."
    return ["cpu", *(profile for profile in ("long", "gpu", "paper") if committed_record(notebook.name, profile))]


def record_is_stale(notebook: CourseNotebook, profile: str) -> bool:
    "Whether the experiment as it stands was neither measured nor vouched for, or is run with other seeds."
    record = committed_record(notebook.name, profile)
    return (record is None or list(record.seeds) != default_seeds(notebook)
            or experiment_of(notebook.name, profile).hash not in record.experiments)


def results_folder() -> Path:
    return course_root() / "data" / "results"


def run_smoke(notebook: CourseNotebook) -> Record:
    "The record of a lab's smoke run, with the first seeds that its parameters name."
    seeds = default_seeds(notebook)[:FINGERPRINT_SEEDS]
    with tempfile.TemporaryDirectory() as folder:
        return Record.from_json(
            execute(Run(notebook, {"profile": "smoke", "seeds": seeds, "device": "cpu", "out": folder}, Path(folder)),
                    bar=False))


def default_seeds(notebook: CourseNotebook) -> list[int]:
    "The seeds in a lab's cell of parameters."
    cell = next(c for c in nbformat.read(notebook.path, as_version=4).cells
                if "parameters" in c.metadata.get("tags", []))
    assigned = {node.targets[0].id: node.value for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)}
    return ast.literal_eval(assigned["seeds"])


def refresh(notebook: CourseNotebook, profile: str = "cpu") -> None:
    """Execute a notebook (a lab in a profile, its record into `data/results`) and keep the outputs;
    points that are there are not run again."""
    parameters = {"profile": profile, "out": str(results_folder())} if notebook.is_lab else {}
    before = committed_record(notebook.name, profile) if notebook.is_lab else None
    with tempfile.TemporaryDirectory() as folder:
        run = Run(notebook, parameters, Path(folder))
        execute(run)
        executed = nbformat.read(run.executed, as_version=4)
    if profile == "cpu":
        keep_outputs(notebook, executed)
    if notebook.is_lab:
        complete(notebook, profile, before)


def complete(notebook: CourseNotebook, profile: str, before: Record | None) -> None:
    """Give a new record its fingerprint. A replay of the same experiment with the same numbers keeps what was known of
    them; numbers of another machine stay as a repeat, where they are of the same experiment."""
    record = committed_record(notebook.name, profile)
    known = before is not None and record.measured["experiment"] in before.experiments
    if known and (record.metrics, [c.measured for c in record.claims]) == (before.metrics,
                                                                            [c.measured for c in before.claims]):
        again = record
        record = replace(record, measured=before.measured, fingerprint=before.fingerprint, vouched=before.vouched,
                         repeats=before.repeats)
        if not same_environment(again.measured, before.measured):
            record = with_repeat(record, again)
        if record.fingerprint is None:
            record = with_fingerprint(record, run_smoke(notebook))
    else:
        record = with_fingerprint(record, run_smoke(notebook))
        if known and is_comparable(before, record):
            record = with_repeat(record, before)
    record.save(results_folder())
    if profile == "cpu":
        show_committed(notebook, record)


def keep_outputs(notebook: CourseNotebook, executed) -> None:
    "Put the outputs of an executed copy into the committed notebook, with the hash of the code that made them."
    outputs = {cell.id: cell.outputs for cell in executed.cells if cell.cell_type == "code"}
    stored = nbformat.read(notebook.path, as_version=4)
    for cell in stored.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [_without_counts(o) for o in outputs.get(cell.id, []) if _is_kept(o)]
    stored.metadata.pop("widgets", None)
    stored.metadata["xfer"] = {**stored.metadata.get("xfer", {}), "code": code_hash(notebook.path)}
    nbformat.write(stored, notebook.path)


def show_committed(notebook: CourseNotebook, record: Record) -> None:
    "Let the table at the end of a lab show its record as it is kept: the numbers, and who has vouched for them since."
    stored = nbformat.read(notebook.path, as_version=4)
    for output in (output for cell in stored.cells if cell.cell_type == "code" for output in cell.outputs):
        if RECORD_TYPE in output.get("data", {}):
            output.data = nbformat.from_dict(record_display(replace(record, fingerprint=None)))
    nbformat.write(stored, notebook.path)


def _is_kept(output) -> bool:
    "Progress bars and live widgets are noise in a file; figures, tables, text and records stay."
    return output.get("name") != "stderr" and WIDGET_VIEW not in output.get("data", {})


def _without_counts(output):
    if "execution_count" in output:
        output.execution_count = None
    return output


def freshen(notebook: CourseNotebook, profile: str) -> str:
    "Vouch for a stale record where the numbers agree, else run the lab in full; says what was done."
    record = committed_record(notebook.name, profile)
    if record is not None and list(record.seeds) == default_seeds(notebook):
        smoke = run_smoke(notebook)
        if smoke.measured["commit"] is None:
            raise click.ClickException(f"{notebook.name}: commit its code first; a record names the commit of what "
                                       "measured it or vouches for it")
        try:
            record = vouch(record, smoke)
            record.save(results_folder())
            if profile == "cpu":
                show_committed(notebook, record)
            return "the numbers agree: vouched for"
        except ValueError as error:
            click.echo(f"{error}; runs in full")
    refresh(notebook, profile)
    return "measured anew"


def renew_fingerprint(notebook: CourseNotebook) -> None:
    "Give the records of a lab whose smoke profile has changed, and nothing else, the fingerprint of the new one."
    smoke = run_smoke(notebook)
    for profile in profiles_of(notebook):
        try:
            with_fingerprint(committed_record(notebook.name, profile), smoke).save(results_folder())
        except ValueError as error:
            raise click.ClickException(str(error)) from None


def clear_points(notebook: CourseNotebook) -> None:
    "Remove the finished points of earlier versions of a lab."
    kept = partial_folder(notebook.name, results_folder())
    for folder in kept.parent.glob(f"{notebook.name.replace('/', '-')}-*"):
        if folder != kept:
            shutil.rmtree(folder, ignore_errors=True)


def stale_work(chosen: list[CourseNotebook], replay: bool) -> list[tuple[str, CourseNotebook, str]]:
    "What is to be done, as (kind, notebook, profile): lessons to execute, records to ask, labs to replay."
    work = [("execute", n, "") for n in chosen if not n.is_lab and page_is_stale(n)]
    records = [("record", n, profile) for n in chosen if n.is_lab for profile in profiles_of(n)
               if record_is_stale(n, profile)]
    asked = {n for _, n, _ in records}
    return work + records + [("replay", n, "cpu") for n in chosen if replay and n.is_lab and n not in asked
                             and page_is_stale(n)]


def write_generated() -> list[str]:
    "Write what is generated from the registry where it differs; returns the files."
    changed = []
    for path, text in generated_files().items():
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            changed.append(path.name)
    return changed


@click.command()
@click.argument("names", nargs=-1)
@click.option("--check", is_flag=True, help="Only say what is stale.")
@click.option("--replay", is_flag=True, help="Also show labs again whose report has changed.")
@click.option("--fingerprint", is_flag=True, help="Only take the fingerprints of named labs anew.")
@click.option("--profile", default="cpu", show_default=True, help="The profile in which named labs run.")
def main(names: tuple[str, ...], check: bool, replay: bool, fingerprint: bool, profile: str) -> None:
    try:
        chosen = select_notebooks(names, committed_notebooks()) if names else committed_notebooks()
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if fingerprint and (not names or not all(notebook.is_lab for notebook in chosen)):
        raise click.UsageError("--fingerprint needs the names of labs")
    if names and not check:
        for notebook in chosen:
            started = time.perf_counter()
            if fingerprint:
                renew_fingerprint(notebook)
            else:
                refresh(notebook, profile)
            done = "fingerprint taken" if fingerprint else "executed"
            click.echo(f"{notebook.name}: {done} in {time.perf_counter() - started:.0f} s")
        return
    if check:
        work = stale_work(chosen, replay)
        for kind, notebook, of in work:
            click.echo(f"stale: {notebook.name}" + (f" ({of} {kind})" if of else ""))
        if not replay and (late := len(stale_work(chosen, True)) - len(work)):
            click.echo(f"{late} labs show their record in an older form; --replay brings them up to date")
        raise SystemExit(bool(work))
    for name in write_generated():
        click.echo(f"{name}: written")
    for kind, notebook, of in stale_work(chosen, replay):
        started = time.perf_counter()
        if kind == "record":
            done = freshen(notebook, of)
        else:
            refresh(notebook, of or "cpu")
            done = "executed"
        if notebook.is_lab:
            clear_points(notebook)
        click.echo(f"{notebook.name}: {done} ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
