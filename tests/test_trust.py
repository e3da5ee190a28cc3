"""What a file, a name or a network may not do: no pickle, no shell, no network unless data are asked for."""
from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

SOURCES = sorted(path for folder in ("xfer_course", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
NAMES = {path: path.relative_to(ROOT).as_posix() for path in SOURCES}

# A converter for OpenAI's released files, which are programs; its docstring says so, and nothing else calls it.
ALLOWED = {("xfer_course/clip/weights.py", "torch.jit.load")}
REFUSED = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "eval",
    "exec",
    "pickle.load",
    "pickle.loads",
    "joblib.load",
    "torch.jit.load",
    "torch.hub.load",
}


def called_names(tree: ast.AST):
    "(dotted name, call) of every call."
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(each.value) for each in call.keywords if each.arg == name), None)


@pytest.mark.parametrize("path", SOURCES, ids=NAMES.get)
def test_files_are_read_without_pickle_and_nothing_reaches_a_shell(path):
    tree = ast.parse(path.read_text("utf-8"))
    for name, call in called_names(tree):
        if name == "torch.load":
            assert keyword(call, "weights_only") == "True", (
                f"line {call.lineno}: torch.load must be told weights_only=True"
            )
        if name == "np.load" and keyword(call, "mmap_mode") is None:
            assert keyword(call, "allow_pickle") in (None, "False"), f"line {call.lineno}"
        assert keyword(call, "shell") in (None, "False"), f"line {call.lineno}: a shell"
        allowed = any(NAMES[path].startswith(place) and name == call_name for place, call_name in ALLOWED)
        assert allowed or name not in REFUSED, f"line {call.lineno}: {name}"
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not imported & {"pickle", "dill", "marshal", "shelve"}


@pytest.mark.parametrize(
    "target",
    ["dann/moons; touch {mark}", "$(touch {mark})", "`touch {mark}`", "dann/moons && touch {mark}", "| touch {mark}"],
)
def test_no_argument_of_the_command_line_reaches_a_shell(tmp_path, target):
    from click.testing import CliRunner

    from xfer_course.cli import main

    mark = tmp_path / "mark"
    for arguments in (
        ["run", target],
        ["data", "get", target],
        ["start", target],
        ["atlas", target],
        ["run", "dann/moons", "-p", f"steps={target}", "--profile", target],
    ):
        CliRunner().invoke(
            main,
            [part.format(mark=mark) for part in arguments]
            + (["--out", str(tmp_path / "out")] if arguments[0] == "run" else []),
        )
    assert not mark.exists()


# Python runs this before anything else: every name that is looked up and every address that is not
# this machine's is refused.
NO_NETWORK = """
import socket

def refuse(*arguments, **options):
    raise RuntimeError(f"the network was asked for: {arguments[:2]}")

class Local(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            refuse(address)
        return super().connect(address)

looked_up = socket.getaddrinfo
socket.socket = Local
here = (None, "", "127.0.0.1", "::1", "localhost")
socket.getaddrinfo = lambda host, *rest, **options: looked_up(host, *rest, **options) if host in here else refuse(host)
"""


@pytest.fixture
def no_network(tmp_path) -> dict[str, str]:
    "An environment in which Python refuses the network, also in the kernels and workers that are started."
    folder = tmp_path / "guard"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def test_the_guard_guards(no_network):
    code = "import socket; socket.create_connection(('example.org', 80))"
    done = subprocess.run([sys.executable, "-c", code], env=no_network, capture_output=True, text=True)
    assert "the network was asked for" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("names", [("dann/moons",)], ids=" and ".join)
def test_a_notebook_runs_without_the_network(no_network, tmp_path, names):
    command = [
        sys.executable,
        "-c",
        "from xfer_course.cli import main; main()",
        "run",
        *names,
        "--profile",
        "smoke",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=no_network, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "out").rglob("*-smoke.json"))) == len(names)


def test_a_pickled_program_in_place_of_weights_is_not_run(tmp_path):
    import torch

    from xfer_course.clip import weights
    from xfer_course.coop import context_file

    class Program:
        def __reduce__(self):
            return Path.touch, (tmp_path / "mark",)

    for name in ("weights.pt", "weights.safetensors", "context.safetensors"):
        torch.save({"weight": Program()}, tmp_path / name)
    for read, name in [
        (weights.load, "weights.pt"),
        (weights.load, "weights.safetensors"),
        (context_file.context_options, "context.safetensors"),
    ]:
        with pytest.raises(ValueError, match=name.split(".")[0]):
            read(tmp_path / name)
    assert not (tmp_path / "mark").exists()
