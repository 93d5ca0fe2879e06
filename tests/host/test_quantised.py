"""Adapters on quantised bases: merged as well as the format lets, bypassed exactly, taken off without a trace."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from krona_ops import TargetRule
from krona_train import AdapterConfig, TrainConfig
from krona_train.batches.examples import Seen
from krona_train.batches.samples import Sample
from krona_train.objectives.guidance_config import GuidanceConfig
from krona_train.objectives.kinds import objective_of
from krona_train.objectives.pairs_config import PairsConfig
from krona_train.objectives.protocol import Piece
from krona_train.objectives.score_matching_config import ScoreMatchingConfig
from krona_train.settings.groups import MAIN

FORMATS = ["float8_e4m3fn", "mxfp8", "int8_tensorwise", "nvfp4"]


@pytest.fixture(params=FORMATS)
def quantised(request, comfy, sd15_file, tmp_path):
    """The tiny model with every attention and MLP weight quantised by the host's own classes; and the format."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    state = {}
    for key, value in load_file(sd15_file).items():
        inside = "transformer_blocks" in key and key.endswith(".weight") and value.ndim == 2
        if not inside or (request.param == "nvfp4" and "attn2.to_k" in key):  # packed, its width would hide the model's kind
            state[key] = value
            continue
        layout = QUANT_ALGOS[request.param]["comfy_tensor_layout"]
        quantised = QuantizedTensor.from_float(value.to(torch.bfloat16), layout, scale="recalculate")
        state.update(quantised.state_dict(key))
        settings = json.dumps({"format": request.param}).encode()
        state[key.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(settings), dtype=torch.uint8)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "q.safetensors")
    with torch.inference_mode():
        file = str(tmp_path / "q.safetensors")
        return comfy.sd.load_checkpoint_guess_config(file, output_vae=False, output_clip=False)[0], request.param


def dequantised(net):
    plain = {}
    for name, module in net.named_modules():
        if hasattr(module, "weight") and "attn" in name and getattr(module, "in_features", None):
            weight = module.weight
            plain[name] = (weight.dequantize() if hasattr(weight, "dequantize") else weight).float().clone()
    return plain


def test_auto_bypasses_and_the_prediction_is_that_of_the_unquantised_sum(quantised, load, predict, random_adapter):
    """The oracle: the dequantised weights plus ΔW, in plain float32 layers."""
    from krona_host.patching.apply import apply_adapter
    from krona_host.patching.bypass import KEY

    model, kind = quantised
    adapter = random_adapter(model, size=0.002)
    base = predict(load(model))
    inputs = {name: torch.randn(3, delta.shape[1]) for name, delta in adapter.layers.items()}
    with torch.inference_mode():
        plain = {name: model.model.get_submodule(name)(x) for name, x in inputs.items()}
    applied = apply_adapter(adapter, model).model
    bypassed = {entry.site.module for entry in applied.injections[KEY][0].entries}
    assert len(bypassed) >= len(adapter) - 1
    changed = predict(load(applied))
    for name, delta in adapter.layers.items():
        x = inputs[name]
        with torch.inference_mode():
            shift = model.model.get_submodule(name)(x) - plain[name]
        if name in bypassed:
            assert (shift - x @ delta.dense().T).norm() <= 2e-2 * shift.norm(), kind  # the layer may compute in bf16
    assert not torch.equal(changed, base)
    assert torch.equal(predict(load(model)), base)


def test_merging_changes_the_weight_as_far_as_the_format_can_hold_it_and_comes_off_again(quantised, load, random_adapter):
    from krona_host.patching.apply import apply_adapter

    model, kind = quantised
    before = dequantised(load(model))
    adapter = random_adapter(model, size=1.0)
    after = dequantised(load(apply_adapter(adapter, model, mode="merge").model))
    for name, delta in adapter.layers.items():
        got, wanted = (after[name] - before[name]).flatten(), delta.dense().flatten()
        cosine = torch.nn.functional.cosine_similarity(got, wanted, 0)
        assert cosine > (0.8 if kind == "nvfp4" else 0.95), (kind, name, cosine)
    assert all(torch.equal(value, before[name]) for name, value in dequantised(load(model)).items())


