"""Measuring while training: nothing is disturbed, the best weights come out, an interruption changes no decision."""
from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from test_training import EPOCHS, LOADERS, STEPS, Run, data, edited, numbers, stop_at, weights
from xfer_course.evaluation import accuracy
from xfer_course.training import (
    History,
    Validation,
    as_validation,
    checkpoint,
    choose_accelerator,
    cosine,
    fit,
    measuring,
    seed_everything,
)

HELD_OUT = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
CLASSES = (HELD_OUT[:, 0] * HELD_OUT[:, 1] > 0).long()


def held_out(run: Run):
    return lambda: accuracy(run.net, HELD_OUT, CLASSES)


def scripted(*values):
    "A measure that returns these numbers one after the other, whatever was trained."
    waiting = list(values)
    return lambda: waiting.pop(0)


def state_of(run: Run) -> dict:
    return {name: value.clone() for name, value in run.net.state_dict().items()}


def same_state(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- measuring disturbs nothing


def loud(run: Run):
    "A measure that draws from every stream, sets modes and uses the loader."
    def measure():
        random.random(), np.random.rand(3), torch.rand(5)
        run.net.train()
        run.net(torch.randn(8, 6))
        run.net.eval()
        for _ in run.loader:
            pass
        return torch.rand(1)

    return measure


MORE_LOADERS = LOADERS | {
    "with replacement": lambda: DataLoader(data(), sampler=RandomSampler(
        data(), replacement=True, num_samples=128, generator=torch.Generator()), batch_size=16),
    "weighted": lambda: DataLoader(data(), sampler=WeightedRandomSampler(
        torch.ones(128), 128, generator=torch.Generator()), batch_size=16),
}


@pytest.mark.parametrize("kind", MORE_LOADERS)
@pytest.mark.parametrize("unit", ["epochs", "steps"])
def test_training_is_the_same_to_the_bit_with_and_without(kind, unit):
    plain, watched = Run(), Run()
    expected = plain.fit(MORE_LOADERS[kind]())
    watched.loader = MORE_LOADERS[kind]()
    # Its own forward pass in training mode would move batch norm, so those statistics are left out.
    found = watched.fit(watched.loader, validate=Validation(loud(watched), unit=unit, keep_best=False))
    assert numbers(found) == numbers(expected)
    assert all(torch.equal(a, b) for a, b in zip(plain.net.parameters(), watched.net.parameters(), strict=True))
    assert found.validation_steps == [STEPS * (i + 1) for i in range(EPOCHS)] if unit == "epochs" else [*range(1, 33)]


def test_batch_norm_does_not_move_and_what_is_drawn_afterwards_stays():
    plain, watched = Run(), Run()
    expected, drawn = plain.fit(), torch.rand(1)
    watched.fit(validate=Validation(held_out(watched), every=3, unit="steps", keep_best=False))
    assert torch.equal(drawn, torch.rand(1)) and weights(plain) == weights(watched) and expected.validation == {}


def test_modes_are_those_of_before_also_after_an_error():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval(), nn.Dropout())
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt), measuring(net):
        assert not (net.training or net[2].training or torch.is_grad_enabled())
        torch.rand(1)
        raise KeyboardInterrupt
    assert net.training and net[2].training and not net[1].training and torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_every_module_is_in_evaluation_mode_and_gradients_can_be_switched_on():
    run, seen = Run(), []

    def measure():
        seen.append([part.training for part in run.net.modules()])
        assert not run.net(HELD_OUT).requires_grad
        with torch.enable_grad():
            return run.net(HELD_OUT).sum().requires_grad

    with pytest.raises(TypeError, match="a number, or a dict of numbers by name, got True"):
        run.fit(validate=measure)
    assert seen == [[False] * 6] and all(part.training for part in run.net.modules())


def test_gradients_of_a_measure_do_not_reach_the_weights():
    def measure_with_gradients(run):
        def measure():
            with torch.enable_grad():
                loss = cross_entropy(run.net(HELD_OUT), CLASSES)
                loss.backward()
            return loss

        return measure

    plain, watched = Run(), Run()
    validate = Validation(measure_with_gradients(watched), every=5, unit="steps", keep_best=False)
    assert numbers(plain.fit()) == numbers(watched.fit(validate=validate))


