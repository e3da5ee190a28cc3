"""The tool that measures the load, on small cases, and what it has kept."""
from __future__ import annotations

import json
import sys

import pytest


from conftest import ROOT
from tools import load
from xfer_course.cli import course_notebooks


def test_memory_of_all_descendants_is_counted():
    holds = "import time; kept = bytearray(b'x') * 60_000_000; time.sleep(1.5)"
    starts_two = f"import subprocess, sys; c = [sys.executable, '-c', {holds!r}]; p = [subprocess.Popen(c) for _ in range(2)]; sys.exit(sum(q.wait() for q in p))"
    code, peak = load.watch([sys.executable, "-c", starts_two], interval=0.1)
    assert code == 0 and 120e6 < sum(peak.values()) < 300e6
    assert list(peak) == ["other"]


def test_processes_are_told_apart_by_their_command_lines():
    lines = {"python -m ipykernel_launcher -f kernel.json": "kernels", "python -m pytest -n 2": "tests", "/usr/bin/chromium --headless": "browser",
             "python /tmp/twice.py": "lessons", "python -c import sys;exec(eval(sys.stdin.readline()))": "tests", "sleep 1": "other"}
    assert [load.part_of(line.split()) for line in lines] == list(lines.values())


def test_a_report_is_read(tmp_path):
    (tmp_path / "test_x.py").write_text("import pytest\ndef test_a(record_property):\n    record_property('cases', 7)\n"
                                        "def test_b():\n    pytest.skip('no')\ndef test_c():\n    assert 0\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", "-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path),
               f"--junitxml={tmp_path / 'report.xml'}", "-o", "junit_family=xunit1"]
    assert load.watch(command)[0] == 1
    files, properties = load.read_report(tmp_path / "report.xml")
    assert properties == {"cases": "7"}
    (counts,) = files.values()
    assert {name: counts[name] for name in ("tests", "skipped", "failed")} == {"tests": 3, "skipped": 1, "failed": 1}


@pytest.fixture
def kept() -> dict:
    "What `make load` wrote."
    path = ROOT / "data/load.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    if not {"smoke", "suite"} <= set(content):
        pytest.skip("not measured yet: run `make load`")
    return content


def test_the_course_in_smoke_is_within_its_bound(kept):
    "Under 8 minutes. What the labs take in `cpu` stands on the page."
    assert kept["smoke"]["seconds"] < 8 * 60 and kept["smoke"]["failed"] == {}
    assert set(kept["smoke"]["notebooks"]) <= {notebook.name for notebook in course_notebooks()}


def test_the_memory_of_the_suite_is_within_its_bound(kept):
    assert kept["suite"]["peak memory bytes"] < 4 * 2**30
