"""Tests of `xfer_course.training` that its notebook cannot hold: kills, several processes, damaged files, bad input."""

import ast
import copy
import errno
import functools
import inspect
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from xfer_course import training
from xfer_course.data import batches
from xfer_course.evaluation import predict
from xfer_course.training import (
    Checkpoint,
    History,
    Log,
    Validation,
    checkpoint,
    choose_accelerator,
    cosine,
    data_fingerprint,
    fit,
    modules_of,
    recorded_losses,
    seed_epoch,
    seed_everything,
    set_learning_rate,
    step_settings,
    train,
)

EPOCHS, STEPS = 4, 8
BEFORE = [0.5830835103988647, 0.676264762878418, 52.95734179997817]


def data():
    x = torch.randn(128, 6, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())


LOADERS = {
    "shuffled": lambda: DataLoader(data(), batch_size=16, shuffle=True),
    "with a generator": lambda: DataLoader(data(), batch_size=16, shuffle=True, generator=torch.Generator()),
    "of the course": lambda: batches(*data().tensors, batch_size=16),
    "list of batches": lambda: list(DataLoader(data(), batch_size=16)),
}


class Run:
    """A small network with dropout and batch norm, a step and an optimizer, made anew like a fresh program would."""

    def __init__(self, optimizer=torch.optim.Adam, hook=lambda p: None):
        seed_everything(0)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
        self.optimizer, self.hook, self.taken = optimizer(self.net.parameters(), lr=0.01), hook, 0

    def step(self, batch, p):
        self.taken += 1
        self.hook(p)
        logits = self.net(batch[0])
        return cross_entropy(logits, batch[1]), {"accuracy": (logits.argmax(1) == batch[1]).float().mean(), "p": p}

    def fit(self, loader=None, **options):
        options = {"epochs": EPOCHS, "progress": False, "schedule": lambda p: cosine(p, 0.02)} | options
        return fit(self.step, LOADERS["shuffled"]() if loader is None else loader, self.optimizer, **options)


def numbers(history: History) -> dict:
    return {"loss": history.loss, "lr": history.lr, **history.metrics}


def stop_at(p_stop: float):
    def hook(p):
        if p >= p_stop:
            raise KeyboardInterrupt

    return hook


def weights(run: Run) -> list[float]:
    return torch.cat([tensor.double().flatten() for tensor in run.net.state_dict().values()]).tolist()


# --- the same seed gives the same numbers


@pytest.mark.parametrize("kind", LOADERS)
def test_same_seed_same_numbers_to_the_bit(kind):
    first, second = Run(), Run()
    assert numbers(first.fit(LOADERS[kind]())) == numbers(second.fit(LOADERS[kind]()))
    assert weights(first) == weights(second)


def test_another_seed_gives_other_numbers():
    assert Run().fit(seed=1).loss != Run().fit(seed=2).loss


def test_better_than_chance():
    history = Run().fit(epochs=30)
    assert history.last("accuracy", STEPS) > 0.8
    assert history.last("loss", STEPS) < 0.5


def test_what_is_drawn_afterwards_does_not_depend_on_how_the_run_went(tmp_path):
    drawn = []
    for _ in range(2):  # trained, then loaded
        Run().fit(checkpoint=tmp_path)
        drawn.append((torch.rand(1).item(), np.random.rand()))
    assert drawn[0] == drawn[1]


def test_numbers_are_those_of_a_bare_loop():
    run, bare, losses, loader = Run(torch.optim.SGD), Run(torch.optim.SGD), [], LOADERS["list of batches"]()
    history = run.fit(loader, epochs=1, schedule=None)
    seed_everything(training.epoch_seed(0, 0))
    for batch in loader:
        loss, _ = bare.step(batch, 0.0)
        bare.optimizer.zero_grad()
        loss.backward()
        bare.optimizer.step()
        losses.append(loss.item())
    assert history.loss == losses
    assert weights(run) == weights(bare)


# --- progress and schedules


def test_progress_runs_from_zero_to_one_and_drives_the_schedule():
    history, progress = Run().fit(), [i / (EPOCHS * STEPS) for i in range(EPOCHS * STEPS)]
    assert history.metrics["p"] == progress
    assert history.lr == [cosine(p, 0.02) for p in progress]


class GroupedRun(Run):
    """`Run` with a parameter group for each of the three layers with weights, whose rates are given."""

    def __init__(self, rates, optimizer=torch.optim.Adam, hook=lambda p: None):
        super().__init__(optimizer, hook)
        layers = [layer for layer in self.net if list(layer.parameters())]
        self.optimizer = optimizer([{"params": list(layer.parameters()), "lr": rate}
                                    for layer, rate in zip(layers, rates, strict=True)], lr=0.01)


RATES = {"a tenth": (0.001, 0.01, 0.01), "a third and a frozen one": (0.01, 0.03, 0.0), "above": (5.0, 0.01, 0.3)}
SCHEDULES = {"cosine": lambda p: cosine(p, 0.02), "from zero": lambda p: 0.1 * p, "to zero": lambda p: max(0, 0.5 - p)}


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_groups_keep_the_ratio_of_their_rates_under_a_schedule(rates, schedule):
    """At every step: the fastest group has the rate of the schedule."""
    seen = []
    run = GroupedRun(rates, torch.optim.SGD)
    run.hook = lambda p: seen.append((p, [group["lr"] for group in run.optimizer.param_groups]))
    history = run.fit(epochs=1, schedule=schedule)
    for p, found in seen:
        assert found == pytest.approx([schedule(p) * rate / max(rates) for rate in rates], rel=1e-9)
    assert len(seen) == STEPS and history.lr == [found[0] for _, found in seen]


def test_groups_of_one_rate_give_the_numbers_of_one_group():
    one, three = Run(), GroupedRun((0.5, 0.5, 0.5))
    assert numbers(one.fit()) == numbers(three.fit()) and weights(one) == weights(three)


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
def test_groups_resume_to_the_bit_and_the_same_objects_too(tmp_path, rates):
    whole, stopped = GroupedRun(rates), GroupedRun(rates, hook=stop_at(0.6))
    expected = whole.fit()
    for folder, resumed in ((tmp_path / "new", GroupedRun(rates)), (tmp_path / "same", stopped)):
        with pytest.raises(KeyboardInterrupt):
            GroupedRun(rates, hook=stop_at(0.6)).fit(checkpoint=folder)
        if resumed is stopped:
            with pytest.raises(KeyboardInterrupt):
                stopped.fit()  # leaves the optimizer at rates of the schedule
            stopped.hook = lambda p: None
        assert numbers(resumed.fit(checkpoint=folder)) == numbers(expected) and weights(resumed) == weights(whole)


def test_a_checkpoint_of_groups_with_another_ratio_is_refused(tmp_path):
    GroupedRun((0.001, 0.01, 0.01)).fit(checkpoint=tmp_path)
    GroupedRun((0.01, 0.1, 0.1)).fit(checkpoint=tmp_path)  # the same ratio: only loaded
    for rates in ((0.002, 0.01, 0.01), (0.01, 0.01, 0.01)):
        with pytest.raises(ValueError, match="belongs to a run with other optimizer options"):
            GroupedRun(rates).fit(checkpoint=tmp_path)


