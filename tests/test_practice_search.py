"""An index of one's own pictures: what it finds, how it is kept up to date, and what it refuses."""
from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from xfer_course.cli import main
from xfer_course.data import DataFileError, pictures
from xfer_course.mrl import FunnelRetrieval
from xfer_course.practice import (
    IndexFacts,
    Page,
    PictureIndex,
    embed,
    embed_examples,
    farthest,
    index_page,
    keep_backbone,
    kept_backbone,
    load_backbone,
    near_duplicates,
    nearest_others,
    read_examples,
    retrieval_precision,
    search_pictures,
    show_items,
    usual_distance,
)


def draw(folder: Path, count: int, **options) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures(count, pixels=32, **options).images):
        Image.fromarray((255 * picture).byte().permute(1, 2, 0).numpy()).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    "Two classes of six pictures, one of them there twice, and their index."
    root = tmp_path_factory.mktemp("made")
    for seed, kind in enumerate(("heart", "moon")):
        draw(root / "photos" / kind, 6, seed=seed, shape=kind)
    shutil.copy(root / "photos/moon/3.png", root / "photos/moon/copy.png")
    embed_examples(root / "photos", root / "index", steps=3)
    return root


@pytest.fixture
def mine(made, tmp_path) -> Path:
    "A copy of both that a test may change; the index is that of the copy."
    shutil.copytree(made / "photos", tmp_path / "photos")
    shutil.copytree(made / "index", tmp_path / "index")
    file = tmp_path / "index/settings.json"
    file.write_text(file.read_text().replace(str(made / "photos"), str(tmp_path / "photos")))
    return tmp_path


def rows_file(path: Path, features, **columns) -> Path:
    np.savez(path, features=np.asarray(features, np.float32), **columns)
    return path


def counted(monkeypatch) -> list[str]:
    "The names of the pictures that go through a network from now on, in their order."
    seen: list[str] = []
    features_of = embed_examples.__globals__["features_of"]

    def watched(backbone, examples):
        seen.extend(examples.names)
        return features_of(backbone, examples)

    monkeypatch.setitem(embed_examples.__globals__, "features_of", watched)
    return seen


# --- what is found


def test_a_copy_is_the_nearest_and_named_as_a_near_duplicate(made):
    found = search_pictures(made / "index", [made / "photos/moon/3.png", made / "photos/moon/copy.png"], k=3)
    assert [names[0][0] for names in found] == ["moon/copy.png", "moon/3.png"]
    assert [names[0][1] for names in found] == pytest.approx([1, 1], abs=1e-5)
    assert (made / "index/duplicates.csv").read_text().splitlines()[1].split(",")[:2] == ["moon/3.png", "moon/copy.png"]


def test_a_picture_is_not_found_by_itself_but_its_equal_from_elsewhere_is(made, tmp_path):
    inside = made / "photos/heart/2.png"
    shutil.copy(inside, tmp_path / "2.png")
    (tmp_path / "link.png").symlink_to(inside)
    within, without, link = search_pictures(
        made / "index", [inside, tmp_path / "2.png", tmp_path / "link.png"], k=99)
    assert len(within) == len(link) == 12 and "heart/2.png" not in dict(within + link)
    assert len(without) == 13 and without[0] == ("heart/2.png", pytest.approx(1, abs=1e-5))


def test_a_folder_is_all_its_pictures_in_order(made):
    folder = search_pictures(made / "index", made / "photos/moon", k=2)
    files = sorted((made / "photos/moon").iterdir())
    assert len(folder) == 7 and folder == search_pictures(made / "index", files, k=2)


@pytest.mark.parametrize("ending", ["npz", "csv"])
def test_rows_of_known_angles_come_in_their_order(tmp_path, ending):
    angles = np.deg2rad([0, 60, 20, 90])
    features, names = np.stack([np.cos(angles), np.sin(angles)], 1) * [[3], [1], [2], [5]], ["a", "b", "c", "d"]
    path = tmp_path / f"rows.{ending}"
    if ending == "npz":
        rows_file(path, features, names=names)
    else:
        path.write_text("name,x,y\n" + "".join(f"{n},{x},{y}\n" for n, (x, y) in zip(names, features)))
    index = embed_examples(path, tmp_path / "index").parent
    [[*found]] = search_pictures(index, "a", k=5)
    assert [name for name, _ in found] == ["c", "b", "d"]
    assert [score for _, score in found] == pytest.approx(np.cos(np.deg2rad([20, 60, 90])), abs=1e-6)


