"""Data that do not fit in memory: images read when they are asked for, data sets and loaders in batches, memory that
does not grow."""
from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)
from torchvision.transforms import v2

from conftest import ROOT
from test_data import LITTER, cut_short, odd_images, save_png
from xfer_course.dann import DANN
from xfer_course.data import (
    DataFileError,
    Images,
    LazyImages,
    batches,
    domain_batches,
    image_folder,
    kept_random,
    worker_options,
)
from xfer_course.evaluation import accuracy, features_and_labels, linear_probe, predict
from xfer_course.mrl import MatryoshkaHead
from xfer_course.rotation import NetworkInNetwork, RotationPretext, TransferClassifier
from xfer_course.training import data_fingerprint, fit, seed_everything

CROPS = v2.Compose([v2.RandomCrop(12), v2.RandomHorizontalFlip()])


def write_folder(path: Path, count: int = 9, classes: tuple[str, ...] = ("cat", "dog", "owl"), seed: int = 0) -> Path:
    "Pictures of many sizes, the classes of different brightness."
    rng = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        for i in range(count):
            top = 80 * (number + 1)
            save_png(path / name / f"{i}.png", rng.integers(top // 2, top, (16 + i % 5, 18, 3), dtype=np.uint8))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def own(tmp_path) -> Path:
    "A folder that a test may spoil."
    return write_folder(tmp_path / "own")


class Plain(Dataset):
    "A user's data set: a function of the row."

    def __init__(self, item, rows: int = 10):
        self.item, self.rows = item, rows

    def __len__(self):
        return self.rows

    def __getitem__(self, row):
        return self.item(row)


class Stream(IterableDataset):
    def __iter__(self):
        return ((torch.full((3, 16, 16), float(i)), i) for i in range(11))


HOT, LABELS = Plain(lambda row: (torch.rand(3, 8, 8), row)), torch.arange(10)


def same(one, other) -> bool:
    "Whether two loaders give the same batches, to the bit."
    return all(torch.equal(a, b) for first, second in zip(one, other, strict=True)
               for a, b in zip(first, second, strict=True))


# --- the same images, labels, classes and refusals as when all are read at once


@pytest.mark.parametrize("size, channels, n", [(8, 3, None), (8, 1, None), (23, 3, 5), (17, 1, 7)])
def test_images_are_those_that_are_read_at_once(folder, size, channels, n):
    options = {"size": size, "channels": channels, "n": n}
    lazy, (eager, classes) = image_folder(folder, lazy=True, **options), image_folder(folder, **options)
    assert isinstance(lazy, LazyImages) and lazy.classes == classes and len(lazy) == len(eager.images)
    assert torch.equal(lazy.labels, eager.labels) and lazy.labels.dtype == torch.int64
    for (image, label), expected, number in zip(lazy, *eager, strict=True):
        assert torch.equal(image, expected) and image.dtype == torch.float32 and label == number
    assert [path.parent.name for path in lazy.paths] == [classes[number] for number in lazy.labels]


def test_pictures_of_every_mode_are_the_same(tmp_path):
    "Grey with alpha, palettes, 16 bits, CMYK; and in a folder without classes."
    for name, (image, options, _) in odd_images().items():
        image.save(tmp_path / name, **options)
    for channels in (1, 3):
        lazy, (eager, _) = (image_folder(tmp_path, 8, channels=channels, lazy=each) for each in (True, False))
        assert torch.equal(torch.stack([image for image, _ in lazy]), eager.images)
    assert lazy.classes == [tmp_path.name] and not lazy.labels.any()


@pytest.mark.parametrize("litter", LITTER)
def test_litter_is_passed_over(tmp_path, litter):
    write_folder(tmp_path, 1, ("cat", "dog"))
    (tmp_path / litter).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / litter).write_bytes((tmp_path / "cat/0.png").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(image_folder(tmp_path, 4, lazy=True)) == 2


def spoil(path: Path) -> None:
    "Files of every kind that is left out."
    for name in ("a.txt", "b.mp4", "name"):
        (path / "cat" / name).write_bytes(b"x")
    (path / "dog/gone.png").symlink_to("nowhere.png")
    (path / "dog/round.png").symlink_to("round.png")
    cut_short(path / "cat/0.png")
    (path / "owl/1.png").write_bytes(b"")
    shutil.copy(path / "dog/1.png", path / "beside.png")


@pytest.mark.parametrize("n", [None, 4])
def test_what_is_left_out_is_counted_alike(own, n):
    spoil(own)
    found = []
    for lazy in (True, False):
        with pytest.warns(UserWarning, match="files left out") as said:
            found.append((image_folder(own, 8, n=n, lazy=lazy, skip_damaged=True), str(said[0].message)))
        assert Path(said[0].filename) == Path(__file__)
    (lazy, counted), ((eager, _), as_before) = found
    assert counted == as_before and torch.equal(torch.stack([image for image, _ in lazy]), eager.images)
    assert torch.equal(lazy.labels, eager.labels)


REFUSED = {
    "absent": (lambda path: path / "nowhere", {}), "no images": (lambda path: (path / "empty").mkdir() or path, {}),
    "unknown class": (lambda path: path, {"classes": ["cat", "dog"]}), "too many": (lambda path: path, {"n": 28}),
    "size 0": (lambda path: path, {"size": 0}), "two channels": (lambda path: path, {"channels": 2}),
    "parts": (lambda path: shutil.copytree(path, path / "of/train") and path / "of", {}),
    "link": (lambda path: (path / "cat/self").symlink_to(".") or path, {}),
    "damaged": (lambda path: cut_short(path / "cat/0.png") or path, {"check": True}),
    "all damaged": (lambda path: [each.write_bytes(b"x") for each in (path / "cat").iterdir()] and path / "cat",
                    {"skip_damaged": True}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_those_of_reading_at_once(own, case):
    path, options = REFUSED[case][0](own), {"size": 8} | REFUSED[case][1]
    said = []
    for lazy in (True, False):
        with pytest.raises((ValueError, TypeError, FileNotFoundError)) as raised:
            image_folder(path, lazy=lazy, **options)
        said.append((type(raised.value), str(raised.value)))
    assert said[0] == said[1] and "\n" not in said[0][1]


def test_listing_opens_no_file_and_check_opens_all(own, monkeypatch):
    cut_short(own / "cat/0.png")
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda file, *args: opened.append(str(file)) or real(file, *args))
    lazy = image_folder(own, 8, lazy=True)
    assert opened == []
    with pytest.raises(DataFileError, match="cat/0.png is not an image that can be read"):
        lazy[0]
    assert opened == [str(own / "cat/0.png")] and lazy[1][1] == 1
    with pytest.raises(DataFileError, match="cat/0.png is not an image that can be read"):
        image_folder(own, 8, lazy=True, check=True)
    assert len(image_folder(own, 8, lazy=True, n=4)) == 4 and len(opened) > 2


def test_a_file_that_is_gone_is_named(own):
    lazy = image_folder(own, 8, lazy=True)
    lazy.paths[4].unlink()
    with pytest.raises(FileNotFoundError, match=r"/1.png was there when its folder was listed and is gone"):
        list(batches(lazy, batch_size=9))
    with pytest.raises(FileNotFoundError, match=r"/1.png was there when its folder was listed and is gone"):
        list(batches(lazy, batch_size=9, workers=1))


def test_paths_outlive_a_change_of_the_working_folder(own, monkeypatch, tmp_path):
    monkeypatch.chdir(own.parent)
    lazy, first = image_folder("own", 8, lazy=True), image_folder("own", 8)[0].images[0]
    monkeypatch.chdir(tmp_path.parent)
    assert torch.equal(lazy[0][0], first) and lazy.paths[0] == own / "cat/0.png"
    monkeypatch.chdir(own)
    assert image_folder(".", 8, lazy=True).paths == lazy.paths


def test_names_of_any_kind_come_back(tmp_path):
    for name in ("ä ö.png", "a\nb.png", "日本.png", os.fsdecode(b"\xff.png")):
        save_png(tmp_path / "c" / name, np.zeros((4, 4, 3), np.uint8))
    lazy = image_folder(tmp_path, 4, lazy=True)
    assert set(lazy.paths) == set((tmp_path / "c").iterdir()) and all(image.sum() == 0 for image, _ in lazy)
    assert len(pickle.loads(pickle.dumps(lazy)).paths) == 4 and data_fingerprint(lazy)


def test_transform_comes_last_and_must_return_a_tensor(folder):
    seen = []
    lazy = image_folder(folder, 8, lazy=True, channels=1, transform=lambda x: seen.append(x) or x[:, :2] + 1)
    image, _ = lazy[0]
    assert seen[0].shape == (1, 8, 8) and 0 <= seen[0].min() <= seen[0].max() <= 1
    assert torch.equal(image, image_folder(folder, 8, channels=1)[0].images[0][:, :2] + 1)
    with pytest.raises(TypeError, match="transform must return a tensor, got Image: v2.ToImage"):
        batches(image_folder(folder, 8, lazy=True, transform=v2.ToPILImage()), batch_size=2)


def test_sizes_are_left_alone_on_request(folder):
    lazy = image_folder(folder, None, lazy=True)
    assert {tuple(image.shape) for image, _ in lazy} == {(3, 16 + i, 18) for i in range(5)}
    with pytest.raises(ValueError, match=r"items of a batch must be of one shape, got \(3, 16, 18\) and \(3, 17, 18\): "
                                         "images need a size, or a transform that crops them"):
        list(batches(lazy, batch_size=9))
    crop = image_folder(folder, None, lazy=True, transform=v2.CenterCrop(12))
    assert all(images.shape == (9, 3, 12, 12) for images, _ in batches(crop, batch_size=9))


# --- batches of data sets


@pytest.mark.parametrize("options", [{}, {"shuffle": False, "drop_last": False}, {"steps": 11}], ids=str)
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_tensors(folder, workers, options):
    "In every epoch."
    lazy, (eager, _) = image_folder(folder, 8, lazy=True), image_folder(folder, 8)
    options = {"batch_size": 5, "seed": 3} | options
    loaders = batches(lazy, workers=workers, **options), batches(*eager, **options)
    assert len(loaders[0]) == len(loaders[1])
    assert same(*loaders) and same(*loaders)


def draws(image: torch.Tensor) -> torch.Tensor:
    "What a transform may draw from: PyTorch, NumPy, Python."
    return image.mean() + torch.tensor([torch.rand(()).item(), np.random.rand(), random.random()], dtype=torch.float64)


@pytest.mark.parametrize("transform", [CROPS, draws], ids=["crops", "all generators"])
def test_random_transforms_do_not_depend_on_the_workers(folder, transform):
    lazy = image_folder(folder, None, lazy=True, transform=transform)
    runs = [[list(loader), list(loader)] for loader in
            (batches(lazy, batch_size=4, seed=1, workers=workers) for workers in (0, 1, 2))]
    for first, second in runs[1:]:
        assert same(first, runs[0][0]) and same(second, runs[0][1])
    assert not same(*runs[0]), "every epoch draws anew"
    assert not same(runs[0][0], list(batches(lazy, batch_size=4, seed=2)))
    loader = batches(lazy, batch_size=4, seed=1, workers=2)
    loader.batch_sampler.sampler.set_epoch(1)
    assert same(loader, runs[0][1])
    columns = torch.cat([images for images, _ in runs[0][0]]).flatten(1)
    assert len(columns.unique(dim=0)) == len(columns), "every item draws for itself"


def test_an_image_and_its_mask_are_cropped_alike(folder):
    lazy = image_folder(folder, None, lazy=True, transform=CROPS)
    for images, _, masks, _ in batches(lazy, lazy, batch_size=4):
        assert torch.equal(images, masks)


def test_domains_draw_apart_and_cycle_evenly(folder):
    noise = Plain(lambda row: (torch.rand(1), row), 7)
    loader = domain_batches(noise, Plain(lambda row: (torch.rand(1), row), 7), 7, steps=4)
    assert all(len(torch.cat([source, target]).unique()) == 14 for source, _, target in loader)
    ones = domain_batches(Plain(lambda row: (torch.tensor([row]), row)), Plain(lambda row: torch.tensor([row]), 6),
                          4, steps=15, workers=1)
    source, labels, target = (torch.cat(column).flatten() for column in zip(*ones))
    assert torch.equal(source, labels)
    for values, size in ((source, 10), (target, 6)):
        assert all(torch.equal(one.sort().values, torch.arange(size)) for one in values.split(size))


def test_domain_batches_are_those_of_the_tensors(folder):
    lazy, (eager, _) = image_folder(folder, 8, lazy=True), image_folder(folder, 8)
    few = Subset(lazy, range(5))
    expected = list(domain_batches(eager, eager.images[:5], 6, steps=7, seed=2))
    for source, target in ((lazy, few), (eager, few), (lazy, eager.images[:5]), (TensorDataset(*eager), few),
                           (lazy, TensorDataset(eager.images[:5], eager.labels[:5]))):
        for workers in (0, 2):
            assert same(domain_batches(source, target, 6, steps=7, seed=2, workers=workers), expected)


def test_batches_leave_global_random_numbers_alone(folder):
    lazy = image_folder(folder, None, lazy=True, transform=CROPS)
    loader = DataLoader(image_folder(folder, 12, lazy=True), 4, shuffle=True)
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    for given in (batches(lazy, batch_size=4), batches(lazy, batch_size=4, workers=1), batches(loader, batch_size=3),
                  domain_batches(loader, lazy, 4, steps=3)):
        list(given)
    predict(nn.Flatten(), lazy)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[2]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_random_numbers_go_on_after_an_error():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), kept_random():
        torch.rand(3)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_can_be_looked_into_while_it_is_read(folder):
    loader = batches(image_folder(folder, 8, lazy=True), batch_size=9, workers=1)
    looks = [next(iter(loader)) for _ in loader]
    assert len(looks) == len(loader) == 3


def test_parts_and_sums_of_data_sets(folder):
    lazy, (eager, _) = image_folder(folder, 8, lazy=True), image_folder(folder, 8)
    rows = torch.tensor([4, 1, 7])
    for data, expected in ((Subset(lazy, rows.tolist()), eager.images[rows]),
                           (ConcatDataset([lazy, lazy]), torch.cat([eager.images] * 2))):
        images, _ = next(iter(batches(data, batch_size=len(data), shuffle=False)))
        assert torch.equal(images, expected)


@pytest.mark.parametrize("prepare", [lambda lazy: lazy, lambda lazy: Subset(lazy, range(8)),
                                     lambda lazy: ConcatDataset([lazy, lazy])], ids=["", "subset", "sum"])
def test_a_lambda_for_workers_that_start_anew_is_refused(folder, monkeypatch, prepare):
    lazy = prepare(image_folder(folder, 8, lazy=True, transform=lambda image: image))
    assert len(batches(lazy, batch_size=4, workers=1)) > 0, "forked workers have it"
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: "spawn")
    assert len(batches(lazy, batch_size=4)) > 0
    with pytest.raises(TypeError, match="transform must be a function or class that workers can import, got <function "
                                        ".*write it into a file of its own, or use workers=0"):
        batches(lazy, batch_size=4, workers=1)


@pytest.mark.slow
def test_workers_that_start_anew_read_the_same(folder):
    lazy = image_folder(folder, None, lazy=True, transform=CROPS)
    loader = batches(lazy, batch_size=9, workers=1)
    loader.multiprocessing_context = "spawn"
    assert same(loader, batches(lazy, batch_size=9))
    plain = DataLoader(image_folder(folder, 8, lazy=True), 9, num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(torch.cat([images for images, _ in plain]), image_folder(folder, 8)[0].images)


def test_items_are_pinned_for_a_gpu_and_tensors_in_memory_are_not(monkeypatch):
    "Whose batches would be copied once more for it."
    assert not worker_options([HOT], 0, 2)["pin_memory"] or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert batches(HOT, batch_size=2).pin_memory and not batches(LABELS, batch_size=2).pin_memory
    assert worker_options([HOT, LABELS], 3, 5) == {"num_workers": 3, "prefetch_factor": 5, "pin_memory": True}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_of_items_lie_in_pinned_memory():
    for workers in (0, 1):
        images, labels = next(iter(batches(HOT, batch_size=2, workers=workers)))
        assert images.is_pinned() and labels.is_pinned()
    with pytest.raises(ValueError, match="workers must be 0 for tensors on cuda"):
        batches(LABELS.cuda(), batch_size=2, workers=1)


# --- loaders as they are


def rows_of(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(float(count))[:, None], torch.arange(count))


def test_loaders_are_cut_to_full_batches_and_cycle_evenly():
    source, target = DataLoader(rows_of(10), 4, shuffle=True), DataLoader(rows_of(7), 3, shuffle=True, drop_last=False)
    paired = domain_batches(source, target, batch_size=5, steps=14)
    batch = list(paired)
    assert len(paired) == len(batch) == 14 and {len(part) for each in batch for part in each} == {5}
    x, y, t = (torch.cat(column).flatten().long() for column in zip(*batch))
    assert torch.equal(x, y)
    for values, size in ((x, 10), (t, 7)):
        assert all(torch.equal(one.sort().values, torch.arange(size)) for one in values.split(size))


@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": True, "generator": torch.Generator()},
                                     {"shuffle": True, "num_workers": 2},
                                     {"sampler": WeightedRandomSampler(torch.ones(10), 10)}],
                         ids=["shuffled", "with a generator", "with workers", "with a sampler"])
