"""What an index does beside searching: ids, additions, deletions, filters, files, rounded first stages, faiss."""
from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from xfer_course.data import DataFileError
from xfer_course.mrl import (
    AdaptiveRetrieval,
    BinaryCodes,
    FunnelRetrieval,
    GrowingRows,
    Int8Codes,
    RowIds,
    allowed_rows,
    codes,
    rows_left_out,
    simulated_embeddings,
    storage,
)
from xfer_course.upgrades import Gallery

EVERY = simulated_embeddings(1200, 32, num_classes=20, noise=1.0, seed=2)[0]
VECTORS, MORE, QUERIES = EVERY[:800], EVERY[800:1100], EVERY[1100:]
METRICS, STAGES = ("cosine", "dot", "euclidean"), ("float32", "int8", "binary")


def adaptive(stage: str = "float32", **options) -> AdaptiveRetrieval:
    return AdaptiveRetrieval(VECTORS, 8 if stage == "float32" else 32, 32, 60, first_stage=stage, **options)


def plain_scores(queries: torch.Tensor, vectors: torch.Tensor, metric: str) -> torch.Tensor:
    if metric == "cosine":
        return F.normalize(queries) @ F.normalize(vectors).T
    return queries @ vectors.T if metric == "dot" else -torch.cdist(queries, vectors)


def equal(found, expected) -> bool:
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(found, expected, strict=True))


