"""Run the labs' `gpu` profiles unattended, the most wanted first, and keep their records.

    python tools/gpu.py                        every lab
    python tools/gpu.py dann/mnist_m rotation  these
    python tools/gpu.py --list                 say what is recorded and what is unrun, and run nothing

Each lab runs in a process of its own, with a time limit. One that fails, hangs or is killed does not stop the others,
and the same command goes on where an earlier one stopped: finished labs are loaded, a lab that was interrupted starts
with the runs of its grid that were done.
"""
from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from xfer_course.cli import CourseNotebook, Run, course_notebooks, finished_record, plan_run, select_notebooks
from xfer_course.registry import PROFILE_NAMES
from xfer_course.results import Record, count_verdicts, course_root, load_records, markdown_table, resolve_device

FIRST = ("dann/mnist_m", "rotation/cifar10", "mrl/classify", "coop/few_shot")


@dataclass(frozen=True)
class Outcome:
    "What became of a lab: `recorded`, `finished earlier`, `failed` or `stopped at the limit`, and why."

    lab: str
    state: str
    seconds: float = 0.0
    record: Record | None = None
    reason: str = ""

    @property
    def ok(self) -> bool:
        return self.record is not None

    def row(self) -> dict[str, str]:
        record = self.record
        return {
            "lab": self.lab,
            "outcome": self.state,
            "seconds": f"{record.seconds if record else self.seconds:.0f}",
            "peak memory": f"{record.peak_memory_bytes / 2**30:.2f} GiB" if record else "–",
            "device": record.measured["device"] if record else "–",
            "claims": count_verdicts(record) if record else self.reason,
        }


def wanted_order(notebooks: list[CourseNotebook]) -> list[CourseNotebook]:
    "Labs only: those of `FIRST` in that order, then the others as the course teaches them."
    labs = [notebook for notebook in notebooks if notebook.is_lab]
    return sorted(labs, key=lambda lab: FIRST.index(lab.name) if lab.name in FIRST else len(FIRST))


def command_of(lab: str, profile: str, device: str, out: Path) -> list[str]:
    code = "from xfer_course.cli import main; main()"
    return [sys.executable, "-c", code, "run", lab, "--profile", profile, "--device", device, "--out", str(out)]


def run_limited(command: list[str], log: Path, limit: float) -> int | None:
    "Exit code of a command whose output goes to `log`; `None` where the limit in seconds was reached and it was ended."
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=course_root(), start_new_session=True
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:  # also after Ctrl-C: no kernel stays behind on the GPU
            _end(process)


def _end(process: subprocess.Popen) -> None:
    "End the process and everything that it started: politely, then not."
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def attempt(planned: Run, command: list[str], log: Path, limit: float) -> Outcome:
    "Run one lab, unless a record of this code is there already. Whatever happens is an outcome, never an error."
    lab, started = planned.notebook.name, time.perf_counter()
    if content := finished_record(planned):
        return Outcome(lab, "finished earlier", record=Record.from_json(content))
    try:
        code = run_limited(command, log, limit)
    except OSError as error:
        return Outcome(lab, "failed", time.perf_counter() - started, reason=str(error))
    seconds = time.perf_counter() - started
    if content := finished_record(planned):  # the exit code is 1 also where a verdict is not the declared one
        return Outcome(lab, "recorded", seconds, Record.from_json(content))
    if code is None:
        return Outcome(
            lab,
            "stopped at the limit",
            seconds,
            reason=f"not done in {limit / 60:.0f} min; the same command goes on from there",
        )
    return Outcome(lab, "failed", seconds, reason=_last_line(log) or f"exit code {code}")


def _last_line(log: Path) -> str:
    lines = [
        line.strip()
        for line in log.read_text("utf-8", errors="replace").replace("\r", "\n").splitlines()
        if line.strip()
    ]
    return lines[-1][:300] if lines else ""


def unrun(profile: str = "gpu") -> list[str]:
    "Names of the labs that have no committed record of this profile, in the order in which they would run."
    recorded = {record.lab for record in load_records() if record.profile == profile}
    return [lab.name for lab in wanted_order(course_notebooks()) if lab.name not in recorded]


@click.command()
@click.argument("targets", nargs=-1)
@click.option(
    "--profile",
    type=click.Choice(PROFILE_NAMES),
    default="gpu",
    show_default=True,
    help="The profile to run.",
)
@click.option("--device", default="cuda", show_default=True, help="Where to.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/gpu"),
    show_default=True,
    help="Folder for notebooks, pages and logs.",
)
@click.option(
    "--records",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data/results"),
    show_default=True,
    help="Folder that new records are copied to.",
)
@click.option("--minutes", default=20.0, show_default=True, help="Time limit of one lab.")
@click.option("--list", "only_list", is_flag=True, help="Name the labs without a record of this profile, and stop.")
def main(
    targets: tuple[str, ...], profile: str, device: str, out: Path, records: Path, minutes: float, only_list: bool
) -> None:
    "Run labs one after the other and print a summary; exit code 1 where one left no record."
    if not 0 < minutes < math.inf:
        raise click.BadParameter(f"it must be a finite number above 0, got {minutes}", param_hint="--minutes")
    if only_list:
        return click.echo(
            "\n".join(f"unrun in {profile}: {name}" for name in unrun(profile))
            or f"every lab has a record of {profile}"
        )
    try:
        resolve_device(device)
        labs = wanted_order(select_notebooks(targets, course_notebooks()) if targets else course_notebooks())
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    out, outcomes = out.resolve(), []
    for number, lab in enumerate(labs, 1):
        planned, log = plan_run(lab, out, profile, (), device, {}), out / "logs" / f"{lab.name.replace('/', '-')}.log"
        outcome = attempt(planned, command_of(lab.name, profile, device, out), log, 60 * minutes)
        click.echo(
            f"[{number}/{len(labs)}] {lab.name}: {outcome.state}, {outcome.seconds:.0f} s"
            + (f" ({outcome.reason})" if outcome.reason else "")
        )
        if outcome.ok:
            records.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(planned.record_file, records / planned.record_file.name)
        outcomes.append(outcome)
    click.echo("\n" + markdown_table([outcome.row() for outcome in outcomes]))
    raise SystemExit(not all(outcome.ok for outcome in outcomes))


if __name__ == "__main__":
    main()