def test_the_order_of_a_loader_follows_the_seed_and_the_epoch(options):
    def epochs(seed):
        loader = batches(DataLoader(rows_of(10), 3, **options), batch_size=4, steps=5, seed=seed)
        return loader, [list(loader), list(loader)]

    loader, (first, second) = epochs(0)
    _, again = epochs(0)
    assert same(first, again[0]) and same(second, again[1]) and not same(first, second)
    assert not same(first, epochs(1)[1][0])
    loader.set_epoch(1)
    assert same(loader, second)


def test_one_pass_over_a_loader_has_all_rows():
    for options in ({"batch_size": 3}, {"batch_size": 3, "drop_last": True}, {"batch_size": 20}):
        loader = DataLoader(rows_of(11), **options)
        kept = 9 if options.get("drop_last") else 11
        whole = batches(loader, batch_size=4, drop_last=False)
        assert len(whole) == len(list(whole)) == 3
        assert torch.equal(torch.cat([labels for _, labels in whole]), torch.arange(kept))
        cut = batches(loader, batch_size=4)
        assert len(cut) == len(list(cut)) == 2


def test_streams_come_as_loaders():
    loader = batches(DataLoader(Stream(), 4), batch_size=6, steps=5)
    assert torch.cat([labels for _, labels in loader]).tolist() == (3 * list(range(11)))[:30]


