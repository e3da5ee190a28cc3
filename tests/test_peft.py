"""Small updates in networks: identity at the start, exact merging and ejecting, files, refusals, formulas."""
from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from xfer_course.clip import CLIPConfig, ModifiedResNet, Transformer, VisionTransformer, tiny_clip
from xfer_course.data import DataFileError
from xfer_course.peft import (
    IA3,
    Adapter,
    BitFit,
    LoRA,
    Prefix,
    eject,
    inject,
    injected,
    load_trained,
    merge_,
    prefix_attention,
    save_trained,
    trainable_parameters,
)


def tower() -> Transformer:
    torch.manual_seed(0)
    return Transformer(width=16, layers=2, heads=2)


def vit() -> nn.Module:
    from torchvision.models import VisionTransformer as TorchvisionViT

    torch.manual_seed(0)
    model = TorchvisionViT(image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
                           dropout=0.0)
    nn.init.normal_(model.heads.head.weight)
    return model.eval()


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(4, 5, 1, bias=False))


def inputs(model: nn.Module) -> torch.Tensor:
    shape = {Transformer: (3, 5, 16), nn.Sequential: (4, 6)}.get(type(model), (2, 3, 8, 8))
    shape = (2, 3, 8, 8) if isinstance(model, nn.Sequential) and isinstance(model[0], nn.Conv2d) else shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def stir(model: nn.Module, std: float = 0.3) -> None:
    "Move everything that is trained to random values, as training would."
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator))


LINEAR = [
    (tower, LoRA(2, 4), "*.attn.[qv]"), (tower, LoRA(2, 4), "*.qkv"), (tower, LoRA(3, 4, rslora=True), "*.mlp.*"),
    (tower, LoRA(2, dora=True), ["*.attn.k", "*.out_proj"]), (tower, IA3(), "*.attn.[kv]"),
    (tower, IA3(feedforward=True), "*.c_proj"), (chain, LoRA(2), "0"), (chain, LoRA(2, dora=True), "*"),
    (chain, IA3(), "*"), (convolutions, LoRA(2), "*"), (convolutions, LoRA(2, dora=True), "*"),
    (convolutions, IA3(), "*"), (convolutions, IA3(feedforward=True), "*"),
    (vit, LoRA(2), ["*.self_attention.[qv]", "*.mlp.[03]"]), (vit, LoRA(2, dora=True), "*.self_attention.*"),
    (vit, LoRA(2), "*.self_attention.qkv"), (vit, LoRA(2), "conv_proj"),
]
BENT = [
    (tower, Adapter(3), "*.mlp"), (tower, Adapter(3, "parallel", 4.0), "*.mlp"), (tower, Adapter(3), "*.attn"),
    (tower, Adapter(3, "parallel", "learned", "in"), "*.attn"), (vit, Adapter(3, "parallel"), "*.mlp"),
    (chain, Adapter(2, "parallel", layer_norm="out"), "*"), (convolutions, Adapter(2, "parallel"), "*"),
    (convolutions, Adapter(2), "0"),
]
PREFIXES = [(tower, Prefix(3), "*.attn"), (tower, Prefix(3, "none"), "*.attn")]


def named(values) -> dict:
    return {"argvalues": values, "ids": [f"{m.__name__}-{c}-{w}" for m, c, w in values]}


@pytest.mark.parametrize("make, config, where", **named(LINEAR + BENT))
def test_nothing_changes_at_the_start(make, config, where):
    model = make()
    before, names = model(inputs(model)), dict(model.named_parameters())
    touched = inject(model, config, where)
    assert touched and [place.name for place, _ in injected(model)] == touched
    torch.testing.assert_close(model(inputs(model)), before, atol=1e-5, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in names.values())
    assert set(trainable_parameters(model)).isdisjoint(names) and all(
        "peft" in name for name in trainable_parameters(model))


