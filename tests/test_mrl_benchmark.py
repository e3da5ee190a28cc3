"""What the nested head and the staged search save, against plain forms in the same run. Run alone: `-m benchmark`."""
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xfer_course.mrl import (
    AdaptiveRetrieval, FunnelRetrieval, MatryoshkaHead, choose_sizes, doubling_dims, mean_average_precision_at_k,
    search_grid, simulated_embeddings,
)

pytestmark = pytest.mark.benchmark
D, CLASSES, N = 2048, 1000, 256
DIMS = doubling_dims(D)


def one_product_per_size(head: MatryoshkaHead, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    "The textbook form: a list of logits, then a list of losses."
    layers = [head.classifiers[0]] * len(DIMS) if head.tied else head.classifiers
    logits = [F.linear(x[:, :m], layer.weight[:, :m], layer.bias) for m, layer in zip(DIMS, layers)]
    return torch.stack([F.cross_entropy(z, y) for z in logits]).sum()


def fused(head: MatryoshkaHead, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return head.loss(x, y)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def setting(request):
    torch.manual_seed(0)
    head = MatryoshkaHead(D, CLASSES, DIMS, tied=request.param)
    return head, torch.randn(N, D, requires_grad=True), torch.randint(CLASSES, (N,))


def step(form, head: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    forget(head, x)
    loss = form(head, x, y)
    loss.backward()
    return loss.detach()


def forget(head: nn.Module, x: torch.Tensor) -> None:
    "Drop the gradients."
    head.zero_grad(set_to_none=True)
    x.grad = None


def alternating_medians(*actions, repeats: int = 9) -> list[float]:
    "Median seconds of each action; they take turns, so that other work on the machine hits all alike."
    for action in actions:
        action()
    seconds = [[] for _ in actions]
    for _ in range(repeats):
        for kept, action in zip(seconds, actions):
            started = time.perf_counter()
            action()
            kept.append(time.perf_counter() - started)
    return [float(np.median(kept)) for kept in seconds]


def peak_allocated(action) -> int:
    "Largest number of bytes of tensors that live at a time during `action`, beyond those that were there before."
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        action()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(np.cumsum(changes).max())


def test_head_is_fast_lean_and_equal(setting, capsys):
    head, x, y = setting
    expected = step(one_product_per_size, head, x, y), x.grad.clone(), [p.grad.clone() for p in head.parameters()]
    got = step(fused, head, x, y), x.grad, [p.grad for p in head.parameters()]
    for a, b in [(got[0], expected[0]), (got[1], expected[1]), *zip(got[2], expected[2])]:
        assert (a - b).abs().max() <= 1e-5 * max(float(b.abs().max()), 1e-3)

    plain_s, fused_s = alternating_medians(*(lambda f=f: step(f, head, x, y) for f in (one_product_per_size, fused)))
    memory = []
    for form in (one_product_per_size, fused):
        forget(head, x)  # or freeing the old gradients would count as memory won
        memory.append(peak_allocated(lambda: step(form, head, x, y)))
    with capsys.disabled():
        print(f"\n{'tied' if head.tied else 'untied'}: {plain_s * 1e3:.0f} ms -> {fused_s * 1e3:.0f} ms "
              f"({plain_s / fused_s:.2f}x), {memory[0] / 1e6:.1f} MB -> {memory[1] / 1e6:.1f} MB ({memory[1] / memory[0]:.0%})")
    assert memory[1] <= (0.60 if head.tied else 0.85) * memory[0]
    if head.tied:
        assert plain_s / fused_s >= 1.6


def exact_searches(gallery: torch.Tensor, queries: torch.Tensor, k: int):
    "Three ways to search everything exactly, on vectors that are unit length already."
    array, others = gallery.numpy(), queries.numpy()

    def torch_at_once():
        return (queries @ gallery.T).topk(k).indices

    def torch_in_blocks():
        return torch.cat([(rows @ gallery.T).topk(k).indices for rows in queries.split(128)])

    def numpy_in_blocks():
        found = []
        for start in range(0, len(others), 128):
            scores = others[start : start + 128] @ array.T
            best = np.argpartition(scores, -k, axis=1)[:, -k:]
            order = np.take_along_axis(scores, best, 1).argsort(1)[:, ::-1]
            found.append(np.take_along_axis(best, order, 1))
        return np.concatenate(found)

    return {"torch at once": torch_at_once, "torch in blocks": torch_in_blocks, "numpy in blocks": numpy_in_blocks}


@pytest.fixture(scope="module")
def nested():
    "Gallery, held-out queries that choose the sizes, and queries that measure."
    vectors, labels = simulated_embeddings(101_200, 2048, num_classes=1000, exponent=1.0, noise=0.5, seed=0)
    gallery, held_out, queries = (slice(0, 100_000), slice(100_000, 100_200), slice(100_200, 101_200))
    return [(vectors[part], labels[part]) for part in (gallery, held_out, queries)]


def test_retrieval_is_fast_at_the_same_quality(nested, capsys):
    (gallery, gallery_labels), (held_out, held_out_labels), (queries, query_labels) = nested
    grid = search_grid(gallery, gallery_labels, held_out, held_out_labels,
                       shortlist_dims=(8, 16, 32, 64), rerank_dims=(128, 256, 512, 2048))
    chosen = choose_sizes(grid, tolerance=0.0025)
    search = AdaptiveRetrieval(gallery, chosen.shortlist_dim, chosen.rerank_dim, chosen.shortlist)
    unit_gallery, unit_queries = F.normalize(gallery), F.normalize(queries)
    ways = exact_searches(unit_gallery, unit_queries, 10)
    few = exact_searches(unit_gallery, unit_queries[:128], 10)
    best = min(few, key=lambda name: alternating_medians(few[name], repeats=1)[0])
    exact_s, adaptive_s = alternating_medians(ways[best], lambda: search.search(queries, 10), repeats=2)
    exact = ways[best]()
    quality = [mean_average_precision_at_k(i, gallery_labels, query_labels, 10) for i in (exact, search.search(queries, 10)[1])]
    with capsys.disabled():
        print(f"\nbest exact search: {best}, {exact_s:.2f} s; D_s={chosen.shortlist_dim}, D_r={chosen.rerank_dim}, "
              f"K={chosen.shortlist}: {adaptive_s:.2f} s ({exact_s / adaptive_s:.1f}x), mAP@10 {quality[0]:.4f} -> {quality[1]:.4f}")
    assert quality[1] >= quality[0] - 0.005
    assert exact_s / adaptive_s >= 8


def resident_growth(action) -> int:
    "By how many bytes the private memory of this process grows at most while `action` runs (file pages not counted)."
    def private() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

    before, peak, done = private(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, private() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        action()
    finally:
        done.set()
        watcher.join()
    return peak


def test_memory_mapped_gallery_is_searched_in_bounded_memory(tmp_path, capsys):
    n, dim = 200_000, 512
    file = np.lib.format.open_memmap(tmp_path / "gallery.npy", mode="w+", dtype=np.float16, shape=(n, dim))
    generator = np.random.default_rng(0)
    for start in range(0, n, 20_000):
        file[start : start + 20_000] = generator.standard_normal((20_000, dim), dtype=np.float32)
    file.flush()
    gallery = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    queries = np.asarray(gallery[:64], dtype=np.float32)
    kept = {}

    def action():
        kept["search"] = FunnelRetrieval(gallery, [32, 512], [100], progress=True)
        kept["found"] = kept["search"].search(queries, 5)[1]

    grown = resident_growth(action)
    bound = kept["search"].index_bytes + 6 * kept["search"].block_bytes
    with capsys.disabled():
        print(f"\n{gallery.nbytes / 1e6:.0f} MB on disk searched with {grown / 1e6:.0f} MB (index {kept['search'].index_bytes / 1e6:.0f} MB)")
    assert (kept["found"][:, 0] == np.arange(64)).all()
    assert grown <= bound