@pytest.mark.parametrize("first_stage", ["int8", "binary"])
def test_a_rounded_first_stage_finds_the_same_nearest(tmp_path, first_stage):
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(150, 24)), 2, axis=0)
    path = rows_file(tmp_path / "rows.npz", centres + 0.05 * rng.normal(size=centres.shape))
    indices = {stage: embed_examples(path, tmp_path / stage, first_stage=stage).parent
               for stage in ("float32", first_stage)}
    asked = list(map(str, range(300)))
    exact, rounded = ([names[0] for names in search_pictures(each, asked, k=1)] for each in indices.values())
    assert [name for name, _ in rounded] == [name for name, _ in exact] == [str(n ^ 1) for n in range(300)]
    assert [score for _, score in rounded] == pytest.approx([score for _, score in exact], abs=1e-6)
    assert FunnelRetrieval.load(tmp_path / first_stage).first_stage == first_stage
    [far] = search_pictures(indices[first_stage], "0", k=250)  # beyond the shortlist of 200
    assert len(far) == 250 and len({name for name, _ in far}) == 250
    assert far[:5] == search_pictures(indices[first_stage], "0", k=5)[0]
    sizes = [(each / "index.safetensors").stat().st_size for each in indices.values()]
    assert sizes[1] < sizes[0]


# --- what a collection's nearest others tell

VECTORS = np.array([[1, 0], [1, 0], [0.6, 0.8], [0, 1], [-1, 0]], np.float32)


def small_index(vectors=VECTORS) -> FunnelRetrieval:
    return FunnelRetrieval(np.asarray(vectors, np.float32), (2,), (), ids=[f"r{n}" for n in range(len(vectors))])


def test_nearest_others_duplicates_and_the_one_apart():
    nearest = nearest_others(small_index(), k=2)
    assert nearest.asked.tolist() == [0, 1, 2, 3, 4] and nearest.found[:, 0].tolist() == [1, 0, 3, 2, 3]
    assert nearest.cosines[:, 0] == pytest.approx([1, 1, 0.8, 0.8, 0], abs=1e-6)
    assert near_duplicates(nearest, usual=1.0) == [(0, 1, pytest.approx(1))]
    assert farthest(nearest, 2) == [(4, pytest.approx(1)), (2, pytest.approx(0.2))]


def test_near_means_near_compared_with_two_taken_at_random():
    angles = np.deg2rad([0, 0.1, 3, 6, 9])  # all cosines are above 0.98
    index = small_index(np.stack([np.cos(angles), np.sin(angles)], 1))
    usual = usual_distance(index, pairs=5000)
    pairs = [1 - np.cos(a - b) for a in angles for b in angles if a != b]
    assert usual == pytest.approx(np.mean(pairs), rel=0.1)
    assert [pair[:2] for pair in near_duplicates(nearest_others(index), usual)] == [(0, 1)]
    assert len(near_duplicates(nearest_others(index), usual=1.0)) == 8  # all that are less than 8.1 degrees apart


def test_precision_and_chance_by_hand():
    nearest = nearest_others(small_index(), k=2)
    at_1, at_2, chance = retrieval_precision(nearest, ["x", "x", "y", "y", "z"])
    assert at_1 == pytest.approx(4 / 5) and chance == pytest.approx(4 * (1 / 4) / 5)
    assert at_2 == pytest.approx(np.mean([1, 1, 1, 1, 0]) / 2)


def test_of_many_a_sample_is_asked():
    index = small_index(np.random.default_rng(0).normal(size=(50, 2)))
    sample, every = nearest_others(index, most=7, seed=1), nearest_others(index)
    assert len(sample.asked) == 7 and sample.count == 50
    assert (sample.found == every.found[sample.asked]).all()


# --- kept up to date


def test_a_call_without_changes_does_nothing(mine, monkeypatch):
    seen, before = counted(monkeypatch), {p.name: p.stat().st_mtime_ns for p in (mine / "index").iterdir()}
    embed_examples(mine / "photos", mine / "index", steps=3)
    after = {p.name: p.stat().st_mtime_ns for p in (mine / "index").iterdir()}
    assert seen == [] and {name for name in after if after[name] != before.get(name)} == set()


