"""Bypassed and trained layers whose weight the host multiplies with itself, without calling the layer."""

import json
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from krona_ops import Full, Kron, Matrix
from krona_ops.updates.factor import LowRank


def quantised(weight, kind):
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    return QuantizedTensor.from_float(weight.to(torch.bfloat16), QUANT_ALGOS[kind]["comfy_tensor_layout"], scale="recalculate")


class FeedForward(nn.Module):
    """Its second layer is used as the host's newest models do; ``way`` says how."""

    def __init__(self, ops, way, width, hidden, bias=True):
        super().__init__()
        self.way = way
        self.net = nn.ModuleList([ops.Linear(width, hidden), nn.Identity(), ops.Linear(hidden, width, bias=bias)])

    def forward(self, x):
        import comfy.ops

        x, last = self.net[0](x), self.net[2]
        if self.way == "linear_input_act":
            return comfy.ops.linear_input_act(last, x, "gelu_tanh")
        x = F.gelu(x, approximate="tanh")
        if self.way == "cast":  # as Kandinsky 6 computes its modulation, whatever the weight is stored in
            weight, bias, stream = comfy.ops.cast_bias_weight(
                last, x, dtype=torch.float32, bias_dtype=torch.float32, offloadable=True
            )
            try:
                return F.linear(x.float(), weight, bias)
            finally:
                comfy.ops.uncast_bias_weight(last, weight, bias, stream)
        if self.way == "called":
            return last(x)
        weight = last.weight.dequantize() if hasattr(last.weight, "_layout_cls") else last.weight
        return F.linear(x, weight.to(x.dtype), last.bias)


class Denoiser(nn.Module):
    """Two blocks; the second is only used when it is asked for, as an expert or a branch for sound is."""

    def __init__(self, ops, way):
        super().__init__()
        self.blocks = nn.ModuleList([FeedForward(ops, way, 64, 96), FeedForward(ops, way, 64, 96)])
        self.asked = (0,)

    def forward(self, x):
        for number in self.asked:
            x = self.blocks[number](x)
        return x


class Net(nn.Module):
    def __init__(self, ops, way):
        super().__init__()
        self.diffusion_model = Denoiser(ops, way)
        self.device, self.current_weight_patches_uuid = torch.device("cpu"), None

    def get_dtype(self):
        return torch.float32


@pytest.fixture
def build(comfy):
    """A patcher of the host around a small net of the host's own layers, with weights of one kind."""
    import comfy.model_patcher
    import comfy.ops

    def make(way, kind="int8_tensorwise"):
        ops = comfy.ops.mixed_precision_ops({}, torch.float32) if kind else comfy.ops.manual_cast
        with torch.inference_mode():
            net, rng = Net(ops, way), torch.Generator().manual_seed(0)
            state = {}
            for name, module in net.named_modules():
                if not hasattr(module, "in_features"):
                    continue
                weight = torch.randn(module.out_features, module.in_features, generator=rng) / module.in_features**0.5
                state[f"{name}.bias"] = torch.randn(module.out_features, generator=rng)
                if kind:
                    state |= quantised(weight, kind).state_dict(f"{name}.weight")
                    quantisation = json.dumps({"format": kind}).encode()
                    state[f"{name}.comfy_quant"] = torch.tensor(list(quantisation), dtype=torch.uint8)
                else:
                    state[f"{name}.weight"] = weight
            net.load_state_dict(state)
        device = torch.device("cpu")
        return comfy.model_patcher.ModelPatcher(net, device, device)

    return make


def entry(name, delta, strength=1.0, **rest):
    from krona_host.names.sites import Site
    from krona_host.patching.bypass import Entry

    return Entry(Site(f"{name}.weight"), delta, strength, **rest)


def bypassed(patcher, entries):
    from krona_host.patching.bypass import add_entries

    patcher = patcher.clone()
    add_entries(patcher, entries)
    return patcher


def outputs(load, patcher, asked=(0,)):
    net = load(patcher)
    net.diffusion_model.asked = asked
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        patcher.pre_run()
        try:
            return net.diffusion_model(x)
        finally:
            patcher.cleanup()