def test_a_measure_may_train_a_probe_with_fit_itself():
    "Also in the middle of a group of accumulated batches, whose number Accelerate keeps for the whole process."
    def probe(run):
        def measure():
            head = nn.Linear(6, 2)
            step = lambda batch, p: (cross_entropy(head(batch[0]), batch[1]), {})  # noqa: E731
            with torch.enable_grad():
                return fit(step, LOADERS["shuffled"](), torch.optim.SGD(head.parameters(), lr=0.1), epochs=2,
                           progress=False).last()

        return measure

    plain, watched = Run(), Run()
    expected = plain.fit(accumulate=4)
    found = watched.fit(accumulate=4, validate=Validation(probe(watched), every=3, unit="steps", keep_best=False))
    assert numbers(found) == numbers(expected) and weights(watched) == weights(plain)
    assert len(set(found.validation["value"])) > 1, "each probe starts from the random numbers of its step"


# --- what is kept


def test_history_keeps_numbers_and_steps():
    history = Run().fit(validate=Validation(scripted(0.5, 0.75, 0.625, 0.5), keep_best=False))
    assert history.validation == {"value": [0.5, 0.75, 0.625, 0.5]}
    assert history.validation_steps == [8, 16, 24, 32] and history.best_step is None and not history.stopped_early
    several = Run().fit(validate=Validation(lambda: {"a": 1, "b": torch.tensor([2.0])}, every=10, unit="steps"))
    assert several.validation == {"a": [1.0] * 3, "b": [2.0] * 3} and several.validation_steps == [10, 20, 30]
    assert several.best_step == 10


def test_a_bare_function_is_only_recorded():
    plain, watched = Run(), Run()
    expected, history = plain.fit(), watched.fit(validate=scripted(4, 3, 2, math.nan))
    assert history.validation["value"][:3] == [4, 3, 2] and math.isnan(history.validation["value"][3])
    assert history.best_step is None and numbers(history) == numbers(expected) and weights(plain) == weights(watched)


@pytest.mark.parametrize("values, higher, best", [
    ((0.1, 0.4, 0.2, 0.3), True, 2), ((0.1, 0.4, 0.2, 0.3), False, 1), ((0.4, 0.1, 0.4, 0.1), True, 1),
    ((0.4, 0.1, 0.4, 0.1), False, 2), ((0, -1, 1, 2), True, 4), ((-math.inf, -math.inf, -3, -3), True, 3)])
def test_the_best_weights_come_out(values, higher, best):
    "Of equal ones the first."
    values = [-1e30 if value == -math.inf else value for value in values]
    reference = Run()
    expected, states = [], scripted(*values)
    reference.fit(validate=lambda: expected.append(state_of(reference)) or states())
    run = Run()
    history = run.fit(validate=Validation(scripted(*values), higher_is_better=higher))
    assert history.best_step == best * STEPS and len(history.loss) == EPOCHS * STEPS
    assert same_state(state_of(run), expected[best - 1])


def test_the_best_weights_of_a_batch_norm_have_their_statistics():
    run, seen = Run(), []
    history = run.fit(validate=Validation(lambda: seen.append(run.net[1].running_mean.clone()) or -len(seen)))
    assert history.best_step == STEPS and torch.equal(run.net[1].running_mean, seen[0])
    assert not torch.equal(seen[0], seen[-1])


def test_without_keep_best_the_last_weights_come_out():
    plain, run = Run(), Run()
    plain.fit()
    run.fit(validate=Validation(scripted(4, 3, 2, 1), keep_best=False))
    assert weights(run) == weights(plain)


def test_watch_chooses_the_number_that_decides():
    def both():
        return {"accuracy": 0.5, "loss": run_losses.pop(0)}

    for watch, higher, best in ((None, True, 1), ("loss", True, 3), ("loss", False, 2)):
        run_losses = [2.0, 1.0, 3.0, 2.0]
        assert Run().fit(validate=Validation(both, watch=watch, higher_is_better=higher)).best_step == best * STEPS


# --- stopping


@pytest.mark.parametrize("values, patience, measured", [
    ((1, 2, 3, 4, 5, 6), 1, 6), ((3, 2, 9, 9, 9, 9), 1, 2), ((3, 2, 1, 9, 9, 9), 2, 3), ((3, 2, 4, 1, 1, 9), 2, 5),
    ((3, 3, 3, 9, 9, 9), 2, 3), ((3, 2, 1, 0, -1, -2), 5, 6), ((3, 2, 1, 0, -1, -2), 6, 6)])
