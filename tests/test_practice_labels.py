"""`xfer probe` and `xfer prompts`: what they learn and leave, what they refuse, and what they do not do twice."""
from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.models import resnet18

from xfer_course import practice
from xfer_course.cli import main
from xfer_course.clip import tiny_clip
from xfer_course.coop import CoOp, NearestWords
from xfer_course.data import DataFileError, pictures, shipped
from xfer_course.practice import (
    GRID,
    Compared,
    Examples,
    HeldOut,
    LinearClassifier,
    Page,
    balanced,
    calibration_sentence,
    chance_of_difference,
    check_apart,
    class_advice,
    confusions,
    fingerprint,
    fit_linear,
    fit_prompts,
    hold_out,
    kept as kept_module,
    labelled_examples,
    load_probe,
    probe as probe_module,
    probe_advice,
    probe_examples,
    prompts as prompts_module,
    prompts_advice,
    read_examples,
    recognised,
    share_interval,
    share_of_rows,
    share_text,
    show_mistakes,
    show_nearest,
    still_rises,
)

NAMES = np.array(["cat", "dog", "owl"])


def clouds(classes: int = 3, rows: int = 60, apart: float = 12.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    "Points around the corners of a simplex, and their classes, which take turns."
    labels = np.arange(rows) % classes
    points = np.random.default_rng(seed).normal(size=(rows, 6)) + apart * np.eye(classes, 6)[labels]
    return points.astype(np.float32), labels


def feature_file(file: Path, classes: int = 3, rows: int = 60, labels=None, **options) -> Path:
    points, truth = clouds(classes, rows, **options)
    np.savez(file, features=points, labels=NAMES[truth] if labels is None else labels,
             names=[f"row {i}" for i in range(rows)])
    return file


def picture_folder(folder: Path, counts: dict[str, int], pixels: int = 32) -> Path:
    "A folder of pictures of each class, each class with a colour of its own."
    for place, (kind, number) in enumerate(counts.items()):
        (folder / kind).mkdir(parents=True)
        colour, shape = ("red", "blue", "green")[place % 3], ("heart", "moon", "star")[place % 3]
        made = pictures(number, seed=place, pixels=pixels, colour=colour, shape=shape, background="light").images
        for i, picture in enumerate(made):
            Image.fromarray((255 * picture).byte().permute(1, 2, 0).numpy()).save(folder / kind / f"{i}.png")
    return folder


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def held_out(labels, predicted, sure=0.8, classes=("cat", "dog"), inputs=None) -> HeldOut:
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    inputs = np.zeros((len(labels), 1), np.float32) if inputs is None else inputs
    examples = Examples(inputs, labels, tuple(classes), tuple(map(str, range(len(labels)))))
    sure = np.broadcast_to(sure, labels.shape)[:, None]
    others = (1 - sure) / (len(classes) - 1)
    probabilities = np.where(np.arange(len(classes)) == predicted[:, None], sure, others)
    return HeldOut(examples, np.arange(len(labels)), probabilities)


# --- what is kept back, and what is said of it


def test_a_fifth_of_each_class_is_kept_back_and_never_all_of_it():
    labels = np.repeat([0, 1, 2, 4], [50, 11, 3, 2])
    train, held = hold_out(labels, seed=3)
    assert np.bincount(labels[held]).tolist() == [10, 2, 1, 0, 1]
    assert sorted([*train, *held]) == list(range(66))
    assert hold_out(labels, seed=3)[1].tolist() == held.tolist() != hold_out(labels, seed=4)[1].tolist()
    assert np.bincount(labels[hold_out(labels, 0.99)[0]]).tolist() == [1, 1, 1, 0, 1]


def test_shares_and_their_intervals():
    assert share_text(36, 40) == "0.900 (0.769 to 0.960)"
    z, n = 1.959963984540054, 10
    assert share_interval(10, n)[1:] == pytest.approx((n / (n + z**2), 1.0))


def test_a_difference_is_judged_by_the_cases_that_differ():
    "Six heads of six coins have probability 2 / 64, whichever side they show."
    first, second = np.ones(40, bool), np.arange(40) >= 6
    assert chance_of_difference(first, second) == chance_of_difference(second, first) == pytest.approx(2 / 64)
    assert chance_of_difference(first, first) == 1.0


def test_a_class_that_was_not_held_out_does_not_count_as_missed():
    held = held_out([0, 0, 0, 1], [0, 0, 1, 1], classes=("cat", "dog", "owl"))
    assert recognised(held)[:2].tolist() == pytest.approx([2 / 3, 1]) and np.isnan(recognised(held)[2])
    assert balanced(held) == pytest.approx(5 / 6) and held.accuracy == 0.75
    assert confusions(held) == [("cat", "dog", 1, 3)]


@pytest.mark.parametrize("sure, words", [(0.99, "surer than it should be"), (0.55, "less sure than it could be"),
                                         (0.8, "right on average")])
def test_probabilities_are_held_against_the_interval(sure, words):
    labels = np.zeros(100, int)
    assert words in calibration_sentence(held_out(labels, np.arange(100) % 5 == 0, sure))


# --- the linear classifier


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_those_of_scikit_learn(classes):
    points, labels = clouds(classes, apart=2.0)
    found = fit_linear(points, labels, C=0.3)
    scaler = StandardScaler().fit(points)
    theirs = LogisticRegression(C=0.3, max_iter=1000).fit(scaler.transform(points), labels)
    assert found.probabilities(points) == pytest.approx(theirs.predict_proba(scaler.transform(points)), abs=1e-5)


def test_the_penalty_is_chosen_only_where_every_class_can_be_in_two_folds():
    points, labels = clouds(2, 40, apart=1.0)
    assert fit_linear(points, labels).folds == 5
    few = [0, 1, 2, 3, 4, 5]
    assert fit_linear(points[few], labels[few]).folds == 3
    alone = fit_linear(points[[0, 1, 2]], labels[[0, 1, 2]])
    assert (alone.folds, alone.C) == (0, 1.0)


@pytest.mark.parametrize("apart", [1.0, 12.0])
def test_of_penalties_as_accurate_as_the_best_the_one_with_the_least_loss_is_taken(apart):
    points, labels = clouds(2, 40, apart=apart)
    folds, accuracy, loss = StratifiedKFold(5, shuffle=True, random_state=7), {}, {}
    for C in GRID:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
        accuracy[C] = cross_val_score(model, points, labels, cv=folds).mean()
        loss[C] = -cross_val_score(model, points, labels, cv=folds, scoring="neg_log_loss").mean()
    best = max(accuracy.values())
    good = [C for C in GRID if accuracy[C] >= best - np.sqrt(best * (1 - best) / 40) - 1e-9]
    assert fit_linear(points, labels, seed=7).C == min(good, key=loss.get)


def test_shares_of_labels_lie_inside_each_other():
    labels = np.repeat([0, 1], [40, 2])
    quarter, half = (set(share_of_rows(labels, share, seed=1)) for share in (0.25, 0.5))
    assert quarter < half and np.bincount(labels[sorted(quarter)]).tolist() == [10, 1]
    assert share_of_rows(labels, 1.0).tolist() == list(range(42))


# --- the probe


def test_separable_features_are_learned_and_named(tmp_path):
    page = probe_examples(feature_file(tmp_path / "points.npz"), tmp_path / "out")
    rows = table(tmp_path / "out" / "predictions.csv")
    assert len(rows) == 12 and all(row["predicted"] == row["class"] for row in rows)
    assert all(NAMES[int(row["name"].split()[1]) % 3] == row["class"] for row in rows)
    assert sorted(each.name for each in page.parent.iterdir()) == ["model.safetensors", "predictions.csv",
                                                                   "report.html", "settings.json"]
    assert "Right in 1.000 (0.758 to 1.000) of 12 examples" in page.read_text("utf-8")
    assert json.loads((page.parent / "settings.json").read_text())["settings"]["seed"] == 0


def test_what_was_saved_says_what_was_written(tmp_path):
    file = feature_file(tmp_path / "points.npz", apart=1.0, rows=90)
    probe_examples(file, tmp_path / "out", apply=file)
    names, probabilities = load_probe(tmp_path / "out").predict(read_examples(file))
    applied = table(tmp_path / "out" / "applied.csv")
    assert [row["predicted"] for row in applied] == names
    assert [row["probability"] for row in applied] == [f"{value:.4f}" for value in probabilities.max(1)]
    for row in table(tmp_path / "out" / "predictions.csv"):
        place = int(row["name"].split()[1])
        assert (row["predicted"], row["probability"]) == (names[place], f"{probabilities[place].max():.4f}")


def test_nothing_is_learned_from_what_was_held_out(tmp_path):
    "Other labels of held-out rows change no weight."
    file, (points, truth) = feature_file(tmp_path / "a.npz", apart=2.0), clouds(apart=2.0)
    labels = NAMES[truth]
    _, held = hold_out(truth)
    pairs = held[truth[held] == 0][0], held[truth[held] == 1][0]
    probe_examples(file, tmp_path / "first")
    points[list(pairs)] = 1e3
    np.savez(tmp_path / "b.npz", features=points, labels=labels)
    probe_examples(tmp_path / "b.npz", tmp_path / "second")
    first, second = (load_probe(tmp_path / name).linear for name in ("first", "second"))
    assert (first.weight == second.weight).all() and (first.mean == second.mean).all() and first.C == second.C


def test_a_test_part_of_ones_own_may_lack_a_class(tmp_path):
    file = feature_file(tmp_path / "points.npz")
    points, truth = clouds(rows=30, seed=5)
    kept = truth != 1
    np.savez(tmp_path / "test.npz", features=points[kept], labels=NAMES[truth[kept]])
    page = probe_examples(file, tmp_path / "out", test=tmp_path / "test.npz")
    rows = table(tmp_path / "out" / "predictions.csv")
    assert len(rows) == 20 and all(row["predicted"] == row["class"] for row in rows)
    assert {row["class"] for row in rows} == {"cat", "owl"}
    assert "No example of &#x27;dog&#x27; was held out" in page.read_text("utf-8")


def test_a_backbone_that_learned_here_is_kept_with_the_result(tmp_path, monkeypatch):
    folder = picture_folder(tmp_path / "mine", {"red heart": 5, "blue moon": 5})
    new = picture_folder(tmp_path / "new", {"anything": 3})
    short(monkeypatch)
    page = probe_examples(folder, tmp_path / "out", backbone="rotation", apply=new / "anything")
    said, names = table(tmp_path / "out" / "applied.csv"), read_examples(new / "anything")
    assert [row["predicted"] for row in said] == load_probe(tmp_path / "out").predict(names)[0]
    assert [row["name"] for row in said] == ["0.png", "1.png", "2.png"]
    assert "predicting rotations" in page.read_text("utf-8")
    tiny = f"clip:{shipped('checkpoints/tiny_clip.safetensors')}"
    probe_examples(folder, tmp_path / "out", backbone=tiny, fresh=True)
    assert not (tmp_path / "out" / "backbone.safetensors").exists()  # of the result that was there before
    assert "CLIP" in load_probe(tmp_path / "out").said


@pytest.mark.parametrize("kind", ["clip", "resnet18"])
def test_a_pretrained_backbone_is_read_again_from_where_it_was(tmp_path, monkeypatch, kind):
    folder = picture_folder(tmp_path / "mine", {"heart": 4, "moon": 4})
    if kind == "clip":
        options = {"backbone": f"clip:{shipped('checkpoints/tiny_clip.safetensors')}"}
    else:
        torch.manual_seed(0)
        torch.save(resnet18(num_classes=5).state_dict(), tmp_path / "weights.pt")
        options = {"weights": "weights.pt"}
    monkeypatch.chdir(tmp_path)
    probe_examples(folder, "out", apply=folder / "moon", **options)
    monkeypatch.chdir("/")
    said = table(tmp_path / "out" / "applied.csv")
    names, probabilities = load_probe(tmp_path / "out").predict(read_examples(folder / "moon"))
    assert [row["predicted"] for row in said] == names
    assert [float(row["probability"]) for row in said] == pytest.approx(probabilities.max(1), abs=1e-3)
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == {"weight", "bias", "mean", "scale"}
    assert not (tmp_path / "out" / "backbone.safetensors").exists()


def test_a_pretrained_backbone_that_answers_otherwise_is_refused(tmp_path):
    folder, weights = picture_folder(tmp_path / "mine", {"heart": 4, "moon": 4}), tmp_path / "weights.pt"
    torch.manual_seed(0)
    torch.save(resnet18(num_classes=5).state_dict(), weights)
    probe_examples(folder, tmp_path / "out", weights=weights)
    torch.save(resnet18(num_classes=5).state_dict(), weights)
    with pytest.raises(ValueError, match="weights hold was"):
        probe_examples(folder, tmp_path / "out", weights=weights)
    with pytest.raises(ValueError, match="no longer those that made the features"):
        load_probe(tmp_path / "out").predict(read_examples(folder / "moon"))
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="weights.pt, which made the features, are no longer there"):
        load_probe(tmp_path / "out").predict(read_examples(folder / "moon"))


