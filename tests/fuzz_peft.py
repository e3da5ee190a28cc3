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

NOT_DRAWN.update(["Place", "Rows", "StepCost", "Update"])
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
fuzz(
    "trainable_parameters",
    lambda config, where: peft.trainable_parameters(tuned(config, where)),
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
fuzz(
    "merge_",
    lambda config, where: peft.merge_(tuned(config, where)),
    {"config": CONFIGS, "where": PLACES},
    {"where": ANY_PLACES},
    named,
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