@pytest.mark.parametrize("make, config, where", **named(LINEAR))
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_merged_is_the_same_function_in_the_old_form(make, config, where, mode):
    model = make().double().train(mode)
    x, names = inputs(model).double(), set(model.state_dict())
    old = copy.deepcopy(model.state_dict())
    inject(model, config, where)
    stir(model)
    wanted = model(x)
    for name, value in old.items():
        assert torch.equal(model.state_dict()[name], value), f"{name} was changed before merging"
    touched = merge_(model)
    assert touched and injected(model) == [] and set(model.state_dict()) == names
    torch.testing.assert_close(model(x), wanted, atol=1e-6, rtol=1e-6)
    assert any(not torch.equal(model.state_dict()[name], value) for name, value in old.items())


@pytest.mark.parametrize("make, config, where", **named(LINEAR + BENT + PREFIXES))
def test_ejecting_leaves_the_network_as_it_was(make, config, where):
    model, kinds = make().requires_grad_(False), [type(part) for part in make().modules()]
    before, old = model(inputs(model)), copy.deepcopy(model.state_dict())
    touched = inject(model, config, where)
    stir(model)
    twin = copy.deepcopy(model)
    assert not torch.allclose(model(inputs(model)), before)
    assert eject(twin) == touched and eject(model) == touched
    for each in (model, twin):
        assert torch.equal(each(inputs(each)), before) and [type(part) for part in each.modules()] == kinds
        assert list(each.state_dict()) == list(old) and all(
            torch.equal(value, old[name]) for name, value in each.state_dict().items())
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in each.modules())


@pytest.mark.parametrize("make, config, where", **named(LINEAR + BENT + PREFIXES))
def test_every_part_of_an_update_learns_and_nothing_else(make, config, where):
    model = make().train()
    inject(model, config, where)
    stir(model)
    old = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(trainable_parameters(model).values(), lr=0.1)
    model(inputs(model)).square().sum().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, old[name]) is ("peft" not in name.split(".")), name


@pytest.mark.parametrize("make, config, where", **named(LINEAR + BENT + PREFIXES))
def test_saved_and_loaded_is_the_same(make, config, where, tmp_path):
    model, fresh = make(), make()
    touched = inject(model, config, where)
    stir(model)
    save_trained(model, tmp_path)
    assert load_trained(fresh, tmp_path) == touched
    assert torch.equal(fresh(inputs(fresh)), model(inputs(model)))
    assert {each.config for _, each in injected(fresh)} == {config}
    stir(fresh)
    load_trained(fresh, tmp_path)  # into updates that are there
    assert torch.equal(fresh(inputs(fresh)), model(inputs(model)))


def test_train_and_eval_change_no_weight():
    "The original LoRA layer merges in eval(); this one does not."
    model = chain()
    inject(model, LoRA(2), "*")
    stir(model)
    old = copy.deepcopy(model.state_dict())
    outputs = [model.train(mode)(inputs(model)) for mode in (True, False, True, False)]
    assert all(torch.equal(each, outputs[0]) for each in outputs)
    assert all(torch.equal(value, old[name]) for name, value in model.state_dict().items())