def test_bypassed_adapters_stack_on_quantised_weights(quantised, load, predict, random_adapter):
    from krona_host.patching.apply import apply_adapter

    model, _ = quantised
    first, second = random_adapter(model, 0, size=0.02), random_adapter(model, 1, size=0.02)
    together = predict(load(apply_adapter(second, apply_adapter(first, model).model).model))
    other_way = predict(load(apply_adapter(first, apply_adapter(second, model).model).model))
    alone = predict(load(apply_adapter(first, model).model))
    assert torch.allclose(together, other_way, rtol=1e-3, atol=1e-3 * together.abs().max().item())
    assert not torch.allclose(together, alone, rtol=1e-3, atol=1e-3 * together.abs().max().item())


def test_weights_are_given_as_they_act_with_patches_and_whether_loaded_or_not(quantised, load, random_adapter):
    """For KronaExtract: the host's own list of weights raises on quantised models (no attribute 'weight_scale')."""
    from krona_host.model.weights_of import WeightsOf
    from krona_host.patching.apply import apply_adapter
    from krona_ops.nearest.forms import DenseForm
    from krona_ops.operations.extract import extract

    model, _ = quantised
    with torch.inference_mode():
        plain = dequantised(model.model)
        weights = WeightsOf(model)
        assert all(torch.equal(weights(f"{name}.weight"), value) for name, value in plain.items())
        adapter = random_adapter(model, size=0.01)
        tuned = apply_adapter(adapter, model, strength_model=0.5, mode="merge").model
        for prepare in (lambda: None, lambda: load(tuned), lambda: load(model)):
            prepare()
            extracted, _ = extract(WeightsOf(tuned), WeightsOf(model), DenseForm(), names=WeightsOf(model).names)
            assert extracted.layers.keys() == adapter.layers.keys()
            for name, delta in adapter.layers.items():
                wanted = 0.5 * delta.dense()
                assert (extracted.layers[name].dense() - wanted).norm() <= 1e-4 * wanted.norm()


def plain_twin(comfy, sd15_file, model, tmp_path):
    """The same model with its quantised weights written out in float32."""
    state = load_file(sd15_file)
    prefix = "model.diffusion_model."
    for name, weight in dequantised_all(model.model).items():
        state[f"{prefix}{name.removeprefix('diffusion_model.')}.weight"] = weight
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "plain.safetensors")
    with torch.inference_mode():
        file = str(tmp_path / "plain.safetensors")
        return comfy.sd.load_checkpoint_guess_config(file, output_vae=False, output_clip=False)[0]


def dequantised_all(net):
    named = ((name, getattr(module, "weight", None)) for name, module in net.named_modules())
    return {name: w.dequantize().float().clone() for name, w in named if hasattr(w, "dequantize") and hasattr(w, "_layout_cls")}


TOLERANCE = {"float8_e4m3fn": 1e-5, "mxfp8": 1e-5, "int8_tensorwise": 0.04, "nvfp4": 1e-5}
"""Of the whole gradient. On a CPU the host multiplies with the weights written out for all formats but int8 (measured: 0.0), and
there it quantises each layer's input as well (measured: 1.9 and 2.0 %). A GPU with matrix units for a format does so for that one."""


def test_factors_of_a_quantised_base_have_the_gradients_of_the_base_written_out(quantised, comfy, sd15_file, tmp_path):
    import gradients
    from shared_model import examples

    from krona_train.comfyui.model import ComfyBackbone

    model, kind = quantised
    backbone, twin = ComfyBackbone(model), ComfyBackbone(plain_twin(comfy, sd15_file, model, tmp_path))
    assert backbone.weights() == twin.weights()
    layers = gradients.random_layers(backbone)
    loss, grads = gradients.gradients(backbone, layers, examples(2))
    again, again_grads = gradients.gradients(backbone, layers, examples(2), "blocks")
    assert again == loss
    assert gradients.relative(again_grads, grads) <= 1e-4
    assert dequantised_all(model.model)  # there is something quantised, and the twin has it written out
    _, wanted = gradients.gradients(twin, layers, examples(2))
    difference = torch.stack([(g - w).norm() for g, w in zip(grads, wanted, strict=True)]).norm()
    error = float(difference / torch.stack([w.norm() for w in wanted]).norm())
    assert error <= TOLERANCE[kind], error


DISTILLED = [GuidanceConfig(), ScoreMatchingConfig(guidance=1.0), PairsConfig(edges=1.0, frequencies=1.0)]


