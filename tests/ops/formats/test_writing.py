"""Saving: bit for bit what was loaded, exact between formats that can both hold it, and an error where one cannot."""

import json

import pytest
import torch
from originals import lycoris, relative
from safetensors.torch import load_file, save_file

from krona_ops import Adapter, Dora, Full, Kron, LowRank, Matrix, Sum, Tucker, encode, load, save
from krona_ops.errors import ConfigError, FormatError
from krona_ops.formats.kinds.layer import FLOAT32_EPS
from krona_ops.formats.kinds.lokr import number, times_number
from krona_ops.formats.metadata import with_standard_metadata
from krona_ops.updates.factor import Hadamard
from krona_ops.updates.reshape import reshaped


def randn(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) * 31 + len(shape))).to(dtype)


def tucker(*kernel):
    return Tucker(randn(3, 3, *kernel), randn(3, 5), randn(3, 4))


def saved_scale(alpha, rank):
    """A scale as a file can say it."""
    return float(torch.tensor(alpha)) / rank


EXACT = {
    "whole": Kron(Full(randn(2, 3)), Full(randn(5, 4))),
    "b low rank": Kron(Full(randn(2, 3)), LowRank(randn(5, 2), randn(2, 4)), 0.37),
    "both low rank": Kron(LowRank(randn(2, 2), randn(2, 3)), LowRank(randn(5, 2), randn(2, 4)), -3.0),
    "a low rank": Kron(LowRank(randn(2, 1), randn(1, 3)), Full(randn(5, 4)), 1 / 3),
    "tucker": Kron(Full(randn(2, 3)), tucker(3, 2), saved_scale(0.1, 3)),
    "kernel": Kron(Full(randn(2, 3)), Full(randn(5, 4, 3, 2))),
    "lora": Matrix(LowRank(randn(6, 3), randn(3, 5)), saved_scale(0.7, 3)),
    "locon": Matrix(LowRank(randn(6, 3), randn(3, 5, 3, 3)), saved_scale(0.7, 3)),
    "locon with a core": Matrix(tucker(3, 3), 2.0),
    "loha": Matrix(Hadamard(LowRank(randn(6, 3), randn(3, 5)), LowRank(randn(6, 3), randn(3, 5))), 0.3),
    "loha with cores": Matrix(Hadamard(tucker(3, 3), tucker(3, 3)), 0.3),
    "dense": Matrix(Full(randn(6, 5))),
    "half": Kron(Full(randn(2, 3, dtype=torch.float16)), LowRank(randn(5, 2).half(), randn(2, 4).half()), 0.37),
    "dora": Dora(Kron(Full(randn(2, 3)), Full(randn(5, 4))), randn(10, 1).abs(), eps=FLOAT32_EPS),
    "dora per input": Dora(Matrix(LowRank(randn(6, 3), randn(3, 5)), saved_scale(0.7, 3)), randn(1, 5).abs(), eps=FLOAT32_EPS),
}


def names(style):
    return {
        kind: f"diffusion_model.blocks.{n}.to_q" if style == "lokr" else f"lora_unet_blocks_{n}_to_q"
        for n, kind in enumerate(EXACT)
    }


@pytest.mark.parametrize("format", ["lokr", "kohya", "kohya-lora"])
@pytest.mark.parametrize("kind", EXACT)
def test_what_is_saved_is_what_is_loaded(format, kind, tmp_path):
    name, delta = names(format)[kind], EXACT[kind]
    adapter = Adapter({name: delta, f"{name}.bias": Matrix(Full(randn(10)))})
    if format == "kohya-lora" and not is_lora(delta):
        with pytest.raises((ConfigError, FormatError)):
            save(adapter, tmp_path / "x.safetensors", format)
        return
    again = load(save(adapter, tmp_path / "x.safetensors", format))
    assert dict(again.layers) == dict(adapter.layers)
    twice = load_file(save(again, tmp_path / "y.safetensors", format))
    once = load_file(tmp_path / "x.safetensors")
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[key], twice[key]) and once[key].dtype == twice[key].dtype for key in once)


