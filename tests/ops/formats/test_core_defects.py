"""What ComfyUI 0.30's own loader gets wrong (the numbers are its, measured here), read rightly."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from originals import LAYERS, lycoris, relative
from safetensors.torch import save_file

from krona_ops import Dora, load
from krona_ops.errors import FormatError
from krona_ops.updates.reshape import reshaped

CONV = {"conv1d": F.conv1d, "conv2d": F.conv2d, "conv3d": F.conv3d}


def ours(original):
    delta = load(original.path).layers[original.layer]
    return reshaped(delta, tuple(original.weight.shape))


def change(original):
    return ours(original).add_to(original.weight.clone()) - original.weight


def core_change(original, comfy, tensors=None):
    """What ComfyUI adds to the weight for the same file."""
    import comfy.lora

    key = "diffusion_model.block.weight"
    patches = comfy.lora.load_lora(dict(tensors or original.tensors), {original.layer: key}, log_missing=False)
    weight = original.weight.clone()
    patched = comfy.lora.calculate_weight([(1.0, patches[key], 1.0, None, None)], weight, key)
    return patched - original.weight


def saved(path, tensors, metadata=None):
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata or {})
    return path


def test_where_core_is_right_it_agrees(comfy, tmp_path):
    for case in ({"factor": 2}, {"lora_dim": 8, "factor": 2}, {"factor": 4, "lora_dim": 1, "decompose_both": True}):
        original = lycoris("lokr", "conv2d", tmp_path, **case)
        assert relative(change(original), core_change(original, comfy)) < 1e-6


def test_l1_a_tucker_core_is_applied(comfy, tmp_path):
    original = lycoris("lokr", "conv2d", tmp_path, use_tucker=True, factor=2)
    assert relative(change(original), original.delta) < 1e-6
    assert core_change(original, comfy).abs().max() == 0  # core logs an error and leaves the weight: 1.0 off


@pytest.mark.parametrize("layer", ["conv1d", "conv3d"])
def test_l2_kernels_of_one_and_three_dimensions_are_multiplied_on_the_right_axes(layer, comfy, tmp_path):
    original = lycoris("lokr", layer, tmp_path, lora_dim=8, factor=2)
    assert relative(change(original), original.delta) < 1e-6
    assert (
        relative(core_change(original, comfy), original.delta) > 1
    )  # core, in the Frobenius norm: 1.35 (1d), 1.44 (3d); silent


def test_l3_factors_that_do_not_fit_together_are_an_error(tmp_path):
    original = lycoris("lokr", "linear", tmp_path, factor=2)
    parts = {**original.tensors, f"{original.layer}.lokr_w2_b": torch.randn(3, 6)}
    with pytest.raises(
        FormatError, match=r"lora_unet_block: lokr_w2_a \(5 × 2\) and lokr_w2_b \(3 × 6\) share no rank"
    ):
        load(saved(tmp_path / "x.safetensors", parts))


@pytest.mark.parametrize("missing", ["lokr_w1", "lokr_w2_a", "lokr_w2_b"])
def test_l4_a_missing_factor_is_named(missing, tmp_path):
    """Core: AttributeError, 'NoneType' object has no attribute 'shape'."""
    original = lycoris("lokr", "linear", tmp_path, factor=2)
    parts = {key: value for key, value in original.tensors.items() if not key.endswith(missing)}
    path = saved(tmp_path / "cut.safetensors", parts)
    with pytest.raises(
        FormatError, match=rf"cut.safetensors: lora_unet_block: {missing} is missing.*get it again"
    ) as caught:
        load(path)
    assert caught.value.where == str(path)


def test_l5_the_scale_of_whole_factors_can_be_chosen(tmp_path):
    """ComfyUI #15114: the user needed strength 0.03; dim 32, alpha 1, so 1/32."""
    layer = {"x.lokr_w1": torch.randn(8, 8), "x.lokr_w2": torch.randn(4, 4), "x.alpha": torch.tensor(1.0)}
    metadata = {
        "ss_network_module": "lycoris.kohya",
        "ss_network_args": json.dumps({"algo": "lokr", "factor": 8}),
        "ss_network_dim": "32",
        "ss_network_alpha": "1",
    }
    path = saved(tmp_path / "x.safetensors", layer, metadata)
    adapter = load(path)
    assert adapter.layers["x"].scale == 1.0
    assert 'choose the scale rule "alpha/rank" (0.03125) or "alpha/sqrt(in)" (0.353553)' in adapter.notes[0]
    assert load(path, scale_rule="alpha/rank").layers["x"].scale == 1 / 32
    assert load(path, scale_rule="alpha/sqrt(in)").layers["x"].scale == 1 / math.sqrt(8)
    assert load(path, scale_rule="alpha/sqrt(rank)").layers["x"].scale == 1 / math.sqrt(32)
    assert load(path, scale_rule="1").layers["x"].scale == 1.0


@pytest.mark.parametrize("layer", CONV)
@pytest.mark.parametrize("options", [{"factor": 2}, {"factor": 2, "use_tucker": True}])
def test_l7_l8_decomposed_convolutions_run_beside_the_layer(layer, options, tmp_path):
    """Core's bypass mode crashes on both: "weight should have at least three dimensions",
    and on w2_a of a Tucker core."""
    original = lycoris("lokr", layer, tmp_path, **options)
    x = torch.randn(2, 12, *(5,) * (original.weight.ndim - 2))
    expected = CONV[layer](x, original.delta, padding=1)
    assert relative(ours(original).convolve(x, padding=1), expected) < 1e-5


