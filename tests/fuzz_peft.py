"""How fuzzing calls the public functions of the chapter peft."""

from __future__ import annotations

import tempfile

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from drawing import NOT_DRAWN, any_float, any_int, any_vectors, filled, fuzz, small_int, vectors
from xfer_course import peft
from xfer_course.clip import Transformer

NOT_DRAWN.update(["DigitTask", "Place", "Rows", "StepCost", "Update"])
X = {"x": vectors(3, 4)}
ANY_X = {"x": any_vectors}
AN_INPUT = (RuntimeError,)  # inputs that the layer itself does not take


def updated(config, x, **build):
    "Output of a linear layer with an update beside it."
    layer = nn.Linear(4, 5)
    update = config.build(layer, **build)
    return update(x, layer(update.before(x)), layer)


def five_wide(result, arguments) -> bool:
    return result.shape == (len(arguments["x"]), 5)


fuzz(
    "LoRA",
    lambda x, **options: updated(peft.LoRA(**options), x),
    X | {"r": st.integers(1, 4), "alpha": st.floats(0.5, 8), "rslora": st.booleans(), "dora": st.booleans()},
    ANY_X | {"r": small_int, "alpha": any_float, "dropout": any_float},
    five_wide,
    also=AN_INPUT,
)
fuzz(
    "IA3",
    lambda x, **options: updated(peft.IA3(**options), x),
    X | {"feedforward": st.booleans()},
    ANY_X | {"feedforward": any_int},
    five_wide,
    also=AN_INPUT,
)
ADAPTER = {"r": st.integers(1, 4), "form": st.sampled_from(("sequential", "parallel")),
           "scale": st.sampled_from((1.0, 4.0, "learned")), "layer_norm": st.sampled_from(("none", "in", "out"))}
fuzz(
    "Adapter",
    lambda x, **options: updated(peft.Adapter(**options), x),
    X | ADAPTER,
    ANY_X | {"r": small_int, "form": st.text(max_size=2), "scale": any_float, "layer_norm": st.booleans()},
    five_wide,
    also=AN_INPUT,
)
LAYERS = st.sampled_from((nn.Linear(4, 5), nn.Conv2d(4, 5, 1), peft.Rows(filled((5, 4)), None)))
WILD_LAYERS = st.one_of(LAYERS, st.just(nn.ReLU()), any_vectors)
for update, config in (("LowRank", peft.LoRA(2)), ("Scaling", peft.IA3()), ("Bottleneck", peft.Adapter(2))):
    fuzz(
        update,
        getattr(peft, update),
        {"config": st.just(config), "layer": LAYERS},
        {"config": any_float, "layer": WILD_LAYERS},
        lambda r, a: sum(p.numel() for p in r.parameters()) > 0 and r.config == a["config"],
    )
fuzz(
    "PrefixRows",
    lambda heads, width, like, **options: peft.Prefix(**options).build(heads, width, like),
    {"heads": st.integers(1, 3), "width": st.integers(1, 4), "like": vectors(1, 1)},
    {"heads": small_int, "width": small_int, "like": any_vectors, "length": small_int},
    lambda r, a: r.keys.shape[0] == a["heads"] and r.values.shape[2] == a["width"],
)


def attended(length, gate, tokens):
    tower = Transformer(width=8, layers=1, heads=2)
    peft.inject(tower, peft.Prefix(length, gate), "*.attn")
    return tower(tokens[None])


fuzz(
    "Prefix",
    attended,
    {"length": st.integers(1, 4), "gate": st.sampled_from(("joint", "none")), "tokens": vectors(3, 8)},
    {"length": small_int, "gate": st.text(max_size=2), "tokens": any_vectors},
    lambda r, a: r.shape == (1, len(a["tokens"]), 8),
    also=AN_INPUT,
)


def heads_and_rows(n: int) -> st.SearchStrategy:
    return vectors(n, 8).map(lambda x: x.view(n, 2, 4).transpose(0, 1)[None])


fuzz(
    "prefix_attention",
    peft.prefix_attention,
    {"q": heads_and_rows(3), "k": heads_and_rows(5), "v": heads_and_rows(5),
     "prefix_k": heads_and_rows(2).map(lambda x: x[0]), "prefix_v": heads_and_rows(2).map(lambda x: x[0])},
    {"q": any_vectors, "k": heads_and_rows(4), "v": any_vectors, "prefix_k": heads_and_rows(2),
     "prefix_v": any_vectors},
    lambda r, a: r[0].shape == a["q"].shape and ((0 <= r[1]) & (r[1] <= 1)).all(),
)