def test_training_stops_after_so_many_measurements_without_a_better_one(values, patience, measured):
    run, reference = Run(), Run()
    history = run.fit(validate=Validation(scripted(*values), patience=patience, keep_best=False), epochs=6)
    assert history.validation == {"value": list(values[:measured])}
    assert len(history.loss) == measured * STEPS
    in_vain = measured - 1 - values[:measured].index(max(values[:measured]))
    assert history.stopped_early == (in_vain >= patience)
    seen = {}
    reference.fit(epochs=6, validate=lambda: seen.update({len(seen) + 1: state_of(reference)}) or 0)
    assert same_state(state_of(run), seen[measured])


def test_training_stops_in_the_middle_of_an_epoch():
    run, plain = Run(), Run()
    history = run.fit(validate=Validation(scripted(2, 1, 1, 9), every=3, unit="steps", patience=2))
    assert history.stopped_early and history.validation_steps == [3, 6, 9] and history.best_step == 3
    assert numbers(history) == {name: values[:9] for name, values in numbers(plain.fit()).items()}


# --- interruption


def falling_and_rising(run: Run):
    "The loss on held-out examples, of which a badly chosen rate makes a curve with a valley."
    return lambda: {"loss": cross_entropy(run.net(HELD_OUT), CLASSES), "noise": torch.rand(1)}


def unit_options(unit: str, patience: int | None) -> dict:
    return {"every": 1 if unit == "epochs" else 3, "unit": unit, "higher_is_better": False, "patience": patience}


def long_run(folder=None, p_stop=2.0, unit="epochs", patience=None):
    run = Run(hook=stop_at(p_stop))
    options = {"epochs": 10, "schedule": lambda p: cosine(p, 0.3), "checkpoint": folder}
    return run, lambda: run.fit(validate=Validation(falling_and_rising(run), **unit_options(unit, patience)), **options)


def whole_history(history: History) -> dict:
    left_out = {"seconds", "peak_bytes"}
    return {name: value for name, value in vars(history).items() if name not in left_out}


@pytest.mark.filterwarnings("ignore:.*is continued with other settings of the step")
@pytest.mark.parametrize("unit", ["epochs", "steps"])
@pytest.mark.parametrize("patience", [None, 2])
@pytest.mark.parametrize("points", [(0.15,), (0.05, 0.25), (0.98,), (0.35, 0.65, 0.95)])
def test_an_interrupted_run_stops_at_the_same_place_with_the_same_weights(tmp_path, unit, patience, points):
    whole, fit_whole = long_run(unit=unit, patience=patience)
    expected = fit_whole()
    for point in points:
        _, interrupted = long_run(tmp_path, point, unit, patience)
        if point < len(expected.loss) / (10 * STEPS):
            with pytest.raises(KeyboardInterrupt):
                interrupted()
    continued, fit_continued = long_run(tmp_path, unit=unit, patience=patience)
    assert whole_history(fit_continued()) == whole_history(expected)
    assert same_state(state_of(continued), state_of(whole))
    loaded, fit_loaded = long_run(tmp_path, unit=unit, patience=patience)
    assert whole_history(fit_loaded()) == whole_history(expected) and same_state(state_of(loaded), state_of(whole))
    assert loaded.taken == 0


def test_the_cases_of_that_test_stop_early_and_have_their_best_in_the_middle():
    for unit in ("epochs", "steps"):
        assert long_run(unit=unit, patience=2)[1]().stopped_early
        unlimited = long_run(unit=unit)[1]()
        assert not unlimited.stopped_early and 0 < unlimited.best_step < unlimited.validation_steps[-1]


@pytest.mark.parametrize("call", [0, 1, 2])
def test_an_interrupt_inside_the_measure_leaves_a_run_that_continues(tmp_path, call):
    whole = Run()
    expected = whole.fit(validate=Validation(held_out(whole)))
    run, calls = Run(), []

    def measure():
        calls.append(1)
        torch.rand(3)
        if len(calls) == call + 1:
            raise KeyboardInterrupt
        return accuracy(run.net, HELD_OUT, CLASSES)

    with pytest.raises(KeyboardInterrupt):
        run.fit(validate=Validation(measure), checkpoint=tmp_path)
    assert all(part.training for part in run.net.modules())
    again = Run()
    history = again.fit(validate=Validation(held_out(again)), checkpoint=tmp_path)
    assert whole_history(history) == whole_history(expected) and same_state(state_of(again), state_of(whole))


def validated(folder, **options):
    run = Run()
    return run.fit(checkpoint=folder, validate=Validation(**{"measure": held_out(run)} | options))