# --- ids, additions and deletions against a plain dictionary


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["numbers", "texts", "rows"])
def test_any_order_of_changes_leaves_what_a_dictionary_would_hold(metric, kind, tmp_path):
    "Exact search after random additions, deletions, compactions, saves and loads, with filters."
    generator = np.random.default_rng(METRICS.index(metric))
    named = {"numbers": lambda n: (100 - 7 * n), "texts": "item {}".format, "rows": int}[kind]
    items = {named(i): VECTORS[i] for i in range(40)}
    index = FunnelRetrieval(VECTORS[:40], [32], [], metric, ids=None if kind == "rows" else list(items))
    count = 40
    for step in range(60):
        action = generator.choice(["add", "delete", "delete", "compact", "file"], p=[0.4, 0.25, 0.2, 0.05, 0.1])
        if action == "add":
            new = [named(count + i) for i in range(generator.integers(1, 6))]
            added = index.add(EVERY[count : count + len(new)], ids=None if kind == "rows" else new)
            assert added.tolist() == new
            items |= dict(zip(new, EVERY[count : count + len(new)]))
            count += len(new)
        elif action == "delete" and len(items) > 8:
            gone = generator.choice(np.array(list(items)), generator.integers(1, len(items) // 3), replace=False)
            index.delete(gone if step % 2 else gone.tolist())
            items = {name: vector for name, vector in items.items() if name not in set(gone.tolist())}
        elif action == "compact":
            index.compact()
        elif action == "file":
            index.save(tmp_path / "index")
            index = FunnelRetrieval.load(tmp_path / "index", mapped=bool(step % 2))
        names = list(items)
        assert index.ids.tolist() == names and len(index) == len(items)
        may = generator.random(len(items)) < 0.5
        out = [names[generator.integers(len(names))] for _ in range(5)]
        expected = plain_scores(QUERIES[:5], torch.stack(list(items.values())), metric)
        expected[:, ~may] = -torch.inf
        expected[torch.arange(5), [names.index(each) for each in out]] = -torch.inf
        k = min(6, len(items))
        best = expected.topk(k)
        scores, found = index.search(QUERIES[:5].numpy(), k, where=may, exclude=out)
        nobody = "" if kind == "texts" else -1
        wanted = [[names[i] if s > -torch.inf else nobody for i, s in zip(*row)]
                  for row in zip(best.indices.tolist(), best.values.tolist())]
        assert found.tolist() == wanted
        np.testing.assert_allclose(scores, best.values, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_what_was_deleted_never_comes_back(stage):
    index = adaptive(stage, ids=[f"v{i}" for i in range(800)])
    nearest = index.search(VECTORS[:50], 3)[1]
    index.delete(np.unique(nearest))
    assert not np.isin(index.search(VECTORS[:50], 50)[1], nearest).any()
    index.add(VECTORS[:1], ids=["v0"])
    assert index.search(VECTORS[:1], 1)[1].tolist() == [["v0"]]


def test_numbers_that_were_given_are_not_given_again(tmp_path):
    index = FunnelRetrieval(VECTORS[:5], [32], [])
    index.delete([4, 3])
    assert index.add(MORE[:1]).tolist() == [5]
    index.delete([5])
    index.compact()
    index.save(tmp_path / "index")
    for each in (index, FunnelRetrieval.load(tmp_path / "index")):
        assert each.add(MORE[:2]).tolist() == [6, 7]
        assert each.search(MORE[1:2], 1)[1].item() == 7


def test_a_deleted_last_row_leaves_a_gap_in_a_file(tmp_path):
    index = FunnelRetrieval(VECTORS[:5], [32], [])
    index.delete([4])
    index.save(tmp_path / "index")
    again = FunnelRetrieval.load(tmp_path / "index")
    assert again.add(MORE[:1]).tolist() == [5] and again.search(MORE[:1], 1)[1].item() == 5


def test_results_name_ids_in_the_form_of_the_queries():
    tensor, array = VECTORS[:2], VECTORS[:2].numpy()
    for ids in (None, np.arange(800, dtype=np.int32), torch.arange(800), [np.int64(i) for i in range(800)], range(800)):
        scores, found = adaptive(ids=ids).search(tensor, 3)
        assert isinstance(found, torch.Tensor) and found.dtype == torch.int64 and found[:, 0].tolist() == [0, 1]
        scores, found = adaptive(ids=ids).search(array, 3)
        assert isinstance(found, np.ndarray) and found.dtype == np.int64
    texts = adaptive(ids=np.array([f"n{i}" for i in range(800)], dtype=object))
    assert texts.search(tensor, 3)[1][:, 0].tolist() == ["n0", "n1"] and isinstance(texts.ids[0], str)


def test_ids_are_a_copy():
    mine = np.arange(800)
    index = adaptive(ids=mine)
    mine += 1000
    assert index.search(VECTORS[:1], 1)[1].item() == 0


def test_a_refused_change_changes_nothing():
    index = adaptive(ids=np.arange(800))
    before = index.search(QUERIES, 5)
    bad = torch.cat([MORE[:1], torch.full((1, 32), torch.nan)])
    for change in (lambda: index.add(bad), lambda: index.add(MORE[:2], ids=[900, 5]), lambda: index.delete([3, 999]),
                   lambda: index.add(MORE[:2], ids=[901, 901]), lambda: index.add(MORE[:2, :8])):
        with pytest.raises(ValueError):
            change()
    assert len(index) == 800 and equal(index.search(QUERIES, 5), before) and index.add(MORE[:1]).tolist() == [800]


def test_everything_can_be_deleted_and_added_again(tmp_path):
    for stage in STAGES:
        index = adaptive(stage)
        index.delete(index.ids)
        assert len(index) == 0 and index.gallery.shape == (0, 32) and index.nbytes == 0
        with pytest.raises(ValueError, match="must hold at least one item to be searched"):
            index.search(QUERIES, 1)
        index.save(tmp_path / "empty")
        for each in (index, AdaptiveRetrieval.load(tmp_path / "empty")):
            each.add(MORE)
            assert each.search(MORE[:9], 1)[1].flatten().tolist() == list(range(800, 809))


def test_nothing_to_add_or_to_delete_is_no_error():
    index = adaptive()
    assert index.add(MORE[:0]).tolist() == [] and index.delete([]) is None and index.delete(np.array([])) is None
    assert len(index) == 800


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_additions_take_the_type_of_the_gallery(dtype, tmp_path):
    index = FunnelRetrieval(VECTORS.to(dtype), [8, 32], [60])
    for more in (MORE[:3].half(), MORE[:3].double().numpy()):
        index.add(more)
    assert index.gallery.dtype == dtype and index.search(MORE[:1], 2)[1].sort(1).values.tolist() == [[800, 803]]
    index.save(tmp_path / "index")
    assert equal(FunnelRetrieval.load(tmp_path / "index").search(QUERIES, 5), index.search(QUERIES, 5))


def test_an_emptied_index_of_texts_asks_for_texts_after_a_load(tmp_path):
    index = FunnelRetrieval(VECTORS[:2], [32], [], ids=["a", "b"])
    index.delete(["a", "b"])
    index.save(tmp_path / "empty")
    again = FunnelRetrieval.load(tmp_path / "empty")
    with pytest.raises(ValueError, match="ids must be given for new vectors, as the ids of this index are texts"):
        again.add(MORE[:1])
    assert again.add(MORE[:1], ids=["c"]).tolist() == ["c"] and again.search(MORE[:1], 1)[1].tolist() == [["c"]]


# --- what a change costs


def test_additions_move_few_rows_and_encode_only_what_is_new(monkeypatch):
    index, encoded, moves = adaptive(), [], []
    encode, reserve = type(index.codes).encode, GrowingRows.reserve

    def counted(rows: GrowingRows, count: int) -> None:
        before = rows._spare.data_ptr()
        reserve(rows, count)
        if rows._spare.data_ptr() != before:
            moves.append(rows._used)

    monkeypatch.setattr(type(index.codes), "encode", lambda s, rows: encoded.append(len(rows)) or encode(s, rows))
    monkeypatch.setattr(GrowingRows, "reserve", counted)
    first = index.rows["vectors"].fixed.data_ptr()
    for row in MORE:
        index.add(row[None])
    assert sum(encoded) == len(MORE) and index.rows["vectors"].fixed.data_ptr() == first == VECTORS.data_ptr()
    assert sum(moves) <= 800 + 2 * len(MORE) + 2 * 800  # the codes of the gallery once, then less than doubling twice


def test_rows_are_moved_together_when_most_are_empty(tmp_path):
    index = adaptive()
    index.delete(np.arange(0, 400))
    assert index.names.rows == 800 and index.nbytes == 800 * (32 + 8) * 4
    index.delete([400])
    assert index.names.rows == 399 and index.nbytes == 399 * (32 + 8) * 4
    np.save(tmp_path / "file.npy", VECTORS.numpy())
    mapped = AdaptiveRetrieval(np.load(tmp_path / "file.npy", mmap_mode="r"), 8, 32, 60, progress=False)
    mapped.delete(np.arange(700))
    assert mapped.names.rows == 800  # the rest might not fit into memory
    mapped.compact()
    assert mapped.names.rows == 100 and mapped.search(VECTORS[700:702], 1)[1].flatten().tolist() == [700, 701]


def test_growing_rows_give_what_one_tensor_gives():
    rows, whole = GrowingRows(EVERY[:7]), EVERY[:7]
    for count in (1, 3, 0, 20, 5):
        more = EVERY[len(whole) : len(whole) + count]
        rows.append(more)
        whole = torch.cat([whole, more])
        assert len(rows) == len(whole) and rows.nbytes == whole.nbytes
        for start in range(len(whole)):
            for stop in range(start, len(whole) + 1):
                assert torch.equal(rows.block(start, stop), whole[start:stop])
        chosen = torch.randperm(len(whole))
        assert torch.equal(rows.take(chosen), whole[chosen])
        assert torch.equal(rows.narrow(3).take(chosen), whole[chosen, :3])


# --- filters


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.02])
@pytest.mark.parametrize("block_bytes", [2**25, 400])
def test_k_results_come_back_whenever_k_are_allowed(stage, share, block_bytes):
    index = adaptive(stage, block_bytes=block_bytes)
    may = torch.rand(800, generator=torch.Generator().manual_seed(3)) < share
    k = min(10, int(may.sum()))
    scores, found = index.search(QUERIES, k, where=may)
    assert scores.isfinite().all() and may[found].all() and (scores.diff() <= 0).all()
    assert all(len(set(row)) == k for row in found.tolist())
    scores, found = index.search(QUERIES, min(60, k + 5), where=may, exclude=found)
    left = min(60, k + 5, int(may.sum()) - k)
    assert (found[:, :left] >= 0).all() and (found[:, left:] == -1).all() and scores[:, left:].isneginf().all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_filtered_search_is_a_search_of_what_is_allowed(metric):
    may = np.arange(800) % 3 == 1
    alone = FunnelRetrieval(VECTORS[may], [8, 32], [60], metric, ids=np.flatnonzero(may))
    expected = alone.search(QUERIES, 20)
    index = FunnelRetrieval(VECTORS, [8, 32], [60], metric)
    ways = {"mask": may, "tensor": torch.from_numpy(may), "list": may.tolist(), "function": lambda row: row % 3 == 1}
    for name, where in ways.items():
        scores, found = index.search(QUERIES, 20, where=where)
        assert torch.equal(found, expected[1]), name
        torch.testing.assert_close(scores, expected[0])
    many = np.arange(800) % 3 != 1  # two thirds: the others are hidden, not passed over
    alone = FunnelRetrieval(VECTORS[many], [8, 32], [60], metric, ids=np.flatnonzero(many))
    assert torch.equal(index.search(QUERIES, 20, where=many)[1], alone.search(QUERIES, 20)[1])


def test_a_mask_follows_ids_after_a_deletion():
    index = adaptive(ids=[f"v{i}" for i in range(800)])
    index.delete(["v0", "v5"])
    may = np.char.endswith(index.ids, "7")
    assert may.sum() == 80 and all(name.endswith("7") for name in index.search(QUERIES, 20, where=may)[1].flatten())


@pytest.mark.parametrize("stage", STAGES)
def test_each_query_leaves_out_its_own_item(stage):
    index = adaptive(stage)
    for where in (None, torch.arange(800) % 5 == 0, torch.arange(800) % 5 != 0):
        own = torch.arange(100)
        scores, found = index.search(VECTORS[:100], 5, where=where, exclude=own)
        assert not (found == own[:, None]).any() and scores.isfinite().all()
        with_own = index.search(VECTORS[:100], 6, where=where)[1]
        if stage == "float32":  # with the shortlist one longer at its end, nothing else changes
            expected = [[row for row in each if row != i][:5] for i, each in enumerate(with_own.tolist())]
            assert np.mean(np.array(expected) == found.numpy()) > 0.99


def test_exclude_takes_one_id_several_or_none():
    index = FunnelRetrieval(VECTORS[:3], [32], [], ids=["a", "b", "c"])
    scores, found = index.search(VECTORS[:4], 3, exclude=["a", ["a", "b", "c", "gone"], None, {"c"}])
    assert sorted(found[0]) == ["", "b", "c"] and found[1].tolist() == [""] * 3
    assert sorted(found[2]) == ["a", "b", "c"] and sorted(found[3]) == ["", "a", "b"]
    assert scores.isneginf().sum(1).tolist() == [1, 3, 0, 1]
    numbers = FunnelRetrieval(VECTORS[:3], [32], [])
    expected = numbers.search(VECTORS[:2], 3, exclude=[[0, 1], [2]])
    assert equal(numbers.search(VECTORS[:2], 3, exclude=np.array([[0, 1], [2, -1]])), expected)
    assert equal(numbers.search(VECTORS[:2], 3, exclude=[torch.tensor([0, 1]), np.int64(2)]), expected)


def test_filters_as_rows():
    names = RowIds(4, ["a", "b", "c", "d"])
    names.delete(["b"])
    assert allowed_rows(names, None).tolist() == [True, False, True, True]
    assert allowed_rows(names, [True, False, True]).tolist() == [True, False, False, True]
    assert rows_left_out(names, ["a", ["d", "b"]], 2).tolist() == [[0, -1], [3, -1]]
    assert rows_left_out(names, [None, []], 2) is None and allowed_rows(RowIds(3), None) is None


# --- rounded first stages


def test_int8_loses_half_a_step_at_most_in_every_dimension():
    rounded = Int8Codes.learn(32, VECTORS.split(300))
    kept = rounded.encode(VECTORS)["codes"]
    assert kept.dtype == torch.int8 and kept.shape == (800, 32)
    back = rounded.low + rounded.step * (kept.float() + 128)
    assert ((back - VECTORS).abs() <= 0.501 * rounded.step).all()
    torch.testing.assert_close(rounded.step, (VECTORS.amax(0) - VECTORS.amin(0)) / 255)
    assert (kept.amin(0) == -128).all() and (kept.amax(0) == 127).all()
    beyond = rounded.encode(100 * torch.sign(VECTORS[:1]))["codes"]
    assert set(beyond.flatten().tolist()) <= {-128, 127}


def test_int8_scores_are_products_with_the_rounded_rows():
    rounded = Int8Codes.learn(32, [VECTORS])
    kept = rounded.encode(VECTORS)
    back = rounded.low + rounded.step * (kept["codes"].float() + 128)
    difference = rounded.scores(QUERIES, kept) - QUERIES @ back.T
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference), atol=1e-4, rtol=0)


