"""LoRA in every spelling, and beside other updates in one file."""

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from krona_ops import Full, LowRank, Matrix, load
from krona_ops.errors import FormatError
from krona_ops.formats import parts
from krona_ops.operations.respell import respelled

UP, DOWN = torch.randn(6, 4), torch.randn(4, 5)
SPELLINGS = [
    ("lora_unet_block", ".lora_up.weight", ".lora_down.weight"),
    ("transformer.block", ".lora_B.weight", ".lora_A.weight"),
    ("transformer.block", ".lora_B.default.weight", ".lora_A.default.weight"),
    ("transformer.block", ".lora_B", ".lora_A"),
    ("transformer.block", ".lora.up.weight", ".lora.down.weight"),
    ("unet.block.processor.to_q", "_lora.up.weight", "_lora.down.weight"),
    ("text_encoder.block", ".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
]


def read(tmp_path, tensors, metadata=None):
    save_file({key: value.clone() for key, value in tensors.items()}, tmp_path / "x.safetensors", metadata or {})
    return load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(("name", "up", "down"), SPELLINGS)
def test_every_spelling_is_the_same_update(name, up, down, tmp_path):
    adapter = read(tmp_path, {f"{name}{up}": UP, f"{name}{down}": DOWN, f"{name}.alpha": torch.tensor(2.0)})
    assert dict(adapter.layers) == {name: Matrix(LowRank(UP, DOWN), 0.5)}


@pytest.mark.parametrize(("name", "up", "down"), SPELLINGS)
def test_half_a_lora_is_an_error(name, up, down, tmp_path):
    for end, missing in ((up, "lora_down"), (down, "lora_up")):
        with pytest.raises(FormatError, match=f"{name}: {missing} is missing"):
            read(tmp_path, {f"{name}{end}": UP})


@pytest.mark.parametrize("kernel", [(3,), (3, 2), (1, 1), (2, 3, 2)])
def test_convolutions_keep_their_kernel(kernel, tmp_path):
    up, down = torch.randn(6, 4, *(1 for _ in kernel)), torch.randn(4, 5, *kernel)
    delta = read(tmp_path, {"x.lora_up.weight": up, "x.lora_down.weight": down}).layers["x"]
    assert delta.shape == (6, 5, *kernel)
    torch.testing.assert_close(delta.dense().flatten(1), up.flatten(1) @ down.flatten(1))


def test_a_bias_that_peft_trains_is_scaled_like_the_weight(tmp_path):
    tensors = {
        "x.lora_B.weight": UP,
        "x.lora_A.weight": DOWN,
        "x.lora_B.bias": torch.ones(6),
        "x.alpha": torch.tensor(2.0),
    }
    assert torch.equal(read(tmp_path, tensors).layers["x.bias"].dense(), torch.full((6,), 0.5))


def test_a_file_that_mixes_methods_reads_layer_by_layer(tmp_path):
    tensors = {
        "a.lokr_w1": torch.randn(2, 3),
        "a.lokr_w2": torch.randn(5, 4),
        "b.lora_up.weight": UP,
        "b.lora_down.weight": DOWN,
        "b.diff_b": torch.randn(6),
        "c.diff": torch.randn(7),
        "d.w_norm": torch.randn(3),
        "d.b_norm": torch.randn(3),
        "bundle_emb.robot.string_to_param.*": torch.randn(2, 8),
    }
    adapter = read(tmp_path, tensors)
    assert list(adapter.layers) == ["a", "b", "b.bias", "c", "d", "d.bias"]
    assert {adapter.layers[name].shape for name in ("b.bias", "c", "d.bias")} == {(6,), (7,), (3,)}
    assert adapter.notes[-1].startswith("Left out: an embedding (1: bundle_emb.robot")


def test_a_difference_on_top_of_a_lora_is_added(tmp_path):
    """ComfyUI applies only the difference then."""
    tensors = {"x.lora_up.weight": UP, "x.lora_down.weight": DOWN, "x.diff": torch.ones(6, 5)}
    torch.testing.assert_close(read(tmp_path, tensors).layers["x"].dense(), UP @ DOWN + 1)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x.lokr_w1": torch.ones(2, 3), "x.lokr_w2": torch.ones(2, 2), "x.lora_up.weight": UP}, "two methods at once"),
        ({"x.lokr_w1": torch.ones(2, 3), "x.lokr_w2": torch.ones(2, 2), "x.lokr_w2_a": UP}, "whole and as lokr_w2_a"),
        ({"x.lokr_w1": torch.ones(2, 3, 1), "x.lokr_w2": torch.ones(2, 2)}, "lokr_w1 is 2 × 3 × 1"),
        ({"x.lokr_w1": torch.ones(2), "x.lokr_w2": torch.ones(2, 2)}, "lokr_w1 has 1 axes"),
        ({"x.lokr_w1": torch.ones(0, 2), "x.lokr_w2": torch.ones(2, 2)}, "lokr_w1 is 0 × 2 of type float32"),
        ({"x.lokr_w1": torch.ones(2, 2, dtype=torch.int32), "x.lokr_w2": torch.ones(2, 2)}, "of type int32"),
        ({"x.lora_up.weight": UP, "x.lora_down.weight": torch.ones(3, 5)}, "share no rank"),
        ({"x.lora_up.weight": torch.ones(6, 4, 3, 3), "x.lora_down.weight": torch.ones(4, 5, 1, 1)}, "share no rank"),
        ({"x.lora_up.weight": UP, "x.lora_down.weight": DOWN, "x.lora_mid.weight": torch.ones(4, 3, 3, 3)}, "does not fit"),
        ({"x.lora_up.weight": UP, "x.lora_down.weight": DOWN, "x.dora_scale": torch.ones(7)}, "DoRA norm of 7 numbers"),
        ({"x.lora_B.weight": UP, "x.lora_A.weight": DOWN, "x.lora_up.weight": UP}, "Two tensors are the same part"),
        ({"x.lora_up.weight": UP, "x.lora_down.weight": DOWN, "x.diff": torch.ones(5, 6)}, "Two updates of it differ in shape"),
        ({"x.hada_w1_a": UP, "x.hada_w1_b": DOWN, "x.hada_w2_a": UP}, "hada_w2_b is missing"),
        ({"x.hada_w1_a": UP, "x.hada_w1_b": DOWN, "x.hada_w2_a": UP, "x.hada_w2_b": torch.ones(4, 6)}, "Its two products are"),
        (
            {"x.lokr_w1": torch.ones(2, 3), "x.lokr_w2_a": UP, "x.lokr_w2_b": DOWN, "x.lokr_t2": torch.ones(2, 2, 3)},
            "between lokr_w2_a",
        ),
        ({"x.cdka_a": torch.ones(2, 3, 4), "x.cdka_b": torch.ones(3, 3, 4)}, "different numbers of terms"),
        ({"x.diff": torch.ones(1, 1, 1, 1, 1, 1)}, "diff has 6 axes"),
        ({"model.weight": UP}, "No known adapter format"),
    ],
)
def test_what_makes_no_adapter_is_an_error_that_says_why(tensors, message, tmp_path):
    with pytest.raises(FormatError, match=message) as caught:
        read(tmp_path, tensors)
    assert str(tmp_path / "x.safetensors") in str(caught.value)


