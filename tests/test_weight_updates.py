"""From losses to weights: accumulation, clipping, rates of several groups; and runs that are extended, or placed."""
from __future__ import annotations

import functools
import math
import os
import warnings
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from test_training import EPOCHS, LOADERS, STEPS, GroupedRun, Run, data, numbers, stop_at, weights
from xfer_course.labs import resolve_device
from xfer_course.training import (
    Validation,
    WeightUpdates,
    choose_accelerator,
    cosine,
    devices,
    fit,
    rate_groups,
    seed_everything,
    set_learning_rate,
)


class Plain:
    "A network in which no layer looks at a whole batch or draws, in double precision: sums in any order agree."

    def __init__(self, optimizer=None):
        seed_everything(0)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)).double()
        optimizer = optimizer or OPTIMIZERS["momentum"]
        self.optimizer, self.seen = optimizer(self.net.parameters()), []

    def step(self, batch, p):
        self.seen.append(p)
        loss = cross_entropy(self.net(batch[0].double()), batch[1])
        return loss * (1 + p), {"p": p}  # a loss that depends on the progress, as an adversary's strength does

    def fit(self, size, **options):
        loader = list(DataLoader(data(), batch_size=size))
        return fit(self.step, loader, self.optimizer, **{"epochs": 3, "progress": False} | options)

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.net.parameters()])


# --- accumulation


