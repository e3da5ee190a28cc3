"""What reading images when they are asked for costs in time, and what it saves in memory; on one thread."""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.measuring import Measurement, kinds_of, libraries, resident_bytes, seconds_in_turns
from xfer_course.data import batches, image_folder

THREADS = 1
COUNT, PIXELS, SIZE, BATCH = 2000, 96, 64, 50
TORCHVISION = "torchvision, ImageFolder in a DataLoader"


@contextmanager
def photos(count: int = COUNT) -> Iterator[Path]:
    "A folder of `count` JPEG files in ten classes; smooth noise, so that they compress as photographs do."
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            file = Path(folder, f"class {i % 10}", f"{i:05d}.jpg")
            file.parent.mkdir(exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            coarse.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC).save(file, quality=90)
        yield Path(folder)


def one_pass(loader: DataLoader, count: int = COUNT) -> None:
    assert sum(len(images) for images, _ in loader) == count


def torchvision_loader(folder: Path) -> DataLoader:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = [v2.Resize(SIZE), v2.CenterCrop(SIZE), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return DataLoader(ImageFolder(folder, v2.Compose(steps)), BATCH, shuffle=True)


def check_equal(folder: Path) -> None:
    "The images of all ways are the same; torchvision rounds otherwise."
    lazy, (eager, _) = image_folder(folder, SIZE, lazy=True), image_folder(folder, SIZE)
    for (one, _), (other, _) in zip(batches(lazy, batch_size=BATCH), batches(*eager, batch_size=BATCH), strict=True):
        assert torch.equal(one, other)
    file = str(lazy.paths[0])
    library = torchvision_loader(folder).dataset
    torch.testing.assert_close(library[[path for path, _ in library.samples].index(file)][0], lazy[0][0], atol=0.02,
                               rtol=0)


def ways(folder: Path, count: int = COUNT) -> dict[str, Callable[[], None]]:
    "The folder listed and an epoch from its files; the same with everything read first, as the first epoch has to."
    return {
        "LazyImages": lambda: one_pass(batches(image_folder(folder, SIZE, lazy=True), batch_size=BATCH), count),
        "all read at once, then an epoch": lambda: one_pass(
            batches(*image_folder(folder, SIZE)[0], batch_size=BATCH), count),
    }


def epoch(rounds: int = 5) -> Measurement:
    "Seconds of an epoch, and images per second."
    with photos() as folder:
        check_equal(folder)
        lazy, (eager, _) = image_folder(folder, SIZE, lazy=True), image_folder(folder, SIZE)
        more = {
            "LazyImages": lambda: one_pass(batches(lazy, batch_size=BATCH)),  # listed once for all epochs
            "LazyImages, 2 workers": lambda: one_pass(batches(lazy, batch_size=BATCH, workers=2)),
            "tensors in memory, a later epoch": lambda: one_pass(batches(*eager, batch_size=BATCH)),
        }
        found, skipped = libraries({TORCHVISION: "torchvision"},
                                   {TORCHVISION: lambda: partial(one_pass, torchvision_loader(folder))})
        seconds = seconds_in_turns(ways(folder) | more | found, rounds)
    speeds = {way: f"{COUNT / float(np.median(values)):,.0f} images per second" for way, values in seconds.items()}
    what = f"an epoch over {COUNT:,} JPEG files of {PIXELS}×{PIXELS} pixels, scaled to {SIZE}×{SIZE}"
    return Measurement("data", what, "s", seconds, kinds_of(seconds, "LazyImages", found), skipped, speeds)


def memory(count: int = COUNT) -> Measurement:
    "The most memory that an epoch over `count` images takes, with the listing of the folder."
    with photos() as warm:  # what the first epoch of a process allocates for good counts for neither
        check_equal(warm)
    with photos(count) as folder:
        held = {way: [float(resident_bytes(action))] for way, action in ways(folder, count).items()}
    return Measurement("data", f"peak memory of an epoch over {count:,} images of {SIZE}×{SIZE}", "bytes", held,
                       kinds_of(held, "LazyImages", {}))


MEASUREMENTS = (memory, epoch)
