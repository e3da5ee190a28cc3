"""The paper's networks: the number of weights in every part, the max-norm constraint, the pre-trained
trunk and its learning rate."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from xfer_course.dann import DANN, gtsrb_dann, max_norm_, mnist_dann, office_dann, office_parameters, svhn_dann


def linear(*sizes: int) -> int:
    "Weights and biases of linear layers of these sizes."
    return sum((a + 1) * b for a, b in zip(sizes[:-1], sizes[1:]))


def convolutions(*layers: tuple[int, int, int]) -> int:
    "Weights and biases of convolutions (channels in, channels out, kernel)."
    return sum((a * k * k + 1) * b for a, b, k in layers)


SHEET = {  # build: features, label head, domain head, as the paper's figure 4 and its text have them
    mnist_dann: (convolutions((3, 32, 5), (32, 48, 5)), linear(768, 100, 100, 10), linear(768, 100, 1)),
    svhn_dann: (convolutions((3, 64, 5), (64, 64, 5), (64, 128, 5)), linear(6272, 3072, 2048, 10),
                linear(6272, 1024, 1024, 1)),
    gtsrb_dann: (convolutions((3, 96, 5), (96, 144, 3), (144, 256, 5)), linear(1024, 512, 43),
                 linear(1024, 1024, 1024, 1)),
    office_dann: (convolutions((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3))
                  + linear(9216, 4096, 4096, 256), linear(256, 31), linear(256, 1024, 1024, 1)),
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("build", SHEET, ids=lambda f: f.__name__)
def test_every_part_has_as_many_weights_as_the_paper_draws(build):
    model = build()
    assert ((count(model.feature_extractor), count(model.label_predictor), count(model.domain_classifier))
            == SHEET[build])


def small_backbone() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Sequential(nn.Dropout(0.0), nn.Linear(7, 9)))


def test_the_bottleneck_replaces_the_last_linear_layer_of_a_copy():
    torch.manual_seed(0)
    backbone = small_backbone()
    model = office_dann(4, backbone)
    x = torch.rand(5, 3, 2, 2)
    below = backbone[2](backbone[1](backbone[0](x)))
    torch.testing.assert_close(model.feature_extractor[0](x), below)
    torch.testing.assert_close(model(x).features, torch.relu(model.feature_extractor[1](below)))
    assert backbone(x).shape == (5, 9) and model(x).class_logits.shape == (5, 4)
    with torch.no_grad():
        model.feature_extractor[0][1].weight.zero_()
    assert backbone[1].weight.abs().sum() > 0, "the backbone that was given must stay as it was"


def test_old_layers_move_a_tenth_as_fast_and_none_is_left_out():
    torch.manual_seed(0)
    model = office_dann(3, small_backbone())
    optimizer = torch.optim.SGD(office_parameters(model, 0.5, pretrained=0.1))
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.loss(torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]), torch.rand(4, 3, 2, 2)).total.backward()
    optimizer.step()
    for name, p in model.named_parameters():
        rate = 0.05 if name.startswith("feature_extractor.0.") else 0.5
        torch.testing.assert_close(p.detach(), before[name] - rate * p.grad, msg=name)


def test_max_norm_shortens_long_weights_of_every_unit_and_keeps_the_rest():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))
    with torch.no_grad():
        net[0].weight[0] *= 50
        net[3].weight[1:3] *= 50
        net[1].weight.fill_(99.0)
        net[3].bias.fill_(99.0)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    max_norm_(net, 2.0)
    for layer, name in ((net[0], "0.weight"), (net[3], "3.weight")):
        old = before[name].flatten(1)
        expected = old * (2.0 / old.norm(dim=1, keepdim=True)).clamp(max=1)
        torch.testing.assert_close(layer.weight.detach().flatten(1), expected)
    assert (net[1].weight == 99).all() and (net[3].bias == 99).all()


def test_max_norm_holds_after_every_step_of_an_optimizer():
    torch.manual_seed(0)
    model = mnist_dann()
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    optimizer.register_step_post_hook(lambda *_: max_norm_(model, 0.3))
    model.loss(torch.rand(4, 3, 28, 28), torch.arange(4), torch.rand(4, 3, 28, 28)).total.backward()
    optimizer.step()
    lengths = [m.weight.flatten(1).norm(dim=1).max().item() for m in model.modules()
               if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert max(lengths) <= 0.3 + 1e-5


BAD_INPUT = {
    "limit: 0": (lambda: max_norm_(nn.Linear(2, 2), 0), ValueError, "limit must be a finite number above 0, got 0"),
    "limit: NaN": (lambda: max_norm_(nn.Linear(2, 2), float("nan")), ValueError,
                   "limit must be a finite number above 0, got nan"),
    "classes: 1": (lambda: office_dann(1, small_backbone()), ValueError,
                   "num_classes must be a whole number of at least 2, got 1"),
    "backbone: a function": (lambda: office_dann(3, small_backbone), TypeError,
                             "backbone must be an nn.Module, got function"),
    "backbone: no linear layer": (lambda: office_dann(3, nn.Sequential(nn.ReLU())), ValueError,
                                  "must have a linear layer"),
    "backbone: a linear layer alone": (lambda: office_dann(3, nn.Linear(4, 2)), ValueError, "must have a linear layer"),
    "rate: negative": (lambda: office_parameters(office_dann(3, small_backbone()), -1), ValueError,
                       "learning_rate must be a finite number above 0, got -1"),
    "pretrained: 0": (lambda: office_parameters(office_dann(3, small_backbone()), pretrained=0), ValueError,
                      "pretrained must be a finite number above 0, got 0"),
    "parameters: no DANN": (lambda: office_parameters(nn.Linear(2, 2)), TypeError, "model must be a DANN, got Linear"),
    "parameters: no trunk": (lambda: office_parameters(DANN(nn.Flatten(), nn.Linear(2, 2), nn.Linear(2, 1))),
                             TypeError, "the feature extractor of model must be a Sequential, got Flatten"),
}


@pytest.mark.parametrize("call, error, words", BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_refused_with_a_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()