def test_an_epoch_of_loaders_is_what_fit_wants(tmp_path):
    "Stopped after an epoch and resumed, it gives the numbers of an undisturbed run."
    def run(epochs_before_stop=None, **options):
        seed_everything(0)
        net = nn.Linear(1, 10)

        def step(batch, p):
            if epochs_before_stop is not None and p >= epochs_before_stop / 3:
                raise KeyboardInterrupt
            return cross_entropy(net(batch[0] / 10), batch[1]) + net(batch[2]).square().mean(), {}

        loader = domain_batches(DataLoader(rows_of(10), 4, shuffle=True), DataLoader(rows_of(7), 3), 5, steps=4)
        return fit(step, loader, torch.optim.SGD(net.parameters(), 0.1), epochs=3, progress=False, **options).loss

    with pytest.raises(KeyboardInterrupt):
        run(2, checkpoint=tmp_path)
    assert run(checkpoint=tmp_path) == run()


# --- bad input


def of_dicts(row: int) -> dict:
    return {"image": torch.rand(3, 16, 16), "label": row}


def picture(row: int) -> tuple:
    return Image.new("RGB", (16, 16)), row


def labelled(label) -> Plain:
    return Plain(lambda row: (torch.rand(3, 8, 8), label))


BAD = {
    "dicts": (lambda: batches(Plain(of_dicts), batch_size=2), TypeError,
              "data set 0 must give tensors, .* got dict with image, label"),
    "dicts of a loader": (lambda: list(batches(DataLoader(Plain(of_dicts), 2), batch_size=2)), TypeError,
                          "batch of a loader must hold tensors, got dict with image, label: the collate_fn"),
    "dicts as target": (lambda: domain_batches(HOT, Plain(of_dicts), 2, steps=1), TypeError,
                        "target_images must give tensors, .* got dict with image, label"),
    "dicts to predict": (lambda: predict(nn.Flatten(), Plain(of_dicts)), TypeError, "got dict with image, label"),
    "Pillow": (lambda: batches(Plain(picture), batch_size=2), TypeError, "data set 0 must give .* got Image: v2.To"),
    "Pillow second": (lambda: list(batches(Plain(lambda row: picture(row)[::-1]), batch_size=2)), TypeError,
                      "items of a data set must hold tensors, arrays or numbers, got Image"),
    "no length": (lambda: batches(Dataset(), batch_size=2), TypeError, "data set 0 must be a data set with a length"),
    "stream": (lambda: batches(Stream(), batch_size=2), TypeError, "got Stream: a stream is taken as a DataLoader"),
    "empty": (lambda: batches(Plain(int, 0), batch_size=2), ValueError, "data set 0 must have at least one row"),
    "empty item": (lambda: batches(Plain(lambda row: ()), batch_size=2), TypeError, "got an empty tuple"),
    "parts differ": (lambda: list(batches(Plain(lambda row: (1,) * (1 + row % 2)), batch_size=9)), ValueError,
                     "items of a data set must have equally many parts, got 1 and 2"),
    "rows differ": (lambda: batches(HOT, torch.arange(9), batch_size=2), ValueError,
                    r"tensor 1 must have as many rows as data set 0 \(10\), got 9"),
    "batch too large": (lambda: batches(HOT, batch_size=11), ValueError, "batch_size must be at most 10"),
    "workers": (lambda: batches(HOT, batch_size=2, workers=-1), ValueError, "workers must be .*, got -1"),
    "workers as truth": (lambda: batches(HOT, batch_size=2, workers=True), TypeError, "workers must be .*, got True"),
    "prefetch": (lambda: batches(HOT, batch_size=2, workers=1, prefetch=0), ValueError, "prefetch must be .*, got 0"),
    "workers of a loader": (lambda: batches(DataLoader(HOT), batch_size=2, workers=1), ValueError,
                            "workers .a DataLoader has its own. must be one of 0, got 1"),
    "loader and more": (lambda: batches(DataLoader(HOT), LABELS, batch_size=2), ValueError, "must come alone"),
    "unknown rows": (lambda: batches(DataLoader(Stream()), batch_size=2), ValueError, "steps must be .*, got None"),
    "steps 0": (lambda: batches(DataLoader(HOT), batch_size=2, steps=0), ValueError, "steps must be .*, got 0"),
    "loader too small": (lambda: batches(DataLoader(HOT, 4), batch_size=11), ValueError,
                         "batch_size must be at most 10"),
    "loader without a batch": (lambda: list(batches(DataLoader(HOT, 11, drop_last=True), batch_size=2, steps=3)),
                               ValueError, "loader must give at least one batch in every pass"),
    "loader without labels": (lambda: list(domain_batches(DataLoader(torch.rand(9, 2)), torch.rand(9, 2), 2, steps=1)),
                              TypeError, "batch of a loader must hold images and labels as tensors, got Tensor"),
    "loader of other shape": (lambda: list(domain_batches(DataLoader(HOT, 2), torch.rand(9, 3, 4, 4), 2, steps=1)),
                              ValueError, r"target_images must have rows of shape \(3, 8, 8\), .* got \(3, 4, 4\)"),
    "target of other shape": (lambda: domain_batches(HOT, torch.rand(9, 3, 4, 4), 2, steps=1), ValueError,
                              r"target_images must have rows of shape \(3, 8, 8\), .* got \(3, 4, 4\)"),
    "no label": (lambda: domain_batches(Plain(lambda row: torch.rand(3)), torch.rand(9, 3), 2, steps=1), TypeError,
                 r"source must be a data set that gives \(image, label\), .*got no label"),
    "half a label": (lambda: domain_batches(labelled(0.5), HOT, 2, steps=1), TypeError, "whole number .* got 0.5"),
    "name as label": (lambda: domain_batches(labelled("cat"), HOT, 2, steps=1), TypeError, "whole number .* got 'cat'"),
    "data set in a pair": (lambda: domain_batches((HOT, LABELS), HOT, 2, steps=1), TypeError,
                           "source images must be a tensor, got Plain"),
}
FOLDER_BAD = {
    "no size": ({"size": None}, TypeError, "size must be a whole number of at least 1 without lazy=True, got None"),
    "transform": ({"size": 8, "transform": CROPS}, ValueError, "transform must be None without lazy=True, got Compose"),
    "lazy": ({"size": 8, "lazy": "yes"}, ValueError, "lazy must be one of True, False, got 'yes'"),
    "no function": ({"size": 8, "lazy": True, "transform": "crop"}, TypeError, "transform must be .*, got 'crop'"),
    "a class": ({"size": 8, "lazy": True, "transform": v2.RandomCrop}, TypeError, "transform must be .*, got <class"),
}
MADE_BAD = {
    "no files": (([], []), ValueError, "files must be a list of at least 1"),
    "labels too few": ((["a", "b"], [0]), ValueError, "labels must hold 2 labels, one per row, got 1"),
    "label too large": ((["a", "b"], [0, 1]), ValueError, "labels must be numbers of 1 classes, got 1"),
    "label as text": ((["a"], ["b"]), TypeError, "labels must be class numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_clear_sentence(case):
    call, error, words = BAD[case]
    with pytest.raises(error, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", FOLDER_BAD)
def test_bad_arguments_of_a_folder(folder, case):
    options, error, words = FOLDER_BAD[case]
    with pytest.raises(error, match=words):
        image_folder(folder, **options)


@pytest.mark.parametrize("case", MADE_BAD)
def test_bad_arguments_of_the_data_set(case):
    (files, labels), error, words = MADE_BAD[case]
    with pytest.raises(error, match=words):
        LazyImages(".", files, labels, ["cat"], size=8)


def test_an_index_is_a_number(folder):
    lazy = image_folder(folder, 8, lazy=True)
    assert lazy[-1][1] == lazy[torch.tensor(26)][1] == lazy[np.int64(26)][1] == 2
    with pytest.raises(TypeError, match="index must be a whole number, got slice.*Subset takes several"):
        lazy[:3]
    with pytest.raises(IndexError):
        lazy[27]


# --- checkpoints


def train(loader, stop: bool = False, **options) -> list[float]:
    "Losses of four epochs; with `stop`, ended in the middle."
    seed_everything(0)
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    net(next(iter(loader))[0])

    def step(batch, p):
        return cross_entropy(net(batch[0]), batch[1]), {}

    def stopping(batch, p):
        if p >= 0.5:
            raise KeyboardInterrupt
        return step(batch, p)

    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    return fit(stopping if stop else step, loader, optimizer, epochs=4, progress=False, **options).loss


def test_a_stopped_run_over_lazy_images_resumes_to_the_bit(folder, tmp_path):
    "Also with other workers than before."
    def loader(workers):
        return batches(image_folder(folder, None, lazy=True, transform=CROPS), batch_size=6, workers=workers)

    whole = train(loader(0))
    with pytest.raises(KeyboardInterrupt):
        train(loader(2), stop=True, checkpoint=tmp_path)
    assert train(loader(1), checkpoint=tmp_path) == whole == train(loader(2))
    assert len(set(whole)) == len(whole) == 16


CHANGES = {
    "nothing": (lambda path: None, {}, False), "a date": (lambda path: os.utime(path / "cat/0.png", (1, 1)), {}, False),
    "a picture": (lambda path: save_png(path / "cat/0.png", np.zeros((16, 18, 3), np.uint8)), {}, True),
    "one more": (lambda path: save_png(path / "cat/99.png", np.zeros((16, 18, 3), np.uint8)), {}, True),
    "a name": (lambda path: (path / "cat/0.png").rename(path / "cat/00.png"), {}, True),
    "a class": (lambda path: (path / "cat").rename(path / "ant"), {}, True),
    "the size": (lambda path: None, {"size": 9}, True), "the channels": (lambda path: None, {"channels": 1}, True),
    "the transform": (lambda path: None, {"transform": v2.RandomCrop(7)}, True),
    "its option": (lambda path: None, {"transform": functools.partial(torch.flip, dims=(1,))}, True),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_checkpoint_knows_its_lazy_images(own, tmp_path, case):
    "A copy of the folder elsewhere, with other dates, is the same data; no image is read for it."
    change, options, differs = CHANGES[case]
    kept = {"size": 8, "lazy": True, "transform": functools.partial(torch.flip, dims=(2,))}
    before = data_fingerprint(batches(image_folder(own, **kept), batch_size=5))
    moved = Path(shutil.copytree(own, tmp_path / "moved"))
    change(moved)
    after = data_fingerprint(batches(image_folder(moved, **kept | options), batch_size=5))
    assert (before != after) == differs


def test_a_checkpoint_of_other_lazy_images_is_refused(own, tmp_path):
    def loader():
        return batches(image_folder(own, 8, lazy=True), batch_size=5)

    train(loader(), checkpoint=tmp_path / "kept")
    save_png(own / "cat/0.png", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(ValueError, match=r"run with other data: pass resume=False .*\(dataset.groups\[0\]\[0\] was 27 "
                                         r"files \w+, is 27 files \w+\)"):
        train(loader(), checkpoint=tmp_path / "kept")


# --- the chapters' methods train from them


def dann_run():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 16), nn.ReLU())
    model = DANN(net, nn.Linear(16, 3), nn.Linear(16, 1))
    return model, lambda batch, p: (model.loss(*batch, lambda_=p).total, {})


def rotation_run():
    backbone = NetworkInNetwork(num_classes=None, num_blocks=2, channels=6)
    model = RotationPretext(backbone, backbone.feature_dim)
    return model, lambda batch, p: (model.loss(batch[0]), {})


def nested_run():
    net, head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 8)), MatryoshkaHead(8, 3, nesting_dims=(2, 4, 8))
    return nn.ModuleList([net, head]), lambda batch, p: (head.loss(net(batch[0]), batch[1]), {})


def probe_run():
    backbone = NetworkInNetwork(num_classes=None, num_blocks=2, channels=6)
    model = TransferClassifier(backbone, nn.Linear(backbone.feature_dim, 3), frozen=True)
    return model, lambda batch, p: (cross_entropy(model(batch[0]), batch[1]), {})


RUNS = {"dann": dann_run, "rotation": rotation_run, "nested": nested_run, "probe": probe_run}


@pytest.mark.parametrize("name", RUNS)
def test_methods_train_from_lazy_images_as_from_tensors(folder, name):
    "Loss by loss, to the bit; and with a random transform the loss falls."
    def losses(source, epochs=2, **options):
        seed_everything(0)
        model, step = RUNS[name]()
        target = source if isinstance(source, LazyImages) else source.images
        given = [source] if isinstance(source, LazyImages) else list(source)
        loader = (domain_batches(source, target, 9, steps=3, **options) if name == "dann"
                  else batches(*given, batch_size=9, **options))
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        return fit(step, loader, torch.optim.Adam(trained, 0.01), epochs=epochs, model=model, progress=False).loss

    eager, _ = image_folder(folder, 12)
    expected = losses(eager)
    assert losses(image_folder(folder, 12, lazy=True), workers=2) == expected
    cropped = losses(image_folder(folder, None, lazy=True, transform=CROPS), epochs=8)
    assert len(cropped) == 24 and np.mean(cropped[-6:]) < np.mean(cropped[:3])


# --- evaluation


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))


