"""Tests of measures, intervals and figures that their notebooks cannot hold: parity, bad input, figures on disk."""

import io
import math
import re
import subprocess
import sys
from base64 import b64decode
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from xfer_course.data import batches
from xfer_course.evaluation import (
    PALETTE,
    STYLE,
    accuracy,
    accuracy_per_class,
    arms_figure,
    balanced_accuracy,
    confusion_figure,
    course_style,
    evaluation_mode,
    flipbook,
    interval_text,
    knn_accuracy,
    linear_probe,
    mean_and_interval,
    paired_difference,
    predict,
    proxy_a_distance,
    show,
    tsne_figure,
)


def clouds(delta: float, n: int = 200, dim: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(seed).normal(size=(2, n, dim))
    noise[1, :, 0] += delta
    return noise[0], noise[1]


def split(delta: float = 3.0, **options) -> tuple[np.ndarray, ...]:
    """Training features and labels, test features and labels, of two classes `delta` apart."""
    train, test = (np.concatenate(clouds(delta, seed=seed, **options)) for seed in (0, 1))
    labels = np.repeat([0, 1], len(train) // 2)
    return train, labels, test, labels


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


# --- parity with the authors


@pytest.mark.parametrize("case", ["proxy_distance_close_a", "proxy_distance_far_a"])
def test_paper_protocol_equals_the_authors_code(parity, case):
    vectors = parity("dann", case)
    vectors.assert_close(proxy_a_distance(vectors["source"], vectors["target"], protocol="paper"), "proxy_distance")


# --- known answers


@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0, 4.0])
def test_distance_of_two_clouds_has_the_closed_form(delta):
    known = 2 * (1 - 2 * stats.norm.cdf(-delta / 2))
    assert abs(proxy_a_distance(*clouds(delta, n=2000)) - known) < 0.2  # five standard errors of 2,000 test rows


@pytest.mark.parametrize("protocol", ["held-out", "paper"])
def test_distance_stays_within_its_range(protocol):
    assert proxy_a_distance(*clouds(50), protocol=protocol) == 2.0
    assert 0 <= proxy_a_distance(*clouds(0, n=40, dim=40), protocol=protocol) < 1


@pytest.mark.parametrize("seed", range(4))
def test_the_held_out_distance_is_that_of_a_grid_search(seed):
    "The same folds, penalties and choice as scikit-learn's grid search, without its cost per fit."
    rng = np.random.default_rng(seed)
    source, target = rng.normal(size=(50, 20)), rng.normal(size=(40, 20)) + 0.2 * seed
    pipeline = Pipeline([("scale", StandardScaler()), ("classify", LogisticRegression(max_iter=1000))])
    search = GridSearchCV(pipeline, {"classify__C": np.logspace(-4, 0, 5)}, cv=3)
    shuffle = np.random.default_rng(0)
    first, second = shuffle.permutation(source)[:40], shuffle.permutation(target)[:40]
    domain = np.repeat([0, 1], 20)
    search.fit(np.concatenate([first[:20], second[:20]]), domain)
    error = 1 - search.score(np.concatenate([first[20:], second[20:]]), domain)
    assert proxy_a_distance(source, target) == max(0.0, 2 * (1 - 2 * error))


def test_distance_is_symmetric_enough_and_repeatable():
    source, target = clouds(1.5, n=1000)
    assert proxy_a_distance(source, target) == proxy_a_distance(source, target)
    assert abs(proxy_a_distance(source, target) - proxy_a_distance(target, source)) < 0.2


def test_distance_is_balanced_between_domains_of_different_size():
    """A classifier that always says 'source' must not pass for one that can tell the domains apart."""
    source, target = clouds(0, n=2000)
    assert proxy_a_distance(source, target[:200]) < 0.4


def test_distance_ignores_units():
    source, target = clouds(2, n=1000)
    assert math.isclose(proxy_a_distance(source, target), proxy_a_distance(1e6 * source, 1e6 * target), abs_tol=0.02)


def test_probe_reaches_the_best_possible_accuracy():
    assert abs(linear_probe(*split(2.0, n=4000)) - stats.norm.cdf(1)) < 0.015


def test_one_neighbour_of_the_training_set_itself_is_always_right():
    x, y, _, _ = split(0.0)
    assert knn_accuracy(x, y, x, y, k=1, metric="euclidean") == 1.0