# --- networks


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


PLACES = st.sampled_from(("0", "2", "*", "[02]"))
ANY_PLACES = st.one_of(st.text("012*.[]", max_size=3), st.lists(st.text("012*", max_size=2), max_size=2))
CONFIGS = st.sampled_from((peft.LoRA(2), peft.IA3(), peft.LoRA(2, dora=True)))


def tuned(config=None, where="*") -> nn.Module:
    model = network()
    peft.inject(model, peft.LoRA(2) if config is None else config, where)
    return model


def named(result, arguments) -> bool:
    return len(result) > 0 and all(isinstance(name, str) for name in result)


fuzz(
    "BitFit",
    lambda where: peft.inject(network(), peft.BitFit(), where),
    {"where": PLACES},
    {"where": ANY_PLACES},
    named,
)
fuzz(
    "inject",
    lambda config, where: peft.inject(network(), config, where),
    {"config": CONFIGS, "where": PLACES},
    {"config": any_float, "where": ANY_PLACES},
    named,
)
fuzz(
    "injected",
    lambda config, where: peft.injected(tuned(config, where)),
    {"config": CONFIGS, "where": PLACES},
    {"where": ANY_PLACES},
    lambda r, a: all(update.config == a["config"] for _, update in r),
)
fuzz(
    "layer_of",
    lambda config, where: [peft.layer_of(place) for place, _ in peft.injected(tuned(config, where))],
    {"config": CONFIGS, "where": PLACES},
    {"where": ANY_PLACES},
    lambda r, a: all(isinstance(layer, nn.Linear) for layer in r),
)
for of_tuned in (peft.trainable_parameters, peft.merge_):
    fuzz(
        of_tuned.__name__,
        lambda config, where, function=of_tuned: function(tuned(config, where)),
        {"config": CONFIGS, "where": PLACES},
        {"where": ANY_PLACES},
        named,
    )
fuzz(
    "eject",
    lambda config, names: peft.eject(tuned(config), names),
    {"config": CONFIGS, "names": st.sampled_from((["0"], ["0", "2"], None))},
    {"names": st.lists(st.text("012", max_size=2), max_size=2)},
    lambda r, a: r == (a["names"] if a["names"] is not None else ["0", "2"]),
)


def there_and_back(config, buffers):
    with tempfile.TemporaryDirectory() as folder:
        return peft.load_trained(network(), peft.save_trained(tuned(config), folder, buffers))


for name in ("save_trained", "load_trained"):
    fuzz(
        name,
        there_and_back,
        {"config": CONFIGS, "buffers": st.booleans()},
        {"buffers": any_int},
        lambda r, a: r == ["0", "2"],
    )


def cost(x, labels, rate):
    model = tuned()
    optimizer = torch.optim.SGD(peft.trainable_parameters(model).values(), lr=rate, momentum=0.9)
    return peft.step_cost(model, lambda: F.cross_entropy(model(x), labels), optimizer)


STEP = {"x": vectors(3, 4), "labels": st.just(torch.tensor([0, 1, 2]))}
fuzz(
    "step_cost",
    cost,
    STEP | {"rate": st.floats(0.01, 1)},
    {"x": any_vectors, "rate": any_float},
    lambda r, a: r.trained == 2 * (4 + 5) + 2 * (5 + 3) and r.optimizer == 4 * r.trained,
    also=(*AN_INPUT, IndexError),
)
fuzz(
    "saved_bytes",
    lambda x, labels: peft.saved_bytes(model := tuned(), lambda: F.cross_entropy(model(x), labels)),
    STEP,
    {"x": any_vectors},
    lambda r, a: r > 0,
    also=(*AN_INPUT, IndexError),
)

# --- moment probing

TOKENS = vectors(6, 8).map(lambda x: x.view(2, 3, 8))
ANY_TOKENS = st.one_of(TOKENS, any_vectors)
CENTRES = st.sampled_from(("released", "none", "token"))
PAIRS = st.sampled_from(("near", "half", "all"))