def test_measures_of_lazy_images_are_those_of_tensors(folder, net):
    lazy, (eager, _) = image_folder(folder, 8, lazy=True), image_folder(folder, 8)
    right = accuracy(net, *eager)
    rows, labels = features_and_labels(net, *eager, batch_size=4)
    assert torch.equal(rows, predict(net, eager.images, batch_size=4)) and torch.equal(labels, eager.labels)
    for given in (lazy, batches(lazy, batch_size=4, shuffle=False, drop_last=False, workers=2), DataLoader(lazy, 4)):
        assert accuracy(net, given, batch_size=4) == right
        assert torch.equal(predict(net, given, batch_size=4), rows)
        assert torch.equal(features_and_labels(net, given, batch_size=4)[1], labels)
    test = Subset(lazy, range(0, 27, 2))
    probe = linear_probe(*features_and_labels(net, lazy, batch_size=4), *features_and_labels(net, test, batch_size=4))
    assert probe == linear_probe(rows, labels, rows[::2], labels[::2])


def test_features_keep_their_labels_in_any_order(folder):
    lazy = image_folder(folder, 8, lazy=True)
    rows, labels = features_and_labels(nn.Flatten(), batches(lazy, batch_size=5, drop_last=False))
    assert not torch.equal(labels, lazy.labels) and labels.dtype == torch.int64
    expected = torch.stack([image.flatten() for image, _ in lazy])
    assert torch.equal(torch.cat([rows, labels[:, None]], 1).unique(dim=0),
                       torch.cat([expected, lazy.labels[:, None]], 1).unique(dim=0))


