"""Files of weights: read and written piece by piece, merged in little memory, and a report that tells the truth."""
from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from conftest import ROOT
from xfer_course.data import DataFileError
from xfer_course.merging import (
    MERGE_METHODS,
    Closeness,
    DigitNetwork,
    add_vectors,
    closeness,
    fisher_diagonal,
    fisher_merge,
    layer_of,
    least_squares_merge,
    match_permutation,
    merge,
    merge_states,
    network_with,
    open_weights,
    permuted,
    report_from_json,
    reset_statistics,
    score_merge,
    some_inputs,
    task_vector,
    weighted_mean,
    weights_of,
    write_weights,
)


def network(seed: int = 0, norm: str = "layer", classes: int = 4) -> DigitNetwork:
    torch.manual_seed(seed)
    return DigitNetwork(width=3, norm=norm, classes=classes).eval()


def images(rows: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 1, 14, 14, generator=torch.Generator().manual_seed(seed))


def saved(folder: Path, name: str, state: dict[str, torch.Tensor] | nn.Module, **metadata: str) -> Path:
    state = state.state_dict() if isinstance(state, nn.Module) else state
    save_file({key: x.contiguous() for key, x in state.items()}, folder / f"{name}.safetensors", metadata or None)
    return folder / f"{name}.safetensors"


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    return saved(tmp_path, "a", network(1)), saved(tmp_path, "b", network(2))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(x.dtype == other[name].dtype and torch.equal(x, other[name])
                                              for name, x in one.items())


# --- reading and writing

KINDS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64,
         torch.int64, torch.int8, torch.uint16, torch.bool)


def test_every_kind_of_number_is_written_as_the_library_reads_it(tmp_path):
    state = {f"{kind}": torch.arange(6).reshape(2, 3).to(kind) for kind in KINDS}
    state |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    write_weights(tmp_path / "x.safetensors", weights_of(state), numbers=4, metadata={"about": "é"})
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == state.keys()
    for name, x in state.items():
        assert found[name].dtype == x.dtype and found[name].shape == x.shape
        assert found[name].reshape(-1).view(torch.uint8).tolist() == x.reshape(-1).view(torch.uint8).tolist()
    assert open_weights(tmp_path / "x.safetensors").metadata == {"about": "é"}


def test_pieces_joined_are_the_tensor(tmp_path):
    x = torch.randn(7, 3).half()
    weights = open_weights(saved(tmp_path, "x", {"first": torch.arange(5), "x": x}))
    places = (0, 4, 5, 20, 21)
    assert torch.equal(torch.cat([weights.piece("x", *ends) for ends in pairwise(places)]), x.flatten())
    assert weights.piece("x", 19, 99).tolist() == x.flatten()[19:].tolist()


def test_files_of_pytorch_are_read_wherever_the_weights_are_in_them(tmp_path):
    state, found = dict(network().state_dict()), []
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": x for name, x in state.items()}}, tmp_path / "nested.pth")
    torch.save({"model": state}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("plain.pt", "nested.pth", "old.pt"):
        found.append(open_weights(tmp_path / name).state())
    assert all(equal(each, state) for each in found)


def test_several_files_with_an_index_are_one(tmp_path):
    saved(tmp_path, "part-1", {"a": torch.ones(2)})
    saved(tmp_path, "part-2", {"b": torch.zeros(3)})
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert equal(open_weights(tmp_path).state(), {"a": torch.ones(2), "b": torch.zeros(3)})


def test_files_that_cannot_be_read_are_named(tmp_path):
    file = saved(tmp_path, "a", network())
    (tmp_path / "short.safetensors").write_bytes(file.read_bytes()[:-8])
    (tmp_path / "junk.pt").write_bytes(b"nothing")
    torch.save({"a": torch.ones(1), "b": "a text"}, tmp_path / "odd.pt")
    torch.save({"a": Path("x")}, tmp_path / "program.pt")
    for name, error, words in (("none.safetensors", FileNotFoundError, "is not there"),
                               ("short.safetensors", DataFileError, "damaged"),
                               ("junk.pt", ValueError, "junk.pt"), ("odd.pt", ValueError, "named tensors, got str"),
                               ("program.pt", ValueError, "got something else")):
        with pytest.raises(error, match=words):
            open_weights(tmp_path / name)
    with pytest.raises(TypeError, match="must be given as a path"):
        open_weights(None)


def test_a_writer_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path):
    weights = weights_of({"x": torch.ones(100)})
    write_weights(tmp_path / "x.safetensors", weights)
    before = (tmp_path / "x.safetensors").read_bytes()

    def broken(name: str, start: int, stop: int) -> torch.Tensor:
        if start >= 50:
            raise KeyboardInterrupt
        return torch.zeros(stop - start)

    with pytest.raises(KeyboardInterrupt):
        write_weights(tmp_path / "x.safetensors", weights, broken, numbers=10)
    assert [each.name for each in tmp_path.iterdir()] == ["x.safetensors"]
    assert (tmp_path / "x.safetensors").read_bytes() == before


