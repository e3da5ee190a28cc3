"""What the nested head and the staged search save, beside plain forms, sentence-transformers, faiss and scikit-learn;
on all cores."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.measuring import Measurement, allocated_bytes, kinds_of, libraries, resident_bytes, seconds_in_turns
from xfer_course.mrl import (
    AdaptiveRetrieval,
    FunnelRetrieval,
    MatryoshkaContrastive,
    MatryoshkaHead,
    choose_sizes,
    doubling_dims,
    mean_average_precision_at_k,
    search_grid,
    simulated_embeddings,
)

THREADS = None  # as many as there are
D, CLASSES, N = 2048, 1000, 256
DIMS = doubling_dims(D)


# --- the head


def one_product_per_size(head: MatryoshkaHead, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    "The textbook form: a list of logits, then a list of losses."
    layers = [head.classifiers[0]] * len(DIMS) if head.tied else head.classifiers
    logits = [F.linear(x[:, :m], layer.weight[:, :m], layer.bias) for m, layer in zip(DIMS, layers)]
    return torch.stack([F.cross_entropy(z, y) for z in logits]).sum()


def fused(head: MatryoshkaHead, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return head.loss(x, y)


def forget(head: nn.Module, x: torch.Tensor) -> None:
    "Drop the gradients."
    head.zero_grad(set_to_none=True)
    x.grad = None


def head_step(form: Callable, head: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    forget(head, x)
    loss = form(head, x, y)
    loss.backward()
    return loss.detach()


def check_equal(got: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    for a, b in zip(got, expected, strict=True):
        assert (a - b).abs().max() <= tolerance * max(float(b.abs().max()), 1e-3), (
            "the two ways do not give the same numbers"
        )


def head(tied: bool, rounds: int = 9) -> list[Measurement]:
    "Time and memory of loss and gradients; both ways must give the same numbers."
    torch.manual_seed(0)
    module, x, y = (
        MatryoshkaHead(D, CLASSES, DIMS, tied=tied),
        torch.randn(N, D, requires_grad=True),
        torch.randint(CLASSES, (N,)),
    )
    forms = {"head.loss": fused, "one product per size": one_product_per_size}
    results = [
        [head_step(form, module, x, y), x.grad.clone(), *(p.grad.clone() for p in module.parameters())]
        for form in forms.values()
    ]
    check_equal(*results)
    seconds = seconds_in_turns(
        {name: lambda form=form: head_step(form, module, x, y) for name, form in forms.items()}, rounds
    )
    memory = {}
    for name, form in forms.items():
        forget(module, x)  # or freeing the old gradients would count as memory won
        memory[name] = [allocated_bytes(lambda form=form: head_step(form, module, x, y))]
    what = (f"loss and gradients of {'a tied' if tied else 'an untied'} head, {D} dimensions in {len(DIMS)} sizes, "
            f"{CLASSES} classes, batch {N}")
    kinds = kinds_of(seconds, "head.loss", {})
    return [Measurement("mrl", what, unit, values, kinds) for unit, values in (("s", seconds), ("bytes", memory))]


def tied_head(rounds: int = 9) -> list[Measurement]:
    return head(True, rounds)


def untied_head(rounds: int = 9) -> list[Measurement]:
    return head(False, rounds)


def contrastive(rounds: int = 9, pairs: int = 256, dim: int = 768) -> list[Measurement]:
    """In-batch contrastive loss at every size: running sums against one similarity matrix per size,
    and sentence-transformers."""
    torch.manual_seed(0)
    dims = doubling_dims(dim)
    anchors, positives = torch.randn(2, pairs, dim).unbind()
    anchors.requires_grad_(), positives.requires_grad_()
    ours = MatryoshkaContrastive(dims)

    def step(loss: Callable) -> list[torch.Tensor]:
        anchors.grad = positives.grad = None
        value = loss()
        value.backward()
        return [value.detach(), anchors.grad, positives.grad]

    def per_size() -> torch.Tensor:
        targets = torch.arange(pairs)
        return sum(
            F.cross_entropy(20 * F.normalize(anchors[:, :m], dim=1) @ F.normalize(positives[:, :m], dim=1).T, targets)
            for m in dims
        )

    def with_sentence_transformers() -> Callable:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

        class Given(nn.Module):
            "A model whose embeddings are given, so that the loss alone is measured."

            def forward(self, features: dict) -> dict:
                return features

        model = SentenceTransformer(modules=[Given()])
        loss = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), dims)
        found = lambda: loss([{"sentence_embedding": anchors}, {"sentence_embedding": positives}], None)
        check_equal(step(found), [part.clone() for part in step(lambda: ours(anchors, positives))], 1e-4)
        return found

    name = "sentence-transformers, MatryoshkaLoss"
    found, skipped = libraries({name: "sentence-transformers"}, {name: with_sentence_transformers})
    losses = {
        "MatryoshkaContrastive": lambda: ours(anchors, positives),
        "one similarity matrix per size": per_size,
        **found,
    }
    check_equal([part.clone() for part in step(losses["MatryoshkaContrastive"])], step(per_size), 1e-4)
    seconds = seconds_in_turns({way: lambda loss=loss: step(loss) for way, loss in losses.items()}, rounds)
    memory = {}
    for way, loss in losses.items():
        anchors.grad = positives.grad = None
        memory[way] = [allocated_bytes(lambda loss=loss: step(loss))]
    kinds = kinds_of(seconds, "MatryoshkaContrastive", found)
    what = f"contrastive loss and gradients, {pairs} pairs, {dim} dimensions in {len(dims)} sizes"
    return [
        Measurement("mrl", what, unit, values, kinds, skipped) for unit, values in (("s", seconds), ("bytes", memory))
    ]


# --- retrieval


def exact_searches(gallery: torch.Tensor, queries: torch.Tensor, k: int) -> dict[str, Callable]:
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

    return {"torch at once": torch_at_once, "torch in blocks": torch_in_blocks, "NumPy in blocks": numpy_in_blocks}


def library_searches(
    gallery: torch.Tensor, queries: torch.Tensor, k: int, notes: dict
) -> tuple[dict[str, Callable], dict[str, str]]:
    "Search by faiss and scikit-learn on unit vectors; building an index is not counted, and noted."
    array, others = gallery.numpy(), queries.numpy()

    def faiss_way(kind: str) -> Callable[[], Callable]:
        def make() -> Callable:
            import time

            import faiss

            faiss.omp_set_num_threads(torch.get_num_threads())
            started = time.perf_counter()
            if kind == "flat":
                index = faiss.IndexFlatIP(array.shape[1])
            else:
                index = faiss.index_factory(
                    array.shape[1], f"IVF{int(len(array) ** 0.5)},Flat", faiss.METRIC_INNER_PRODUCT
                )
                index.train(array[:: max(1, len(array) // 20_000)])
                index.nprobe = 8
            index.add(array)
            notes[f"seconds to build the index, faiss {kind}"] = round(time.perf_counter() - started, 2)
            return lambda: index.search(others, k)[1]

        return make

    def with_scikit_learn() -> Callable:
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="cosine").fit(array)
        return lambda: search.kneighbors(others, return_distance=False)

    packages = {
        "faiss, flat (exact)": "faiss-cpu",
        "faiss, IVF with 8 of 316 cells": "faiss-cpu",
        "scikit-learn, NearestNeighbors (exact)": "scikit-learn",
    }
    return libraries(packages, dict(zip(packages, (faiss_way("flat"), faiss_way("IVF"), with_scikit_learn))))


def retrieval(rounds: int = 3, with_libraries: bool = True) -> Measurement:
    "1,000 queries in 100,000 vectors: sizes chosen on held-out queries, quality noted beside the seconds."
    vectors, labels = simulated_embeddings(101_200, D, num_classes=1000, exponent=1.0, noise=0.5, seed=0)
    gallery, held_out, queries = (
        (vectors[part], labels[part]) for part in (slice(0, 100_000), slice(100_000, 100_200), slice(100_200, 101_200))
    )
    grid = search_grid(*gallery, *held_out, shortlist_dims=(8, 16, 32, 64), rerank_dims=(128, 256, 512, 2048))
    chosen = choose_sizes(grid, tolerance=0.0025)
    search = AdaptiveRetrieval(gallery[0], chosen.shortlist_dim, chosen.rerank_dim, chosen.shortlist)
    unit_gallery, unit_queries = F.normalize(gallery[0]), F.normalize(queries[0])
    few = seconds_in_turns(exact_searches(unit_gallery, unit_queries[:128], 10), rounds=1)
    best = min(few, key=lambda way: few[way][0])
    notes = {"sizes chosen (D_s, D_r, K)": [chosen.shortlist_dim, chosen.rerank_dim, chosen.shortlist]}
    found, skipped = library_searches(unit_gallery, unit_queries, 10, notes) if with_libraries else ({}, {})
    exact = f"best exact search ({best})"
    ways = {
        "AdaptiveRetrieval": lambda: search.search(queries[0], 10)[1],
        exact: exact_searches(unit_gallery, unit_queries, 10)[best],
        **found,
    }
    notes["mAP@10"] = {
        way: round(mean_average_precision_at_k(run(), gallery[1], queries[1], 10), 4) for way, run in ways.items()
    }
    seconds = seconds_in_turns(ways, rounds)
    return Measurement(
        "mrl",
        f"1,000 queries, 10 nearest of 100,000 vectors with {D} dimensions",
        "s",
        seconds,
        kinds_of(seconds, "AdaptiveRetrieval", found),
        skipped,
        notes,
    )


D768 = 768
SHORTLISTS = {"int8": 50, "binary": 200}


def rounded_libraries(
    stage: str, gallery: torch.Tensor, queries: torch.Tensor, k: int, held: dict
) -> tuple[dict[str, Callable], dict[str, str]]:
    "The codes of faiss alone, and with the same shortlist put in order; on unit vectors, one query at a time."
    array, others, shortlist = gallery.numpy(), queries.numpy(), SHORTLISTS[stage]
    centre = array.mean(0)

    def scalar(refined: bool) -> Callable[[], Callable]:
        def make() -> Callable:
            import faiss

            faiss.omp_set_num_threads(torch.get_num_threads())
            codes = faiss.IndexScalarQuantizer(D768, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
            index = faiss.IndexRefineFlat(codes) if refined else codes
            index.train(array)
            index.add(array)
            if refined:
                index.k_factor = shortlist / k
            held[scalar_names[refined]] = codes.code_size * codes.ntotal
            return lambda: np.concatenate([index.search(query[None], k)[1] for query in others])

        return make

    def binary(refined: bool) -> Callable[[], Callable]:
        def make() -> Callable:
            import faiss

            faiss.omp_set_num_threads(torch.get_num_threads())
            index = faiss.IndexBinaryFlat(D768)
            index.add(np.packbits(array > centre, axis=1))
            bits = np.packbits(others > centre, axis=1)
            held[binary_names[refined]] = index.code_size * index.ntotal

            def one(query: np.ndarray, packed: np.ndarray) -> np.ndarray:
                rows = index.search(packed[None], shortlist if refined else k)[1][0]
                return rows[np.argsort(-(array[rows] @ query))[:k]] if refined else rows

            return lambda: np.stack([one(query, packed) for query, packed in zip(others, bits)])

        return make

    scalar_names = ["faiss, IndexScalarQuantizer", "faiss, IndexScalarQuantizer refined"]
    binary_names = ["faiss, IndexBinaryFlat", "faiss, IndexBinaryFlat re-ranked"]
    names, make = (scalar_names, scalar) if stage == "int8" else (binary_names, binary)
    return libraries(dict.fromkeys(names, "faiss-cpu"), {name: make(bool(i)) for i, name in enumerate(names)})


def rounded(stage: str, rounds: int = 3, with_libraries: bool = True) -> list[Measurement]:
    "50 queries, one at a time, in 100,000 vectors: seconds, and bytes that the first stage reads; recall@10 is noted."
    k = 10
    vectors = F.normalize(simulated_embeddings(100_050, D768, num_classes=1000, exponent=0.5, noise=1.0)[0])
    gallery, queries = vectors[:100_000], vectors[100_000:]
    exact, course = "exact search, float32", f"AdaptiveRetrieval, {stage} first stage"
    index = AdaptiveRetrieval(gallery, D768, D768, SHORTLISTS[stage], first_stage=stage)
    held = {course: index.index_bytes, exact: gallery.nbytes}
    found, skipped = rounded_libraries(stage, gallery, queries, k, held) if with_libraries else ({}, {})
    ways = {
        course: lambda: torch.cat([index.search(query[None], k)[1] for query in queries]),
        exact: lambda: torch.stack([(gallery @ query).topk(k).indices for query in queries]),
        **found,
    }
    nearest = ways[exact]()
    recalls = {way: round(recall(torch.as_tensor(run()), nearest), 4) for way, run in ways.items()}
    notes = {"recall@10": recalls, "length of the shortlist": SHORTLISTS[stage]}
    what = f"{stage} codes, 50 queries one at a time, 10 nearest of 100,000 vectors with {D768} dimensions"
    seconds = seconds_in_turns(ways, rounds)
    kinds = kinds_of(seconds, course, found)
    memory = {way: [held[way]] for way in ways}
    return [
        Measurement("mrl", what, "s", seconds, kinds, skipped, notes),
        Measurement("mrl", f"{what}: bytes of the first stage", "bytes", memory, kinds, skipped),
    ]


def recall(found: torch.Tensor, exact: torch.Tensor) -> float:
    "The share of the exact neighbours that were found."
    return float((found[:, :, None] == exact[:, None, :]).any(1).float().mean())


def int8_search(rounds: int = 3) -> list[Measurement]:
    return rounded("int8", rounds)


def binary_search(rounds: int = 3) -> list[Measurement]:
    return rounded("binary", rounds)


def search_mapped(path: str) -> dict:
    gallery, kept = np.load(path, mmap_mode="r"), {}
    queries = np.asarray(gallery[:64], dtype=np.float32)

    def action() -> None:
        search = FunnelRetrieval(gallery, [32, gallery.shape[1]], [100], progress=False)
        kept.update(index=search.index_bytes, block=search.block_bytes, found=search.search(queries, 5)[1])

    return {"bytes": resident_bytes(action), **kept}


def search_loaded(path: str) -> dict:
    gallery, kept = np.load(path, mmap_mode="r"), {}
    queries = np.asarray(gallery[:64], dtype=np.float32)

    def action() -> None:
        search = FunnelRetrieval(np.asarray(gallery, dtype=np.float32), [gallery.shape[1]], [], progress=False)
        kept.update(found=search.search(queries, 5)[1])

    return {"bytes": resident_bytes(action), **kept}


def mapped_gallery(rows: int = 200_000, dim: int = 512) -> Measurement:
    "Memory of a search in a file of half-precision vectors: mapped, against loaded as float32. A process for each."
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "gallery.npy")
        file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, dim))
        generator = np.random.default_rng(0)
        for start in range(0, rows, 20_000):
            file[start : start + 20_000] = generator.standard_normal((20_000, dim), dtype=np.float32)
        file.flush()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
            mapped, loaded = fresh.map(call, [search_mapped, search_loaded], [path, path])
    assert (mapped["found"][:, 0] == np.arange(64)).all() and (loaded["found"][:, 0] == np.arange(64)).all()
    memory = {
        "FunnelRetrieval on the mapped file": [mapped["bytes"]],
        "exact search, everything loaded": [loaded["bytes"]],
    }
    notes = {
        "bytes on disk": rows * dim * 2,
        "bytes of the index": mapped["index"],
        "bound in bytes": mapped["index"] + 6 * mapped["block"],
    }
    return Measurement(
        "mrl",
        f"search in {rows:,} vectors of {dim} half-precision numbers on disk",
        "bytes",
        memory,
        kinds_of(memory, "FunnelRetrieval on the mapped file", {}),
        {},
        notes,
    )


def call(function: Callable, *arguments):
    return function(*arguments)


MEASUREMENTS = (tied_head, untied_head, contrastive, retrieval, int8_search, binary_search, mapped_gallery)