fuzz(
    "cross_moments",
    peft.cross_moments,
    {"a": TOKENS, "b": TOKENS, "centre": CENTRES},
    {"a": ANY_TOKENS, "b": ANY_TOKENS, "centre": st.text(max_size=2)},
    lambda r, a: r.shape == (2, 8, 8),
)
fuzz(
    "head_pairs",
    peft.head_pairs,
    {"heads": st.sampled_from((2, 4, 6)), "pairs": PAIRS},
    {"heads": small_int, "pairs": st.text(max_size=2)},
    lambda r, a: len(r) > 0 and all(0 <= i < j < a["heads"] for i, j in r),
)
fuzz(
    "MomentHead",
    lambda tokens, **options: peft.MomentHead(8, 3, **options)(tokens),
    {"tokens": TOKENS, "hidden": st.sampled_from((32, 64)), "heads": st.sampled_from((2, 4)), "pairs": PAIRS,
     "centre": CENTRES, "reduce": st.sampled_from(("conv", "none")),
     "fuse": st.sampled_from(("mean", "sum", "second"))},
    {"tokens": ANY_TOKENS, "hidden": small_int, "heads": small_int, "reduce": st.text(max_size=2)},
    lambda r, a: r.shape == (2, 3),
)
fuzz(
    "Recalibration",
    lambda x, **options: peft.Recalibration(4, **options)(x),
    X | {"rank": st.integers(1, 4), "zero_start": st.booleans()},
    ANY_X | {"rank": small_int, "zero_start": any_int},
    lambda r, a: all(each.shape == a["x"].shape for each in r),
    also=AN_INPUT,
)
BLOCKS = st.just(Transformer(width=8, layers=2, heads=2).resblocks)
fuzz(
    "RecalibratedBlock",
    lambda block, tokens, **options: peft.RecalibratedBlock(block, **options)(tokens),
    {"block": BLOCKS.map(lambda blocks: blocks[0]), "tokens": TOKENS, "rank": st.integers(1, 4)},
    {"block": st.just(nn.ReLU()), "tokens": ANY_TOKENS, "rank": small_int},
    lambda r, a: r.shape == a["tokens"].shape,
    also=AN_INPUT,
)
fuzz(
    "recalibrate",
    peft.recalibrate,
    {"blocks": BLOCKS, "rank": st.integers(1, 4), "zero_start": st.booleans()},
    {"blocks": st.one_of(st.just(nn.Sequential(nn.ReLU())), any_float), "rank": small_int},
    lambda r, a: len(r) == len(a["blocks"]),
)
fuzz(
    "TokenTransformer",
    lambda images, **sizes: peft.TokenTransformer(**sizes)(images),
    {"images": st.just(filled((2, 1, 8, 8))), "patch": st.sampled_from((1, 2, 4)), "layers": st.integers(1, 2),
     "heads": st.sampled_from((1, 2, 4))},
    {"images": st.just(filled((2, 1, 8, 8))), "size": small_int, "patch": small_int, "channels": small_int,
     "width": small_int, "layers": small_int, "heads": small_int},
    lambda r, a: r.shape[0] == 2,
    also=AN_INPUT,
)
fuzz(
    "digit_task",
    peft.digit_task,
    {"name": st.sampled_from(("near", "far")), "labels": st.integers(1, 671), "seed": st.integers(0, 9)},
    {"name": st.text(max_size=4), "labels": any_int, "seed": any_int},
    lambda r, a: len(r.train.labels) == a["labels"] and len(r.test.labels) == 454,
)
fuzz(
    "digit_transformer",
    peft.digit_transformer,
    {"seed": st.integers(0, 1), "epochs": st.just(1), "rate": st.sampled_from((1e-3, 3e-3))},
    {"seed": st.integers(-3, -1), "epochs": st.integers(-3, 0), "rate": any_float},
    lambda r, a: not r.training,
)
fuzz(
    "train_on",
    lambda inputs, labels, **options: peft.train_on(nn.Linear(4, 3), inputs, labels, **options),
    {"inputs": vectors(5, 4), "labels": st.just(torch.tensor([0, 1, 2, 0, 1])), "rate": st.floats(1e-4, 1e-1),
     "epochs": st.integers(1, 2)},
    {"inputs": any_vectors, "labels": st.just(torch.tensor([0, 1, 2, 0, 7])), "rate": any_float,
     "epochs": st.integers(-2, 2)},
    lambda r, a: isinstance(r, nn.Linear),
    also=AN_INPUT,
)