def test_groups_without_any_rate_have_no_ratio():
    with pytest.raises(ValueError, match=r"a learning rate above 0 in one of .* got \[0.0, 0.0, 0.0\]"):
        GroupedRun((0.0, 0.0, 0.0)).fit()


# --- modes and optimizers


class Frozen(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        self[0].eval()
        return self


def network_in_parts():
    body = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.1))
    return nn.ModuleDict({"body": body, "head": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))})


def fit_parts(net, change=lambda net: None, trained=lambda net: net.parameters(), **options):
    change(net)

    def step(batch, p):
        logits = net["head"](net["body"](batch[0])) if isinstance(net, nn.ModuleDict) else net(batch[0])
        return cross_entropy(logits, batch[1]), {}

    return fit(step, LOADERS["of the course"](), torch.optim.SGD(trained(net), lr=0.1), epochs=1, progress=False,
               **options)


def deep_batch_norm(net):
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.eval()


SAID = {
    "the whole": (lambda net: net.eval(), r"fit trains \(ModuleDict\) in eval mode"),
    "a part": (lambda net: net["body"].eval(), r"fit trains body \(Sequential\) in eval mode"),
    "a layer inside": (lambda net: net["head"][1].eval(), r"fit trains head.1 \(Linear\) in eval mode"),
    "two parts": (lambda net: (net["body"].eval(), net["head"].eval()), r"body \(Sequential\), head \(Sequential\)"),
}
NOT_SAID = {
    "all train": {},
    "batch norm by itself": {"change": deep_batch_norm},
    "frozen weights": {"change": lambda net: net["body"].eval().requires_grad_(False)},
    "weights of no optimizer": {"change": lambda net: net["body"].eval(),
                                "trained": lambda net: net["head"].parameters()},
}


@pytest.mark.parametrize("change, sentence", SAID.values(), ids=SAID)
def test_modules_left_in_evaluation_mode_are_said_once(change, sentence):
    with pytest.warns(UserWarning, match=sentence) as said:
        fit_parts(network_in_parts(), change)
    assert len(said) == 1 and said[0].filename == __file__


@pytest.mark.parametrize("case", NOT_SAID.values(), ids=NOT_SAID)
@pytest.mark.filterwarnings("error")
def test_what_is_in_evaluation_mode_on_purpose_is_not_said(case):
    fit_parts(network_in_parts(), **case)


@pytest.mark.filterwarnings("error")
def test_a_module_with_a_train_method_of_its_own_decides_about_its_parts(tmp_path):
    fit_parts(Frozen(nn.Linear(6, 4), nn.Linear(4, 2)).train(), checkpoint=tmp_path)
    fit_parts(Frozen(nn.Linear(6, 4), nn.Linear(4, 2)).eval(), checkpoint=tmp_path)  # only loaded: nothing is trained


class SAM(torch.optim.SGD):
    "As usually published: two steps, the second from a closure."

    def first_step(self):
        pass

    def second_step(self):
        pass

    def step(self, closure=None):
        assert closure is not None


class Asserts(torch.optim.SGD):
    def step(self, closure=None):
        assert closure is not None, "Sharpness Aware Minimization requires closure, but it was not provided"


class Calls(torch.optim.SGD):
    def step(self, closure=None):
        return closure()


class Demands(torch.optim.SGD):
    def step(self, closure):
        return closure()


def wrapped_lbfgs(parameters, lr):
    from accelerate.optimizer import AcceleratedOptimizer

    choose_accelerator("cpu")  # an optimizer is wrapped in a session that has an accelerator
    return AcceleratedOptimizer(torch.optim.LBFGS(parameters, lr=lr))


@pytest.mark.parametrize("optimizer", [torch.optim.LBFGS, SAM, Asserts, Calls, Demands, wrapped_lbfgs])
def test_an_optimizer_that_needs_a_closure_is_refused_in_a_sentence(optimizer):
    run = Run(optimizer)
    before = [parameter.clone() for parameter in run.net.parameters()]
    with pytest.raises(TypeError, match="optimizer must take its step from the gradients alone, got .* closure"):
        run.fit()
    assert all(torch.equal(a, b) for a, b in zip(before, run.net.parameters()))


def test_another_error_of_a_step_is_left_as_it_is():
    class Broken(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="^out of memory"):
        Run(Broken).fit()


@pytest.mark.parametrize("p, expected", [(0, 0.3), (0.5, 0.2), (1, 0.1)])
def test_cosine_has_the_closed_form_values(p, expected):
    assert math.isclose(cosine(p, base=0.3, final=0.1), expected)


@pytest.mark.parametrize("p", [-0.01, 1.01, math.nan])
def test_cosine_refuses_progress_outside_the_unit_interval(p):
    with pytest.raises(ValueError, match="p must be a finite number from 0 to 1"):
        cosine(p, base=1.0)


# --- interruption


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, functools.partial(torch.optim.SGD, momentum=0.9)])
def test_resumed_run_equals_the_undisturbed_one(tmp_path, kind, optimizer):
    whole, stopped, continued = Run(optimizer), Run(optimizer, stop_at(0.6)), Run(optimizer)
    expected = whole.fit(LOADERS[kind]())
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(LOADERS[kind](), checkpoint=tmp_path)
    torch.rand(7)
    assert numbers(continued.fit(LOADERS[kind](), checkpoint=tmp_path)) == numbers(expected)
    assert weights(continued) == weights(whole)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam])
def test_other_optimizers_resume_too(tmp_path, optimizer):
    with pytest.raises(KeyboardInterrupt):
        Run(optimizer, stop_at(0.3)).fit(checkpoint=tmp_path)
    assert numbers(Run(optimizer).fit(checkpoint=tmp_path)) == numbers(Run(optimizer).fit())


def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


class HalfWritten:
    """A file of which only half of the content arrives before the process is killed."""

    def __init__(self, *arguments):
        self.file = open(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        die()


def run_until(point, folder: Path) -> None:
    """Train and be killed at a progress, while saving or before the rename; with None get through."""
    run = Run(hook=lambda p: die() if isinstance(point, float) and p >= point else None)
    if point == "half written":
        checkpoint.open = HalfWritten
    if point == "not yet renamed":
        os.replace = die
    history = run.fit(checkpoint=folder)
    (folder / "numbers.json").write_text(json.dumps([numbers(history), weights(run)]))


FORKS = """
import os, pathlib, sys
import torch
from test_training import run_until

torch.set_num_threads(1)
for point in {points}:
    child = os.fork()
    if child == 0:
        run_until(point, pathlib.Path(sys.argv[1]))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (0 if point is None else -9), point
"""


def subprocess_options() -> dict:
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return {"env": environment, "capture_output": True, "text": True, "timeout": 300}


def test_sigkill_at_any_point_changes_nothing(tmp_path):
    """One run is killed again and again: in the first epoch, while saving, later, in the last step."""
    points = [0.1, "half written", "not yet renamed", 0.3, "half written", 0.55, "not yet renamed", 0.96, None]
    code, undisturbed = FORKS.format(points=points), Run()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], **subprocess_options())
    assert done.returncode == 0, done.stderr[-2000:]
    expected = [numbers(undisturbed.fit()), weights(undisturbed)]
    assert json.loads((tmp_path / "numbers.json").read_text()) == expected


