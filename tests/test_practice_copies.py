"""The same picture on both sides of a split, or in two classes, is refused or said."""
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from test_practice_labels import clouds, feature_file, picture_folder, short
from xfer_course.data import DataFileError
from xfer_course.mrl import FunnelRetrieval
from xfer_course.practice import (
    AdaptOptions,
    Examples,
    HeldOut,
    IndexFacts,
    adapt_examples,
    check_copies,
    content_numbers,
    contents,
    copies,
    fit_prompts,
    index_page,
    probe_examples,
    probe_page,
    read_examples,
)
from xfer_course.practice.linear import fit_linear

QUICK = AdaptOptions(strengths=(0.0, 0.1), trips=1, steps=2, batch_size=8)


def folder_of(path: Path, count: int = 4, seed: int = 0) -> Path:
    "Noise in two classes, every picture another one."
    rng = np.random.default_rng(seed)
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(path / name / f"{i}.png")
    return path


def same(folder: Path, tmp_path: Path) -> Path:
    return folder


def linked(folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "link").symlink_to(folder)
    return tmp_path / "link"


def copied(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def converted(folder: Path, tmp_path: Path) -> Path:
    for file in folder.rglob("*.png"):
        new = tmp_path / "bmp" / file.parent.name / f"other {file.stem}.bmp"
        new.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).save(new)
    return tmp_path / "bmp"


COMMANDS = {
    "probe": lambda folder, other, out: probe_examples(folder, out, test=other, backbone="rotation"),
    "prompts": lambda folder, other, out: fit_prompts(folder, out, clip="tiny", test=other, steps=1),
    "adapt": lambda folder, other, out: adapt_examples(folder, other, out, backbone="small", options=QUICK),
}


@pytest.mark.parametrize("again", [same, linked, copied, converted])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_part_that_is_the_training_part_once_more_is_refused(tmp_path, command, again):
    folder = folder_of(tmp_path / "mine")
    other = again(folder, tmp_path)
    name, words = ("target", "source") if command == "adapt" else ("test", "path")
    with pytest.raises(ValueError, match=f"{name} must (be another folder or file|hold other pictures) than {words}"):
        COMMANDS[command](folder, other, tmp_path / "out")
    assert not (tmp_path / "out/report.html").exists()


def test_a_table_that_is_the_training_table_once_more_is_refused_or_said(tmp_path):
    file = feature_file(tmp_path / "a.npz")
    shutil.copy(file, tmp_path / "b.npz")
    with pytest.raises(ValueError, match="test must be another folder or file than path, got .*a.npz for both"):
        probe_examples(file, tmp_path / "out", test=file)
    with pytest.warns(UserWarning, match="60 of the 60 rows of test are also among those to learn from"):
        probe_examples(file, tmp_path / "out", test=tmp_path / "b.npz")


def test_a_coarse_table_that_is_the_training_table_once_more_is_said():
    rows = np.random.default_rng(0).integers(0, 2, (40, 3)).astype(np.float32)
    table, again = (Examples(rows, np.arange(40) % 2, ("a", "b"), tuple(map(str, range(40)))) for _ in range(2))
    with pytest.warns(UserWarning, match="40 of the 40 rows of test"):
        check_copies(table, range(40), again, range(40))


def test_copies_in_a_test_part_are_named(tmp_path):
    folder, test = folder_of(tmp_path / "mine"), folder_of(tmp_path / "test", seed=1)
    Image.open(folder / "dog/2.png").save(test / "dog/again.bmp")
    learned, judged = read_examples(folder), read_examples(test)
    with pytest.warns(UserWarning, match="1 of the 9 pictures of test is also among those to learn from, such as "
                                         "'dog/again.bmp', the same as 'dog/2.png'"):
        assert check_copies(learned, range(8), judged, range(9)) == 1