def short(monkeypatch) -> list[str]:
    "Backbones learn for two steps; what is computed is noted."
    done, load, features = [], kept_module.load_backbone, probe_module.features_of
    monkeypatch.setattr(kept_module, "load_backbone", lambda *args, **options: (
        done.append("backbone"), load(*args, **options, steps=2))[1])
    monkeypatch.setattr(probe_module, "features_of", lambda *args: (done.append("features"), features(*args))[1])
    return done


def test_a_resumed_run_computes_no_features_again(tmp_path, monkeypatch):
    folder = picture_folder(tmp_path / "mine", {"heart": 6, "moon": 6})
    done = short(monkeypatch)

    def broken(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken_off:
        broken_off.setattr(probe_module, "probe_page", broken)
        with pytest.raises(KeyboardInterrupt):
            probe_examples(folder, tmp_path / "out", backbone="rotation")
    assert done == ["backbone", "features"]
    probe_examples(folder, tmp_path / "out", backbone="rotation")
    assert done == ["backbone", "features"]
    again = probe_examples(folder, tmp_path / "out", backbone="rotation")
    assert done == ["backbone", "features"] and not (again.parent / "partial").exists()
    probe_examples(folder, tmp_path / "whole", backbone="rotation")
    whole, resumed = (table(tmp_path / name / "predictions.csv") for name in ("whole", "out"))
    assert whole == resumed


def test_columns_are_known_by_their_names(tmp_path):
    points, truth = clouds(rows=60)

    def write(name, order, labels=True):
        names, rows = [f"c{i}" for i in order], points[:, order]
        lines = [",".join((["label"] if labels else []) + names)]
        lines += [",".join(([NAMES[y]] if labels else []) + [f"{v:.4f}" for v in row]) for y, row in zip(truth, rows)]
        (tmp_path / name).write_text("\n".join(lines))
        return tmp_path / name

    width = points.shape[1]
    learned, turned = write("a.csv", list(range(width))), write("b.csv", list(range(width))[::-1])
    unnamed = write("c.csv", list(range(width))[::-1], labels=False)
    probe_examples(learned, tmp_path / "out", test=turned, apply=unnamed)
    assert np.mean([row["class"] == row["predicted"] for row in table(tmp_path / "out" / "predictions.csv")]) > 0.9
    said = [row["predicted"] for row in table(tmp_path / "out" / "applied.csv")]
    assert said == load_probe(tmp_path / "out").predict(read_examples(unnamed))[0]
    assert np.mean([NAMES[y] == name for y, name in zip(truth, said)]) > 0.9


def test_other_settings_or_other_data_are_refused(tmp_path):
    file = feature_file(tmp_path / "points.npz")
    probe_examples(file, tmp_path / "out")
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        probe_examples(file, tmp_path / "out", seed=1)
    feature_file(file, seed=1)
    with pytest.raises(ValueError, match="data: path was"):
        probe_examples(file, tmp_path / "out")
    probe_examples(file, tmp_path / "out", seed=1, fresh=True)
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["settings"]["seed"] == 1


def test_a_fingerprint_changes_with_names_labels_and_numbers():
    points, labels = clouds(rows=6)
    one = Examples(points, labels, tuple(NAMES), tuple("abcdef"))
    others = [Examples(points + 1, labels, tuple(NAMES), one.names), Examples(points, labels[::-1], one.classes,
              one.names), Examples(points, labels, one.classes, tuple("abcdeg"))]
    assert len({fingerprint(each) for each in [one, *others]}) == 4


# --- refusals


def refusals(tmp_path) -> dict[str, tuple]:
    points, truth = clouds(rows=12)

    def file(name, features=points, labels=None):
        np.savez(tmp_path / f"{name}.npz", features=features, **({} if labels is None else {"labels": labels}))
        return tmp_path / f"{name}.npz"

    good, folder = file("good", labels=NAMES[truth]), picture_folder(tmp_path / "mine", {"a": 2, "b": 2})
    flat = folder / "a"
    out = tmp_path / "out"
    return {
        "one class": ((file("one", labels=["cat"] * 12), out), {}, "at least two classes, got only 'cat'"),
        "single": ((file("single", labels=["cat"] * 11 + ["dog"]), out), {}, "at least 2 examples, got one of 'dog'"),
        "no labels": ((file("bare"), out), {}, "path must hold labels"),
        "no folders": ((flat, out), {}, "path must hold labels"),
        "nothing there": ((tmp_path / "none", out), {}, "is not there"),
        "test without labels": ((good, out), {"test": tmp_path / "bare.npz"}, "test must hold labels of the classes"),
        "test of others": ((good, out), {"test": file("birds", labels=["jay"] * 12)}, "must be among cat, dog, owl"),
        "test of pictures": ((good, out), {"test": picture_folder(tmp_path / "cats", {"cat": 2})},
                             "test must hold features of 6 numbers, as the training part does, got pictures"),
        "narrow": ((good, out), {"apply": file("narrow", points[:, :3])}, "apply must hold features of 6 numbers"),
        "inside": ((folder, folder / "out"), {}, "out must not lie inside the data"),
        "seed": ((good, out), {"seed": -1}, "seed must be a whole number"),
        "backbone": ((folder, out), {"backbone": "resnet19"}, "backbone must be one of"),
    }


CASES = ["one class", "single", "no labels", "no folders", "nothing there", "test without labels", "test of others",
         "test of pictures", "narrow", "inside", "seed", "backbone"]


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_learned_from_is_refused_in_one_sentence(tmp_path, case):
    arguments, options, words = refusals(tmp_path)[case]
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(words)) as refused:
        probe_examples(*arguments, **options)
    assert "\n" not in str(refused.value)
    assert case == "backbone" or not (tmp_path / "out").exists()