def test_a_constant_dimension_is_no_trouble():
    constant = torch.cat([VECTORS[:, :31], torch.full((800, 1), 0.25)], 1)
    for stage in ("int8", "binary"):
        index = AdaptiveRetrieval(constant, 32, 32, 60, first_stage=stage)
        assert index.search(constant[:50], 1)[1].flatten().tolist() == list(range(50))


@pytest.mark.parametrize("dim", [1, 8, 63, 64, 65, 200, 512])
def test_bits_are_counted_as_a_loop_would(dim):
    rows = torch.randn(300, dim, generator=torch.Generator().manual_seed(dim))
    binary = BinaryCodes.learn(dim, rows.split(70))
    kept = binary.encode(rows)
    assert kept["codes"].shape == (300, 8 * -(-dim // 64)) and kept["codes"].dtype == torch.uint8
    above = rows > rows.double().mean(0).float()
    expected = -(above[:9, None] != above[None]).sum(2).float()
    assert torch.equal(binary.scores(rows[:9], kept), expected)
    packed = kept["codes"][:9]
    assert torch.equal(codes._differing_by_product(packed, kept["codes"]), expected)  # as on a GPU
    assert torch.equal(codes._differing_by_count(packed, kept["codes"]), expected)


def test_the_share_of_differing_bits_estimates_the_angle():
    "Charikar (2002): the probability is angle / pi."
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3000, 256, generator=generator)
    b = a + torch.rand(3000, 1, generator=generator) * 3 * torch.randn(3000, 256, generator=generator)
    binary = BinaryCodes(256, torch.zeros(256))
    share = -binary.scores(a, binary.encode(b)).diagonal() / 256
    angle = F.cosine_similarity(a, b).arccos() / torch.pi
    assert float((share - angle).mean().abs()) < 0.003 and float((share - angle).std()) < 0.03


def recall(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found[:, :, None] == exact[:, None, :]).any(1).float().mean())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("stage, shortlist, least", [("int8", 12, 0.98), ("int8", 40, 0.999), ("binary", 200, 0.93),
                                                     ("binary", 600, 0.99)])