def test_only_what_came_or_changed_is_embedded_and_what_went_is_not_found(mine, monkeypatch):
    draw(mine / "new", 2, seed=9, shape="cat")
    shutil.copy(mine / "new/0.png", mine / "photos/heart/9.png")
    shutil.copy(mine / "new/1.png", mine / "photos/moon/0.png")
    (mine / "photos/moon/copy.png").unlink()
    before = FunnelRetrieval.load(mine / "index", mapped=False)
    old = dict(zip(before.ids.tolist(), before.gallery))
    seen = counted(monkeypatch)
    page = embed_examples(mine / "photos", mine / "index", steps=3)
    assert sorted(seen) == ["heart/9.png", "moon/0.png"]
    index = FunnelRetrieval.load(mine / "index")
    assert sorted(index.ids) == sorted(read_examples(mine / "photos").names)
    for name, row in zip(index.ids, index.gallery):
        assert name == "heart/9.png" or torch.equal(row, old[name]) == (name != "moon/0.png")
    found = search_pictures(mine / "index", [mine / "new/0.png", mine / "new/1.png"], k=1)
    assert [names[0][0] for names in found] == ["heart/9.png", "moon/0.png"]
    assert "2 were embedded and 2 deleted" in page.read_text()
    assert all("copy.png" not in file.read_text() for file in (mine / "index").glob("*.csv"))


