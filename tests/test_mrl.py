"""The nested head, losses, cascade and staged search: values, gradients, precision modes and bad input."""
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from xfer_course.mrl import (
    AdaptiveClassifier,
    AdaptiveRetrieval,
    FunnelRetrieval,
    MatryoshkaContrastive,
    MatryoshkaHead,
    MatryoshkaLoss,
    choose_sizes,
    doubling_dims,
    fused,
    mean_average_precision_at_k,
    oracle,
    precision_at_k,
    retrieval,
    search_cost,
    search_grid,
    simulated_embeddings,
    top1_nearest_neighbour,
    truncate,
)

DIMS = [2, 4, 8, 16]


def plain_logits(head: MatryoshkaHead, x: torch.Tensor) -> list[torch.Tensor]:
    "One matrix product per size."
    layers = list(head.classifiers) * len(head.nesting_dims) if head.tied else head.classifiers
    return [F.linear(x[:, :m], layer.weight[:, :m], layer.bias) for m, layer in zip(head.nesting_dims, layers)]


def small_head(tied: bool, bias: bool = True, width: int = 16,
               dtype=torch.double) -> tuple[MatryoshkaHead, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    head = MatryoshkaHead(width, 7, DIMS, tied=tied, bias=bias).to(dtype)
    return head, torch.randn(6, width, dtype=dtype, requires_grad=True), torch.randint(7, (6,))


def test_doubling_dims():
    assert doubling_dims(2048) == [8, 16, 32, 64, 128, 256, 512, 1024, 2048]
    assert doubling_dims(768, 12) == [12, 24, 48, 96, 192, 384, 768]
    assert doubling_dims(100) == [8, 16, 32, 64, 100]
    assert doubling_dims(8) == [8]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scratch", [2**22, 60])  # 60 numbers: two rows at a time
def test_fused_loss_equals_the_plain_one(tied, bias, smoothing, scratch, monkeypatch):
    monkeypatch.setattr(fused, "_SCRATCH_NUMBERS", scratch)
    head, x, y = small_head(tied, bias, width=20)  # the last four features are in no prefix
    weights, inputs = [1, 0.5, 2, 0.25], [x, *head.parameters()]
    expected = MatryoshkaLoss(DIMS, weights, label_smoothing=smoothing)(plain_logits(head, x), y)
    got = head.loss(x, y, weights, smoothing)
    torch.testing.assert_close(got, expected)
    for a, b in zip(torch.autograd.grad(got * 3, inputs), torch.autograd.grad(expected * 3, inputs)):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(head(x), torch.stack(plain_logits(head, x)))


@pytest.mark.parametrize("tied", [True, False])
def test_gradcheck(tied):
    head, x, y = small_head(tied)
    assert torch.autograd.gradcheck(lambda x, *p: head.loss(x, y, [1, 2, 3, 4], 0.1), (x, *head.parameters()))
    assert torch.autograd.gradcheck(lambda x, *p: head(x), (x, *head.parameters()))
    assert torch.autograd.gradgradcheck(lambda x, *p: head(x), (x, *head.parameters()))


@pytest.mark.parametrize("tied", [True, False])
def test_autocast_stays_close_and_gives_float32_gradients(tied):
    head, x, y = small_head(tied, dtype=torch.float32)
    exact = head.loss(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused, plain = head.loss(x, y), MatryoshkaLoss(DIMS)(head(x), y)
    for loss in (fused, plain):
        gradient, *others = torch.autograd.grad(loss, [x, *head.parameters()], retain_graph=True)
        assert loss.dtype == gradient.dtype == others[0].dtype == torch.float32
        torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_contrastive_loss_does_not_overflow_in_half_precision(dtype, symmetric):
    """Products of such features are far above 65,504, and small prefixes far below what a product of halves keeps."""
    loss = MatryoshkaContrastive([4, 64], symmetric=symmetric)
    for scale in (torch.tensor([1000.0]), torch.cat([torch.full((4,), 1e-3), torch.full((60,), 500.0)])):
        a, b = ((scale * torch.randn(12, 64, generator=torch.Generator().manual_seed(seed))).to(dtype).requires_grad_()
                for seed in (0, 1))
        found, expected = loss(a, b), loss(a.double(), b.double())
        found.backward()
        assert a.grad.isfinite().all() and a.grad.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", dtype):
            torch.testing.assert_close(loss(a.float(), b.float()).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cross_entropy_of_a_large_batch_fits_into_half_precision(dtype):
    logits, targets = torch.zeros(2, 20_000, 50, dtype=dtype), torch.zeros(20_000, dtype=torch.long)
    assert MatryoshkaLoss([1, 2])(logits, targets).item() == pytest.approx(2 * math.log(50), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_prefixes_of_long_vectors_keep_their_direction_in_half_precision(dtype):
    unit = truncate(torch.full((2, 400), 6e4, dtype=dtype), 400)
    assert unit.dtype == dtype and unit.float().norm(dim=1).tolist() == pytest.approx([1, 1], rel=5e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_no_grad_and_frozen_parts(tied):
    head, x, y = small_head(tied)
    with torch.no_grad():
        assert not head.loss(x, y).requires_grad and not head(x).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(head.loss(x.detach(), y).clone(), head.loss(x.detach(), y))
    head.requires_grad_(False)
    head.loss(x, y).backward()
    assert x.grad.abs().sum() > 0 and all(p.grad is None for p in head.parameters())
    head.requires_grad_(True)
    head.loss(x.detach(), y).backward()
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_two_backwards_add_up_and_logits_are_never_overwritten(tied):
    head, x, y = small_head(tied)
    logits = head(x)
    copy = logits.detach().clone()
    loss = head.loss(x, y)
    loss.backward(retain_graph=True)
    once = x.grad.clone()
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * once)
    MatryoshkaLoss(DIMS)(logits, y).backward()
    head(x)
    assert torch.equal(logits, copy)


def test_one_step_equals_a_naive_step():
    head, x, y = small_head(tied=True)
    twin = MatryoshkaHead(16, 7, DIMS, tied=True).double()
    twin.load_state_dict(head.state_dict())
    for model, loss in [(head, lambda: head.loss(x, y)),
                        (twin, lambda: MatryoshkaLoss(DIMS)(plain_logits(twin, x), y))]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss().backward()
        optimizer.step()
    for a, b in zip(head.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b)


@given(st.sets(st.integers(1, 24), min_size=1, max_size=6), st.booleans(), st.integers(1, 5), st.integers(2, 6),
       st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_any_sizes(sizes, tied, rows, classes, seed):
    dims, generator = sorted(sizes), torch.Generator().manual_seed(seed)
    head = MatryoshkaHead(24, classes, dims, tied=tied).double()
    x = torch.randn(rows, 24, generator=generator, dtype=torch.double, requires_grad=True)
    y = torch.randint(classes, (rows,), generator=generator)
    expected = MatryoshkaLoss(dims)(plain_logits(head, x), y)
    torch.testing.assert_close(head.loss(x, y), expected)
    torch.testing.assert_close(torch.autograd.grad(head.loss(x, y), x), torch.autograd.grad(expected, x))
    assert (torch.autograd.grad(head.loss(x, y), x)[0][:, dims[-1]:] == 0).all()


def test_contrastive_equals_the_plain_form_and_gradcheck():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 16, generator=generator, dtype=torch.double, requires_grad=True) for _ in range(2))
    both = MatryoshkaContrastive(DIMS, [1, 2, 3, 4], scale=5, symmetric=True)
    targets = torch.arange(5)
    expected = 0
    for m, w in zip(DIMS, [1, 2, 3, 4]):
        z = 5 * F.normalize(a[:, :m]) @ F.normalize(b[:, :m]).T
        expected = expected + w * (F.cross_entropy(z, targets) + F.cross_entropy(z.T, targets)) / 2
    torch.testing.assert_close(both(a, b), expected)
    assert torch.autograd.gradcheck(both, (a, b))


def test_contrastive_of_zeros_of_one_side_and_of_sums_is_the_plain_form():
    """A row of zeros, a side without gradient, columns that no size uses, and a loss that is scaled afterwards."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 20, generator=generator, dtype=torch.double) for _ in range(2))
    a[1] = 0.0
    for wanted in ((True, True), (True, False), (False, True)):
        sides = [side.clone().requires_grad_(needs) for side, needs in zip((a, b), wanted)]
        leaves = [side for side in sides if side.requires_grad]
        cosines = [F.normalize(sides[0][:, :m]) @ F.normalize(sides[1][:, :m]).T for m in DIMS]
        plain = 3 * sum(F.cross_entropy(20 * z, torch.arange(5)) for z in cosines)
        fused = 3 * MatryoshkaContrastive(DIMS)(*sides)
        torch.testing.assert_close(fused, plain)
        row = [index for index in range(5) if index != 1]  # the plain form divides a gradient of zeros by 1e-12
        for got, expected in zip(torch.autograd.grad(fused, leaves), torch.autograd.grad(plain, leaves)):
            torch.testing.assert_close(got[row], expected[row])
            assert got.isfinite().all()


@pytest.mark.parametrize("rows", [3, 6, 20])
@pytest.mark.parametrize("bias", [True, False])
def test_untied_loss_is_the_plain_form_whatever_it_keeps(rows, bias):
    """Fewer examples than the smallest size, more than the largest, and between: the gradient that waits differs."""
    generator = torch.Generator().manual_seed(0)
    sizes, x = [4, 8, 16], torch.randn(rows, 16, generator=generator, dtype=torch.double, requires_grad=True)
    head = MatryoshkaHead(16, 5, sizes, bias=bias).double()
    y, weights = torch.randint(5, (rows,), generator=generator), [0.5, 1.0, 2.0]
    plain = sum(w * F.cross_entropy(z, y, label_smoothing=0.1) for w, z in zip(weights, head(x)))
    fused = head.loss(x, y, weights, label_smoothing=0.1)
    torch.testing.assert_close(fused, plain)
    leaves = [x, *head.parameters()]
    for _ in range(2):  # the second time from the same graph
        for got, expected in zip(torch.autograd.grad(fused, leaves, retain_graph=True),
                                 torch.autograd.grad(plain, leaves, retain_graph=True)):
            torch.testing.assert_close(got, expected)
    assert not head.requires_grad_(False).loss(x.detach(), y).requires_grad


def test_cascade_computes_only_what_is_needed():
    head, x, y = small_head(tied=True, dtype=torch.float32)
    for other in (head, lambda features: head(features)):
        cascade = AdaptiveClassifier(other, DIMS)
        cascade.thresholds_ = np.array([0.0, 0.0, 0.0])
        assert cascade.predict(x.detach())[1].tolist() == [2] * 6
        cascade.thresholds_ = np.array([1.0, 1.0, 1.0])
        labels, used = cascade.predict(x.detach())
        assert used.tolist() == [16] * 6 and torch.equal(labels, head(x)[-1].argmax(1))
        assert cascade.predict(x.detach(), max_dim=8)[1].tolist() == [8] * 6
    assert len(AdaptiveClassifier(head, DIMS).fit(x.detach(), y).thresholds_) == 3


def test_oracle_takes_the_smallest_right_size():
    predictions = torch.tensor([[0, 1, 2], [0, 0, 2], [1, 0, 2]])
    assert oracle(predictions, torch.tensor([0, 0, 1])).tolist() == [0, 1, 2]


GALLERY, LABELS = simulated_embeddings(600, 32, num_classes=10, seed=1)
QUERIES, QUERY_LABELS = GALLERY[:40] + 0.01, LABELS[:40]


def plain_search(metric: str, dim: int, k: int) -> torch.Tensor:
    g, q = GALLERY[:, :dim], QUERIES[:, :dim]
    scores = {"cosine": F.normalize(q) @ F.normalize(g).T, "dot": q @ g.T, "euclidean": -torch.cdist(q, g)}[metric]
    return scores.topk(k)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("block_bytes", [2**25, 400])  # 400 bytes: one query and a hundred columns at a time
def test_search_equals_the_plain_one(metric, block_bytes):
    expected = plain_search(metric, 32, 7)
    for search in (FunnelRetrieval(GALLERY, [32], [], metric, block_bytes=block_bytes),
                   AdaptiveRetrieval(GALLERY, 4, 32, 600, metric, block_bytes=block_bytes)):
        scores, indices = search.search(QUERIES, 7)
        torch.testing.assert_close(scores, expected.values, atol=2e-3 if metric == "euclidean" else 1e-5, rtol=1e-4)
        assert (indices == expected.indices).float().mean() > 0.99


@given(st.integers(1, 3000), st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_selection_in_two_steps_equals_topk(columns, k, seed):
    scores = torch.randn(3, columns, generator=torch.Generator().manual_seed(seed))
    got, expected = retrieval._largest(scores, min(k, columns)), scores.topk(min(k, columns))
    assert torch.equal(got[0], expected.values) and torch.equal(got[1], expected.indices)


def test_shortlist_is_that_of_the_first_size():
    shortlist = plain_search("cosine", 4, 20).indices
    found = AdaptiveRetrieval(GALLERY, 4, 32, 20).search(QUERIES, 20)[1]
    assert torch.equal(found.sort(1).values, shortlist.sort(1).values)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_galleries_of_every_kind(dtype, tmp_path):
    array = GALLERY.numpy().astype(dtype)
    np.save(tmp_path / "gallery.npy", array)
    expected = AdaptiveRetrieval(torch.from_numpy(array), 4, 32, 50).search(QUERIES, 5)
    for gallery in (array, np.load(tmp_path / "gallery.npy", mmap_mode="r"), array[::-1][::-1],
                    np.asfortranarray(array)):
        scores, indices = AdaptiveRetrieval(gallery, 4, 32, 50, progress=False).search(QUERIES.numpy(), 5)
        assert isinstance(scores, np.ndarray) and isinstance(indices, np.ndarray)
        assert np.array_equal(indices, expected[1]) and np.allclose(scores, expected[0], atol=1e-6)


def test_progress_bar_is_shown_for_files(tmp_path, capsys):
    np.save(tmp_path / "gallery.npy", GALLERY.numpy())
    AdaptiveRetrieval(np.load(tmp_path / "gallery.npy", mmap_mode="r"), 4, 32, 50).search(QUERIES, 5)
    assert "search" in capsys.readouterr().err


SEARCH_A_FILE = """
import sys
import numpy as np
from xfer_course.mrl import AdaptiveRetrieval


def private_bytes():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


def search(gallery):
    index = AdaptiveRetrieval(gallery, 16, 256, 50, block_bytes=2**20, progress=False)
    return index.search(np.asarray(gallery[:32], np.float32), 5)[1]


gallery = np.load(sys.argv[1], mmap_mode="r")
search(gallery[:2000])  # what the libraries allocate once
before = private_bytes()
assert (search(gallery)[:, 0] == np.arange(32)).all()
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
resident = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(private_bytes() - before, peak - resident)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux to read the memory of a process")
def test_a_file_is_searched_without_a_copy_in_memory(tmp_path):
    "51 MB on disk, 102 MB as float32: what stays and what peaks is far less, in a process of its own."
    file = np.lib.format.open_memmap(tmp_path / "gallery.npy", mode="w+", dtype=np.float16, shape=(100_000, 256))
    generator = np.random.default_rng(0)
    for start in range(0, len(file), 20_000):
        file[start : start + 20_000] = generator.standard_normal((20_000, 256), dtype=np.float32)
    file.flush()
    done = subprocess.run([sys.executable, "-c", SEARCH_A_FILE, str(tmp_path / "gallery.npy")],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept, above = map(int, done.stdout.split())
    assert kept + max(above, 0) < 32e6  # prefixes take 6.4 MB, a block 1 MB


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_exact_search_agrees_with_faiss(metric):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")
    index = faiss.IndexFlatL2(32) if metric == "euclidean" else faiss.IndexFlatIP(32)
    prepare = (lambda x: F.normalize(x).numpy()) if metric == "cosine" else (lambda x: x.numpy())
    index.add(prepare(GALLERY))
    expected = index.search(prepare(QUERIES), 7)[1]
    assert (FunnelRetrieval(GALLERY, [32], [], metric).search(QUERIES, 7)[1].numpy() == expected).mean() > 0.99


def test_cost():
    assert search_cost(1_281_167, [16, 2048], [200]) == (1_281_167 * 16, 200 * 2048)
    assert AdaptiveRetrieval(GALLERY, 4, 32, 50).cost() == 600 * 4 + 50 * 32
    assert FunnelRetrieval(GALLERY, [4, 8, 32], [50, 20]).cost() == 600 * 4 + 50 * 8 + 20 * 32
    assert AdaptiveRetrieval(GALLERY, 4, 32, 50).index_bytes == 600 * 4 * 4


def test_grid_and_choice_agree_with_the_search():
    options = dict(shortlist_dims=[2, 8], rerank_dims=[8, 32], shortlists=[10, 50], k=5)
    grid = search_grid(GALLERY, LABELS, QUERIES, QUERY_LABELS, **options)
    assert len(grid) == 6
    for s in grid:
        found = AdaptiveRetrieval(GALLERY, s.shortlist_dim, s.rerank_dim, s.shortlist).search(QUERIES, 5)[1]
        assert s.quality == pytest.approx(mean_average_precision_at_k(found, LABELS, QUERY_LABELS, 5))
    chosen = choose_sizes(grid, tolerance=1.0)
    assert chosen.cost == min((s.cost for s in grid), key=lambda c: c.seconds_like())
    with pytest.raises(ValueError, match="no setting is within"):
        choose_sizes(grid, tolerance=-1)


def test_metrics_by_hand():
    indices, gallery, query = np.array([[0, 1, 2]]), np.array([5, 6, 5]), np.array([5])
    assert precision_at_k(indices, gallery, query, 3) == pytest.approx(2 / 3)
    assert mean_average_precision_at_k(indices, gallery, query, 3) == pytest.approx((1 + 2 / 3) / 3)
    assert top1_nearest_neighbour(indices, gallery, query) == 1


@given(st.integers(1, 8), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_map_is_at_most_precision_and_one_when_all_hit(k, seed):
    generator = np.random.default_rng(seed)
    indices = np.stack([generator.permutation(20)[:8] for _ in range(5)])
    labels, queries = generator.integers(0, 3, 20), generator.integers(0, 3, 5)
    assert (0 <= mean_average_precision_at_k(indices, labels, queries, k)
            <= precision_at_k(indices, labels, queries, k) + 1e-12)
    assert mean_average_precision_at_k(indices, np.zeros(20), np.zeros(5), k) == 1


def test_truncate():
    for vectors in (GALLERY, GALLERY.numpy(), GALLERY.double()):
        short = truncate(vectors, 4)
        assert short.shape == (600, 4) and short.dtype == vectors.dtype
        assert np.allclose(np.linalg.norm(short, axis=1), 1)
    assert torch.equal(truncate(truncate(GALLERY, 16), 4).isfinite(), torch.ones(600, 4, dtype=torch.bool))


def test_learns_better_than_chance_at_every_size():
    features, labels = simulated_embeddings(400, 16, num_classes=5, exponent=0.0, seed=0)
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 16)
    head = MatryoshkaHead(16, 5, DIMS)
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        head.loss(model(features), labels).backward()
        optimizer.step()
    accuracy = (head(model(features)).argmax(-1) == labels).float().mean(1)
    assert (accuracy > 0.5).all() and accuracy[-1] > 0.9


HEAD = MatryoshkaHead(16, 7, DIMS)
X, Y = torch.randn(6, 16), torch.zeros(6, dtype=torch.long)
WITH_NAN = torch.where(torch.arange(600)[:, None] == 7, torch.nan, GALLERY)
WITH_ZERO = torch.where(torch.arange(600)[:, None] == 7, 0.0, GALLERY)
BAD = {
    "sizes not increasing": (lambda: MatryoshkaHead(16, 7, [4, 2]), ValueError,
                             r"nesting_dims must be whole numbers in increasing order, at least one, got \[4, 2\]"),
    "sizes repeated": (lambda: MatryoshkaLoss([4, 4]), ValueError, "in increasing order"),
    "no sizes": (lambda: MatryoshkaLoss([]), ValueError, r"nesting_dims must be whole numbers .* got \[\]"),
    "fractional size": (lambda: MatryoshkaLoss([2.5]), TypeError,
                        r"nesting_dims must be a whole number of at least 1, got 2\.5"),
    "larger than the features": (lambda: MatryoshkaHead(16, 7, [8, 32]), ValueError,
                                 "nesting_dims must be a whole number from 1 to 16, got 32"),
    "smallest above dim": (lambda: doubling_dims(4), ValueError, "smallest must be a whole number from 1 to 4, got 8"),
    "too few weights": (lambda: MatryoshkaLoss(DIMS, [1, 2]), ValueError,
                        r"weights must be 4 numbers, one per size and not all 0, got \[1\.0, 2\.0\]"),
    "too few weights, fused": (lambda: HEAD.loss(X, Y, [1, 2]), ValueError, "weights must be 4 numbers"),
    "negative weight": (lambda: MatryoshkaLoss(DIMS, [1, 1, 1, -1]), ValueError,
                        "weights must be a finite number of at least 0, got -1"),
    "wrong width": (lambda: HEAD(X[:, :8]), ValueError, r"features must be of shape \(N 16\), got \(6, 8\)"),
    "integer features": (lambda: HEAD(X.long()), TypeError, "features must hold float numbers, got torch.int64"),
    "double features": (lambda: HEAD(X.double()), TypeError,
                        "features must be torch.float32 as the head, got torch.float64"),
    "labels out of range": (lambda: HEAD.loss(X, Y + 7), ValueError,
                            "targets must be class numbers from 0 up and below 7, got 7"),
    "labels of wrong shape": (lambda: HEAD.loss(X, Y[:3]), ValueError, r"targets must be of shape \(6\), got \(3,\)"),
    "smoothing out of range": (lambda: HEAD.loss(X, Y, label_smoothing=2), ValueError,
                               "label_smoothing must be a finite number from 0 to 1, got 2"),
    "no classes": (lambda: MatryoshkaHead(16, 0, [8]), ValueError,
                   "num_classes must be a whole number of at least 1, got 0"),
    "targets out of range": (lambda: MatryoshkaLoss(DIMS)(HEAD(X), Y + 7), ValueError,
                             "targets must be class numbers from 0 up and below 7, got 7"),
    "targets of wrong shape": (lambda: MatryoshkaLoss(DIMS)(HEAD(X), Y[:3]), ValueError,
                               r"targets must be of shape \(6\), got \(3,\)"),
    "fractional dim": (lambda: doubling_dims(64.5), TypeError, "dim must be a whole number of at least 1, got 64.5"),
    "NaN to classify": (lambda: AdaptiveClassifier(HEAD, DIMS).fit(X * math.nan, Y), ValueError,
                        r"features must be finite, got nan at \[0, 0\]"),
    "fractional shortlist": (lambda: AdaptiveRetrieval(GALLERY, 4, 8, 1.9), TypeError,
                             "shortlists must be a whole number of at least 1, got 1.9"),
    "fractional k": (lambda: AdaptiveRetrieval(GALLERY, 4, 8, 20).search(GALLERY[:2], 5.0), TypeError,
                     r"k must be a whole number from 1 to 600, got 5\.0"),
    "long shortlists": (lambda: search_grid(GALLERY[:50], torch.zeros(50), GALLERY[:2], torch.zeros(2),
                                            shortlist_dims=[4], rerank_dims=[8]), ValueError,
                        "shortlists must be a whole number from 10 to 50, got 100"),
    "loss with other sizes": (lambda: MatryoshkaLoss([2, 4])(HEAD(X), Y), ValueError,
                              "logits must hold 2 sizes, as the loss does, got 4"),
    "size the head lacks": (lambda: HEAD.logits_at(X, 5), ValueError, "dim must be one of 2, 4, 8, 16, got 5"),
    "unpaired sides": (lambda: MatryoshkaContrastive(DIMS)(X, X[:3]), ValueError,
                       r"positives must be of shape \(6 16\), got \(3, 16\)"),
    "integer sides": (lambda: MatryoshkaContrastive(DIMS)(X.long(), X.long()), TypeError,
                      "anchors must hold float numbers"),
    "scale of zero": (lambda: MatryoshkaContrastive(DIMS, scale=0), ValueError,
                      "scale must be a finite number above 0, got 0"),
    "cut too long": (lambda: truncate(GALLERY, 33), ValueError, "dim must be a whole number from 1 to 32, got 33"),
    "cut of integers": (lambda: truncate(np.ones((2, 2), int), 1), TypeError,
                        "embeddings must hold float numbers, got torch.int64"),
    "cut of zeros": (lambda: truncate(np.zeros((2, 2)), 1), ValueError,
                     r"embeddings\[0\] must be finite and not all zero in its first 1 numbers, got only zeros"),
    "cascade before fit": (lambda: AdaptiveClassifier(HEAD, DIMS).predict(X), RuntimeError, "call fit"),
    "cascade with other sizes": (lambda: AdaptiveClassifier(HEAD, [2, 4]).fit(X, Y), ValueError,
                                 "head must give 2 sizes, as nesting_dims has, got 4"),
    "cascade labels": (lambda: AdaptiveClassifier(HEAD, DIMS).fit(X, Y[:2]), ValueError,
                       "labels must hold 6 labels, one per row, got 2"),
    "cascade: a column of labels": (lambda: AdaptiveClassifier(HEAD, DIMS).fit(X, Y[:, None]), ValueError,
                                    r"labels must be of shape \(N\), got \(6, 1\)"),
    "cascade: labels counted from 1": (lambda: AdaptiveClassifier(HEAD, DIMS).fit(X, Y + 7), ValueError,
                                       "labels must be class numbers from 0 up and below 7, got 7"),
    "cascade: a head that says NaN": (
        lambda: AdaptiveClassifier(lambda x: torch.full((4, 6, 7), torch.nan), DIMS).fit(X, Y), ValueError,
        "what head returns must have a finite largest value in every row, got nan in row 0"),
    "oracle: a column of labels": (lambda: oracle(torch.zeros(4, 6).long(), Y[:, None]), ValueError,
                                   r"labels must be of shape \(N\), got \(6, 1\)"),
    "oracle: NaN for labels": (lambda: oracle(torch.zeros(4, 6).long(), Y * torch.nan), TypeError,
                               "labels must hold integer numbers"),
    "oracle: predictions that are NaN": (lambda: oracle(torch.zeros(4, 6) * torch.nan, Y), TypeError,
                                         "predictions must hold integer numbers"),
    "mAP: names in the gallery, numbers of queries": (
        lambda: mean_average_precision_at_k([[0, 1]], ["a", "b"], [0], 1), TypeError,
        "query_labels must be of the kind of gallery_labels, such as 'a', got 0"),
    "mAP: a column of labels": (lambda: mean_average_precision_at_k([[0, 1]], Y[:2, None], [0], 1), ValueError,
                                r"gallery_labels must be of shape \(N\), got \(2, 1\)"),
    "mAP: a label is missing": (lambda: precision_at_k([[0, 1]], [0.0, math.nan], [0], 1), TypeError,
                                "gallery_labels must be names or whole numbers, all of one kind, got nan at 1"),
    "k above the gallery": (lambda: FunnelRetrieval(GALLERY, [4], []).search(QUERIES, 601), ValueError,
                            "k must be a whole number from 1 to 600, got 601"),
    "k above the shortlist": (lambda: AdaptiveRetrieval(GALLERY, 4, 8, 5).search(QUERIES, 6), ValueError,
                              "k must be at most 5, the length of the last shortlist, got 6"),
    "NaN in the gallery": (lambda: AdaptiveRetrieval(WITH_NAN, 4, 8), ValueError,
                           r"gallery\[0:600\] must be finite, got nan at \[7, 0\]"),
    "zero in the gallery": (lambda: AdaptiveRetrieval(WITH_ZERO, 4, 8), ValueError,
                            r"gallery\[7\] must be finite and not all zero"),
    "NaN query": (lambda: AdaptiveRetrieval(GALLERY, 4, 8).search(WITH_NAN[:9], 1), ValueError,
                  r"queries must be finite, got nan at \[7, 0\]"),
    "zero query": (lambda: AdaptiveRetrieval(GALLERY, 4, 8).search(WITH_ZERO[:9], 1), ValueError,
                   r"queries\[7\] must be finite and not all zero"),
    "mismatched widths": (lambda: AdaptiveRetrieval(GALLERY, 4, 8).search(QUERIES[:, :7], 1), ValueError,
                          "queries must have 32 dimensions, as the gallery has, got 7"),
    "integer gallery": (lambda: AdaptiveRetrieval(GALLERY.int(), 4, 8), TypeError,
                        "gallery must hold float numbers, got torch.int32"),
    "list as gallery": (lambda: AdaptiveRetrieval([[1.0]], 4, 8), TypeError,
                        r"gallery must be a tensor of shape \(N D\), got list"),
    "empty gallery": (lambda: AdaptiveRetrieval(GALLERY[:0], 4, 8), ValueError, "gallery must hold at least one value"),
    "sizes beyond the gallery": (lambda: AdaptiveRetrieval(GALLERY, 4, 64), ValueError,
                                 "dims must be a whole number from 1 to 32, got 64"),
    "shortlist size above re-rank size": (lambda: AdaptiveRetrieval(GALLERY, 8, 4), ValueError,
                                          "dims must be whole numbers in increasing order"),
    "unknown metric": (lambda: AdaptiveRetrieval(GALLERY, 4, 8, metric="l3"), ValueError,
                       "metric must be one of 'cosine', 'dot', 'euclidean', got 'l3'"),
    "growing shortlists": (lambda: FunnelRetrieval(GALLERY, [2, 4, 8], [10, 20]), ValueError,
                           "shortlists must be 2 lengths, one fewer than dims, and not increasing"),
    "too few shortlists": (lambda: FunnelRetrieval(GALLERY, [2, 4, 8], [10]), ValueError,
                           "shortlists must be 2 lengths, one fewer than dims"),
    "metric with k too large": (lambda: precision_at_k(np.zeros((2, 3), int), [0], [0, 0], 4), ValueError,
                                "k must be a whole number from 1 to 3, got 4"),
    "metric with too few queries": (lambda: precision_at_k(np.zeros((2, 3), int), [0], [0], 1), ValueError,
                                    r"indices must be of shape \(1 K\), got \(2, 3\)"),
    "grid with short shortlists": (
        lambda: search_grid(GALLERY, LABELS, QUERIES, QUERY_LABELS, shortlist_dims=[2], rerank_dims=[4],
                            shortlists=[5]), ValueError, "shortlists must be a whole number from 10 to 600, got 5"),
    "short targets of any type": (lambda: HEAD.loss(X, Y.int()), TypeError,
                                  "targets must be torch.int64, got torch.int32"),
    "weight too wide": (lambda: fused.tied_loss(X, torch.randn(7, 16), None, Y, [2, 8]), ValueError,
                        r"weight must be of shape \(L 8\), got \(7, 16\)"),
    "a weight per size is missing": (lambda: fused.untied_loss(X, [torch.randn(7, 2)], [None], Y, [2, 4]), ValueError,
                                     "weights must have as many rows as dims"),
    "no shortlist to try": (
        lambda: search_grid(GALLERY, LABELS, QUERIES, QUERY_LABELS, shortlist_dims=[2], rerank_dims=[4],
                            shortlists=[]), ValueError, "shortlists must be at least one length"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_sentence(name):
    action, error, sentence = BAD[name]
    with pytest.raises(error, match=sentence) as raised:
        action()
    assert "\n" not in str(raised.value)
