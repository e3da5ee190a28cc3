"""Text: the svmlight loader, its sentences, generated reviews, and what sparse blocks save on
reviews of Amazon's size."""
from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from xfer_course.dann import ShallowDANN
from xfer_course.data import AMAZON_DOMAINS, DataFileError, amazon_reviews, datasets, get, topic_shift_reviews


@pytest.fixture
def place(tmp_path):
    (tmp_path / "amazon_reviews").mkdir()

    def write(text: str, name: str = "books_train") -> None:
        (tmp_path / "amazon_reviews" / f"{name}.svmlight").write_text(text)

    return tmp_path, write


def test_a_file_is_read_sparse_with_columns_from_zero(place):
    root, write = place
    write("1 0:3 4999:2\n-1 7:1\n-1\n")
    reviews = amazon_reviews("books", root=root)
    assert reviews.counts.shape == (3, 5000) and reviews.counts.nnz == 3 and reviews.counts.format == "csr"
    assert reviews.counts[0, 0] == 3 and reviews.counts[0, 4999] == 2 and reviews.counts[1, 7] == 1
    assert reviews.labels.tolist() == [1, 0, 0]


def test_linear_models_take_the_rows_as_they_are_read(place):
    root, write = place
    write("1 0:3 4999:2\n-1 7:1\n-1\n")
    counts, labels = amazon_reviews("books", root=root)
    assert LinearSVC().fit(counts, labels).predict(counts).tolist() == labels.tolist()


@pytest.mark.parametrize("domain", AMAZON_DOMAINS)
def test_the_real_reviews_are_those_of_the_paper(domain):
    try:
        parts = [amazon_reviews(domain, split) for split in ("train", "test")]
    except FileNotFoundError:
        pytest.skip("the Amazon reviews are absent: set XFER_DATA to a folder with amazon_reviews/")
    tests = {"books": 4465, "dvd": 3586, "electronics": 5681, "kitchen": 5945}
    assert [part.counts.shape for part in parts] == [(2000, 5000), (tests[domain], 5000)]
    assert parts[0].labels.mean() == 0.5
    network = ShallowDANN(10, 0.01, max_iter=1, random_state=0).fit(*parts[0], X_target=parts[0].counts)
    assert network.score(*parts[1]) > 0.6 and LinearSVC(C=0.001).fit(*parts[0]).score(*parts[1]) > 0.7


@pytest.mark.parametrize("text", ["1 5000:1\n", "2 0:1\n", "1 0:x\n", "1 0:nan\n", "", "nonsense\n", "1 -1:3\n"])
def test_a_damaged_file_is_refused_by_name(place, text):
    root, write = place
    write(text)
    with pytest.raises(DataFileError, match="books_train.svmlight is corrupt"):
        amazon_reviews("books", root=root)


def test_an_absent_set_says_what_to_fetch_and_where_to_put_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not in .*: get it from https://github.com/GRAAL-Research/\S+ and put "
                                                r".* into amazon_reviews/"):
        amazon_reviews("dvd", "test", root=tmp_path)
    with pytest.raises(ValueError, match="no download: get it from https://github.com/GRAAL-Research"):
        get("amazon_reviews", root=tmp_path)
    assert {row["name"]: row for row in datasets(tmp_path)}["amazon_reviews"]["where"] == "by hand"


@pytest.mark.parametrize("call, error", [
    (lambda: amazon_reviews("toys"), ValueError), (lambda: amazon_reviews("books", "all"), ValueError),
    (lambda: topic_shift_reviews("toys"), ValueError),
    (lambda: topic_shift_reviews("books", n=1), ValueError),
    (lambda: topic_shift_reviews("books", seed=-1), ValueError),
    (lambda: topic_shift_reviews("books", n=2.5), TypeError),
])
def test_bad_arguments_are_refused(call, error):
    with pytest.raises(error, match="must be"):
        call()


def test_generated_reviews_repeat_themselves_and_differ_where_they_should():
    first = topic_shift_reviews("books", n=100)
    assert (first.counts != topic_shift_reviews("books", n=100).counts).nnz == 0 and first.labels.sum() == 50
    others = [topic_shift_reviews("books", "test", n=100), topic_shift_reviews("books", n=100, seed=1),
              topic_shift_reviews("kitchen", n=100)]
    assert all((first.counts != other.counts).nnz for other in others)
    assert first.counts.shape == (100, 5000) and first.counts.min() == 0 and len(AMAZON_DOMAINS) == 4


def test_a_classifier_beats_chance_at_home_and_loses_abroad():
    from sklearn.svm import LinearSVC

    train = topic_shift_reviews("books", seed=7)
    home, abroad = (topic_shift_reviews(d, "test", seed=7) for d in ("books", "kitchen"))
    svm = LinearSVC(C=0.001).fit(*train)
    assert svm.score(*home) > svm.score(*abroad) > 0.5 and svm.score(*home) > 0.7


def test_shallow_dann_takes_the_reviews_as_they_are():
    source, target = topic_shift_reviews("books", n=120), topic_shift_reviews("kitchen", n=120)
    estimator = ShallowDANN(10, 0.01, 0.1, max_iter=15, random_state=0).fit(source.counts, source.labels, target.counts)
    assert estimator.score(*source) > 0.8 and np.isfinite(estimator.W_).all()