def test_finished_run_is_loaded_and_not_trained(tmp_path, capsys):
    trained = Run()
    expected = trained.fit(checkpoint=tmp_path)
    loaded = Run()
    assert numbers(loaded.fit(checkpoint=tmp_path, progress=True)) == numbers(expected)
    assert weights(loaded) == weights(trained) and loaded.taken == 0
    assert f"loaded {tmp_path / 'checkpoint.safetensors'}: 4 of 4 epochs are done" in capsys.readouterr().out


def test_resume_false_starts_anew(tmp_path):
    first = Run().fit(checkpoint=tmp_path, seed=1)
    assert Run().fit(checkpoint=tmp_path, seed=2, resume=False).loss != first.loss
    loaded = Run()
    assert loaded.fit(checkpoint=tmp_path, seed=2).loss != first.loss and loaded.taken == 0


OTHER_RUNS = {
    "epochs": lambda folder: Run().fit(checkpoint=folder, epochs=EPOCHS + 1),
    "seed": lambda folder: Run().fit(checkpoint=folder, seed=3),
    "steps per epoch": lambda folder: Run().fit(DataLoader(data(), batch_size=32), checkpoint=folder),
    "optimizer": lambda folder: Run(torch.optim.SGD).fit(checkpoint=folder),
    "optimizer options": lambda folder: Run(functools.partial(torch.optim.Adam, eps=0.1)).fit(checkpoint=folder),
    "schedule": lambda folder: Run().fit(checkpoint=folder, schedule=lambda p: cosine(p, 0.03)),
}


@pytest.mark.parametrize("key", OTHER_RUNS)
def test_checkpoint_of_another_run_is_refused(tmp_path, key):
    Run().fit(checkpoint=tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ValueError, match=f"belongs to a run with other {key}: pass resume=False"):
        OTHER_RUNS[key](tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


# --- a checkpoint knows its data and the settings of its step


def corrected(labels):
    return torch.where(torch.arange(len(labels)) == 77, 1 - labels, labels)


class Pictures(Dataset):
    "Files with their classes, as folders of images are read."

    def __init__(self, labels):
        self.samples = [(f"/somewhere/{label}/{i}.png", label) for i, label in enumerate(labels.tolist())]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return data().tensors[0][i], self.samples[i][1]


class Loop:
    "A loader of one's own."

    def __init__(self, x, labels):
        self.x, self.labels = x.numpy(), labels.numpy()

    def __len__(self):
        return STEPS

    def __iter__(self):
        return zip(torch.tensor(self.x).split(16), torch.tensor(self.labels).split(16), strict=True)


FED = {
    "tensors": lambda x, y: DataLoader(TensorDataset(x, y), 16),
    "of the course": lambda x, y: batches(x, y, batch_size=16),
    "subset": lambda x, y: DataLoader(Subset(TensorDataset(x, y), range(127, -1, -1)), 16),
    "two sets": lambda x, y: DataLoader(ConcatDataset([TensorDataset(x[:64], y[:64]), TensorDataset(x[64:], y[64:])]),
                                        16),
    "list of pairs": lambda x, y: DataLoader(list(zip(x, y)), 16),
    "list of dicts": lambda x, y: [(b["x"], b["y"]) for b in DataLoader([{"x": a, "y": b} for a, b in zip(x, y)], 16)],
    "list of batches": lambda x, y: list(zip(x.split(16), y.split(16))),
    "files": lambda x, y: DataLoader(Pictures(y), 16), "own loader": Loop,
}


@pytest.mark.parametrize("kind", FED)
def test_corrected_labels_do_not_bring_the_old_model_back(tmp_path, kind):
    x, y = data().tensors
    Run().fit(FED[kind](x, y), checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"run with other data: pass resume=False .* \(.* was .*, is .*\)") as caught:
        Run().fit(FED[kind](x, corrected(y)), checkpoint=tmp_path)
    assert "\n" not in str(caught.value)
    Run().fit(FED[kind](x.clone(), y.clone()), checkpoint=tmp_path)  # the same data in another place


@pytest.mark.parametrize("change", [lambda x, y: (x + 1, y), lambda x, y: (x.double().float() * 2, y),
                                    lambda x, y: (x.flip(0), y), lambda x, y: (x, y.flip(0))])
def test_other_rows_are_other_data(tmp_path, change):
    x, y = data().tensors
    Run().fit(FED["tensors"](x, y), checkpoint=tmp_path)
    with pytest.raises(ValueError, match="run with other data"):
        Run().fit(FED["tensors"](*change(x, y)), checkpoint=tmp_path)


def test_data_with_nothing_to_compare_is_said(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(data())

        def __len__(self):
            return 128

    with pytest.warns(UserWarning, match="a DataLoader without tensors, .* cannot tell whether its data change"):
        Run().fit(DataLoader(Stream(), 16), checkpoint=tmp_path)


def test_a_fingerprint_draws_nothing_and_is_quick():
    loader, state = LOADERS["shuffled"](), torch.get_rng_state()
    before = data_fingerprint(loader)
    list(loader)
    torch.set_rng_state(state)
    assert data_fingerprint(loader) == before and torch.equal(torch.get_rng_state(), state)
    files = [(f"/data/{i % 1000}/{i}.jpg", i % 1000) for i in range(200_000)]
    large = torch.zeros(200_000, 64)
    started = time.process_time()
    data_fingerprint([(files, large)])
    assert time.process_time() - started < 5


class Settings(NamedTuple):
    weight: float
    rounds: int = 3


def with_closure(net, weight):
    return lambda batch, p: (weight * cross_entropy(net(batch[0]), batch[1]), {})


def with_default(net, weight):
    def step(batch, p, weight=weight):
        return weight * cross_entropy(net(batch[0]), batch[1]), {}

    return step


def with_dict(net, weight):
    config = {"weight": weight, "name": "x"}
    return lambda batch, p: (config["weight"] * cross_entropy(net(batch[0]), batch[1]), {})


def with_settings(net, weight):
    chosen = Settings(weight)
    return lambda batch, p: (chosen.weight * cross_entropy(net(batch[0]), batch[1]), {})


def with_namespace(net, weight):
    args = SimpleNamespace(weight=weight, rounds=1)
    return lambda batch, p: (args.weight * cross_entropy(net(batch[0]), batch[1]), {})


def with_helper(net, weight):
    def weighted(loss):
        return weight * loss

    return lambda batch, p: (weighted(cross_entropy(net(batch[0]), batch[1])), {})


def with_partial(net, weight):
    def step(batch, p, weight):
        return weight * cross_entropy(net(batch[0]), batch[1]), {}

    return functools.partial(step, weight=weight)


def with_loss(net, weight):
    criterion = nn.CrossEntropyLoss(label_smoothing=weight / 2)
    return lambda batch, p: (criterion(net(batch[0]), batch[1]), {})


def with_class_weights(net, weight):
    criterion = nn.CrossEntropyLoss(torch.tensor([1.0, weight]))
    return lambda batch, p: (criterion(net(batch[0]), batch[1]), {})


def with_tensor(net, weight):
    classes = torch.tensor([1.0, weight])
    return lambda batch, p: (cross_entropy(net(batch[0]), batch[1], classes), {})


def with_text(net, weight):
    reduction = f"weight {weight}"
    return lambda batch, p: (cross_entropy(net(batch[0]), batch[1]), {"mean": len(reduction)})


class Trainer:
    def __init__(self, net, weight):
        self.net, self.weight, self.calls = net, weight, 0

    def __call__(self, batch, p):
        self.calls += 1
        return self.weight * cross_entropy(self.net(batch[0]), batch[1]), {}


STEPS_WITH = [with_closure, with_default, with_dict, with_settings, with_namespace, with_helper, with_partial,
              with_loss, with_class_weights, with_tensor, with_text, Trainer]


def fit_with(make, weight, folder):
    run = Run()
    step = make(run.net, weight)
    return fit(step, LOADERS["shuffled"](), run.optimizer, epochs=2, checkpoint=folder, progress=False, model=run.net)


@pytest.mark.parametrize("make", STEPS_WITH, ids=lambda make: make.__name__)
def test_a_finished_run_does_not_come_back_with_other_settings_of_the_step(tmp_path, make):
    first = fit_with(make, 0.5, tmp_path)
    assert fit_with(make, 0.5, tmp_path).loss == first.loss
    with pytest.raises(ValueError, match=r"other settings of the step: .* \(.*(weight|label_smoothing|classes)"):
        fit_with(make, 1.0, tmp_path)


LAYERS = {
    "dropout": lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 2)),
    "activation": lambda: nn.Sequential(nn.Linear(6, 2), nn.Tanh()),
    "momentum": lambda: nn.Sequential(nn.BatchNorm1d(6, momentum=0.5), nn.Linear(6, 2)),
    "frozen": lambda: nn.Sequential(nn.Linear(6, 6).requires_grad_(False), nn.Linear(6, 2)),
}
PLAIN = {
    "dropout": lambda: nn.Sequential(nn.Dropout(0.1), nn.Linear(6, 2)),
    "activation": lambda: nn.Sequential(nn.Linear(6, 2), nn.ReLU()),
    "momentum": lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2)),
    "frozen": lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2)),
}


