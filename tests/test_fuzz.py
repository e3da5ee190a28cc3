"""Every public function of every chapter on drawn input: shapes, types, sizes, empty and NaN,
and things of the wrong kind.

A call ends with a result that is checked against the docstring, or with a `ValueError` or `TypeError` that says
something. Each case starts from arguments that fit (`fuzz_<chapter>.py`), and one or two of them are replaced by drawn
ones that need not. `XFER_FUZZ=1000` draws that many cases per function instead of the suite's number; the number of
cases is recorded with each test.
"""
from __future__ import annotations

import copy
import importlib
import inspect
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from drawing import FUZZ, NOT_DRAWN
from xfer_course.registry import public_functions

EXAMPLES = int(os.environ.get("XFER_FUZZ", 25))

for declared in sorted(Path(__file__).parent.glob("fuzz_*.py")):
    importlib.import_module(declared.stem)

PUBLIC = {name.name: name for name in public_functions()}

# Public names for which nobody has yet written down what fits. The list may only shrink.
NOT_YET: set[str] = set()


def test_every_public_name_is_drawn():
    "Of the chapters that the registry knows: a new paper's functions are missed at once."
    assert sorted(set(PUBLIC) - set(FUZZ) - NOT_DRAWN - NOT_YET) == [], (
        "write down in tests/fuzz_<chapter>.py what fits")
    assert sorted((set(FUZZ) | NOT_DRAWN | NOT_YET) - set(PUBLIC)) == [], (
        "no public function of a chapter has this name")
    assert sorted(NOT_YET & (set(FUZZ) | NOT_DRAWN)) == [], "drawn by now: take it off the list"


@pytest.mark.parametrize("name", FUZZ)
def test_a_documented_result_or_one_clear_error(name, record_property):
    function, count = FUZZ[name], {"cases": 0, "refused": 0}

    @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(function.cases)
    def check(arguments):
        count["cases"] += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = function.call(**copy.copy(arguments))
            except (ValueError, TypeError, *function.also) as error:
                count["refused"] += 1
                assert len(str(error)) > 10, f"an error that says nothing: {error!r}"
            else:
                assert function.check(result, arguments), f"not the documented result: {result!r}"

    check()
    assert count["cases"] > count["refused"], "no case got through: what should fit does not"
    record_property(f"fuzz {name}", f"{count['cases']} cases, {count['refused']} refused")


# --- things of the wrong kind, for every parameter of every public function, without anybody's help


class Nothing:
    "An object that can do nothing that any function of the course asks of its arguments."


NONSENSE = {"None": None, "NaN": math.nan, "an object": Nothing(), "a text": "nonsense", "an empty list": [],
            "an empty tensor": torch.empty(0), "an empty array": np.empty(0), "minus one": -1}


def imported(name: str):
    "A public function, from where one imports it."
    return getattr(importlib.import_module(f"xfer_course.{PUBLIC[name].package}"), name)


def required(function) -> list[str]:
    "The parameters without a default."
    given_names = inspect.signature(function).parameters.values()
    return [p.name for p in given_names if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def crashes(function, arguments: dict) -> str | None:
    "The raw error of a call with nonsense; `None` if it is refused in a sentence, or gives a result."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function(**arguments)
        except (ValueError, TypeError, FileNotFoundError) as error:
            return None if len(str(error)) > 10 else f"says nothing: {error!r}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("name", [name for name in sorted(set(PUBLIC) - NOT_DRAWN) if required(imported(name))])
def test_nonsense_is_refused_in_a_sentence(name):
    function = imported(name)
    found = {word: raw for word, value in NONSENSE.items()
             if (raw := crashes(function, dict.fromkeys(required(function), value)))}
    assert found == {}, f"raw errors of {name}"


@pytest.mark.parametrize("name", sorted(FUZZ))
def test_nonsense_beside_arguments_that_fit_is_refused_in_a_sentence(name):
    "One argument after the other."
    drawn: dict = {}

    @settings(max_examples=1, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(FUZZ[name].fitting)
    def draw(arguments):
        drawn.update(arguments)

    draw()
    found = {}
    for argument in drawn:
        for word, value in NONSENSE.items():
            raw = crashes(FUZZ[name].call, {**copy.deepcopy(drawn), argument: value})
            if raw and not any(kind.__name__ in raw for kind in FUZZ[name].also):
                found[f"{argument}={word}"] = raw
    assert found == {}, f"raw errors of {name}"