@pytest.mark.parametrize("call, words", [
    (lambda: hold_out([0, 0, 1]), "the number of rows of class 1 must be"),
    (lambda: hold_out([0, 0, 1, 1], share=1.0), "share must be"),
    (lambda: hold_out(["a", "a"]), "labels must be class numbers"),
    (lambda: share_text(3, 2), "right must be"),
    (lambda: share_text(0, 0), "number must be"),
    (lambda: chance_of_difference([1, 0], [1]), "second must have as many rows"),
    (lambda: chance_of_difference([1, 2], [1, 0]), "each of first must be"),
    (lambda: fit_linear(np.zeros((3, 2)), [0, 0, 0]), "the number of classes of labels must be"),
    (lambda: fit_linear(np.zeros((3, 2)), [0, 2, 2]), "the number of examples of class 1 must be"),
    (lambda: fit_linear(np.full((2, 2), np.nan), [0, 1]), "features must be finite"),
    (lambda: fit_linear(np.zeros((2, 2)), [0, 1], C=0), "C must be"),
    (lambda: fit_linear(*clouds(2, 8)).probabilities(np.zeros((1, 3))), "features must be of shape"),
    (lambda: LinearClassifier(np.zeros((2, 3)), np.zeros(3), np.zeros(3), np.ones(3)), "bias must be of shape"),
    (lambda: share_of_rows([0, 1], 0), "share must be"),
    (lambda: held_out([0, 1], [0, 1], classes=("a", "b", "c")).__class__(
        held_out([0, 1], [0, 1]).examples, np.arange(2), np.zeros((2, 3))), "probabilities must be of shape"),
    (lambda: check_apart("data/out", "data"), "out must not lie inside"),
    (lambda: labelled_examples("nowhere"), "nowhere is not there"),
    (lambda: load_probe("nowhere"), "is not there"),
    (lambda: prompts_advice({}, {}, 1, 1), "the number of classifiers in held must be"),
])
def test_bad_arguments_are_refused_by_name(call, words):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=re.escape(words)):
        call()