# --- visual query tuning

BLOCK = Transformer(width=8, layers=1, heads=2).resblocks[0].requires_grad_(False)
fuzz(
    "read_block",
    peft.read_block,
    {"block": st.just(BLOCK), "queries": st.one_of(vectors(3, 8), TOKENS), "tokens": TOKENS},
    {"block": st.just(nn.ReLU()), "queries": any_vectors, "tokens": ANY_TOKENS},
    lambda r, a: r.shape == (2, a["queries"].shape[-2], 8),
)
PICTURES = st.just(filled((2, 1, 8, 8)))


def small_network() -> nn.Module:
    return peft.TokenTransformer(width=8, layers=2, heads=2, patch=4)


fuzz(
    "frozen_layers",
    peft.frozen_layers,
    {"network": st.builds(small_network), "images": PICTURES},
    {"network": st.one_of(st.just(nn.ReLU()), any_float), "images": any_vectors},
    lambda r, a: r.shape == (2, 3, 5, 8) and not r.requires_grad,
    also=AN_INPUT,
)
OUTPUTS = vectors(12, 8).map(lambda x: x.view(2, 2, 3, 8))
COMBINE = st.sampled_from(("concat", "mean", "weighted"))
fuzz(
    "join_parts",
    peft.join_parts,
    {"first": vectors(2, 8), "outputs": OUTPUTS, "combine": COMBINE, "weights": vectors(2, 3),
     "normalise": st.booleans()},
    {"first": any_vectors, "outputs": st.one_of(OUTPUTS, any_vectors), "combine": st.text(max_size=2),
     "weights": any_vectors, "normalise": any_int},
    lambda r, a: r.shape == (2, 8 * (1 + 2 * (3 if a["combine"] == "concat" else 1))),
)


def asked(images, **options):
    network = small_network()
    return peft.VisualQueries(network, **options)(peft.frozen_layers(network, images))


fuzz(
    "VisualQueries",
    asked,
    {"images": PICTURES, "queries": st.integers(1, 3), "combine": COMBINE, "normalise": st.booleans(),
     "dropout": st.floats(0, 0.9)},
    {"images": any_vectors, "queries": small_int, "combine": st.text(max_size=2), "normalise": any_int,
     "dropout": any_float},
    lambda r, a: r.shape == (2, 8 * (1 + 2 * (a["queries"] if a["combine"] == "concat" else 1))),
    also=AN_INPUT,
)
fuzz(
    "group_lasso",
    peft.group_lasso,
    {"weight": vectors(3, 4)},
    {"weight": any_vectors},
    lambda r, a: r.shape == () and not r < 0,
)
fuzz(
    "strongest_features",
    peft.strongest_features,
    {"weight": vectors(3, 4), "keep": st.floats(0.01, 1)},
    {"weight": any_vectors, "keep": any_float},
    lambda r, a: len(r) == max(1, int(a["keep"] * a["weight"].shape[1])) and len(set(r.tolist())) == len(r),
)
fuzz(
    "CompressedHead",
    lambda kept, features, num_classes: peft.CompressedHead(kept, num_classes)(features),
    {"kept": st.sampled_from((torch.tensor([2]), torch.tensor([0, 3]))), "features": vectors(3, 4),
     "num_classes": st.integers(1, 3)},
    {"kept": st.sampled_from((torch.tensor([4]), torch.tensor([-5]), torch.tensor([]))), "features": any_vectors,
     "num_classes": small_int},
    lambda r, a: r.shape == (len(a["features"]), a["num_classes"]),
)
fuzz(
    "compress",
    peft.compress,
    {"features": vectors(5, 4), "labels": st.just(torch.tensor([0, 1, 2, 0, 1])), "num_classes": st.integers(3, 4),
     "keep": st.floats(0.3, 1), "rate": st.floats(1e-4, 1e-1), "epochs": st.integers(1, 2)},
    {"features": any_vectors, "labels": st.just(torch.tensor([0, 1, 2, 0, 7])), "num_classes": small_int,
     "keep": any_float, "rate": any_float, "penalty": any_float, "epochs": st.integers(-2, 2)},
    lambda r, a: len(r.kept) == max(1, int(a["keep"] * a["features"].shape[1])),
    also=(FloatingPointError,),
)
