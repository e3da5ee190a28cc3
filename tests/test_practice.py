"""Data of one's own: what is read and refused, what a folder with a result holds, and an adaptation from end to end."""
from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from xfer_course import practice
from xfer_course.cli import main
from xfer_course.data import DataFileError, lazy
from xfer_course.practice import (
    Adapted,
    AdaptOptions,
    Examples,
    Page,
    ResultFolder,
    adapt_examples,
    adaptable_network,
    adaptation_page,
    backbones,
    choose_strength,
    counted,
    csv_text,
    cut_head,
    features_of,
    fingerprint,
    load_adapted,
    load_backbone,
    read_examples,
    rotation_backbone,
    same_kind,
    stored_backbone,
)

QUICK = AdaptOptions(strengths=(0.0, 1.0), trips=2, steps=60, hidden=8, batch_size=16, learning_rate=0.02)


def write_pictures(folder: Path, colours: dict[str, str], count: int = 3) -> Path:
    "A folder of plain pictures for each class."
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20 + number, 24), colour).save(folder / name / f"{number}.png")
    return folder


def write_features(file: Path, shift: float = 0.0, rows: int = 60, labels: bool = True) -> Path:
    "Two classes of three numbers each, apart in the first; `shift` moves the third."
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 2
    x = 0.2 * rng.standard_normal((rows, 3)) + np.stack([2.0 * y, 0 * y, 0 * y + shift], 1)
    np.savez(file, features=x, names=[f"row {i}" for i in range(rows)],
             **({"labels": np.array(["left", "right"])[y]} if labels else {}))
    return file


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


# --- what is read


def test_pictures_with_and_without_labels(tmp_path):
    photos = read_examples(write_pictures(tmp_path / "photos", {"cat": "red", "dog": "blue"}, count=2))
    assert (photos.classes, photos.labels.tolist()) == (("cat", "dog"), [0, 1, 0, 1])
    assert photos.names[:2] == ("cat/0.png", "dog/0.png")
    lacks_one = read_examples(write_pictures(tmp_path / "sketches", {"dog": "blue"}), photos.classes)
    assert lacks_one.labels.tolist() == [1, 1, 1]
    by_date = read_examples(write_pictures(tmp_path / "camera", {"monday": "red", "dog": "blue"}), photos.classes)
    assert by_date.labels is None and len(by_date) == 6
    assert photos.at_size(8)[0][0].shape == (3, 8, 8)


def test_pictures_below_folders_that_are_no_classes_are_all_read(tmp_path):
    "Also those that lie deeper, and those beside the folders would be refused by name."
    (tmp_path / "camera" / "2026" / "may").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "camera" / "2026" / "may" / "1.png")
    found = read_examples(tmp_path / "camera", ["cat", "dog"])
    assert (found.labels, len(found)) == (None, 1)


def test_folders_that_are_no_classes_are_named(tmp_path):
    folder = write_pictures(tmp_path / "photos", {"cat": "red", "dog": "blue", "owl": "white"})
    found = read_examples(folder, ["cat", "dog"])
    assert found.labels is None and found.unknown == ("owl",) and len(found) == 9
    assert read_examples(folder, ["owl", "dog", "cat"]).unknown == () == read_examples(folder).unknown


@pytest.mark.parametrize("classes", [None, ["dog", "cat"], ["owl"]])
def test_damaged_pictures_are_left_out_where_this_is_asked_for(tmp_path, classes):
    folder = write_pictures(tmp_path / "photos", {"cat": "red", "dog": "blue"})
    (folder / "cat/1.png").write_bytes(b"no picture")
    (folder / "dog/2.png").write_bytes((folder / "dog/2.png").read_bytes()[:40])
    with pytest.warns(UserWarning, match="2 .*damaged|damaged.* 2"):
        found = read_examples(folder, classes, skip_damaged=True)
    assert sorted(found.names) == ["cat/0.png", "cat/2.png", "dog/0.png", "dog/1.png"]
    if classes == ["owl"]:
        assert found.labels is None
    else:
        assert [found.classes[y] for y in found.labels] == [name[:3] for name in found.names]
    assert len(read_examples(folder, classes)) == 6, "reading alone opens none"