def test_sums_of_kronecker_products_of_cdka(tmp_path):
    """arXiv 2602.01267: ΔW = α/√(r·r₂) · Σ B ⊗ A."""
    b, a = torch.randn(3, 5, 2), torch.randn(3, 2, 4)
    delta = read(tmp_path, {"x.cdka_a": a, "x.cdka_b": b, "x.alpha": torch.tensor(16.0)}).layers["x"]
    expected = torch.einsum("iuv,iqt->uqvt", b, a).reshape(10, 8) * 16 / 6**0.5
    torch.testing.assert_close(delta.dense(), expected)


def test_a_part_is_split_from_its_layer_by_the_longest_ending():
    assert parts.split("a.processor.to_q_lora.up.weight") == ("a.processor.to_q", "lora_up")
    assert parts.split("a.lora.up.weight") == ("a", "lora_up")
    assert parts.split("lora_unet_lora_up.lora_up.weight") == ("lora_unet_lora_up", "lora_up")
    assert parts.split("a.lora_B.default.weight") == ("a", "lora_up")
    assert parts.split(".alpha") is None
    assert parts.split("a.weight") is None


def test_dense_updates_stay_dense(tmp_path):
    assert read(tmp_path, {"x.diff": UP}).layers["x"] == Matrix(Full(UP))


def test_the_processors_of_flux_loras_are_read(tmp_path):
    """As XLabs and USO save them: the names that `comfy.lora_convert` brings to Flux's own."""
    names = [f"double_blocks.0.processor.{part}_lora{n}" for part in ("qkv", "proj") for n in (1, 2)]
    down, up = torch.randn(2, 5), torch.randn(6, 2)
    tensors = {
        f"{name}.{end}.weight": value + n for n, name in enumerate(names) for end, value in (("down", down), ("up", up))
    }
    save_file(tensors, tmp_path / "x.safetensors")
    layers = load(tmp_path / "x.safetensors").layers
    assert sorted(layers) == sorted(names)
    for n, name in enumerate(names):
        assert_close(layers[name].dense(), (up + n) @ (down + n))
    named = respelled(load(tmp_path / "x.safetensors"), base="Flux")
    assert set(named.layers) == {
        f"diffusion_model.double_blocks.0.{s}_attn.{p}" for s in ("img", "txt") for p in ("qkv", "proj")
    }
