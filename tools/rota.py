"""Run a seventh of the labs whole, chosen by the date: within a week of days every number of the course is measured again.

    python tools/rota.py              today's labs in `cpu`; exit code 1 if a verdict is not the declared one
    python tools/rota.py --list       name them
    python tools/rota.py --day 3      those of another day (0 to 6)
"""
from __future__ import annotations

import subprocess
import sys
import tempfile
from datetime import date

import click

from xfer_course.cli import CourseNotebook, course_notebooks
from xfer_course.results import course_root

DAYS = 7


def labs_of(day: int, notebooks: list[CourseNotebook]) -> list[str]:
    "Every seventh lab, from the `day`-th on: the days differ by one lab at most, and a chapter's labs are spread over them."
    labs = [notebook.name for notebook in notebooks if notebook.is_lab]
    return labs[day::DAYS]


@click.command()
@click.option("--day", type=click.IntRange(0, DAYS - 1), help="Day of the rota (default: today's).")
@click.option("--list", "only_list", is_flag=True, help="Name the labs and stop.")
@click.option("--profile", default="cpu", show_default=True)
def main(day: int | None, only_list: bool, profile: str) -> None:
    day = date.today().toordinal() % DAYS if day is None else day
    labs = labs_of(day, course_notebooks())
    click.echo(f"day {day} of the rota: {', '.join(labs) or 'no lab'}")
    if only_list or not labs:
        return
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", "from xfer_course.cli import main; main()", "run", *labs, "--profile", profile, "--out", out]
        raise SystemExit(subprocess.run(command, cwd=course_root()).returncode)


if __name__ == "__main__":
    main()
