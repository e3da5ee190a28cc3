"""m2-Mix: mixtures on the sphere, losses against a loop, limits, and bad input."""
from __future__ import annotations

import math

import pytest
import torch

from xfer_course.clip import contrastive_loss
from xfer_course.training import train, unit_vectors
from xfer_course.visionlanguage import (
    PairedMaps,
    alignment,
    geodesic_mix,
    hard_negative_loss,
    m2_mix_loss,
    modality_gap,
    uni_mix_losses,
    uniformity,
)


def rows(n: int, seed: int, d: int = 6, dtype: torch.dtype = torch.double) -> torch.Tensor:
    return unit_vectors(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(dtype))


@pytest.mark.parametrize("share", (0.0, 0.25, 0.5, 1.0))
def test_a_mixture_divides_the_angle(share):
    a, b = rows(20, 0), rows(20, 1)
    mixed = geodesic_mix(a, b, share)
    whole = (a * b).sum(1).acos()
    torch.testing.assert_close(mixed.norm(dim=1), torch.ones(20, dtype=torch.double))
    torch.testing.assert_close((mixed * b).sum(1).clamp(-1, 1).acos(), share * whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", (torch.double, torch.float, torch.float16, torch.bfloat16))
def test_a_mixture_with_itself_is_itself_with_a_finite_gradient(dtype):
    a = rows(5, 0, dtype=dtype).requires_grad_()
    mixed = geodesic_mix(a, a.detach(), 0.3)
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.detach(), a.detach(), atol=2e-3, rtol=2e-2)
    mixed.sum().backward()
    assert torch.isfinite(a.grad).all()


def test_the_loss_is_the_sum_of_both_directions_against_mixtures():
    image, text, scale, share = rows(5, 0), rows(5, 1), 3.0, 0.4
    mixed, total = geodesic_mix(image, text, share), 0.0
    for own, other in ((image, text), (text, image)):
        for i in range(5):
            terms = [math.exp(scale * float(own[i] @ (other[i] if i == j else mixed[j]))) for j in range(5)]
            total -= math.log(terms[i] / sum(terms)) / 5
    assert abs(m2_mix_loss(image, text, share, scale).item() - total) < 1e-12


def test_with_a_share_of_nought_or_one_mixtures_are_texts_or_images():
    image, text = rows(6, 0), rows(6, 1)
    texts = torch.nn.functional.cross_entropy(5.0 * image @ text.T, torch.arange(6))
    among_texts = 5.0 * (text @ text.T).fill_diagonal_(0) + torch.diag(5.0 * (image * text).sum(1))
    expected = texts + torch.nn.functional.cross_entropy(among_texts, torch.arange(6))
    torch.testing.assert_close(m2_mix_loss(image, text, 0.0, 5.0), expected)


def test_equal_captions_are_no_negatives_of_each_other():
    image, text = rows(6, 0), rows(6, 1)
    twice, captions = torch.cat([image, image]), torch.arange(6).repeat(2)
    doubled = m2_mix_loss(twice, torch.cat([text, text]), 0.3, captions=captions)
    assert doubled > m2_mix_loss(image, text, 0.3), "every other pair stands there twice, its own only once"
    assert doubled < m2_mix_loss(twice, torch.cat([text, text]), 0.3)
    torch.testing.assert_close(m2_mix_loss(image, text, 0.3, captions=torch.arange(6)), m2_mix_loss(image, text, 0.3))


@pytest.mark.parametrize("n", (6, 7))
def test_one_sided_mixtures_without_mixing_are_the_plain_loss(n):
    image, text = rows(n, 0), rows(n, 1)
    found = uni_mix_losses(image, text, 1.0, 10.0)
    plain = contrastive_loss(image, text, 10.0)
    torch.testing.assert_close(found.image, plain)
    torch.testing.assert_close(found.text, plain)
    assert found.both > plain, "its targets sum to two"


def test_an_odd_batch_has_a_finite_loss_and_gradient():
    image = rows(5, 0).requires_grad_()
    sum(uni_mix_losses(image, rows(5, 1), 0.3)).backward()
    assert torch.isfinite(image.grad).all()


def test_measures_of_known_arrangements():
    north, south = torch.tensor([[0.0, 1.0]]).repeat(3, 1), torch.tensor([[0.0, -1.0]]).repeat(3, 1)
    assert modality_gap(north, south) == 2 and modality_gap(north, north) == 0
    assert alignment(north, south) == 4 and alignment(north, south, relative=True) == 0
    assert uniformity(north) == 0 and abs(uniformity(torch.cat([north[:1], south[:1]])) + 8) < 1e-9


def test_without_reweighting_the_hard_negative_loss_is_a_contrastive_loss():
    "beta 0 and no expected false negatives: the sum of all negatives but the own, in one direction."
    x, y = rows(8, 0), rows(8, 1)
    expected = torch.nn.functional.cross_entropy(2 * x @ y.T, torch.arange(8))
    torch.testing.assert_close(hard_negative_loss(x, y, tau_plus=0.0, beta=0.0), expected)


def test_mixing_closes_more_of_a_gap_than_the_plain_loss():
    "Pairs that differ by a constant vector, which no other tells apart."
    base = rows(64, 0, 8, torch.float)
    image, text = unit_vectors(base + 1.5 * torch.eye(8)[0]), unit_vectors(base - 1.5 * torch.eye(8)[0])

    def gap_after(weight: float) -> float:
        maps = PairedMaps(8)

        def loss(a, b):
            a, b = maps(a, b)
            return contrastive_loss(a, b, 100.0) + weight * m2_mix_loss(a, b, 0.5)

        train(maps, image, text, rate=1e-2, steps=60, loss=loss)
        with torch.no_grad():
            return modality_gap(*maps(image, text))

    assert gap_after(0.5) < gap_after(0.0)


def test_maps_begin_as_the_identity():
    x, y = rows(3, 0, dtype=torch.float), rows(3, 1, dtype=torch.float)
    torch.testing.assert_close(PairedMaps(6)(x, y), (x, y))


@pytest.mark.parametrize("call, sentence", [
    (lambda x, y: geodesic_mix(2 * x, y, 0.5), "first must have rows of length 1"),
    (lambda x, y: geodesic_mix(x, y, 1.5), "share must be"), (lambda x, y: m2_mix_loss(x, y[:3], 0.5), "text must be"),
    (lambda x, y: m2_mix_loss(x, y, 0.5, 0), "scale must be"),
    (lambda x, y: m2_mix_loss(x, y, 0.5, captions=torch.arange(3)), "captions must be"),
    (lambda x, y: alignment(x[:1], y[:1], relative=True), "at least two"),
    (lambda x, y: uniformity(x[:1]), "at least two"), (lambda x, y: hard_negative_loss(x[:1], y[:1]), "at least two"),
    (lambda x, y: hard_negative_loss(x, y, tau_plus=1.0), "tau_plus must be"), (lambda x, y: PairedMaps(0), "dim"),
])
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(rows(5, 0), rows(5, 1))


def test_other_precisions_side_by_side_are_refused():
    with pytest.raises(TypeError, match="text must be"):
        m2_mix_loss(rows(4, 0), rows(4, 1, dtype=torch.float), 0.5)