def test_a_network_takes_weights_by_name_and_refuses_those_of_another():
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    state = {name: torch.full_like(x, 2) for name, x in tied.state_dict().items() if name != "1.weight"}
    assert network_with(tied, weights_of(state))[1].weight.tolist() == [[2.0] * 3] * 3, "of tied tensors one is enough"
    assert not torch.equal(tied[0].weight, torch.full((3, 3), 2.0)), "a copy"
    for odd, words in ((dict(network().state_dict()) | {"more": torch.ones(1)}, "'more'"),
                       (network(classes=5).state_dict(), "size mismatch for head")):
        with pytest.raises(ValueError, match=words):
            network_with(network(), weights_of(odd))


# --- the methods are those of the chapter


@pytest.mark.parametrize("weights", [None, [3.0, 1.0]])
def test_a_mean_of_files_is_the_mean_of_states_to_the_bit(tmp_path, pair, weights):
    merge(*pair, out=tmp_path / "m.safetensors", weights=weights)
    assert equal(load_file(tmp_path / "m.safetensors"), weighted_mean([load_file(each) for each in pair], weights))


def test_three_files_may_be_merged(tmp_path, pair):
    third = saved(tmp_path, "c", network(3))
    report = merge(*pair, third, out=tmp_path / "m.safetensors")
    states = [load_file(each) for each in (*pair, third)]
    assert equal(load_file(tmp_path / "m.safetensors"), weighted_mean(states))
    assert len(report.tensors[0].near) == 2 and "distance (c.safetensors)" in str(report)


def test_task_vectors_of_files_are_those_of_states(tmp_path, pair):
    base = saved(tmp_path, "base", network(0))
    before, *after = (load_file(each) for each in (base, *pair))
    for weights, scales in ((None, [0.4, 0.4]), ([1.0, -0.5], [1.0, -0.5])):
        merge(*pair, out=tmp_path / "m.safetensors", method="task_vectors", base=base, weights=weights)
        wanted = add_vectors(before, [task_vector(before, each) for each in after], scales)
        assert equal(load_file(tmp_path / "m.safetensors"), wanted)


def test_fisher_merging_of_files_is_that_of_states(tmp_path, pair):
    networks = [network(seed) for seed in (1, 2)]
    found = [fisher_diagonal(each, images()) for each in networks]
    wanted = fisher_merge([each.state_dict() for each in networks], found, [2, 1])
    files = [saved(tmp_path, f"fisher {i}", each) for i, each in enumerate(found)]
    merge(*pair, out=tmp_path / "m.safetensors", method="fisher", fishers=files, weights=[2, 1])
    torch.testing.assert_close(load_file(tmp_path / "m.safetensors"), wanted, rtol=1e-5, atol=1e-7)
    merge(*pair, out=tmp_path / "n.safetensors", method="fisher", weights=[2, 1], model=network(), images=images())
    torch.testing.assert_close(load_file(tmp_path / "n.safetensors"), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["match_weights", "match_activations", "least_squares"])
def test_permutations_of_files_are_those_of_networks(tmp_path, pair, method):
    first, second = network(1), network(2)
    report = merge(*pair, out=tmp_path / "m.safetensors", method=method, model=network(), images=images())
    by = "weights" if method == "match_weights" else "activations"
    matching = match_permutation(first, second, images(), by)
    states = [first.state_dict(), permuted(second, matching).state_dict()]
    wanted = (least_squares_merge(first, second, images(), matching=matching).state_dict()
              if method == "least_squares" else weighted_mean(states))
    torch.testing.assert_close(load_file(tmp_path / "m.safetensors"), dict(wanted), rtol=1e-4, atol=1e-5)
    moved = {name: int((order != torch.arange(len(order))).sum()) for name, order in matching.order.items()}
    assert {name: each[1] for name, each in report.units.items()} == moved and sum(moved.values()) > 0
    head = next(x for x in report.tensors if x.name == "head.weight")
    assert head.near[0] == pytest.approx(closeness(*(each["head.weight"] for each in states))), "behind the permutation"