def test_dropout_acts_on_the_update_only_and_only_in_training():
    model = chain()
    inject(model, LoRA(2, dropout=0.5), "*")
    before = chain()(inputs(model))
    assert torch.allclose(model.train()(inputs(model)), before, atol=1e-6)
    stir(model)
    assert not torch.equal(model(inputs(model)), model(inputs(model)))
    assert torch.equal(model.eval()(inputs(model)), model(inputs(model)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_updates_follow_the_layers_dtype(dtype):
    model = tower().to(dtype)
    for config, where in ((LoRA(2, dora=True), "*.attn.[qv]"), (Adapter(2), "*.mlp"), (Prefix(2), "*.attn"),
                          (IA3(), "*.c_fc")):
        inject(model, config, where)
    assert {parameter.dtype for parameter in trainable_parameters(model).values()} == {dtype}
    assert model(inputs(model).to(dtype)).dtype == dtype


def test_updates_follow_the_layers_device():
    model = tower().to("meta")
    inject(model, LoRA(2), "*.attn.q")
    inject(model, Adapter(2), "*.mlp")
    assert {parameter.device.type for parameter in trainable_parameters(model).values()} == {"meta"}


def test_several_kinds_stand_side_by_side(tmp_path):
    "Prefix at the attention, a scaled parallel adapter at the perceptrons: the paper's MAM adapter."
    def mam():
        model = tower()
        return model, inject(model, Prefix(3), "*.attn") + inject(model, Adapter(8, "parallel", 4.0), "*.mlp")

    (model, touched), fresh = mam(), tower()
    assert len(touched) == 4 and sum(p.numel() for p in trainable_parameters(model).values()) == 2 * (
        2 * 3 * 16 + 2 * 8 * 16 + 8 + 16)
    stir(model)
    save_trained(model, tmp_path)
    assert set(load_trained(fresh, tmp_path)) == set(touched)
    assert torch.equal(fresh(inputs(fresh)), model(inputs(model)))
    assert eject(model, ["resblocks.0.mlp"]) == ["resblocks.0.mlp"] and len(injected(model)) == 3


# Formulas

@pytest.mark.parametrize("rslora, power", [(False, 1.0), (True, 0.5)])
def test_lora_by_its_formula(rslora, power):
    layer, x = nn.Linear(6, 5), torch.randn(3, 6)
    weight, bias = layer.weight.clone(), layer.bias.clone()
    inject(layer, LoRA(4, 6, rslora=rslora))
    stir(layer)
    a, b = (trainable_parameters(layer)[f"peft.out.lora_{part}.weight"] for part in "AB")
    torch.testing.assert_close(layer(x), x @ (weight + 6 / 4**power * b @ a).T + bias)


def test_dora_by_its_formula_and_its_gradient_leaves_the_norm_out():
    layer, x = nn.Linear(6, 5).double(), torch.randn(3, 6).double()
    weight, bias = layer.weight.clone(), layer.bias.clone()
    inject(layer, LoRA(2, 6, dora=True))
    stir(layer)
    found = trainable_parameters(layer)
    a, b, m = (found[f"peft.out.{name}"].detach().clone().requires_grad_()
               for name in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector"))
    moved = weight + 3 * b @ a
    wanted = x @ (m[:, None] * moved / moved.norm(dim=1, keepdim=True).detach()).T + bias
    torch.testing.assert_close(layer(x), wanted)
    layer(x).square().sum().backward()
    wanted.square().sum().backward()
    for name, each in (("lora_A.weight", a), ("lora_B.weight", b), ("lora_magnitude_vector", m)):
        torch.testing.assert_close(found[f"peft.out.{name}"].grad, each.grad)


def test_a_lora_step_is_that_of_a_plain_loop():
    "One step of SGD against the chain rule by hand."
    layer, x, g = nn.Linear(6, 5), torch.randn(3, 6), torch.randn(3, 5)
    inject(layer, LoRA(2, 4))
    stir(layer)
    a, b = (trainable_parameters(layer)[f"peft.out.lora_{part}.weight"] for part in "AB")
    old_a, old_b = a.detach().clone(), b.detach().clone()
    optimizer = torch.optim.SGD([a, b], lr=0.1)
    (layer(x) * g).sum().backward()
    optimizer.step()
    torch.testing.assert_close(b.detach(), old_b - 0.1 * 2 * g.T @ (x @ old_a.T))
    torch.testing.assert_close(a.detach(), old_a - 0.1 * 2 * (g @ old_b).T @ x)


def test_prefix_is_an_adapter_with_a_gate():
    q, k, v = torch.randn(3, 2, 4, 5, 8)
    rows_k, rows_v = torch.randn(2, 4, 3, 8)
    mask = torch.rand(2, 1, 5, 5) > 0.3
    mask[..., 0] = True
    out, share = prefix_attention(q, k, v, rows_k, rows_v, mask)
    keys, values = (torch.cat([rows.expand(2, -1, -1, -1), old], 2) for rows, old in ((rows_k, k), (rows_v, v)))
    joint = F.scaled_dot_product_attention(q, keys, values, attn_mask=F.pad(mask, (3, 0), value=True))
    torch.testing.assert_close(out, joint)
    old = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(out, (1 - share) * old + share * ((q @ rows_k.mT / 8**0.5).softmax(-1) @ rows_v))


def test_a_causal_tower_sees_the_prefix_and_no_later_token():
    model, x = tower(), inputs(tower())
    inject(model, Prefix(3), "*.attn")
    stir(model)
    later = x.clone()
    later[:, 3:] += 1
    assert torch.allclose(model(x, causal=True)[:, :3], model(later, causal=True)[:, :3], atol=1e-6)
    assert not torch.allclose(model(x, causal=True)[:, :3], tower()(x, causal=True)[:, :3], atol=1e-3)


# Networks

def test_the_attention_pool_of_the_tiny_clip_takes_a_prefix_and_its_layers_take_lora():
    trunk, x = tiny_clip().visual.eval(), torch.randn(2, 3, 64, 64)
    before = trunk(x)
    assert inject(trunk, Prefix(4), "attnpool") == ["attnpool"]
    assert inject(trunk, LoRA(2), ["attnpool.[qv]_proj", "layer4.*.conv?"]) == [
        "layer4.0.conv1", "layer4.0.conv2", "layer4.0.conv3", "attnpool.q_proj", "attnpool.v_proj"]
    stir(trunk)
    assert not torch.allclose(trunk(x), before, atol=1e-3)
    eject(trunk)
    assert torch.equal(trunk(x), before)


def test_clips_vision_transformer():
    model = VisionTransformer(CLIPConfig(embed_dim=8, image_resolution=8, vision_layers=2, vision_width=16,
                                         vision_patch_size=4, vision_heads=2))
    x = torch.randn(2, 3, 8, 8)
    before = model(x)
    assert len(inject(model, LoRA(2), "*.attn.[qv]")) == 4
    assert torch.allclose(model(x), before, atol=1e-6)


def test_pytorchs_encoder_layer_uses_updates_on_its_fast_path_too():
    "In evaluation it hands weights to one function, unless hooks or other classes forbid it."
    torch.manual_seed(0)
    model, x = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).eval(), torch.randn(2, 5, 16)
    inject(model, LoRA(2), ["self_attn.[qv]", "self_attn.out_proj", "linear?"])
    stir(model)
    slow = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), slow.detach(), atol=1e-5, rtol=1e-5)