def test_weights_of_another_origin_are_refused(tmp_path):
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "report.html").touch()
    with pytest.raises(DataFileError, match="was not written by `xfer probe`"):
        load_probe(tmp_path)


def test_a_probe_of_features_refuses_pictures(tmp_path):
    probe_examples(feature_file(tmp_path / "points.npz"), tmp_path / "out")
    found = load_probe(tmp_path / "out")
    with pytest.raises(ValueError, match="examples must be features, .* got pictures"):
        found.predict(read_examples(picture_folder(tmp_path / "mine", {"a": 2})))
    with pytest.raises(TypeError, match="examples must be"):
        found.predict(np.zeros((2, 6)))


# --- the page


def hard_pictures(folder: Path) -> Path:
    "Pictures of two classes that nobody can tell apart, whose names would be markup."
    for kind in ("a<b>", "c&d"):
        (folder / kind).mkdir(parents=True)
        for number, picture in enumerate(pictures(15, seed=7, pixels=32).images):
            Image.fromarray((255 * picture).byte().permute(1, 2, 0).numpy()).save(folder / kind / f"{number}<i>.png")
    return folder


def test_the_page_escapes_names_and_needs_no_network(tmp_path, monkeypatch):
    short(monkeypatch)
    page = probe_examples(hard_pictures(tmp_path / "mine"), tmp_path / "out", backbone="rotation").read_text("utf-8")
    assert "a<b>" not in page and "<i>" not in page and "a&lt;b&gt;" in page and "c&amp;d" in page
    assert not re.search(r"https?:", page)
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) > 3 and all(re.search(r'alt="[^"]+"', each) for each in images)
    assert "said " in page and "resnet18" in page