def test_batch_norm_is_measured_anew_where_a_network_and_inputs_are_given(tmp_path):
    pair = [saved(tmp_path, name, reset_statistics(network(seed, "batch"), images(seed=seed)))
            for name, seed in (("a", 1), ("b", 2))]
    wanted = network(norm="batch")
    wanted.load_state_dict(weighted_mean([load_file(each) for each in pair]))
    plain = merge(*pair, out=tmp_path / "plain.safetensors")
    assert equal(load_file(tmp_path / "plain.safetensors"), dict(wanted.state_dict())) and not plain.measured
    report = merge(*pair, out=tmp_path / "m.safetensors", model=network(norm="batch"), images=images(seed=5))
    found, wanted = load_file(tmp_path / "m.safetensors"), reset_statistics(wanted, images(seed=5)).state_dict()
    statistics = [name for name in found if "running" in name]
    assert report.measured and len(statistics) == 4
    for name in found:
        if "num_batches" not in name:
            assert torch.equal(found[name], wanted[name]), name
    assert {x.name for x in report.tensors if x.note == "measured anew"} == set(statistics)


# --- what differs between files


def test_the_first_file_decides_kinds_of_numbers_and_whole_numbers(tmp_path):
    one = {"w": torch.tensor([1.0, 2.0]).half(), "count": torch.tensor(7), "mask": torch.tensor([0.0, -torch.inf])}
    other = {"w": torch.tensor([2.0, 2.0]), "count": torch.tensor(9), "mask": torch.tensor([0.0, -torch.inf])}
    report = merge(saved(tmp_path, "a", one), saved(tmp_path, "b", other), out=tmp_path / "m.safetensors")
    assert equal(load_file(tmp_path / "m.safetensors"), one | {"w": torch.tensor([1.5, 2.0]).half()})
    said = {x.name: (x.how, x.note) for x in report.tensors}
    assert said == {"w": ("merged", "float32 in b.safetensors"), "mask": ("equal", ""),
                    "count": ("whole numbers", "others have other numbers")}


@pytest.mark.parametrize("change, words", [
    (lambda s: {"extra": torch.ones(1)}, r"a.safetensors must have the tensors of .*b.safetensors, got none .*'extra'"),
    (lambda s: {"head.bias": torch.ones(9)}, r"'head.bias' must have one shape in all files, got \(4,\).* and \(9,\)"),
    (lambda s: {"head.bias": torch.arange(4)}, r"'head.bias' must hold real numbers in all files or in none"),
    (lambda s: {"head.bias": None}, r"b.safetensors must have the tensors of .*, got none called 'head.bias': keep="),
    (lambda s: {"head.bias": torch.full((4,), torch.nan)}, r"must be finite where they differ, got NaN .*'head.bias'"),
])
def test_what_does_not_fit_is_refused_in_a_sentence_and_nothing_is_written(tmp_path, change, words):
    state = dict(network(2).state_dict())
    state = {name: x for name, x in (state | change(state)).items() if x is not None}
    files = saved(tmp_path, "a", network(1)), saved(tmp_path, "b", state)
    with pytest.raises(ValueError, match=words):
        merge(*files, out=tmp_path / "m.safetensors")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_what_is_kept_is_that_of_the_first_file(tmp_path):
    state = dict(network(2, classes=9).state_dict()) | {"extra": torch.ones(1)}
    files = saved(tmp_path, "a", network(1)), saved(tmp_path, "b", state)
    report = merge(*files, out=tmp_path / "m.safetensors", keep=["head.*", "extra"])
    found, own = load_file(tmp_path / "m.safetensors"), load_file(files[0])
    assert equal({name: found[name] for name in own if "head" in name},
                 {name: own[name] for name in own if "head" in name})
    assert torch.equal(found["body.0.bias"], (own["body.0.bias"] + state["body.0.bias"]) / 2)
    assert report.left_out == (("extra", str(files[1])),) and "Left out, in other files alone: extra" in str(report)
    with pytest.raises(ValueError, match="keep must fit names of tensors, got 'haed.*', which fits none"):
        merge(*files, out=tmp_path / "m.safetensors", keep=["haed.*"])


