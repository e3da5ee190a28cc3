"""The wheel: what is in it, and that it works in an environment that knows nothing of this checkout."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from house import MODULE_FILES, ROOT, module_name

MODULES = [module_name(path) for path in MODULE_FILES]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    "A wheel built from a copy, so that no build folder is left in the checkout."
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", out, copy]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_wheel_holds_the_package_its_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"xfer_course/py.typed", "xfer_course/_data/manifest.json"} <= set(names)
    assert {path.relative_to(ROOT).as_posix() for path in MODULE_FILES} <= set(names)
    assert all(re.match(r"xfer_course(-[\d.]+\.dist-info)?/", name) for name in names)
    assert not any("test" in Path(name).stem for name in names)


def test_wheel_works_in_an_empty_environment(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([python, "-m", "pip", "install", "--no-deps", "--no-index", "-q", wheel], check=True, env=clean)
    alone = subprocess.run(
        [python, "-c", "import xfer_course, sys; assert 'torch' not in sys.modules; print(xfer_course.__version__)"],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 0, alone.stderr
    code = (
        f"import importlib, xfer_course; [importlib.import_module(m) for m in {MODULES}]; print(xfer_course.__file__)"
    )
    with_libraries = subprocess.run(
        [python, "-c", code + "\nfrom xfer_course.data import shipped; assert shipped('manifest.json').is_file()"],
        cwd=tmp_path,
        env=clean | {"PYTHONPATH": sysconfig.get_path("purelib")},
        capture_output=True,
        text=True,
    )
    assert with_libraries.returncode == 0, with_libraries.stderr
    assert str(tmp_path) in with_libraries.stdout, "imported another copy"


def test_import_is_light():
    "`import xfer_course` alone imports no torch and takes under 0.1 s (best of five, interpreter start excluded)."
    code = ("import time; s = time.perf_counter(); import xfer_course; t = time.perf_counter() - s; import sys; assert "
            "'torch' not in sys.modules; print(t)")
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    assert min(seconds) < 0.1


def test_project_files_name_no_machine():
    "Tracked text files hold no absolute path of a developer's machine."
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    pattern = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/\w")
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if (
            path.is_file()
            and path.suffix in (".py", ".md", ".ini", ".yml", ".toml", ".json")
            and path.name != Path(__file__).name
        ):
            assert not pattern.search(path.read_text("utf-8")), name
