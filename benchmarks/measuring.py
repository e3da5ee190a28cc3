"""How things are measured here: ways to do the same take turns, so that other work on the machine hits all alike."""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

KINDS = ("course", "straightforward", "library")


@dataclass
class Measurement:
    """Several ways to do the same, measured in turns.

    Attributes:
        chapter: where the claim stands.
        what: what every way does, in words.
        unit: "s" or "bytes".
        values: way → one value per round; the ways of a round belong together.
        kinds: way → "course" (exactly one), "straightforward" or "library".
        skipped: way → why it could not be measured here.
        notes: anything else worth keeping, such as the quality that each way reached.
    """

    chapter: str
    what: str
    unit: str
    values: dict[str, list[float]]
    kinds: dict[str, str]
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.unit not in ("s", "bytes"):
            raise ValueError(f"unit must be 's' or 'bytes', got {self.unit!r}")
        if (
            set(self.kinds) != set(self.values)
            or list(self.kinds.values()).count("course") != 1
            or set(self.kinds.values()) - set(KINDS)
        ):
            raise ValueError(f"kinds must name every way, exactly one of them 'course', got {self.kinds}")
        if len({len(values) for values in self.values.values()}) != 1:
            raise ValueError("every way must have one value per round")

    @property
    def course(self) -> str:
        return next(way for way, kind in self.kinds.items() if kind == "course")

    def ratios(self, way: str) -> np.ndarray:
        "How many times what the course's way needs, round by round."
        return np.array(self.values[way]) / np.array(self.values[self.course])

    def times(self, way: str) -> float:
        "The median of `ratios`: above 1 where the course's way is the faster or leaner one."
        return float(np.median(self.ratios(way)))

    def median(self, way: str) -> float:
        return float(np.median(self.values[way]))

    def __str__(self) -> str:
        size = (
            (lambda value: f"{value * 1e3:.1f} ms") if self.unit == "s" else (lambda value: f"{value / 2**20:.1f} MiB")
        )
        parts = [
            f"{way} {size(self.median(way))}" + ("" if way == self.course else f" ({self.times(way):.2f}x)")
            for way in self.values
        ]
        return f"{self.chapter}: {self.what}: " + ", ".join(
            parts + [f"{way} skipped ({why})" for way, why in self.skipped.items()]
        )


def seconds_in_turns(
    ways: Mapping[str, Callable[[], Any]], rounds: int, runs: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every way in every round, after one round that does not count.

    With `runs` above 1 a way runs so often in a row, and the shortest counts: memory that another way gave back to the
    system has to be fetched anew, which can cost more than the work. `time.process_time` as clock leaves out what other
    programs take; it counts all threads.
    """
    seconds = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            taken = []
            for _ in range(runs):
                started = clock()
                way()
                taken.append(clock() - started)
            if round_:
                seconds[name].append(min(taken))
    return seconds


def allocated_bytes(action: Callable[[], Any]) -> int:
    "Largest number of bytes of PyTorch's tensors that live at a time during `action`, beyond those there before."
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        action()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(np.cumsum(changes).max())


def resident_bytes(action: Callable[[], Any]) -> int:
    """By how many bytes the private memory of this process grows at most while `action` runs
    (pages of files not counted)."""

    def private() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

    before, peak, done = private(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, private() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        action()
    finally:
        done.set()
        watcher.join()
    return peak


def libraries(
    packages: Mapping[str, str], make: Mapping[str, Callable[[], Callable]]
) -> tuple[dict[str, Callable], dict[str, str]]:
    """The ways that libraries offer: those that can be imported here, and for the others a reason.

    Args:
        packages: way → the package that it needs.
        make: way → a function that imports the package and returns the way.
    """
    ways, skipped = {}, {}
    for name, package in packages.items():
        try:
            version(package)
            ways[name] = make[name]()
        except PackageNotFoundError:
            skipped[name] = f"{package} is not installed"
        except Exception as error:  # an optional library that does not work with these versions must not end the run
            skipped[name] = (
                f"{package} fails here: {type(error).__name__}: "
                f"{str(error).splitlines()[0][:120] if str(error) else ''}"
            )
    return ways, skipped


def kinds_of(values: Mapping[str, list], course: str, from_libraries: Mapping[str, Any]) -> dict[str, str]:
    return {
        way: "course" if way == course else "library" if way in from_libraries else "straightforward" for way in values
    }