def test_features_of_both_kinds_of_files(tmp_path):
    (tmp_path / "a.csv").write_text("name,x,label,y\nfirst,1,dog,2\nsecond,3,cat,4\n")
    table = read_examples(tmp_path / "a.csv")
    assert table.inputs.tolist() == [[1.0, 2.0], [3.0, 4.0]] and table.inputs.dtype == np.float32
    assert (table.classes, table.labels.tolist(), table.names) == (("cat", "dog"), [1, 0], ("first", "second"))
    np.savez(tmp_path / "b.npz", features=np.eye(2), labels=[7, 3])
    numbers = read_examples(tmp_path / "b.npz")
    assert (numbers.classes, numbers.labels.tolist(), numbers.names) == (("3", "7"), [1, 0], ("0", "1"))
    np.savez(tmp_path / "c.npz", features=np.eye(2), labels=[7, 7])
    assert read_examples(tmp_path / "c.npz", numbers.classes).labels.tolist() == [1, 1], "7 stays 7"


BAD_FILES = {
    "nothing": (None, FileNotFoundError, "is not there"),
    "another kind.txt": (b"x", ValueError, "the ending of another kind.txt must be one of '.npz', '.csv', got '.txt'"),
    "damaged.npz": (b"PK\x03\x04 no zip", DataFileError, "damaged.npz is corrupt or truncated"),
    "empty.csv": (b"", ValueError, "must have a line of column names and at least one row"),
    "words.csv": (b"x,y\n1,two\n", ValueError, "must hold numbers in all columns but label and name, got 'two' in "
                                                "column 'y', line 2"),
    "hole.csv": (b"x,y\n1\n", ValueError, "line 2 of hole.csv must have 2 fields, as the first line, got 1"),
    "long.csv": (b"x,y\n1,2\n1,2,3\n", ValueError, "line 3 of long.csv must have 2 fields"),
    "index.csv": (b",x,label\n0,1.5,cat\n", ValueError, "every column of index.csv must have a name, got none for "
                                                         "column 1"),
    "twice.csv": (b"x,x\n1,2\n", ValueError, "columns of twice.csv must have different names, got 'x' twice"),
    "no header.csv": (b"1,2.5\n3,4\n", ValueError, "first line of no header.csv must hold column names, got numbers"),
    "latin.csv": ("x,läbel\n1,2\n".encode("latin-1"), ValueError, "latin.csv must be text in UTF-8"),
    "unknown.csv": (b"x,label\n1,cat\n2,nan\n", ValueError, "labels of unknown.csv must not be empty, got none for "
                                                             "row 1"),
    "nan.csv": (b"x\nnan\n", ValueError, "features of nan.csv"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_by_name(tmp_path, name):
    content, error, sentence = BAD_FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=re.escape(sentence)):
        read_examples(tmp_path / name)


TABLES = {
    "as Excel writes it in Europe": "\ufeffLabel;a;b\r\ncat;1,5;2\r\ndog;-3e2;0,25\r\n",
    "with blanks and an empty line": "label, a, b\n cat , 1.5, 2\n\ndog,-300,0.25\n,,\n",
    "with tabs": "a\tLABEL\tb\n1.5\tcat\t2\n-300\tdog\t0.25\n",
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_all_kinds_hold_the_same(tmp_path, kind):
    (tmp_path / "a.csv").write_text(TABLES[kind], "utf-8")
    found = read_examples(tmp_path / "a.csv")
    assert (found.classes, found.columns, found.labels.tolist()) == (("cat", "dog"), ("a", "b"), [0, 1])
    assert found.inputs.tolist() == [[1.5, 2.0], [-300.0, 0.25]]


def test_whole_numbers_as_labels_keep_their_order_and_other_columns_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,label\n" + "".join(f"{i},{-i},{i % 12}\n" for i in range(24)))
    (tmp_path / "b.csv").write_text("label,b,a\n3.0,1,2\n11.0,3,4\n")
    learned = read_examples(tmp_path / "a.csv")
    assert learned.classes == tuple(map(str, range(12)))
    other = same_kind("test", read_examples(tmp_path / "b.csv", learned.classes), learned)
    assert other.inputs.tolist() == [[2, 1], [4, 3]] and other.labels.tolist() == [3, 11]
    (tmp_path / "c.csv").write_text("a,c\n1,2\n")
    with pytest.raises(ValueError, match="test must have the column 'b', as what was learned from, got .* a, c"):
        same_kind("test", read_examples(tmp_path / "c.csv"), learned)
    (tmp_path / "d.csv").write_text("a,b,z\n1,2,3\n")
    with pytest.raises(ValueError, match="must hold features of 2 numbers"):
        same_kind("test", read_examples(tmp_path / "d.csv"), learned)


def test_umlauts_and_folders_of_drives_are_no_other_classes(tmp_path):
    from unicodedata import normalize

    write_pictures(tmp_path / "a", {"Bär": "red", "Kuh": "blue"})
    write_pictures(tmp_path / "b", {normalize("NFD", "Bär"): "red", "Kuh": "blue", "@eaDir": "red"})
    learned = read_examples(tmp_path / "a")
    target = read_examples(tmp_path / "b", learned.classes)
    assert target.classes == learned.classes and target.labels.tolist() == learned.labels.tolist()
    write_pictures(tmp_path / "c", {"flat": "red"})
    write_pictures(tmp_path / "c" / "flat", {"@eaDir": "red"})
    assert read_examples(tmp_path / "c" / "flat").labels is None


@pytest.mark.parametrize("change", ["picture", "feature", "name"])
def test_a_fingerprint_sees_what_is_in_a_file(tmp_path, change):
    if change == "feature":
        rows = np.random.default_rng(0).normal(size=(9000, 512)).astype(np.float32)
        one = Examples(rows, None, (), tuple(map(str, range(9000))))
        rows = rows.copy()
        rows[4321, 7] += 1
        assert fingerprint(one) != fingerprint(Examples(rows, None, (), one.names))
        return
    folder = write_pictures(tmp_path / "photos", {"cat": "red", "dog": "blue"})
    first = read_examples(folder).inputs.path(0)
    Image.new("RGB", (30, 20), "red").save(Path(first).with_suffix(".bmp"))
    before = fingerprint(read_examples(folder))
    assert before == fingerprint(read_examples(folder))
    if change == "name":
        Path(first).with_suffix(".bmp").rename(Path(first).with_name("other.bmp"))
    else:
        Image.new("RGB", (30, 20), "blue").save(Path(first).with_suffix(".bmp"))  # of the same size in bytes
    assert fingerprint(read_examples(folder)) != before


def test_labels_that_nobody_knows_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", features=np.eye(2), labels=["cat", "cow"])
    with pytest.raises(ValueError, match="labels of a.npz must be among cat, dog, got 'cow'"):
        read_examples(tmp_path / "a.npz", ["cat", "dog"])
    np.savez(tmp_path / "b.npz", labels=[1])
    with pytest.raises(ValueError, match="b.npz must hold an array features, got labels"):
        read_examples(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", features=np.eye(2), labels=[1])
    with pytest.raises(ValueError, match="labels of c.npz"):
        read_examples(tmp_path / "c.npz")


# --- backbones


def test_a_backbone_that_learned_here_comes_back_from_its_weights(tmp_path):
    mine = read_examples(write_pictures(tmp_path / "photos", {"cat": "red", "dog": "blue"}))
    backbone = load_backbone("rotation", mine, steps=2)
    again = stored_backbone("rotation", None, backbone.network.state_dict())
    assert np.array_equal(features_of(backbone, mine), features_of(again, mine))
    assert np.array_equal(features_of(load_backbone("rotation", mine, steps=2), mine), features_of(backbone, mine))
    assert backbone.trained_here and features_of(backbone, mine).shape == (6, backbone.dim)
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\], got values from .* to 2"):
        backbone(255 * torch.rand(2, 3, backbone.size, backbone.size))


def test_a_network_of_torchvision_from_a_file(tmp_path):
    from torchvision.models import resnet18

    mine = read_examples(write_pictures(tmp_path / "photos", {"cat": "red"}, count=2))
    network = resnet18(num_classes=5).eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "w.pth")
    backbone = load_backbone("resnet18", mine, tmp_path / "w.pth")
    network.fc = nn.Identity()
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (practice.IMAGENET_MEAN, practice.IMAGENET_STD))
    images = torch.stack([mine.at_size(224)[i][0] for i in range(2)])
    with torch.no_grad():
        expected = network((images - mean) / std)
    assert np.allclose(features_of(backbone, mine), expected, atol=1e-5)
    with pytest.raises(ValueError, match="weights must fit resnet34, got others"):
        load_backbone("resnet34", mine, tmp_path / "w.pth")