def kron(seed, shape, size=1.0, layout="kron"):
    rng = torch.Generator().manual_seed(seed)
    out, width = shape
    b = torch.randn(out // 8, width // 8, generator=rng) * size / width**0.5
    return Kron(Full(torch.randn(8, 8, generator=rng)), Full(b), layout=layout)


LAST = "diffusion_model.blocks.0.net.2"
KINDS = ["int8_tensorwise", "float8_e4m3fn", "mxfp8", None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["linear_input_act", "cast", "called"])
def test_a_bypassed_update_acts_once_however_the_host_uses_the_layer(build, load, way, kind):
    """The oracle: the same net with its weights written out, W + ΔW, and its last layer called."""
    patcher, delta = build(way, kind), kron(1, (64, 96))
    net = load(patcher)
    last = net.get_submodule(LAST)
    state = {name: set(module.__dict__) for name, module in net.named_modules()}
    functions = list(last.weight_function)
    base = outputs(load, patcher)
    changed = outputs(load, bypassed(patcher, [entry(LAST, delta, 0.7)]))

    first = net.get_submodule("diffusion_model.blocks.0.net.0")
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        hidden = F.gelu(first(x), approximate="tanh")
    shift = 0.7 * hidden @ delta.dense().T
    # With int8 the base's own way rounds its input as well, and ΔW's product does not.
    assert (changed - base - shift).norm() <= (0.03 if kind == "int8_tensorwise" else 1e-4) * base.norm() + 1e-5
    assert shift.norm() > 0.2 * base.norm()

    assert torch.equal(outputs(load, patcher), base)
    assert list(last.weight_function) == functions
    assert {name: set(module.__dict__) for name, module in net.named_modules()} == state


def test_two_updates_of_a_layer_that_is_read_add_up_with_what_is_patched_on_its_weight(build, load):
    patcher = build("cast", None)
    deltas = [kron(seed, (64, 96), layout=layout) for seed, layout in ((1, "kron"), (2, "shuffled"))]
    rng = torch.Generator().manual_seed(4)
    low = Matrix(LowRank(torch.randn(64, 3, generator=rng), torch.randn(3, 96, generator=rng) / 10), 0.5)
    both = bypassed(bypassed(patcher, [entry(LAST, deltas[0], 0.7)]), [entry(LAST, deltas[1], -0.4), entry(LAST, low)])
    both.add_patches({f"{LAST}.weight": ("diff", (deltas[0].dense(),))}, 0.2)
    oracle = patcher.clone()
    dense = 0.9 * deltas[0].dense() - 0.4 * deltas[1].dense() + low.dense()
    oracle.add_patches({f"{LAST}.weight": ("diff", (dense,))})
    assert torch.allclose(outputs(load, both), outputs(load, oracle), atol=1e-4)


def test_a_layer_that_is_read_in_another_way_is_named_once_where_the_user_looks(build, load, caplog):
    messages = []
    patcher = bypassed(build("raw"), [entry(LAST, kron(1, (64, 96)), tell=messages.append)])
    with caplog.at_level(logging.WARNING):
        outputs(load, patcher)
        outputs(load, patcher)
    expected = (
        f"1 bypassed layer was never called while the model ran, so the adapter does nothing there: {LAST}. "
        "This model, or another pack, reads their weights in a way of its own; apply the adapter in 'merge' mode."
    )
    assert messages == [expected]
    assert [record.getMessage() for record in caplog.records] == [f"KronA: {expected}"]


@pytest.mark.parametrize("way", ["linear_input_act", "cast", "called"])
def test_parts_of_the_model_that_stand_still_are_no_reason_to_warn(build, load, caplog, way):
    """The second block is another expert, a branch for sound, a block that somebody skips."""
    names = [f"diffusion_model.blocks.{n}.net.{m}" for n in (0, 1) for m in (0, 2)]
    shapes = [(96, 64), (64, 96)] * 2
    patcher = bypassed(build(way), [entry(n, kron(1, s)) for n, s in zip(names, shapes, strict=True)])
    with caplog.at_level(logging.WARNING):
        outputs(load, patcher)
        outputs(load, patcher, asked=())
        outputs(load, patcher, asked=(1, 0))
    assert not caplog.records


def test_a_second_sampling_is_counted_anew(build, load):
    messages = []
    patcher = bypassed(build("called"), [entry(LAST, kron(1, (64, 96)), tell=messages.append)])
    outputs(load, patcher)
    assert not messages
    load(patcher).diffusion_model.blocks[0].way = "raw"
    outputs(load, patcher)
    assert len(messages) == 1


def test_minimax_of_the_host_quantised_to_int8_moves_with_an_adapter_on_its_feed_forward(comfy, load):
    """The host's own model that multiplies with the weight itself, from ComfyUI 0.30 on; `auto` and `bypass` give what W + ΔW gives."""
    import comfy.model_patcher
    from comfy.ldm.minimax.model import MLP

    from krona_host.patching.apply import is_quantised

    with torch.inference_mode():
        net = nn.Module()
        net.mlp = MLP(64, 96, operations=comfy.ops.mixed_precision_ops({}, torch.float32))
        net.device, net.current_weight_patches_uuid = torch.device("cpu"), None
        rng, state = torch.Generator().manual_seed(0), {}
        for name, shape in (("fc1", (192, 64)), ("fc2", (64, 96))):
            state |= quantised(torch.randn(shape, generator=rng) / shape[1] ** 0.5, "int8_tensorwise").state_dict(
                f"mlp.{name}.weight"
            )
            state[f"mlp.{name}.comfy_quant"] = torch.tensor(list(b'{"format": "int8_tensorwise"}'), dtype=torch.uint8)
        net.load_state_dict(state)
    assert is_quantised(net.mlp.fc2.weight)
    net.get_dtype = lambda: torch.float32
    patcher, delta = comfy.model_patcher.ModelPatcher(net, torch.device("cpu"), torch.device("cpu")), kron(1, (64, 96))
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        base = load(patcher).mlp(x)
        gate, up = net.mlp.fc1(x).chunk(2, dim=-1)
        changed = load(bypassed(patcher, [entry("mlp.fc2", delta)])).mlp(x)
        assert torch.equal(load(patcher).mlp(x), base)
    shift = (F.silu(gate) * up) @ delta.dense().T
    assert (changed - base - shift).norm() <= 0.05 * base.norm()
    assert shift.norm() > 0.2 * base.norm()


@pytest.mark.parametrize("config", ["kron", "shuffled", "lora"])
def test_factors_of_a_layer_that_is_read_have_the_gradients_of_the_sum(build, config):
    """Kandinsky 6 reads the weight of its modulation while it is trained too; autograd through W + ΔW is the oracle."""
    from krona_ops import TargetRule, select
    from krona_train import AdapterConfig
    from krona_train.adapters.attach import MAIN, Gates, patch_of
    from krona_train.adapters.layers import build_layer

    kinds = {"lora": AdapterConfig(kind="lora", rank=3)}
    [target] = select({"net.2": (64, 96)}, (TargetRule(factors=(8, 8), projections=(), pattern=r"net\.2$"),))
    layer = build_layer(target, kinds.get(config, AdapterConfig(layout=config)), torch.Generator().manual_seed(0))
    [zero] = layer.by_role()["zero"]
    torch.nn.init.normal_(zero, std=0.1, generator=torch.Generator().manual_seed(1))
    block = build("cast", None).model.diffusion_model.blocks[0]
    module, gates = block.net[2], Gates()
    patch = patch_of({"net.2": ((MAIN, layer),)}, module, gates, lambda module: type(module) is nn.Linear)
    with torch.inference_mode():
        x = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
        base, hidden = block(x), F.gelu(block.net[0](x), approximate="tanh")
    base, hidden, x = base.clone(), hidden.clone(), x.clone()
    patch.attach()
    try:
        module.weight, module.bias = (nn.Parameter(p.clone(), requires_grad=False) for p in (module.weight, module.bias))
        block.net[0].weight, block.net[0].bias = (
            nn.Parameter(p.clone(), requires_grad=False) for p in (block.net[0].weight, block.net[0].bias)
        )
        y = block(x)
        gradients = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
        with gates.only({}):
            assert torch.allclose(block(x), base, atol=1e-5)
    finally:
        patch.detach()
    assert torch.allclose(block(x), base, atol=1e-5)
    expected = base + layer(hidden, torch.zeros_like(base))
    wanted = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    assert torch.allclose(y, expected, atol=1e-4)
    assert all(torch.allclose(g, w, rtol=1e-3, atol=1e-3) for g, w in zip(gradients, wanted, strict=True))
    assert all(g.abs().max() > 0 for g in gradients)


def test_a_preview_sees_what_is_trained_on_a_layer_that_is_read_also_after_the_host_has_loaded_the_model_again(
    comfy, sd15, load
):
    """The host empties the lists of functions when it loads; what is trained is put back."""
    import gradients

    from krona_train.comfyui.model import ComfyBackbone

    backbone = ComfyBackbone(sd15)
    layers = dict(list(gradients.random_layers(backbone).items())[:1])
    [name] = layers
    with backbone.ready(), gradients.attached(backbone, layers):
        module = backbone.module(name)
        x = torch.randn(3, module.in_features, generator=torch.Generator().manual_seed(0))
        with backbone.paused(), torch.inference_mode():
            comfy.model_management.unload_all_models()
            comfy.model_patcher.wipe_lowvram_weight(module)
            load(backbone.patcher)
            weight, bias = comfy.ops.cast_bias_weight(module, x)
            read, called = F.linear(x, weight, bias), module(x)
            plain = F.linear(x, module.weight.to(x.dtype), bias)
        assert torch.allclose(read, called, atol=1e-4)
        assert not torch.allclose(read, plain, atol=1e-3)
    assert not module.weight_function


def test_a_training_names_the_layers_that_the_model_passes_by(caplog):
    import gradients

    from krona_ops.live.reach import Reach
    from krona_train.adapters.attach import attached
    from krona_train.backbone.toy import ToyBackbone

    backbone, reach = ToyBackbone(), Reach()
    layers = gradients.random_layers(backbone)
    net, x = backbone.net.attn1, torch.randn(1, 3, 48)
    run = reach.counted(lambda: net(x, x), "training does")
    with attached(backbone, layers, reach=reach), caplog.at_level(logging.WARNING):
        net.to_q = _Reading(net.to_q)
        run()
        run()
    assert caplog.messages == [
        "KronA: training does without 1 adapted layer(s), whose weights this model reads in a way of its own: attn1.to_q"
    ]


class _Reading(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return F.linear(x, self.layer.weight)