def test_copies_that_a_split_parts_are_named_and_others_are_not(tmp_path, recwarn):
    folder = folder_of(tmp_path / "mine")
    shutil.copy(folder / "cat/0.png", folder / "cat/copy.png")
    examples = read_examples(folder)
    places = {name: place for place, name in enumerate(examples.names)}
    pair = [places["cat/0.png"], places["cat/copy.png"]]
    rest = [place for place in range(9) if place not in pair]
    assert check_copies(examples, rest, examples, pair) == 0 and not recwarn.list
    with pytest.warns(UserWarning, match="1 of the 1 held-out examples .* 'cat/copy.png', the same as 'cat/0.png'"):
        assert check_copies(examples, rest + pair[:1], examples, pair[1:]) == 1


@pytest.mark.parametrize("command", ["probe", "prompts"])
def test_a_picture_in_two_classes_is_said(tmp_path, monkeypatch, command):
    short(monkeypatch)
    folder = folder_of(tmp_path / "mine")
    Image.open(folder / "cat/0.png").save(folder / "dog/9.bmp")
    with pytest.warns(UserWarning, match="1 picture lies in two classes, such as 'cat/0.png' and 'dog/9.bmp': one"):
        COMMANDS[command](folder, None, tmp_path / "out")


def test_prompts_say_on_the_page_that_copies_were_held_out(tmp_path):
    folder = folder_of(tmp_path / "mine")
    for file in list(folder.rglob("*.png")):
        shutil.copy(file, file.with_name(f"copy of {file.name}"))
    with pytest.warns(UserWarning, match="held-out examples are also among those to learn from"):
        page = fit_prompts(folder, tmp_path / "out", clip="tiny", steps=1)
    assert "held-out pictures are also among those to learn from" in page.read_text("utf-8")


def test_a_turned_picture_is_the_same_if_its_note_turns_it_back(tmp_path):
    (tmp_path / "a").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a/0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "a/1.png", exif=exif)
    Image.fromarray(pixels[::-1].copy()).save(tmp_path / "a/2.png")
    first, turned, other = contents(read_examples(tmp_path / "a"))
    assert first == turned != other


def photo(seed: int = 0, size: tuple[int, int] = (300, 260)) -> Image.Image:
    "Coarse noise, so large that it is not decoded at once."
    noise = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def with_comment(file: Path) -> None:
    content = (file.parent / "0.jpg").read_bytes()
    file.write_bytes(content[:2] + b"\xff\xfe\x00\x07hello" + content[2:])


def as_other_format(file: Path) -> None:
    Image.open(file.parent / "0.jpg").save(file.with_suffix(".webp"), lossless=True, exact=True)


def turned_by_its_note(file: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.open(file.parent / "0.jpg")
    upright.transpose(Image.Transpose.ROTATE_90).save(file.with_suffix(".tif"), exif=exif)


@pytest.mark.parametrize("write", [with_comment, as_other_format, turned_by_its_note])
def test_copies_among_large_pictures_are_found_as_by_their_pixels(tmp_path, write):
    photo().save(tmp_path / "0.jpg")
    for i in (1, 2):
        photo(i).save(tmp_path / f"{i}.jpg")
    write(tmp_path / "3.jpg")
    examples = read_examples(tmp_path)
    assert content_numbers(examples) == [[0, 1, 2, 0]]
    assert content_numbers(examples, examples) == [[0, 1, 2, 0]] * 2
    hashes = contents(examples)
    assert hashes[0] == hashes[3] and len({*hashes}) == 3


def test_pictures_whose_blocks_have_the_same_means_are_two(tmp_path):
    board = np.indices((304, 304)).sum(0) % 2
    for name, pixels in (("a", board), ("b", 1 - board)):
        Image.fromarray((100 + 40 * pixels).astype(np.uint8)).save(tmp_path / f"{name}.jpg", quality=100)
    assert content_numbers(read_examples(tmp_path)) == [[0, 1]]


def test_large_pictures_are_decoded_only_where_they_may_be_copies(tmp_path, monkeypatch):
    decoded = []
    pixels = copies._pixels
    monkeypatch.setattr(copies, "_pixels", lambda file: decoded.append(Path(file).name) or pixels(file))
    for i in range(4):
        photo(i).save(tmp_path / f"{i}.jpg")
    photo(0, (320, 280)).save(tmp_path / "0 larger.png")
    assert len({*content_numbers(read_examples(tmp_path))[0]}) == 5 and not decoded
    shutil.copy(tmp_path / "2.jpg", tmp_path / "9.jpg")
    assert len({*content_numbers(read_examples(tmp_path))[0]}) == 5 and sorted(decoded) == ["2.jpg", "9.jpg"]


def test_a_damaged_picture_that_may_be_a_copy_is_refused_by_name(tmp_path):
    for i in range(2):
        photo(i).save(tmp_path / f"{i}.jpg")
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:2000])
    with pytest.raises(DataFileError, match="1.jpg is not an image that can be read"):
        content_numbers(read_examples(tmp_path))


