"""The folded solutions of exercises as code, and the checks that must accept them."""
from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

CALL = re.compile(r"^check_\w+\((\w+)\)$", re.M)
SOLUTION = re.compile(r"<details>\s*<summary>\s*Solution\s*</summary>(.*?)</details>", re.S)


class Solved(NamedTuple):
    "An exercise: the number of the cell with the answer, the call of its check, and its solution as code."

    cell: int
    call: str
    solution: str


def _binds(code: str, name: str) -> bool:
    "Whether some statement of the code gives a value to the name; False for what is no code."
    try:
        body = ast.parse(code).body
    except SyntaxError:
        return False
    targets = [target for node in body for target in getattr(node, "targets", [])]
    return any(getattr(node, "name", None) == name for node in body) or any(
        isinstance(target, ast.Name) and target.id == name for target in targets)


def _is_expression(code: str) -> bool:
    try:
        ast.parse(code, mode="eval")
    except SyntaxError:
        return False
    return True


def solution_code(text: str, name: str) -> str:
    """What a solution says as code that gives a value to `name`: its blocks up to the one that does, else the first
    words in backticks, which are an assignment or the answer itself. Empty where there is neither."""
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    for number, block in enumerate(blocks, 1):
        if _binds(block, name):
            return "\n".join(blocks[:number])
    first = re.match(r"\s*`([^`\n]+)`", text)
    if first:
        return first[1] if _binds(first[1], name) else f"{name} = {first[1]}" if _is_expression(first[1]) else ""
    return ""


def solved(cells: list[dict[str, Any]]) -> Iterator[Solved]:
    "The exercises of a notebook that have a check, in order; a solution that is not there is empty."
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or not (call := CALL.search(source)):
            continue
        following = next(("".join(c["source"]) for c in cells[number + 1:] if c["cell_type"] == "markdown"), "")
        text = SOLUTION.search(following)
        yield Solved(number, call[0], solution_code(text[1], call[1]) if text else "")


def with_solutions(notebook: dict[str, Any]) -> dict[str, Any]:
    "A copy of a notebook whose cells also run the solution of each exercise that has a check."
    cells, added = list(notebook["cells"]), list(solved(notebook["cells"]))
    for exercise in reversed(added):
        source = (f"import sys\n\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
                  f"from solutions import Solved, accept\n\naccept(Solved(*{tuple(exercise)!r}), globals())")
        cells.insert(exercise.cell + 1, {"cell_type": "code", "id": f"solution-{exercise.cell}", "metadata": {},
                                         "execution_count": None, "outputs": [], "source": source})
    return {**notebook, "cells": cells}


def accept(exercise: Solved, names: dict[str, Any]) -> None:
    "Run a solution on a copy of the names of its notebook; raise AssertionError where its check does not say `Right`."
    from xfer_course.data import kept_random

    assert exercise.solution, f"{exercise.call} has no solution that can be run"
    names, said = dict(names), io.StringIO()
    with kept_random(), redirect_stdout(said):
        exec(exercise.solution, names)  # noqa: S102
        exec(exercise.call, names)  # noqa: S102
    last = said.getvalue().strip().splitlines()[-1]
    assert last.startswith("Right"), f"{exercise.call} answers to the solution: {last}\n{exercise.solution}"