def test_tied_tensors_have_to_agree_and_one_name_of_them_is_enough(tmp_path):
    x, y = torch.randn(4), torch.randn(4)
    torch.save({"in": x, "out": x}, tmp_path / "a.pt")
    alike = saved(tmp_path, "alike", {"in": y, "out": y.clone()})
    one_name, torn = saved(tmp_path, "one", {"in": y}), saved(tmp_path, "torn", {"in": y, "out": y + 1})
    for other in (alike, one_name):
        report = merge(tmp_path / "a.pt", other, out=tmp_path / "m.safetensors")
        assert equal(load_file(tmp_path / "m.safetensors"), merge_states(
            [{"in": x, "out": x}, {"in": y, "out": y}], lambda name, parts: sum(0.5 * part for part in parts)))
        assert report.tensors[1].note == "tied to in"
    merge(one_name, tmp_path / "a.pt", out=tmp_path / "n.safetensors")
    assert list(load_file(tmp_path / "n.safetensors")) == ["in"]
    with pytest.raises(ValueError, match="must agree about ties, got 'in' and 'out' with different values"):
        merge(tmp_path / "a.pt", torn, out=tmp_path / "o.safetensors")


@pytest.mark.parametrize("given, words", [
    ({"method": "median"}, "method must be one of 'mean'"),
    ({"method": "task_vectors"}, "base must be the file .* for the method 'task_vectors', got None"),
    ({"method": "fisher"}, "fishers must be a file for each file, or model and images"),
    ({"method": "match_weights"}, "model and images must be given, .* for the method 'match_weights'"),
    ({"method": "least_squares", "model": network(), "images": images(), "weights": [1, 2]}, "weights must be None"),
    ({"fishers": ["x"]}, "fishers must be a list of files, for the method 'fisher' alone"),
    ({"model": network()}, "model and images must be given together, .* got model alone"),
    ({"labels": torch.zeros(3).long()}, "got labels alone"),
    ({"weights": [1, 2, 3]}, r"weights must have as many rows as files \(2\), got 3"),
    ({"weights": [-1, 2]}, "weights must be at least 0"),
    ({"out": "m.bin"}, "the ending of out must be one of '.safetensors', got '.bin'"),
    ({"keep": "head.*"}, "keep must be a list of texts"),
])
def test_arguments_that_do_not_fit_are_refused_by_name(tmp_path, pair, given, words):
    with pytest.raises((ValueError, TypeError), match=words):
        merge(*pair, **({"out": tmp_path / "m.safetensors"} | given))


def test_a_file_that_is_read_is_never_overwritten(tmp_path, pair):
    before = pair[0].read_bytes()
    for out in (pair[0], tmp_path / "x" / ".." / "a.safetensors"):
        with pytest.raises(ValueError, match="out must be another file than those that are read"):
            merge(*pair, out=out)
    assert pair[0].read_bytes() == before


def test_three_files_cannot_be_matched(tmp_path, pair):
    with pytest.raises(ValueError, match="files must be two for the method 'match_weights', got 3"):
        merge(*pair, pair[0], out=tmp_path / "m.safetensors", method="match_weights", model=network(), images=images())


def test_the_texts_of_the_first_file_go_along_and_say_what_was_merged(tmp_path):
    files = saved(tmp_path, "a", network(1), about="mine"), saved(tmp_path, "b", network(2), about="yours")
    merge(*files, out=tmp_path / "m.safetensors", weights=[1, 3])
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        said = file.metadata()
    assert said["about"] == "mine" and json.loads(said["merged"]) == {
        "method": "mean", "files": ["a.safetensors", "b.safetensors"], "weights": [1.0, 3.0]}


# --- the report


def test_closeness_is_that_of_the_whole_whatever_the_pieces():
    x, y = torch.randn(2, 50, dtype=torch.float64)
    found = sum((closeness(x[a:b], y[a:b]) for a, b in ((0, 7), (7, 7), (7, 50))), Closeness())
    assert found.distance == pytest.approx(float((x - y).norm() / x.norm()))
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(x, y, 0)))
    assert closeness(x, x).distance == 0 and closeness(x, -3 * x).cosine == -1
    assert str(closeness(x * 0, x).cosine) == "nan"
    masked = closeness(torch.tensor([1.0, -torch.inf]), torch.tensor([2.0, -torch.inf]))
    assert masked == Closeness(2.0, 1.0, 4.0, 1.0)


