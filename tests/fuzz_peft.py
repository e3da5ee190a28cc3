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


def cost(x, labels, rate, repeats=1):
    model = tuned()
    optimizer = torch.optim.SGD(peft.trainable_parameters(model).values(), lr=rate, momentum=0.9)
    return peft.step_cost(model, lambda: F.cross_entropy(model(x), labels), optimizer, repeats)


STEP = {"x": vectors(3, 4), "labels": st.just(torch.tensor([0, 1, 2]))}
fuzz(
    "step_cost",
    cost,
    STEP | {"rate": st.floats(0.01, 1), "repeats": st.integers(1, 3)},
    {"x": any_vectors, "rate": any_float, "repeats": st.integers(-3, 0)},
    lambda r, a: r.trained == 2 * (4 + 5) + 2 * (5 + 3) and r.optimizer == 4 * r.trained and r.seconds > 0,
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
    "development_task",
    lambda name, labels, judged: peft.development_task(peft.digit_task(name, 30), labels, judged),
    {"name": st.sampled_from(("near", "far")), "labels": st.integers(1, 29), "judged": st.integers(1, 40)},
    {"name": st.just("near"), "labels": any_int, "judged": any_int},
    lambda r, a: len(r.train.labels) == a["labels"] and len(r.test.labels) == min(a["judged"], 30 - a["labels"]),
)
fuzz(
    "every_layer",
    peft.every_layer,
    {"layers": vectors(12, 8).map(lambda x: x.view(2, 2, 3, 8))},
    {"layers": st.one_of(TOKENS, any_vectors, any_float)},
    lambda r, a: r.shape == (2, 2 * 2 * 8),
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

# --- SHERL

LAYERS_OF_TOKENS = vectors(24, 8).map(lambda x: x.view(4, 2, 3, 8))  # four layers, two examples, three tokens
ANY_LAYERS = st.one_of(LAYERS_OF_TOKENS, any_vectors, st.lists(any_vectors, max_size=4))
WEIGH = st.sampled_from(("distinct", "scores", "redundancy", "uniform", "none"))

fuzz(
    "redundancy",
    peft.redundancy,
    {"rows": TOKENS},
    {"rows": ANY_TOKENS},
    lambda r, a: r.shape == a["rows"].shape[:-1],
)
fuzz(
    "LayerMixture",
    lambda rows, **options: peft.LayerMixture(8, **options)(rows),
    {"rows": TOKENS, "weigh": WEIGH},
    {"rows": st.one_of(TOKENS, any_float), "weigh": st.text(max_size=2), "guide": any_int},
    lambda r, a: r.shape == (2, 8),
    also=AN_INPUT,
)
fuzz(
    "SHERL",
    lambda features, **options: peft.SHERL(8, 4, **options)(features),
    {"features": LAYERS_OF_TOKENS, "hidden": st.integers(1, 4), "weigh": WEIGH, "shared": st.booleans(),
     "gate": st.sampled_from((None, 0.0, 1.0)), "out_norm": st.booleans()},
    {"features": ANY_LAYERS, "hidden": small_int, "weigh": st.text(max_size=2), "gate": any_float,
     "temperature": any_float, "dropout": any_float},
    lambda r, a: r.shape == (2, 3, 8),
)
fuzz(
    "LadderSide",
    lambda features, **options: peft.LadderSide(8, 4, **options)(features),
    {"features": LAYERS_OF_TOKENS, "hidden": st.sampled_from((2, 4)), "heads": st.sampled_from((1, 2))},
    {"features": ANY_LAYERS, "hidden": small_int, "heads": small_int},
    lambda r, a: r.shape == (2, 3, 8),
)
fuzz(
    "LateLayers",
    lambda side, features: peft.LateLayers(side, nn.Identity(), nn.LayerNorm(8))(features),
    {"side": st.just(peft.SHERL(8, 4, 2)), "features": LAYERS_OF_TOKENS.map(lambda x: x.transpose(0, 1))},
    {"side": st.one_of(st.just(peft.SHERL(8, 4, 2)), any_float), "features": ANY_LAYERS},
    lambda r, a: r.shape == (2, 8),
)
fuzz(
    "LateRoute",
    lambda images, late: peft.LateRoute(peft.TokenTransformer(layers=3), peft.LadderSide(32, 4 - late, 2),
                                        late)(images),
    {"images": st.just(filled((2, 1, 8, 8))), "late": st.integers(0, 2)},
    {"images": st.one_of(st.just(filled((2, 1, 8, 8))), any_vectors), "late": small_int},
    lambda r, a: r.shape == (2, 32),
    also=AN_INPUT,
)

MAPS = st.tuples(vectors(16, 8), vectors(4, 8)).map(lambda x: [x[0].view(2, 4, 4, 4), x[1].view(2, 4, 2, 2)])
ANY_MAPS = st.one_of(MAPS, any_vectors, st.lists(any_vectors, max_size=3))
fuzz(
    "ConvSHERL",
    lambda maps, channels=(4, 4), windows=(2, 1), **options: peft.ConvSHERL(channels, windows, **options)(maps),
    {"maps": MAPS, "hidden": st.integers(1, 4), "weigh": WEIGH, "gate": st.sampled_from((None, 0.0, 1.0))},
    {"maps": ANY_MAPS, "channels": st.one_of(st.lists(small_int, max_size=3), any_float),
     "windows": st.one_of(st.lists(small_int, max_size=3), any_float), "hidden": small_int,
     "weigh": st.text(max_size=2), "gate": any_float, "temperature": any_float},
    lambda r, a: r.shape == (2, 4, 2, 2),
)
fuzz(
    "ConvLateRoute",
    lambda stages, side, images: peft.ConvLateRoute(stages, side, nn.Flatten())(images),
    {"stages": st.just([nn.Conv2d(1, 4, 2, 2), nn.Conv2d(4, 4, 2, 2)]),
     "side": st.just(peft.ConvSHERL((4, 4), (2, 1), 2)), "images": st.just(filled((2, 1, 8, 8)))},
    {"stages": st.one_of(st.just([nn.ReLU()]), st.lists(any_float, max_size=2), any_float),
     "side": st.one_of(st.just(peft.ConvSHERL((4, 4), (2, 1), 2)), any_float),
     "images": st.one_of(st.just(filled((2, 1, 8, 8))), any_vectors)},
    lambda r, a: r.shape == (2, 16),
    also=AN_INPUT,
)

# --- sparse tuning

STARTS = st.just({"a": filled((3, 4)), "b": filled((2,))})
ENDS = vectors(3, 4).map(lambda x: {"a": filled((3, 4)) + x, "b": filled((2,))})
ANY_TENSORS = st.one_of(st.dictionaries(st.sampled_from("ab"), any_vectors, max_size=2), ENDS, any_float)
DELTAS = ENDS.map(lambda end: peft.sparse_difference({"a": filled((3, 4)), "b": filled((2,))}, end))
OTHER_DELTAS = st.one_of(DELTAS, any_vectors, st.just(peft.SparseDelta({"a": filled((2,)).to_sparse()})))


def at_least(result, arguments) -> bool:
    return sum(int(each.sum()) for each in result.values()) >= arguments["k"]


fuzz(
    "top_k_mask",
    peft.top_k_mask,
    {"before": STARTS, "after": ENDS, "k": st.integers(1, 14)},
    {"before": ANY_TENSORS, "after": ANY_TENSORS, "k": any_int, "taken": ANY_TENSORS},
    at_least,
)
fuzz(
    "random_mask",
    peft.random_mask,
    {"tensors": STARTS, "k": st.integers(1, 14), "seed": st.integers(0, 9)},
    {"tensors": ANY_TENSORS, "k": any_int, "seed": any_int},
    at_least,
)
fuzz(
    "sparse_difference",
    peft.sparse_difference,
    {"before": STARTS, "after": ENDS, "drop": st.floats(0, 1)},
    {"before": ANY_TENSORS, "after": ANY_TENSORS, "drop": any_float},
    lambda r, a: len(r) <= 14 and set(r.differences) == {"a", "b"},
)
fuzz(
    "SparseDelta",
    lambda one, other, factor: one + factor * other,
    {"one": DELTAS, "other": DELTAS, "factor": st.floats(-2, 2)},
    {"one": DELTAS, "other": OTHER_DELTAS, "factor": any_float},
    lambda r, a: len(r) <= 14,
)


def sparse_there_and_back(delta):
    with tempfile.TemporaryDirectory() as folder:
        return peft.load_delta(peft.save_delta(delta, f"{folder}/delta.safetensors"))


def equal_deltas(result, arguments) -> bool:
    return all(torch.equal(each.to_dense(), arguments["delta"].differences[name].to_dense())
               for name, each in result.differences.items())


for name in ("save_delta", "load_delta"):
    fuzz(name, sparse_there_and_back, {"delta": DELTAS}, {"delta": st.one_of(any_vectors, any_float)}, equal_deltas)
fuzz(
    "to_released",
    lambda delta: peft.from_released(peft.to_released(delta, torch.float64)),
    {"delta": DELTAS},
    {"delta": any_vectors},
    equal_deltas,
)
fuzz(
    "from_released",
    lambda size, steps, values: peft.from_released(
        {"diffs": {"a": {"size": size, "index_steps": steps, "values": values}}, "abs": {}}),
    {"size": st.just((3, 4)), "steps": st.just([0, 3, 5]), "values": vectors(3, 1).map(lambda x: x.flatten())},
    {"size": st.one_of(st.lists(st.integers(-1, 3), max_size=2), any_float), "steps": st.lists(any_int, max_size=3),
     "values": any_vectors},
    lambda r, a: r.differences["a"].shape == (3, 4),
)


def masked_step(x, mask, rate):
    model = network()
    before, optimizer = model[0].weight.detach().clone(), torch.optim.Adam(model.parameters(), rate)
    with peft.masked_updates(model, {"0.weight": mask}, optimizer):
        model(x).sum().backward()
        optimizer.step()
    return (model[0].weight != before) & ~mask


MASKS = st.integers(0, 9).map(lambda seed: torch.rand(5, 4, generator=torch.Generator().manual_seed(seed)) > 0.5)
fuzz(
    "masked_updates",
    masked_step,
    X | {"mask": MASKS, "rate": st.floats(0.01, 1)},
    {"x": any_vectors, "mask": st.one_of(MASKS, any_vectors), "rate": any_float},
    lambda r, a: not r.any(),
    also=AN_INPUT,
)


def lottery(maskable, k, epochs, **options):
    model = network()
    tuner = peft.LotteryTicketTuner(model, maskable, k, **options)
    batch = filled((6, 4)), torch.tensor([0, 1, 2, 0, 1, 2])
    return tuner.fit(lambda batch, p: (F.cross_entropy(model(batch[0]), batch[1]), {}), [batch],
                     lambda trained: torch.optim.SGD(trained, 0.1), epochs, epochs)


fuzz(
    "LotteryTicketTuner",
    lottery,
    {"maskable": st.sampled_from(("0.*", ["0.weight", "0.bias"])), "k": st.integers(2, 25), "epochs": st.just(1),
     "iterations": st.integers(1, 2), "l1": st.floats(0, 1)},
    {"maskable": ANY_PLACES, "k": any_int, "epochs": st.integers(-1, 1), "iterations": any_int, "l1": any_float,
     "sparse_l1": any_float, "l1_over": st.text(max_size=2)},
    lambda r, a: set(r.whole) == {"2.weight", "2.bias"},
)

# --- ScaLearn


def with_adapters(seed: int = 0, config=None) -> nn.Module:
    "A network with adapters that are not zero."
    model = tuned(config or peft.Adapter(2))
    torch.manual_seed(seed)
    for _, update in peft.injected(model):
        nn.init.normal_(next(update.up.parameters()) if hasattr(update, "up") else next(update.parameters()))
    return model


OUTPUTS = vectors(6, 4).map(lambda x: x.view(2, 3, 4))
ANY_OUTPUTS = st.one_of(OUTPUTS, any_vectors)
RULE = {"form": st.sampled_from(("vector", "uniform")), "dropout": st.floats(0, 0.9), "start": st.floats(-3, 3),
        "normalise": st.sampled_from(("none", "softmax"))}
fuzz(
    "ScaLearn",
    lambda outputs, residual, adapters=3, width=4, **options: peft.ScaLearn(adapters, width, **options)(
        outputs, residual),
    {"outputs": OUTPUTS, "residual": vectors(2, 4)} | RULE,
    {"outputs": ANY_OUTPUTS, "residual": any_vectors, "adapters": small_int, "width": small_int,
     "form": st.text(max_size=2), "dropout": any_float, "start": any_float, "normalise": st.text(max_size=2)},
    lambda r, a: r.shape == a["residual"].shape,
)
fuzz(
    "AdapterFusion",
    lambda outputs, residual, query=None, width=4, **options: peft.AdapterFusion(width, **options)(
        outputs, residual, query),
    {"outputs": OUTPUTS, "residual": vectors(2, 4), "dropout": st.floats(0, 0.9), "value": st.booleans(),
     "hot": st.booleans()},
    {"outputs": ANY_OUTPUTS, "residual": any_vectors, "query": any_vectors, "width": small_int, "dropout": any_float,
     "value": any_int, "hot": any_int},
    lambda r, a: r.shape == a["residual"].shape,
    also=AN_INPUT,
)
fuzz(
    "Combination",
    lambda adapters, rule, x: peft.Combination(adapters, rule)(x, x),
    {"adapters": st.just([peft.Adapter(2).build(nn.Linear(4, 4)) for _ in range(3)]),
     "rule": st.just(peft.ScaLearn(3, 4)), "x": vectors(2, 4)},
    {"adapters": st.lists(st.sampled_from((nn.ReLU(), 3)), max_size=2), "rule": any_float, "x": any_vectors},
    lambda r, a: r.shape == a["x"].shape,
    also=AN_INPUT,
)


def one_network(seeds, share_layers, config=None):
    return peft.combine([with_adapters(seed, config) for seed in seeds], share_layers=share_layers)


SEEDS = {"seeds": st.lists(st.integers(0, 3), min_size=1, max_size=3), "share_layers": st.just(False)}
ANY_SEEDS = {"seeds": st.lists(st.integers(0, 3), max_size=2), "share_layers": any_int,
             "config": st.sampled_from((peft.LoRA(2), peft.Adapter(2, layer_norm="in"), peft.IA3()))}
fuzz("combine", one_network, SEEDS, ANY_SEEDS, lambda r, a: len(peft.trainable_parameters(r)) == len(peft.injected(r)))
fuzz(
    "fold_",
    lambda **options: peft.fold_(one_network(**options)),
    SEEDS,
    ANY_SEEDS,
    named,
)
fuzz(
    "learned_scales",
    lambda **options: peft.learned_scales(one_network(**options)),
    SEEDS,
    ANY_SEEDS,
    lambda r, a: all(len(scales) == len(a["seeds"]) for scales in r.values()),
)
fuzz(
    "digit_source",
    peft.digit_source,
    {"name": st.sampled_from(("near", "far", "odd", "large", "loops", "flipped", "lying", "mirrored", "shifted",
                              "shuffled")), "labels": st.integers(1, 671), "seed": st.integers(0, 9)},
    {"name": st.text(max_size=4), "labels": any_int, "seed": any_int},
    lambda r, a: len(r.train.labels) == a["labels"] and len(r.test.labels) == 454,
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
LAYER_OUTPUTS = vectors(12, 8).map(lambda x: x.view(2, 2, 3, 8))
COMBINE = st.sampled_from(("concat", "mean", "weighted"))
fuzz(
    "join_parts",
    peft.join_parts,
    {"first": vectors(2, 8), "outputs": LAYER_OUTPUTS, "combine": COMBINE, "weights": vectors(2, 3),
     "normalise": st.booleans()},
    {"first": any_vectors, "outputs": st.one_of(LAYER_OUTPUTS, any_vectors), "combine": st.text(max_size=2),
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
    "LayerAttention",
    lambda first, outputs, **options: peft.LayerAttention(8, 2, **options)(first, outputs),
    {"first": vectors(2, 8), "outputs": LAYER_OUTPUTS, "heads": st.sampled_from((1, 2, 4)),
     "perceptrons": st.booleans()},
    {"first": any_vectors, "outputs": st.one_of(LAYER_OUTPUTS, any_vectors), "heads": small_int,
     "perceptrons": any_int},
    lambda r, a: r.shape == (2, 8),
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