@pytest.mark.parametrize(("alpha", "dtype"), [(0.0, torch.float32), (9999999999.0, torch.float32), (math.inf, torch.float16)])
def test_l9_placeholder_alphas_mean_scale_1(alpha, dtype, tmp_path):
    """ai-toolkit's 9999999999 is infinite in float16. Core's bypass mode:
    ZeroDivisionError for 0, NaN pictures for infinity."""
    whole = {"x.lokr_w1": torch.randn(2, 3), "x.lokr_w2": torch.randn(5, 4), "x.alpha": torch.tensor(alpha)}
    split = {"x.lokr_w1": torch.randn(2, 3), "x.lokr_w2_a": torch.randn(5, 2), "x.lokr_w2_b": torch.randn(2, 4)}
    for number, layer in enumerate((whole, {**split, "x.alpha": torch.tensor(alpha)})):
        path = saved(tmp_path / f"{number}.safetensors", {key: value.to(dtype) for key, value in layer.items()})
        adapter = load(path)
        assert adapter.layers["x"].scale == 1.0
        assert adapter.layers["x"].dense().isfinite().all()
        assert ("placeholder" if alpha else "alpha 0") in adapter.notes[0]


@pytest.mark.parametrize("kind", ["lokr", "loha", "locon"])
def test_l10_l12_dora_divides_by_the_norm_of_the_changed_weight(kind, comfy, tmp_path):
    original = lycoris(kind, "linear", tmp_path, weight_decompose=True)
    assert relative(change(original), original.delta) < 1e-6
    assert relative(core_change(original, comfy), original.delta) > 0.1  # core, by the old one's norm: 0.8 to 5.3 (PR #15458)


def test_l12_norms_saved_as_a_vector_are_per_output(comfy, tmp_path):
    """Core broadcasts them along the inputs (#12938): an error here, where the layer is not square;
    a wrong result where it is."""
    original = lycoris("lokr", "linear", tmp_path, factor=2, weight_decompose=True)
    vector = {
        **original.tensors,
        f"{original.layer}.dora_scale": original.tensors[f"{original.layer}.dora_scale"].flatten(),
    }
    path = saved(tmp_path / "vector.safetensors", vector)
    assert load(path).layers[original.layer] == load(original.path).layers[original.layer]
    assert core_change(original, comfy, vector).abs().max() == 0


def test_l12_a_vector_of_norms_on_a_square_layer_is_per_output_and_a_row_is_per_input(tmp_path):
    layer = {"x.lokr_w1": torch.randn(2, 2), "x.lokr_w2": torch.randn(3, 3)}
    for shape, per_output in (((6,), True), ((6, 1), True), ((1, 6), False)):
        path = saved(tmp_path / "x.safetensors", {**layer, "x.dora_scale": torch.rand(shape) + 0.5})
        assert load(path).layers["x"].is_per_output is per_output


def test_l13_a_saved_norm_is_kept_on_reading(tmp_path):
    original = lycoris("lokr", "linear", tmp_path, factor=2, weight_decompose=True)
    delta = load(original.path).layers[original.layer]
    assert isinstance(delta, Dora)
    assert torch.equal(delta.magnitude, original.tensors[f"{original.layer}.dora_scale"])


@pytest.mark.parametrize("factor", [2, 4, 8, 64, -1])
def test_l14_shapes_come_from_the_file_whatever_the_factorisation(factor, tmp_path):
    """For factor 64 and 1280 LyCORIS makes 20 × 64, core 32 × 40, PEFT 64 × 20."""
    from lycoris.functional import factorization

    original = lycoris("lokr", "linear", tmp_path, factor=factor, full_matrix=True)
    w1 = original.tensors[f"{original.layer}.lokr_w1"]
    assert tuple(w1.shape) == (factorization(10, factor)[0], factorization(12, factor)[0])
    assert relative(change(original), original.delta) < 1e-6


def test_what_cores_trainer_writes_reads_as_it_trained(comfy, tmp_path):
    """LoKr on matrices and kernels, differences on norms and biases; core's own loader gets the conv1d wrong by 1.4."""
    from comfy.weight_adapter.lokr import LoKrAdapter

    tensors, trained = {}, {}
    for name in LAYERS:
        torch.manual_seed(1)
        weight = LAYERS[name]().weight.detach()
        module = LoKrAdapter.create_train(weight, rank=4, alpha=1.0)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim:
                    parameter.copy_(torch.randn_like(parameter))
            trained[name] = module(weight) - weight
        for key, value in module.state_dict().items():
            tensors[f"diffusion_model.{name}.{key}"] = value
    tensors |= {"diffusion_model.norm.diff": torch.randn(7), "diffusion_model.linear.diff_b": torch.randn(10)}
    adapter = load(saved(tmp_path / "core.safetensors", tensors))
    for name, expected in trained.items():
        delta = reshaped(adapter.layers[f"diffusion_model.{name}"], tuple(expected.shape))
        assert relative(delta.dense(), expected) < 5e-6  # expected is a difference of weights
    assert torch.equal(adapter.layers["diffusion_model.norm"].dense(), tensors["diffusion_model.norm.diff"])
    assert torch.equal(adapter.layers["diffusion_model.linear.bias"].dense(), tensors["diffusion_model.linear.diff_b"])