OPTIMIZERS = {
    "momentum": functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "Adam": functools.partial(torch.optim.Adam, lr=0.01),
    "decay": functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("k", [1, 2, 4, 8])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_small_batches_together_are_one_large_batch(optimizer, k, clip_norm):
    "Under a schedule, and with a loss that depends on p."
    large, small = Plain(optimizer), Plain(optimizer)
    options = {"schedule": lambda p: cosine(p, 0.05), "clip_norm": clip_norm}
    expected, found = large.fit(32, **options), small.fit(32 // k, accumulate=k, **options)
    torch.testing.assert_close(small.weights(), large.weights(), rtol=1e-9, atol=1e-12)
    assert len(found.loss) == k * len(expected.loss)
    assert found.lr[::k] == expected.lr and found.metrics["p"][::k] == expected.metrics["p"]
    means = torch.tensor(found.loss, dtype=torch.float64).view(-1, k).mean(1)
    torch.testing.assert_close(means, torch.tensor(expected.loss, dtype=torch.float64), rtol=1e-9, atol=0)


def naive(run: Plain, loader, k: int, epochs: int) -> None:
    for epoch in range(epochs):
        for first in range(0, len(loader), k):
            group, p = loader[first:first + k], (epoch * len(loader) + first) / (epochs * len(loader))
            run.optimizer.zero_grad()
            (sum(run.step(batch, p)[0] for batch in group) / len(group)).backward()
            run.optimizer.step()


@pytest.mark.parametrize("k", [3, 5, 7, 8, 9, 100])
def test_the_last_group_has_what_is_left_and_its_mean_counts(k):
    "Also where the loader is shorter than a group: then every epoch is one step."
    run, expected, loader = Plain(), Plain(), list(DataLoader(data(), batch_size=16))
    assert len(loader) == 8
    run.fit(16, accumulate=k)
    naive(expected, loader, k, epochs=3)
    torch.testing.assert_close(run.weights(), expected.weights(), rtol=1e-9, atol=1e-12)
    assert run.seen == expected.seen


def test_weights_move_once_per_group():
    run, moves = Run(), []
    before = run.optimizer.step
    run.optimizer.step = lambda: moves.append(1) or before()
    run.fit(accumulate=3)
    assert len(moves) == EPOCHS * math.ceil(STEPS / 3)


@pytest.mark.parametrize("kind", LOADERS)
def test_an_accumulated_and_clipped_run_resumes_to_the_bit(tmp_path, kind):
    options, whole, continued = {"accumulate": 3, "clip_norm": 0.5}, Run(), Run()
    expected = whole.fit(LOADERS[kind](), **options)
    with pytest.raises(KeyboardInterrupt):
        Run(hook=stop_at(0.6)).fit(LOADERS[kind](), checkpoint=tmp_path, **options)
    assert numbers(continued.fit(LOADERS[kind](), checkpoint=tmp_path, **options)) == numbers(expected)
    assert weights(continued) == weights(whole)


@pytest.mark.parametrize("options, key", [({"accumulate": 2}, "accumulate"), ({"clip_norm": 1.0}, "clip_norm")])
def test_a_checkpoint_knows_how_weights_were_moved(tmp_path, options, key):
    Run().fit(checkpoint=tmp_path)
    with pytest.raises(ValueError, match=f"run with other {key}"):
        Run().fit(checkpoint=tmp_path, **options)
    Run().fit(checkpoint=tmp_path, resume=False, **options)
    with pytest.raises(ValueError, match=f"run with other {key}"):
        Run().fit(checkpoint=tmp_path)


def test_the_accelerators_own_number_of_batches_counts():
    from accelerate import Accelerator

    choose_accelerator("cpu")
    by_accelerator, by_argument = Plain(), Plain()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    by_accelerator.fit(16, accelerator=accelerator)
    assert accelerator.gradient_accumulation_steps == 3
    by_argument.fit(16, accumulate=3, accelerator=choose_accelerator("cpu"))
    assert torch.equal(by_accelerator.weights(), by_argument.weights())
    assert choose_accelerator("cpu").gradient_accumulation_steps == 1


def test_an_error_leaves_the_accelerator_as_it_was():
    accelerator = choose_accelerator("cpu")
    with pytest.raises(KeyboardInterrupt):
        Run(hook=stop_at(0.1)).fit(accumulate=4, accelerator=accelerator)
    assert accelerator.gradient_accumulation_steps == 1


# --- clipping


@pytest.mark.parametrize("clip_norm", [1e-3, 0.1, 1.0, 1e6])
def test_a_clipped_step_is_that_of_torch(clip_norm):
    run, expected = Plain(), Plain()
    loader = list(DataLoader(data(), batch_size=16))
    run.fit(16, clip_norm=clip_norm, epochs=1)
    for i, batch in enumerate(loader):
        loss, _ = expected.step(batch, i / len(loader))
        expected.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(expected.net.parameters(), clip_norm)
        expected.optimizer.step()
    assert torch.equal(run.weights(), expected.weights())


def test_a_bound_that_is_never_reached_changes_no_number():
    one, other = Run(), Run()
    assert numbers(one.fit()) == numbers(other.fit(clip_norm=1e9)) and weights(one) == weights(other)


@pytest.mark.parametrize("clip_norm", [1e-3, 0.2])
def test_a_step_of_plain_descent_is_no_longer_than_rate_times_bound(clip_norm):
    run = Plain(functools.partial(torch.optim.SGD, lr=0.5))
    before = run.weights().clone()
    loader = list(DataLoader(data(), batch_size=128))
    fit(run.step, loader, run.optimizer, epochs=1, clip_norm=clip_norm, progress=False)
    assert (run.weights() - before).norm().item() == pytest.approx(0.5 * clip_norm, rel=1e-4)


def test_in_fp16_the_scale_is_undone_before_clipping(monkeypatch):
    "A gradient scaler of the CPU stands in for a GPU's: the clipped step is that of full precision."
    accelerator = choose_accelerator("cpu")
    monkeypatch.setattr(type(accelerator), "mixed_precision", property(lambda self: "fp16"))
    monkeypatch.setattr(accelerator, "native_amp", True)
    monkeypatch.setattr(accelerator, "scaler", torch.amp.GradScaler("cpu", init_scale=1024.0))
    moved = []
    for batches, options in (([3.0], {}), ([3.0], {"clip_norm": 0.5}), ([2.0, 6.0], {"accumulate": 2}),
                             ([2.0, 6.0], {"accumulate": 2, "clip_norm": 0.5}), ([math.inf], {"clip_norm": 0.5})):
        weight = torch.zeros(1, requires_grad=True)
        with WeightUpdates(torch.optim.SGD([weight], lr=1.0), accelerator, len(batches), **options) as updates:
            for i, factor in enumerate(batches):
                updates.take((factor * weight).sum(), i)
        moved.append(weight.item())
    assert moved == pytest.approx([-3.0, -0.5, -4.0, -0.5, 0.0], rel=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_gpu_validates_clips_and_accumulates(tmp_path, precision):
    def run(folder=None, p_stop=2.0):
        made = Run(hook=stop_at(p_stop))
        loss = Validation(lambda: made.fit_loss(), higher_is_better=False, patience=3)
        made.fit_loss = lambda: cross_entropy(made.net(data().tensors[0].cuda()), data().tensors[1].cuda())
        return made.fit(accelerator=choose_accelerator("cuda:0", precision), checkpoint=folder, epochs=30,
                        validate=loss, accumulate=2, clip_norm=1.0)

    with pytest.raises(KeyboardInterrupt), warnings.catch_warnings(action="ignore"):
        run(tmp_path, 0.2)
    with warnings.catch_warnings(action="ignore"):
        resumed, whole = run(tmp_path), run()
    assert resumed.validation_steps == whole.validation_steps and resumed.last("accuracy", STEPS) > 0.75
    assert resumed.validation["value"] == pytest.approx(whole.validation["value"], rel=1e-2)
    choose_accelerator("cpu")


@pytest.mark.parametrize("kind", ["another model", "frozen", "replaced"])
def test_an_optimizer_that_the_loss_does_not_reach_is_refused(kind):
    trained, other = nn.Linear(3, 2), nn.Linear(3, 2)
    used = nn.ModuleList([trained, other])
    if kind == "frozen":
        trained.requires_grad_(False)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    if kind == "replaced":
        old, trained.weight = trained.weight, nn.Parameter(torch.zeros(2, 3))
        used.append(nn.ParameterList([old, trained.bias]))
        optimizer = torch.optim.SGD([old], lr=0.1)
    net = trained if kind == "replaced" else other
    with pytest.raises(ValueError, match="optimizer must train parameters that the loss depends on, got none with"):
        fit(lambda batch, p: (net(batch).square().mean(), {}), [torch.ones(4, 3)], optimizer, epochs=1, model=used,
            progress=False)


BAD = [
    ({"accumulate": 0}, "accumulate must be a whole number of at least 1, got 0"),
    ({"accumulate": 1.5}, "accumulate must be a whole number of at least 1, got 1.5"),
    ({"accumulate": True}, "accumulate must be a whole number of at least 1, got True"),
    ({"clip_norm": 0}, "clip_norm must be a finite number above 0, got 0"),
    ({"clip_norm": -1}, "clip_norm must be a finite number above 0, got -1"),
    ({"clip_norm": math.inf}, "clip_norm must be a finite number above 0, got inf"),
    ({"clip_norm": "1"}, "clip_norm must be a finite number above 0, got '1'"),
    ({"extend": True}, "checkpoint must be a folder where extend=True, which continues what is there, got None"),
    ({"extend": 1}, "extend must be one of True, False, got 1"),
]


@pytest.mark.parametrize("options, sentence", BAD, ids=[each[1][:30] + str(i) for i, each in enumerate(BAD)])
def test_wrong_options_are_refused_in_a_sentence(options, sentence):
    run = Run()
    before = weights(run)
    with pytest.raises((TypeError, ValueError), match=sentence):
        run.fit(**options)
    assert weights(run) == before


# --- rates


def trunk_and_head():
    seed_everything(0)
    trunk = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
    return nn.Sequential(OrderedDict(trunk=trunk, header=nn.Linear(8, 8), head=nn.Linear(8, 2)))


def test_named_parts_get_their_factor_and_everything_is_there_once():
    net = trunk_and_head()
    net.trunk[0].requires_grad_(False)
    groups = rate_groups(net, 0.01, {"trunk": 0.1, "head": 10, "trunk.3": 0.5, "trunk.1.bias": 2})
    assert [group["lr"] for group in groups] == [0.1, 0.02, 0.01, 0.005, 0.001]
    wanted = [[*net.head.parameters()], [net.trunk[1].bias], [*net.header.parameters()], [*net.trunk[3].parameters()],
              [net.trunk[1].weight]]
    assert [[id(p) for p in group["params"]] for group in groups] == [[id(p) for p in part] for part in wanted]
    assert rate_groups(net, 0.01, {})[0]["lr"] == 0.01 and len(rate_groups(net, 0.01, {"head": 1})) == 1


def test_a_head_keeps_ten_times_the_rate_of_the_trunk_under_a_schedule():
    net, seen = trunk_and_head(), []
    optimizer = torch.optim.SGD(rate_groups(net, 0.01, {"head": 10}), momentum=0.9)

    def step(batch, p):
        seen.append([group["lr"] for group in optimizer.param_groups])
        return cross_entropy(net(batch[0]), batch[1]), {}

    history = fit(step, LOADERS["of the course"](), optimizer, epochs=2, schedule=lambda p: cosine(p, 0.5),
                  progress=False)
    assert history.lr == [cosine(i / 16, 0.5) for i in range(16)] == [fast for fast, _ in seen]
    assert all(slow == pytest.approx(fast / 10) for fast, slow in seen)


@pytest.mark.parametrize("arguments, sentence", [
    ((0.01, {"classifier": 10}), "must name parts of model .* such as 'trunk', 'header', 'head', got 'classifier'"),
    ((0.01, {"hea": 10}), "got 'hea'"), ((0.01, {"trunk.2": 10}), "got 'trunk.2'"),
    ((0.01, {"head": 0}), r"factors\['head'\] must be a finite number above 0, got 0"),
    ((0.01, {"head": "ten"}), r"factors\['head'\] must be a finite number above 0, got 'ten'"),
    ((0, {"head": 2}), "lr must be a finite number above 0, got 0"),
    ((0.01, [("head", 2)]), "factors must be a Mapping"),
])
def test_groups_that_cannot_be_made_are_said(arguments, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        rate_groups(trunk_and_head(), *arguments)


def test_a_frozen_network_has_no_groups():
    with pytest.raises(ValueError, match="got a model without any"):
        rate_groups(trunk_and_head().requires_grad_(False), 0.1, {})
    with pytest.raises(TypeError, match="model must be an nn.Module, got list"):
        rate_groups([], 0.1, {})


# --- a run that is extended


def constant(p):
    return 0.02


def test_an_extended_run_is_the_long_one_to_the_bit(tmp_path):
    "Where nothing depends on p: no schedule, a constant one, or one of epochs that is given its length."
    for name, schedule in (("none", lambda epochs: None), ("constant", lambda epochs: constant),
                           ("by epochs", lambda epochs: lambda p: 0.02 if p * epochs < 5 else 0.002)):
        for optimizer in (torch.optim.Adam, functools.partial(torch.optim.SGD, momentum=0.9)):
            folder = tmp_path / f"{name} {optimizer}"[:20]
            whole, extended, short = WithoutP(optimizer), WithoutP(optimizer), WithoutP(optimizer)
            expected = whole.fit(epochs=9, schedule=schedule(9))
            short.fit(epochs=4, schedule=schedule(4), checkpoint=folder)
            with warnings.catch_warnings(action="error"):
                WithoutP(optimizer).fit(epochs=6, schedule=schedule(6), checkpoint=folder, extend=True)
                found = extended.fit(epochs=9, schedule=schedule(9), checkpoint=folder, extend=True)
            assert numbers(found) == numbers(expected) and weights(extended) == weights(whole)
            again = WithoutP(optimizer, stop_at(0)).fit(epochs=9, schedule=schedule(9), checkpoint=folder)
            assert numbers(again) == numbers(expected)


class WithoutP(Run):
    def step(self, batch, p):
        loss, metrics = super().step(batch, p)
        return loss, {"accuracy": metrics["accuracy"]}


@pytest.mark.parametrize("patience", [None, 2])
def test_an_extended_run_keeps_its_best_weights_and_its_patience(tmp_path, patience):
    def run(epochs, **options):
        made = WithoutP(functools.partial(torch.optim.SGD, momentum=0.9))
        loss = Validation(lambda: cross_entropy(made.net(data().tensors[0] * 1.5), data().tensors[1]),
                          higher_is_better=patience is not None, patience=patience)
        return made, made.fit(epochs=epochs, schedule=constant, validate=loss, **options)

    whole, expected = run(12)
    run(2, checkpoint=tmp_path)
    extended, found = run(12, checkpoint=tmp_path, extend=True)
    assert found.validation == expected.validation and found.best_step == expected.best_step
    assert weights(extended) == weights(whole) and found.stopped_early == expected.stopped_early
    if patience:
        assert found.stopped_early and found.validation_steps == [8, 16, 24]
        assert run(40, checkpoint=tmp_path, extend=True)[1].validation == expected.validation


def test_an_interrupted_run_may_be_extended_and_an_extended_one_interrupted(tmp_path):
    whole, extended = WithoutP(), WithoutP()
    expected = whole.fit(epochs=8, schedule=constant)
    for epochs, p_stop in ((4, 0.6), (8, 0.7)):
        with pytest.raises(KeyboardInterrupt), warnings.catch_warnings(action="ignore"):
            WithoutP(hook=stop_at(p_stop)).fit(epochs=epochs, schedule=constant, checkpoint=tmp_path, extend=True)
    with warnings.catch_warnings(action="ignore"):
        found = extended.fit(epochs=8, schedule=constant, checkpoint=tmp_path)
    assert numbers(found) == numbers(expected) and weights(extended) == weights(whole)


def test_a_schedule_that_goes_back_is_said(tmp_path):
    Run().fit(checkpoint=tmp_path)
    with pytest.warns(UserWarning, match=r"p goes back to 0.5, and the learning rate, which was 4.82e-05, to") as said:
        history = Run().fit(checkpoint=tmp_path, epochs=8, extend=True)
    assert len(said) == 1 and said[0].filename == __file__.replace("test_weight_updates", "test_training")
    assert history.lr == [cosine(i / 32, 0.02) for i in range(32)] + [cosine(i / 64, 0.02) for i in range(32, 64)]
    assert history.metrics["p"][32:] == [i / 64 for i in range(32, 64)]


def test_a_run_is_extended_on_request_only_and_never_shortened(tmp_path):
    Run().fit(checkpoint=tmp_path)
    with pytest.raises(ValueError, match="run with other epochs: .*, or pass extend=True to train on$"):
        Run().fit(checkpoint=tmp_path, epochs=8)
    for extend in (True, False):
        with pytest.raises(ValueError, match="run with other epochs: .* another folder$"):
            Run().fit(checkpoint=tmp_path, epochs=2, extend=extend)
    with pytest.raises(ValueError, match="run with other seed"):
        Run().fit(checkpoint=tmp_path, epochs=8, extend=True, seed=5)
    with pytest.raises(ValueError, match="run with other data"):
        x, y = data().tensors
        Run().fit(DataLoader(torch.utils.data.TensorDataset(x, 1 - y), 16), checkpoint=tmp_path, epochs=8, extend=True)
    loaded = Run()
    same = loaded.fit(checkpoint=tmp_path, extend=True)  # the same length: only loaded
    assert len(same.loss) == EPOCHS * STEPS and loaded.taken == 0


def test_groups_keep_their_ratio_when_a_run_is_extended(tmp_path):
    rates = (0.001, 0.01, 0.01)
    whole, extended = GroupedRun(rates), GroupedRun(rates)
    expected = whole.fit(epochs=6, schedule=constant)
    GroupedRun(rates).fit(epochs=3, schedule=constant, checkpoint=tmp_path)
    found = extended.fit(epochs=6, schedule=constant, checkpoint=tmp_path, extend=True)
    assert found.loss == expected.loss and weights(extended) == weights(whole)
    assert set_learning_rate(extended.optimizer, None, 0.0) == 0.002


# --- where a run computes


@pytest.fixture
def two_gpus(monkeypatch):
    "PyTorch says that there are two GPUs, and Accelerate believes it."
    from accelerate import state

    choose_accelerator("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(state, "check_cuda_p2p_ib_support", lambda: True)
    yield
    state.AcceleratorState._reset_state(reset_partial_state=True)


def test_a_gpu_is_chosen_by_number(two_gpus):
    for device, index in (("cuda:1", 1), ("auto", None), ("cuda:0", 0), (torch.device("cuda:1"), 1), ("cuda", None)):
        found = choose_accelerator(device).device
        assert (found.type, found.index) == ("cuda", index)
    assert choose_accelerator("cpu").device == torch.device("cpu")
    assert choose_accelerator("cuda:1").device == torch.device("cuda:1")
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ
    with pytest.raises(ValueError, match="'cpu', 'cuda', 'cuda:0', 'cuda:1', all that PyTorch sees here, got 'cuda:2'"):
        choose_accelerator("cuda:2")


def test_the_gpu_of_a_mac_is_chosen(monkeypatch):
    from accelerate import state

    choose_accelerator("cpu")
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mps, "is_available", lambda: True)
        patch.setattr(torch.accelerator, "is_available", lambda: True)
        patch.setattr(state, "is_mps_available", lambda *arguments: True)
        patch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
        for device in ("mps", "auto", torch.device("mps:0")):
            assert choose_accelerator(device).device == torch.device("mps")
        assert choose_accelerator("cpu").device == torch.device("cpu")
    state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1", "mps"])
def test_a_device_that_is_not_here_is_said(device):
    with pytest.raises(ValueError, match=f"device must be one of 'auto', 'cpu', all that .*, got '{device}'"):
        choose_accelerator(device)
    with pytest.raises(ValueError, match=f"device must be one that is here, such as 'auto' or 'cpu', got '{device}'"):
        resolve_device(device)


def test_devices_that_are_no_names_are_refused():
    for device in (None, 0, "CPU", "cuda:", "cuda:-1", "cuda:1 ", torch.device("meta")):
        with pytest.raises(ValueError, match="device must be one of 'auto', 'cpu'"):
            choose_accelerator(device)
    assert "cpu" in devices._devices_here()
