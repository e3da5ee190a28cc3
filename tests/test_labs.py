"""Every lab runs through papermill: in `smoke` all of them, in `cpu` those whose claims this course leads with."""
from __future__ import annotations

import pytest

from xfer_course.cli import course_notebooks, execute, plan_run
from xfer_course.results import Record, load_records

LABS = [notebook for notebook in course_notebooks() if notebook.is_lab]


def run_lab(notebook, folder, profile) -> Record:
    content = execute(plan_run(notebook, folder, profile, (), "cpu", {}), bar=False)
    assert content is not None, "the lab emitted no record"
    return Record.from_json(content)


@pytest.mark.parametrize("notebook", LABS, ids=lambda n: n.name)
def test_lab_runs_in_smoke(notebook, tmp_path):
    record = run_lab(notebook, tmp_path, "smoke")
    assert record.lab == notebook.name and record.profile == "smoke"
    assert record.claims, "a lab states at least one claim"
    assert all(len(values) == len(record.seeds) for values in record.metrics.values())
    assert len(list(tmp_path.rglob(record.file_name))) == 1


@pytest.mark.parametrize("name", ["dann/moons", "dann/digits"])
def test_claims_of_the_cpu_profile_hold(name, tmp_path):
    "The whole lab again, from nothing: every claim must have the verdict that the lab declares."
    record = run_lab(next(n for n in LABS if n.name == name), tmp_path, "cpu")
    assert record.is_standard()
    assert record.surprises() == []


@pytest.mark.parametrize("record", load_records(), ids=lambda r: r.file_name)
def test_committed_record_is_current_and_as_declared(record):
    "A committed record belongs to the code that stands there, and its verdicts are the declared ones."
    from xfer_course.results import code_hash, lab_notebook

    if record.profile == "cpu":
        assert record.code == code_hash(lab_notebook(record.lab)), "stale: run `make notebooks`"
    assert record.surprises() == []
    for claim in record.claims:
        if claim.verdict == "not reproduced here":
            assert claim.reason, f"{claim.statement!r} fails and the lab gives no reason"
