"""The minutes that a notebook states are those that were measured: a lab's in its record, a lesson's in
`data/load.json`."""
from __future__ import annotations

import json
import re

import pytest

from house import LABS, LESSONS, NAMES, ROOT, read

NUMBERS = {word: number for number, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve".split())} | {"a": 1, "an": 1, "twenty": 20, "forty": 40}
NUMBER = rf"(?:\d+|{'|'.join(sorted(NUMBERS, key=len, reverse=True))})"
FREE = 0.0040  # the speed probe, in seconds, where nothing else ran on the machine of the records
LOADED = "of a machine that had other work"

# Stated and recorded minutes disagree; whoever edits the lab takes it off this list.
DISAGREE = {"dann/mnist_m"}
LESSONS_DISAGREE: set[str] = set()


def minutes_in(words: str) -> tuple[float, float]:
    "The least and the most minutes that words such as `about two and a half minutes` may mean."
    if re.search(r"\bseconds\b", words):
        return 0, 1
    if re.search(r"\b(some|a few|then) minutes\b", words):
        return 2, 10
    for pattern, minutes in ((r"\bhalf a minute\b", 0.5), (r"\bhalf an hour\b", 30), (r"\bquarter of an hour\b", 15)):
        if re.search(pattern, words):
            return minutes, minutes
    found = re.search(rf"\b({NUMBER})(?: to ({NUMBER}))?( and a half)? (minute|hour)s?( and a half)?", words)
    assert found, f"no time in {words!r}"
    numbers = [float(NUMBERS.get(word, word)) for word in found.groups()[:2] if word]
    half = 0.5 if found[3] or found[5] else 0
    low, high = ((number + half) * (60 if found[4] == "hour" else 1) for number in (numbers[0], numbers[-1]))
    return (0, high) if re.search(r"\b(under|less than)\b", words[:found.start()]) else (low, high)


@pytest.mark.parametrize("words, minutes", [
    ("seconds", (0, 1)), ("about two minutes on two cores", (2, 2)), ("a minute and a half", (1.5, 1.5)),
    ("two and a half minutes", (2.5, 2.5)), ("seven to eight minutes", (7, 8)), ("under four minutes", (0, 4)),
    ("less than a minute", (0, 1)), ("half a minute", (0.5, 0.5)), ("some minutes", (2, 10)), ("an hour", (60, 60)),
])
def test_words_for_minutes_are_understood(words, minutes):
    assert minutes_in(words) == minutes


def time_row(path) -> str | None:
    "What the table `what you need` says about the time."
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    row = re.search(r"^\| time \| (.*) \|$", text, re.M)
    return row and row[1]


def names_of(paths, off: set[str]) -> list:
    known = pytest.mark.xfail(reason="on the list", strict=True)
    return [pytest.param(path, id=NAMES[path], marks=[known] if NAMES[path] in off else []) for path in paths]


@pytest.mark.parametrize("path", names_of(LABS, DISAGREE))
def test_the_minutes_of_a_lab_are_those_of_its_record(path):
    """Within a factor of 2 of the record's seconds, or of the fastest run that repeated it. Where other work ran
    beside, a record takes longer than the lab does alone: by as much as the speed probe was slower, or by any factor
    where the table says so."""
    row = time_row(path)
    assert row, "its table says nothing about the time"
    words = re.search(r"`cpu`: ([^·|]*)", row)
    low, high = minutes_in((words[1] if words else row.rpartition(";")[2]).partition("(")[0])
    record = json.loads((ROOT / f"data/results/{NAMES[path].replace('/', '-')}-cpu.json").read_text("utf-8"))
    fastest = min([record["seconds"], *(each["seconds"] for each in record["repeats"] if "seconds" in each)])
    recorded = fastest / 60
    alone = 0 if LOADED in row else recorded * min(1, FREE / record["speed_probe_seconds"])
    assert low <= 2 * recorded and high >= alone / 2, f"{low:g} to {high:g} min stated, {recorded:.1f} min recorded"


@pytest.mark.parametrize("path", names_of([path for path in LESSONS if time_row(path)], LESSONS_DISAGREE))
def test_the_minutes_of_a_lesson_are_those_of_its_front_matter(path):
    "What its table says about running; minutes are whole, and seconds count as one."
    row, minutes = time_row(path), read(path).metadata["xfer"]["needs"]["minutes"]
    if running := re.search(r"(?:runn?ing|it runs|takes)\b.*", row) or re.match(r"(?!.*\bread\b).*", row):
        low, high = minutes_in(running[0])
        assert low <= minutes and max(high, 1) >= minutes / 2, f"{low:g} to {high:g} min in the table, {minutes} stated"


MEASURED = json.loads((ROOT / "data/load.json").read_text("utf-8"))["smoke"]["notebooks"]


@pytest.mark.parametrize("path", [path for path in LESSONS if NAMES[path] in MEASURED], ids=NAMES.get)
def test_a_lesson_runs_as_long_as_it_says(path):
    "As `tools/load.py course` measured it, two notebooks side by side on loaded cores; within a factor of 2."
    measured = MEASURED[NAMES[path]]
    assert measured <= 2 * 60 * read(path).metadata.get("xfer", {}).get("needs", {}).get("minutes", 1)
