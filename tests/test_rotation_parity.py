"""The rotation chapter against numbers that the authors' own code gave (`XFER_PARITY` says where they are)."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from xfer_course.rotation import (
    ConvProbe,
    LinearProbe,
    NetworkInNetwork,
    NonLinearProbe,
    RotationPretext,
    few_labels,
    rotate,
    rotate_batch,
)


def state_of(case) -> dict[str, torch.Tensor]:
    "The stored weights, in the order of the authors' modules."
    names = [name for name in case.data.files if name.startswith("sd.")]
    arrays = [case[name] for name in names]
    return {n[3:]: torch.from_numpy(a.astype(np.float32) if a.dtype == np.float16 else a)
            for n, a in zip(names, arrays)}


def load(model: torch.nn.Module, case) -> dict[str, str]:
    """Put the stored weights into `model`; returns our name of each of theirs.

    Both list their layers from input to output."""
    stored, ours = state_of(case), model.state_dict()
    assert [value.shape for value in stored.values()] == [value.shape for value in ours.values()]
    model.load_state_dict(dict(zip(ours, stored.values())))
    return dict(zip(stored, ours))


def images_of(case, name: str = "x") -> torch.Tensor:
    return torch.from_numpy(case[name])


NETWORKS = [("nin3_supervised", 10, 3), ("nin4_rotnet", 4, 4)]


@pytest.mark.parametrize("name, num_classes, num_blocks", NETWORKS)
def test_network_gives_the_authors_features_and_logits(parity, name, num_classes, num_blocks):
    case, model = parity("rotnet", name), NetworkInNetwork(num_classes, num_blocks)
    load(model, case)
    model.eval()
    with torch.no_grad():
        for block in range(1, num_blocks + 1):
            case.assert_close(model.features(images_of(case), block), f"eval_conv{block}")
        case.assert_close(model(images_of(case)), "eval_classifier")


@pytest.mark.parametrize("name, num_classes, num_blocks", NETWORKS)
def test_network_has_the_authors_number_of_parameters(parity, name, num_classes, num_blocks):
    case, model = parity("rotnet", name), NetworkInNetwork(num_classes, num_blocks)
    parts = [*model.blocks, model.head]
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == case["parameters_per_block"].tolist()
    assert sum(p.numel() for p in model.parameters()) == case["parameters_total"]


@pytest.mark.parametrize("name, num_classes, num_blocks", NETWORKS)
def test_two_training_steps_follow_the_authors(parity, name, num_classes, num_blocks):
    case, model = parity("rotnet", name), NetworkInNetwork(num_classes, num_blocks)
    ours = load(model, case)
    optimizer = torch.optim.SGD(model.parameters(), lr=case.options["lr"], momentum=0.9, nesterov=True,
                                weight_decay=5e-4)
    x, y, losses = images_of(case), torch.from_numpy(case["y"]), []
    for step in (1, 2):
        logits = model.train()(x)
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if step == 1:
            case.assert_close(logits.detach(), "train_classifier")
            for theirs in case.options["grad_names"]:
                case.assert_close(dict(model.named_parameters())[ours[theirs]].grad, f"grad.{theirs}")
            for norm in case.options["bn_names"]:
                for buffer in ("running_mean", "running_var"):
                    case.assert_close(model.state_dict()[ours[f"{norm}.{buffer}"]], f"after1.{norm}.{buffer}")
        optimizer.step()
    case.assert_close(np.array(losses), "train_losses")
    for theirs in case.options["step_names"]:
        case.assert_close(model.state_dict()[ours[theirs]], f"after2.{theirs}")


def test_pretext_with_the_network_as_backbone_is_the_authors_network(parity):
    "`RotationPretext` averages the last map and adds a linear layer: together that is the four-class network."
    case = parity("rotnet", "nin4_rotnet")
    pretext = RotationPretext(NetworkInNetwork(None, 4), 192)
    load(pretext, case)
    with torch.no_grad():
        case.assert_close(pretext.eval()(images_of(case)), "eval_classifier")


PROBES = [("conv_classifier_a", lambda: ConvProbe(32, 10)),
          ("mult_layer_classifier_a", lambda: NonLinearProbe(3, 3, size=4)),
          ("linear_classifier_max_a", lambda: LinearProbe(6, 5, size=3))]


@pytest.mark.parametrize("name, make", PROBES)
def test_probe_gives_the_authors_logits_and_gradients(parity, name, make):
    case, probe = parity("rotnet", name), make()
    ours = load(probe, case)
    features = images_of(case, "features")
    with torch.no_grad():
        case.assert_close(probe.eval()(features), "eval_logits")
    features.requires_grad_()
    logits = probe.train()(features)
    loss = F.cross_entropy(logits, torch.from_numpy(case["y"]))
    loss.backward()
    case.assert_close(logits.detach(), "train_logits")
    case.assert_close(loss.detach(), "train_loss")
    case.assert_close(features.grad, "grad_features")
    assert sum(p.numel() for p in probe.parameters()) == case["parameters_total"]
    for theirs in (n.removeprefix("grad.") for n in case.data.files if n.startswith("grad.")):
        case.assert_close(dict(probe.named_parameters())[ours[theirs]].grad, f"grad.{theirs}")


@pytest.mark.parametrize("name", ["image_a", "image_b"])
@pytest.mark.parametrize("quarter_turns", range(4))
def test_rotate_equals_the_authors(parity, name, quarter_turns):
    case = parity("rotnet", "rotate_a")
    images = torch.from_numpy(case[name]).permute(0, 3, 1, 2)
    turned = rotate(images, quarter_turns).permute(0, 2, 3, 1)
    case.assert_close(turned.numpy(), f"{name}_rot{90 * quarter_turns}")


def test_rotate_batch_has_the_order_and_values_of_the_authors_loader(parity):
    case = parity("rotnet", "loader_a")
    mean, std = (torch.from_numpy(case[name]).float().view(1, 3, 1, 1) for name in ("mean_pix", "std_pix"))
    images = (torch.from_numpy(case["images"]).permute(0, 3, 1, 2).float() / 255 - mean) / std
    rotated, labels = rotate_batch(images)
    case.assert_close(images, "supervised_data")
    case.assert_close(rotated, "unsupervised_data")
    case.assert_close(labels, "unsupervised_labels")


def test_few_labels_without_a_seed_keeps_what_the_authors_keep(parity):
    case = parity("rotnet", "subset_a")
    kept = few_labels(torch.from_numpy(case["labels"]), case.options["num_imgs_per_cat"])
    case.assert_close(kept, "kept_index")
    assert np.array_equal(case["labels"][kept], case["kept_labels"])
