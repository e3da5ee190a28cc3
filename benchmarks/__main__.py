"""Run the benchmarks and write what came out: `python -m benchmarks [chapter ...]`, all of them by default."""
from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import date
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
import torch

from xfer_course.data import write_atomically
from xfer_course.results import available_jobs, device_name

CHAPTERS = ("data", "training", "rotation", "dann", "mrl", "coop", "visionlanguage", "peft", "merging", "fewshot")
LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "faiss-cpu",
    "sentence-transformers",
    "pytorch-adapt",
    "open_clip_torch",
    "peft",
    "pillow",
)


def library_versions() -> dict[str, str]:
    "Versions of what is compared; a library that is not installed is named as such."
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def measure(chapter: str) -> list:
    "Everything that one chapter claims; what lacks a file is said and left out."
    module, found = import_module(f"benchmarks.{chapter}"), []
    torch.set_num_threads(module.THREADS or available_jobs())
    for measurement in module.MEASUREMENTS:
        try:
            result = measurement()
        except FileNotFoundError as error:
            click.echo(f"{chapter}: {measurement.__name__} left out: {error}", err=True)
            continue
        for each in result if isinstance(result, list) else [result]:
            click.echo(str(each))
            found.append(each)
    return found


@click.command()
@click.argument("chapters", nargs=-1, type=click.Choice(CHAPTERS))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("runs/benchmarks.json"),
    show_default=True,
    help="The file to write; what it holds of other chapters stays.",
)
def main(chapters: tuple[str, ...], out: Path) -> None:
    "Measure every claim of speed and memory, beside the straightforward way and the libraries that are installed."
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched
    for chapter in chapters or CHAPTERS:
        measured = [asdict(each) for each in measure(chapter)]
        run = {"device": device_name("cpu"), "versions": library_versions(), "date": date.today().isoformat()}
        keep(out, chapter, run, measured)
        click.echo(f"{out}: {len(measured)} measurements of {chapter}")


def keep(out: Path, chapter: str, run: dict, measured: list[dict]) -> None:
    "Replace what the file holds of one chapter."
    content = json.loads(out.read_text("utf-8")) if out.is_file() else {"runs": {}, "measurements": []}
    content["runs"][chapter] = run
    content["measurements"] = [each for each in content["measurements"] if each["chapter"] != chapter] + measured
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(out, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    main()
