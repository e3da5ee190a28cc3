"""Run a seventh of the labs whole, chosen by the date: within a week of days every number of the
course is measured again.

    python tools/rota.py              today's labs in `cpu`; exit code 1 if numbers differ by more than seeds explain
    python tools/rota.py --list       name them
    python tools/rota.py --day 3      those of another day (0 to 6)
    python tools/rota.py --record     also note what came out here among the repeats of each record
"""
from __future__ import annotations

import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import click

from xfer_course.labs import committed_record, is_comparable, load_records, with_repeat
from xfer_course.registry import CourseNotebook, course_root, notebooks

DAYS = 7


def labs_of(day: int, notebooks: list[CourseNotebook]) -> list[str]:
    """Every seventh lab, from the `day`-th on: the days differ by one lab at most, and a chapter's
    labs are spread over them."""
    labs = [notebook.name for notebook in notebooks if notebook.is_lab]
    return labs[day::DAYS]


def note_repeats(folder: Path) -> None:
    "Add the runs below a folder to the repeats of the committed records; what was measured stays."
    for place in sorted({file.parent for file in folder.rglob("*.json")}):
        for run in load_records(place):
            committed = committed_record(run.lab, run.profile)
            if committed is not None and is_comparable(run, committed):
                with_repeat(committed, run).save(course_root() / "data" / "results")
                click.echo(f"{run.lab}: noted among the repeats")


@click.command()
@click.option("--day", type=click.IntRange(0, DAYS - 1), help="Day of the rota (default: today's).")
@click.option("--list", "only_list", is_flag=True, help="Name the labs and stop.")
@click.option("--profile", default="cpu", show_default=True)
@click.option("--record", is_flag=True, help="Note what came out here among the repeats of each record.")
def main(day: int | None, only_list: bool, profile: str, record: bool) -> None:
    day = date.today().toordinal() % DAYS if day is None else day
    labs = labs_of(day, notebooks())
    click.echo(f"day {day} of the rota: {', '.join(labs) or 'no lab'}")
    if only_list or not labs:
        return
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", "from xfer_course.cli import main; main()", "run", *labs, "--profile",
                   profile, "--out", out]
        code = subprocess.run(command, cwd=course_root()).returncode
        if record:
            note_repeats(Path(out))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