def test_a_checkpoint_knows_what_was_measured(tmp_path):
    validated(tmp_path)
    for options in ({"patience": 3}, {"every": 2}, {"unit": "steps"}, {"higher_is_better": False},
                    {"keep_best": False}, {"watch": "value"}):
        with pytest.raises(ValueError, match=f"run with other validation: .*{next(iter(options))} was"):
            validated(tmp_path, **options)
    with pytest.raises(ValueError, match="run with other validation"):
        Run().fit(checkpoint=tmp_path)


def test_a_checkpoint_knows_the_examples_that_were_measured(tmp_path):
    def validated_on(labels):
        run = Run()
        return run.fit(checkpoint=tmp_path, validate=Validation(lambda: accuracy(run.net, HELD_OUT, labels)))

    first = validated_on(CLASSES)
    assert validated_on(CLASSES.clone()).validation == first.validation
    with pytest.raises(ValueError, match=r"other settings of the measure: .* \(labels was int64 .*, is int64"):
        validated_on(1 - CLASSES)


def test_a_run_without_validation_is_not_continued_with_one(tmp_path):
    Run().fit(checkpoint=tmp_path)
    with pytest.raises(ValueError, match="run with other validation"):
        validated(tmp_path)


def test_numbers_from_numpy_make_settings_too(tmp_path):
    first = validated(tmp_path, every=np.int64(2), patience=np.int64(1))
    assert first.validation_steps == [16, 32]
    assert validated(tmp_path, every=2, patience=1).validation == first.validation


def test_a_history_of_before_is_read(tmp_path):
    "It knows no validation, and the checkpoint no best weights."
    with pytest.raises(KeyboardInterrupt):
        Run(hook=stop_at(0.6)).fit(checkpoint=tmp_path)
    file = tmp_path / "checkpoint.safetensors"
    state = checkpoint._read_state(file)
    for name in ("validation", "validation_steps", "best_step", "stopped_early"):
        del state["history"][name]
    del state["best"]
    for name in ("validation", "accumulate", "clip_norm"):
        del state["run"][name]
    checkpoint._write_state(file, state)
    assert numbers(Run().fit(checkpoint=tmp_path)) == numbers(Run().fit())


@pytest.mark.parametrize("changes", [{"best": 3}, {"best": [1]}, {"history": vars(History()) | {"more": 1}}])
def test_a_damaged_checkpoint_gives_one_sentence(tmp_path, changes):
    validated(tmp_path)
    edited(**changes)(tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="is damaged or no checkpoint of fit .* wrong form"):
        validated(tmp_path)


# --- what a user gets wrong


NOT_NUMBERS = {
    "None": (lambda: None, r"measure must return a number, or a dict of numbers by name, got None"),
    "text": (lambda: "0.9", "got '0.9'"),
    "truth value": (lambda: torch.tensor(True), r"got tensor\(True\)"),
    "several": (lambda: torch.zeros(2), r"got tensor\(\[0., 0.\]\)"),
    "a pair": (lambda: (0.5, 0.6), r"got \(0.5, 0.6\)"),
    "an empty dict": (dict, "got an empty dict"),
    "a dict of texts": (lambda: {"accuracy": "high"}, "got {'accuracy': 'high'}"),
    "a dict by numbers": (lambda: {0: 0.5}, "got {0: 0.5}"),
    "complex": (lambda: 1j, "got 1j"),
    "NaN": (lambda: math.nan, "value measured after 8 steps must be a finite number, got nan"),
    "infinite": (lambda: {"loss": torch.tensor(math.inf)}, "loss measured after 8 steps must be a finite number"),
}


