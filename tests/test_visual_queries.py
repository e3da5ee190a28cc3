"""Visual query tuning: queries that change nothing, what a step keeps, features, compression, refusals."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer as OfTorchvision

from xfer_course.clip import CLIPConfig, VisionTransformer
from xfer_course.peft import (
    Adapter,
    CompressedHead,
    LayerAttention,
    LoRA,
    Prefix,
    TokenTransformer,
    VisualQueries,
    compress,
    frozen_layers,
    group_lasso,
    inject,
    join_parts,
    load_trained,
    merge_,
    read_block,
    recalibrate,
    save_trained,
    saved_bytes,
    strongest_features,
    train_on,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(layers: int = 2) -> TokenTransformer:
    torch.manual_seed(0)
    return TokenTransformer(layers=layers, width=16, heads=2).requires_grad_(False).eval()


IMAGES = normal(5, 1, 8, 8)
CLIPS = CLIPConfig(embed_dim=8, image_resolution=8, vision_layers=2, vision_width=16, vision_patch_size=4,
                   vision_heads=2)
NETWORKS = {"course": (small, IMAGES), "clip": (lambda: VisionTransformer(CLIPS), normal(5, 3, 8, 8)),
            "torchvision": (lambda: OfTorchvision(8, 4, 2, 2, 16, 32), normal(5, 3, 8, 8))}


# Reading

@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_the_networks_own(name):
    build, images = NETWORKS[name]
    network = build().eval()
    layers = frozen_layers(network, images)
    blocks = {"course": "blocks", "clip": "transformer.resblocks", "torchvision": "encoder.layers"}[name]
    assert layers.shape == (5, 3, 17 if name == "course" else 5, 16) and not layers.requires_grad
    for i, block in enumerate(network.get_submodule(blocks)):
        torch.testing.assert_close(block(layers[:, i]), layers[:, i + 1])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


def test_a_block_that_stands_twice_is_read_twice():
    network = small(3)
    network.blocks[1] = network.blocks[0]
    expected = torch.stack(network.layers(IMAGES), 1)
    assert torch.equal(frozen_layers(network, IMAGES), expected) and expected.shape[1] == 4


@pytest.mark.parametrize("name", NETWORKS)
def test_a_token_that_asks_gets_what_the_layer_gives_it(name):
    "Queries that equal a layer's own tokens come out as the layer's own output."
    build, images = NETWORKS[name]
    network = build().requires_grad_(False).eval()
    layers = frozen_layers(network, images)
    queries = VisualQueries(network).eval()
    for i, block in enumerate([part for part in network.modules() if hasattr(part, "ln_2")]):
        torch.testing.assert_close(read_block(block, layers[:, i], layers[:, i]), layers[:, i + 1])
    assert queries(layers).shape == (5, queries.width) == (5, 16 * 3)


def test_the_class_token_is_the_frozen_networks_to_the_bit():
    network = small()
    features = VisualQueries(network, 3, normalise=False)(frozen_layers(network, IMAGES))
    assert torch.equal(features[:, :16], network(IMAGES))


def test_queries_do_not_see_each_other():
    network = small()
    alone, tokens = normal(1, 16), frozen_layers(network, IMAGES)[:, 0]
    together = torch.cat([alone, normal(3, 16, seed=1)])
    torch.testing.assert_close(read_block(network.blocks[0], together, tokens)[:, :1],
                               read_block(network.blocks[0], alone, tokens))


def test_tokens_keep_their_rows_when_queries_stand_beside_them():
    "The released form: queries and tokens through the whole layer; same rows, same gradient, more bytes."
    network = small(layers=4)
    layers, queries = frozen_layers(network, IMAGES), nn.Parameter(normal(4, 2, 16))

    def whole():
        x, total = layers[:, 0], 0
        for block, asks in zip(network.blocks, queries):
            rows = read_block(block, torch.cat([asks.expand(len(x), -1, -1), x], 1), x)
            x, total = rows[:, 2:], total + rows[:, :2].pow(3).sum()
        torch.testing.assert_close(x, layers[:, -1])
        return total

    def alone():
        return sum(read_block(block, asks, x).pow(3).sum()
                   for block, asks, x in zip(network.blocks, queries, layers.unbind(1)))

    torch.testing.assert_close(*(torch.autograd.grad(form(), queries)[0] for form in (whole, alone)))
    assert saved_bytes(network, whole) > 2 * saved_bytes(network, alone)


@pytest.mark.parametrize("depth", [2, 6])
def test_a_step_keeps_far_less_than_lora_at_any_depth(depth):
    network = TokenTransformer(layers=depth)
    tuned = copy.deepcopy(network)
    inject(tuned, LoRA(4), "*.attn.[qv]")
    queries = VisualQueries(network)
    layers = frozen_layers(network, IMAGES)
    kept = saved_bytes(queries, lambda: queries(layers).sum())
    assert kept < saved_bytes(tuned, lambda: tuned(IMAGES).sum()) / 3


# Updates inside the blocks

def test_adapters_and_prefixes_are_read_as_they_are_and_lora_after_merging():
    for config, where in ((Adapter(2, "parallel"), "*.mlp"), (Prefix(3), "*.attn"), (LoRA(2), "*.attn.[qv]")):
        network = small()
        inject(network, config, where)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter.normal_(0, 0.5)
        if isinstance(config, LoRA):
            merge_(network)
        layers = frozen_layers(network, IMAGES)
        assert not torch.allclose(layers[:, 1], frozen_layers(small(), IMAGES)[:, 1], atol=1e-3)
        torch.testing.assert_close(read_block(network.blocks[1], layers[:, 1], layers[:, 1]), layers[:, 2])


# Features

def test_parts_are_brought_to_length_one_together():
    first, outputs = normal(3, 4), normal(3, 2, 5, 4, seed=1)
    features = join_parts(first, outputs)
    assert features.shape == (3, 4 * (1 + 2 * 5))
    torch.testing.assert_close(features[:, 4:24], F.normalize(outputs[:, 0].flatten(1)))
    torch.testing.assert_close(features.square().sum(1), torch.full((3,), 3.0))


def test_weights_of_one_over_t_are_the_mean():
    first, outputs = normal(3, 4), normal(3, 2, 5, 4, seed=1)
    torch.testing.assert_close(join_parts(first, outputs, "weighted", torch.full((2, 5), 0.2)),
                               join_parts(first, outputs, "mean"))


def test_the_start_is_as_wide_as_the_paper_says():
    network = NETWORKS["torchvision"][0]()
    drawn = VisualQueries(network, 200).queries.detach().abs()
    limit = (6 / (3 * 4**2 + 16)) ** 0.5
    assert 0.98 * limit < drawn.max() <= limit


def test_only_queries_are_trained_and_the_network_stays_in_evaluation_mode():
    network = small()
    queries = VisualQueries(network, 2, "weighted").train()
    assert not network.training and queries.training
    assert {name for name, p in queries.named_parameters() if p.requires_grad} == {"queries", "weights"}
    before = copy.deepcopy(network.state_dict())
    model, layers = nn.Sequential(queries, nn.Linear(queries.width, 2)), frozen_layers(network, IMAGES)
    start = queries.queries.detach().clone()
    train_on(model, layers, torch.tensor([0, 1, 0, 1, 1]), rate=0.1, epochs=2)
    assert not torch.equal(start, queries.queries) and not torch.equal(queries.weights, torch.ones(2, 2))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_dropout_falls_on_queries_in_training_alone():
    network = small()
    queries, layers = VisualQueries(network, 4, dropout=0.5), frozen_layers(network, IMAGES)
    torch.testing.assert_close(queries.eval()(layers), queries(layers))
    assert not torch.allclose(queries.train()(layers), queries(layers))


def test_what_was_trained_travels_without_the_network(tmp_path):
    network = small()
    model = nn.Sequential(queries := VisualQueries(network), nn.Linear(queries.width, 2))
    save_trained(model, tmp_path)
    other = nn.Sequential(VisualQueries(small()), nn.Linear(queries.width, 2))
    load_trained(other, tmp_path)
    layers = frozen_layers(network, IMAGES)
    torch.testing.assert_close(other.eval()(layers), model.eval()(layers))
    from safetensors.torch import load_file
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == 3


def test_trained_queries_find_what_the_last_layer_has_lost():
    "A network whose last block wipes its tokens out: the class token is blind, the queries are not."
    network = small()
    network.blocks[1].mlp.c_proj.weight.zero_()
    labels = (IMAGES.mean((1, 2, 3)) > IMAGES.mean((1, 2, 3)).median()).long()
    with torch.no_grad():
        network.norm.weight.zero_()
    layers = frozen_layers(network, IMAGES)
    queries = VisualQueries(network)
    model = train_on(nn.Sequential(queries, nn.Linear(queries.width, 2)), layers, labels, rate=0.1, epochs=60).eval()
    assert (model(layers).argmax(1) == labels).all()
    assert network(IMAGES).std(0).max() == 0


# Attention over the rows

def naive_attention(block: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    "A pre-norm block, head by head and row by row."
    n, count, d = rows.shape
    heads, x = block.attn.heads, block.ln_1(rows)
    q, k, v = F.linear(x, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)
    mixed = torch.zeros_like(rows)
    for head in range(heads):
        part = slice(head * d // heads, (head + 1) * d // heads)
        scores = q[..., part] @ k[..., part].mT / (d // heads) ** 0.5
        mixed[..., part] = scores.softmax(-1) @ v[..., part]
    rows = rows + block.attn.out_proj(mixed)
    return rows + block.mlp(block.ln_2(rows))


@pytest.mark.parametrize("perceptrons", [False, True])
def test_layers_are_combined_by_a_block_over_rows_of_length_one(perceptrons):
    torch.manual_seed(0)
    mixer = LayerAttention(8, 3, heads=2, perceptrons=perceptrons)
    first, outputs = normal(4, 8), normal(4, 3, 2, 8, seed=1)
    rows = [first / first.norm(dim=-1, keepdim=True)]
    if perceptrons:
        nn.init.normal_(mixer.places)
        rows[0] = rows[0] + mixer.places[0]
    for layer in range(3):
        for query in range(2):
            row = outputs[:, layer, query] / outputs[:, layer, query].norm(dim=-1, keepdim=True)
            rows.append(mixer.perceptrons[layer](row) + mixer.places[1 + layer] if perceptrons else row)
    torch.testing.assert_close(mixer(first, outputs), naive_attention(mixer.block, torch.stack(rows, 1))[:, 0])


def test_only_perceptrons_and_places_know_the_order_of_layers():
    torch.manual_seed(0)
    first, outputs = normal(4, 8), normal(4, 3, 2, 8, seed=1)
    for perceptrons in (False, True):
        mixer = LayerAttention(8, 3, heads=2, perceptrons=perceptrons)
        same = torch.allclose(mixer(first, outputs), mixer(first, outputs.flip(1)), atol=1e-6)
        assert same is not perceptrons


@pytest.mark.parametrize("combine", ["attention", "perceptrons"])
@pytest.mark.parametrize("name", NETWORKS)
def test_queries_and_their_combination_are_trained_and_the_network_is_not(name, combine):
    build, images = NETWORKS[name]
    network = build().eval()
    before, layers = copy.deepcopy(network.state_dict()), frozen_layers(network, images)
    torch.manual_seed(0)
    queries = VisualQueries(network, 2, combine)
    assert queries(layers).shape == (5, queries.width) == (5, 16)
    start = {key: p.detach().clone() for key, p in queries.named_parameters() if p.requires_grad}
    train_on(nn.Sequential(queries, nn.Linear(16, 2)), layers, torch.tensor([0, 1, 0, 1, 1]), rate=0.1, epochs=3)
    still = [key for key, p in queries.named_parameters() if p.requires_grad and torch.equal(p, start[key])]
    assert still == [] and all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


# Compression

def test_a_group_lasso_adds_up_the_lengths_of_columns():
    weight = torch.tensor([[3.0, 0, 1], [4, 0, 0]])
    assert group_lasso(weight) == 6
    assert strongest_features(weight, 0.7).tolist() == [0, 2]
    assert strongest_features(weight, 0.01).tolist() == [0] and len(strongest_features(weight, 1)) == 3


def test_compression_keeps_the_features_that_count():
    labels = torch.arange(80) % 2
    features = normal(80, 10)
    features[:, 7] = 2.0 * labels - 1
    head = compress(features, labels, 2, 0.1, rate=0.05)
    assert head.kept.tolist() == [7] and (head(features).argmax(1) == labels).all()


def test_a_penalty_makes_columns_shorter():
    labels, features = torch.arange(80) % 2, normal(80, 10)
    features[:, 7] = 2.0 * labels - 1
    chosen = [compress(features, labels, 2, 1.0, rate=0.05, penalty=penalty).kept.tolist() for penalty in (0.0, 1.0)]
    assert chosen[0][0] == chosen[1][0] == 7 and sorted(chosen[0]) == list(range(10))


def test_its_seed_alone_decides_what_is_kept():
    labels, features, found = torch.arange(40) % 2, normal(40, 10), []
    for state, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(state)
        found.append(compress(features, labels, 2, 0.5, rate=0.01, epochs=2, seed=seed).state_dict())
    same = [all(torch.equal(other[key], each) for key, each in found[0].items()) for other in found[1:]]
    assert same == [True, False]


def test_numbers_of_features_are_numbers_and_no_mask():
    head, features = CompressedHead(torch.tensor([1, 0, 1], dtype=torch.uint8), 2), normal(3, 2)
    torch.testing.assert_close(head(features), head.linear(features[:, [1, 0, 1]]))


def test_parts_of_zeros_stay_zeros_in_half_precision():
    assert (join_parts(torch.zeros(2, 4).half(), torch.zeros(2, 3, 1, 4).half()) == 0).all()


# Refusals

class Foreign(nn.Module):
    "A network of another kind."


@pytest.mark.parametrize("error, call, words", [
    (TypeError, lambda: frozen_layers(Foreign(), IMAGES), "network must be a TokenTransformer.*got Foreign"),
    (TypeError, lambda: VisualQueries(nn.Linear(2, 2)), "network must be.*got Linear"),
    (ValueError, lambda: frozen_layers(small(), IMAGES[0]), "images must"),
    (TypeError, lambda: read_block(nn.Linear(4, 4), normal(1, 4), normal(2, 3, 4)), "block must.*got Linear"),
    (ValueError, lambda: read_block(small().blocks[0], normal(1, 4), normal(2, 3, 16)), "queries must"),
    (ValueError, lambda: read_block(small().blocks[0], normal(1, 16), normal(2, 3, 4)), "tokens must"),
    (ValueError, lambda: VisualQueries(small(), 0), "queries must"),
    (ValueError, lambda: VisualQueries(small(), combine="sum"), "combine must"),
    (ValueError, lambda: VisualQueries(small(), normalise=1), "normalise must"),
    (ValueError, lambda: VisualQueries(small(), dropout=1.0), "dropout must"),
    (ValueError, lambda: VisualQueries(small())(normal(2, 2, 17, 16)), "layers must"),
    (ValueError, lambda: join_parts(normal(3, 4), normal(3, 2, 5, 6)), "outputs must"),
    (ValueError, lambda: join_parts(normal(3, 4), normal(3, 2, 5, 4), "weighted", normal(2, 4)), "weights must"),
    (TypeError, lambda: join_parts(normal(3, 4), normal(3, 2, 5, 4), "weighted"), "weights must"),
    (ValueError, lambda: join_parts(normal(3, 4), normal(3, 2, 5, 4), "mean", normal(2, 5)), "weights must be None"),
    (ValueError, lambda: strongest_features(normal(2, 4), 0), "keep must"),
    (ValueError, lambda: strongest_features(normal(2, 4) * torch.tensor([1, torch.nan, 1, 1]), 0.5), "weight must be"),
    (ValueError, lambda: CompressedHead(torch.tensor([2, -1]), 2), "the least number in kept must.*got -1"),
    (TypeError, lambda: CompressedHead(torch.tensor([1]), 2)(normal(2, 3).double()), "features must be torch.float32"),
    (TypeError, lambda: compress(normal(4, 3).double(), torch.tensor([0, 1, 1, 0]), 2, 0.5, rate=0.1), "features must"),
    (ValueError, lambda: compress(normal(4, 3), torch.tensor([0, 1, 1, 0]), 2, 30, rate=0.1, epochs=0), "keep must"),
    (ValueError, lambda: LayerAttention(8, 2, 3), "heads must divide width, 8, got 3"),
    (ValueError, lambda: LayerAttention(8, 2, 2)(normal(3, 8), normal(3, 3, 1, 8)), "outputs must be of shape"),
    (ValueError, lambda: LayerAttention(8, 2, 2, perceptrons=2), "perceptrons must"),
    (ValueError, lambda: VisualQueries(small(), 2, "attention", normalise=False), "normalise must"),
    (ValueError, lambda: compress(normal(4, 3), torch.tensor([0, 1, 1, 0]), 2, 0.5, rate=0.1, seed=-1), "seed must"),
    (ValueError, lambda: group_lasso(normal(4)), "weight must"),
    (ValueError, lambda: CompressedHead(torch.tensor([3]), 2)(normal(2, 3)), "the number of features must"),
    (ValueError, lambda: compress(normal(4, 3), torch.tensor([0, 1, 2, 0]), 2, 0.5, rate=0.1), "labels must"),
    (ValueError, lambda: compress(normal(4, 3), torch.tensor([0, 1, 1, 0]), 2, 0.5, rate=0.1, penalty=-1), "penalty"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(error, call, words):
    with pytest.raises(error, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_updates_that_cannot_be_read_are_named_when_queries_are_made():
    network = small()
    inject(network, LoRA(2), "*.attn.[qv]")
    with pytest.raises(ValueError, match="block must have plain attention.*updates of q, v: merge or eject"):
        VisualQueries(network)
    other = small()
    other.blocks = recalibrate(other.blocks, 2)
    with pytest.raises(TypeError, match="block must be.*got RecalibratedBlock"):
        VisualQueries(other)