def test_recall_of_a_rounded_stage_against_exact_search(metric, stage, shortlist, least):
    "4,000 vectors in 100 classes with a falling spectrum and a common part; bits do not know the length that dot sees."
    least = least - 0.05 * (stage == "binary" and metric == "dot")
    vectors = simulated_embeddings(4100, 96, num_classes=100, exponent=0.3, noise=1.0, seed=5)[0] + 0.3
    gallery, queries = vectors[:4000], vectors[4000:]
    exact = FunnelRetrieval(gallery, [96], [], metric)
    index = AdaptiveRetrieval(gallery, 96, 96, shortlist, metric, first_stage=stage)
    scores, found = index.search(queries, 10)
    assert recall(found, exact.search(queries, 10)[1]) >= least
    torch.testing.assert_close(scores, plain_scores(queries, gallery, metric).gather(1, found), atol=2e-3, rtol=1e-4)


def test_the_centre_matters_where_vectors_share_a_part():
    vectors = F.normalize(simulated_embeddings(4100, 96, num_classes=100, noise=1.0, exponent=0.5)[0] + 0.5)
    gallery, queries = vectors[:4000], vectors[4000:]
    exact = FunnelRetrieval(gallery, [96], []).search(queries, 10)[1]
    shares = [recall(each.scores(queries, each.encode(gallery)).topk(100).indices, exact)
              for each in (BinaryCodes.learn(96, [gallery]), BinaryCodes(96, torch.zeros(96)))]
    assert shares[0] > 0.7 and shares[0] > 2 * shares[1]


def test_bytes_are_those_of_the_codes():
    assert adaptive("int8").index_bytes == 800 * 32 and adaptive("binary").index_bytes == 800 * 8
    euclidean = AdaptiveRetrieval(VECTORS, 32, 32, 60, "euclidean", first_stage="int8")
    assert euclidean.index_bytes == 800 * (32 + 4)  # a float32 length besides
    index = adaptive("binary")
    assert index.nbytes == 800 * (8 + 128)
    assert "800 items of 32 numbers" in repr(index) and "6,400 bytes of codes, 102,400 of vectors" in repr(index)
    index.add(MORE)
    index.delete(np.arange(100))
    assert "1,000 items" in repr(index) and index.index_bytes == 1100 * 8