def test_a_picture_that_changed_and_changed_back_around_a_breakdown_is_embedded_again(mine, monkeypatch):
    picture, index = mine / "photos/moon/0.png", mine / "index"
    before, stat = picture.read_bytes(), picture.stat()
    old = dict(zip(*map(list, ((found := FunnelRetrieval.load(index, mapped=False)).ids.tolist(), found.gallery))))
    shutil.copy(mine / "photos/heart/0.png", picture)
    with monkeypatch.context() as patch:
        patch.setitem(embed_examples.__globals__, "_finished", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            embed_examples(mine / "photos", index, steps=3)
    picture.write_bytes(before)
    os.utime(picture, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    embed_examples(mine / "photos", index, steps=3)
    found = FunnelRetrieval.load(index, mapped=False)
    row = dict(zip(found.ids.tolist(), found.gallery))["moon/0.png"]
    torch.testing.assert_close(row, old["moon/0.png"])


def test_rows_of_a_file_come_go_and_change(tmp_path):
    path, out = tmp_path / "rows.npz", tmp_path / "index"
    embed_examples(rows_file(path, [[1, 0, 0], [1, 0, 0], [0, 0, 1]], names=["a", "b", "c"]), out)
    assert (out / "duplicates.csv").read_text() == "one,other,cosine\na,b,1.000000\n"
    embed_examples(rows_file(path, [[1, 0, 0], [1, 0, 0.5], [1, 1, 1]], names=["a", "c", "d"]), out)
    index = FunnelRetrieval.load(out)
    assert dict(zip(index.ids.tolist(), index.gallery.tolist())) == {
        "a": [1, 0, 0], "c": [1, 0, 0.5], "d": [1, 1, 1]}
    assert not (out / "duplicates.csv").exists()
    embed_examples(rows_file(path, np.eye(2), names=["e", "f"]), out)  # nothing stays: rows of another length fit
    assert FunnelRetrieval.load(out).gallery.tolist() == [[1, 0], [0, 1]]


def test_a_page_does_not_call_copies_what_coarse_features_cannot_tell_apart(tmp_path):
    rng = np.random.default_rng(0)
    rows = np.concatenate([[1, 0, 0] + 0.01 * rng.normal(size=(8, 3)), np.eye(3)[1:]])
    page = embed_examples(rows_file(tmp_path / "rows.npz", rows), tmp_path / "index").read_text()
    assert "more than one pair for every two" in page and "too coarse to find copies" in page
    assert "nearly the same" not in page
    rows = np.eye(30)[[0, *range(30)]]
    page = embed_examples(rows_file(tmp_path / "few.npz", np.concatenate([rows, rows[3:5]])), tmp_path / "few")
    assert "3 pairs are nearly the same" in page.read_text() and "too coarse" not in page.read_text()


def test_an_interrupted_run_goes_on_at_the_missing_block(made, tmp_path, monkeypatch):
    shutil.copytree(made / "photos", tmp_path / "photos")
    monkeypatch.setitem(embed_examples.__globals__, "_BLOCK", 4)
    seen, save = counted(monkeypatch), embed._save_block

    def breaking(folder, keys, features):
        save(folder, keys, features)
        if len(list(folder.glob("*.npz"))) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embed, "_save_block", breaking)
        with pytest.raises(KeyboardInterrupt):
            embed_examples(tmp_path / "photos", tmp_path / "index", steps=3)
    assert len(seen) == 8 and not (tmp_path / "index/report.html").exists()
    weights = (tmp_path / "index/backbone.safetensors").read_bytes()
    done, gone = list(seen), seen.pop()
    (tmp_path / "photos" / gone).unlink()  # a file that went in between moves no block
    seen.clear()
    embed_examples(tmp_path / "photos", tmp_path / "index", steps=3)
    assert sorted(seen) == sorted(set(read_examples(tmp_path / "photos").names) - set(done))
    assert (tmp_path / "index/backbone.safetensors").read_bytes() == weights
    assert not (tmp_path / "index/partial").exists()
    straight = embed_examples(tmp_path / "photos", tmp_path / "straight", steps=3).parent
    assert set(FunnelRetrieval.load(straight).ids) == set(FunnelRetrieval.load(tmp_path / "index").ids)


def test_other_settings_are_refused_and_fresh_begins_anew(mine):
    with pytest.raises(ValueError, match="first_stage was 'float32' and is 'int8'"):
        embed_examples(mine / "photos", mine / "index", steps=3, first_stage="int8")
    embed_examples(mine / "photos", mine / "index", steps=3, first_stage="int8", fresh=True)
    assert FunnelRetrieval.load(mine / "index").first_stage == "int8"


def test_a_misprint_leaves_nothing_behind(made, tmp_path):
    with pytest.raises(ValueError, match="backbone must be one of .*, got 'resnet81'"):
        embed_examples(made / "photos", tmp_path / "index", steps=3, backbone="resnet81")
    assert not (tmp_path / "index").exists()


# --- the network that made the features


def test_a_kept_network_gives_the_same_features_without_training(made):
    opened = PictureIndex(made / "index")
    vectors = opened.vectors([str(made / "photos" / name) for name in opened.index.ids])
    np.testing.assert_allclose(vectors, opened.index.gallery.numpy(), rtol=1e-4, atol=1e-5)
    assert kept_backbone(made / "index").trained_here


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    "Weights of a small network of torchvision, drawn and not trained."
    from torchvision.models import shufflenet_v2_x0_5

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(shufflenet_v2_x0_5(num_classes=3).state_dict(), file)
    return file


def test_a_picture_that_is_a_link_does_not_find_itself(made, tmp_path):
    draw(tmp_path / "photos", 3, seed=0)
    elsewhere = shutil.move(tmp_path / "photos/1.png", tmp_path / "kept.png")
    (tmp_path / "photos/1.png").symlink_to(elsewhere)
    embed_examples(tmp_path / "photos", tmp_path / "index", steps=3)
    found = search_pictures(tmp_path / "index", tmp_path / "photos/1.png", k=5)[0]
    assert [name for name, _ in found] and "1.png" not in [name for name, _ in found]


def test_weights_of_a_file_are_found_again_missed_and_compared(made, network, tmp_path):
    weights = shutil.copy(network, tmp_path / "mine.pth")
    draw(tmp_path / "few", 2, seed=0)
    embed_examples(tmp_path / "few", tmp_path / "index", steps=3, backbone="shufflenet_v2_x0_5", weights=weights)
    assert not (tmp_path / "index/backbone.safetensors").exists()
    query = shutil.copy(tmp_path / "few/1.png", tmp_path / "query.png")
    assert search_pictures(tmp_path / "index", query, k=1)[0][0] == ("1.png", pytest.approx(1, abs=1e-4))
    state = torch.load(weights, weights_only=True)
    torch.save({name: value * 1.5 if value.ndim > 1 else value for name, value in state.items()}, weights)
    with pytest.raises(ValueError, match="no longer those that made the features"):
        search_pictures(tmp_path / "index", query)
    Path(weights).unlink()
    with pytest.raises(FileNotFoundError, match="mine.pth, which made the features, are no longer there"):
        search_pictures(tmp_path / "index", query)


def test_weights_that_left_the_cache_are_named_and_nothing_is_fetched(mine, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    file = mine / "index/backbone.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"name": "resnet18"}))
    with pytest.raises(FileNotFoundError, match="ImageNet weights of resnet18, .* are no longer in"):
        search_pictures(mine / "index", mine / "photos/moon/1.png")


def test_lost_or_exchanged_weights_of_an_own_network_are_refused(mine):
    file, query = mine / "index/backbone.safetensors", mine / "photos/moon/1.png"
    examples = read_examples(mine / "photos")
    keep_backbone(load_backbone("rotation", examples, seed=5, steps=2), mine, "rotation")
    shutil.copy(mine / "backbone.safetensors", file)
    with pytest.raises(ValueError, match="no longer those that made the features"):
        search_pictures(mine / "index", query)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataFileError, match="damaged or holds another network"):
        search_pictures(mine / "index", query)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="the only copy of the network"):
        search_pictures(mine / "index", query)


