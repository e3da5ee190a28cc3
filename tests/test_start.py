"""The chapter start: one step against a naive reference, limits in which two ways must agree, and bad input."""
from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from xfer_course.data import digits
from xfer_course.evaluation import accuracy
from xfer_course.start import TransferNetwork, fine_tune, fit_head, train_from
from xfer_course.training import choose_accelerator

CPU = choose_accelerator("cpu")


@pytest.fixture
def trunk() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(12) % 3
    return torch.rand(12, 3, 8, 8, generator=generator) + 0.3 * labels.view(-1, 1, 1, 1), labels


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_one_step_is_adamw_with_two_rates(trunk, data):
    network = fit_head(TransferNetwork(trunk, 6, 3), *data)
    naive_trunk, weight, bias = copy.deepcopy(trunk).eval(), *(p.detach().clone().requires_grad_()
                                                               for p in network.head.parameters())
    optimizers = (torch.optim.AdamW(naive_trunk.parameters(), lr=0.002), torch.optim.AdamW([weight, bias], lr=0.02))
    features = naive_trunk(data[0])
    centred = features - features.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    logits = scaled @ weight.T + bias
    loss = (logits.exp().sum(1).log() - logits[torch.arange(12), data[1]]).mean()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    history = fine_tune(network, *data, head_rate=0.02, trunk_rate=0.002, steps=1, batch_size=12, accelerator=CPU)
    assert history.loss[0] == pytest.approx(loss.item(), abs=1e-5)
    for got, wanted in zip(network.trunk.parameters(), naive_trunk.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(network.head.weight, weight, atol=1e-4, rtol=0)
    torch.testing.assert_close(network.head.bias, bias, atol=1e-4, rtol=0)


def test_trunk_rate_zero_is_a_probe(trunk, data):
    "The trunk stays, and the head is what it becomes on features that were computed once."
    kept = copy.deepcopy(trunk)
    network = TransferNetwork(trunk, 6, 3)
    fine_tune(network, *data, trunk_rate=0, steps=8, batch_size=5, accelerator=CPU)
    assert same(network.trunk, kept)
    features = F.layer_norm(kept.eval()(data[0]).detach(), (6,))
    probe = TransferNetwork(nn.Identity(), 6, 3)
    fine_tune(probe, features, data[1], trunk_rate=0, steps=8, batch_size=5, accelerator=CPU)
    torch.testing.assert_close(network.head.weight, probe.head.weight, atol=1e-3, rtol=0)


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norm_keeps_its_statistics_where_it_is_frozen(trunk, data, frozen):
    before = copy.deepcopy(trunk[1].running_mean)
    network = TransferNetwork(trunk, 6, 3, frozen_batch_norm=frozen)
    fine_tune(network, *data, trunk_rate=0.01, steps=3, accelerator=CPU)
    assert torch.equal(trunk[1].running_mean, before) is frozen
    assert network.training and trunk[0].training and trunk[1].training is not frozen
    assert not network.eval().trunk[1].training


def test_a_head_of_zeros_sends_nothing_into_the_trunk(trunk, data):
    network = TransferNetwork(trunk, 6, 3).train()
    loss = F.cross_entropy(network(data[0]), data[1])
    loss.backward()
    assert loss.item() == pytest.approx(np.log(3)) and network.head.weight.grad.abs().sum() > 0
    assert all(parameter.grad.abs().max() == 0 for parameter in trunk.parameters())


@pytest.mark.parametrize("classes", [2, 3])
def test_the_fitted_head_says_what_the_regression_says(trunk, data, classes):
    images, labels = data[0], data[1] % classes
    network = fit_head(TransferNetwork(trunk, 6, classes), images, labels, C=0.5)
    assert network.training
    features = network.eval().features(images).detach().numpy()
    scaler = StandardScaler().fit(features)
    probe = LogisticRegression(C=0.5, max_iter=1000).fit(scaler.transform(features), labels)
    got = network(images).softmax(1).detach().numpy()
    np.testing.assert_allclose(got, probe.predict_proba(scaler.transform(features)), atol=1e-4)


def test_fine_tuning_beats_chance_within_forty_steps():
    torch.manual_seed(0)
    train, test = digits("train", size=16), digits("test", size=16)
    trunk = nn.Sequential(nn.Conv2d(3, 16, 5, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(),
                          nn.Flatten(), nn.Linear(128, 32))
    network = TransferNetwork(trunk, 32, 10, frozen_batch_norm=False)
    fine_tune(network, train.images[:300], train.labels[:300], trunk_rate=3e-3, steps=40, accelerator=CPU)
    assert accuracy(network, *test) > 0.5


def test_train_from_freezes_what_comes_before(trunk, data):
    assert train_from(trunk, "3") == 4 * 6 * 9 + 6
    kept = copy.deepcopy(trunk)
    fine_tune(TransferNetwork(trunk, 6, 3), *data, trunk_rate=0.01, steps=3, accelerator=CPU)
    assert same(trunk[:3], kept[:3]) and not same(trunk[3], kept[3])
    assert train_from(trunk, "0") == sum(p.numel() for p in trunk.parameters())


def test_the_same_seed_gives_the_same_network(trunk, data):
    networks = [TransferNetwork(copy.deepcopy(trunk), 6, 3) for _ in range(2)]
    for network in networks:
        fine_tune(network, *data, steps=4, batch_size=5, seed=3, accelerator=CPU)
    assert same(*networks)


@pytest.mark.parametrize("error, sentence, call", [
    (TypeError, "trunk must be", lambda net, x, y: TransferNetwork(3, 6, 3)),
    (ValueError, "num_features must be", lambda net, x, y: TransferNetwork(net.trunk, 0, 3)),
    (ValueError, "num_classes must be", lambda net, x, y: TransferNetwork(net.trunk, 6, 1)),
    (ValueError, "frozen_batch_norm must be", lambda net, x, y: TransferNetwork(net.trunk, 6, 3, 1)),
    (TypeError, "network must be", lambda net, x, y: fine_tune(net.trunk, x, y)),
    (ValueError, "labels must hold 12", lambda net, x, y: fine_tune(net, x, y[:5])),
    (ValueError, "labels must be class numbers", lambda net, x, y: fine_tune(net, x, y + 1)),
    (ValueError, "head_rate must be", lambda net, x, y: fine_tune(net, x, y, head_rate=0)),
    (ValueError, "trunk_rate must be", lambda net, x, y: fine_tune(net, x, y, trunk_rate=-1)),
    (ValueError, "batch_size must be", lambda net, x, y: fine_tune(net, x, y, batch_size=0)),
    (ValueError, "steps must be", lambda net, x, y: fine_tune(net, x, y, steps=0)),
    (ValueError, "factors must name", lambda net, x, y: fine_tune(TransferNetwork(nn.Flatten(), 192, 3), x, y)),
    (TypeError, "network must be", lambda net, x, y: fit_head(net.trunk, x, y)),
    (ValueError, "labels must hold each of the 3 classes .* of class 2", lambda net, x, y: fit_head(net, x, y % 2)),
    (ValueError, "C must be", lambda net, x, y: fit_head(net, x, y, C=0)),
    (ValueError, "first must be one of", lambda net, x, y: train_from(net.trunk, "layer9")),
    (TypeError, "trunk must be", lambda net, x, y: train_from(None, "layer4")),
])
def test_what_does_not_fit_is_refused(trunk, data, error, sentence, call):
    with pytest.raises(error, match=sentence):
        call(TransferNetwork(trunk, 6, 3), *data)