def test_a_funnel_of_three_stages_may_begin_with_bits():
    index = FunnelRetrieval(VECTORS, [32, 32], [100], first_stage="binary")
    assert index.dims == (32, 32) and index.cost() == 800 * 32 + 100 * 32
    three = FunnelRetrieval(VECTORS, [16, 16, 32], [300, 60], first_stage="int8")
    exact = FunnelRetrieval(VECTORS, [32], []).search(QUERIES, 5)[1]
    assert recall(three.search(QUERIES, 5)[1], exact) > 0.95


# --- files


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("mapped", [True, False])
def test_a_loaded_index_gives_equal_bits(metric, stage, mapped, tmp_path):
    index = AdaptiveRetrieval(VECTORS, 16, 32, 60, metric, first_stage=stage, ids=[f"é{i}" for i in range(800)],
                              block_bytes=2**16)
    index.add(MORE, ids=[f"m{i}" for i in range(300)])
    index.save(tmp_path / "index.safetensors")
    again = AdaptiveRetrieval.load(tmp_path / "index.safetensors", mapped=mapped)
    assert equal(again.search(QUERIES, 20), index.search(QUERIES, 20)) and repr(again) == repr(index)
    assert equal(again.search(QUERIES.numpy(), 9, where=lambda name: name[0] == "m"),
                 index.search(QUERIES.numpy(), 9, where=lambda name: name[0] == "m"))
    assert torch.equal(again.gallery, index.gallery) and again.mapped == mapped


def test_what_was_deleted_is_not_written(tmp_path):
    index = adaptive(ids=[f"v{i}" for i in range(800)])
    index.delete([f"v{i}" for i in range(0, 300)])
    index.save(tmp_path)  # a folder
    content = (tmp_path / "index.safetensors").read_bytes()
    assert VECTORS[5].numpy().tobytes() not in content and VECTORS[500].numpy().tobytes() in content
    again = FunnelRetrieval.load(tmp_path)
    scores, found = again.search(QUERIES, 10)
    expected = index.search(QUERIES, 10)
    assert np.array_equal(found, expected[1]) and torch.allclose(scores, expected[0], atol=1e-6)


def test_a_file_is_written_in_blocks_some_of_which_may_be_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_WRITTEN_AT_ONCE", 32 * 4 * 50)
    index = adaptive("int8")
    index.add(MORE)
    index.delete(np.arange(120, 410))
    sizes = [len(block) for block in storage._blocks(index, index.rows["vectors"])]
    assert sizes == [50, 50, 20, 0, 0, 0, 0, 0, 40, *[50] * 13]
    index.save(tmp_path / "index")
    again = FunnelRetrieval.load(tmp_path / "index", mapped=False)
    assert torch.equal(again.gallery, index.gallery) and equal(again.search(QUERIES, 5), index.search(QUERIES, 5))


def test_the_file_is_one_that_the_library_reads(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file

    index = adaptive("int8", ids=np.arange(800) * 3)
    index.save(tmp_path / "index")
    tensors = load_file(tmp_path / "index")
    assert torch.equal(tensors["rows.vectors"], VECTORS) and tensors["ids"].tolist() == index.ids.tolist()
    assert torch.equal(tensors["rows.codes"], index.rows["codes"].block(0, 800))
    with safe_open(tmp_path / "index", framework="np") as file:
        assert json.loads(file.metadata()["settings"])["first_stage"] == "int8"
    assert (int.from_bytes((tmp_path / "index").read_bytes()[:8], "little") + 8) % 8 == 0


def test_an_interrupted_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    index, file = adaptive(), tmp_path / "index"
    index.save(file)
    before = file.read_bytes()
    index.add(MORE)
    blocks = storage._blocks

    def broken(*arguments):
        yield next(blocks(*arguments))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "_blocks", broken)
    with pytest.raises(OSError, match="No space left"):
        index.save(file)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_damaged_and_foreign_files_get_one_sentence(tmp_path):
    from safetensors.torch import save_file

    file, index = tmp_path / "index", adaptive("int8")
    index.save(file)
    whole = file.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    text = json.loads(whole[8 : 8 + header])

    def with_header(change) -> bytes:
        new = json.loads(json.dumps(text))
        change(new)
        content = json.dumps(new).encode()
        return len(content).to_bytes(8, "little") + content + whole[8 + header :]

    cases = {
        "empty": b"", "cut in the header": whole[:100], "cut in the numbers": whole[:-1], "another": b"hello" * 99,
        "longer": whole + b"1", "no settings": with_header(lambda h: h["__metadata__"].pop("settings")),
        "no kind": with_header(lambda h: h["__metadata__"].pop("kind")),
        "other stage": with_header(lambda h: h["__metadata__"].update(
            settings=h["__metadata__"]["settings"].replace("int8", "binary"))),
        "other dims": with_header(lambda h: h["__metadata__"].update(
            settings=h["__metadata__"]["settings"].replace("[32, 32]", "[16, 32]"))),
        "settings of another form": with_header(lambda h: h["__metadata__"].update(settings="[]")),
        "a setting more": with_header(lambda h: h["__metadata__"].update(
            settings=h["__metadata__"]["settings"].replace("{", '{"more": 1, ', 1))),
        "a bit of the numbers": whole[:-9] + bytes([whole[-9] ^ 8]) + whole[-8:],
    }
    for name, content in cases.items():
        file.write_bytes(content)
        with pytest.raises(DataFileError, match="^index is damaged or no index") as raised:
            FunnelRetrieval.load(file, mapped=name.startswith("a bit") is False)
            FunnelRetrieval.load(file, mapped=False)
        assert "\n" not in str(raised.value) and "argument" not in str(raised.value), name
    save_file({"x": VECTORS}, file)
    with pytest.raises(DataFileError, match="was not written by the save of an index"):
        FunnelRetrieval.load(file)
    Gallery(VECTORS, "v1").save(file)
    with pytest.raises(DataFileError, match="was not written by the save of an index"):
        FunnelRetrieval.load(file)
    for nowhere in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match="no index at"):
            FunnelRetrieval.load(nowhere)