# --- pages


def sources(page: str) -> list[str]:
    return re.findall(r'<img[^>]* src="([^"]*)"', page)


def test_pages_need_nothing_beside_them_and_say_what_each_picture_is(made, tmp_path):
    search_pictures(made / "index", made / "photos/moon/3.png", k=4, out=tmp_path / "found.html")
    report, found = (made / "index/report.html").read_text(), (tmp_path / "found.html").read_text()
    pairs = min(6, len((made / "index/duplicates.csv").read_text().splitlines()) - 1)
    for page, count in ((report, 4 * 6 + 2 * pairs + 5), (found, 5)):
        assert len(sources(page)) == count and all(each.startswith("data:image/") for each in sources(page))
        assert len(re.findall(r'<img alt="[^"]+"', page)) == count
        assert not re.search(r"https?://|<script|<link", page)
    assert "moon/copy.png 1.000" in found
    for words in ("13 pictures", "Searches to look at", "Twice or nearly so", "Like nothing else", "precision at 1",
                  "chance", "--backbone resnet18", "32 numbers for each"):
        assert words in report, words


def test_names_are_escaped(tmp_path):
    draw(tmp_path / "<b>mine", 3, seed=0)
    (tmp_path / "<b>mine/0.png").rename(tmp_path / "<b>mine/<i>&.png")
    page = embed_examples(tmp_path / "<b>mine", tmp_path / "index", steps=3)
    search_pictures(tmp_path / "index", tmp_path / "<b>mine/1.png", out=tmp_path / "found.html")
    for text in (page.read_text(), (tmp_path / "found.html").read_text()):
        assert "<b>" not in text and "<i>" not in text and "&lt;i&gt;&amp;.png" in text


def test_a_picture_that_is_gone_is_listed_by_name(mine):
    (mine / "photos/moon/copy.png").unlink()
    search_pictures(mine / "index", mine / "photos/moon/3.png", k=2, out=mine / "found.html")
    assert "<li>moon/copy.png 1.000 (the file is gone)</li>" in (mine / "found.html").read_text()
    assert len(sources((mine / "found.html").read_text())) == 2


def test_one_picture_alone_has_a_page(tmp_path):
    page = embed_examples(rows_file(tmp_path / "one.npz", [[1, 2]]), tmp_path / "index")
    assert "One alone has no others" in page.read_text() and search_pictures(page.parent, "0") == [[]]


def test_items_without_a_root_are_listed():
    page = Page("t", "l")
    show_items(page, None, ["a"], ["a <1>"])
    assert "<li>a &lt;1&gt;</li>" in page.html


# --- what is refused, in a sentence


def damaged(mine: Path) -> None:
    file = mine / "index/index.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def foreign(mine: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, mine / "index/index.safetensors")


def of_another_command(mine: Path) -> None:
    (mine / "index/settings.json").write_text(json.dumps({"settings": {"command": "adapt", "data": "x"}}))


def broken_settings(mine: Path) -> None:
    (mine / "index/settings.json").write_text("[1]")