def fit_network(make, folder, loader=None):
    net = make()
    return fit(lambda batch, p: (cross_entropy(net(batch[0]), batch[1]), {}), loader or LOADERS["shuffled"](),
               torch.optim.SGD(net.parameters(), lr=0.01), epochs=2, checkpoint=folder, progress=False)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_finished_run_does_not_come_back_with_other_layers(tmp_path, kind):
    first = fit_network(PLAIN[kind], tmp_path)
    assert fit_network(PLAIN[kind], tmp_path).loss == first.loss
    with pytest.raises(ValueError, match="other settings of the step: .* was .*, is "):
        fit_network(LAYERS[kind], tmp_path)


class Private(Dataset):
    "Rows under names as torchvision's newer data sets have them."

    def __init__(self, x, y, transform=None):
        self._images, self._labels, self.classes, self.transform, self._cache = x, y, ["a", "b"], transform, []

    def __len__(self):
        return len(self._images)

    def __getitem__(self, i):
        self._cache.append(i)
        return self._images[i] if self.transform is None else self.transform(self._images[i]), int(self._labels[i])


class Named(Private):
    "Labels in a dict by the names of files."

    def __init__(self, x, y):
        super().__init__(x, None)
        self.files, self._labels = [f"{i}.png" for i in range(len(x))], None
        self.labels = {name: int(label) for name, label in zip(self.files, y)}

    def __getitem__(self, i):
        return self._images[i], self.labels[self.files[i]]


class Table(Private):
    "Labels in a table of pandas, or of what has its method."

    class Frame:
        columns = ["label"]

        def __init__(self, y):
            self.y = np.asarray(y)[:, None].astype(object)

        def to_numpy(self):
            return self.y

    def __init__(self, x, y):
        super().__init__(x, y)
        self._labels, self.frame = None, self.Frame(y)

    def __getitem__(self, i):
        return self._images[i], int(self.frame.y[i, 0])


ROWS, CLASSES = torch.randn(32, 6, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 2
OTHER_DATA = {
    "private labels": [lambda y=y: DataLoader(Private(ROWS, y), 8) for y in (CLASSES, 1 - CLASSES)],
    "labels in a dict": [lambda y=y: DataLoader(Named(ROWS, y), 8) for y in (CLASSES, 1 - CLASSES)],
    "labels in a table": [lambda y=y: DataLoader(Table(ROWS, y), 8) for y in (CLASSES, 1 - CLASSES)],
    "a subset by range": [lambda rows=rows: DataLoader(Subset(Private(ROWS, CLASSES), rows), 8)
                          for rows in (range(16), range(16, 32))],
    "shuffled": [lambda shuffle=shuffle: DataLoader(Private(ROWS, CLASSES), 8, shuffle) for shuffle in (True, False)],
    "order of batches()": [lambda seed=seed: batches(ROWS, CLASSES, batch_size=8, seed=seed) for seed in (0, 1)],
    "transform": [lambda p=p: DataLoader(Private(ROWS, CLASSES, nn.Dropout(p)), 8) for p in (0.1, 0.2)],
    "partial": [lambda k=k: DataLoader(Private(ROWS, CLASSES, functools.partial(torch.mul, other=k)), 8)
                for k in (1.0, -1.0)],
}


@pytest.mark.parametrize("kind", OTHER_DATA)
def test_data_that_hide_are_found(tmp_path, kind):
    one, other = OTHER_DATA[kind]
    loader = one()
    first = fit_network(PLAIN["frozen"], tmp_path, loader)
    for again in (loader, one()):  # a cache that has filled is no other data
        assert fit_network(PLAIN["frozen"], tmp_path, again).loss == first.loss
    with pytest.raises(ValueError, match="belongs to a run with other data"):
        fit_network(PLAIN["frozen"], tmp_path, other())


def test_settings_that_change_in_the_middle_of_a_run_are_said(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Run(hook=stop_at(0.3)).fit(checkpoint=tmp_path)
    with pytest.warns(UserWarning, match=r"is continued with other settings of the step \(p_stop was 0.3, is 2\)"):
        Run(hook=stop_at(2)).fit(checkpoint=tmp_path)


def test_what_a_step_counts_is_no_setting(tmp_path):
    run, counted, losses, seen, total = Run(), [0], [], {"steps": 0}, 0

    def step(batch, p):
        nonlocal total
        total += 1
        counted[0] += 1
        seen["steps"] += 1
        losses.append(p)
        return cross_entropy(run.net(batch[0]), batch[1]), {}

    fits = [fit(step, LOADERS["shuffled"](), run.optimizer, epochs=2, checkpoint=tmp_path, progress=False)
            for _ in range(2)]
    assert fits[0].loss == fits[1].loss and total == counted[0] == seen["steps"] == len(losses) == 2 * STEPS
    assert all(name.startswith(("run.net.", "its code ")) for name in step_settings(step))


def test_a_checkpoint_of_before_is_read(tmp_path):
    "It knows neither data nor step; the next one that is written does."
    with pytest.raises(KeyboardInterrupt):
        Run(hook=stop_at(0.6)).fit(checkpoint=tmp_path)
    file = tmp_path / "checkpoint.safetensors"
    state = checkpoint._read_state(file)
    for key in ("data", "settings of the step"):
        del state["run"][key]
    checkpoint._write_state(file, state)
    assert numbers(Run().fit(checkpoint=tmp_path)) == numbers(Run().fit())
    assert {"data", "settings of the step"} <= set(checkpoint._read_state(file)["run"])


def test_a_checkpoint_that_does_not_say_how_rows_were_drawn_is_read(tmp_path):
    run = Run()
    first = run.fit(checkpoint=tmp_path)
    file = tmp_path / "checkpoint.safetensors"
    state = checkpoint._read_state(file)
    state["run"]["data"] = {name: text for name, text in state["run"]["data"].items() if not name.startswith("how ")}
    checkpoint._write_state(file, state)
    assert Run().fit(checkpoint=tmp_path).loss == first.loss


def test_without_a_schedule_the_rate_is_part_of_the_run(tmp_path):
    Run().fit(checkpoint=tmp_path, schedule=None)
    slower = Run(lambda parameters, lr: torch.optim.Adam(parameters, lr=lr / 10))
    with pytest.raises(ValueError, match=r"run with other optimizer options: .* \(lr was 0.01, is 0.001\)"):
        slower.fit(checkpoint=tmp_path, schedule=None)


def test_with_a_schedule_the_same_objects_may_be_fitted_again(tmp_path):
    run = Run()
    first = run.fit(checkpoint=tmp_path)  # leaves the optimizer at the schedule's last rate
    assert run.fit(checkpoint=tmp_path).loss == first.loss


def test_without_one_too_as_often_as_one_likes(tmp_path):
    run = Run()
    first = run.fit(checkpoint=tmp_path, schedule=None)
    assert [run.fit(checkpoint=tmp_path, schedule=None).loss for _ in range(3)] == [first.loss] * 3


def test_a_checkpoint_with_other_buffers_is_refused(tmp_path):
    Run().fit(checkpoint=tmp_path)
    other = Run()
    other.net.register_buffer("count", torch.zeros(1))
    with pytest.raises(ValueError, match="does not fit the model or the optimizer .*count.* pass resume=False"):
        other.fit(checkpoint=tmp_path)


def test_checkpoint_of_another_network_is_refused(tmp_path):
    Run().fit(checkpoint=tmp_path)
    other = Run()
    other.net[4] = nn.Linear(16, 3)
    other.optimizer = torch.optim.Adam(other.net.parameters())
    with pytest.raises(ValueError, match="other parameters"):
        other.fit(checkpoint=tmp_path)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-10])