def test_doubles_in_both_parts_are_counted(tmp_path):
    points, truth = clouds(rows=30)
    np.savez(tmp_path / "twice.npz", features=np.tile(points[:15], (2, 1)), labels=NAMES[np.tile(truth[:15], 2)])
    page = probe_examples(tmp_path / "twice.npz", tmp_path / "out").read_text("utf-8")
    assert re.search(r"[1-6] of the 6 held-out examples (has|have) exactly the features", page)


def test_mistakes_are_shown_the_surest_first():
    page = Page("title", "lead")
    show_mistakes(page, held_out([0, 0, 0, 1], [1, 1, 0, 1], [0.7, 0.9, 0.8, 0.8]))
    assert page.html.index("<td style=\"text-align:left\">0.90") < page.html.index("0.70") and "0.80" not in page.html


@pytest.mark.parametrize("wrong, words", [(1, "There is one. A wrong"), (2, "All of them, the surest first."),
                                          (3, "The 2 surest of 3.")])
def test_the_number_of_mistakes_that_are_shown_is_said_as_one_would(wrong, words):
    page = Page("title", "lead")
    show_mistakes(page, held_out([0, 0, 0, 0], [1] * wrong + [0] * (4 - wrong)), most=2)
    assert words in page.html


def compared_with(probe, frequent=None, nearest=None, half=None) -> Compared:
    probe = np.asarray(probe, bool)
    never = np.zeros(len(probe), bool)
    given = [never if each is None else np.asarray(each, bool) for each in (nearest, frequent, half)]
    return Compared(probe, given[0], given[1], "cat", {1: given[2], 2: given[2], 4: probe})


