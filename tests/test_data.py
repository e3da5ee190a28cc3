"""Data: bad input, determinism, passes of the loaders, parity of the moons, damaged files,
the real sets where they are."""
from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import pickle
import re
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils.data import DataLoader, TensorDataset

from xfer_course import data
from xfer_course.data import DataFileError, Images, InputBatches, PassSampler, batches, built, catalogue, domain_batches

REAL_DATA = Path(os.environ.get("XFER_DATA") or "absent")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    "Every test has a cache of its own, and an empty data root."
    monkeypatch.setenv("XFER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XFER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def real():
    "`real(name)` returns the folder with real data; the test is skipped where the set is absent."

    def root(*names: str) -> Path:
        present = {row["name"] for row in data.datasets(REAL_DATA) if row["present"]}
        if set(names) - present:
            pytest.skip(f"real data not found: set XFER_DATA to a folder that holds {', '.join(names)}")
        return REAL_DATA

    return root


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PICTURES = torch.rand(6, 3, 8, 8, generator=seeded())
LABELS = torch.arange(6)
PHOTO = np.arange(40 * 50 * 3, dtype=np.uint32).reshape(40, 50, 3).astype(np.uint8)

# (what is called, the error, words that its sentence must contain)
BAD_INPUT = {
    "digits: unknown split": (lambda: data.digits("validation"), ValueError,
                              "split must be one of 'train', 'test', 'all', got 'validation'"),
    "digits: size 0": (lambda: data.digits(size=0), ValueError, "size must be a whole number of at least 1, got 0"),
    "digits: size not whole": (lambda: data.digits(size=28.0), TypeError, "size must be a whole number"),
    "digits: no channels": (lambda: data.digits(channels=0), ValueError,
                            "channels must be a whole number of at least 1, got 0"),
    "photos: none": (lambda: data.split_photos([]), ValueError, "photos must hold at least one photo"),
    "photos: floats": (lambda: data.split_photos([PHOTO / 255]), ValueError,
                       r"photos\[0\] must be a uint8 array .*, got float64"),
    "photos: grey": (lambda: data.split_photos([PHOTO[..., 0]]), ValueError,
                     r"photos\[0\] must be .*, got uint8 \(40, 50\)"),
    "photos: share above 1": (lambda: data.split_photos([PHOTO], 1.5), ValueError,
                              "test_share must be .* below 1, got 1.5"),
    "photos: share not a number": (lambda: data.split_photos([PHOTO], float("nan")), ValueError,
                                   "test_share must be .*, got nan"),
    "patches: none": (lambda: data.photo_patches([PHOTO], 0, 8), ValueError, "n must be .*, got 0"),
    "patches: larger than the photo": (lambda: data.photo_patches([PHOTO], 2, 41), ValueError, "at least 41"),
    "blend: shapes differ": (lambda: data.blend(PICTURES, PICTURES[:, :1]), ValueError,
                             r"patches must have the shape of images, \(6, 3, 8, 8\), got \(6, 1, 8, 8\)"),
    "blend: bytes": (lambda: data.blend(PICTURES.byte(), PICTURES.byte()), TypeError,
                     "images must hold float numbers, got torch.uint8"),
    "blend: three dimensions": (lambda: data.blend(PICTURES[0], PICTURES[0]), ValueError,
                                r"images must be of shape \(N C H W\)"),
    "jitter: arrays": (lambda: data.jitter(PICTURES.numpy()), TypeError, "images must be a tensor of shape"),
    "jitter: no images": (lambda: data.jitter(PICTURES[:0]), ValueError, "images must hold at least one value"),
    "jitter: negative angle": (lambda: data.jitter(PICTURES, degrees=-1), ValueError, "degrees must be .*, got -1"),
    "jitter: scale 1": (lambda: data.jitter(PICTURES, scale=1), ValueError, "scale must be .* below 1, got 1"),
    "jitter: shift NaN": (lambda: data.jitter(PICTURES, shift=float("nan")), ValueError, "shift must be .*, got nan"),
    "jitter: unknown padding": (lambda: data.jitter(PICTURES, padding="wrap"), ValueError,
                                "padding must be .*, got 'wrap'"),
    "moons: one point": (lambda: data.moons(1), ValueError, "n must be a whole number of at least 2, got 1"),
    "moons: negative noise": (lambda: data.moons(noise=-0.1), ValueError, "noise must be .*, got -0.1"),
    "moons: angle without end": (lambda: data.moons(rotation=float("inf")), ValueError,
                                 "rotation must be a finite number, got inf"),
    "moons: negative seed": (lambda: data.moons_pair(seed=-1), ValueError, "seed must be .*, got -1"),
    "moons: angle as text": (lambda: data.moons_pair(degrees="35"), TypeError,
                             "degrees must be a finite number, got '35'"),
    "batches: nothing": (lambda: batches(batch_size=2), ValueError, "tensors must be at least one.*got none"),
    "batches: rows differ": (lambda: batches(PICTURES, LABELS[:5], batch_size=2), ValueError,
                             r"tensor 1 must have as many rows as tensor 0 \(6\), got 5"),
    "batches: not a tensor": (lambda: batches([1, 2], batch_size=2), TypeError, "tensor 0 must be a tensor, got list"),
    "batches: single number": (lambda: batches(torch.tensor(1.0), batch_size=2), ValueError, "at least one row"),
    "batches: batch larger than the set": (lambda: batches(LABELS, batch_size=7), ValueError,
                                           "batch_size must be at most 6, .*got 7"),
    "batches: batch of 0": (lambda: batches(LABELS, batch_size=0), ValueError, "batch_size must be .*, got 0"),
    "batches: no steps": (lambda: batches(LABELS, batch_size=2, steps=0), ValueError, "steps must be .*, got 0"),
    "batches: negative seed": (lambda: batches(LABELS, batch_size=2, seed=-1), ValueError, "seed must be .*, got -1"),
    "domains: empty target": (lambda: domain_batches(Images(PICTURES, LABELS), PICTURES[:0], 2, steps=1), ValueError,
                              "target_images must have at least one row"),
    "domains: empty source": (lambda: domain_batches(Images(PICTURES[:0], LABELS[:0]), PICTURES, 2, steps=1),
                              ValueError, "source images"),
    "domains: labels too few": (lambda: domain_batches(Images(PICTURES, LABELS[:3]), PICTURES, 2, steps=1), ValueError,
                                r"source labels must have as many rows as source images \(6\), got 3"),
    "domains: sizes differ": (lambda: domain_batches(Images(PICTURES, LABELS), PICTURES[..., :4], 2, steps=1),
                              ValueError, r"target_images must have rows of shape \(3, 8, 8\), as the source, got "
                                          r"\(3, 8, 4\)"),
    "domains: no labels": (lambda: domain_batches(PICTURES, PICTURES, 2, steps=1), TypeError, "source must be Images"),
    "shipped: unknown": (lambda: data.shipped("nothing.json"), FileNotFoundError, "does not ship"),
    "get: unknown": (lambda: data.get("imagenet"), ValueError, "name must be one of 'digits', .*got 'imagenet'"),
    "get: bundled": (lambda: data.get("digits"), ValueError, "comes with scikit-learn"),
    "get: built": (lambda: data.get("mnist_m"), ValueError, "xfer data make mnist_m"),
    "get: by hand only": (lambda: data.get("office31"), ValueError, "office31 has no download: get it from http"),
    "make: unknown": (lambda: data.make("imagenet"), ValueError, "name must be one of 'mnist_m', got 'imagenet'"),
    "make: not built": (lambda: data.make("mnist"), ValueError, "name must be one of 'mnist_m', got 'mnist'"),
    "mnist: absent": (lambda: data.mnist(), FileNotFoundError, "run `xfer data get mnist`, or get it from http"),
    "mnist_m: absent": (lambda: data.mnist_m(), FileNotFoundError, "run `xfer data get mnist`"),
    "bsds500: absent": (lambda: data.bsds500(), FileNotFoundError, "BSDS500"),
    "office31: absent": (lambda: data.office31("amazon"), FileNotFoundError, "office31"),
    "svhn: absent": (lambda: data.svhn("extra"), FileNotFoundError, "xfer data get svhn"),
    "gtsrb: absent": (lambda: data.gtsrb("test"), FileNotFoundError, "xfer data get gtsrb"),
    "cifar10: absent": (lambda: data.cifar10(), FileNotFoundError, "xfer data get cifar10"),
    "usps: absent": (lambda: data.usps("test"), FileNotFoundError, "xfer data get usps"),
    "fashion_mnist: absent": (lambda: data.fashion_mnist(), FileNotFoundError, "xfer data get fashion_mnist"),
    "mnist: unknown split": (lambda: data.mnist("valid"), ValueError, "split must be .*, got 'valid'"),
    "mnist: two channels": (lambda: data.mnist(channels=2), ValueError, "channels must be one of None, 1, 3, got 2"),
    "mnist: size 0": (lambda: data.mnist(size=0), ValueError, "size must be .*, got 0"),
    "mnist_m: negative seed": (lambda: data.mnist_m(seed=-1), ValueError, "seed must be .*, got -1"),
    "bsds500: unknown split": (lambda: data.bsds500("all"), ValueError, "split must be .*, got 'all'"),
    "office31: unknown domain": (lambda: data.office31("caltech"), ValueError, "domain must be .*, got 'caltech'"),
    "image_folder: absent": (lambda: data.image_folder("/nowhere/at/all", 8), FileNotFoundError, "is not a folder"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gives_one_clear_sentence(case):
    call, error, words = BAD_INPUT[case]
    with pytest.raises(error, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)


# Digits, photos, jitter, moons


def test_digit_split_is_stratified_and_disjoint():
    everything, train, test = (data.digits(split, size=8, channels=1) for split in ("all", "train", "test"))
    assert len(train.labels) + len(test.labels) == len(everything.labels) == 1797
    share = test.labels.bincount() / everything.labels.bincount()
    assert share.min() > 0.24 and share.max() < 0.27
    merged = torch.cat([train.images, test.images]).flatten(1)
    assert torch.equal(merged.unique(dim=0), everything.images.flatten(1).unique(dim=0))


def test_digits_of_their_own_size_are_the_originals():
    from sklearn.datasets import load_digits

    np.testing.assert_allclose(data.digits("all", size=8, channels=1).images[:, 0].numpy(),
                               load_digits().images / 16, atol=1e-6)


def test_split_photos_share_no_pixel_and_lose_none():
    [train], [test] = data.split_photos([PHOTO], 0.3)
    np.testing.assert_array_equal(np.concatenate([train, test], axis=1), PHOTO)
    assert train.shape == (40, 35, 3)


def test_patches_are_crops_of_the_photo():
    photo = np.stack(np.meshgrid(np.arange(40), np.arange(50), [0], indexing="ij"), -1)[:, :, 0].astype(np.uint8)
    patches = (data.photo_patches([photo], 200, 8, seeded()) * 255).round().long()
    rows, columns = patches[:, 0, :, 0], patches[:, 1, 0, :]
    assert torch.equal(rows - rows[:, :1], torch.arange(8).expand(200, 8))
    assert torch.equal(columns - columns[:, :1], torch.arange(8).expand(200, 8))
    assert rows[:, 0].min() == 0 and rows[:, 0].max() == 32 and columns[:, 0].max() == 42


def test_first_patches_do_not_depend_on_how_many_are_drawn():
    few, many = (data.photo_patches([PHOTO, PHOTO[::-1].copy()], n, 8, seeded(3)) for n in (5, 500))
    assert torch.equal(few, many[:5])


def test_jitter_by_a_quarter_turn_equals_rot90(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.tensor([1.0, 0.5, 0.5, 0.5]).expand(*shape))
    turned = data.jitter(PICTURES, degrees=90, scale=0, shift=0)
    torch.testing.assert_close(turned, PICTURES.rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_jitter_turns_images_that_are_not_square_without_shearing(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.tensor([1.0, 0.5, 0.5, 0.5]).expand(*shape))
    wide = torch.zeros(1, 1, 9, 21)
    wide[0, 0, 4, 7:14] = 1  # a bar of 7 pixels through the centre
    turned = data.jitter(wide, degrees=90, scale=0, shift=0)
    assert turned[0, 0, 1:8, 10].min() > 0.99 and turned.sum() == pytest.approx(7, abs=0.01)


def test_jitter_is_repeatable_and_leaves_its_input_alone():
    before = PICTURES.clone()
    one, two, other = (data.jitter(PICTURES, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other) and torch.equal(PICTURES, before)


def test_moons_equal_the_authors_points(parity):
    case = parity("dann", "moons_paper")
    got = data.moons_pair(case.options["nb"], case.options["theta"], case.options["noise"])
    for name, values in zip(("X", "y", "X_target", "y_target"), got):
        case.assert_close(values, name, tolerance=1e-12)


def test_nothing_touches_the_global_random_state():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    data.photo_patches([PHOTO], 3, 8, seeded())
    data.jitter(PICTURES, generator=seeded())
    data.moons_pair()
    list(domain_batches(Images(PICTURES, LABELS), PICTURES, 2, steps=4))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


# Batches


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3), length=st.integers(1, 150), seed=st.integers(0, 10))
def test_every_row_comes_once_before_any_row_comes_again(sizes, length, seed):
    drawn = list(PassSampler(sizes, length, seed=seed))
    assert len(drawn) == length
    for size, rows in zip(sizes, zip(*drawn)):
        for start in range(0, length, size):
            one_pass = rows[start:start + size]
            assert len(set(one_pass)) == len(one_pass)
            assert len(one_pass) < size or set(one_pass) == set(range(size))


def test_domain_batches_cover_each_domain_pass_by_pass():
    source, target = Images(torch.arange(10.0)[:, None], torch.arange(10)), 100 + torch.arange(6.0)[:, None]
    loader = domain_batches(source, target, batch_size=4, steps=15)
    collected = [torch.cat(column).flatten() for column in zip(*loader)]
    assert torch.equal(collected[0].long(), collected[1])  # labels stay with their images
    for values, size in ((collected[1], 10), (collected[2].long() - 100, 6)):
        for one_pass in values.split(size):
            assert torch.equal(one_pass.sort().values, torch.arange(size))


def test_order_depends_on_seed_and_epoch_alone():
    def epochs(seed, count=2):
        loader = batches(torch.arange(50), batch_size=10, seed=seed)
        return [torch.cat([rows for rows, in loader]) for _ in range(count)]

    (first, second), again, other = epochs(0), epochs(0), epochs(1)
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])
    assert not torch.equal(first, second) and not torch.equal(first, other[0])
    loader = batches(torch.arange(50), batch_size=10, seed=0)
    loader.batch_sampler.sampler.set_epoch(1)
    assert torch.equal(torch.cat([rows for rows, in loader]), second)


def test_batches_in_file_order_keep_the_rest_when_asked():
    rows = [batch.tolist() for batch, in batches(torch.arange(7), batch_size=3, shuffle=False, drop_last=False)]
    assert rows == [[0, 1, 2], [3, 4, 5], [6]]


def test_accelerate_prepares_the_loaders():
    from accelerate import Accelerator, skip_first_batches

    plain = domain_batches(Images(PICTURES, LABELS), PICTURES, batch_size=4, steps=5, seed=7)
    prepared = Accelerator(cpu=True).prepare(
        domain_batches(Images(PICTURES, LABELS), PICTURES, batch_size=4, steps=5, seed=7))
    assert len(prepared) == 5
    for _ in range(2):  # the second epoch has an order of its own, the same in both
        expected, got = list(plain), list(prepared)
        assert all(torch.equal(a, b) for one, two in zip(expected, got, strict=True)
                   for a, b in zip(one, two, strict=True))
    prepared.set_epoch(0)
    plain.batch_sampler.sampler.set_epoch(0)
    rest = list(skip_first_batches(prepared, 3))
    assert all(torch.equal(a, b) for one, two in zip(list(plain)[3:], rest, strict=True)
               for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_an_epoch(processes):
    from accelerate.data_loader import prepare_data_loader

    def loader():
        return batches(torch.arange(48), batch_size=4, steps=12, seed=1)

    shares = [list(prepare_data_loader(loader(), num_processes=processes, process_index=i)) for i in range(processes)]
    together = [share[step][0] for step in range(12 // processes) for share in shares]
    assert all(torch.equal(a, b) for a, (b,) in zip(together, loader(), strict=True))


def test_one_row_is_read_like_a_batch():
    rows = data.TensorBatches((PICTURES, LABELS), (PICTURES,))
    image, label, other = rows[(2, 5)]
    assert torch.equal(image, PICTURES[2]) and label == 2 and torch.equal(other, PICTURES[5]) and len(rows) == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_stay_on_the_gpu():
    images = PICTURES.cuda()
    loader = domain_batches(Images(images, LABELS.cuda()), images, 4, steps=2)
    assert all(tensor.is_cuda for batch in loader for tensor in batch)
    assert data.jitter(images, generator=seeded()).is_cuda


# Damaged files


def write_idx(path: Path, array: np.ndarray, keep: int | None = None) -> Path:
    "Write an idx file, or only its first `keep` bytes; compressed where the name ends with .gz."
    content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wb") as file:
        file.write(content[:keep])
    return path


def small_mnist(root: Path, n: int = 5, labels: np.ndarray | None = None,
                suffix: str = ".gz") -> tuple[np.ndarray, np.ndarray]:
    "A tiny set in MNIST's layout."
    pixels = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    labels = np.arange(n, dtype=np.uint8) if labels is None else labels
    for part in ("train", "t10k"):
        write_idx(root / f"MNIST/raw/{part}-images-idx3-ubyte{suffix}", pixels)
        write_idx(root / f"MNIST/raw/{part}-labels-idx1-ubyte{suffix}", labels)
    return pixels, labels


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_reads_plain_and_compressed_files(tmp_path, suffix):
    pixels, labels = small_mnist(tmp_path, suffix=suffix)
    images, got = data.mnist(root=tmp_path)
    assert images.shape == (5, 1, 28, 28) and torch.equal(got, torch.arange(5))
    np.testing.assert_array_equal((images[:, 0] * 255).round().numpy().astype(np.uint8), pixels)
    few = data.mnist("test", n=2, size=32, channels=3, root=tmp_path)
    assert few.images.shape == (2, 3, 32, 32) and few.labels.tolist() == [0, 1]


@pytest.mark.parametrize("n, error, words", [
    (6, ValueError, "n must be a whole number from 1 to 5, got 6"),
    (0, ValueError, "n must be .*, got 0"),
    (2.5, TypeError, "n must be a whole number"),
])
def test_n_must_fit_the_set(tmp_path, n, error, words):
    small_mnist(tmp_path)
    with pytest.raises(error, match=words):
        data.mnist(n=n, root=tmp_path)


def test_labels_must_match_the_images(tmp_path):
    small_mnist(tmp_path, labels=np.arange(4, dtype=np.uint8))
    with pytest.raises(DataFileError, match="expected 5 labels from 0 to 9, found 4"):
        data.mnist(root=tmp_path)
    small_mnist(tmp_path, labels=np.full(5, 10, np.uint8))
    with pytest.raises(DataFileError, match="found 5 up to 10"):
        data.mnist(root=tmp_path)


def spoil_header(path: Path) -> None:
    path.write_bytes(b"<html>" + path.read_bytes())


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [spoil_header, cut_short, empty])
def test_a_damaged_idx_file_is_named(tmp_path, damage):
    path = write_idx(tmp_path / "some-idx3-ubyte", np.zeros((3, 28, 28), np.uint8))
    damage(path)
    with pytest.raises(DataFileError, match=re.escape(str(path)) + ".*(found|header).*get it again"):
        data.read_idx(path)


def test_an_idx_file_that_is_too_long_is_refused(tmp_path):
    path = write_idx(tmp_path / "long", np.zeros((3, 2, 2), np.uint8))
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataFileError, match="announces 12 bytes of data, found 13"):
        data.read_idx(path)


def test_an_idx_header_that_announces_too_much_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "huge"
    path.write_bytes(bytes([0, 0, 8, 3]) + np.array([2**31, 2**15, 2**15], ">u4").tobytes())
    with pytest.raises(DataFileError, match="found 0"):
        data.read_idx(path)


@pytest.mark.parametrize("damage", [spoil_header, cut_short, flip_a_bit, empty])
def test_a_damaged_gz_file_is_named(tmp_path, damage):
    noise = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    path = write_idx(tmp_path / "x-idx3-ubyte.gz", noise)
    damage(path)
    with pytest.raises(DataFileError, match=re.escape(str(path))):
        data.read_idx(path)


def test_expected_and_found_sizes_are_given_for_known_files(tmp_path):
    small_mnist(tmp_path)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz"
    cut_short(path)
    with pytest.raises(DataFileError, match=f"expected 9,912,422 bytes, found {path.stat().st_size:,}"):
        data.mnist(root=tmp_path)


def usps_arrays(**changes) -> dict[str, np.ndarray]:
    arrays = {"train_x": np.full((4, 16, 16), -1000, np.int16), "train_y": np.arange(4, dtype=np.uint8)}
    return {name: values for name, values in (arrays | changes).items() if values is not None}


@pytest.mark.parametrize("changes, words", [
    ({"train_y": None}, "train_y"),
    ({"train_y": np.arange(3, dtype=np.uint8)}, r"\(3,\)"),
    ({"train_x": np.zeros((4, 16, 16))}, "float64"),
    ({"train_x": np.zeros((4, 8, 8), np.int16)}, r"\(4, 8, 8\)"),
    ({"train_x": np.array([{}] * 4, dtype=object)}, "allow_pickle"),
    ({"train_y": np.array([0, 1, 2, 500])}, "labels from 0 to 9"),
    ({"train_y": np.array([0, 1, 2, np.nan])}, "labels from 0 to 9"),
    ({"train_x": np.full((4, 16, 16), 30000, np.int16)}, "grey values from -1000 to 1000"),
    ({"train_x": np.full((4, 16, 16), -32768, np.int16)}, "grey values from -1000 to 1000"),
])
def test_wrong_arrays_in_an_npz_file_are_named(tmp_path, changes, words):
    np.savez(tmp_path / "usps.npz", **usps_arrays(**changes))
    with pytest.raises(DataFileError, match=words):
        data.usps(root=tmp_path)


@pytest.mark.parametrize("damage", [spoil_header, cut_short, empty])
def test_a_damaged_npz_file_is_named(tmp_path, damage):
    np.savez(tmp_path / "usps.npz", **usps_arrays())
    damage(tmp_path / "usps.npz")
    with pytest.raises(DataFileError, match=r"usps\.npz"):
        data.usps(root=tmp_path)


def test_usps_as_text_and_as_arrays_agree(tmp_path):
    import bz2

    values = np.linspace(-1, 1, 256).round(3)
    (tmp_path / "text").mkdir()
    line = "8 " + " ".join(f"{i + 1}:{value}" for i, value in enumerate(values)) + "\n"
    (tmp_path / "text/usps.bz2").write_bytes(bz2.compress(line.encode()))
    x = np.rint(values.reshape(1, 16, 16) * 1000).astype(np.int16)
    np.savez(tmp_path / "usps.npz", train_x=x, train_y=np.array([7], np.uint8))
    text, arrays = data.usps(root=tmp_path / "text"), data.usps(root=tmp_path)
    assert text.labels.tolist() == arrays.labels.tolist() == [7]
    torch.testing.assert_close(text.images, arrays.images, atol=1.01 / 255, rtol=0)


@pytest.mark.parametrize("damage", [spoil_header, cut_short])
def test_damaged_text_of_usps_is_named(tmp_path, damage):
    import bz2

    (tmp_path / "usps.bz2").write_bytes(bz2.compress(b"8 1:0.5\n" * 100))
    damage(tmp_path / "usps.bz2")
    with pytest.raises(DataFileError, match=r"usps\.bz2"):
        data.usps(root=tmp_path)


@pytest.mark.parametrize("name, loader", [
    ("train_32x32.mat", data.svhn),
    ("SVHN/train_32x32.mat", data.svhn),
    ("cifar-10-batches-py/data_batch_1", data.cifar10),
])
def test_files_with_a_wrong_checksum_are_refused_before_they_are_opened(tmp_path, name, loader):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"not what it should be")
    with pytest.raises(DataFileError, match="its checksum is not the published one"):
        loader(root=tmp_path)


def test_svhn_reads_torchvisions_files(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    (tmp_path / "SVHN").mkdir()
    path = tmp_path / "SVHN/test_32x32.mat"
    savemat(path, {"X": pixels, "y": np.array([[1], [9], [10], [2]], np.uint8)})
    monkeypatch.setitem(SVHN.split_list, "test", ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()])
    images, labels = data.svhn("test", root=tmp_path)
    assert labels.tolist() == [1, 9, 0, 2]
    np.testing.assert_array_equal((images[2] * 255).round().numpy(), pixels[..., 2].transpose(2, 0, 1))


def test_cifar10_reads_torchvisions_files(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    contents = {"test_batch": {"data": pixels.reshape(3, -1), "labels": [3, 1, 9]},
                "batches.meta": {"label_names": list(data.CIFAR10_CLASSES)}}
    md5 = {}
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name, content in contents.items():
        packed = pickle.dumps(content)
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(packed)
        md5[name] = hashlib.md5(packed).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setitem(CIFAR10.meta, "md5", md5["batches.meta"])
    images, labels = data.cifar10("test", n=2, root=tmp_path)
    assert labels.tolist() == [3, 1]
    np.testing.assert_array_equal((images * 255).round().numpy(), pixels[:2])


# Folders of images


def save_png(path: Path, array: np.ndarray) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def test_image_folder_scales_deep_pictures_and_skips_hidden_files(tmp_path):
    from PIL import Image

    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for folder in ("flat", "classes/a"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(grey).save(tmp_path / folder / "deep.png")
        (tmp_path / folder / "._deep.png").write_bytes(b"what macOS adds to archives")
    for folder in ("flat", "classes"):
        images = data.image_folder(tmp_path / folder, 8, channels=1)[0].images
        np.testing.assert_allclose(images[0, 0], grey / 65535, atol=1 / 255)
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "flat/float.tiff")
    with pytest.raises(data.DataFileError,
                       match=r"float.tiff is not an image that can be read: its pixels have 32 bits"):
        data.image_folder(tmp_path / "flat", 8)


def test_image_folder_reads_classes_in_turn(tmp_path):
    for name, value, count in (("dog", 200, 2), ("cat", 100, 3)):
        for i in range(count):
            save_png(tmp_path / name / f"{i}.png", np.full((10, 20, 3), value + i, np.uint8))
    (images, labels), classes = data.image_folder(tmp_path, size=4)
    assert classes == ["cat", "dog"] and labels.tolist() == [0, 1, 0, 1, 0]
    assert images.shape == (5, 3, 4, 4)
    torch.testing.assert_close(images[:, 0, 0, 0] * 255, torch.tensor([100.0, 200, 101, 201, 102]))
    assert data.image_folder(tmp_path, size=4, n=3, channels=1)[0].images.shape == (3, 1, 4, 4)
    with pytest.raises(ValueError, match="n must be a whole number from 1 to 5, got 6"):
        data.image_folder(tmp_path, size=4, n=6)


def test_image_folder_reads_a_folder_without_classes(tmp_path):
    for i in (2, 0, 1):
        save_png(tmp_path / "mine" / f"{i}.png", np.full((6, 6, 3), 50 * i, np.uint8))
    (tmp_path / "mine/notes.txt").write_text("not an image")
    (tmp_path / "mine/.thumbnails").mkdir()
    (images, labels), classes = data.image_folder(tmp_path / "mine", size=4)
    assert classes == ["mine"] and labels.tolist() == [0, 0, 0]
    torch.testing.assert_close(images[:, 0, 0, 0] * 255, torch.tensor([0.0, 50, 100]))


def test_image_folder_crops_the_centre_and_turns_photos_upright(tmp_path):
    from PIL import Image

    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255
    save_png(tmp_path / "a/wide.png", wide)
    assert data.image_folder(tmp_path, size=8)[0].images.min() == 1
    top_white = np.zeros((8, 8, 3), np.uint8)
    top_white[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(top_white).save(tmp_path / "a/wide.png", exif=exif)
    image = data.image_folder(tmp_path, size=8)[0].images[0, 0]
    assert image[:, 4:].min() == 1 and image[:, :4].max() == 0


NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


LITTER = [".ipynb_checkpoints/1-checkpoint.png", ".thumbnails/1.png", "__MACOSX/cat/._1.png", "@eaDir/1.png/SYNO.jpg",
          ".DS_Store", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN/1.png", "cat/.ipynb_checkpoints/1-checkpoint.png",
          "cat/@eaDir/1.jpg", "dog/Thumbs.db", "cat/deep/.hidden/2.png", "cat/._1.png", "__pycache__/a.pyc"]


@pytest.mark.parametrize("litter", LITTER)
def test_hidden_and_system_files_are_neither_classes_nor_images(tmp_path, litter):
    for name in ("cat", "dog"):
        save_png(tmp_path / name / "1.png", NOISE)
    (tmp_path / litter).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / litter).write_bytes((tmp_path / "cat/1.png").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, names = data.image_folder(tmp_path, 4)
        assert len(data.image_folder(tmp_path / "dog", 4)[0].images) == 1
    assert names == ["cat", "dog"] and images.labels.tolist() == [0, 1]


def test_labels_follow_the_given_classes(tmp_path):
    for part, names in {"train": ("cat", "dog", "owl"), "new": ("owl", "dog"), "one": ("owl",)}.items():
        for name in names:
            save_png(tmp_path / part / name / "1.png", NOISE)
    (tmp_path / "new/cat").mkdir()  # there, but empty
    _, names = data.image_folder(tmp_path / "train", 4)
    for classes in (names, tuple(names), np.array(names)):
        images, again = data.image_folder(tmp_path / "new", 4, classes=classes)
        assert images.labels.tolist() == [1, 2] and again == names
    assert data.image_folder(tmp_path / "one", 4, classes=names)[0].labels.tolist() == [2]
    assert data.image_folder(tmp_path / "new/dog", 4, classes=names)[0].labels.tolist() == [1]  # without sub-folders
    assert data.folder_samples(tmp_path / "one", names) == ([(tmp_path / "one/owl/1.png", 2)], names)
    assert data.image_folder(tmp_path / "train", 4, classes=["owl", "cat", "dog"])[0].labels.tolist() == [0, 1, 2]


def test_names_are_compared_however_they_are_composed(tmp_path):
    save_png(tmp_path / unicodedata.normalize("NFD", "Größe é") / "1.png", NOISE)
    images, names = data.image_folder(tmp_path, 4, classes=["a", "Größe é"])
    assert images.labels.tolist() == [1] and names == ["a", "Größe é"]


@pytest.mark.parametrize("classes, error, words", [
    (["cat"], ValueError, "classes must name every folder of images in .*, got cat without 'dog'"),
    (["Cat", "dog"], ValueError, "without 'cat'"),
    (["cat", "cat", "dog"], ValueError, "classes must be different names"),
    ("cat", TypeError, "classes must be a list of texts"), (3, TypeError, "classes must be a list of texts"),
    ([0, 1], TypeError, "classes must be a list of texts"), ([], ValueError, "at least 1 text")])
def test_classes_that_do_not_fit_a_folder(tmp_path, classes, error, words):
    for name in ("cat", "dog"):
        save_png(tmp_path / name / "1.png", NOISE)
    with pytest.raises(error, match=words):
        data.image_folder(tmp_path, 4, classes=classes)


def test_a_folder_of_parts_is_not_taken_for_classes(tmp_path):
    for part in ("train", "Test"):
        save_png(tmp_path / part / "cat/1.png", NOISE)
    with pytest.raises(ValueError, match="path must be a folder of classes, got .* with the parts Test, train"):
        data.image_folder(tmp_path, 4)


@pytest.mark.parametrize("beside", ["raw/1.png", "labels/a/1.png", "val/cat/1.png", "unsorted/1.png"])
def test_parts_beside_other_folders_are_not_taken_for_classes(tmp_path, beside):
    for file in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", beside):
        save_png(tmp_path / file, NOISE)
    for read in (lambda: data.image_folder(tmp_path, 4), lambda: data.folder_samples(tmp_path)):
        with pytest.raises(ValueError, match="must be a folder of classes, got .* parts test, train.*: give one"):
            read()


def test_a_train_alone_beside_what_is_no_part_is_refused(tmp_path):
    for file in ("train/cat/1.png", "train/dog/1.png", "unlabelled/1.png"):
        save_png(tmp_path / file, NOISE)
    with pytest.raises(ValueError, match="with the parts train beside unlabelled: give one of them, such as .*/train"):
        data.image_folder(tmp_path, 4)


def test_parts_without_classes_are_no_classes(tmp_path):
    for file in ("train/1.png", "val/1.png"):
        save_png(tmp_path / file, NOISE)
    with pytest.raises(ValueError, match="with the parts train, val"):
        data.image_folder(tmp_path, 4)


@pytest.mark.parametrize("files", [("bus/1.png", "train/1.png"), ("bus/2023/1.png", "train/2023/1.png", "car/a/1.png")])
def test_a_train_among_vehicles_is_a_class(tmp_path, files):
    for file in files:
        save_png(tmp_path / file, NOISE)
    assert data.image_folder(tmp_path, 4)[1] == sorted({file.split("/")[0] for file in files})


ONE_TOO_HIGH = {"domains": ("amazon/bike/1.png", "amazon/mug/1.png", "webcam/bike/1.png", "webcam/mug/1.png"),
                "a folder around": ("images/cat/1.png", "images/dog/1.png"),
                "kinds": ("animals/cat/1.png", "animals/dog/1.png", "plants/oak/1.png", "plants/rose/a/1.png")}


@pytest.mark.parametrize("kind", ONE_TOO_HIGH)
def test_a_folder_one_level_too_high_is_said(tmp_path, kind):
    for file in ONE_TOO_HIGH[kind]:
        save_png(tmp_path / file, NOISE)
    first, below = ONE_TOO_HIGH[kind][0].split("/")[:2]
    with pytest.warns(UserWarning, match=rf"all lie in folders below, such as {below}, .*: give .*/{first} if"):
        data.image_folder(tmp_path, 4)


@pytest.mark.parametrize("files", [("cat/1.png", "cat/2023/1.png", "cat/2024/1.png", "dog/a/1.png", "dog/b/1.png"),
                                   ("cat/all/1.png", "dog/all/1.png")])
def test_folders_inside_a_class_are_read_without_a_word(tmp_path, recwarn, files):
    for file in files:
        save_png(tmp_path / file, NOISE)
    assert data.image_folder(tmp_path, 4)[1] == ["cat", "dog"] and not recwarn.list


def test_files_left_out_are_counted_by_reason(tmp_path):
    from PIL import Image

    save_png(tmp_path / "cat/1.png", NOISE)
    for name, content in {"a.txt": b"a", "b.TXT": b"b", "c.mp4": b"c", "name": b"d", "e.heic": b"e"}.items():
        (tmp_path / "cat" / name).write_bytes(content)
    (tmp_path / "cat/gone.png").symlink_to("nowhere.png")
    save_png(tmp_path / "outside.png", NOISE)
    (tmp_path / "README.md").write_text("about")
    with pytest.warns(UserWarning) as said:
        assert len(data.image_folder(tmp_path, 4)[0].images) == 1
    heic = "" if importlib.util.find_spec("pillow_heif") else "images that Pillow cannot open here .*heic.*: 1, "
    assert len(said) == 1 and re.search(
        r"7 files left out .broken links and pipes: 1, images beside the class folders: 1, " + heic
        + r"no images .\.mp4.: 1, no images .\.txt.: 2, no images .no ending.: 1", str(said[0].message))
    assert Path(said[0].filename) == Path(__file__) and Image.open(tmp_path / "cat/1.png").size == (40, 40)


def test_a_class_folder_that_is_a_broken_link_is_said(tmp_path):
    for name in ("cat", "dog"):
        save_png(tmp_path / name / "1.png", NOISE)
    (tmp_path / "owl").symlink_to(tmp_path / "not_mounted")
    with pytest.warns(UserWarning, match="owl left out .a link to nowhere"):
        assert data.image_folder(tmp_path, 4)[1] == ["cat", "dog"]


def test_damaged_images_are_left_out_on_request_and_counted(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    small = NOISE[:20, :20]
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        save_png(tmp_path / name, small)
    save_png(tmp_path / "dog/huge.png", np.tile(NOISE, (2, 2, 1)))
    cut_short(save_png(tmp_path / "cat/0.png", small))
    (tmp_path / "dog/empty.jpg").touch()
    with pytest.raises(DataFileError, match="0.png is not an image"):
        data.image_folder(tmp_path, 4)
    with pytest.warns(UserWarning, match="3 files left out .damaged images: 1, empty files: 1, images with too"):
        images, _ = data.image_folder(tmp_path, 4, skip_damaged=True)
    assert images.labels.tolist() == [1, 0, 0]
    with pytest.warns(UserWarning, match="1 file left out"):
        assert data.image_folder(tmp_path, 4, n=2, skip_damaged=True)[0].labels.tolist() == [1, 0]
    for file in (tmp_path / "cat").iterdir():
        file.write_bytes(b"oops")
    with pytest.raises(DataFileError, match="none of the 3 images can be read"):
        data.image_folder(tmp_path / "cat", 4, skip_damaged=True)


@pytest.mark.parametrize("ending, kind", [
    ("gif", "GIF"), ("webp", "WEBP"), ("avif", "AVIF"), ("TIF", "TIFF"), ("tiff", "TIFF"), ("JPG", "JPEG"),
    ("jfif", "JPEG"), ("PNG", "PNG"), ("bmp", "BMP"), ("jp2", "JPEG2000"), ("tga", "TGA"), ("ppm", "PPM"),
    ("qoi", "QOI")])
def test_whatever_pillow_opens_is_read_and_its_first_frame_only(tmp_path, ending, kind):
    from PIL import Image

    if kind not in Image.registered_extensions().values() or kind not in Image.SAVE:
        pytest.skip(f"Pillow is built without {kind}")
    (tmp_path / "a").mkdir()
    more = {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]} if kind in Image.SAVE_ALL else {}
    Image.new("RGB", (8, 8), (250, 0, 0)).save(tmp_path / f"a/1.{ending}", kind, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = data.image_folder(tmp_path, 8)[0].images
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.tensor([250 / 255, 0, 0]), atol=0.03, rtol=0)


def odd_images() -> dict[str, tuple]:
    "Images of unusual modes, and the grey or colour that they show."
    from PIL import Image

    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    palette = Image.new("RGB", (8, 8), (10, 200, 30)).convert("P")
    deep = np.full((8, 8), 32768, np.uint16)
    return {"clear.png": (clear, {}, 1.0), "clear.gif": (clear, {}, 1.0), "half.png": (
            Image.new("LA", (8, 8), (0, 128)), {}, 127 / 255),
            "colour key.png": (Image.new("RGB", (8, 8), (9, 9, 9)), {"transparency": (9, 9, 9)}, 1.0),
            "palette.png": (palette, {"transparency": bytes([255] * 256)}, (10 + 200 + 30) / 765),
            "palette clear.png": (palette, {"transparency": bytes(256)}, 1.0),
            "bits.png": (Image.new("1", (8, 8), 1), {}, 1.0), "deep.png": (Image.fromarray(deep), {}, 0.5),
            "deep.tif": (Image.fromarray(deep), {}, 0.5), "deep.pgm": (Image.fromarray(deep), {}, 0.5),
            "big endian.tif": (Image.fromarray(deep.astype(">u2")), {}, 0.5),
            "cmyk.tif": (Image.new("RGB", (8, 8), (200, 30, 60)).convert("CMYK"), {}, 290 / 765)}


@pytest.mark.parametrize("name", ["clear.png", "clear.gif", "half.png", "colour key.png", "palette.png",
                                  "palette clear.png", "bits.png", "deep.png", "deep.tif", "deep.pgm", "big endian.tif",
                                  "cmyk.tif"])
def test_images_of_unusual_modes_look_as_people_see_them(tmp_path, name):
    image, options, grey = odd_images()[name]
    image.save(tmp_path / name, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.image_folder(tmp_path, 8)[0].images.mean().item() == pytest.approx(grey, abs=0.01)


@pytest.mark.parametrize("prepare, error, words", [
    (lambda path: path.mkdir(), FileNotFoundError, "holds neither images nor folders of images"),
    (lambda path: (path / ".hidden").mkdir(parents=True), FileNotFoundError, "holds neither images"),
    (lambda path: (path / "cat").mkdir(parents=True), FileNotFoundError, "class folders without any image: cat"),
    (lambda path: save_png(path / "cat/1.png", NOISE).write_bytes(b"oops"), DataFileError,
     "1.png is not an image that can be read"),
    (lambda path: cut_short(save_png(path / "cat/1.png", NOISE)), DataFileError, "1.png"),
    (lambda path: (save_png(path / "cat/1.png", NOISE).parent / "self").symlink_to("."), ValueError,
     "self is a link to a folder inside a class folder"),
    (lambda path: (path / "cat").mkdir(parents=True) or os.mkfifo(path / "cat/1.png"), FileNotFoundError,
     "without any image: cat"),
])
def test_image_folder_says_what_is_wrong(tmp_path, prepare, error, words):
    prepare(tmp_path / "mine")
    with pytest.raises(error, match=words):
        data.image_folder(tmp_path / "mine", size=8)


def test_office31_and_gtsrb_read_their_layouts(tmp_path):
    pixels = np.full((12, 12, 3), 51, np.uint8)
    for name in ("bike", "mug"):
        save_png(tmp_path / f"office31/dslr/images/{name}/1.png", pixels)
    (images, labels), classes = data.office31("dslr", size=8, root=tmp_path)
    assert classes == ["bike", "mug"] and labels.tolist() == [0, 1] and images.shape == (2, 3, 8, 8)
    assert data.office31("dslr", size=8, classes=["bag", *classes], root=tmp_path)[0].labels.tolist() == [1, 2]
    for label in (0, 41):
        save_png(tmp_path / f"gtsrb/GTSRB/Training/{label:05}/1.ppm", pixels)
    save_png(tmp_path / "gtsrb/GTSRB/Final_Test/Images/00000.ppm", pixels)
    (tmp_path / "gtsrb/GT-final_test.csv").write_text("Filename;Width;ClassId\n00000.ppm;12;41\n")
    assert data.gtsrb(root=tmp_path).labels.tolist() == [0, 41]  # as the test part counts
    images, labels = data.gtsrb("test", size=40, root=tmp_path)
    assert images.shape == (1, 3, 40, 40) and labels.tolist() == [41]


def test_grey_of_a_colour_image_is_its_brightness():
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 255
    images = data.as_images(red, np.zeros(1), n=None, size=None, channels=1).images
    torch.testing.assert_close(images, torch.full((1, 1, 2, 2), 0.299))


# The cache


def test_the_cache_survives_damage_and_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    calls = []

    def build():
        calls.append(1)
        return {"a": np.arange(3)}

    for _ in range(2):
        np.testing.assert_array_equal(data.cached_arrays("x", build)["a"], np.arange(3))
    assert len(calls) == 1 and [path.name for path in data.cache_root().iterdir()] == ["x.npz"]
    cut_short(data.cache_root() / "x.npz")
    np.testing.assert_array_equal(data.cached_arrays("x", build)["a"], np.arange(3))
    assert len(calls) == 2
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XFER_CACHE", str(tmp_path / "file/inside"))
    with pytest.warns(UserWarning, match="could not be written"):
        data.cached_arrays("x", build)


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.write_atomically(tmp_path / "x.npz", interrupted)
    assert not list(tmp_path.iterdir())


# The manifest


def test_the_manifest_states_what_it_must():
    for name, entry in data.manifest().items():
        assert ({"title", "kind", "source", "licence", "terms", "citation", "by_hand", "forms", "download"}
                <= entry.keys()), name
        assert entry["source"].startswith("http") and entry["terms"] and entry["licence"], name
        for known in [file for form in entry["forms"] for file in form["files"]] + entry["download"]:
            assert {"bytes", "sha256", "md5"} <= known.keys()
            assert known["sha256"] is None or re.fullmatch("[0-9a-f]{64}", known["sha256"])
            assert known["md5"] is None or re.fullmatch("[0-9a-f]{32}", known["md5"])
        given = {path for part in entry["download"] for path in part["gives"].values()}
        needed = {file["path"] for file in entry["forms"][0]["files"]} if entry["forms"] else set()
        assert not given or all(path.startswith(tuple(given)) for path in needed), name
        for part in entry["download"]:
            assert part["sha256"] or part["md5"] or part["tree_sha256"], f"{name}: {part['file']} could not be verified"


def test_downloads_are_those_of_torchvision():
    import torchvision.datasets as tv

    known = data.manifest()
    for name, resources in (("mnist", tv.MNIST), ("fashion_mnist", tv.FashionMNIST)):
        parts = {part["file"]: part for part in known[name]["download"]}
        for file, md5 in resources.resources:
            assert parts[file]["md5"] == md5 and parts[file]["urls"] == [mirror + file for mirror in resources.mirrors]
    for name, dataset in (("usps", tv.USPS), ("svhn", tv.SVHN)):
        for part in known[name]["download"]:
            assert [part["urls"][0], part["file"], part["md5"]] in map(list, dataset.split_list.values())
    assert ((known["cifar10"]["download"][0]["urls"], known["cifar10"]["download"][0]["md5"])
            == ([tv.CIFAR10.url], tv.CIFAR10.tgz_md5))


def test_datasets_lists_what_is_there(tmp_path):
    rows = {row["name"]: row for row in data.datasets(tmp_path)}
    assert rows["digits"]["present"] and not rows["mnist"]["present"]
    assert rows["mnist"]["where"] == "xfer data get mnist" and rows["mnist"]["bytes"] == 11_594_722
    assert rows["mnist_m"]["where"] == "xfer data make mnist_m" and rows["office31"]["where"] == "by hand"
    small_mnist(tmp_path)
    assert {row["name"]: row for row in data.datasets(tmp_path)}["mnist"]["present"]


def test_the_version_of_a_set_follows_all_its_files(tmp_path):
    versions = []
    for number, other in ((1, "x"), (2, "x"), (2, "y")):
        for domain in ("amazon", "dslr", "webcam"):
            file = tmp_path / "office31" / domain / "images" / "mug" / f"frame_{domain}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bytes([number]) if domain == "webcam" else other.encode())
        versions.append(data.data_versions(["office31", "mnist", "digits"], tmp_path))
    assert [each["mnist"] for each in versions] == ["absent"] * 3 and all("digits" not in each for each in versions)
    assert len({each["office31"] for each in versions}) == 3
    (tmp_path / "office31" / "webcam").rename(tmp_path / "office31" / "camera")
    assert data.data_versions(["office31"], tmp_path) == {"office31": "absent"}


def test_roots_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XFER_DATA", "~/somewhere")
    assert data.data_root() == Path.home() / "somewhere"
    monkeypatch.delenv("XFER_DATA")
    monkeypatch.delenv("XFER_CACHE")
    assert data.data_root() in data.cache_root().parents


def test_importing_data_loads_nothing_heavy():
    code = ("import sys, xfer_course.data; print([m for m in ('torchvision', 'sklearn', 'pooch', 'PIL', 'matplotlib', "
            "'scipy') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# MNIST-M


def test_mnist_m_is_the_distance_of_digit_and_crop_without_wrapping():
    digits = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    photos = [np.random.default_rng(k).integers(0, 256, (40 + k, 60 - k, 3), dtype=np.uint8) for k in range(3)]
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(built, "bsds500", lambda split, root: photos)
        pixels = built._mnist_m_pixels(digits, "test", 0, None)
        few = built._mnist_m_pixels(digits[:4], "test", 0, None)
        other = built._mnist_m_pixels(digits, "test", 1, None)
    np.testing.assert_array_equal(few, pixels[:4])
    assert not np.array_equal(other, pixels)
    for digit, blended in zip(digits.astype(int), pixels.astype(int)):
        assert any(occurs(photo.astype(int), digit, blended) for photo in photos)


def occurs(photo: np.ndarray, digit: np.ndarray, blended: np.ndarray) -> bool:
    "Whether `blended` is |digit - crop| for some crop of the photo."
    for top in range(photo.shape[0] - 27):
        for left in range(photo.shape[1] - 27):
            crop = photo[top:top + 28, left:left + 28]
            if (abs(digit[0, 0] - crop[0, 0, 0]) == blended[0, 0, 0]
                    and np.array_equal(abs(digit[..., None] - crop), blended)):
                return True
    return False


def test_mnist_m_is_refused_when_its_pixels_differ(tmp_path, monkeypatch):
    small_mnist(tmp_path)
    monkeypatch.setattr(built, "bsds500", lambda split, root: [PHOTO])
    with pytest.raises(DataFileError, match="differ from the recorded ones: expected sha256 .* found"):
        data.mnist_m(root=tmp_path)
    accepted = data.mnist_m(root=tmp_path, verify=False)
    assert accepted.images.shape == (5, 3, 28, 28)


# Real sets, where they are

COUNTS = {
    "mnist": (60_000, 10_000, (1, 28, 28), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
    "fashion_mnist": (60_000, 10_000, (1, 28, 28), [6000] * 10),
    "usps": (7_291, 2_007, (1, 16, 16), [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]),
}


@pytest.mark.parametrize("name", COUNTS)
def test_real_grey_sets(real, name):
    root = real(name)
    train_count, test_count, shape, per_class = COUNTS[name]
    train, test = getattr(data, name)(root=root), getattr(data, name)("test", n=10, channels=3, size=32, root=root)
    assert train.images.shape == (train_count, *shape) and train.labels.bincount().tolist() == per_class
    assert 0 <= train.images.min() and train.images.max() == 1
    assert test.images.shape == (10, 3, 32, 32)
    with pytest.raises(ValueError, match=f"n must be .* to {test_count}, got"):
        getattr(data, name)("test", n=test_count + 1, root=root)


def test_real_files_have_the_sizes_and_checksums_of_the_manifest(real):
    root = real("mnist", "fashion_mnist", "usps", "bsds500")
    for name in ("mnist", "fashion_mnist", "usps", "bsds500", "cifar10"):
        form = catalogue._present_form(data.manifest()[name], root)
        assert form is None or catalogue._broken(form, root) == []
        assert form is None or data.get(name, root) == root  # nothing to fetch


def test_real_photos(real):
    root = real("bsds500")
    photos = {split: data.bsds500(split, root) for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in photos.items()} == data.BSDS500_COUNTS
    assert {photo.shape for found in photos.values() for photo in found} == {(321, 481, 3), (481, 321, 3)}


def test_photos_are_the_same_from_a_folder(real, tmp_path):
    root = real("bsds500")
    data.unpack(root / "bsds500-images.zip", tmp_path / "BSDS500/data/images")
    for one, two in zip(data.bsds500("val", root), data.bsds500("val", tmp_path), strict=True):
        np.testing.assert_array_equal(one, two)
    assert catalogue._broken(data.manifest()["bsds500"]["forms"][0], tmp_path) == []
    next((tmp_path / "BSDS500/data/images/val").glob("*.jpg")).unlink()
    assert catalogue._broken(data.manifest()["bsds500"]["forms"][0], tmp_path) == ["BSDS500/data/images"]
    with pytest.raises(DataFileError, match="expected 100 photos in 'val', found 99"):
        data.bsds500("val", tmp_path)


def test_real_mnist_m_is_the_recorded_one(real):
    root = real("mnist", "bsds500")
    few = data.mnist_m("test", n=12, root=root)
    assert not data.cache_root().exists()  # a few images are built without keeping the set
    assert data.make("mnist_m", root) == data.cache_root()
    train, test = data.mnist_m(root=root), data.mnist_m("test", root=root)
    assert train.images.shape == (60_000, 3, 28, 28) and test.images.shape == (10_000, 3, 28, 28)
    assert torch.equal(test.images[:12], few.images) and torch.equal(test.labels, data.mnist("test", root=root).labels)
    digits = data.mnist("test", n=12, channels=3, root=root).images
    paper = (digits == 0).all(dim=1, keepdim=True).expand_as(digits)
    assert test.images[:12][paper].std() > 0.1  # the photo shows where there is no ink


def test_real_cifar10_copy(real):
    root = real("cifar10")
    train = data.cifar10(n=1000, root=root)
    assert train.images.shape == (1000, 3, 32, 32) and train.labels.bincount().tolist() == [100] * 10
    assert len(data.cifar10("test", root=root).labels) == 10_000
    kept = list(data.cache_root().iterdir())
    assert len(kept) == (0 if (root / "cifar-10-batches-py").is_dir() else 1)


def test_a_truncated_copy_of_cifar10_is_named(real, tmp_path):
    root = real("cifar10")
    archive = root / "cifar10-jpeg.tar.xz"
    if not archive.exists():
        pytest.skip("needs the JPEG copy of CIFAR-10")
    (tmp_path / archive.name).write_bytes(archive.read_bytes()[:200_000])
    with pytest.raises(DataFileError, match="expected 18,547,964 bytes, found 200,000"):
        data.cifar10(root=tmp_path)
    assert not data.cache_root().exists()


def test_inputs_come_alone_and_again():
    pairs = TensorDataset(PICTURES, LABELS)
    for images in (PICTURES, TensorDataset(PICTURES), pairs, DataLoader(pairs, 3), DataLoader(PICTURES, 2)):
        inputs = InputBatches(images, 3)
        for _ in range(2):
            assert torch.equal(torch.cat(list(inputs)), PICTURES)


@pytest.mark.parametrize("images, error, match", [
    ([PICTURES], TypeError, "images must be a tensor.*got list"), (iter([PICTURES]), TypeError, "got list_iterator"),
    ({"x": PICTURES}, TypeError, "got dict"), (3, TypeError, "got int"), (PICTURES[:0], ValueError, "images must"),
    (DataLoader(TensorDataset(LABELS[:0]), 2), ValueError, "at least one batch"),
    (DataLoader([{"x": 1}] * 3, 2), TypeError, "a batch of images must be a tensor"),
])
def test_inputs_that_cannot_come_again_are_refused(images, error, match):
    with pytest.raises(error, match=match):
        list(InputBatches(images, 2))