def test_additions_to_a_mapped_index_leave_the_file_as_it_is(tmp_path):
    adaptive("binary", ids=np.arange(800)).save(tmp_path / "index")
    before = hashlib.sha256((tmp_path / "index").read_bytes()).hexdigest()
    index, reader = (AdaptiveRetrieval.load(tmp_path / "index") for _ in range(2))
    index.add(MORE, ids=np.arange(5000, 5300))
    index.delete([0, 1, 5000])
    assert index.search(MORE[1:3], 1)[1].flatten().tolist() == [5001, 5002]
    assert not torch.isin(index.search(VECTORS[:2], 40)[1], torch.tensor([0, 1, 5000])).any()
    assert hashlib.sha256((tmp_path / "index").read_bytes()).hexdigest() == before
    index.save(tmp_path / "index")  # over the file that both have mapped
    assert len(AdaptiveRetrieval.load(tmp_path / "index")) == 1097
    assert reader.search(VECTORS[:2], 1)[1].flatten().tolist() == [0, 1]


OPEN_A_FILE = """
import sys, time
import torch
from xfer_course.mrl import AdaptiveRetrieval


def memory(kind):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) * 1024


AdaptiveRetrieval.load(sys.argv[1]).search(torch.ones(1, 256), 5)  # what the libraries allocate once
resident, private = memory("VmRSS"), memory("RssAnon")
index = AdaptiveRetrieval.load(sys.argv[2], mapped=sys.argv[3] == "mapped")
opened = memory("VmRSS") - resident
found = index.search(torch.ones(1, 256), 5)[1]
print(opened, memory("RssAnon") - private, found.min().item())
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux to read the memory of a process")
def test_a_mapped_index_is_not_read_when_it_is_opened(tmp_path):
    "51 MB of vectors and 1.6 MB of codes: what opening brings into memory, and what a search keeps besides the file."
    vectors = torch.randn(50_000, 256, generator=torch.Generator().manual_seed(0))
    AdaptiveRetrieval(vectors[:500], 256, 256, 50, first_stage="binary").save(tmp_path / "small")
    AdaptiveRetrieval(vectors, 256, 256, 50, first_stage="binary").save(tmp_path / "index")
    took = {}
    for way in ("mapped", "read"):
        done = subprocess.run([sys.executable, "-c", OPEN_A_FILE, tmp_path / "small", tmp_path / "index", way],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        opened, private, least = map(int, done.stdout.split())
        assert least >= 0
        took[way] = opened, private
    assert took["mapped"][0] < 2e6 and took["mapped"][1] < 10e6 and took["read"][0] > 50e6, took


# --- numbers in any unit


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
@pytest.mark.parametrize("stage", ["float32", "int8"])
def test_distances_far_from_zero_are_those_of_brute_force(offset, stage, tmp_path):
    """|q - g|^2 from products of numbers that all lie far from zero would be rounding alone."""
    gallery, more = VECTORS + offset, MORE + offset
    index = FunnelRetrieval(gallery, [32, 32], [100], "euclidean", first_stage=stage) if stage != "float32" else (
        FunnelRetrieval(gallery, [32], [], "euclidean"))
    index.add(more)
    index.save(tmp_path / "index")
    everything = torch.cat([gallery, more])
    distances = torch.cdist((QUERIES + offset).double(), everything.double())  # of the numbers as they are rounded
    for each in (index, FunnelRetrieval.load(tmp_path / "index")):
        scores, ids = each.search(QUERIES + offset, 5)
        expected = distances.topk(5, largest=False)
        assert (ids == expected.indices).float().mean() > (0.999 if stage == "float32" else 0.97)
        torch.testing.assert_close(-scores.double(), distances.gather(1, ids), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("unit", [1e-20, 1e20])
def test_vectors_whose_length_is_lost_in_rounding_are_refused(unit):
    with pytest.raises(ValueError, match=r"gallery\[0\] must have its largest number between 1e-15 and 1e15"):
        FunnelRetrieval(unit * VECTORS, [32], [])
    with pytest.raises(ValueError, match=r"queries\[0\] must have its largest number between"):
        FunnelRetrieval(VECTORS, [32], []).search(unit * QUERIES, 3)


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_scores_never_leave_single_precision_in_silence(unit, metric):
    with pytest.raises(ValueError, match="gallery must have its largest number between 1e-15 and 1e15"):
        FunnelRetrieval(unit * VECTORS, [32], [], metric)
    index = FunnelRetrieval(VECTORS, [32], [], metric)
    with pytest.raises(ValueError, match="queries must have its largest number between"):
        index.search(unit * QUERIES, 3)
    with pytest.raises(ValueError, match="vectors must have its largest number between"):
        index.add(unit * VECTORS[:1])
    index.add(torch.zeros(1, 32), ids=[10**6])  # zeros have a place here


# --- faiss


def test_without_faiss_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"to_faiss needs faiss: pip install 'xfer_course\[faiss\]'"):
        adaptive().to_faiss()


class Flat:
    "As much of a flat index of faiss as the export uses: it notes what it is given."

    def __init__(self, dim: int) -> None:
        self.d, self.rows, self.ids = dim, [], []

    def add_with_ids(self, rows: np.ndarray, ids: np.ndarray) -> None:
        assert rows.dtype == np.float32 and rows.flags.c_contiguous and ids.dtype == np.int64
        assert rows.shape == (len(ids), self.d)
        self.rows.append(rows.copy())
        self.ids.append(ids.copy())


@pytest.mark.parametrize("metric", METRICS)
def test_faiss_is_given_the_items_with_their_ids(metric, monkeypatch):
    inner, distance = type("IndexFlatIP", (Flat,), {}), type("IndexFlatL2", (Flat,), {})
    faiss = types.SimpleNamespace(IndexFlatIP=inner, IndexFlatL2=distance, IndexIDMap2=lambda flat: flat)
    monkeypatch.setitem(sys.modules, "faiss", faiss)
    index = FunnelRetrieval(VECTORS.double(), [4, 16], [60], metric, ids=np.arange(800) + 7)
    index.add(MORE, ids=np.arange(10_000, 10_300))
    index.delete([7, 8])
    found = index.to_faiss()
    assert type(found) is (distance if metric == "euclidean" else inner) and found.d == 16
    expected = torch.cat([VECTORS[2:], MORE])[:, :16]
    expected = F.normalize(expected) if metric == "cosine" else expected
    assert np.allclose(np.concatenate(found.rows), expected, atol=1e-6)
    assert np.concatenate(found.ids).tolist() == index.ids.tolist()
    texts = FunnelRetrieval(VECTORS[:3], [32], [], ids=["a", "b", "c"]).to_faiss()
    assert np.concatenate(texts.ids).tolist() == [0, 1, 2]


@pytest.mark.parametrize("metric", METRICS)
def test_faiss_finds_the_same_items(metric):
    pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")
    index = FunnelRetrieval(VECTORS, [32], [], metric, ids=np.arange(800) * 10)
    index.delete([0, 50])
    queries = F.normalize(QUERIES) if metric == "cosine" else QUERIES
    scores, ids = index.to_faiss().search(queries.numpy(), 7)
    expected = index.search(QUERIES.numpy(), 7)
    assert (ids == expected[1]).mean() > 0.99
    np.testing.assert_allclose(-np.sqrt(scores) if metric == "euclidean" else scores, expected[0], atol=2e-3)


# --- a gallery


def test_a_gallery_keeps_labels_with_its_items(tmp_path):
    labels = torch.arange(800) % 20
    gallery = Gallery(VECTORS, "v1", labels, ids=[f"g{i}" for i in range(800)])
    gallery.add(MORE, "v1", torch.arange(300) % 20 + 100, ids=[f"m{i}" for i in range(300)])
    gallery.delete([f"g{i}" for i in range(0, 800, 2)])
    assert len(gallery) == 700 == len(gallery.embeddings) and gallery.bytes == 700 * 32 * 4
    expected = [int(n[1:]) % 20 + (100 if n[0] == "m" else 0) for n in gallery.index.ids]
    assert gallery.labels.tolist() == expected
    assert gallery.search(MORE[:3], "v1", exclude=["m0", None, "m2"])[1].flatten().tolist()[1] == "m1"
    check = gallery.check_upgrade("v2", MORE[:50], MORE[:50], torch.arange(50) % 20 + 100)
    assert check.old_self == check.cross == 1.0
    gallery.save(tmp_path / "gallery")
    again = Gallery.load(tmp_path / "gallery")
    assert again.index.ids.tolist() == gallery.index.ids.tolist() and torch.equal(again.labels, gallery.labels)
    assert equal(again.search(QUERIES, "v1", 5), gallery.search(QUERIES, "v1", 5))


def test_a_gallery_never_gives_a_number_twice(tmp_path):
    gallery = Gallery(VECTORS[:5], "v1")
    gallery.delete([4])
    gallery.save(tmp_path / "gallery")
    assert Gallery.load(tmp_path / "gallery").add(MORE[:1], "v1").tolist() == [5]


@pytest.mark.parametrize("change, sentence", [
    (lambda g: g.add(MORE, "v2", torch.zeros(300, dtype=torch.long)), "version must be 'v1', as for the other vectors"),
    (lambda g: g.add(MORE, "v1"), "labels must be given, as the gallery has some, got NoneType"),
    (lambda g: g.add(MORE, "v1", torch.zeros(3, dtype=torch.long)), r"labels must be int64 of shape \(300,\)"),
    (lambda g: g.add(MORE[:, :8], "v1", torch.zeros(300, dtype=torch.long)), "vectors must have 32 dimensions"),
    (lambda g: g.delete([900]), "ids must be in this index, got 900"),
])
def test_a_gallery_refuses_what_does_not_belong(change, sentence):
    gallery = Gallery(VECTORS, "v1", torch.zeros(800, dtype=torch.long), compatible=["v2"])
    with pytest.raises(ValueError, match=sentence):
        change(gallery)
    assert len(gallery) == len(gallery.labels) == 800


# --- bad input


BAD = {
    "an id twice": (lambda: adaptive(ids=[1] * 800), ValueError, "ids must be distinct, got 1 800 times"),
    "a text twice": (lambda: adaptive(ids=["a"] * 800), ValueError, "ids must be distinct, got 'a' 800 times"),
    "too few ids": (lambda: adaptive(ids=[1, 2]), ValueError, "ids must be one for each of the 800 vectors, got 2"),
    "ids with a fraction": (lambda: adaptive(ids=np.arange(800.0)), TypeError,
                            r"ids must be whole numbers below 2\^63 or texts, got float64 up to 799.0"),
    "ids of truth values": (lambda: adaptive(ids=[True] * 800), TypeError, "all of one kind, got bool"),
    "ids of two kinds": (lambda: adaptive(ids=[1, "a"] * 400), TypeError, "all of one kind, got int and str"),
    "ids beyond 64 bits": (lambda: adaptive(ids=[2**63, *range(799)]), TypeError, r"below 2\^63 or texts"),
    "unsigned ids beyond 63 bits": (lambda: adaptive(ids=np.arange(800, dtype=np.uint64) + np.uint64(2**63)), TypeError,
                                    r"below 2\^63 or texts, got uint64 up to"),
    "one text as ids": (lambda: adaptive(ids="abc"), ValueError, r"ids must be of shape \(N\), got \(\)"),
    "the id of nobody": (lambda: adaptive(ids=np.arange(800) - 1), ValueError, "ids must not be -1, which stands for"),
    "the text of nobody": (lambda: adaptive(ids=["", *map(str, range(799))]), ValueError, "ids must not be ''"),
    "an id that is there": (lambda: adaptive().add(MORE[:1], ids=[5]), ValueError,
                            "ids must be new, got 5, which is there: delete it first"),
    "an id of another kind": (lambda: adaptive().add(MORE[:1], ids=["a"]), TypeError,
                              "ids must be whole numbers, as the ids of this index, got 'a'"),
    "no ids among texts": (lambda: adaptive(ids=list(map(str, range(800)))).add(MORE[:1]), ValueError,
                           "ids must be given for new vectors, as the ids of this index are texts"),
    "no number left": (lambda: adaptive(ids=np.arange(800) + (2**63 - 800)).add(MORE[:1]), ValueError,
                       "no number follows 9223372036854775807"),
    "to delete what is not there": (lambda: adaptive().delete([3, 800]), ValueError,
                                    "ids must be in this index, got 800, which is not"),
    "NaN to add": (lambda: adaptive().add(MORE[:2] * torch.nan), ValueError, r"vectors\[0:2\] must be finite, got nan"),
    "too large for half precision": (lambda: FunnelRetrieval(VECTORS.half(), [32], []).add(MORE[:1] * 1e6), ValueError,
                                     "must be finite, got -?inf"),
    "zeros to add": (lambda: adaptive().add(torch.zeros(1, 32)), ValueError, "vectors.0. must be finite and not all"),
    "another width": (lambda: adaptive().add(MORE[:, :8]), ValueError,
                      "vectors must have 32 dimensions, as the gallery has, got 8"),
    "a single vector": (lambda: adaptive().add(MORE[0]), ValueError, r"vectors must be of shape \(N D\), got \(32,\)"),
    "a short mask": (lambda: adaptive().search(QUERIES, 1, where=[True]), ValueError,
                     r"where must be a function of an id, or a mask of truth values \(800,\) .* got bool \(1,\)"),
    "a mask of numbers": (lambda: adaptive().search(QUERIES, 1, where=np.ones(800, int)), ValueError, "got int64"),
    "one exclusion for many": (lambda: adaptive().search(QUERIES, 1, exclude=[5]), ValueError,
                               "exclude must be an id, a list of ids or None for each of the 100 queries, got 1"),
    "an exclusion of another kind": (lambda: adaptive().search(QUERIES[:1], 1, exclude=["a"]), TypeError,
                                     "exclude must be whole numbers, as the ids of this index, got 'a'"),
    "an unknown stage": (lambda: adaptive("int4"), ValueError, "first_stage must be one of 'float32', 'int8', 'binary"),
    "rounded and no shortlist": (lambda: FunnelRetrieval(VECTORS, [32], [], first_stage="int8"), ValueError,
                                 "dims must be at least two sizes, none below the first, as the scores"),
    "k above what is left": (lambda: FunnelRetrieval(VECTORS[:3], [32], []).search(QUERIES, 4), ValueError,
                             "k must be a whole number from 1 to 3, got 4"),
    "an unwritable type": (lambda: FunnelRetrieval(VECTORS.to(torch.float8_e5m2), [32], []).save("x"), ValueError,
                           "type of the vectors must be one of"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_sentence(name):
    action, error, sentence = BAD[name]
    with pytest.raises(error, match=sentence) as raised:
        action()
    assert "\n" not in str(raised.value)