def distilled_gradients(backbone, objective):
    """Of the factors, in the turn that moves them: with random factors of both adapters, and states that were not drawn."""
    from shared_model import examples

    from krona_train.adapters.bank import Bank
    from krona_train.loop import choose_all

    settings = TrainConfig(adapter=AdapterConfig(targets=(TargetRule((8, 4)),)), objective=objective)
    how, rng = objective_of(settings.objective, settings.prior), torch.Generator().manual_seed(5)
    samples = []
    for number, example in enumerate(examples(2)):
        noise = torch.randn(example.latent.shape, generator=rng)
        seen = Seen(4 * noise, 4.0, 2.0 + number, example.latent.clone())
        samples.append(Sample(number, replace(example, latent=None, shape=tuple(noise.shape), seen=seen)))
    with backbone.ready():
        bank = Bank(backbone, choose_all(backbone, how, settings))
        with torch.no_grad():
            for trainee in bank.trainees.values():
                for parameter in trainee.parameters:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
        with bank.attached(), bank.moving(MAIN):
            [loss] = how.losses(Piece(backbone, bank, 3, 0, how.turns[-1], "data", samples))
            return torch.autograd.grad(loss.values.sum(), bank.main.parameters, allow_unused=True)


@pytest.mark.parametrize("objective", DISTILLED, ids=lambda each: each.kind)
@pytest.mark.parametrize("quantised", ["float8_e4m3fn", "nvfp4"], indirect=True)
def test_distillations_of_a_quantised_base_have_the_gradients_of_the_base_written_out(
    quantised, objective, comfy, sd15_file, tmp_path
):
    from krona_train.comfyui.model import ComfyBackbone

    model, kind = quantised
    before = dequantised_all(model.model)
    assert before
    found = distilled_gradients(ComfyBackbone(model), objective)
    wanted = distilled_gradients(ComfyBackbone(plain_twin(comfy, sd15_file, model, tmp_path)), objective)
    pairs = [(f, w) for f, w in zip(found, wanted, strict=True) if w is not None]
    assert len(pairs) > len(found) // 2
    norm = torch.stack([w.norm() for _, w in pairs]).norm()
    error = float(torch.stack([(f - w).norm() for f, w in pairs]).norm() / norm)
    assert norm > 0
    # Score matching adds up three passes and looks at the difference of two: 1.3e-5 was seen.
    assert error <= (5e-5 if objective.kind == "score matching" else TOLERANCE[kind]), error
    assert all(torch.equal(weight, before[name]) for name, weight in dequantised_all(model.model).items())


def test_training_on_a_quantised_base_lowers_the_loss_on_fixed_noise_and_leaves_its_weights(quantised):
    import gradients
    from shared_model import examples

    from krona_train import OptimizerConfig, fit
    from krona_train.comfyui.model import ComfyBackbone

    model, _ = quantised
    before, backbone = dequantised_all(model.model), ComfyBackbone(model)
    data = examples(1)
    adapter = fit(backbone, data, TrainConfig(steps=12, optimizer=OptimizerConfig(learning_rate=2e-2)))
    layers = gradients.build_layers(gradients.select(backbone.weights()), gradients.AdapterConfig(), 0, backbone.device)

    def loss():
        with backbone.ready(), torch.no_grad(), gradients.attached(backbone, layers):
            return gradients.loss_of(backbone, backbone.collate(data)).item()

    untrained = loss()
    with torch.no_grad():
        for name, layer in layers.items():
            layer.a.copy_(adapter.layers[name].a.value)
            layer.b.copy_(adapter.layers[name].b.value)
    assert loss() < 0.9 * untrained
    assert all(torch.equal(weight, before[name]) for name, weight in dequantised_all(model.model).items())


def test_a_schedule_says_that_it_rounds_on_quantised_weights(quantised, sd15, random_adapter):
    """Hooks are merged, and merging a 1 % update into fp8 keeps half of it."""
    from krona_host.patching.schedule import scheduled_hooks

    model, _ = quantised
    adapter = random_adapter(model)
    _, report = scheduled_hooks(adapter, [(0.0, 1.0)], model)
    assert report.endswith(
        " of their weights are quantised, and a strength that changes is merged into them, which rounds small updates away."
    )
    _, report = scheduled_hooks(random_adapter(sd15), [(0.0, 1.0)], sd15)
    assert report == f"{len(adapter)} of {len(adapter)} layers matched."
