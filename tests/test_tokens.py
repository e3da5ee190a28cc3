"""What the labs of the chapter share: the probe of all layers, the split to choose by, what a step costs, the star."""
from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xfer_course.data import Images
from xfer_course.labs import chosen_text
from xfer_course.peft import (
    DigitTask,
    LoRA,
    development_task,
    every_layer,
    inject,
    saved_bytes,
    step_cost,
    trainable_parameters,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_layer_has_its_class_token_and_its_mean_at_length_one():
    layers = normal(2, 3, 5, 4)
    found = every_layer(layers).view(2, 3, 2, 4)
    for picture in range(2):
        for layer in range(3):
            tokens = layers[picture, layer]
            torch.testing.assert_close(found[picture, layer, 0], tokens[0] / tokens[0].norm())
            mean = sum(tokens[1:]) / 4
            torch.testing.assert_close(found[picture, layer, 1], mean / mean.norm())


def test_a_layer_that_is_louder_counts_no_more_and_zeros_stay_zeros():
    layers = normal(2, 3, 5, 4)
    torch.testing.assert_close(every_layer(layers * torch.tensor([1.0, 100, 0.01]).view(1, 3, 1, 1)),
                               every_layer(layers))
    assert (every_layer(torch.zeros(1, 2, 3, 4).half()) == 0).all()


def sgd_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1)


def task(count: int = 10) -> DigitTask:
    part = Images(torch.arange(count * 1.0).view(count, 1, 1, 1), torch.arange(count) % 2)
    return DigitTask(part, Images(-part.images, part.labels), 2)


def test_rates_are_chosen_on_another_piece_of_the_training_part():
    split = development_task(task(), 4)
    assert split.train.images.flatten().tolist() == [0, 1, 2, 3] and split.train.labels.tolist() == [0, 1, 0, 1]
    assert split.test.images.flatten().tolist() == [4, 5, 6, 7, 8, 9] and split.classes == 2
    assert len(development_task(task(), 4, 3).test.labels) == 3
    assert len(development_task(task(), 4, 30).test.labels) == 6


def test_a_step_is_counted_timed_and_taken():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x, labels = normal(4, 6), torch.tensor([0, 1, 2, 0])
    inject(model, LoRA(2), "0")
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), 0.01)
    asked = []

    def loss():
        asked.append(1)
        return F.cross_entropy(model(x), labels)

    before = model[2].weight.detach().clone()
    found = step_cost(model, loss, optimizer, repeats=5)
    assert found.trained == 2 * (6 + 8) and found.saved > 0 and found.seconds > 0
    assert found.optimizer >= 2 * 4 * found.trained  # two moments in single precision
    assert len(asked) == 6  # once for the bytes
    assert torch.equal(before, model[2].weight) and optimizer.state[next(iter(optimizer.state))]["step"] == 5


def test_a_number_at_the_edge_of_what_was_tried_has_a_star():
    assert [chosen_text(each, (1, 0.1, 0.01)) for each in (0.01, 0.1, 1, None)] == ["0.01 *", "0.1", "1 *", "–"]


@pytest.mark.parametrize("counted", [saved_bytes, lambda model, loss: step_cost(model, loss, sgd_of(model))])
def test_a_loss_that_is_a_number_already_is_refused(counted):
    model = nn.Linear(2, 1)
    with pytest.raises(TypeError, match="loss must be a Callable, got Tensor"):
        counted(model, model(normal(3, 2)).sum())


@pytest.mark.parametrize("call, words", [
    (lambda: every_layer(normal(2, 5, 4)), "layers must"),
    (lambda: every_layer(normal(2, 3, 1, 4)), "the number of tokens in layers must"),
    (lambda: development_task(task(), 10), "labels must .* from 1 to 9, got 10"),
    (lambda: development_task(task(), 4, 0), "judged must"),
    (lambda: chosen_text(0.5, (0.1, 1)), "value must be one of 0.1, 1, got 0.5"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)
