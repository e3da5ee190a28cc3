"""Characters: Omniglot's two small sets, and those that the course draws itself."""
from __future__ import annotations

import io
import zipfile

import pytest
import torch
from PIL import Image

from xfer_course.data import OMNIGLOT_ALPHABETS, PER_ALPHABET, DataFileError, glyphs, omniglot
from xfer_course.training import unit_vectors

# --- Omniglot


def drawing(left: bool) -> bytes:
    "Black ink on white, on one half."
    image, file = Image.new("1", (105, 105), 1), io.BytesIO()
    image.paste(0, (0, 0, 52, 105) if left else (53, 0, 105, 105))
    image.save(file, "PNG")
    return file.getvalue()


def archive(root, names: dict[str, bytes], part: str = "small1"):
    (root / "omniglot").mkdir(exist_ok=True)
    with zipfile.ZipFile(root / f"omniglot/images_background_{part}.zip", "w") as file:
        for name, content in names.items():
            file.writestr(f"images_background_{part}/{name}", content)
    return root


@pytest.fixture
def small(tmp_path):
    return archive(tmp_path, {
        f"{alphabet}/character0{character}/000{character}_0{drawer}.png": drawing(left=character == 1)
        for alphabet in ("Latin", "Greek") for character in (1, 2) for drawer in (2, 1)})


def test_ink_is_white_and_the_path_says_who_drew_what(small):
    characters = omniglot(root=small, size=10)
    assert characters.images.shape == (8, 1, 10, 10)
    assert characters.names == ("Greek/character01", "Greek/character02", "Latin/character01", "Latin/character02")
    assert characters.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert characters.alphabets.tolist() == [2, 2, 2, 2, 4, 4, 4, 4]
    assert characters.drawers.tolist() == [0, 1] * 4
    assert characters.images[0, 0, :, 0].min() > 0.999 and characters.images[0, 0, :, -1].max() == 0


def test_some_alphabets_are_numbered_by_themselves(small):
    characters = omniglot(alphabets=["Latin"], root=small)
    assert characters.labels.tolist() == [0, 0, 1, 1] and characters.alphabets.tolist() == [0] * 4


@pytest.mark.parametrize("load, says", [
    (lambda root: omniglot("small3", root=root), "part must be one of"),
    (lambda root: omniglot(alphabets=["Klingon"], root=root), "alphabets .of 'small1'. must be one of"),
    (lambda root: omniglot(size=0, root=root), "size must be a whole number"),
], ids=["part", "alphabet", "size"])
def test_what_omniglot_does_not_have_is_refused(load, says, small):
    with pytest.raises(ValueError, match=says):
        load(small)


def test_an_absent_set_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="xfer data get omniglot"):
        omniglot(root=tmp_path)


@pytest.mark.parametrize("names", [{}, {"Greek/0001_01.png": b""}, {"Greek/character01/0001_01.png": b"no image"}],
                         ids=["empty", "without characters", "no image"])
def test_a_wrong_archive_is_named(names, tmp_path):
    with pytest.raises(DataFileError, match="images_background_small1.zip"):
        omniglot(root=archive(tmp_path, names))


def test_the_real_sets_hold_twenty_drawings_of_each_character():
    try:
        sets = {part: omniglot(part) for part in OMNIGLOT_ALPHABETS}
    except FileNotFoundError:
        pytest.skip("omniglot is absent: set XFER_DATA to a folder that holds it")
    for part, count in (("small1", 136), ("small2", 156)):
        characters = sets[part]
        assert len(characters.names) == count
        assert characters.labels.bincount().tolist() == [20] * count
        assert 0.05 < characters.images.mean() < 0.12, "ink is white and there is little of it"
    assert set(sets["small1"].names) & set(sets["small2"].names) == {
        name for name in sets["small1"].names if name.startswith(("Greek", "Latin"))}


# --- generated


def test_a_number_is_the_same_character_in_every_call():
    some, later = glyphs(30, 2, seed=3), glyphs(5, 2, seed=3, first=20)
    assert later.names == some.names[20:25] and later.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    one, again = glyphs(1, 4, seed=5, first=20), glyphs(2, 4, seed=5, first=20)
    assert torch.equal(one.images[0], glyphs(1, 4, seed=5, first=20).images[0])
    assert not torch.equal(one.images[:4], again.images[4:])


def test_drawings_of_a_character_differ_less_than_characters_do():
    drawn = glyphs(40, 10)
    flat = unit_vectors(torch.nn.functional.avg_pool2d(drawn.images, 4).flatten(1))
    cosines, same = flat @ flat.T, drawn.labels[:, None] == drawn.labels
    other = ~same
    same.fill_diagonal_(False)
    assert cosines[same].mean() > cosines[other].mean() + 0.1
    assert drawn.images[0].ne(drawn.images[1]).any(), "no hand writes twice alike"


def test_alphabets_hold_twenty_characters():
    assert glyphs(50, 1).alphabets.bincount().tolist() == [PER_ALPHABET, PER_ALPHABET, 10]
    assert glyphs(15, 1, first=10).alphabets.bincount().tolist() == [10, 5]


def test_ink_stays_inside():
    images = glyphs(60, 3).images
    assert images.shape == (180, 1, 28, 28) and images.min() == 0 and images.max() == 1
    edge = torch.ones(28, 28, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    assert images[:, 0, edge].max() == 0
    assert (images.flatten(1).mean(1) > 0.03).all()


@pytest.mark.parametrize("call, says", [
    (lambda: glyphs(0, 1), "classes must be a whole number of at least 1"),
    (lambda: glyphs(1, 0), "per_class must be a whole number of at least 1"),
    (lambda: glyphs(1, 1, seed=-1), "seed must be a whole number of at least 0"),
    (lambda: glyphs(1, 1, first=-1), "first must be a whole number of at least 0"),
    (lambda: glyphs(1, 1, size=4), "size must be a whole number of at least 8"),
], ids=["classes", "per_class", "seed", "first", "size"])
def test_numbers_of_glyphs_are_checked(call, says):
    with pytest.raises(ValueError, match=says):
        call()