def test_layers_are_cut_behind_their_first_number():
    assert [layer_of(name) for name in ("layer1.0.bn.weight", "h.11.attn.c_attn.weight", "fc.bias", "cls_token",
                                        "0.weight", "encoder.layers2.weight")] == [
        "layer1.0", "h.11", "fc", "cls_token", "0", "encoder.layers2"]


def test_the_report_says_distances_changes_and_where_tensors_came_from(tmp_path, pair):
    base = saved(tmp_path, "base", network(0))
    report = merge(*pair, out=tmp_path / "m.safetensors", base=base)
    before, one, other = (load_file(each)["head.weight"].flatten().double() for each in (base, *pair))
    head = next(x for x in report.tensors if x.name == "head.weight")
    assert head.near[0].distance == pytest.approx(float((one - other).norm() / one.norm()))
    assert head.changes[0].cosine == pytest.approx(float(torch.cosine_similarity(one - before, other - before, 0)),
                                                   abs=1e-6)
    assert "| head | 2 |" in str(report) and "cosine of changes" in str(report)
    assert "<table>" in report._repr_html_() and report_from_json(report.json) == report


def test_scores_are_those_of_the_networks(tmp_path, pair):
    x, y = images(60, seed=3), torch.arange(60) % 4
    report = merge(*pair, out=tmp_path / "m.safetensors", model=network(), images=x, labels=y)
    networks = {str(file): network(seed) for file, seed in zip(pair, (1, 2))}
    networks["merged"] = network_with(network(), open_weights(tmp_path / "m.safetensors"))
    with torch.no_grad():
        said = {who: each(x) for who, each in networks.items()}
        said["their outputs averaged"] = sum(said[str(file)].softmax(1) for file in pair)
    assert dict(report.scores.accuracy) == pytest.approx(
        {who: float((each.argmax(1) == y).float().mean()) for who, each in said.items()})
    line = dict(zip(report.scores.places, report.scores.line))
    ends = [report.scores.accuracy[str(file)] for file in pair]
    assert [line[0.0], line[1.0], line[0.5]] == pytest.approx([*ends, report.scores.accuracy["merged"]])
    assert report_from_json(report.json) == report
    assert score_merge(report, network(), x, y, places=3).scores.places == (0.0, 0.5, 1.0)


def test_a_file_whose_head_was_not_kept_has_no_score_of_its_own(tmp_path):
    files = saved(tmp_path, "a", network(1)), saved(tmp_path, "b", network(2, classes=9))
    report = merge(*files, out=tmp_path / "m.safetensors", keep=["head.*"], model=network(), images=images(),
                   labels=torch.arange(40) % 4)
    assert list(report.scores.accuracy) == [str(files[0]), "merged"] and len(report.scores.line) == 11


def test_inputs_are_spread_over_a_data_set():
    x = torch.arange(10.0).unsqueeze(1)
    data = torch.utils.data.TensorDataset(x, torch.zeros(10))
    assert some_inputs(data, 4).flatten().tolist() == some_inputs(x, 4).flatten().tolist() == [0, 3, 6, 9]
    assert len(some_inputs(x, 99)) == 10
    for odd in ([x], None, torch.zeros(0, 3), torch.tensor(1.0)):
        with pytest.raises((ValueError, TypeError), match="images"):
            some_inputs(odd)


# --- memory, and a run that is broken off

PROGRAM = """
import resource, sys
from xfer_course.merging import merge
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
merge(*sys.argv[4:], out=sys.argv[2])  # small: everything that is imported is in memory now
before = peak()
merge(sys.argv[1], sys.argv[1].replace("one", "other"), out=sys.argv[3])
print(peak() - before)
"""


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("tensors", [1, 60])
def test_a_merge_needs_less_memory_than_one_model_and_a_half(tmp_path, pair, tensors):
    "Of a third of a gigabyte, in one tensor or in sixty; in fact it needs a small part of one model."
    numbers = 80 * 2**20 // tensors
    for name, value in (("one", 1.0), ("other", 3.0)):
        like = weights_of({f"w{i}": torch.zeros(1) for i in range(tensors)})
        whole = {name: part._replace(shape=(numbers,)) for name, part in like.parts.items()}
        write_weights(tmp_path / f"{name}.safetensors", type(like)("zeros", whole),
                      lambda _, start, stop, value=value: torch.full((stop - start,), value))
    size = (tmp_path / "one.safetensors").stat().st_size
    done = run(PROGRAM, tmp_path / "one.safetensors", tmp_path / "small.safetensors", tmp_path / "m.safetensors", *pair)
    assert done.returncode == 0, done.stderr
    assert size > 300e6 and int(done.stdout) < 0.5 * size
    merged = open_weights(tmp_path / "m.safetensors")
    assert merged.piece("w0", numbers - 3).tolist() == [2.0] * 3