def test_weights_that_cannot_be_fetched_are_one_sentence(tmp_path, monkeypatch):
    mine = read_examples(write_pictures(tmp_path / "photos", {"cat": "red"}))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *a, **k: (_ for _ in ()).throw(OSError("no route")))
    assert practice.cached_weights("resnet18") is None
    with pytest.raises(OSError, match="the weights of resnet18 are not here and cannot be fetched .no route.: give a "
                                      "file with --weights, or take --backbone rotation"):
        load_backbone("resnet18", mine)
    with pytest.raises(ValueError, match="backbone must be .*auto.*got 'resnet1'"):
        load_backbone("resnet1", mine)


def test_the_head_is_cut_where_it_is():
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert cut_head(network) == 3 and network(torch.zeros(1, 4)).shape == (1, 3)
    with pytest.raises(ValueError, match="network must have a linear layer as its head, got ReLU without one"):
        cut_head(nn.ReLU())


# --- the folder and the page


def test_a_folder_goes_on_with_the_same_settings_only(tmp_path):
    first = ResultFolder(tmp_path / "out", {"steps": 1, "sizes": (2, 3)})
    (first.partial).mkdir()
    (first.partial / "part").write_text("kept")
    again = ResultFolder(tmp_path / "out", {"steps": 1, "sizes": (2, 3)})
    assert (again.partial / "part").exists() and not again.is_finished
    page = again.finish("<p>")
    assert page.read_text() == "<p>" and not again.partial.exists()
    assert ResultFolder(tmp_path / "out", {"steps": 1, "sizes": [2, 3]}).is_finished
    with pytest.raises(ValueError, match=r"holds the result of other settings \(steps was 1 and is 2\)"):
        ResultFolder(tmp_path / "out", {"steps": 2, "sizes": (2, 3)})
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["settings"]["steps"] == 1, "nothing changed"
    assert not ResultFolder(tmp_path / "out", {"steps": 2}, fresh=True).is_finished


