"""Prompts and their stand-in: the identity, deep prompts against longer sequences, limits, and bad input."""
from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xfer_course.clip import Attention, Transformer, tiny_vit_clip
from xfer_course.visionlanguage import (
    ApproximatedAttention,
    ApproximatePrompt,
    DeepPromptAttention,
    attach_prompts,
    detach_prompts,
    prompt_attention,
    prompt_cost,
)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.double) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("size", (1.0, 30.0))
def test_two_attentions_are_one_over_the_longer_sequence(size):
    "Large scores would overflow an exponential that is not shifted."
    q, k, v = (size * drawn(2, 3, 5, 4, seed=i) for i in range(3))
    pk, pv = (size * drawn(3, 6, 4, seed=i) for i in (3, 4))
    found = prompt_attention(q, k, v, pk, pv)
    longer = [torch.cat([p.expand(2, -1, -1, -1), x], 2) for p, x in ((pk, k), (pv, v))]
    torch.testing.assert_close(found.out, F.scaled_dot_product_attention(q, *longer))
    shares = (q @ longer[0].transpose(-2, -1) / 2).softmax(-1)
    torch.testing.assert_close(found.mass, shares[..., :6].sum(-1, keepdim=True))


@pytest.mark.parametrize("causal", (False, True))
def test_deep_prompts_are_further_tokens_without_queries(causal):
    torch.manual_seed(0)
    attention = Attention(8, 2)
    deep, x = DeepPromptAttention(attention, 3), drawn(2, 5, 8, dtype=torch.float)
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    q = F.linear(x, weight[:8], bias[:8])
    k, v = (F.linear(torch.cat([deep.tokens.expand(2, -1, -1), x], 1), weight[part], bias[part])
            for part in (slice(8, 16), slice(16, 24)))
    q, k, v = (each.view(2, -1, 2, 4).transpose(1, 2) for each in (q, k, v))
    scores = q @ k.transpose(-2, -1) / 2
    if causal:
        later = torch.ones(5, 5).triu(1).bool()
        scores[..., 3:] = scores[..., 3:].masked_fill(later, -torch.inf)
    expected = attention.out_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 8))
    torch.testing.assert_close(deep(x, causal), expected)


def test_a_token_that_fits_no_prompt_is_left_alone():
    prompt = ApproximatePrompt(4, tokens=2)
    prompt.tokens.data = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    res = torch.tensor([[[-1.0, -1.0, 0, 0], [2.0, 0.5, 0, 0]]])
    changed = prompt(torch.zeros(1, 2, 4), res)
    assert changed[0, 0].tolist() == [0, 0, 0, 0] and changed[0, 1].tolist() == [4.0, 1.0, 0, 0]


def test_prompts_go_into_a_tower_and_out_again():
    tower, pixels = tiny_vit_clip().visual, drawn(2, 3, 64, 64, dtype=torch.float)
    before, names = tower(pixels), [name for name, _ in tower.named_parameters()]
    for rank in (4, None):
        assert len(attach_prompts(tower, 5, rank)) == 6
        assert {name.rsplit(".", 1)[-1] for name, p in tower.named_parameters() if p.requires_grad} == (
            {"tokens", "down", "up", "log_scale"} if rank else {"tokens"})
        assert not torch.equal(tower(pixels), before)
        assert len(detach_prompts(tower)) == 6
        assert torch.equal(tower(pixels), before) and [name for name, _ in tower.named_parameters()] == names


@pytest.mark.parametrize("rank", (4, None))
def test_a_shared_attention_has_prompts_in_every_place_and_loses_them_again(rank):
    shared, network = Attention(8, 2), nn.Module()
    network.first, network.second = shared, shared
    assert attach_prompts(network, 2, rank) == ["first", "second"]
    assert network.first is network.second and network.first is not shared
    assert detach_prompts(network) == ["first", "second"] and network.first is network.second is shared