@pytest.mark.parametrize("images, labels, error, words", [
    (torch.eye(3), None, TypeError, "images must be a tensor with labels, or a loader that gives both"),
    (TensorDataset(torch.eye(3), LABELS[:3]), LABELS[:3], TypeError, "images must be a tensor with labels"),
    (torch.eye(3), LABELS, ValueError, r"labels must have as many rows as images \(3\), got 10"),
    (torch.eye(3), LABELS[:3].float(), TypeError, "labels must hold integer numbers"),
    (DataLoader(torch.eye(3)), None, TypeError, "labels of batch 0 must be a tensor"),
])
def test_features_without_labels_are_refused(images, labels, error, words):
    for measure in (features_and_labels, accuracy):
        with pytest.raises(error, match=words):
            measure(nn.Identity(), images, labels)


def test_accuracy_keeps_nothing_of_a_loader():
    "Neither inputs nor outputs of a batch are alive when the next but one comes."
    import weakref

    kept, alive = [], []

    class Watched(nn.Module):
        def forward(self, x):
            alive.append(sum(each() is not None for each in kept))
            made = x * 1
            kept.extend([weakref.ref(x), weakref.ref(made)])
            return made

    pairs = ((torch.eye(4), torch.arange(4)) for _ in range(50))
    assert accuracy(Watched(), pairs) == 1
    assert max(alive) <= 4


