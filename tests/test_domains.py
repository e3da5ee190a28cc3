"""Sets with a shift in them: Office-Caltech as features and as pictures, and traffic signs with their tracks."""
from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from xfer_course.data import (
    OFFICE_CALTECH_CLASSES,
    DataFileError,
    gtsrb32,
    office_caltech,
    office_caltech_features,
)


def jpeg(grey: int, size: tuple[int, int] = (12, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path):
    "Two pictures of each class in one domain, zipped; the grey of a picture names its class."
    (tmp_path / "zipped/office_caltech").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "zipped/office_caltech/office_caltech.zip", "w") as archive:
        for k, name in enumerate(OFFICE_CALTECH_CLASSES):
            for number in range(2):
                archive.writestr(f"webcam/{name}/{number}.jpg", jpeg(20 * k))
                archive.writestr(f"dslr/{name}/{number}.jpg", jpeg(0))
    with zipfile.ZipFile(tmp_path / "zipped/office_caltech/office_caltech.zip") as archive:
        archive.extractall(tmp_path / "unpacked/office_caltech")
    return tmp_path


def test_pictures_of_one_domain_come_from_the_archive_with_their_classes(pictures):
    images, labels = office_caltech("webcam", size=8, root=pictures / "zipped")
    assert images.shape == (20, 3, 8, 8) and labels.tolist() == [k for k in range(10) for _ in range(2)]
    torch.testing.assert_close(images.mean((1, 2, 3)), labels * 20 / 255, atol=0.02, rtol=0)


def test_folders_hold_the_same_pictures_as_the_archive(pictures):
    zipped, unpacked = (office_caltech("webcam", size=8, root=pictures / kind) for kind in ("zipped", "unpacked"))
    assert sorted(zipped.labels.tolist()) == sorted(unpacked.labels.tolist())
    for k in range(10):
        assert torch.equal(zipped.images[zipped.labels == k], unpacked.images[unpacked.labels == k])


def test_an_archive_without_ten_classes_is_refused_by_name(tmp_path):
    (tmp_path / "office_caltech").mkdir()
    with zipfile.ZipFile(tmp_path / "office_caltech/office_caltech.zip", "w") as archive:
        archive.writestr("webcam/mug/0.jpg", jpeg(0))
    with pytest.raises(DataFileError, match="office_caltech.zip"):
        office_caltech("webcam", root=tmp_path)


def write_signs(root, **changes) -> None:
    (root / "gtsrb32").mkdir(exist_ok=True)
    arrays = {"train_x": np.zeros((6, 32, 32, 3), np.uint8), "train_y": np.array([0, 0, 0, 1, 1, 1], np.uint8),
              "train_track": np.array([0, 0, 1, 0, 1, 1], np.int16), "test_x": np.zeros((3, 32, 32, 3), np.uint8),
              "test_y": np.array([2, 0, 0], np.uint8)}
    np.savez(root / "gtsrb32/gtsrb32.npz", **arrays | changes)


def test_tracks_of_two_classes_have_different_numbers(tmp_path):
    write_signs(tmp_path)
    assert gtsrb32(root=tmp_path).tracks.tolist() == [0, 0, 1, 2, 3, 3]
    assert gtsrb32(n=4, root=tmp_path).tracks.tolist() == [0, 0, 1, 2]
    assert gtsrb32("test", root=tmp_path).tracks.tolist() == [0, 1, 2]
    assert gtsrb32("test", size=8, channels=1, root=tmp_path).images.shape == (3, 1, 8, 8)


@pytest.mark.parametrize("changes", [{"train_y": np.full(6, 43, np.uint8)},
                                     {"train_x": np.zeros((6, 8, 8, 3), np.uint8)},
                                     {"train_y": np.zeros(5, np.uint8)}])
def test_signs_that_do_not_fit_are_refused_by_name(tmp_path, changes):
    write_signs(tmp_path, **changes)
    with pytest.raises(DataFileError, match="gtsrb32.npz"):
        gtsrb32(root=tmp_path)


@pytest.mark.parametrize("call, words", [
    (lambda root: office_caltech_features("caltech10", root=root), "must be one of 'amazon', 'dslr', 'webcam'"),
    (lambda root: office_caltech_features("amazon", "caffenet", root=root), "kind must be one of"),
    (lambda root: office_caltech("home", root=root), "domain must be one of"),
    (lambda root: gtsrb32("valid", root=root), "split must be one of"),
    (lambda root: office_caltech_features("amazon", root=root), "Office-Caltech objects"),
    (lambda root: office_caltech("dslr", root=root), "Office-Caltech objects"),
    (lambda root: gtsrb32(root=root), "German traffic signs at 32 pixels"),
])
def test_bad_requests_and_absent_sets_get_one_sentence(tmp_path, call, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        call(tmp_path)


def real(load):
    try:
        return load()
    except FileNotFoundError as absent:
        pytest.skip(f"{str(absent).partition(' is not in')[0]} is absent: set XFER_DATA to a folder that holds it")


def test_real_features_separate_real_domains():
    sizes = {"amazon": 958, "dslr": 157, "webcam": 295}
    for domain, count in sizes.items():
        rows, labels = real(lambda: office_caltech_features(domain))  # noqa: B023 (called at once)
        assert rows.shape == (count, 1024) and np.bincount(labels).min() >= 8
        surf, same = office_caltech_features(domain, "surf")
        assert surf.shape == (count, 800) and np.array_equal(np.sort(same), np.sort(labels))
    pictures = office_caltech("dslr", size=32)
    assert pictures.labels.bincount().tolist() == np.bincount(office_caltech_features("dslr").labels).tolist()


def test_real_tracks_hold_seven_frames_of_one_class():
    signs = real(gtsrb32)
    assert len(signs.images) == 9149 and signs.labels.max() == 42 and signs.tracks.bincount().unique().tolist() == [7]
    first = torch.stack([signs.labels[signs.tracks == track].unique() for track in range(100)])
    assert first.shape == (100, 1)
    assert len(gtsrb32("test").images) == 6315