def garble_header(file):
    content = bytearray(file.read_bytes())
    content[8:200] = b"#" * 192
    file.write_bytes(content)


def foreign_weights(file):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, file)


def half_a_state(file):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, file, {"state": json.dumps({"model": {"weight": {"tensor": "absent"}}})})


def other_json(file):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, file, {"state": json.dumps({"model": 1})})


def pickled(file):
    torch.save({"weight": torch.zeros(2)}, file)


def empty(file):
    file.write_bytes(b"")


def zero_the_end(file):
    file.write_bytes(file.read_bytes()[:-100] + bytes(100))


def edited(**changes):
    "Another content under the same tensors and checksum."
    from safetensors import safe_open
    from safetensors.torch import save_file

    def damage(file):
        with safe_open(file, framework="pt") as stored:
            header, tensors = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}
        save_file(tensors, file, header | {"state": json.dumps(json.loads(header["state"]) | changes)})

    return damage


EDITS = [
    {"epochs_done": "2"}, {"epochs_done": -1}, {"epochs_done": 99}, {"run": [1]}, {"optimizer": {}}, {"optimizer": 3},
    {"optimizer": {"state": 1, "param_groups": []}}, {"history": [1]}, {"history": {"nonsense": 1}},
]
DAMAGES = [truncate, garble_header, foreign_weights, half_a_state, other_json, pickled, empty, zero_the_end]


@pytest.mark.parametrize("damage", [*DAMAGES, *(pytest.param(edited(**each), id=str(each)) for each in EDITS)])
def test_damaged_checkpoint_gives_one_sentence(tmp_path, damage):
    Run().fit(checkpoint=tmp_path)
    damage(tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="is damaged or no checkpoint of fit .* delete it to start anew"):
        Run().fit(checkpoint=tmp_path)


@pytest.mark.parametrize("changes, reason", [
    ({"optimizer": {}}, "its optimizer state has the wrong form"),
    ({"history": [1]}, "its history has the wrong form"),
    ({"epochs_done": 99}, "it says that 99 epochs are done"),
])
def test_damage_is_named(tmp_path, changes, reason):
    Run().fit(checkpoint=tmp_path)
    edited(**changes)(tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match=reason):
        Run().fit(checkpoint=tmp_path)


def test_full_disk_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill_disk_after_first_epoch(p):
        if p >= 0.3:
            monkeypatch.setattr(os, "fsync", no_space)

    with pytest.raises(OSError, match="cannot write the checkpoint .*No space left.* the one before it is intact"):
        Run(hook=fill_disk_after_first_epoch).fit(checkpoint=tmp_path)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    assert numbers(Run().fit(checkpoint=tmp_path)) == numbers(Run().fit())


def test_folder_that_cannot_be_written_is_seen_before_training(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="cannot be written .*: choose another folder for the checkpoints"):
        Run(hook=stop_at(0)).fit(checkpoint=tmp_path / "file" / "run")


def test_tied_weights_survive_and_stay_tied(tmp_path):
    def tied_run():
        seed_everything(0)
        net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
        net[1].weight = net[0].weight
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        step = functools.partial(lambda net, batch, p: (cross_entropy(net(batch[0]), batch[1]), {}), net)
        return net, fit(step, LOADERS["shuffled"](), optimizer, epochs=2, checkpoint=tmp_path, progress=False)

    trained, history = tied_run()
    loaded, same_history = tied_run()
    assert same_history.loss == history.loss
    assert loaded[1].weight is loaded[0].weight
    assert torch.equal(loaded[0].weight, trained[0].weight)


def test_nothing_is_unpickled():
    for path in Path(training.__file__).parent.glob("*.py"):
        assert "torch.load" not in path.read_text() and "import pickle" not in path.read_text()


# --- NaN


def diverging(step_of_nan: int):
    def step(run, batch, p):
        loss, metrics = Run.step(run, batch, p)
        return loss * (math.nan if p >= step_of_nan / (EPOCHS * STEPS) else 1), metrics

    return step


@pytest.mark.parametrize("bad", [0, 5, 19])
def test_nan_stops_with_step_epoch_and_terms(tmp_path, bad):
    run, sentence = Run(), rf"became nan at step {bad} \(epoch {bad // STEPS}\); terms: accuracy .*p"
    step, before = functools.partial(diverging(bad), run), weights(run)[:10]
    with pytest.raises(FloatingPointError, match=sentence):
        fit(step, LOADERS["shuffled"](), run.optimizer, epochs=EPOCHS, checkpoint=tmp_path, progress=False)
    assert (weights(run)[:10] == before) == (bad == 0)  # the bad step itself moved no weight
    assert (tmp_path / "checkpoint.safetensors").exists() == (bad >= STEPS)


def test_log_reads_late_on_a_gpu_and_still_names_the_step():
    history = History()
    with Log(history, choose_accelerator("cpu"), epochs=2, epoch_steps=2, progress=False) as log:
        log.interval = 50  # what it is on a GPU
        for value in (1.0, 2.0, math.inf, 4.0):
            log.add(torch.tensor(value), {"term": value}, lr=0.1)
        with pytest.raises(FloatingPointError, match=r"became inf at step 2 \(epoch 1\); terms: term inf"):
            log.flush()
    assert history.loss == [1.0, 2.0]


