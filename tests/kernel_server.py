"""Kernels without the seconds that imports take: each is a fork of a process that has imported what labs import.

python tests/kernel_server.py SOCKET              forks a kernel for each program that connects to the socket
python tests/kernel_server.py SOCKET -f FILE ...  such a program: Jupyter starts it in place of a kernel, with the
                                                  options of one; it lasts as long as its kernel
"""
from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL = 0.02  # seconds


def ask(server: str, options: list[str]) -> int:
    "The exit code of a kernel that the server forks."
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Jupyter interrupts a kernel that it ends
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(server)
        line.sendall(json.dumps([options, dict(os.environ), os.getcwd()]).encode())
        line.shutdown(socket.SHUT_WR)
        return int(line.recv(16) or 1)


def run_kernel(options: list[str], environment: dict[str, str], folder: str) -> None:
    "In a fork: what `python -m ipykernel_launcher` does."
    from ipykernel import kernelapp

    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["ipykernel_launcher", *options]
    kernelapp.launch_new_instance()


def wait(kernel: int, line: socket.socket) -> int:
    "The exit code of a kernel, which ends with whom it works for."
    poll = select.poll()
    poll.register(line, 0)  # what comes unasked: that the other side is gone
    while True:
        ended, status = os.waitpid(kernel, os.WNOHANG)
        if ended:
            return abs(os.waitstatus_to_exitcode(status))
        if poll.poll(1000 * POLL):
            os.kill(kernel, signal.SIGKILL)


def serve_one(listening: socket.socket) -> None:
    line, _ = listening.accept()
    with line:
        asked = json.loads(b"".join(iter(lambda: line.recv(2**16), b"")))
        kernel = os.fork()
        if kernel == 0:
            listening.close()
            line.close()
            code = 1
            try:
                run_kernel(*asked)
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)
        code = wait(kernel, line)
        try:
            line.sendall(str(code).encode())
        except BrokenPipeError:
            return


def serve(path: str) -> None:
    import ipykernel.kernelapp  # noqa: F401  (what every lab would import again)
    import ipywidgets  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch  # noqa: F401
    import torchvision  # noqa: F401

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)
        os.dup2(2, 1)  # nobody reads on; a kernel that fills a pipe would wait for ever
        while True:
            serve_one(listening)


@contextmanager
def kernel_server(folder: Path) -> Iterator[tuple[list[str], int]]:
    "A running server: the command that stands for a kernel of it, and the number of its process."
    command = [sys.executable, "-S", "-E", str(Path(__file__)), str(folder / "kernels")]
    server = subprocess.Popen([sys.executable, *command[3:]], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline(), "the server of kernels did not start"
        yield command, server.pid
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    if sys.argv[2:]:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
    serve(sys.argv[1])