def no_settings(mine: Path) -> None:
    (mine / "index/settings.json").unlink()


def no_index(mine: Path) -> None:
    (mine / "index/index.safetensors").unlink()


def broken_backbone(mine: Path) -> None:
    (mine / "index/backbone.json").write_text('{"name": "rotation", "weights": null, "size": "x"}')


@pytest.mark.parametrize("harm, kind, words", [
    (damaged, DataFileError, "index.safetensors is damaged or no index"),
    (foreign, DataFileError, "index.safetensors is damaged or no index .*not written by"),
    (of_another_command, ValueError, "must be a folder that xfer embed made, got one of xfer adapt"),
    (broken_settings, DataFileError, "settings.json is corrupt"),
    (no_settings, FileNotFoundError, "must be a folder that xfer embed made"),
    (no_index, FileNotFoundError, "no index at"),
    (broken_backbone, DataFileError, "backbone.json is corrupt"),
], ids=lambda value: getattr(value, "__name__", ""))
def test_a_damaged_or_foreign_index_is_refused_in_a_sentence(mine, harm, kind, words):
    harm(mine)
    with pytest.raises(kind, match=words):
        search_pictures(mine / "index", mine / "photos/moon/1.png")


def test_an_update_of_a_damaged_index_says_how_to_go_on(mine):
    damaged(mine)
    with pytest.raises(DataFileError, match="embed anew with --fresh"):
        embed_examples(mine / "photos", mine / "index", steps=3)
    embed_examples(mine / "photos", mine / "index", steps=3, fresh=True)
    (mine / "index/files.csv").write_text("nothing\n1\n")
    with pytest.raises(DataFileError, match="files.csv is corrupt"):
        embed_examples(mine / "photos", mine / "index", steps=3)


NOTHING = object()
ROWS = np.eye(3)


@pytest.mark.parametrize("call, words", [
    (lambda f: embed_examples(f / "none", f / "out"), "is not there"),
    (lambda f: embed_examples(NOTHING, f / "out"), "expected str"),
    (lambda f: embed_examples(f / "rows.npz", f / "out", backbone="resnet18"), "must be 'auto' without weights"),
    (lambda f: embed_examples(f / "rows.npz", f / "out", backbone=3), "backbone must be"),
    (lambda f: embed_examples(f / "rows.npz", f / "out", first_stage="int4"), "first_stage must be one of"),
    (lambda f: embed_examples(f / "rows.npz", f / "out", seed=-1), "seed must be"),
    (lambda f: embed_examples(f / "rows.npz", f / "out", steps=0), "steps must be"),
    (lambda f: embed_examples(f / "rows.npz", f / "out", fresh="yes"), "fresh must be"),
    (lambda f: embed_examples(f / "zero.npz", f / "out"), "features of b must be finite and not all zero"),
    (lambda f: embed_examples(f / "twice.npz", f / "out"), "ids must be distinct, got 'a'"),
    (lambda f: embed_examples(f / "photos", f / "photos/index"), "out must lie outside"),
    (lambda f: embed_examples(f / "photos", f / "photos"), "out must lie outside"),
    (lambda f: search_pictures(f / "none", "x"), "must be a folder that xfer embed made"),
    (lambda f: search_pictures(f / "index", "x"), "must be names of rows, .* got 'x'"),
    (lambda f: search_pictures(f / "index", []), "pictures must be a path or a list of paths"),
    (lambda f: search_pictures(f / "index", [3]), "pictures must be a path or a list of paths"),
    (lambda f: search_pictures(f / "index", "a", k=0), "k must be"),
    (lambda f: PictureIndex(f / "index").search(["a", "x"]), "must be names of rows, .* got 'x'"),
    (lambda f: PictureIndex(f / "index").vectors([]), "queries must be"),
    (lambda f: PictureIndex(f / "index").page(["a"], []), "found"),
    (lambda f: nearest_others(small_index(VECTORS[:1])), "at least two items"),
    (lambda f: nearest_others(NOTHING), "index must be"),
    (lambda f: nearest_others(small_index(), k=0), "k must be"),
    (lambda f: nearest_others(small_index(), most=0), "most must be"),
    (lambda f: usual_distance(small_index(VECTORS[:1])), "at least two items"),
    (lambda f: usual_distance(small_index(), pairs=0), "pairs must be"),
    (lambda f: near_duplicates(NOTHING, 1.0), "nearest must be"),
    (lambda f: near_duplicates(nearest_others(small_index()), "x"), "usual must be"),
    (lambda f: near_duplicates(nearest_others(small_index()), 1.0, least=2), "least must be"),
    (lambda f: farthest(nearest_others(small_index()), 0), "count must be"),
    (lambda f: farthest(NOTHING), "nearest must be"),
    (lambda f: retrieval_precision(nearest_others(small_index()), [1, 2]), "labels must"),
    (lambda f: index_page(NOTHING), "facts must be"),
    (lambda f: index_page(IndexFacts(small_index(), (), "x", "x", False, False, "", 1, 0)), "labels"),
    (lambda f: show_items(Page("t", "l"), None, ["a"], []), "captions"),
    (lambda f: keep_backbone(NOTHING, f, "rotation"), "backbone must be"),
    (lambda f: kept_backbone(f / "index"), "backbone.json is not there"),
])
def test_bad_input_is_refused_in_a_sentence(tmp_path, call, words):
    rows_file(tmp_path / "rows.npz", ROWS, names=["a", "b", "c"])
    rows_file(tmp_path / "zero.npz", np.diag([1, 0, 1]), names=["a", "b", "c"])
    rows_file(tmp_path / "twice.npz", ROWS, names=["a", "b", "a"])
    draw(tmp_path / "photos", 2, seed=0)
    embed_examples(tmp_path / "rows.npz", tmp_path / "index")
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=words):
        call(tmp_path)


