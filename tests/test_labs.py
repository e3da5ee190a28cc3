"""Every lab runs through papermill in `smoke`, in its cap of CPU time, and gives the numbers of its fingerprint; the
checks of its exercises accept the folded solutions."""
from __future__ import annotations

import json
from dataclasses import replace

import psutil
import pytest

from house import NBS, ROOT, starts_taken
from kernel_server import kernel_server
from solutions import with_solutions
from tools.notebooks import default_seeds
from xfer_course.cli import execute, plan_run, running
from xfer_course.labs import (
    FINGERPRINT_SEEDS,
    Record,
    committed_record,
    experiment_of,
    fingerprint_differences,
    setting_differences,
)
from xfer_course.registry import notebooks

LABS = [notebook for notebook in notebooks() if notebook.is_lab]
RECORD_FILES = sorted((ROOT / "data/results").glob("*.json"))

# CPU time of a lab in `smoke` with two seeds, in starts (see the fixture): its kernel, which has imported before what
# labs import, and all processes it starts. One and the same lab has taken half as much again by what else computed: the
# cap lies above that, and below what a lab takes that trains in `cpu`'s size (20 and more).
# The list of exceptions may only shrink.
SMOKE_CAP = 5
SMOKE_ABOVE: dict[str, float] = {}


@pytest.fixture(scope="session")
def forking(tmp_path_factory):
    with kernel_server(tmp_path_factory.mktemp("kernels")) as found:
        yield found


@pytest.fixture
def kernel_seconds(forking, monkeypatch):
    "Kernels of a test are forks of one process; gives the CPU seconds of those that have ended."
    (command, pid), own = forking, running._own_kernel()

    class Forked(own):
        def format_kernel_cmd(self, extra_arguments=None):
            _, _, _, *options = super().format_kernel_cmd(extra_arguments)  # python -m ipykernel_launcher
            return command + options

    def seconds() -> float:
        used = psutil.Process(pid).cpu_times()
        return used.children_user + used.children_system

    monkeypatch.setattr(running, "_own_kernel", lambda: Forked)
    return seconds


@pytest.mark.slow
@pytest.mark.parametrize("notebook", LABS, ids=lambda n: n.name)
def test_lab_runs_in_smoke(notebook, tmp_path, record_property, start, kernel_seconds):
    seeds, contents = tuple(default_seeds(notebook)[:FINGERPRINT_SEEDS]), []
    path = tmp_path / notebook.path.name
    path.write_text(json.dumps(with_solutions(json.loads(notebook.path.read_text("utf-8")))), "utf-8")
    solved = replace(notebook, path=path)

    def run(number: int) -> float:
        before = kernel_seconds()
        contents.append(execute(plan_run(solved, tmp_path / f"{number}", "smoke", seeds, "cpu", {}), bar=False))
        return kernel_seconds() - before

    cap = SMOKE_ABOVE.get(notebook.name, SMOKE_CAP)
    starts = starts_taken(run, start, cap)
    record_property("starts", round(starts, 2))
    content = contents[0]
    assert content is not None, "the lab emitted no record"
    record = Record.from_json(content)
    assert record.lab == notebook.name and record.profile == "smoke" and record.seeds == seeds
    assert record.claims, "a lab states at least one claim"
    assert all(len(values) == len(seeds) for values in record.metrics.values())
    assert len(list((tmp_path / "0").rglob(record.file_name))) == 1
    committed = committed_record(notebook.name, "cpu")
    assert committed is not None, "the lab has no record: run `make notebooks`"
    assert fingerprint_differences(committed, record) == [], "the numbers have moved: run `make notebooks`"
    for profile in ("cpu", "long", "gpu", "paper"):
        if kept := committed_record(notebook.name, profile):
            assert setting_differences(kept, record) == [], f"the setting of {profile} has changed: run the lab anew"
            assert list(kept.seeds) == default_seeds(notebook), f"{profile} was recorded with other seeds"
    # A claim that names a size reads otherwise in smoke; of the others, bound, unit and paper are those of the record.
    shown = {c.statement: (c.at_least, c.at_most, c.paper, c.unit) for c in committed.claims}
    stated = {c.statement: (c.at_least, c.at_most, c.paper, c.unit) for c in record.claims if c.statement in shown}
    assert stated == {name: shown[name] for name in stated}, "other bounds than the record: replay the lab"
    assert starts <= cap, f"{notebook.name} took the CPU time of {starts:.2f} starts in smoke; the cap is {cap}"


def test_exceptions_from_the_cap_are_labs():
    assert set(SMOKE_ABOVE) <= {notebook.name for notebook in LABS}
    assert all(cap > SMOKE_CAP for cap in SMOKE_ABOVE.values())


@pytest.mark.parametrize("file", RECORD_FILES, ids=lambda file: file.stem)
def test_a_record_stands_for_the_experiment_as_it_is_now(file):
    "Measured by it, or vouched for since; and a claim that fails gives its reason."
    record = Record.from_json(json.loads(file.read_text("utf-8")))
    assert file.name == record.file_name and (NBS / f"{record.lab}.ipynb").is_file()
    assert experiment_of(record.lab, record.profile).hash in record.experiments, "stale: run `make notebooks`"
    for claim in record.claims:
        if claim.verdict == "not reproduced here":
            assert claim.reason, f"{claim.statement!r} fails and the lab gives no reason"