def test_bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=32)
    model, tokens = transformers.BertModel(config).eval(), torch.arange(6)[None]
    before = model(tokens).last_hidden_state
    assert len(inject(model, LoRA(2), ["*.query", "*.value"])) == 4
    assert torch.allclose(model(tokens).last_hidden_state, before, atol=1e-6)
    stir(model)
    changed = model(tokens).last_hidden_state
    merge_(model)
    assert torch.allclose(model(tokens).last_hidden_state, changed, atol=1e-5)


def test_bitfit_is_a_choice_of_biases(tmp_path):
    model, fresh = chain(), chain()
    assert inject(model, BitFit()) == ["0.bias", "2.bias"] == list(trainable_parameters(model))
    stir(model)
    save_trained(model, tmp_path)
    assert load_trained(fresh, tmp_path) == [] and torch.equal(fresh(inputs(fresh)), model(inputs(model)))
    assert inject(model, BitFit(), "2") == ["2.bias"]


def test_statistics_of_batch_norm_go_with_the_file_when_asked(tmp_path):
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))

    model, fresh, x = network(), network().eval(), torch.randn(8, 6)
    inject(model, LoRA(2), "0")
    model.train()(x)
    save_trained(model, tmp_path, buffers=True)
    load_trained(fresh, tmp_path)
    assert torch.equal(fresh(x), model.eval()(x))


@pytest.mark.parametrize("config", [LoRA(2), LoRA(2, dora=True), IA3(), Adapter(4), Adapter(4, "parallel", "learned"),
                                    BitFit()], ids=str)