@pytest.mark.parametrize("rank", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("scale", [0.7, 1 / 3, 1e-30, -123.456])
def test_any_scale_is_kept_to_the_last_digit_or_two(scale, rank, tmp_path):
    delta = Matrix(LowRank(randn(8, rank), randn(rank, 9)), scale)
    again = load(save(Adapter({"x": delta}), tmp_path / "x.safetensors")).layers["x"]
    assert again.scale == pytest.approx(scale, rel=3e-16)


def is_lora(delta):
    inner = delta.delta if isinstance(delta, Dora) else delta
    return isinstance(inner, Matrix) and isinstance(inner.factor, LowRank | Tucker)


@pytest.mark.parametrize("kernel", [(3,), (2, 3, 2)])
def test_kernels_that_comfyui_multiplies_wrongly_are_written_flattened(kernel, comfy, tmp_path):
    """ComfyUI's own loader then gets them right; our reader gets the kernel back from the weight."""
    import comfy.lora

    delta, key = Kron(Full(randn(2, 3)), Full(randn(5, 4, *kernel)), 0.5), "diffusion_model.x"
    path = save(Adapter({key: delta}), tmp_path / "x.safetensors")
    assert torch.equal(reshaped(load(path).layers[key], delta.shape).dense(), delta.dense())
    patches = comfy.lora.load_lora(load_file(path), {key: f"{key}.weight"})
    weight = torch.zeros(delta.shape)
    added = comfy.lora.calculate_weight([(1.0, patches[f"{key}.weight"], 1.0, None, None)], weight, key)
    assert relative(added, delta.dense()) < 1e-6


@pytest.mark.parametrize("kind", ["lokr", "loha", "locon"])
@pytest.mark.parametrize("layer", ["linear", "conv1d", "conv2d", "conv3d"])
@pytest.mark.parametrize("options", [{}, {"use_tucker": True}, {"weight_decompose": True}])
def test_lycoris_files_round_trip_bit_for_bit(kind, layer, options, tmp_path):
    original = lycoris(kind, layer, tmp_path, factor=2, **options)
    again = load_file(save(load(original.path), tmp_path / "again.safetensors", "kohya"))
    assert again.keys() == original.tensors.keys()
    for key, value in original.tensors.items():
        assert torch.equal(again[key].reshape(value.shape), value), key


def test_what_lycoris_writes_for_norms_is_written_again(tmp_path):
    tensors = {
        "lora_unet_n.w_norm": randn(4),
        "lora_unet_n.b_norm": randn(4),
        "lora_unet_l.diff": randn(4, 3),
        "lora_unet_l.diff_b": randn(4),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    again = load_file(save(load(tmp_path / "x.safetensors"), tmp_path / "y.safetensors", "kohya"))
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in again)


@pytest.mark.parametrize(
    ("there", "kinds"), [("kohya", list(EXACT)), ("peft", ["whole", "b low rank"]), ("lora", ["lora", "locon"])]
)
def test_to_another_format_and_back_is_exact(there, kinds, tmp_path):
    square = {
        "whole": Kron(Full(randn(2, 2)), Full(randn(5, 4))),
        "b low rank": Kron(Full(randn(2, 2)), LowRank(randn(5, 2), randn(2, 6)), 0.5),
    }
    for kind in kinds:
        delta = square.get(kind, EXACT[kind]) if there == "peft" else EXACT[kind]
        if there == "lora":
            delta = delta.scaled(0.5 / delta.scale)  # a power of two goes into the factor exactly
        name = "lora_unet_x" if there == "kohya" else "x"
        home = load(save(Adapter({name: delta}), tmp_path / "a.safetensors"))
        away = load(save(home, tmp_path / kind / "b.safetensors", there))
        back = load(save(away, tmp_path / "c.safetensors", rename=lambda n: n.removeprefix("base_model.model.")))
        assert weights(back) == weights(home), kind


def weights(adapter):
    """The updates as numbers: of DoRA what it makes of a fixed weight."""
    return {name: delta.add_to(torch.ones(delta.shape)).tolist() for name, delta in adapter.layers.items()}


REFUSED = {
    "a sum": Sum((Matrix(Full(randn(4, 4))), Kron(Full(randn(2, 2)), Full(randn(2, 2))))),
    "the shuffled layout": Kron(Full(randn(2, 2)), Full(randn(2, 2)), 1.0, "shuffled"),
    "half a DoRA": Dora(Matrix(Full(randn(4, 4))), randn(4, 1), strength=0.5),
}


@pytest.mark.parametrize("format", ["lokr", "kohya", "peft", "lora", "kohya-lora"])
@pytest.mark.parametrize("what", REFUSED)
def test_what_a_format_cannot_hold_is_an_error_and_no_file(what, format, tmp_path):
    with pytest.raises((FormatError, ConfigError)) as caught:
        save(Adapter({"x": REFUSED[what]}), tmp_path / "x.safetensors", format)
    assert caught.value.layer == "x"
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["lora", "kohya-lora"])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_lora_of_anything_is_the_best_of_its_rank_and_says_its_error(format, rank, tmp_path):
    layers = {
        "kron": Kron(Full(randn(2, 3)), Full(randn(5, 4)), 0.7),
        "shuffled": Kron(Full(randn(2, 3)), Full(randn(5, 4)), -0.7, "shuffled"),
        "sum": Sum((Matrix(LowRank(randn(8, 2), randn(2, 9))), Kron(Full(randn(2, 3)), Full(randn(4, 3))))),
        "loha": EXACT["loha"],
        "kernel": Kron(Full(randn(2, 3)), Full(randn(5, 4, 3, 2))),
        "lora": Matrix(LowRank(randn(6, 1), randn(1, 5)), 0.5),
    }
    encoded = encode(Adapter(layers), format, rank=rank)
    assert set(encoded.errors) == set(layers) - {"lora"}
    again = load(save(Adapter(layers), tmp_path / "x.safetensors", format, rank=rank))
    by_name = {name.removeprefix("lora_unet_"): delta for name, delta in again.layers.items()}
    for name, delta in layers.items():
        wanted = delta.dense()
        assert by_name[name].factor.down.shape[0] <= rank
        spectrum = torch.linalg.svdvals(wanted.flatten(1).double())
        best = float(spectrum[rank:].norm() / spectrum.norm())  # Eckart and Young 1936
        error = float((by_name[name].dense() - wanted).norm() / wanted.norm())
        assert error == pytest.approx(best, abs=2e-6)
        assert encoded.errors.get(name, 0.0) == pytest.approx(best, abs=2e-6)