@pytest.mark.parametrize("measure, sentence", NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_what_is_no_number_is_refused_in_a_sentence(measure, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        Run().fit(validate=Validation(measure))


@pytest.mark.parametrize("number", [0.5, np.float32(0.5), np.array([0.5]), torch.tensor(0.5), torch.tensor([[0.5]]),
                                    torch.tensor(0.5, dtype=torch.bfloat16), {"value": np.float64(0.5)}])
def test_numbers_of_every_library_are_taken(number):
    assert Run().fit(validate=Validation(lambda: number), epochs=1).validation == {"value": [0.5]}


def test_nan_beside_the_number_that_decides_is_kept():
    history = Run().fit(validate=Validation(lambda: {"mean": 0.5, "class 3": math.nan}), epochs=1)
    assert math.isnan(history.validation["class 3"][0])


BAD_SETTINGS = [
    ({"measure": 0.5}, TypeError, "measure must be a function without arguments, got 0.5"),
    ({"every": 0}, ValueError, "every must be a whole number of at least 1, got 0"),
    ({"every": 1.5}, TypeError, "every must be a whole number of at least 1, got 1.5"),
    ({"unit": "minutes"}, ValueError, "unit must be one of 'epochs', 'steps', got 'minutes'"),
    ({"watch": 0}, TypeError, "watch must be a name in what measure returns, or None, got 0"),
    ({"higher_is_better": "no"}, ValueError, "higher_is_better must be one of True, False, got 'no'"),
    ({"patience": 0}, ValueError, "patience must be a whole number of at least 1, got 0"),
    ({"patience": True}, TypeError, "patience must be a whole number of at least 1, got True"),
    ({"keep_best": None}, ValueError, "keep_best must be one of True, False, got None"),
]


@pytest.mark.parametrize("options, error, sentence", BAD_SETTINGS, ids=[each[2][:40] for each in BAD_SETTINGS])
def test_wrong_settings_are_refused_before_training(options, error, sentence):
    with pytest.raises(error, match=sentence):
        Validation(**{"measure": lambda: 0.5} | options)


def test_other_mistakes_are_said():
    with pytest.raises(TypeError, match="validate must be a Validation or a function without arguments, got 0.5"):
        as_validation(0.5)
    with pytest.raises(ValueError, match="every of validate, in steps, must be a whole number from 1 to 32, got 40"):
        Run().fit(validate=Validation(lambda: 0.5, every=5))
    with pytest.raises(ValueError, match="watch must be one of 'a', 'b', got 'c'"):
        Run().fit(validate=Validation(lambda: {"a": 1, "b": 2}, watch="c"))
    names = iter(["a", "b"])
    with pytest.raises(ValueError, match=r"the same names every time, got \['b'\] after \['a'\]"):
        Run().fit(validate=lambda: {next(names): 1})
    with pytest.raises(TypeError, match="positional argument"):
        Run().fit(validate=lambda net: 1)


def test_settings_do_not_change():
    with pytest.raises(AttributeError):
        Validation(lambda: 1).patience = 3


def test_a_loss_that_is_nan_is_said_before_anything_is_measured():
    run, calls = Run(), []

    def step(batch, p):
        loss, metrics = Run.step(run, batch, p)
        return loss * (math.nan if p >= 0.2 else 1), metrics

    with pytest.raises(FloatingPointError, match="became nan at step 7"):
        fit(step, LOADERS["shuffled"](), run.optimizer, epochs=EPOCHS, progress=False,
            validate=lambda: calls.append(1) or 1)
    assert calls == []


def test_a_network_without_weights_of_its_own_in_the_measure_and_bfloat16():
    "In mixed precision the weights are in full precision, and so is what is measured."
    seen, run = [], Run()
    accelerator = choose_accelerator("cpu", "bf16")
    try:
        run.fit(accelerator=accelerator, validate=lambda: seen.append(run.net(HELD_OUT).dtype) or 1.0, epochs=2)
    finally:
        choose_accelerator("cpu")
    assert seen == [torch.float32] * 2


def test_seconds_are_those_of_training(monkeypatch):
    from xfer_course.training import validation

    clock = [0.0]

    class Clock:
        perf_counter = staticmethod(lambda: clock[0])

    monkeypatch.setattr(validation, "time", Clock)

    def measure():
        clock[0] += 1000.0
        return 1

    assert Run().fit(validate=measure).seconds < 900


def test_the_figure_shows_what_was_measured():
    seed_everything(0)
    history = Run().fit(validate=Validation(scripted(0.5, 0.75, 0.625, 0.5)))
    axes = {ax.get_title("left"): ax for ax in history.figure().axes}
    (line,) = axes["validation"].get_lines()
    assert line.get_xdata().tolist() == [8, 16, 24, 32] and line.get_ydata().tolist() == [0.5, 0.75, 0.625, 0.5]
    assert "validation" not in {ax.get_title("left") for ax in Run().fit(epochs=1).figure().axes}


def test_the_last_batch_may_be_smaller():
    loader, run = DataLoader(TensorDataset(*data().tensors), batch_size=50), Run()
    history = run.fit(loader, validate=Validation(scripted(1, 2), every=2))
    assert history.validation_steps == [6, 12] and history.best_step == 12
