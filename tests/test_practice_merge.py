"""`xfer merge`: results and files of weights as one, loaded as what they were, and a page that tells the truth."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from xfer_course.cli import main
from xfer_course.merging import MergedTensor, MergeReport, MergeScores, report_from_json, weighted_mean
from xfer_course.practice import (
    AdaptOptions,
    adapt_examples,
    load_adapted,
    load_probe,
    merge_advice,
    merge_results,
    probe_examples,
    read_examples,
)

QUICK = AdaptOptions(strengths=(0.0, 1.0), trips=1, steps=20, hidden=8, batch_size=16, size=8)


def write_features(file: Path, seed: int, names: tuple[str, ...] = ("a", "b"), rows: int = 40) -> Path:
    "Two classes of three numbers each, apart in the first."
    rng, y = np.random.default_rng(seed), np.arange(rows) % 2
    np.savez(file, features=rng.standard_normal((rows, 3)) + 2 * np.stack([y, 0 * y, 0 * y], 1),
             labels=np.array(names)[y])
    return file


@pytest.fixture
def probes(tmp_path) -> list[Path]:
    for seed, name in enumerate(("mine", "yours")):
        probe_examples(write_features(tmp_path / f"{name}.npz", seed), tmp_path / name)
    return [tmp_path / "mine", tmp_path / "yours"]


def report_of(folder: Path) -> MergeReport:
    return report_from_json((folder / "merge.json").read_text("utf-8"))


def test_two_probes_are_one_probe(tmp_path, probes):
    new = write_features(tmp_path / "new.npz", 7, rows=90)
    page = merge_results(probes, tmp_path / "out", data=new)
    states = [load_file(each / "model.safetensors") for each in probes]
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(merged[name], x) for name, x in weighted_mean(states).items())
    names, _ = load_probe(tmp_path / "out").predict(read_examples(new))
    scores, truth = report_of(tmp_path / "out").scores, np.load(new)["labels"]
    assert scores.accuracy["merged"] == pytest.approx(np.mean(np.array(names) == truth))
    for folder in probes:
        own, _ = load_probe(folder).predict(read_examples(new))
        assert scores.accuracy[str(folder)] == pytest.approx(np.mean(np.array(own) == truth))
    text = page.read_text("utf-8")
    assert "What was merged" in text and "Right of 90 examples" in text and "data:image/png" in text
    merge_results([tmp_path / "out", probes[1]], tmp_path / "again")
    assert tuple(load_probe(tmp_path / "again").classes) == ("a", "b")


def test_two_adaptations_of_pictures_are_one_that_is_loaded_as_they_are(tmp_path):
    for place, brightness in (("photos", 255), ("sketches", 150)):
        for name, colour in (("cat", (brightness, 0, 0)), ("dog", (0, 0, brightness))):
            (tmp_path / place / name).mkdir(parents=True)
            for number in range(6):
                Image.new("RGB", (12 + number, 12), colour).save(tmp_path / place / name / f"{number}.png")
    folders = [tmp_path / "one", tmp_path / "two"]
    for seed, folder in enumerate(folders):
        options = AdaptOptions(**{**QUICK.__dict__, "seed": seed})
        adapt_examples(tmp_path / "photos", tmp_path / "sketches", folder, backbone="small", options=options)
    merge_results(folders, tmp_path / "out", data=tmp_path / "photos", method="match_activations")
    report, model = report_of(tmp_path / "out"), load_adapted(tmp_path / "out")
    assert report.measured and sum(moved for _, moved in report.units.values()) > 0
    examples = read_examples(tmp_path / "photos")
    pictures = torch.stack([image for image, _ in examples.at_size(8)])
    with torch.no_grad():
        right = (model(pictures).argmax(1).numpy() == examples.labels).mean()
    assert right == pytest.approx(report.scores.accuracy["merged"]) and model.classes == ("cat", "dog")


def test_plain_weights_of_torchvision_are_judged_on_pictures(tmp_path):
    from torchvision.models import mnasnet0_5

    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        torch.save(mnasnet0_5(weights=None, num_classes=2).state_dict(), tmp_path / f"{name}.pt")
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 40 + number), "red").save(tmp_path / "photos" / name / f"{number}.png")
    paths, data = [tmp_path / "a.pt", tmp_path / "b.pt"], tmp_path / "photos"
    with pytest.raises(ValueError, match="arch must be given for data"):
        merge_results(paths, tmp_path / "out", data=data)
    with pytest.raises(ValueError, match="arch must be one of torchvision's .* such as mnasnet0_5"):
        merge_results(paths, tmp_path / "out", data=data, arch="mnasnet05", size=32)
    merge_results(paths, tmp_path / "out", data=data, arch="mnasnet0_5", size=32)
    report = report_of(tmp_path / "out")
    assert report.measured and report.scores.rows == 6 and len(report.scores.line) == 11
    (data / "cow").mkdir()
    Image.new("RGB", (40, 40), "red").save(data / "cow" / "0.png")
    with pytest.raises(ValueError, match="a class for each of the 2 outputs of the network, .* got 3: cat, cow, dog"):
        merge_results(paths, tmp_path / "other", data=data, arch="mnasnet0_5", size=32)


def test_a_call_that_was_broken_off_goes_on_behind_the_merge(tmp_path, probes, monkeypatch):
    new = write_features(tmp_path / "new.npz", 7)
    module = sys.modules["xfer_course.practice.merge_page"]  # the package has a function of this name

    def broken(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "score_merge", broken)
        with pytest.raises(KeyboardInterrupt):
            merge_results(probes, tmp_path / "out", data=new)
    assert not (tmp_path / "out" / "report.html").exists()
    monkeypatch.setattr(module, "merge", None)
    page = merge_results(probes, tmp_path / "out", data=new)
    assert report_of(tmp_path / "out").scores is not None and not (tmp_path / "out" / "partial").exists()
    monkeypatch.setattr(module, "score_merge", None)
    assert merge_results(probes, tmp_path / "out", data=new) == page, "finished: nothing is computed"
    with pytest.raises(ValueError, match="holds the result of other settings"):
        merge_results(probes, tmp_path / "out")


def test_results_that_mean_different_things_are_refused(tmp_path, probes):
    probe_examples(write_features(tmp_path / "other.npz", 2, ("a", "c")), tmp_path / "other")
    plain = tmp_path / "plain.safetensors"
    save_file(load_file(probes[0] / "model.safetensors"), plain)
    for second, words in ((tmp_path / "other", "must have the classes of .*, got a, c and a, b"),
                          (plain, "must be of the same command as .*, got plain weights and probe")):
        with pytest.raises(ValueError, match=words):
            merge_results([probes[0], second], tmp_path / "out")
    for folder, dim in zip(probes, (3, 4)):
        (folder / "backbone.json").write_text(json.dumps({"features": [1.0] * dim}))
    with pytest.raises(ValueError, match="must have the backbone of .* such as --backbone resnet18"):
        merge_results(probes, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_advice_follows_from_the_scores():
    def of(line: tuple[float, ...], merged: float, **more) -> MergeReport:
        scores = MergeScores(100, {"a": line[0], "b": line[-1], "merged": merged}, (0.0, 0.5, 1.0), line)
        tensors = (MergedTensor("bn.running_var", (3,), "float32", "merged"),)
        return MergeReport("m", ("a", "b"), "mean", None, None, tensors, scores=scores, **more)

    assert "Put their units in order first" in " ".join(merge_advice(of((0.9, 0.4, 0.9), 0.4), True))
    assert "falls" not in " ".join(merge_advice(of((0.9, 0.95, 0.9), 0.95), True))
    assert "at least as often as each file" in merge_advice(of((0.9, 0.95, 0.9), 0.95), True)[0]
    assert "b is right in 90.0%, the merged network in 80.0%" in merge_advice(of((0.7, 0.8, 0.9), 0.8), True)[0]
    said = " ".join(merge_advice(MergeReport("m", ("a", "b"), "mean", None, None, of((1.0, 1.0), 1).tensors), False))
    assert "Nobody knows yet how good" in said and "measured anew" in said


def test_the_command_takes_options_and_says_mistakes_in_a_sentence(tmp_path, probes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_features(tmp_path / "new.npz", 7)
    given = ["merge", "mine", "yours", "--data", "new.npz", "--weight", "3", "--weight", "1", "--keep", "bias"]
    run = CliRunner().invoke(main, given)
    assert run.exit_code == 0 and "merged: " in run.output and "report: mine-merged/report.html" in run.output
    report = report_of(tmp_path / "mine-merged")
    assert report.weights == (3.0, 1.0) and [x.how for x in report.tensors if x.name == "bias"] == ["kept"]
    for arguments, words in ((["mine"], "the number of files must be a whole number of at least 2, got 1"),
                             (["mine", "yours", "--method", "x", "--out", "x"], "method must be one of 'mean'"),
                             (["mine", "yours", "--out", "mine/x"], "out must not lie inside the data"),
                             (["a.pt", "b.pt", "--out", "y"], "a.pt is not there")):
        run = CliRunner().invoke(main, ["merge", *arguments])
        assert run.exit_code == 1 and words in run.output and "Traceback" not in run.output, run.output
    shown = CliRunner().invoke(main, ["merge", "--help"]).output
    assert "report.html" in shown and "--method" in shown