# --- several processes

def train_in_this_process(kind: str, folder: Path) -> dict:
    """One process of a run: train, save, predict; the result as JSON-able values, also written to `folder`."""
    accelerator = choose_accelerator("cpu")
    seed_everything(accelerator.process_index)  # fit must give all processes the weights of the first
    net, unused = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)), nn.Linear(2, 2)

    def step(batch, p):
        logits = net(batch[0])
        metrics = {"accuracy": (logits.argmax(1) == batch[1]).float().mean(), "unused": unused.weight.sum()}
        return cross_entropy(logits, batch[1]), metrics

    written, write_state = [], checkpoint._write_state

    def counted(file, state):
        written.append(file.name)
        write_state(file, state)

    checkpoint._write_state = counted
    optimizer = torch.optim.Adam([*net.parameters(), *unused.parameters()], lr=0.02)
    options = {"epochs": EPOCHS, "accelerator": accelerator, "checkpoint": folder, "progress": False}
    if kind == "of the course":  # also with all that may be asked of a run
        options |= {"accumulate": 3, "clip_norm": 0.5, "validate": Validation(
            lambda: cross_entropy(net(data().tensors[0]), data().tensors[1]), higher_is_better=False, every=5,
            unit="steps", patience=3)}
    history = fit(step, LOADERS[kind](), optimizer, schedule=lambda p: cosine(p, 0.02), **options)
    checkpoint._write_state = write_state
    (folder / f"written-{accelerator.process_index}.json").write_text(json.dumps(written))
    x = data().tensors[0][:101]
    result = {
        "processes": accelerator.num_processes,
        "loss": history.loss,
        "accuracy": history.metrics["accuracy"],
        "validation": history.validation.get("value", []),
        "measured at": [*history.validation_steps, history.best_step],
        "weights": torch.cat([parameter.detach().flatten() for parameter in net.parameters()]).tolist(),
        "predictions": predict(net, x).tolist(),
        "shared predictions": predict(net, x, 7, accelerator).tolist(),
    }
    (folder / f"result-{accelerator.process_index}.json").write_text(json.dumps(result))
    return result


SCRIPT = """
import pathlib, sys
from accelerate import PartialState
from test_training import train_in_this_process

def main():
    train_in_this_process(sys.argv[1], pathlib.Path(sys.argv[2]))
    PartialState().destroy_process_group()  # without it the process that is left alone may abort

if __name__ == "__main__":
    if len(sys.argv) > 3:
        from accelerate import notebook_launcher
        notebook_launcher(main, num_processes=2, use_port=sys.argv[3])
    else:
        main()
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def in_two_processes(kind: str, folder: Path, launcher: str) -> list[dict]:
    """The results of both processes of a run under one of Accelerate's launchers."""
    script = folder / "train.py"
    script.write_text(SCRIPT)
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", free_port()]
    in_notebook = launcher == "notebook_launcher"
    arguments = [str(script), kind, str(folder)]
    command = [*arguments, free_port()] if in_notebook else [*launch, *arguments]
    done = subprocess.run([sys.executable, *command], **subprocess_options())
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"result-{process}.json").read_text()) for process in (0, 1)]


