"""What a checkpoint of `fit` knows of the code of a step and of a data set, and of values that are hard to read."""
from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from xfer_course.training import (
    code_fingerprint,
    data_fingerprint,
    fit,
    same_run,
    seed_everything,
    step_settings,
    value_fingerprint,
)

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def made(source: str, name: str = "step", file: str = "cell", **around: Any) -> Any:
    "What a cell of a notebook defines, which refers to the names around it."
    names = {"__name__": "a_notebook", "torch": torch, "nn": nn, "cross_entropy": cross_entropy, **around}
    exec(compile(source, file, "exec"), names)
    return names[name]


def trained(source: str, folder, epochs: int = 2, data=None, **around) -> list[float]:
    seed_everything(0)
    net = around.pop("net", None) or nn.Linear(6, 2)
    step = made(source, net=net, **around)
    return fit(step, data or DataLoader(list(zip(X, Y)), 8), torch.optim.SGD(net.parameters(), lr=0.1), epochs=epochs,
               checkpoint=folder, progress=False, model=net).loss


LOSS = "cross_entropy(net(batch[0]), batch[1])"
PLAIN = f"def step(batch, p):\n    return {LOSS}, {{}}\n"
EDITED = {
    "a factor": (PLAIN, PLAIN.replace("return cross", "return 0.5 * cross")),
    "another sign": (PLAIN.replace("{}", "{'p': 1 + p}"), PLAIN.replace("{}", "{'p': 1 - p}")),
    "an option": (PLAIN, PLAIN.replace("batch[1])", "batch[1], label_smoothing=0.1)")),
    "another name": (PLAIN, PLAIN.replace("step", "other").replace("return", "return 2 *") + "step = other\n"),
    "a helper": [f"def half(loss):\n    return {share} * loss\n" + PLAIN.replace(LOSS, f"half({LOSS})")
                 for share in (0.5, 0.25)],
    "a lambda in a list": [f"terms = [lambda loss: {share} * loss]\n" + PLAIN.replace(
        LOSS, f"sum(term({LOSS}) for term in terms)") for share in (0.5, 0.25)],
    "a method": [f"""
class Trainer:
    def __call__(self, batch, p):
        return self.loss(batch), {{}}
    def loss(self, batch):
        return {share} * cross_entropy(net(batch[0]), batch[1])
step = Trainer()
""" for share in (0.5, 0.25)],
    "an inherited call": [f"""
class Base:
    def __call__(self, batch, p):
        return {share} * cross_entropy(net(batch[0]), batch[1]), {{}}
class Trainer(Base):
    pass
step = Trainer()
""" for share in (0.5, 0.25)],
    "an attribute of a class": [f"""
class Trainer:
    share = {share}
    def __call__(self, batch, p):
        return self.share * cross_entropy(net(batch[0]), batch[1]), {{}}
step = Trainer()
""" for share in (0.5, 0.25)],
    "a class that is made in the step": [f"""
class Half:
    def __call__(self, loss):
        return {share} * loss
def step(batch, p):
    return Half()(cross_entropy(net(batch[0]), batch[1])), {{}}
""" for share in (0.5, 0.25)],
    "a gradient of one's own": [f"""
class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    @staticmethod
    def backward(ctx, gradient):
        return {share} * gradient
def step(batch, p):
    return Scaled.apply(cross_entropy(net(batch[0]), batch[1])), {{}}
""" for share in (0.5, 0.25)],
    "a loss that is a module": [f"""
class Loss(nn.Module):
    def forward(self, logits, labels):
        return {share} * cross_entropy(logits, labels)
criterion = Loss()
def step(batch, p):
    return criterion(net(batch[0]), batch[1]), {{}}
""" for share in (0.5, 0.25)],
    "a decorated step": ["@torch.enable_grad()\n" + each for each in (PLAIN, PLAIN.replace("return", "return 2 *"))],
    "a partial": [f"import functools\n{each}step = functools.partial(step)\n"
                  for each in (PLAIN, PLAIN.replace("return", "return 2 *"))],
    "nothing that becomes a number": [f"clip = {clip}\n" + PLAIN.replace("{}", "{'clipped': float(clip is not None)}")
                                      for clip in (None, 1.0)],
    "options that are handed on": [f"options = {{'label_smoothing': {share}}}\n" + PLAIN.replace(
        "batch[1])", "batch[1], **options)") for share in (0.1, 0.2)],
    "a set": [f"left_out = {{{label}}}\n" + PLAIN.replace("{}", "{'out': float(p in left_out)}") for label in (0, 1)],
}