def test_neighbours_agree_with_a_direct_computation():
    x, y, test_x, test_y = split(1.0, n=50)
    distances = ((test_x[:, None] - x[None]) ** 2).sum(axis=2)
    votes = y[np.argsort(distances, axis=1)[:, :5]].mean(axis=1) > 0.5
    assert knn_accuracy(x, y, test_x, test_y, k=5, metric="euclidean") == (votes == test_y).mean()


@pytest.mark.parametrize("convert", [torch.tensor, lambda x: torch.tensor(x).to(torch.float32), lambda x: x.tolist()])
def test_tensors_and_lists_give_what_arrays_give(convert):
    x, y, test_x, test_y = split()
    for measure in (linear_probe, knn_accuracy):
        converted = measure(convert(x), y, convert(test_x), torch.tensor(test_y))
        assert math.isclose(converted, measure(x, y, test_x, test_y), abs_tol=0.01)
    assert linear_probe(torch.tensor(x).bfloat16(), y, test_x, test_y) > 0.9
    assert linear_probe(torch.tensor(x, requires_grad=True), y, test_x, test_y) > 0.9


@pytest.mark.parametrize("values", [[0.7, 0.74, 0.72], [1, 2, 3, 4, 10], torch.rand(7)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_interval_is_scipys(values, confidence):
    mean, low, high = mean_and_interval(values, confidence)
    values = np.asarray(values, dtype=float)
    expected = stats.t.interval(confidence, len(values) - 1, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    assert mean == pytest.approx(values.mean())


def test_single_value_has_a_mean_but_no_interval():
    mean, low, high = mean_and_interval([0.5])
    assert mean == 0.5 and math.isnan(low) and math.isnan(high)
    assert not low >= 0.0 and not low < 0.0  # no bound can be met by accident


def test_equal_values_have_an_interval_of_no_width():
    assert mean_and_interval([0.25, 0.25, 0.25]) == (0.25, 0.25, 0.25)


def test_interval_as_text():
    mean, low, high = mean_and_interval([0.8, 0.9, 0.85])
    assert interval_text(torch.tensor([0.8, 0.9, 0.85])) == f"{mean:.3f} ({low:.3f} to {high:.3f})"
    assert interval_text([1, 2], digits=1) == "1.5 (-4.9 to 7.9)"
    assert interval_text([0.5]) == "0.500"


def test_pairing_removes_what_two_arms_share():
    luck = np.random.default_rng(0).normal(size=6)
    difference = paired_difference(luck + 0.1, luck)
    assert difference == pytest.approx((0.1, 0.1, 0.1))


# --- predictions


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))

    def forward(self, x):
        features = self.body(x)
        return features, features.sum()


def test_predict_does_not_depend_on_batch_size_and_changes_nothing():
    model, x = TwoHeads(), torch.randn(23, 3)
    model.body[1].eval()  # a part that was in evaluation mode before must stay so
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, many = predict(model, x, batch_size=23), predict(model, x, batch_size=4)
    torch.testing.assert_close(one, many)
    assert not one.requires_grad and one.shape == (23, 4)
    assert model.training and model.body[2].training and not model.body[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_mode_is_restored_after_an_error():
    model = TwoHeads()
    with pytest.raises(RuntimeError), evaluation_mode(model):
        assert not model.body[2].training
        raise RuntimeError
    assert model.body[2].training


def test_accuracy_counts():
    assert accuracy(nn.Identity(), torch.eye(4), torch.tensor([0, 1, 2, 0]), batch_size=3) == 0.75


def test_accuracy_of_each_class_by_hand():
    "Of class 0 two of three are right, of class 1 none of two, of class 3 one of one; of class 2 there is none."
    outputs, labels = torch.eye(4)[[0, 0, 3, 2, 0, 3]], torch.tensor([0, 0, 0, 1, 1, 3])
    found = accuracy_per_class(nn.Identity(), outputs, labels, batch_size=4)
    assert found.dtype == np.float64 and found[[0, 1, 3]].tolist() == [2 / 3, 0.0, 1.0] and np.isnan(found[2])
    assert balanced_accuracy(nn.Identity(), outputs, labels) == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert accuracy(nn.Identity(), outputs, labels) == 3 / 6


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_is_that_of_scikit_learn(seed):
    from sklearn.metrics import balanced_accuracy_score, recall_score

    rng = np.random.default_rng(seed)
    labels, outputs = torch.tensor(rng.choice(5, 60, p=[0.6, 0.3, 0.1, 0, 0])), torch.tensor(rng.normal(size=(60, 5)))
    said = outputs.argmax(1)
    for source in ((outputs, labels), (DataLoader(TensorDataset(outputs, labels), 7, shuffle=True),)):
        each = accuracy_per_class(nn.Identity(), *source)
        there = np.unique(labels)
        expected = recall_score(labels, said, labels=there, average=None)
        np.testing.assert_allclose(each[there], expected, rtol=1e-12)
        assert np.isnan(np.delete(each, there)).all() and len(each) == 5
        expected = balanced_accuracy_score(labels, said)
        assert balanced_accuracy(nn.Identity(), *source) == pytest.approx(expected, rel=1e-12)


# --- figures


def displayed(figure, alt: str):
    """What `show` puts into a notebook."""
    return output_of(lambda: show(figure, alt))


def output_of(display):
    """The first output of a call."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    with capture_output() as captured:
        display()
    return captured.outputs[0]


def test_show_stores_picture_and_words_and_closes_the_figure():
    fig = arms_figure({"a": [1, 2]})
    output = displayed(fig, "two dots & a line")
    assert output.metadata == {"image/png": {"alt": "two dots & a line"}}
    assert output.data["text/plain"] == "two dots & a line"
    assert len(output.data["image/png"]) < 40_000
    assert not plt.fignum_exists(fig.number)


def test_words_reach_a_notebook_on_disk(tmp_path):
    output = displayed(arms_figure({"a": [1, 2]}), "two dots")
    stored = nbformat.v4.new_output("display_data", output.data, metadata=output.metadata)
    cell = nbformat.v4.new_code_cell(outputs=[stored])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "x.ipynb")
    (read,) = nbformat.read(tmp_path / "x.ipynb", 4).cells
    assert read.outputs[0].metadata["image/png"]["alt"] == "two dots"


def seen_on(page: tuple[int, int, int], png: str) -> np.ndarray:
    "The pixels of a PNG in base 64 on a page of one colour."
    picture = Image.open(io.BytesIO(b64decode(png)))
    ground = Image.new("RGBA", picture.size, page)
    ground.alpha_composite(picture.convert("RGBA"))
    return np.asarray(ground.convert("RGB")).astype(int)


def test_a_figure_is_white_on_a_white_page_and_no_white_block_on_a_dark_one():
    fig, ax = plt.subplots(figsize=(3, 2))
    ax.plot([0, 1], color=PALETTE["method"], linewidth=4)
    drawn = io.BytesIO()
    fig.savefig(drawn, dpi=80, bbox_inches="tight", facecolor="white")
    png = displayed(fig, "a line").data["image/png"]
    plain = np.asarray(Image.open(drawn).convert("RGB")).astype(int)
    light, dark = seen_on((255, 255, 255), png), seen_on((17, 17, 17), png)
    assert np.abs(light - plain).max() <= 1, "on a white page nothing changes"
    assert (dark[0, 0] == 17).all(), "a round corner"
    assert np.allclose(dark[0, dark.shape[1] // 2], 219, atol=1), "soft grey"
    line = np.abs(plain - [0, 158, 115]).sum(axis=-1) == 0
    assert line.any() and np.abs(dark - plain)[line].max() <= 1, "colours stay"


def test_pages_of_a_slider_are_dimmed_as_well():
    frames = {n: plt.figure(figsize=(1, 1)) for n in (1, 2)}
    page = output_of(lambda: flipbook(frames, ["one", "two"], "n")).data["text/html"]
    (source,) = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    assert np.allclose(seen_on((17, 17, 17), source), 219, atol=1) and (seen_on((255, 255, 255), source) == 255).all()


def test_style_can_be_set_again_and_again():
    with matplotlib.rc_context():
        course_style()
        once = dict(matplotlib.rcParams)
        course_style()
        assert dict(matplotlib.rcParams) == once
        assert once["figure.facecolor"] == "white"
        assert [entry["color"] for entry in once["axes.prop_cycle"]] == list(PALETTE.values())


def test_figures_leave_the_users_style_alone():
    before = dict(matplotlib.rcParams)
    arms_figure({"a": [1, 2]})
    confusion_figure([0, 1], [0, 1])
    tsne_figure({"": {"a": clouds(1)[0]}}, method="pca")
    assert dict(matplotlib.rcParams) == before


def colour_of(dots) -> str:
    return matplotlib.colors.to_hex(dots.get_facecolor()[0]).upper()


def test_pca_panel_is_the_projection_on_two_directions():
    source, target = clouds(8, n=100, dim=10)
    fig = tsne_figure({"x": {"source": source, "target": target}}, method="pca")
    dots = fig.axes[0].collections
    centres = [group.get_offsets().mean(axis=0) for group in dots]
    assert abs(abs(centres[0][0] - centres[1][0]) - 8) < 0.5
    assert [colour_of(group) for group in dots] == [PALETTE["source"], PALETTE["target"]]


def test_tsne_is_repeatable_and_draws_at_most_max_rows():
    groups = {"x": {"source": clouds(4)[0], "target": clouds(4)[1]}}
    first, second = (tsne_figure(groups, max_rows=20).axes[0].collections for _ in range(2))
    assert [len(c.get_offsets()) for c in first] == [20, 20]
    np.testing.assert_array_equal(first[0].get_offsets(), second[0].get_offsets())


def test_tsne_takes_fewer_rows_than_its_usual_perplexity_and_wide_features():
    tsne_figure({"few": {"a": clouds(1, n=2)[0], "b": clouds(1, n=3)[0]}, "wide": {"a": clouds(1, n=4, dim=80)[0]}})


def test_confusion_figure_shows_percentages_of_rows():
    texts = [text.get_text() for text in confusion_figure([0, 0, 0, 0, 1], [0, 0, 0, 1, 1]).axes[0].texts]
    assert texts == ["75", "25", "0", "100"]
    assert not confusion_figure(range(40), range(40)).axes[0].texts


def test_arms_figure_draws_every_seed_and_takes_one_seed():
    fig = arms_figure({"a": [0.1, 0.2, 0.3], "b": [0.5]}, colours={"b": "method"}, title="b")
    dots = fig.axes[0].collections
    assert [len(d.get_offsets()) for d in dots] == [3, 1]
    assert colour_of(dots[1]) == PALETTE["method"]


# --- bad input

X, Y = clouds(1, n=10)[0], np.arange(10) % 2
NAN = np.where(np.arange(40).reshape(10, 4) == 5, np.nan, X)

IMAGES = torch.eye(3)

BAD_INPUT = {
    "NaN in training features": (lambda: linear_probe(NAN, Y, X, Y), r"train_features must be finite, got nan at \[1,"),
    "infinite test features": (lambda: knn_accuracy(X, Y, X * np.inf, Y), "test_features must be finite, got -?inf at"),
    "features without rows": (lambda: linear_probe(X[:0], Y[:0], X, Y),
                              r"train_features must hold at least one value, got shape \(0, 4\)"),
    "features that are images": (lambda: knn_accuracy(X[None], Y, X, Y),
                                 r"train_features must be of shape \(N D\), got \(1, 10, 4\)"),
    "fewer labels than features": (lambda: linear_probe(X, Y[:9], X, Y),
                                   r"train_labels must have as many rows as train_features \(10\), got 9"),
    "more test labels": (lambda: knn_accuracy(X, Y, X[:5], Y),
                         r"test_labels must have as many rows as test_features \(5\), got 10"),
    "one-hot labels": (lambda: linear_probe(X, np.eye(10), X, Y), r"train_labels must be of shape \(N\), got"),
    "no labels": (lambda: linear_probe(X, Y[:0], X, Y), "train_labels must hold at least one value"),
    "other width": (lambda: linear_probe(X, Y, X[:, :3], Y), r"test_features must be of shape \(N 4\), got \(10, 3\)"),
    "one class only": (lambda: linear_probe(X, Y * 0, X, Y * 0), "at least two classes, got only 0"),
    "k larger than n": (lambda: knn_accuracy(X, Y, X, Y, k=11), "k must be a whole number from 1 to 10, got 11"),
    "k of zero": (lambda: knn_accuracy(X, Y, X, Y, k=0), "k must be a whole number from 1 to 10, got 0"),
    "sparse features": (lambda: proxy_a_distance(csr_matrix(X), X),
                        r"source must be a dense array, got a sparse matrix of shape \(10, 4\): pass source.toarray"),
    "features that are words": (lambda: linear_probe(X.astype(str), Y, X, Y),
                                "train_features must hold real numbers, got values of type <U32"),
    "complex features": (lambda: linear_probe(X * 1j, Y, X, Y), "must hold real numbers, got .* complex128"),
    "negative seed": (lambda: proxy_a_distance(X, X, seed=-1), "seed must be a whole number of at least 0, got -1"),
    "seed of a half": (lambda: proxy_a_distance(X, X, seed=0.5), "seed must be a whole number of at least 0, got 0.5"),
    "empty domain": (lambda: proxy_a_distance(X, X[:0]), "target must hold at least one value"),
    "tiny domain": (lambda: proxy_a_distance(X, X[:7]), "rows of target must be a whole number of at least 8, got 7"),
    "tiny limit": (lambda: proxy_a_distance(X, X, max_rows=7), "max_rows must be a whole number of at least 8, got 7"),
    "domains of other width": (lambda: proxy_a_distance(X, X[:, :2]), r"target must be of shape \(N 4\)"),
    "NaN in a domain": (lambda: proxy_a_distance(NAN, X), "source must be finite"),
    "unknown protocol": (lambda: proxy_a_distance(X, X, protocol="svm"),
                         "protocol must be one of 'held-out', 'paper', got 'svm'"),
    "no values": (lambda: mean_and_interval([]), r"values must hold at least one value, got shape \(0,\)"),
    "one number": (lambda: mean_and_interval(1.0), r"values must be of shape \(N\), got \(\)"),
    "NaN value": (lambda: mean_and_interval([1.0, math.nan]), r"values must be finite, got nan at \[1\]"),
    "words for values": (lambda: mean_and_interval(["a", "b"]), "values must hold real numbers"),
    "table of values": (lambda: mean_and_interval([[1.0], [2.0]]), r"values must be of shape \(N\), got \(2, 1\)"),
    "confidence in per cent": (lambda: mean_and_interval([1.0, 2.0], 95),
                               "confidence must be a finite number above 0 and below 1, got 95"),
    "unpaired values": (lambda: paired_difference([1, 2, 3], [1, 2]), r"a must have as many rows as b \(2\), got 3"),
    "table of pairs": (lambda: paired_difference([[1, 2]], [[1, 2]]), r"a must be of shape \(N\), got \(1, 2\)"),
    "text of nothing": (lambda: interval_text([]), "values must hold at least one value"),
    "nothing to predict": (lambda: predict(nn.Identity(), torch.zeros(0, 3)), "images must hold at least one value"),
    "predict a list": (lambda: predict(nn.Identity(), [1.0]), "images must be a tensor, or a loader .*, got list"),
    "batch of none": (lambda: predict(nn.Identity(), torch.zeros(1, 3), 0),
                      "batch_size must be a whole number of at least 1, got 0"),
    "fewer labels than images": (lambda: accuracy(nn.Identity(), IMAGES, torch.arange(2)),
                                 r"labels must have as many rows as images \(3\), got 2"),
    "predictions of other length": (lambda: confusion_figure([0, 1], [0]),
                                    r"predictions must have as many rows as labels \(2\), got 1"),
    "no predictions": (lambda: confusion_figure([], []), "labels must hold at least one value"),
    "too few names": (lambda: confusion_figure([0, 2], [0, 1], ["a", "b"]),
                      r"class_names must be 3 names or more \(class 2 occurs\), got 2"),
    "no panels": (lambda: tsne_figure({}), r"panels must be .* at least one group each, got \{\}"),
    "panel without groups": (lambda: tsne_figure({"a": {}}), r"at least one group each, got \{'a': 0\}"),
    "unknown method": (lambda: tsne_figure({"a": {"x": X}}, method="umap"),
                       "method must be one of 'tsne', 'pca', got 'umap'"),
    "panel with one row": (lambda: tsne_figure({"a": {"x": X[:1]}}), "at least 4 rows and 2 features"),
    "groups of other width": (lambda: tsne_figure({"a": {"x": X, "y": X[:, :2]}}),
                              r"y must be of shape \(N 4\), got \(10, 2\)"),
    "no arms": (lambda: arms_figure({}), "arms must hold at least one"),
    "colour of no arm": (lambda: arms_figure({"a": [1]}, colours={"b": "red"}),
                         "a name in colours must be one of 'a', got 'b'"),
    "arm without values": (lambda: arms_figure({"a": []}), "values of a must hold at least one value"),
    "figure without words": (lambda: show(plt.figure(), "  "), "alt must be a list of texts that are not empty"),
    "slider with one picture": (lambda: flipbook({1: b""}, ["one"], "n"),
                                "frames must be 2 or more pictures whose labels differ when printed, got 1"),
    "slider with labels that read alike": (lambda: flipbook({1: b"", "1": b""}, ["one", "two"], "n"),
                                           "labels differ when printed, got 1, 1"),
    "slider without words": (lambda: flipbook({1: b"", 2: b""}, ["one", " "], "n"), "alts must be .* not empty"),
    "slider with too few words": (lambda: flipbook({1: b"", 2: b""}, ["one"], "n"),
                                  r"alts must have as many rows as frames \(2\), got 1"),
    "slider that starts nowhere": (lambda: flipbook({1: b"", 2: b""}, ["one", "two"], "n", start=3),
                                   "start must be one of '1', '2', got '3'"),
}


# --- labels and outputs of the right type with another meaning


class Returns(nn.Module):
    "A network that hands its input on in some wrapping."

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(x)


class Column:
    "A column of a table, which NumPy can read and nothing else."

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=object)


HOT = torch.eye(3)[torch.arange(12) % 3]
KINDS = torch.arange(12) % 3
NAMED = np.array(["cat", "dog", "owl"])[KINDS]
UNLIKE = {
    "column": (KINDS[:, None], r"must be of shape \(N\), got \(12, 1\): .ravel\(\) makes a column flat"),
    "row": (KINDS[None], r"must be of shape \(N\), got \(1, 12\)"),
    "one-hot": (HOT.long(), r"must be of shape \(N\), got \(12, 3\): .argmax\(1\)"),
    "counted from 1": (KINDS + 1, "below 3, got 3: subtract 1|must be classes of train_labels, got 3"),
    "NaN": (KINDS / 1.0 * torch.nan, "must hold integer numbers, got|got nan at 0"),
    "halves": (KINDS / 2, "must hold integer numbers, got|got 0.5 at 1"),
    "names": (NAMED, "must be a tensor|of the kind of"),
    "one missing": (Column([*KINDS[:-1].tolist(), None]), "must be a tensor|got None at 11"),
}
COMPARE = {
    "accuracy": lambda y: accuracy(nn.Identity(), HOT, y),
    "accuracy_per_class": lambda y: accuracy_per_class(nn.Identity(), HOT, y),
    "balanced_accuracy": lambda y: balanced_accuracy(nn.Identity(), HOT, y),
    "linear_probe": lambda y: linear_probe(HOT, KINDS, HOT, y),
    "knn_accuracy": lambda y: knn_accuracy(HOT, KINDS, HOT, y, k=1),
}


@pytest.mark.parametrize("mistake", UNLIKE)
@pytest.mark.parametrize("measure", COMPARE)
def test_labels_that_mean_something_else_are_refused(measure, mistake):
    wrong, sentence = UNLIKE[mistake]
    with pytest.raises((ValueError, TypeError), match=sentence) as caught:
        COMPARE[measure](wrong)
    assert "labels" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [KINDS.int(), KINDS.to(torch.uint8), KINDS.to(torch.uint16)], ids=str)
def test_accuracy_takes_integers_of_every_size(labels):
    assert accuracy(nn.Identity(), HOT, labels) == 1


FROM_ANYWHERE = [KINDS.double(), KINDS.tolist(), NAMED, list(NAMED), Column(NAMED), KINDS.numpy() - 7]


@pytest.mark.parametrize("labels", FROM_ANYWHERE, ids=lambda labels: type(labels).__name__)
def test_probes_take_whole_numbers_and_names_from_anywhere(labels):
    assert knn_accuracy(HOT, labels, HOT, labels, k=1) == linear_probe(HOT, labels, HOT, labels) == 1


@pytest.mark.parametrize("outputs, sentence", [
    (HOT * torch.nan, "finite largest value in every row, got nan in row 0"),
    (torch.where(torch.arange(12)[:, None] == 5, -torch.inf, HOT), "finite largest value .* got -inf in row 5"),
    (HOT / 0, "finite largest value in every row"),
    (HOT[:, :1], r"a column for each of at least two classes, got shape \(12, 1\)"),
    (HOT[:, :, None], r"be of shape \(N K\), got \(12, 3, 1\)"),
], ids=["NaN", "minus infinity", "infinity", "one column", "maps"])
def test_outputs_without_a_largest_value_have_no_accuracy(outputs, sentence):
    for measure in (accuracy, accuracy_per_class, balanced_accuracy):
        with pytest.raises(ValueError, match=f"what model returns must .*{sentence}"):
            measure(Returns(lambda x: outputs), HOT, KINDS)


def test_a_masked_class_may_hold_minus_infinity():
    masked = torch.where(HOT == 0, -torch.inf, HOT)
    assert accuracy(nn.Identity(), masked, KINDS) == 1


@dataclass
class Answer:
    loss: float
    logits: torch.Tensor


WRAPPINGS = {
    "tuple": lambda x: (x, 1), "list": lambda x: [x], "dict": lambda x: {"loss": x.sum(), "logits": x},
    "dict of one": lambda x: {"out": x}, "object": lambda x: Answer(0.0, x),
    "namespace": lambda x: SimpleNamespace(logits=x), "named tuple": namedtuple("Named", "features, logits")._make,
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_logits_are_found_in_every_usual_wrapping(name):
    wrap = WRAPPINGS[name] if name != "named tuple" else lambda x: WRAPPINGS[name]([x * 0, x])
    assert torch.equal(predict(Returns(wrap), HOT, batch_size=5), HOT)


@pytest.mark.parametrize("wrap, given", [
    (lambda x: {"a": x, "b": x}, "dict with a, b"), (lambda x: None, "NoneType"), (lambda x: (1, x), "tuple"),
    (lambda x: x.numpy(), "ndarray"), (lambda x: {}, "dict"),
])
def test_other_outputs_are_named(wrap, given):
    with pytest.raises(TypeError, match=f"model must return a tensor, .* got {given}"):
        predict(Returns(wrap), HOT)


@pytest.mark.parametrize("wrap", [lambda x: x.sum(), lambda x: x[:1], lambda x: x.squeeze(0)])
def test_an_output_has_a_row_for_each_input(wrap):
    with pytest.raises(ValueError, match="model must return a row for each of 1[12]? inputs|each of 1 inputs"):
        predict(Returns(wrap), HOT, batch_size=11)


PAIRS = TensorDataset(HOT, KINDS)
SOURCES = {
    "data set": lambda: PAIRS, "loader of pairs": lambda: DataLoader(PAIRS, 5),
    "loader of the course": lambda: batches(HOT, KINDS, batch_size=5, shuffle=False, drop_last=False),
    "generator": lambda: ((x, y) for x, y in DataLoader(PAIRS, 5)),
    "loader with workers": lambda: DataLoader(PAIRS, 5, num_workers=1),
    "iterable data set": lambda: DataLoader(IterableWrapper(PAIRS), 5),
}


class IterableWrapper(torch.utils.data.IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return (self.data[i] for i in range(len(self.data)))


@pytest.mark.parametrize("kind", SOURCES)
def test_predictions_and_accuracy_of_a_loader(kind):
    assert torch.equal(predict(nn.Identity(), SOURCES[kind]()), HOT)
    assert accuracy(nn.Identity(), SOURCES[kind]()) == 1


def test_accuracy_of_a_shuffled_loader_takes_its_labels():
    assert accuracy(nn.Identity(), DataLoader(PAIRS, 5, shuffle=True)) == 1
    with pytest.raises(TypeError, match="images must be a tensor with labels, or a loader that gives both"):
        accuracy(nn.Identity(), DataLoader(PAIRS, 5, shuffle=True), KINDS)


@pytest.mark.parametrize("images, sentence", [
    ({"x": HOT}, "images must be a tensor, or a loader .* got dict with x"),
    ((HOT, KINDS), "images must be .* got tuple"),
    (HOT.numpy(), "images must be .* got ndarray"), ("folder", "images must be .* got str"),
    (torch.tensor(1.0), "number of dimensions of images must be"),
    (DataLoader([{"x": x, "y": 0} for x in HOT], 4), "batch 0 must be a tensor, or a tuple .* got dict with x, y"),
    (DataLoader(NAMED.tolist(), 4), "batch 0 must be a tensor, or a tuple"),
    (iter([]), "images must be at least one batch, got none"),
], ids=lambda each: type(each).__name__ if not isinstance(each, str) else "")
def test_what_gives_no_tensors_is_named(images, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        predict(nn.Identity(), images)


@pytest.mark.parametrize("loader, sentence", [
    (DataLoader(HOT, 4), "labels of batch 0 must be a tensor of shape .* got NoneType"),
    (DataLoader(TensorDataset(HOT, KINDS[:, None]), 4), r"labels of batch 0 must be of shape \(N\), got \(4, 1\)"),
    (DataLoader(TensorDataset(HOT, HOT), 4), r"labels of batch 0 must be of shape \(N\), got \(4, 3\)"),
    (DataLoader(TensorDataset(HOT, KINDS + 1), 4), "labels must be class numbers .* got 3: subtract 1"),
])
def test_labels_of_a_loader_are_looked_at_as_well(loader, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        accuracy(nn.Identity(), loader)


def cells(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("truth, found, names", [
    (["cat", "dog", "dog"], ["cat", "dog", "cat"], None),
    (Column(["cat", "dog", "dog"]), ["cat", "dog", "cat"], None),
    (np.array([b"cat", b"dog", b"dog"]), np.array(["cat", "dog", "cat"]), np.array(["cat", "dog"])),
    ([np.str_("cat"), "dog", "dog"], ("cat", "dog", "cat"), ("cat", "dog")),
    ([0.0, 1.0, 1.0], torch.tensor([0, 1, 0]), None),
    ([False, True, True], [0, 1, 0], ["cat", "dog"]),
])
def test_confusion_takes_names_and_numbers(truth, found, names):
    assert cells(confusion_figure(truth, found, names)) == ["100", "0", "50", "50"]


def test_class_names_give_the_order_of_classes_that_are_names():
    assert cells(confusion_figure(["cat", "dog", "dog"], ["cat", "dog", "cat"], ["dog", "cat", "owl"])) == [
        "50", "50", "0", "0", "100", "0", "0", "0", "0"]


@pytest.mark.parametrize("arguments, sentence", [
    ((["cat", "dog"], [0, 1]), "predictions must be of the kind of labels, such as 'cat', got 0"),
    ((["cat", "dog"], ["cat", "owl"], ["cat", "dog"]), "every label .* must be one of 'cat', 'dog', got 'owl'"),
    (([0, -1], [0, 1]), "must be class numbers from 0 up, got -1"),
    (([0, 1], [0, np.nan]), "predictions must be .* got nan at 1"),
    (([0, 10**9], [0, 1]), "the largest of labels and predictions must be"),
    (([0, 1], [0, 1], "ab"), "class_names must be a list"),
    (([0, 1], [0, 1], {0: "a", 1: "b"}), "class_names must be a list of texts"),
    ((torch.eye(2), [0, 1]), r"labels must be of shape \(N\)"),
])
def test_confusion_refuses_labels_that_cannot_be_compared(arguments, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        confusion_figure(*arguments)


def test_texts_of_numpy_name_panels_groups_arms_and_frames():
    name = np.str_("source")
    dots = tsne_figure({np.str_("panel"): {name: X, 3: X}}, method="pca").axes[0].collections
    assert colour_of(dots[0]) == PALETTE["source"]
    arms = arms_figure({name: torch.rand(3), 7: (0.1, 0.2)}, colours={"source": "method"})
    assert [tick.get_text() for tick in arms.axes[0].get_yticklabels()] == ["source", "7"]
    frames = {np.str_(i): plt.figure(figsize=(1, 1)) for i in (1, 2)}
    flipbook(frames, np.array(["one", "two"]), np.str_("n"), start=np.int64(2))


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gives_one_clear_sentence(case):
    call, sentence = BAD_INPUT[case]
    with pytest.raises((ValueError, TypeError), match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_one_string_is_not_a_sentence_for_each_picture():
    with pytest.raises(TypeError, match="alts must be a list"):
        flipbook({1: b"", 2: b""}, "ab", "n")


@pytest.mark.parametrize("module", ["checks", "intervals", "figures", "evaluation"])
def test_import_is_light(module):
    heavy = ("torch", "scipy", "sklearn", "matplotlib", "IPython")
    code = f"import sys, xfer_course.{module}; sys.exit(any(name in sys.modules for name in {heavy}))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_evaluation_has_the_names_of_its_three_modules():
    from xfer_course import evaluation, figures, intervals
    from xfer_course.evaluation import measures

    names = [*measures.__all__, *intervals.__all__, *figures.__all__]
    assert sorted(names) == sorted(evaluation.__all__)
    assert all(getattr(evaluation, name) is getattr(module, name)
               for module in (measures, intervals, figures) for name in module.__all__)


def test_style_is_opaque_and_colours_differ():
    assert STYLE["figure.facecolor"] == STYLE["axes.facecolor"] == STYLE["savefig.facecolor"] == "white"
    assert len(set(PALETTE.values())) == len(PALETTE)


def test_a_confusion_matrix_takes_names_of_any_length_and_with_dollars():
    names = [r"$\frac$", "US$ and CA$", "a very " + "long " * 40 + "name"]
    figure = confusion_figure([0, 1, 2], [0, 2, 1], names)
    figure.savefig(io.BytesIO())
    assert max(figure.get_size_inches()) < 6