@pytest.mark.parametrize(
    "kind, launcher", [("shuffled", "accelerate launch"), ("of the course", "notebook_launcher")]
)
def test_two_processes_follow_the_curve_of_one(tmp_path, kind, launcher, record_property):
    """Same batches, same weights: losses agree to 1e-5 relative, the rounding of sums taken in another order."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    alone = train_in_this_process(kind, tmp_path / "one")
    first, second = in_two_processes(kind, tmp_path / "two", launcher)
    assert alone["processes"] == 1 and first["processes"] == second["processes"] == 2
    assert first == second
    np.testing.assert_allclose(first["loss"], alone["loss"], rtol=1e-5)
    np.testing.assert_allclose(first["accuracy"], alone["accuracy"], atol=1e-7)
    np.testing.assert_allclose(first["validation"], alone["validation"], rtol=1e-5)
    assert first["measured at"] == alone["measured at"] == ([5, 10, 15, 20, 25, 30, 30] if kind == "of the course"
                                                            else [None])
    np.testing.assert_allclose(first["weights"], alone["weights"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(first["shared predictions"], first["predictions"], rtol=1e-5, atol=1e-6)
    written = [json.loads((tmp_path / "two" / f"written-{process}.json").read_text()) for process in (0, 1)]
    assert written == [["checkpoint.safetensors"] * EPOCHS, []], "only the main process writes"
    apart = max(abs(a / b - 1) for a, b in zip(first["loss"], alone["loss"]))
    record_property(f"two processes by {launcher}", f"{len(alone['loss'])} losses differ from one process by at most "
                                                    f"{apart:.1e} relative (allowed 1e-5)")


def test_batch_that_cannot_be_split_evenly_is_refused():
    with pytest.raises(ValueError, match="a batch must split evenly between 2 processes, got 5 examples"):
        training.part_of_batch((torch.zeros(5, 2), torch.zeros(5)), 0, 2)


# --- finding the modules


NET, OTHER = nn.Linear(2, 2), nn.Linear(2, 2)


def calls_helper(batch, p):
    return helper(batch)


def helper(batch):
    return NET(batch)


class Trainer:
    def __init__(self):
        self.net, self.parts = NET, [OTHER]

    def step(self, batch, p):
        return self.net(batch)

    __call__ = step


def step_with_closure(net):
    return lambda batch, p: net(batch)


def wrapped(step):
    @functools.wraps(step)
    def inner(batch, p):
        return step(batch, p)

    return inner


FOUND = {
    "global variable": (lambda batch, p: NET(batch), [NET]),
    "two variables": (lambda batch, p: OTHER(NET(batch)), [OTHER, NET]),
    "closure": (step_with_closure(OTHER), [OTHER]),
    "function that step calls": (calls_helper, [NET]),
    "partial": (functools.partial(lambda net, batch, p: net(batch), NET), [NET]),
    "method of a module": (NET.forward, [NET]),
    "method of another object": (Trainer().step, [NET, OTHER]),
    "callable object": (Trainer(), [NET, OTHER]),
    "module": (NET, [NET]),
    "decorated": (wrapped(step_with_closure(NET)), [NET]),
    "dict of modules": (step_with_closure({"a": NET, "b": OTHER}), [NET, OTHER]),
    "none": (lambda batch, p: batch, []),
}


@pytest.mark.parametrize("case", FOUND)
def test_modules_of(case):
    step, expected = FOUND[case]
    assert {id(module) for module in modules_of(step)} == {id(module) for module in expected}


# --- precision and device


def test_bfloat16_trains_on_a_cpu():
    history = Run().fit(accelerator=choose_accelerator("cpu", "bf16"), epochs=30)
    assert history.last("accuracy", STEPS) > 0.75
    choose_accelerator("cpu")  # back to full precision for whatever runs next in this process


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_gpu_trains_and_resumes(tmp_path, precision):
    with pytest.raises(KeyboardInterrupt):
        Run(hook=stop_at(0.6)).fit(accelerator=choose_accelerator("cuda", precision), checkpoint=tmp_path, epochs=30)
    history = Run().fit(accelerator=choose_accelerator("cuda", precision), checkpoint=tmp_path, epochs=30)
    assert history.device == "cuda" and history.peak_bytes > 0
    assert history.last("accuracy", STEPS) > 0.75
    assert Run().fit(accelerator=choose_accelerator("cpu"), epochs=1).device == "cpu"


def test_cross_entropy_is_torchs_in_single_precision():
    logits, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, -100, 1])
    weight = torch.tensor([1.0, 2.0, 0.5])
    for x in (logits, logits.double()):
        options = {"weight": weight.to(x.dtype), "label_smoothing": 0.1}
        assert torch.equal(training.cross_entropy(x, y, **options), cross_entropy(x, y, **options))
    half = training.cross_entropy(logits.half(), y, weight=weight.half())
    assert torch.equal(half, cross_entropy(logits.half().float(), y, weight=weight))
    shares = logits.softmax(1).half()
    assert torch.equal(training.cross_entropy(logits.half(), shares),
                       cross_entropy(logits.half().float(), shares.float()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_single_precision_is_the_least_inside_and_autocast_is_off(dtype):
    seen = training.in_single_precision(lambda x, y: (x @ y.T).dtype)
    x, least = torch.ones(2, 3, dtype=dtype), torch.promote_types(dtype, torch.float32)
    assert seen(x, x) == least
    with torch.autocast("cpu", torch.bfloat16):
        assert seen(x, x) == least


@pytest.mark.parametrize("size", [0.0, 1e-7, 1.0, 6e4])
def test_unit_vectors_have_length_one_or_zero(size):
    unit = training.unit_vectors(torch.full((3, 400), size).half())
    assert unit.dtype == torch.float16
    assert unit.float().norm(dim=1).tolist() == pytest.approx([float(size > 0)] * 3, rel=0.01)
    x = torch.randn(3, 4)
    assert torch.equal(training.unit_vectors(x, 0), nn.functional.normalize(x, dim=0))


# --- bad input


def bad_step(result):
    run = Run()

    def step(batch, p):
        return result(run.net(batch[0]))

    return lambda: fit(step, LOADERS["shuffled"](), run.optimizer, epochs=1, progress=False)


def bad_argument(**options):
    return lambda: Run().fit(**options)


class UsedUp:
    def __init__(self):
        self.batches = iter(LOADERS["list of batches"]())

    def __len__(self):
        return STEPS

    def __iter__(self):
        return self.batches


def changing_metrics():
    run = Run()

    def step(batch, p):
        return cross_entropy(run.net(batch[0]), batch[1]), {"early" if p < 0.5 else "late": 1.0}

    return fit(step, LOADERS["shuffled"](), run.optimizer, epochs=1, progress=False)


BAD_INPUT = [
    (bad_argument(epochs=0), "epochs must be a whole number of at least 1, got 0"),
    (bad_argument(epochs=1.5), "epochs must be a whole number of at least 1, got 1.5"),
    (bad_argument(epochs=True), "epochs must be a whole number of at least 1, got True"),
    (bad_argument(accelerator="cpu"), "accelerator must be an Accelerator, got str"),
    (bad_argument(schedule=0.1), "schedule must be a function from p to a learning rate, got 0.1"),
    (bad_argument(schedule=0), "schedule must be a function from p to a learning rate, got 0"),
    (bad_argument(schedule=lambda p: None), r"schedule\(0\) must be a finite number of at least 0, got None"),
    (bad_argument(schedule=lambda p: "0.1"), r"schedule\(0\) must be a finite number of at least 0, got '0.1'"),
    (bad_argument(schedule=lambda p: 0.5 - p), r"schedule\(0.6\) must be .* at least 0, got -0.09999999999999998"),
    (bad_argument(schedule=lambda p: math.nan), r"schedule\(0\) must be .* got nan"),
    (bad_argument(schedule=lambda p: math.inf), r"schedule\(0\) must be .* got inf"),
    (bad_argument(schedule=lambda p: True), r"schedule\(0\) must be .* got True"),
    (lambda: cosine("a", 1), "p must be a finite number from 0 to 1, got 'a'"),
    (lambda: cosine(0.5, -1), "base must be a finite number of at least 0, got -1"),
    (lambda: cosine(0.5, 1, math.inf), "final must be a finite number of at least 0, got inf"),
    (bad_argument(seed=-1), "seed must be a whole number of at least 0, got -1"),
    (bad_argument(seed=True), "seed must be a whole number of at least 0, got True"),
    (bad_argument(loader=[]), "loader must have a length and at least one batch, got none"),
    (bad_argument(loader=iter([1])), "loader must have a length and at least one batch, got list_iterator"),
    (bad_argument(loader=UsedUp()), "loader must give 8 batches in every epoch, .* got 0 in epoch 1"),
    (bad_argument(model=nn.Linear(2, 2)), "pass the module, or a list of modules, as model="),
    (lambda: fit(None, [1], Run().optimizer, epochs=1), r"step must be a function \(batch, p\) -> .* got None"),
    (lambda: fit(Run().step, [1], "adam", epochs=1), "optimizer must be an Optimizer, got str"),
    (bad_step(lambda out: out.mean()), r"must return \(loss, metrics\), metrics being a dict, got Tensor"),
    (bad_step(lambda out: (out.mean(), 0.5)), r"must return \(loss, metrics\)"),
    (bad_step(lambda out: (out, {})), r"a tensor with one number and a gradient, got shape \(16, 2\)"),
    (bad_step(lambda out: (out.mean().detach(), {})), r"got shape \(\), loss.requires_grad=False"),
    (bad_step(lambda out: (out.mean().item(), {})), "a tensor with one number and a gradient, got -?0"),
    (bad_step(lambda out: (out.mean(), {"logits": out})), r"logits of a step must be one number, got shape \(16, 2\)"),
    (bad_step(lambda out: (out.mean(), None)), r"metrics being a dict, got \('Tensor', 'NoneType'\)"),
    (bad_step(lambda out: (out.mean(), {"loss": 1.0})), "metrics must not be named loss or lr, .* got 'loss'"),
    (bad_step(lambda out: (out.mean(), {"lr": 1.0})), "metrics must not be named loss or lr, .* got 'lr'"),
    (bad_step(lambda out: (out.mean(), {"acc": "high"})), "acc of a step must be one number, got 'high'"),
    (changing_metrics, r"metrics must be the same at every step, got \['late'\] after \['early'\]"),
    (lambda: choose_accelerator("tpu"), "device must be one of 'auto', 'cpu'.*, all that PyTorch sees here, got 'tpu'"),
    (lambda: choose_accelerator("cuda:99"), "all that PyTorch sees here, got 'cuda:99'"),
    (lambda: choose_accelerator(0), "device must be one of 'auto', 'cpu'.*, all that PyTorch sees here, got 0"),
    (lambda: choose_accelerator("cpu", "int8"), "mixed_precision must be one of 'no', 'bf16', 'fp16', got 'int8'"),
    (lambda: set_learning_rate(Run().optimizer, lambda p: -p, 0.5), r"schedule\(0.5\) must be .* got -0.5"),
    (lambda: History().last("acuracy"), "name must be one of 'loss', 'lr', got 'acuracy'"),
    (lambda: History().last("loss", 0), "steps must be a whole number of at least 1, got 0"),
    (lambda: recorded_losses(0).__enter__(), "steps must be a whole number of at least 1, got 0"),
]


@pytest.mark.parametrize("call, sentence", BAD_INPUT, ids=[case[1][:40] for case in BAD_INPUT])
def test_bad_input_gives_one_clear_sentence(call, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_missing_gpu_is_said():
    with pytest.raises(ValueError, match="one of 'auto', 'cpu'.* all that PyTorch sees here, got 'cuda'"):
        choose_accelerator("cuda")


# --- losses seen from outside


def test_recorded_losses_are_the_first_of_every_run_in_the_block(tmp_path):
    with recorded_losses(steps=5) as losses:
        first, second = Run().fit(), Run().fit(seed=1, checkpoint=tmp_path)
        Run().fit(seed=1, checkpoint=tmp_path)  # only loaded
    outside = Run().fit(seed=2)
    assert losses == [first.loss[:5], second.loss[:5], second.loss[:5]]
    assert outside.loss[:5] not in losses


def test_recorded_losses_of_a_resumed_run_begin_at_its_first_step(tmp_path):
    with recorded_losses(steps=1000) as losses:
        with pytest.raises(KeyboardInterrupt):
            Run(hook=stop_at(0.6)).fit(checkpoint=tmp_path)
        whole = Run().fit(checkpoint=tmp_path)
    assert losses == [whole.loss] and len(whole.loss) == EPOCHS * STEPS


def test_blocks_that_record_may_be_nested_and_end_with_an_error():
    with recorded_losses(steps=2) as outer:
        with pytest.raises(RuntimeError), recorded_losses(steps=2) as inner:
            Run().fit(epochs=1)
            raise RuntimeError
        with recorded_losses(steps=3) as empty:
            pass
        Run().fit(epochs=1, seed=1)
    Run().fit(epochs=1, seed=2)
    assert (len(outer), len(inner), len(empty)) == (2, 1, 0)
    assert outer[0] == inner[0] and len(outer[1]) == 2


def test_recording_changes_no_number():
    with recorded_losses():
        recorded = Run().fit()
    assert numbers(recorded) == numbers(Run().fit())


def test_fit_gives_the_numbers_that_it_gave_before_it_was_split_into_modules():
    """First and last loss and the sum of the weights, from the version in one file (other CPUs
    differ in the last digits)."""
    run = Run()
    history = run.fit()
    assert [history.loss[0], history.loss[-1], sum(weights(run))] == pytest.approx(BEFORE, rel=1e-3)


# --- the promise of the notebook


def test_history_reports_time_memory_and_device():
    history = Run().fit()
    assert history.seconds > 0 and history.peak_bytes > 10_000_000 and history.device == "cpu"
    assert len(history.figure().axes) == 3


def test_seconds_of_a_resumed_run_include_its_earlier_part(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Run(hook=stop_at(0.8)).fit(checkpoint=tmp_path)
    saved = History()
    run = Run()
    state = checkpoint._read_state(tmp_path / "checkpoint.safetensors")
    stored = Checkpoint(tmp_path, state["run"], run.net, run.optimizer, choose_accelerator("cpu"), saved)
    assert stored.load() == 3
    assert Run().fit(checkpoint=tmp_path).seconds > saved.seconds > 0


def test_fit_is_short_enough_to_read():
    lines = inspect.getsource(fit).splitlines()
    docstring = ast.parse("\n".join(lines)).body[0].body[0]
    body = lines[: docstring.lineno - 1] + lines[docstring.end_lineno :]
    assert len([line for line in body if line.strip()]) <= 60


def test_training_has_the_names_of_its_modules():
    from xfer_course.training import devices, fingerprints, history, loop, rates, recipe, same_run, validation

    modules = (loop, rates, recipe, validation, history, checkpoint, devices, fingerprints, same_run)
    assert sorted(name for module in modules for name in module.__all__) == sorted(training.__all__)
    assert all(getattr(training, name) is getattr(module, name) for module in modules for name in module.__all__)


def test_import_is_light():
    heavy = ("accelerate", "sklearn", "matplotlib")
    code = f"import sys, xfer_course.training; sys.exit(any(name in sys.modules for name in {heavy}))"
    subprocess.run([sys.executable, "-c", code], check=True)


class TestTrain:
    "`train`: AdamW, half a cosine, shuffled batches, in one call."

    @staticmethod
    def rows(n=40):
        inputs = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
        return inputs, (inputs[:, 0] > 0).long()

    @pytest.mark.parametrize("length", [{"steps": 7}, {"epochs": 2}])
    def test_is_the_loop_written_by_hand(self, length):
        inputs, labels = self.rows()
        seed_everything(0)
        net = nn.Linear(3, 2)
        plain, total = copy.deepcopy(net), length.get("steps") or 2 * (40 // 16)
        history = train(net, inputs, labels, rate=0.1, batch_size=16, seed=3, **length)
        optimizer, losses = torch.optim.AdamW(plain.parameters(), 0.1, weight_decay=0.01), []
        loader = batches(inputs, labels, batch_size=16, steps=length.get("steps"), seed=3)
        for epoch in range(length.get("epochs", 1)):
            seed_epoch(loader, 3, epoch)
            for x, y in loader:
                optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * len(losses) / total))
                loss = nn.functional.cross_entropy(plain(x), y)
                optimizer.zero_grad(), loss.backward(), optimizer.step()
                losses.append(loss.item())
        assert history.loss == pytest.approx(losses, rel=1e-6) and len(losses) == total
        torch.testing.assert_close(net.weight, plain.weight)

    def test_frozen_weights_and_the_mode_stay(self):
        net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2)).train()
        net[0].requires_grad_(False)
        before = copy.deepcopy(net)
        train(net, *self.rows(), rate=0.1, steps=3)
        assert torch.equal(net[0].weight, before[0].weight) and not torch.equal(net[2].weight, before[2].weight)
        assert net.training

    def test_one_order_for_several_seeds(self):
        def order_of(**options):
            net, rows = nn.Linear(3, 1), []
            train(net, *self.rows(), rate=0.1, steps=2, batch_size=8, **options,
                  loss=lambda x, y: rows.append(x.clone()) or net(x).mean())
            return torch.cat(rows)

        seen = [order_of(seed=0), order_of(seed=1), order_of(seed=1, order=0)]
        assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])

    @pytest.mark.parametrize(("options", "message"), [
        ({}, "steps or epochs must be given, and not both, got steps=None and epochs=None"),
        ({"steps": 1, "epochs": 1}, "steps or epochs must be given, and not both"),
        ({"steps": 0}, "steps must be"), ({"epochs": 0}, "epochs must be"), ({"steps": 1, "rate": 0}, "rate must be"),
        ({"steps": 1, "batch_size": 0}, "batch_size must be"), ({"steps": 1, "clip_norm": -1}, "clip_norm must be"),
    ])
    def test_what_does_not_fit_is_refused_in_a_sentence(self, options, message):
        with pytest.raises(ValueError, match=message):
            train(nn.Linear(3, 2), *self.rows(), **{"rate": 0.1, **options})

    def test_labels_that_the_model_has_no_output_for_are_refused(self):
        with pytest.raises(ValueError, match="labels must"):
            train(nn.Linear(3, 2), self.rows()[0], torch.full((40,), 2), rate=0.1, steps=1)