@pytest.mark.parametrize("kind", EDITED)
def test_a_finished_run_does_not_come_back_with_a_step_that_was_edited(tmp_path, kind):
    old, new = EDITED[kind]
    first = trained(old, tmp_path)
    assert trained(old, tmp_path) == first
    with pytest.raises(ValueError, match=r"belongs to a run with other settings of the step: .* \(.* was .*, is .*\)"):
        trained(new, tmp_path)


def test_a_run_that_goes_on_says_that_the_code_of_its_step_was_edited(tmp_path):
    interrupted = PLAIN.replace("    return", "    if p > 0.6:\n        raise KeyboardInterrupt\n    return")
    with pytest.raises(KeyboardInterrupt):
        trained(interrupted, tmp_path)
    with pytest.warns(UserWarning, match=r"is continued with other settings of the step \(its code in Python \S+ was "):
        trained(PLAIN, tmp_path)


def test_an_edited_function_of_another_file_is_seen(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file, source = tmp_path / "losses_of_mine.py", "SHARE = {}\n\n\ndef half(loss):\n    return {} * loss\n"
    step = "def step(batch, p):\n    return losses.half(losses.SHARE * net(batch[0]).sum()), {}\n"
    found = []
    for number, shares in enumerate([(1, 0.5), (1, 0.25), (2, 0.25)]):
        file.write_text(source.format(*shares))
        os.utime(file, (number, number))
        losses = importlib.reload(importlib.import_module("losses_of_mine"))
        found.append(step_settings(made(step, net=nn.Linear(6, 2), losses=losses)))
    sys.modules.pop("losses_of_mine")
    changes = [{name for name in a if a[name] != b[name]} for a, b in zip(found, found[1:])]
    assert changes == [{f"code of losses.half {same_run._VERSION}"}, {"losses.SHARE"}]


FORWARD = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.scale = nn.Linear(6, 6), nn.Linear(6, 2), {scale}
    def forward(self, x):
        return self.scale * self.second({first})
"""


@pytest.mark.parametrize("changes", [{"first": "torch.relu(self.first(x))"}, {"first": "x + self.first(x)"},
                                     {"scale": 2}])
def test_an_edited_forward_of_ones_own_network_is_seen(tmp_path, changes):
    plain = {"first": "self.first(x)", "scale": 1}
    old, new = (made(FORWARD.format(**each), "Net") for each in (plain, plain | changes))
    first = trained(PLAIN, tmp_path, net=old())
    assert trained(PLAIN, tmp_path, net=old()) == first
    with pytest.raises(ValueError, match="other settings of the step"):
        trained(PLAIN, tmp_path, net=new())


SAME = {
    "a comment": PLAIN.replace("    return", "    # the loss of the paper\n    return"),
    "empty lines": PLAIN.replace("    return", "\n\n    return"),
    "a docstring": PLAIN.replace("    return", "    'The loss.'\n    return"),
    "a broken line": PLAIN.replace("net(batch[0]), batch", "\n        net(batch[0]),\n        batch"),
    "types": PLAIN.replace("batch, p)", "batch: list, p: float) -> tuple"),
}


@pytest.mark.parametrize("kind", SAME)
def test_a_step_that_does_the_same_is_the_same(kind):
    assert code_fingerprint(made(PLAIN)) == code_fingerprint(made(SAME[kind], file="/another/place.py"))


def test_fingerprints_are_the_same_in_every_program():
    source = PLAIN.replace("{}", "{'p': p in {1, 2.5, 'a', None} or 'a' in names}")
    code = (f"from test_same_run import made, nn, step_settings\n"
            f"print(step_settings(made({source!r}, net=nn.Linear(6, 2), names={{'b', 'a', 'c'}})))")
    paths = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), os.path.dirname(__file__)])
    said = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": paths}).stdout for seed in "12"}
    assert len(said) == 1 and "its code" in said.pop()


def test_a_step_of_another_python_is_not_compared(tmp_path, monkeypatch):
    first = trained(PLAIN, tmp_path)
    monkeypatch.setattr(same_run, "_VERSION", "in Python 3.99")
    assert trained(EDITED["a factor"][1], tmp_path) == first


def test_code_of_packages_is_not_looked_at():
    names = step_settings(made("def step(batch, p):\n    return net(batch[0]), {}\n", net=nn.Linear(6, 2)))
    assert [name for name in names if "code" in name] == [f"its code {same_run._VERSION}"]


def test_what_methods_of_a_step_count_is_no_setting(tmp_path):
    source = """
class Trainer:
    calls = 0
    def __call__(self, batch, p):
        self.count()
        return cross_entropy(net(batch[0]), batch[1]), {"calls": self.calls}
    def count(self):
        self.calls += 1
step = Trainer()
"""
    net = nn.Linear(6, 2)
    step = made(source, net=net)
    for _ in range(2):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        fit(step, DataLoader(list(zip(X, Y)), 8), optimizer, epochs=1, checkpoint=tmp_path, progress=False, model=net)
    assert step.calls == 4 and "self.calls" not in step_settings(step)


MEASURED = {
    "a dict of metrics": """
def step(batch, p):
    loss, metrics = cross_entropy(net(batch[0]), batch[1], weights), {}
    metrics["p"] = p
    return loss, metrics
""",
    "a list of terms": """
def step(batch, p):
    terms = []
    terms.append(cross_entropy(net(batch[0]), batch[1], weights))
    return sum(terms), {}
""",
}


@pytest.mark.parametrize("kind", MEASURED)
def test_what_a_step_makes_for_itself_hides_no_setting(tmp_path, kind):
    plain, other = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 3.0])
    first = trained(MEASURED[kind], tmp_path, weights=plain)
    assert trained(MEASURED[kind], tmp_path, weights=plain.clone()) == first
    with pytest.raises(ValueError, match=r"other settings of the step: .* \(weights was .*, is "):
        trained(MEASURED[kind], tmp_path, weights=other)


@pytest.mark.parametrize("line", ["seen.append(p)", "also = seen; also.append(p)", "seen[0] = p", "seen.insert(0, p)"])
def test_a_list_that_a_step_fills_is_no_setting(tmp_path, line):
    source = PLAIN.replace("    return", f"    {line}\n    return")
    seen = [0.0]
    first = trained(source, tmp_path, seen=seen)
    assert trained(source, tmp_path, seen=seen) == first


class Anything(dict):
    "Options as some packages have them: every name is there, and holds more of its kind."

    def __getattr__(self, name):
        return Anything()


def test_options_that_have_every_name_are_no_circle():
    names = step_settings(made(PLAIN.replace("return", "return options.weight *"), options=Anything(weight=0.5)))
    assert f"its code {same_run._VERSION}" in names


# --- values


def nested(*rows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype, PyTorch says
        return torch.nested.nested_tensor([torch.tensor(row) for row in rows])


def csr(value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a beta, PyTorch says
        return torch.tensor([[0, value], [1.0, 0]]).to_sparse_csr()


def in_scipy(value):
    sparse = pytest.importorskip("scipy.sparse")
    return sparse.csr_matrix(np.array([[0, value], [1.0, 0]]))


HARD = {
    "sparse": [lambda: torch.tensor([[0, 1.0]]).to_sparse(), lambda: torch.tensor([[0, 2.0]]).to_sparse()],
    "sparse elsewhere": [lambda: torch.tensor([[0, 1.0]]).to_sparse(), lambda: torch.tensor([[1.0, 0]]).to_sparse()],
    "compressed rows": [lambda: csr(1.0), lambda: csr(2.0)],
    "of SciPy": [lambda: in_scipy(1.0), lambda: in_scipy(2.0)],
    "nested": [lambda: nested([1.0, 2], [3.0]), lambda: nested([1.0], [2.0, 3])],
    "conjugated": [lambda: torch.tensor([1 + 2j]).conj(), lambda: torch.tensor([1 + 2j])],
    "negative": [lambda: torch.tensor([1 + 2j]).conj().imag, lambda: torch.tensor([1 + 2j]).imag],
    "quantised": [lambda: torch.quantize_per_tensor(torch.tensor([1.0]), 0.1, 0, torch.qint8),
                  lambda: torch.quantize_per_tensor(torch.tensor([2.0]), 0.1, 0, torch.qint8)],
    "bfloat16": [lambda: torch.tensor([1.0]).bfloat16(), lambda: torch.tensor([2.0]).bfloat16()],
    "days": [lambda: np.array(["2024-01-01"], "datetime64[D]"), lambda: np.array(["2024-01-02"], "datetime64[D]")],
    "masked": [lambda: np.ma.array([1, 2], mask=[0, 1]), lambda: np.ma.array([1, 2], mask=[1, 0])],
    "a set": [lambda: {"a", "b"}, lambda: {"a", "c"}],
    "functions": [lambda: [lambda x: x + 1], lambda: [lambda x: x + 2]],
    "closures": [lambda: [(lambda k: lambda x: x + k)(1)], lambda: [(lambda k: lambda x: x + k)(2)]],
}


@pytest.mark.parametrize("kind", HARD)
def test_values_that_are_hard_to_read_have_a_fingerprint(kind):
    one, other = HARD[kind]
    assert value_fingerprint(one()) is not None
    assert value_fingerprint(one()) == value_fingerprint(one()) != value_fingerprint(other())


@dataclass(slots=True)
class Options:
    weight: float


class Rows(Dataset):
    "A data set that keeps its tensors in slots."

    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def test_what_lies_in_slots_is_seen():
    source = PLAIN.replace("return", "return options.weight *")
    found = [step_settings(made(source, net=nn.Linear(6, 2), options=Options(weight))) for weight in (0.5, 1.0)]
    assert [each["options.weight"] for each in found] == ["0.5", "1.0"]
    assert data_fingerprint(DataLoader(Rows(X, Y), 8)) != data_fingerprint(DataLoader(Rows(X, 1 - Y), 8))


# --- data


DATA = """
class Mine(torch.utils.data.Dataset):
    def __init__(self, x, y, transform=None, scale=1.0):
        self.x, self.y, self.transform, self.scale, self.epoch = x, y, transform, scale, 0
    def __len__(self):
        return len(self.x)
    def __getitem__(self, i):
        x = {row}
        return x if self.transform is None else self.transform(x), self.y[i] + 0 * self.epoch
    def set_epoch(self, epoch):
        self.epoch = epoch
"""


def mine(row="self.scale * self.x[i]", **options):
    return made(DATA.format(row=row), "Mine")(X, Y, **options)


OTHER_ROWS = {
    "an edited row": (lambda: mine(), lambda: mine("self.scale * self.x[i].flip(0)")),
    "a number of the data set": (lambda: mine(scale=1.0), lambda: mine(scale=2.0)),
    "a lambda": (lambda: mine(transform=lambda x: x + 1), lambda: mine(transform=lambda x: x + 2)),
    "a closure": (lambda: mine(transform=(lambda k: lambda x: x + k)(1)),
                  lambda: mine(transform=(lambda k: lambda x: x + k)(2))),
}


@pytest.mark.parametrize("kind", OTHER_ROWS)
def test_rows_that_are_made_in_another_way_are_other_data(tmp_path, kind):
    one, other = OTHER_ROWS[kind]
    data = DataLoader(one(), 8)
    first = trained(PLAIN, tmp_path, data=data)
    data.dataset.set_epoch(3)  # a counter
    for again in (data, DataLoader(one(), 8)):
        assert trained(PLAIN, tmp_path, data=again) == first
    with pytest.raises(ValueError, match="belongs to a run with other data"):
        trained(PLAIN, tmp_path, data=DataLoader(other(), 8))


def test_rows_of_another_python_are_not_compared(tmp_path, monkeypatch):
    first = trained(PLAIN, tmp_path, data=DataLoader(mine(), 8))
    monkeypatch.setattr(same_run, "_VERSION", "in Python 3.99")
    assert trained(PLAIN, tmp_path, data=DataLoader(mine(), 8)) == first


def test_a_long_list_in_a_data_set_costs_little():
    class Listed(Rows):
        def __init__(self):
            self.x, self.y = [(f"/a/{i}.png", i) for i in range(300_000)], None

    found = step_settings(Listed().__getitem__)
    assert len(found) < 10 and isinstance(Listed.__getitem__, FunctionType)
