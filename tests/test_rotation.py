"""Rotations, the pretext task, the network and the probes: properties, learning, and what bad input is told."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_model, save_model
from torch import nn

from xfer_course.data import batches
from xfer_course.rotation import (
    ConvProbe,
    LinearProbe,
    NetworkInNetwork,
    NonLinearProbe,
    RotationPretext,
    TransferClassifier,
    attention_map,
    centre_square,
    crop_and_flip,
    few_labels,
    nin_block,
    rotate,
    rotate_batch,
    rotate_degrees,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def small_pretext(quarter_turns=(0, 1, 2, 3)) -> RotationPretext:
    torch.manual_seed(0)
    return RotationPretext(NetworkInNetwork(None, 3, channels=8), 8, quarter_turns)


# Rotations ----------------------------------------------------------------------------------------------------------

sizes = st.integers(1, 6)


@given(sizes, sizes, st.integers(-9, 9), st.integers(-9, 9))
@settings(max_examples=60, deadline=None)
def test_turns_add_up_and_equal_numpys(height, width, first, second):
    images = noise(2, 3, height, width)
    assert torch.equal(rotate(rotate(images, first), second), rotate(images, first + second))
    np.testing.assert_array_equal(rotate(images, first).numpy(), np.rot90(images.numpy(), first, axes=(-2, -1)))


@given(st.integers(1, 70), sizes, st.permutations(range(4)), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_rotate_batch_is_rotate_image_by_image(n, side, order, how_many):
    images, turns = noise(n, 2, side, side), tuple(order[:how_many])
    rotated, labels = rotate_batch(images, turns)
    expected = torch.stack([rotate(image, k) for image in images for k in turns])
    assert torch.equal(rotated, expected) and rotated.is_contiguous()
    assert labels.tolist() == list(range(how_many)) * n


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rotate_batch_keeps_the_dtype_and_the_images(dtype):
    images = noise(3, 1, 4, 4).to(dtype)
    before = images.clone()
    assert rotate_batch(images)[0].dtype == dtype
    assert torch.equal(images, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("turns", [(2,), (0, 1, 2, 3)])
def test_rotate_batch_reads_channels_last_images(dtype, turns):
    images = noise(3, 4, 6, 6).to(dtype)
    rotated, _ = rotate_batch(images.contiguous(memory_format=torch.channels_last), turns)
    assert torch.equal(rotated, rotate_batch(images, turns)[0])
    assert rotated.is_contiguous()


def test_gradients_reach_the_images():
    images = noise(2, 1, 3, 3).requires_grad_()
    rotate_batch(images)[0].sum().backward()
    assert torch.equal(images.grad, torch.full_like(images, 4.0))


def test_crop_takes_the_middle():
    images = noise(2, 1, 3, 7)
    assert torch.equal(centre_square(images), images[..., 2:5])
    assert torch.equal(rotate_batch(images, crop=True)[0], rotate_batch(images[..., 2:5])[0])


@given(st.integers(-4, 4), sizes)
@settings(max_examples=30, deadline=None)
def test_resampling_by_a_quarter_turn_moves_whole_pixels(turns, side):
    images = noise(2, 2, side, side)
    torch.testing.assert_close(rotate_degrees(images, 90.0 * turns), rotate(images, turns), rtol=0, atol=1e-5)


def test_resampling_turns_counter_clockwise():
    "A dot on the right of the middle stands in the upper right after 45 degrees."
    image = torch.zeros(1, 1, 21, 21)
    image[..., 10, 18] = 1
    row, column = divmod(rotate_degrees(image, 45)[0, 0].argmax().item(), 21)
    assert row < 10 < column and 10 - row == column - 10


def test_crop_and_flip_shows_a_window_of_the_padded_image():
    image = torch.arange(1.0, 17).view(1, 1, 4, 4)
    padded = nn.functional.pad(image, [1] * 4)
    windows = [padded[..., r : r + 4, c : c + 4] for r in range(3) for c in range(3)]
    allowed = {tuple(w.flatten().tolist()) for w in [*windows, *[w.flip(-1) for w in windows]]}
    many = crop_and_flip(image.repeat(400, 1, 1, 1), 1, torch.Generator().manual_seed(0))
    assert {tuple(w.flatten().tolist()) for w in many} == allowed


def test_crop_and_flip_keeps_the_channels_together():
    image = noise(1, 1, 5, 5)
    seen = crop_and_flip(torch.cat([image, 2 * image], dim=1).repeat(20, 1, 1, 1), 2)
    assert torch.equal(seen[:, 1], 2 * seen[:, 0])


# The pretext task ---------------------------------------------------------------------------------------------------

def tilted(n: int, seed: int = 0) -> torch.Tensor:
    "Noisy images, brighter towards the top: their orientation can be learned."
    slope = torch.linspace(1, 0, 16).view(1, 1, 16, 1)
    return slope + 0.2 * torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def train(pretext: RotationPretext, images: torch.Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.SGD(pretext.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(steps):
        loss = pretext.loss(images[16 * step % 64 :][:16])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("quarter_turns", [(0, 1, 2, 3), (0, 2), (1, 3)])
def test_learns_better_than_chance_within_twenty_steps(quarter_turns):
    pretext = small_pretext(quarter_turns)
    losses = train(pretext, tilted(64), 20)
    assert losses[-1] < 0.5 * math.log(len(quarter_turns))
    train_mode_accuracy = pretext.correct(tilted(64, seed=1)).float().mean().item()
    assert train_mode_accuracy > 0.9


def test_cannot_learn_where_there_is_no_upright():
    "White noise looks the same in every orientation: the accuracy on new images stays at chance."
    pretext = small_pretext()
    train(pretext, noise(64, 3, 16, 16), 20)
    assert abs(pretext.correct(noise(200, 3, 16, 16, seed=1)).float().mean().item() - 0.25) < 0.08


def test_two_runs_are_equal_to_the_bit():
    assert train(small_pretext(), tilted(64), 5) == train(small_pretext(), tilted(64), 5)


def test_loss_is_the_mean_over_all_turned_copies():
    pretext, images = small_pretext().eval(), noise(3, 3, 16, 16)
    by_hand = [-pretext(rotate(images, k)).log_softmax(1)[:, k].mean() for k in range(4)]
    torch.testing.assert_close(pretext.loss(images), torch.stack(by_hand).mean())


def test_a_head_of_zeros_is_at_chance():
    pretext = small_pretext((0, 1, 2))
    nn.init.zeros_(pretext.head.weight)
    nn.init.zeros_(pretext.head.bias)
    torch.testing.assert_close(pretext.loss(noise(2, 3, 8, 8)).item(), math.log(3))


def test_any_backbone_will_do(tmp_path):
    "A torchvision network that ends in vectors, and one cut to end in maps; weights go to a file and come back."
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network = resnet18()
    network.fc = nn.Identity()
    pretext = RotationPretext(network, 512)
    pretext.loss(noise(2, 3, 32, 32)).backward()
    save_model(pretext.backbone, tmp_path / "backbone.safetensors")
    again = resnet18()
    again.fc = nn.Identity()
    load_model(again, tmp_path / "backbone.safetensors")
    images = noise(1, 3, 32, 32)
    assert torch.equal(network.eval()(images), again.eval()(images))
    maps = RotationPretext(nn.Conv2d(3, 7, 3), 7)
    assert maps(images).shape == (1, 4)


# Fine-tuning
# -----------------------------------------------------------------------------------------------------------

def one_step(model: TransferClassifier) -> dict[str, torch.Tensor]:
    "Train one step and return what changed: weights and statistics of batch norm by name."
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model.train()(noise(8, 3, 16, 16)), torch.arange(8) % 3).backward()
    optimizer.step()
    return {name: value for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_does_not_change_and_a_fine_tuned_one_does(frozen):
    "Neither weights nor statistics move, although the optimizer knows the weights and old gradients are left over."
    pretext = small_pretext()
    pretext.loss(noise(4, 3, 16, 16)).backward()
    blocks = nn.Sequential(*pretext.backbone.blocks[:2])
    changed = one_step(TransferClassifier(blocks, ConvProbe(8, 3, channels=8), frozen))
    assert any(name.startswith("head.") for name in changed)
    assert any(name.startswith("backbone.") for name in changed) != frozen


def test_a_frozen_backbone_gives_the_features_of_evaluation_mode():
    network = small_pretext().backbone
    images = noise(6, 3, 16, 16)
    expected = network.eval()(images)
    model = TransferClassifier(network.train(), nn.Identity(), frozen=True)
    assert torch.equal(model.train()(images), expected)
    model.frozen = False
    assert not torch.equal(model.train()(images), expected)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("backbone", ["relu", "flat"])
def test_a_head_that_begins_in_place_gives_the_same_numbers(frozen, backbone):
    """A ReLU keeps its output for the backward pass; flat pictures share the memory of the pictures."""
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), *([nn.Linear(48, 48), nn.ReLU()] if backbone == "relu" else []))
        model = TransferClassifier(body, nn.Sequential(nn.Dropout(0.5, inplace=inplace), nn.Linear(48, 3)), frozen)
        images = noise(4, 3, 4, 4)
        before = images.clone()
        logits = model(images)
        logits.sum().backward()
        assert torch.equal(images, before)
        found.append([logits, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) >= 3 and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_pretext_with_a_backbone_that_begins_in_place_leaves_the_images():
    model = RotationPretext(nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Flatten(), nn.Linear(48, 8)), 8)
    images = noise(4, 3, 4, 4) - 0.5
    before = images.clone()
    model.loss(images).backward()
    model.correct(images)
    assert torch.equal(images, before)


def test_pretrain_save_load_and_fine_tune(tmp_path):
    "The way of a user: pretext task, weights to a file, another session, fine-tuning on few labels."
    pretext = small_pretext()
    train(pretext, tilted(64), 20)
    save_model(pretext.backbone, tmp_path / "backbone.safetensors")
    fresh = NetworkInNetwork(None, 3, channels=8)
    load_model(fresh, tmp_path / "backbone.safetensors")
    model = TransferClassifier(fresh, nn.Linear(8, 2))
    images = tilted(32, seed=2)
    labels = torch.arange(32) % 2
    images[labels == 1] = rotate(images[labels == 1], 1)  # a task that the backbone has a feature for
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unseen = tilted(40, seed=3)
    unseen[20:] = rotate(unseen[20:], 1)
    answers = model.eval()(unseen).argmax(dim=1)
    assert (answers == torch.arange(40) // 20).float().mean() > 0.9


# Network and probes ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("num_blocks", [2, 3, 4, 5])
def test_features_of_each_block(num_blocks):
    network = NetworkInNetwork(4, num_blocks, channels=12).eval()
    images = noise(2, 3, 32, 32)
    shapes = [tuple(network.features(images, block).shape) for block in range(1, num_blocks + 1)]
    assert shapes == [(2, 6, 16, 16)] + [(2, 12, 8, 8)] * (num_blocks - 1)
    last = network.features(images, num_blocks).mean(dim=(2, 3))
    assert torch.equal(network(images), network.head(last))


def test_network_without_head_gives_vectors():
    network = NetworkInNetwork(None, 3, channels=12)
    assert network(noise(2, 3, 16, 16)).shape == (2, network.feature_dim) == (2, 12)


def test_linear_probe_takes_the_paper_sizes_by_itself():
    sizes = {channels: LinearProbe(channels, 2).size for channels in (64, 192, 384, 256)}
    assert sizes == {64: 12, 192: 7, 384: 5, 256: 6}


@pytest.mark.parametrize("make", [LinearProbe, NonLinearProbe, ConvProbe])
def test_probes_fit_labels(make):
    torch.manual_seed(0)
    probe, features, labels = make(4, 3), noise(24, 4, 8, 8), torch.arange(24) % 3
    optimizer = torch.optim.SGD(probe.parameters(), lr=0.02, momentum=0.9)
    for _ in range(60):
        loss = nn.functional.cross_entropy(probe(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_few_labels_keeps_the_same_number_of_each_class(labels, seed):
    smallest = min(labels.count(c) for c in set(labels))
    for chosen in (None, seed):
        kept = few_labels(labels, smallest, chosen)
        assert kept.tolist() == sorted(set(kept.tolist()))
        assert all([labels[i] for i in kept].count(c) == smallest for c in set(labels))


def test_few_labels_depends_on_the_seed_alone():
    labels = torch.arange(100) % 5
    assert torch.equal(few_labels(labels, 4, 1), few_labels(labels, 4, 1))
    assert not torch.equal(few_labels(labels, 4, 1), few_labels(labels, 4, 2))


def test_attention_map_turns_with_the_features():
    features = noise(2, 5, 6, 6) - 0.5
    for power in (1, 2, 4):
        attention = attention_map(features, power)
        torch.testing.assert_close(attention, (features.abs() ** power).sum(1))
        torch.testing.assert_close(attention_map(rotate(features, 1), power), rotate(attention, 1))


# Bad input ------------------------------------------------------------------------------------------------------------

PIXELS, NETWORK = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), NetworkInNetwork(4, 3, channels=4)
BAD = [
    ("list", lambda: rotate([[1, 2]], 1), TypeError, "images must be a tensor"),
    ("vector", lambda: rotate(torch.zeros(4), 1), ValueError, "images must be of shape (..., H, W), got (4,)"),
    ("half a turn", lambda: rotate(noise(2, 2), 0.5), TypeError, "quarter_turns must be a whole number"),
    ("not square", lambda: rotate_batch(noise(2, 3, 8, 6)), ValueError, "must be square, got 8 x 6"),
    ("integers", lambda: rotate_batch(PIXELS), TypeError, "images must hold float numbers, got torch.uint8"),
    ("one image", lambda: rotate_batch(noise(3, 8, 8)), ValueError, "images must be of shape (N C H W), got (3, 8, 8)"),
    ("another number of channels", lambda: NETWORK(noise(2, 1, 8, 8)), ValueError,
     "images must be of shape (N 3 H W), got (2, 1, 8, 8)"),
    ("double images", lambda: NETWORK(noise(2, 3, 8, 8).double()), TypeError,
     "images must be torch.float32 as the weights, got torch.float64"),
    ("half a pixel of padding", lambda: crop_and_flip(noise(2, 3, 8, 8), 1.5), TypeError,
     "padding must be a whole number"),
    ("half precision to resample", lambda: rotate_degrees(noise(2, 3, 8, 8).half(), 45), TypeError,
     "images must be float32 on a CPU, where torch cannot resample torch.float16"),
    ("no backbone", lambda: RotationPretext(None, 16), TypeError, "backbone must be an nn.Module, got NoneType"),
    ("no features", lambda: RotationPretext(NETWORK, 0), ValueError,
     "feature_dim must be a whole number of at least 1, got 0"),
    ("two features", lambda: RotationPretext(nn.LSTM(8, 4), 4)(noise(2, 3, 8)), TypeError,
     "what backbone returns must be a tensor of shape (N 4 | N 4 h w), got tuple"),
    ("probe of nothing", lambda: LinearProbe(0, 2), ValueError,
     "in_channels must be a whole number of at least 1, got 0"),
    ("names as labels", lambda: few_labels(["a", "b"], 1), TypeError, "labels must be class numbers"),
    ("a column of labels", lambda: few_labels([[0], [1]], 1), ValueError,
     "labels must be of shape (N), got (2, 1): .ravel() makes a column flat"),
    ("a label is missing", lambda: few_labels([0, None], 1), TypeError, "all of one kind, got None at 1"),
    ("no image", lambda: rotate_batch(noise(0, 3, 8, 8)), ValueError,
     "images must hold at least one value, got shape (0, 3, 8, 8)"),
    ("no turns", lambda: rotate_batch(noise(2, 3, 8, 8), ()), ValueError,
     "quarter_turns must be at least 1 different turns from 0 to 3, got ()"),
    ("fourth turn", lambda: rotate_batch(noise(2, 3, 8, 8), (0, 4)), ValueError,
     "quarter_turns must be a whole number from 0 to 3, got 4"),
    ("turns twice", lambda: rotate_batch(noise(2, 3, 8, 8), (1, 1)), ValueError, "got (1, 1)"),
    ("turns of no number", lambda: rotate_batch(noise(2, 3, 8, 8), (0, 1.5)), TypeError,
     "quarter_turns must be a whole number from 0 to 3, got 1.5"),
    ("turn by name", lambda: rotate(noise(2, 2), "90"), TypeError, "quarter_turns must be a whole number"),
    ("crop of a list", lambda: centre_square([[1, 2]]), TypeError, "images must be a tensor"),
    ("crop of a vector", lambda: centre_square(torch.zeros(4)), ValueError,
     "images must be of shape (..., H, W), got (4,)"),
    ("integers to augment", lambda: crop_and_flip(PIXELS), TypeError, "images must hold float numbers"),
    ("integers to resample", lambda: rotate_degrees(PIXELS, 45), TypeError, "images must hold float numbers"),
    ("angle", lambda: rotate_degrees(noise(2, 3, 8, 8), math.nan), ValueError,
     "degrees must be a finite number, got nan"),
    ("mode", lambda: rotate_degrees(noise(2, 3, 8, 8), 5, mode="best"), ValueError, "mode must be"),
    ("padding", lambda: rotate_degrees(noise(2, 3, 8, 8), 5, padding="blur"), ValueError, "padding must be"),
    ("margin", lambda: crop_and_flip(noise(2, 3, 8, 8), -1), ValueError,
     "padding must be a whole number of at least 0"),
    ("one turn", lambda: RotationPretext(NETWORK, 4, (0,)), ValueError,
     "quarter_turns must be at least 2 different turns from 0 to 3, got (0,)"),
    ("feature_dim", lambda: RotationPretext(NETWORK, 5).loss(noise(2, 3, 8, 8)), ValueError,
     "must be of shape (N 5 | N 5 h w), got (8, 4)"),
    ("five turns", lambda: RotationPretext(NETWORK, 4, (0, 1, 2, 3, 4)), ValueError,
     "quarter_turns must be a whole number from 0 to 3, got 4"),
    ("pretext not square", lambda: RotationPretext(NETWORK, 4).loss(noise(2, 3, 8, 6)), ValueError,
     "must be square, got 8 x 6"),
    ("fewer images than a batch", lambda: batches(noise(5, 3, 8, 8), batch_size=32), ValueError,
     "batch_size must be at most 5, the number of rows"),
    ("pretext integers", lambda: RotationPretext(NETWORK, 4).loss(PIXELS), TypeError, "images must hold float numbers"),
    ("blocks", lambda: NetworkInNetwork(4, 1), ValueError, "num_blocks must be a whole number of at least 2, got 1"),
    ("channels", lambda: NetworkInNetwork(4, 3, channels=1), ValueError,
     "channels must be a whole number of at least 2, got 1"),
    ("classes", lambda: NetworkInNetwork(0), ValueError, "num_classes must be a whole number of at least 1, got 0"),
    ("block 0", lambda: NETWORK.features(noise(2, 3, 8, 8), 0), ValueError,
     "block must be a whole number from 1 to 3, got 0"),
    ("block 4", lambda: NETWORK.features(noise(2, 3, 8, 8), 4), ValueError,
     "block must be a whole number from 1 to 3, got 4"),
    ("block by name", lambda: NETWORK.features(noise(2, 3, 8, 8), "2"), TypeError,
     "block must be a whole number from 1 to 3, got '2'"),
    ("transfer integers", lambda: TransferClassifier(NETWORK, nn.Identity())(PIXELS), TypeError,
     "images must hold float numbers"),
    ("network integers", lambda: NETWORK(PIXELS), TypeError, "images must hold float numbers"),
    ("probe channels", lambda: LinearProbe(5, 2)(noise(2, 3, 8, 8)), ValueError,
     "features must be of shape (N 5 h w), got (2, 3, 8, 8)"),
    ("conv channels", lambda: ConvProbe(5, 2)(noise(2, 3, 8, 8)), ValueError,
     "features must be of shape (N 5 h w), got (2, 3, 8, 8)"),
    ("probe size", lambda: NonLinearProbe(5, 2)(noise(2, 5, 4, 4)), ValueError,
     "features must be of shape (N 5 8 8), got (2, 5, 4, 4)"),
    ("per class", lambda: few_labels([0, 0, 1], 2), ValueError,
     "per_class must be at most 1, the examples of class 1, got 2"),
    ("none per class", lambda: few_labels([0, 1], 0), ValueError, "per_class must be"),
    ("no labels", lambda: few_labels([], 1), ValueError, "labels must hold at least one value"),
    ("block of even kernel", lambda: nin_block(3, (4, 4, 4), 2), ValueError, "kernel must be one of 1, 3, 5, 7, got 2"),
    ("power", lambda: attention_map(noise(2, 3, 8, 8), 0), ValueError, "power must be a finite number"),
]


@pytest.mark.parametrize("call, error, sentence", [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_gets_one_clear_sentence(call, error, sentence):
    with pytest.raises(error) as raised:
        call()
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