def test_more_columns_in_a_later_batch_are_refused():
    pairs = [(torch.eye(3), torch.arange(3)), (torch.eye(4), torch.arange(4))]
    with pytest.raises(ValueError, match=r"what model returns must be of shape \(N 3\), got \(4, 4\)"):
        accuracy(nn.Identity(), (pair for pair in pairs))


# --- memory

# 45,000 files more may cost 32 MiB more at the peak: less than 750 bytes for each. A path of 100 characters takes 150
# bytes as a text while the folder is listed, its place in two lists of pairs 250 more, and what is kept for good about
# 40. The images themselves would take 12 KiB each at 32 x 32, 527 MiB in all.
MORE_MEMORY = 32 * 2**20
WATCH = """
import sys
import torch
from xfer_course.data import batches, image_folder
from xfer_course.evaluation import accuracy

def peak():  # of this process alone; what getrusage says may be that of the process which started it
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
lazy, seen = image_folder(sys.argv[1], 32, lazy=True), 0

def counted():
    global seen
    for images, labels in batches(lazy, batch_size=250, drop_last=False):
        seen += len(images)
        yield images, labels

share = accuracy(net, counted())
print(seen, peak(), share)
"""


def many_files(path: Path, count: int) -> Path:
    "Small pictures of ten classes, most of them further names of 200 files."
    originals = []
    for i in range(count):
        file = path / f"class {i % 10}" / f"{i:06d}.png"
        if i < 200:
            originals.append(save_png(file, np.random.default_rng(i).integers(0, 256, (12, 12, 3), dtype=np.uint8)))
        else:
            os.link(originals[i % 200], file)
    return path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_is_flat_in_the_number_of_images(tmp_path):
    "Listing, reading and measuring 50,000 files takes as much as 5,000."
    peaks = {}
    for count in (5_000, 50_000):
        folder = many_files(tmp_path / f"{count} files", count)
        done = subprocess.run([sys.executable, "-c", WATCH, str(folder)], cwd=ROOT, capture_output=True, text=True,
                              check=True)
        read, peak, share = done.stdout.split()
        assert int(read) == count and 0 < float(share) < 0.3
        peaks[count] = int(peak)
    assert peaks[50_000] - peaks[5_000] < MORE_MEMORY, peaks


def test_a_worker_shares_the_names():
    "One text and one array, whatever the number of files: no object per file whose counter a worker would write."
    lazy = LazyImages(".", [f"{i}.png" for i in range(1000)], [0] * 1000, ["a"], size=4)
    assert len(pickle.dumps(lazy)) < 1000 * 40
    assert not [value for value in vars(lazy).values() if isinstance(value, (list, tuple, dict)) and len(value) > 1]
    assert re.search(r"999\.png$", lazy.path(999)) and lazy.paths[10] == Path("10.png").absolute()


def test_images_and_classes_come_apart_clearly(folder):
    "Whoever unpacks as without `lazy` is stopped."
    with pytest.raises(ValueError, match="too many values"):
        _images, _classes = image_folder(folder, 8, lazy=True)
    images = Images(*next(iter(batches(image_folder(folder, 8, lazy=True), batch_size=27, shuffle=False))))
    assert torch.equal(images.images, image_folder(folder, 8)[0].images)