def test_a_query_that_is_missing_or_no_picture_is_refused(made, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataFileError, match="text.png"):
        search_pictures(made / "index", tmp_path / "text.png")
    with pytest.raises(FileNotFoundError, match="gone.png is not there"):
        search_pictures(made / "index", tmp_path / "gone.png")


# --- the commands


def said(*arguments) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize("name", ["meine Zeilen", "Autos & Lkw", "it's mine"])
def test_a_command_to_copy_from_the_shell_works_in_folders_of_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    rows_file(tmp_path / f"{name}.npz", [[1, 0], [0, 1], [1, 1]], names=["a", "b", "c"])
    code, output = said("embed", f"{name}.npz")
    command = shlex.split(output.splitlines()[-1].removeprefix("search: xfer "))
    assert code == 0 and command == ["search", f"{name}-index", "ROW"]
    assert said(*command[:2], "a")[0] == 0


def test_the_commands_make_an_index_where_one_stands_and_search_it(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows_file(tmp_path / "rows.npz", [[1, 0], [0, 1], [1, 1]], names=["a", "b", "c"])
    code, output = said("embed", "rows.npz")
    assert (code, output) == (0, "page: rows-index/report.html\nsearch: xfer search rows-index ROW\n")
    code, output = said("search", "rows-index", "a", "b", "-k", "1")
    assert code == 0 and output.split("\n\n") == [
        "\na\nscore  name\n-----  ----\n0.707  c", "b\nscore  name\n-----  ----\n0.707  c\n"]
    shutil.copy(made / "photos/moon/3.png", "query.png")
    code, output = said("search", made / "index", "query.png", "-k", 2, "--page", "found.html")
    assert code == 0 and output.startswith("\nquery.png\n") and output.endswith("page: found.html\n")
    assert "1.000  moon/copy.png" in output
    assert len(sources((tmp_path / "found.html").read_text())) == 3


@pytest.mark.parametrize("arguments, words", [
    (["embed", "nowhere"], "nowhere is not there"),
    (["embed", "rows.npz", "--first-stage", "int4"], "first_stage must be one of"),
    (["embed", "rows.npz", "--backbone", "resnet18"], "must be 'auto' without weights"),
    (["embed", "rows.npz", "--out", "full"], "must be empty or the folder of an earlier call"),
    (["search", "nowhere", "a.png"], "must be a folder that xfer embed made"),
])
def test_commands_answer_errors_in_one_sentence(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    rows_file(tmp_path / "rows.npz", ROWS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("mine")
    code, output = said(*arguments)
    assert code == 1 and output.startswith("xfer: ") and output.count("\n") == 1 and words in output
    assert os.listdir(tmp_path / "full") == ["letter.txt"]