def test_a_merge_that_is_killed_leaves_no_result(tmp_path, pair):
    killed = """
import os, signal, sys
from xfer_course.merging import files, merge
rule = files._by_mean
def kill(*given):
    kill.times = getattr(kill, "times", 0) + 1
    if kill.times == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return rule(*given)
files._by_mean = kill
merge(*sys.argv[2:], out=sys.argv[1])
"""
    done = run(killed, tmp_path / "m.safetensors", *pair)
    assert done.returncode == -9
    assert not (tmp_path / "m.safetensors").exists()
    merge(*pair, out=tmp_path / "m.safetensors")
    assert equal(load_file(tmp_path / "m.safetensors"), weighted_mean([load_file(each) for each in pair]))


def test_every_method_is_in_the_table_of_the_lesson():
    text = (ROOT / "nbs/merging/files.ipynb").read_text("utf-8")
    assert all(f'`\\"{method}\\"`' in text for method in MERGE_METHODS)


class TwoNames(nn.Module):
    "One matrix in two places."

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 5), nn.Linear(5, 5)
        self.leave.weight = self.enter.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(self.enter(x).relu())


def test_a_tie_that_files_do_not_know_is_kept_by_fisher_merging(tmp_path):
    "Files of safetensors hold a tied tensor twice."
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(TwoNames())
        save_file({name: x.clone() for name, x in models[-1].state_dict().items()}, tmp_path / f"{seed}.safetensors")
    x = torch.randn(40, 5)
    report = merge(tmp_path / "0.safetensors", tmp_path / "1.safetensors", out=tmp_path / "out.safetensors",
                   method="fisher", model=TwoNames(), images=x)
    found = load_file(tmp_path / "out.safetensors")
    assert torch.equal(found["enter.weight"], found["leave.weight"])
    fishers = [fisher_diagonal(model, x) for model in models]
    wanted = fisher_merge([{name: model.state_dict()[name] for name in fishers[0]} for model in models], fishers)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)
    assert not any("no Fisher" in tensor.note for tensor in report.tensors)
    for seed, fisher in enumerate(fishers):
        save_file(fisher, tmp_path / f"fisher{seed}.safetensors")
    report = merge(tmp_path / "0.safetensors", tmp_path / "1.safetensors", out=tmp_path / "out.safetensors",
                   method="fisher", fishers=[tmp_path / f"fisher{seed}.safetensors" for seed in range(2)])
    notes = {tensor.name: tensor.note for tensor in report.tensors}
    assert notes["leave.weight"] == "no Fisher information, so the first file's" and not notes["enter.weight"]


def test_a_tie_that_files_know_is_kept_where_the_fisher_files_have_one_name(tmp_path):
    "Files of PyTorch know ties; `fisher_diagonal` names a tied tensor once."
    models, x = [], torch.randn(40, 5)
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(TwoNames())
        torch.save(models[-1].state_dict(), tmp_path / f"{seed}.pt")
        save_file(fisher_diagonal(models[-1], x), tmp_path / f"fisher{seed}.safetensors")
    report = merge(tmp_path / "0.pt", tmp_path / "1.pt", out=tmp_path / "out.safetensors", method="fisher",
                   fishers=[tmp_path / f"fisher{seed}.safetensors" for seed in range(2)])
    found, fishers = load_file(tmp_path / "out.safetensors"), [fisher_diagonal(model, x) for model in models]
    assert torch.equal(found["enter.weight"], found["leave.weight"])
    wanted = fisher_merge([{name: model.state_dict()[name] for name in fishers[0]} for model in models], fishers)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)
    assert not any("no Fisher" in tensor.note for tensor in report.tensors)
