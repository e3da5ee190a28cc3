"""Executes lessons, cells twice in a row: learners do that; and the folded solution of each exercise, which its check
must accept. Each lesson runs in a fork of a process that has imported torch already. A cell runs again if it took less
than `again_below` CPU seconds; null: every cell.

python tests/lesson_runner.py     then one JSON line for each lesson: {"notebook": path, "again_below": 1, "log": path}
                                  answered by one: {"code": 0, "cpu": 7.5, "solutions": 0.4, "seconds": 8.1}
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from solutions import Solved, accept, solved

LIMIT = 900  # seconds, after which a lesson that hangs is ended


def sources_of(notebook: Path) -> list[tuple[str, Solved | None]]:
    "The code cells that are meant to be executed, and the exercise that a cell asks for an answer to."
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    exercises = {exercise.cell: exercise for exercise in solved(cells)}
    sources = [("".join(cell["source"]), exercises.get(number)) for number, cell in enumerate(cells)
               if cell["cell_type"] == "code"]
    return [(source, exercise) for source, exercise in sources
            if not any(line.startswith("#| eval: false") for line in source.splitlines())]


def run_lesson(notebook: Path, again_below: float | None, log: Path, spent: list[float]) -> int:
    """In a fork: run the cells, all that is printed into `log`; 0 if none of them raised an error. The CPU seconds of
    each solution go into `spent`."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(notebook.parent)
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    for source, exercise in sources_of(notebook):
        before = time.process_time()
        done = shell.run_cell(source).success
        if done and (again_below is None or time.process_time() - before < again_below):
            done = shell.run_cell(source).success
        if not done:
            print(f"\nin the cell:\n{source}")
            return 1
        if exercise:
            before = time.process_time()
            accept(exercise, shell.user_ns)
            spent.append(time.process_time() - before)
    return 0


def forked(notebook: str, again_below: float | None, log: str) -> dict:
    """Exit code of a lesson, its CPU seconds with those of the processes it started (those of solutions apart), and
    seconds."""
    reading, writing = os.pipe()
    started, child = time.monotonic(), os.fork()
    if child == 0:
        code, spent = 1, []
        try:
            signal.alarm(LIMIT)
            os.setpgid(0, 0)
            code = run_lesson(Path(notebook), again_below, Path(log), spent)
        except Exception:  # a solution that its check does not accept, or that fails
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.write(writing, str(sum(spent)).encode())
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    os.close(writing)
    with open(reading) as sent:
        solutions = float(sent.read() or 0)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "cpu": round(used.ru_utime + used.ru_stime - solutions, 2),
        "solutions": round(solutions, 2),
        "seconds": round(time.monotonic() - started, 2),
    }


def main() -> None:
    import IPython.core.interactiveshell  # noqa: F401  (what every lesson would import again)
    import matplotlib.pyplot  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch  # noqa: F401
    import torchvision  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(forked(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