def test_advice_follows_from_the_numbers():
    labels, many = np.arange(200) % 2, np.array([100, 100])
    good = held_out(labels, np.where(np.arange(200) % 10 == 0, 1 - labels, labels))
    rises, flat = (compared_with(good.right, half=half) for half in (good.right & (labels == 0), good.right))
    assert still_rises(rises.curve) and not still_rises(flat.curve)
    assert "more labels are likely to help" in " ".join(probe_advice(good, rises, "resnet18", many))
    assert "no clear difference" in " ".join(probe_advice(good, flat, "resnet18", many))
    learned_here = " ".join(probe_advice(good, flat, "learned by predicting rotations", many))
    assert "--backbone resnet18" in learned_here
    assert "--backbone resnet18" not in " ".join(probe_advice(good, flat, "resnet18", many))
    no_better = compared_with(good.right, frequent=good.right)
    assert "not clearly better than always saying 'cat'" in " ".join(probe_advice(good, no_better, "", many))
    perfect = held_out(labels, labels)
    assert "try harder ones" in " ".join(probe_advice(perfect, compared_with(perfect.right), "", many))


def test_classes_that_are_rare_or_missed_are_named():
    labels = np.repeat([0, 1], [90, 10])
    held = held_out(labels, np.where(np.arange(100) >= 94, 0, labels))
    said = " ".join(class_advice(held, np.array([400, 4])))
    assert "Of 'dog' there are fewer than 10 examples" in said
    assert "'dog' is recognised in 40% of its cases only, and mostly taken for 'cat'" in said
    assert class_advice(held_out(labels, labels), np.array([400, 40])) == []


# --- prompts


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("shapes") / "mine", {"red_heart": 8, "blue-moon": 8}, pixels=64)


def test_a_context_is_learned_and_judged_beside_the_hand_prompt(shapes, tmp_path):
    page = fit_prompts(shapes, tmp_path / "out", clip="tiny", shots=4, steps=3)
    rows = table(tmp_path / "out" / "predictions.csv")
    assert len(rows) == 4 and {row["class"] for row in rows} == {"red_heart", "blue-moon"}
    assert all(row["hand prompt"] == row["class"] for row in rows), "the tiny CLIP knows colours and shapes"
    clip, names = tiny_clip(), ["blue moon", "red heart"]
    coop = CoOp.from_context(clip, names, tmp_path / "out" / "context.safetensors").eval()
    found = read_examples(shapes).at_size(64)
    files = {name: place for place, name in enumerate(read_examples(shapes).names)}
    for row in rows:
        with torch.no_grad():
            shares = coop(clip.preprocess(found[files[row["name"]]][0])).softmax(1)[0]
        assert row["predicted"] == ["blue-moon", "red_heart"][int(shares.argmax())]
        assert float(row["probability"]) == pytest.approx(shares.max().item(), abs=2e-4)
    text = page.read_text("utf-8")
    assert "red heart" in text and "tiny CLIP" in text and not re.search(r"https?:", text)
    assert all(re.search(r'alt="[^"]+"', each) for each in re.findall(r"<img [^>]*>", text))