@pytest.mark.parametrize("rank", (4, None))
def test_a_prompted_tower_takes_empty_batches_as_before(rank):
    tower = Transformer(8, 1, 2)
    attach_prompts(tower, 2, rank)
    assert tower(torch.zeros(0, 3, 8)).shape == (0, 3, 8)


def test_tokens_of_half_the_size_change_an_eighth():
    prompt, res = ApproximatePrompt(4, tokens=3), drawn(2, 5, 4, dtype=torch.float)
    whole = prompt(torch.zeros(2, 5, 4), res).detach()
    prompt.tokens.data /= 2
    torch.testing.assert_close(prompt(torch.zeros(2, 5, 4), res), whole / 8)
    assert whole.abs().sum() > 0


@pytest.mark.parametrize("rank", (4, None))
def test_prompts_learn_in_a_causal_tower(rank):
    torch.manual_seed(0)
    tower, x, y = Transformer(8, 2, 2), drawn(6, 4, 8, dtype=torch.float), torch.arange(6) % 2
    attach_prompts(tower, 3, rank)
    optimizer = torch.optim.Adam([p for p in tower.parameters() if p.requires_grad], 0.05)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(tower(x, causal=True)[:, -1, :2], y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_prompts_take_the_precision_of_their_layer():
    tower = tiny_vit_clip().visual.to(torch.bfloat16)
    attach_prompts(tower, 2)
    assert {p.dtype for p in tower.parameters()} == {torch.bfloat16}


def test_multiplications_are_those_of_the_code():
    "Scores and values of prompts for every token; maps of width by width, and the rank's two, once a batch."
    found = prompt_cost(length=10, width=6, prompts=3, rank=2, batch=4)
    assert found["keys and values"] == 2 * 10 * 3 * 6 + 2 * 3 * 6 * 6 / 4
    assert found["approximated"] == 2 * 10 * 3 * 6 + 2 * 3 * 2 * 6 / 4
    longer, shorter = (12 * n * 36 + 2 * n * n * 6 for n in (13, 10))
    assert found["full tokens"] == longer - shorter


@pytest.mark.parametrize("call, sentence", [
    (lambda: attach_prompts(nn.Linear(2, 2)), "attention of xfer_course.clip, got none"),
    (lambda: [attach_prompts(t, 2) for t in [Transformer(8, 1, 2)] * 2], "no prompts yet"),
    (lambda: attach_prompts(Attention(8, 2), 2), "got an attention itself"),
    (lambda: detach_prompts(DeepPromptAttention(Attention(8, 2), 2)), "got such a layer itself"),
    (lambda: ApproximatePrompt(4, 0), "tokens must be"),
    (lambda: ApproximatePrompt(4)(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4)), "x must be of shape"),
    (lambda: ApproximatePrompt(4)(torch.zeros(1, 2, 4), torch.zeros(1, 3, 4)), "res must be of shape"),
    (lambda: prompt_attention(*3 * [drawn(1, 2, 3, 4)], *2 * [drawn(3, 2, 4)]), "prompt_k must be"),
    (lambda: prompt_cost(0, 1, 1), "length must be"),
])
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_what_is_no_attention_is_refused():
    for make in (lambda: DeepPromptAttention(nn.Linear(2, 2)),
                 lambda: ApproximatedAttention(nn.Linear(2, 2), ApproximatePrompt(2))):
        with pytest.raises(TypeError, match="attention must be"):
            make()


@pytest.mark.parametrize("call, sentence", [
    (lambda x: DeepPromptAttention(Attention(8, 2), 2)(x), "x must be torch.float32 as tokens"),
    (lambda x: ApproximatePrompt(8, 2)(x, x), "res must be torch.float32 as tokens"),
    (lambda x: ApproximatedAttention(Attention(8, 2), ApproximatePrompt(8, 2))(x), "x must be torch.float32"),
    (lambda x: prompt_attention(*3 * [x[None]], *2 * [torch.zeros(1, 2, 8)]), "prompt_k must be torch.float64 as q"),
])
def test_another_precision_is_named(call, sentence):
    with pytest.raises(TypeError, match=sentence):
        call(drawn(1, 3, 8))