def test_a_lora_needs_a_rank_when_there_is_something_to_convert(tmp_path):
    with pytest.raises(ConfigError, match="no rank to convert it to"):
        save(Adapter({"x": EXACT["whole"]}), tmp_path / "x.safetensors", "lora")
    with pytest.raises(ConfigError, match="rank of 0"):
        save(Adapter({"x": EXACT["whole"]}), tmp_path / "x.safetensors", "lora", rank=0)


def test_a_format_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match='no format "ckpt" to write'):
        save(Adapter({"x": EXACT["whole"]}), tmp_path / "x.safetensors", "ckpt")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("diffusion_model.middle_block.1.attn1.to_q", "lora_unet_middle_block_1_attn1_to_q"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        ("lycoris_blocks_0", "lycoris_blocks_0"),
        (
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1",
            "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        ),
        ("clip_g.transformer.text_model.encoder.layers.0.mlp.fc1", "lora_te2_text_model_encoder_layers_0_mlp_fc1"),
    ],
)
def test_kohya_names(name, expected):
    keys = encode(Adapter({name: EXACT["whole"]}), "kohya").tensors
    assert set(keys) == {f"{expected}.lokr_w1", f"{expected}.lokr_w2"}


def test_names_that_kohya_cannot_tell_apart_are_an_error():
    with pytest.raises(FormatError, match="Two layers would be called"):
        encode(Adapter({"a.b_c": EXACT["whole"], "a_b.c": EXACT["whole"]}), "kohya")
    with pytest.raises(FormatError, match="whose kohya name is not known"):
        encode(Adapter({"text_encoders.qwen25_7b.model.layers.0": EXACT["whole"]}), "kohya")


def test_a_scale_without_a_place_goes_into_the_smaller_factor_exactly():
    delta = Kron(Full(randn(50, 40).half()), Full(randn(3, 2).half()), 0.3)
    tensors = encode(Adapter({"x": delta})).tensors
    assert tensors["x.lokr_w1"].dtype == torch.float16
    assert tensors["x.lokr_w2"].dtype == torch.float32  # in half precision it would be rounded: 3e-4
    product = torch.kron(tensors["x.lokr_w1"].float(), tensors["x.lokr_w2"])
    assert relative(product, delta.dense()) < 2e-7
    halved = encode(Adapter({"x": delta.scaled(0.5 / 0.3)})).tensors
    assert halved["x.lokr_w2"].dtype == torch.float16  # a power of two is exact


def test_numbers_keep_their_value():
    assert number(0.5).dtype == torch.float32
    assert number(0.1).dtype == torch.float64
    assert float(number(0.1)) == 0.1
    assert times_number(torch.ones(2, dtype=torch.bfloat16), 0.1).dtype == torch.float32
    assert times_number(torch.ones(2, dtype=torch.float64), 0.1).dtype == torch.float64


PNG = b"\x89PNG\r\n\x1a\n" + b"rest"


def test_what_managers_show_is_in_every_file(tmp_path):
    adapter = with_standard_metadata(
        Adapter({"x": EXACT["b low rank"]}, {"ss_steps": "7", "modelspec.title": "old"}),
        title="robot",
        base_model="sdxl_base_v1-0",
        trigger="a sks robot",
        tags=("toy", "tin"),
        thumbnail=PNG,
    )
    metadata = load(save(adapter, tmp_path / "x.safetensors")).metadata
    assert metadata["modelspec.title"] == metadata["ss_output_name"] == "robot"
    assert metadata["modelspec.trigger_phrase"] == "a sks robot"
    assert metadata["modelspec.thumbnail"] == "data:image/png;base64,iVBORw0KGgpyZXN0"
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["ss_steps"] == "7"
    assert json.loads(metadata["ss_network_args"]) == {"algo": "lokr"}
    with pytest.raises(ConfigError, match="no picture"):
        with_standard_metadata(adapter, thumbnail=b"text")


def test_the_hash_in_the_metadata_is_that_of_the_tensors(tmp_path):
    """kohya's `addnet_hash_safetensors`: sha256 of everything behind the header."""
    import hashlib

    path = save(Adapter({"x": EXACT["whole"]}, {"ä": "機器人"}), tmp_path / "x.safetensors")
    data = path.read_bytes()
    values = data[8 + int.from_bytes(data[:8], "little") :]
    metadata = load(path).metadata
    assert metadata["sshs_model_hash"] == hashlib.sha256(values).hexdigest()
    assert metadata["modelspec.hash_sha256"] == f"0x{metadata['sshs_model_hash']}"
    assert (8 + int.from_bytes(data[:8], "little")) % 8 == 0  # tensors stay aligned
    assert metadata["ä"] == "機器人"