def test_a_resumed_context_is_not_learned_again(shapes, tmp_path, monkeypatch):
    def broken(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken_off:
        broken_off.setattr(prompts_module, "prompts_page", broken)
        with pytest.raises(KeyboardInterrupt):
            fit_prompts(shapes, tmp_path / "out", clip="tiny", shots=2, steps=2)
    for name in ("fit_coop", "encode_images"):
        monkeypatch.setattr(prompts_module, name, broken)
    page = fit_prompts(shapes, tmp_path / "out", clip="tiny", shots=2, steps=2)
    assert page.is_file() and not (tmp_path / "out" / "partial").exists()


@pytest.mark.parametrize("clip", ["tiny", "a file"])
def test_the_lines_that_a_page_gives_load_the_context(shapes, tmp_path, monkeypatch, clip):
    weights = "tiny" if clip == "tiny" else shipped("checkpoints/tiny_clip.safetensors")
    page = fit_prompts(shapes, tmp_path / "out", clip=weights, shots=2, steps=1).read_text("utf-8")
    monkeypatch.chdir(tmp_path / "out")
    known = {"images": read_examples(shapes).at_size(64)[0][0][None]}
    exec(html.unescape(re.search(r"<pre>(.*?)</pre>", page, re.DOTALL)[1]), known)
    assert known["shares"].shape == (1, 2) and torch.equal(
        known["coop"].ctx, load_file("context.safetensors")["ctx"]), "the context that was learned, not a new one"


def test_words_near_a_context_are_said_as_one_would():
    said = {}
    for close in (0, 2):
        page = Page("title", "lead")
        show_nearest(page, NearestWords([[""], ["sun"]], torch.full((2, 1), 0.1 if close else 1.0), torch.ones(2)))
        said[close] = page.html
    assert "None of 2 vectors are nearer" in said[0] and "Their nearest words say nothing." in said[0]
    assert "2 of 2 vectors are nearer" in said[2] and "others" not in said[2] and "(blank)" in said[2]


def test_shots_are_capped_at_the_rarest_class(tmp_path):
    folder = picture_folder(tmp_path / "mine", {"heart": 8, "moon": 3}, pixels=64)
    page = fit_prompts(folder, tmp_path / "out", clip="tiny", shots=16, steps=1).read_text("utf-8")
    assert "Only 2 pictures of each class were learned from" in page
    settings = {"path": "mine", "clip": "clip.safetensors", "shots": 16}
    assert "Only 1 picture of each class was learned from" in " ".join(prompts_advice(three(60, 90), settings, 1, 1))


def test_prompts_refuse_what_a_clip_cannot_use(shapes, tmp_path):
    points, out = feature_file(tmp_path / "points.npz"), tmp_path / "out"
    same = picture_folder(tmp_path / "same", {"a-b": 2, "a_b": 2})
    weights = tmp_path / "clip.safetensors"
    weights.write_bytes(b"")
    for arguments, options, words in [
        ((points, out), {"clip": "tiny"}, "path must be a folder of pictures"),
        ((same, out), {"clip": "tiny"}, "classnames must be different"),
        ((shapes, out), {"clip": weights}, "vocabulary must be given"),
        ((shapes, out), {"clip": tmp_path / "none.safetensors"}, "none.safetensors"),
        ((shapes, out), {"clip": "tiny", "shots": 0}, "shots must be"),
        ((shapes, out), {"clip": "tiny", "steps": 0}, "steps must be"),
        ((shapes, out), {"clip": "tiny", "n_ctx": 1000}, "lower n_ctx"),
        ((shapes, shapes / "out"), {"clip": "tiny"}, "out must not lie inside"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(words)):
            fit_prompts(*arguments, **options)


def three(by_hand: int, learned: int, probe: int = 0, n: int = 100) -> dict[str, HeldOut]:
    labels = np.arange(n) % 2
    return {name: held_out(labels, np.where(np.arange(n) < n - right, 1 - labels, labels))
            for name, right in {"hand": by_hand, "coop": learned, "probe": probe}.items()}


def test_advice_says_which_prompt_to_use():
    settings = {"path": "mine", "clip": "clip.safetensors", "shots": 16}
    said = [" ".join(prompts_advice(three(*right), settings, 16, 16)) for right in
            ((90, 80), (60, 90), (88, 90), (60, 70, 95), (40, 60), (50, 52))]
    assert "use it, nothing has to be learned" in said[0] and "use context.safetensors" in said[1]
    assert "happens by luck" in said[2] and "xfer probe" in said[3] and "say next to nothing" in said[4]
    assert "Neither the hand-written" in said[5] and "a guess among 2 classes (0.500): use neither" in said[5]
    assert not any("use neither" in each for each in said[:5])
    assert "xfer probe" not in said[0] and "say next to nothing" not in said[0]
    assert "--shots 40" in " ".join(prompts_advice(three(60, 90), settings, 16, 40))


@pytest.mark.parametrize("command", [["probe", "--backbone", "rotation"], ["prompts", "--clip", "tiny"], ["embed"],
                                     ["adapt"]], ids=lambda command: command[0])
def test_commands_speak_of_damaged_pictures_in_sentences(tmp_path, monkeypatch, command):
    "The place of the picture is said once, what helps is said, and no warning shows a line of Python."
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (60 * i, 0, 200)).save(tmp_path / "mine" / name / f"{i}.png")
    (tmp_path / "mine/cat/torn.png").write_bytes(b"no picture")
    picture_folder(tmp_path / "theirs", {"cat": 2, "dog": 2})
    first, *options = command
    arguments = [first, "mine", *(["theirs"] if first == "adapt" else []), *options]
    said = CliRunner().invoke(main, arguments)
    assert said.exit_code == 1 and said.stderr.splitlines()[-1].split("\r")[-1].strip().endswith(
        "torn.png is not an image that can be read: --skip-damaged leaves such files out")

    def read_only(source, *rest, **options):
        read_examples(source, skip_damaged=True)
        raise ValueError("that was enough")

    monkeypatch.setattr(practice, "fit_prompts" if first == "prompts" else f"{first}_examples", read_only)
    said = CliRunner().invoke(main, [*arguments, "--skip-damaged", "--fresh"])
    assert "xfer: mine: 1 file left out (damaged images: 1)" in said.stderr.splitlines()
    assert "UserWarning" not in said.output and ".py" not in said.output


@pytest.mark.parametrize("certainty, names, words, others", [
    (0.95, [0] * 40, ["They differ from what it learned from", "100% of what the new ones"], ["about as sure"]),
    (0.75, [0, 1] * 20, ["about as sure"], ["They differ", "of what the new ones"]),
    (0.75, [0] * 40, ["about as sure", "cat is 50% of the held-out examples and 100% of what"], ["They differ"]),
    (0.6, [0, 1] * 20, ["They differ from what it learned from"], ["about as sure", "of what the new ones"]),
    (0.75, [1], ["about as sure"], ["of what the new ones"])])
def test_new_examples_that_differ_are_said(certainty, names, words, others):
    from xfer_course.practice.probe_page import _show_applied
    from xfer_course.practice.report import Page

    page = Page("a title", "a sentence")
    applied = np.array([[certainty, 1 - certainty][:: -1 if name else 1] for name in names])
    _show_applied(page, held_out(np.arange(40) % 2, np.arange(40) % 2, sure=0.75), applied)
    assert all(each in page.html for each in words) and not any(each in page.html for each in others)


def test_only_words_nearer_than_chance_count():
    page = Page("title", "lead")
    show_nearest(page, NearestWords([["dog", "cat"], ["sky", "sun"]], torch.tensor([[0.2, 0.4], [0.95, 0.99]]),
                                    torch.tensor([1.0, 1.0])))
    assert "1 of 2 vectors is nearer" in page.html and "The others say nothing" in page.html
    assert "dog&#x27;, &#x27;cat" in page.html


# --- the commands


def test_probe_prints_the_number_and_where_the_page_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    feature_file(tmp_path / "points.npz")
    done = CliRunner().invoke(main, ["probe", "points.npz"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-2:] == ["accuracy: 1.000 (0.758 to 1.000) of 12 held-out examples",
                                             f"report: {Path('points-probe/report.html')}"]
    refused = CliRunner().invoke(main, ["probe", "points.npz", "--seed", "1"])
    assert refused.exit_code == 1 and refused.output.startswith("xfer: points-probe holds the result of other settings")


def test_probe_says_what_is_wrong_in_a_sentence(tmp_path):
    np.savez(tmp_path / "one.npz", features=np.zeros((3, 2)), labels=["a"] * 3)
    np.savez(tmp_path / "odd.npz", features=np.array(["x", "y"])[:, None], labels=["a", "b"])
    refused = {"one": "path must hold examples of at least two classes", "odd": "must hold real numbers"}
    for name, words in refused.items():
        done = CliRunner().invoke(main, ["probe", str(tmp_path / f"{name}.npz"), "--out", str(tmp_path / "out")])
        assert done.exit_code == 1 and done.output.startswith("xfer: ") and words in done.output
        assert done.output.count("\n") == 1
    assert CliRunner().invoke(main, ["probe", str(tmp_path / "none")]).exit_code == 2


def test_a_fault_of_the_program_keeps_its_traceback(tmp_path, monkeypatch):
    feature_file(tmp_path / "points.npz")
    monkeypatch.setattr("xfer_course.practice.probe_examples", lambda *args, **options: None + 1)
    done = CliRunner().invoke(main, ["probe", str(tmp_path / "points.npz")])
    assert isinstance(done.exception, TypeError)


def test_prompts_prints_three_numbers(shapes, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["prompts", str(shapes), "--clip", "tiny", "--shots", "2", "--steps", "1",
                                     "--out", str(out)])
    assert done.exit_code == 0, done.output
    said = done.stdout.splitlines()[-4:]
    assert [line.split(":")[0] for line in said] == ["a photo of a ...", "linear probe", "learned context", "report"]
    assert said[-1] == f"report: {out / 'report.html'}"
    assert CliRunner().invoke(main, ["prompts", str(shapes)]).exit_code == 2
    refused = CliRunner().invoke(main, ["prompts", str(shapes), "--clip", "none.safetensors", "--out", str(out)])
    assert refused.exit_code == 1 and refused.output.startswith("xfer: ")