def test_a_fresh_start_takes_away_what_was_there_and_a_wrong_one_blocks_nothing(tmp_path):
    first = ResultFolder(tmp_path / "out", {"steps": 1})
    assert ResultFolder(tmp_path / "out", {"steps": 2}).settings == {"steps": 2}, "nothing had been made"
    for name in (*practice.RESULT_FILES, "notes.txt"):
        (first.path / name).write_text("old")
    ResultFolder(tmp_path / "out", {"steps": 3}, fresh=True)
    assert sorted(each.name for each in first.path.glob("[!.]*")) == ["notes.txt", "settings.json"]


def test_one_process_at_a_time_works_in_a_folder(tmp_path):
    other = "import sys; from xfer_course.practice import ResultFolder; ResultFolder(sys.argv[1], {'steps': 1})"
    held = ResultFolder(tmp_path / "out", {"steps": 1})
    command = [sys.executable, "-c", other, str(tmp_path / "out")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode and "out is in use by another call that has not ended" in refused.stderr
    assert ResultFolder(tmp_path / "out", {"steps": 1}).path == held.path, "this process may go on"
    held.finish("<p>")
    assert subprocess.run(command).returncode == 0


def test_settings_that_an_earlier_version_did_not_have_count_as_none(tmp_path):
    ResultFolder(tmp_path / "out", {"steps": 1}).finish("<p>")
    assert ResultFolder(tmp_path / "out", {"steps": 1, "weights": None}).is_finished
    with pytest.raises(ValueError, match="weights was None and is 'w.pth'"):
        ResultFolder(tmp_path / "out", {"steps": 1, "weights": "w.pth"})


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be empty or the folder of an earlier call, got one with thesis.txt"):
        ResultFolder(tmp_path, {})
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match="settings.json was not written by this command"):
        ResultFolder(tmp_path, {}, fresh=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["settings.json", "thesis.txt"]


def check_page(text: str) -> None:
    "No address outside, words for every image, nothing that a name could smuggle in."
    assert not re.search(r"(src|href)=.?(?!\"?data:)[^ >]*//", text) and "<script" not in text
    assert all(re.search(r'alt="[^"]', tag) for tag in re.findall(r"<img[^>]*>", text))


def test_a_page_escapes_what_it_is_given(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a<b>.png")
    page = Page("<script>alert(1)</script>", "a & b")
    page.heading("<h>")
    page.points(["<li>"])
    page.points([])
    page.table([{"<k>": "<v>"}])
    page.pictures([tmp_path / "a<b>.png"], ["<c>"])
    page.code("x < y", "z")
    check_page(page.html)
    assert "<pre>x &lt; y\nz</pre>" in page.html
    assert page.html.count("<ul>") == 1 and "a &amp; b" in page.html and "&lt;v&gt;" in page.html
    assert csv_text([{"a": 'x,"y"', "b": 1}]) == 'a,b\n"x,""y""",1\n'
    with pytest.raises(ValueError, match="rows must be at least one"):
        csv_text([])


def test_one_thing_is_not_said_as_many():
    said = [counted(n, "picture") for n in range(3)] + [counted(n, "query is", "queries are") for n in range(3)]
    assert said == ["0 pictures", "1 picture", "2 pictures", "0 queries are", "1 query is", "2 queries are"]
    with pytest.raises(ValueError, match="count must be a whole number of at least 0, got -1"):
        counted(-1, "picture")


# --- adaptation


def test_the_weakest_strength_that_is_not_clearly_worse():
    assert choose_strength({0.0: [0.22], 1.0: [0.20]}, rows=100) == 0.0, "0.20 ± 0.04"
    assert choose_strength({0.0: [0.25], 1.0: [0.20]}, rows=100) == 1.0
    assert choose_strength({0.0: [0.25], 0.3: [0.22], 1.0: [0.20]}, rows=100) == 0.3
    assert choose_strength({0.0: [0.1, 0.5], 1.0: [0.0, 0.4]}, rows=10**6) == 0.0, "trips differ by 0.4"
    assert choose_strength({0.0: [0.01, 0.01], 1.0: [0.0, 0.0]}, rows=100) == 1.0, "an error of 0 has no spread"
    for risks, sentence in (({}, "at least one strength"), ({0.0: [1.5]}, "each of the risks of 0.0")):
        with pytest.raises(ValueError, match=sentence):
            choose_strength(risks, rows=10)


def test_a_network_for_features_and_one_for_pictures():
    for shape, classes in (((5,), 3), ((3, 8, 8), 2)):
        model = adaptable_network(shape, classes, hidden=4)
        features = model.feature_extractor(torch.zeros(2, *shape))
        assert features.shape == (2, 4) and model.label_predictor(features).shape == (2, classes)
    for shape in ((3, 8, 9), (3, 6, 6), (3, 4)):
        with pytest.raises(ValueError, match="shape"):
            adaptable_network(shape, 2)


def test_from_two_files_to_weights_predictions_and_a_page(tmp_path, monkeypatch):
    source, target = write_features(tmp_path / "s.npz"), write_features(tmp_path / "t<b>.npz", shift=0.5)
    page = adapt_examples(source, target, tmp_path / "out", options=QUICK)
    check_page(page.read_text())
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert [row["name"] for row in rows] == [f"row {i}" for i in range(60)]
    assert [row["class"] for row in rows] == [row["true class"] for row in rows], "the classes lie far apart"
    model = load_adapted(tmp_path / "out")
    with torch.no_grad():
        found = model(torch.as_tensor(read_examples(target).inputs)).softmax(1)
    assert [model.classes[k] for k in found.argmax(1)] == [row["class"] for row in rows]
    assert np.allclose(found.max(1).values, [float(row["probability"]) for row in rows], atol=1e-4)
    monkeypatch.setattr("xfer_course.practice.adapt_page.adapt_domains", None)
    assert adapt_examples(source, target, tmp_path / "out", options=QUICK) == page, "finished: nothing is computed"
    write_features(target, shift=0.6)
    with pytest.raises(ValueError, match="holds the result of other settings"):
        adapt_examples(source, target, tmp_path / "out", options=QUICK)


def test_an_interrupted_adaptation_goes_on_where_it_was(tmp_path, monkeypatch):
    source, target = write_features(tmp_path / "s.npz"), write_features(tmp_path / "t.npz", 0.5, labels=False)
    whole = adapt_examples(source, target, tmp_path / "whole", options=QUICK)
    trained = practice.adapt.trained

    def interrupted(**point):
        raise KeyboardInterrupt

    monkeypatch.setenv("XFER_JOBS", "1")
    monkeypatch.setattr("xfer_course.practice.adapt.trained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adapt_examples(source, target, tmp_path / "broken", options=QUICK)
    kept = sorted((tmp_path / "broken" / "partial").glob("*.npz"))
    times = [file.stat().st_mtime_ns for file in kept]
    assert len(kept) == 5, "the domains, and two strengths with two trips"
    assert not (tmp_path / "broken" / "predictions.csv").exists()
    monkeypatch.setattr("xfer_course.practice.adapt.trained", trained)
    interrupted.__name__ = "round_trip"  # parts are found by the name of what made them
    monkeypatch.setattr("xfer_course.practice.adapt.round_trip", interrupted)
    adapt_examples(source, target, tmp_path / "broken", options=QUICK)
    assert times and (tmp_path / "broken" / "predictions.csv").read_text() == (
        whole.parent / "predictions.csv").read_text()


@pytest.mark.parametrize("distance, words", [(1.9, "so they are not alike"), (0.2, "nothing to gain")])
def test_advice_does_not_call_alike_what_features_tell_apart(tmp_path, distance, words):
    examples = read_examples(write_features(tmp_path / "s.npz"))
    found = practice.Adapted({0.0: np.zeros(2)}, 0.0, np.eye(2)[[0, 1] * 30], np.eye(2)[[0, 1] * 30], {}, {})
    [first, *_] = practice.advice(examples, examples, found, None, {"before": distance, "after": distance})
    assert words in first


@pytest.mark.parametrize("strength", [0.0, 0.1])
def test_advice_does_not_trust_round_trips_that_guess(tmp_path, strength):
    examples = read_examples(write_features(tmp_path / "s.npz"))
    for error, hardly in ((0.45, True), (0.1, False)):
        found = practice.Adapted({0.0: np.full(2, error), 0.1: np.full(2, error)}, strength, np.eye(2)[[0, 1] * 30],
                                 np.eye(2)[[0, 1] * 30], {}, {})
        said = practice.advice(examples, examples, found, None, {"before": 1.9, "after": 1.9})
        assert ("guessing would have 50%" in said[0] and "Train longer, with --steps" in said[0]) == hardly


def test_pictures_from_folders(tmp_path):
    photos = write_pictures(tmp_path / "photos", {"cat": "red", "dog": "blue"}, count=12)
    camera = write_pictures(tmp_path / "camera", {"may": "darkred", "june": "navy"}, count=6)
    options = AdaptOptions(strengths=(0.0, 0.1), trips=1, steps=20, hidden=8, batch_size=8, size=8)
    page = adapt_examples(photos, camera, tmp_path / "out", backbone="small", options=options)
    check_page(page.read_text())
    assert "each with 1 round trip:" in page.read_text() and "one trip does not tell what luck does" in page.read_text()
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert {row["name"].split("/")[0]: row["class"] for row in rows} == {"may": "cat", "june": "dog"}
    assert list(rows[0]) == ["name", "class", "probability", "without adaptation"], "nobody gave labels"
    assert "2 of the target&#x27;s folders (june, may) are no classes of the source" in page.read_text()
    model, target = load_adapted(tmp_path / "out"), read_examples(camera, ["cat", "dog"])
    for wrong, words in [(torch.rand(2, 3, 9, 9), "of shape .N 3 8 8."), (torch.rand(3, 8, 8), "of shape"),
                         (255 * torch.rand(2, 3, 8, 8), r"lie in \[0, 1\]"),
                         (torch.ones(2, 3, 8, 8).byte(), "hold float")]:
        with pytest.raises((TypeError, ValueError), match=f"inputs must {words}|inputs must be {words}"):
            model(wrong)
    images = torch.stack([target.at_size(model.size)[i][0] for i in range(len(target))])
    assert [model.classes[k] for k in model(images).argmax(1)] == [row["class"] for row in rows]


def test_data_that_do_not_fit_together(tmp_path):
    photos = write_pictures(tmp_path / "photos", {"cat": "red", "dog": "blue"}, count=4)
    features = write_features(tmp_path / "a.npz")
    np.savez(tmp_path / "wide.npz", features=np.eye(60))
    write_features(tmp_path / "bare.npz", labels=False)
    cases = [(features, photos, "must both be pictures or both features"),
             (features, tmp_path / "wide.npz", "target must hold features of 3 numbers, as .* got features of 60"),
             (tmp_path / "bare.npz", features, "source must have labels"),
             (write_pictures(tmp_path / "one", {"cat": "red"}), photos, "two classes")]
    for number, (source, target, sentence) in enumerate(cases):
        with pytest.raises(ValueError, match=sentence):
            adapt_examples(source, target, tmp_path / f"out {number}", options=QUICK)
    for wrong in ({"strengths": (0.5,)}, {"strengths": (0, -1)}, {"trips": 0}, {"size": 10}, {"seed": -1},
                  {"learning_rate": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            AdaptOptions(**wrong)


def test_units_make_no_difference(tmp_path):
    "Wavelengths in metres, or numbers whose squares float32 cannot hold."
    found = []
    for unit in (1.0, 1e-9, 1e20):
        for name, shift in (("s", 0.0), ("t", 0.5)):
            with np.load(write_features(tmp_path / f"{name}{unit}.npz", shift)) as file:
                arrays = dict(file)
            np.savez(tmp_path / f"{name}{unit}.npz", **arrays | {"features": unit * arrays["features"]})
        adapt_examples(tmp_path / f"s{unit}.npz", tmp_path / f"t{unit}.npz", tmp_path / f"out{unit}", options=QUICK)
        rows = rows_of(tmp_path / f"out{unit}" / "predictions.csv")
        found.append([row["class"] for row in rows])
        assert np.mean([row["class"] == row["true class"] for row in rows]) > 0.9
    assert found[0] == found[1]


def test_what_adapt_left_is_loaded_only_if_it_is_whole_and_its_own(tmp_path):
    source, target = write_features(tmp_path / "s.npz"), write_features(tmp_path / "t.npz", 0.5)
    folder = write_pictures(tmp_path / "photos", {"cat": "red", "dog": "blue"})
    with pytest.raises(ValueError, match="out must not lie inside the data"):
        adapt_examples(folder, folder, folder / "out", options=QUICK)
    adapt_examples(source, target, tmp_path / "out", options=QUICK)
    for file, content in (("settings.json", "{"), ("settings.json", "{}"), ("settings.json", '{"settings": {}}')):
        kept = (tmp_path / "out" / file).read_bytes()
        (tmp_path / "out" / file).write_text(content)
        with pytest.raises(DataFileError, match="does not hold what xfer adapt wrote"):
            load_adapted(tmp_path / "out")
        (tmp_path / "out" / file).write_bytes(kept)
    load_adapted(tmp_path / "out")
    (tmp_path / "out" / "report.html").unlink()
    with pytest.raises(FileNotFoundError, match="got one without report.html"):
        load_adapted(tmp_path / "out")


@pytest.mark.parametrize("content, sentence", [
    (b"no weights", "must be a file of weights of PyTorch or safetensors"), ({}, "got none with a matrix"),
    ([1], "must be a file of named tensors")], ids=["bytes", "nothing", "list"])
def test_files_that_hold_no_weights_are_refused(tmp_path, content, sentence):
    mine, file = read_examples(write_pictures(tmp_path / "photos", {"cat": "red"}, count=2)), tmp_path / "w.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(ValueError, match=sentence):
        load_backbone("resnet18", mine, file)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_features(tmp_path / "s.npz"), write_features(tmp_path / "t.npz", shift=0.5)
    short = ["--steps", "20", "--trips", "1", "--strength", "0.5"]
    run = CliRunner().invoke(main, ["adapt", "s.npz", "t.npz", *short])
    assert run.exit_code == 0 and "report: t-adapted/report.html" in run.output, run.output
    assert json.loads(Path("t-adapted/settings.json").read_text())["settings"]["options"]["strengths"] == [0.0, 0.5]
    for arguments, sentence in ((["s.npz", "gone.npz"], "gone.npz is not there"),
                                (["s.npz", "t.npz", "--steps", "0"], "steps must be a whole number of at least 1"),
                                (["s.npz", "t.npz", "--size", "9"], "size must be a multiple of 4, got 9"),
                                (["s.npz", "t.npz", "--seed", "1"], "holds the result of other settings")):
        run = CliRunner().invoke(main, ["adapt", *arguments])
        assert run.exit_code == 1 and run.output.count("\n") == 1 and sentence in run.output


@pytest.mark.parametrize("options", [{}, {"classes": ["cat", "dog"]}, {"skip_damaged": True}])
def test_what_is_left_out_is_said_once_and_by_the_line_that_reads(tmp_path, recwarn, options):
    folder = write_pictures(tmp_path / "photos", {"cat": "red", "dog": "blue"})
    (folder / "cat/torn.png").write_bytes(b"no picture")
    (folder / "dog/notes.txt").write_text("none")
    read_examples(folder, **options)
    (said,) = recwarn.list
    files = "2 files left out (damaged images: 1, " if options.get("skip_damaged") else "1 file left out ("
    assert f"{folder}: {files}no images (.txt): 1)" in str(said.message) and said.filename == __file__


# --- what users bring


@pytest.mark.parametrize("name, values, kind", [
    ("labels", np.array(["left", "right", "left", "right"], dtype=object), "str"),
    ("names", np.array(["a", 2, None, "d"], dtype=object), "str"),
    ("features", np.array([[1.0, "x"], [2.0, None], [1, 2], [3, 4]], dtype=object), "float"),
])
def test_python_objects_in_a_file_are_named_and_it_is_not_called_damaged(tmp_path, name, values, kind):
    arrays = {"features": np.eye(4), "labels": np.array(["left", "right"] * 2)} | {name: values}
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(TypeError, match=rf"{name} of mine.npz must hold numbers or texts, .* \.astype\({kind}\)"):
        read_examples(tmp_path / "mine.npz")


def test_python_objects_that_are_not_read_are_left_out(tmp_path):
    np.savez(tmp_path / "mine.npz", features=np.eye(4), notes=np.array([None, "x"], dtype=object))
    with pytest.warns(UserWarning, match="mine.npz: notes left out"):
        assert len(read_examples(tmp_path / "mine.npz")) == 4


def watched(monkeypatch) -> list[str]:
    "The files that are decoded from now on."
    read, found = lazy.read_picture, []
    monkeypatch.setattr(lazy, "read_picture", lambda file, *rest: found.append(Path(file).name) or read(file, *rest))
    return found


def test_a_backbone_that_learns_here_decodes_each_picture_once_and_learns_the_same(tmp_path, monkeypatch):
    pictures = read_examples(write_pictures(tmp_path / "p", {"cat": "red", "dog": "blue"})).at_size(32)
    decoded = watched(monkeypatch)
    once = rotation_backbone(pictures, steps=5, batch_size=4).state_dict()
    assert len(decoded) == len(pictures)
    monkeypatch.setattr(backbones, "_DecodedOnce", lambda images: images)
    each_time = rotation_backbone(pictures, steps=5, batch_size=4).state_dict()
    assert len(decoded) >= len(pictures) + 5 * 4
    assert all(torch.equal(once[key], each_time[key]) for key in once)


def test_a_backbone_that_learns_here_asks_a_transform_in_every_pass(tmp_path):
    pictures, asked = read_examples(write_pictures(tmp_path / "p", {"cat": "red", "dog": "blue"})).at_size(32), []
    pictures.transform = lambda image: asked.append(1) or image.flip(-1)
    rotation_backbone(pictures, steps=5, batch_size=4)
    assert len(asked) >= 5 * 4


def page_of(truth: int, said: list[int]) -> str:
    "The page of rows of three classes, all of one class in truth, and what they were called."
    labels = np.arange(30) % 3
    source = Examples(np.zeros((30, 2), np.float32), labels, ("a", "b", "c"), tuple(map(str, range(30))))
    target = Examples(np.zeros((30, 2), np.float32), np.full(30, truth), ("a", "b", "c"), source.names)
    after = np.eye(3)[np.resize(said, 30)]
    rng = np.random.default_rng(0)
    features = {f"{each}, {when}": rng.random((30, 2)) for each in ("source", "target") for when in ("before", "after")}
    found = Adapted({0.0: np.array([0.0, 0.1]), 1.0: np.array([0.2, 0.1])}, 0.0, after, after, features, {})
    return adaptation_page(source, target, found, None, AdaptOptions(strengths=(0.0, 1.0), trips=2)).html


@pytest.mark.parametrize("said, words", [
    ([0], ("Only 0% of the target are named rightly", "b, c: hardly ever said of the target")),
    ([0, 1], ("c: hardly ever said of the target",)),
    ([0, 1, 2], ("Only 33% of the target are named rightly",)),
])
def test_a_page_says_what_speaks_against_the_names(said, words):
    page = page_of(1 if len(said) != 2 else 0, said)
    assert all(each in page for each in words) and "not how often the names of the target are wrong" in page
    assert ("hardly ever" in page) == (len(said) < 3)