def test_better_than_chance_within_sixty_steps(config):
    "A frozen random network learns which of four clouds a point is from, by its updates and a head."
    torch.manual_seed(0)
    labels = torch.arange(200) % 4
    x = torch.eye(6)[:4][labels] + 0.3 * torch.randn(200, 6)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    inject(model, config, ["0", "2"])
    optimizer = torch.optim.Adam(trainable_parameters(model).values(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    assert (model(x).argmax(1) == labels).float().mean() > 0.5


# Files in Hugging Face's form

def test_names_in_the_file_are_those_of_peft(tmp_path):
    model = chain()
    inject(model, LoRA(2, 4, dora=True), ["0", "2"])
    save_trained(model, tmp_path)
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == {
        f"base_model.model.{layer}.{part}" for layer in "02"
        for part in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")}
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    assert {name: said[name] for name in ("peft_type", "r", "lora_alpha", "use_dora", "target_modules")} == {
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": True, "target_modules": ["0", "2"]}
    model = chain()
    inject(model, IA3(), "0")
    inject(model, IA3(feedforward=True), "2")
    save_trained(model, tmp_path)
    assert {name: tuple(each.shape) for name, each in load_file(tmp_path / "adapter_model.safetensors").items()} == {
        "base_model.model.0.ia3_l": (8, 1), "base_model.model.2.ia3_l": (1, 8)}
    assert json.loads((tmp_path / "adapter_config.json").read_text())["feedforward_modules"] == ["2"]


def theirs(folder, **changes) -> dict:
    "A folder as PEFT writes it: LoRA at one layer, a head and a bias beside it."
    tensors = {"0.lora_A.weight": torch.ones(2, 6), "0.lora_B.weight": torch.ones(8, 2),
               "0.base_layer.bias": torch.full((8,), 2.0), "2.weight": torch.zeros(3, 8), "2.bias": torch.ones(3)}
    save_file({f"base_model.model.{name}": each for name, each in tensors.items()},
              folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 8, "rank_pattern": {"0": 2}, "lora_alpha": 8, "alpha_pattern": {"0": 3},
            "target_modules": ["0"], "bias": "all", "modules_to_save": ["2"], "use_rslora": True} | changes
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return tensors


def test_a_folder_of_peft_is_read(tmp_path):
    tensors, model = theirs(tmp_path), chain()
    assert load_trained(model, tmp_path) == ["0"]
    assert injected(model)[0][1].config == LoRA(2, 3, rslora=True)
    assert torch.equal(model[0].bias, tensors["0.base_layer.bias"]) and torch.equal(model[2].bias, torch.ones(3))
    x = inputs(model)
    hidden = x @ (chain()[0].weight + 3 / math.sqrt(2) * torch.full((8, 6), 2.0)).T + 2
    torch.testing.assert_close(model[:1](x), hidden)


@pytest.mark.parametrize("changes, words", [
    ({"fan_in_fan_out": True}, "fan_in_fan_out must be one of False"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights must be one of"),
    ({"peft_type": "VERA"}, "peft_type must be one of"),
])
def test_what_a_folder_says_and_is_not_known_is_refused(tmp_path, changes, words):
    theirs(tmp_path, **changes)
    model = chain()
    with pytest.raises(ValueError, match=words):
        load_trained(model, tmp_path)
    assert injected(model) == [] and len(trainable_parameters(model)) == 4


def test_a_folder_that_does_not_fit_leaves_the_network_as_it_was(tmp_path):
    theirs(tmp_path)
    narrow = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="of shape \\(2, 6\\), got \\(2, 5\\)"):
        load_trained(narrow, tmp_path)
    with pytest.raises(ValueError, match="got no '2.bias'"):
        load_trained(short := nn.Sequential(nn.Linear(6, 8)), tmp_path)
    with pytest.raises(ValueError, match="a place that LoRA can change"):
        load_trained(nn.ModuleDict({"a": nn.Linear(6, 8)}), tmp_path)
    for model in (narrow, short):
        assert injected(model) == [] and all(p.requires_grad for p in model.parameters())
    (tmp_path / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataFileError, match="readable"):
        load_trained(chain(), tmp_path)
    with pytest.raises(FileNotFoundError):
        load_trained(chain(), tmp_path / "elsewhere")


def test_files_travel_to_peft_and_back(tmp_path):
    peft = pytest.importorskip("peft")
    model, x = chain(), torch.randn(4, 6)
    inject(model, LoRA(2, 4), ["0", "2"])
    stir(model)
    save_trained(model, tmp_path / "ours")
    there = peft.PeftModel.from_pretrained(chain(), str(tmp_path / "ours"))
    torch.testing.assert_close(there(x), model(x))
    there.save_pretrained(str(tmp_path / "theirs"))
    back = chain()
    load_trained(back, tmp_path / "theirs")
    torch.testing.assert_close(back(x), model(x))


# Refusals

def test_where_must_name_something():
    with pytest.raises(ValueError, match="where must name a place that LoRA can change, such as .*q_proj.*got '.*not'"):
        inject(ModifiedResNet(tiny_clip().config).attnpool, LoRA(), "*.not")
    with pytest.raises(ValueError, match="'resblocks.0.ln_1' is of LayerNorm"):
        inject(tower(), LoRA(), "*.ln_?")
    with pytest.raises(ValueError, match="of the MultiheadAttention above it, which never calls it"):
        inject(vit(), Adapter(), "*.out_proj")
    with pytest.raises(ValueError, match="at least one of 'resblocks.0.attn.q'.*got none"):
        inject(tower(), LoRA(), lambda name, module: False)
    with pytest.raises(ValueError, match="a module that has a bias"):
        inject(tower(), BitFit(), "*.nothing")
    with pytest.raises(TypeError, match="list of texts"):
        inject(tower(), LoRA(), 3)
    with pytest.raises(ValueError, match="'\\*.nothing'"):
        inject(model := tower(), LoRA(), ["*.attn.q", "*.nothing"])
    assert injected(model) == [] and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("first, second", [("*.attn.q", "*.attn.[qv]"), ("*.attn.qkv", "*.attn.q"),
                                           ("*.attn.v", "*.attn.qkv"), ("*.c_fc", "*.mlp.*")])
def test_a_place_has_one_update(first, second):
    model = tower()
    inject(model, LoRA(2), first)
    count = len(injected(model))
    with pytest.raises(ValueError, match="without an update, got .* which has one"):
        inject(model, LoRA(2), second)
    assert len(injected(model)) == count


def test_grouped_convolutions_and_bent_ones_are_refused():
    with pytest.raises(ValueError, match="is of Conv2d"):
        inject(nn.ModuleList([nn.Conv2d(4, 4, 3, groups=2)]), LoRA(), "0")
    with pytest.raises(ValueError, match="is of Conv2d"):
        inject(nn.ModuleList([nn.Conv2d(4, 4, 3)]), Adapter(form="parallel"), "0")


@pytest.mark.parametrize("config, words", [
    (lambda: LoRA(0), "r must be a whole number"), (lambda: LoRA(alpha=0), "alpha must be"),
    (lambda: LoRA(dropout=1.0), "dropout must be"), (lambda: Adapter(form="beside"), "form must be one of"),
    (lambda: Adapter(scale="large"), "scale must be"), (lambda: Adapter(layer_norm="both"), "layer_norm must be"),
    (lambda: Prefix(0), "length must be"), (lambda: Prefix(gate="half"), "gate must be one of"),
    (lambda: IA3("yes"), "feedforward must be one of"),
])
def test_configurations_are_checked(config, words):
    with pytest.raises((TypeError, ValueError), match=words):
        config()


def test_other_refusals(tmp_path):
    with pytest.raises(TypeError, match="model must be"):
        inject("model", LoRA())
    with pytest.raises(TypeError, match="config must be a LoRA"):
        inject(tower(), "lora")
    model = tower()
    inject(model, Prefix(2), "*.attn")
    with pytest.raises(ValueError, match="only updates that are linear can be merged, got Prefix"):
        merge_(model)
    assert len(injected(model)) == 2
    with pytest.raises(ValueError, match="names must be one of"):
        eject(model, ["elsewhere"])
    with pytest.raises(ValueError, match="parameters that are trained, got none"):
        save_trained(nn.Flatten(), tmp_path)