def test_equal_rows_of_a_coarse_table_are_no_copies(recwarn):
    rows = np.random.default_rng(0).integers(0, 2, (40, 3)).astype(np.float32)
    table = Examples(rows, np.arange(40) % 2, ("a", "b"), tuple(map(str, range(40))))
    other = Examples(rows[:7], np.zeros(7, int), ("a", "b"), tuple(map(str, range(7))))
    assert check_copies(table, range(20), table, range(20, 40)) == 0
    assert check_copies(table, range(40), other, range(7)) == 0 and not recwarn.list


def test_rows_on_both_sides_of_a_fine_table_are_said():
    points, truth = clouds()
    table = Examples(points, truth, ("a", "b", "c"), tuple(map(str, range(60))))
    other = Examples(np.concatenate([points[:2], points[:2] + 1]), truth[:4], ("a", "b", "c"), tuple("wxyz"))
    with pytest.warns(UserWarning, match="2 of the 4 rows of test are also among .*, such as 'w', the same as '0'"):
        assert check_copies(table, range(60), other, range(4)) == 2


def test_an_index_says_that_copies_have_two_labels_and_help_its_numbers():
    vectors = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    vectors[1] = vectors[0]
    index = FunnelRetrieval(vectors, (8,), (), ids=[f"item {i}" for i in range(20)])
    facts = IndexFacts(index=index, labels=("a", "b") * 10, data="x.npz", features="none", are_pictures=False,
                       trained_here=False, changes="", nbytes=1, seed=0)
    page, _ = index_page(facts)
    assert "1 of these pairs has two labels, such as item 0 and item 1" in page
    assert "the 1 pair above makes precision look better than it is" in page


# --- new examples that look different


def page_of(shift: float, shares=(1, 1, 1), apply: str = "/new") -> str:
    points, truth = clouds(rows=240)
    new, kinds = clouds(rows=240, seed=1)
    rows = np.concatenate([np.flatnonzero(kinds == k)[: 30 * share] for k, share in enumerate(shares)])
    linear = fit_linear(points[:180], truth[:180])
    held = HeldOut(Examples(points, truth, ("a", "b", "c"), tuple(map(str, range(240)))), np.arange(180, 240),
                   linear.probabilities(points[180:]))
    new = new[rows] + np.float32(shift)
    settings = {"path": "/mine", "test": None, "apply": apply}
    return probe_page(settings, "none", linear, (points[:180], truth[:180]), held, points[180:],
                      linear.probabilities(new), 0, new).html


def test_new_examples_that_look_different_are_said_with_what_to_do():
    page = page_of(3.0)
    assert "They look different from what it learned from" in page and "xfer adapt /mine /new" in page
    assert "xfer adapt /mine &#x27;/neue Bilder&#x27; learns" in page_of(3.0, apply="/neue Bilder")


@pytest.mark.parametrize("shares", [(1, 1, 1), (2, 0, 0), (2, 1, 0)])
def test_new_examples_with_other_shares_of_the_classes_do_not_look_different(shares):
    page = page_of(0.0, shares)
    assert "They do not look different from what it learned from" in page and "xfer adapt /mine" not in page


def test_of_a_few_new_examples_nothing_is_said(tmp_path, monkeypatch):
    short(monkeypatch)
    picture_folder(tmp_path / "mine", {"cat": 4, "dog": 4})
    picture_folder(tmp_path / "new", {"cat": 2})
    page = probe_examples(tmp_path / "mine", tmp_path / "out", apply=tmp_path / "new", backbone="rotation")
    assert "too few to say whether they look different" in page.read_text("utf-8")
