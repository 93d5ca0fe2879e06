"""What can be read is read; what cannot is named, counted, and told, by loading and by the header alone."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from krona_ops import Adapter, Full, Kron, LowRank, Matrix, load, save
from krona_ops.__main__ import main
from krona_ops.errors import FormatError
from krona_ops.formats.inspection import inspect_header
from krona_ops.operations.blend import blend
from krona_ops.operations.report import report
from krona_ops.updates.control import Enlarged, Replacement
from krona_ops.updates.delta import Dora
from krona_ops.updates.rows import rows, thirds

W1, W2 = torch.randn(2, 3), torch.randn(5, 4)
UP, DOWN = torch.randn(6, 4), torch.randn(4, 5)
GOOD = {"good.lokr_w1": W1, "good.lokr_w2": W2}
PEFT = "base_model.model."


def write(path, tensors, metadata=None):
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, path, metadata or {})
    return path


def ones(*shape):
    return torch.ones(shape)


BESIDE = {
    "lightx2v": ({"diffusion_model.blocks.0.diff_m": ones(1, 6, 8)}, "lightx2v's diff_m", "diffusion_model.blocks.0"),
    "OFT": ({"x.oft_blocks": ones(2, 3, 3), "x.alpha": ones()}, "OFT", "x"),
    "OFT with a scale of each row": ({"x.oft_blocks": ones(2, 3, 3), "x.rescale": ones(6, 1)}, "OFT", "x"),
    "BOFT": ({"x.oft_blocks": ones(2, 2, 3, 3), "x.alpha": ones()}, "BOFT", "x"),
    "OFT of PEFT": ({"x.oft_R.default.weight": ones(2, 3)}, "OFT", "x"),
    "BOFT of PEFT": ({"x.boft_R": ones(2, 2, 3, 3), "x.boft_s": ones(6, 1)}, "BOFT", "x"),
    "GLoRA": ({f"x.{part}.weight": ones(2, 2) for part in ("a1", "a2", "b1", "b2")}, "GLoRA", "x"),
    "IA3 of LyCORIS": ({"x.weight": ones(1, 5), "x.on_input": ones().bool(), "x.alpha": ones()}, "(IA)³", "x"),
    "IA3 of PEFT": ({"x.ia3_l": ones(5, 1)}, "(IA)³", "x"),
    "T-LoRA": ({"x.q_layer.weight": ones(2, 5), "x.p_layer.weight": ones(5, 2), "x.lambda_layer": ones(1, 2)}, "T-LoRA", "x"),
    "VeRA": ({"x.vera_lambda_b": ones(5), "x.vera_lambda_d": ones(2)}, "VeRA", "x"),
    "FourierFT": ({"x.fourierft_spectrum": ones(9)}, "FourierFT", "x"),
    "modules_to_save": ({"x.modules_to_save.default.weight": ones(5, 5)}, "whole weights (PEFT's modules_to_save)", "x"),
    "a whole weight": ({"norm_out.weight": ones(5), "norm_out.bias": ones(5)}, "whole weights", "norm_out"),
    "an embedding": ({"emb_params": ones(2, 8)}, "an embedding", "emb_params"),
    "a bundled embedding": ({"bundle_emb.robot.clip_l": ones(2, 8)}, "an embedding", "bundle_emb.robot.clip_l"),
    "an orphan alpha": ({"x.alpha": ones()}, "alpha without an update", "x"),
    "an orphan norm": ({"x.dora_scale": ones(5, 1), "x.alpha": ones()}, "alpha and dora_scale without an update", "x"),
    "an empty layer": ({"x.lora_up.weight": ones(6, 0), "x.lora_down.weight": ones(0, 5)}, "LoRA", "x"),
    "a rank of zero": ({"x.lokr_w1": W1, "x.lokr_w2_a": ones(6, 0), "x.lokr_w2_b": ones(0, 5)}, "LoKr", "x"),
    "half a layer": ({"x.lokr_w1": W1}, "LoKr", "x"),
    "a pair that does not fit": ({"x.lora_up.weight": UP, "x.lora_down.weight": ones(3, 5)}, "LoRA", "x"),
    "a norm that does not fit": ({"x.lokr_w1": W1, "x.lokr_w2": W2, "x.dora_scale": ones(7)}, "LoKr", "x"),
    "two methods": ({"x.lokr_w1": W1, "x.lokr_w2": W2, "x.lora_up.weight": UP}, "LoKr and LoRA", "x"),
    "two adapters": ({f"x.lora_{side}.{name}.weight": w for name in "ab" for side, w in (("A", DOWN), ("B", UP))}, "LoRA", "x"),
    "AdaLoRA": ({"x.lora_A": DOWN, "x.lora_B": UP, "x.lora_E": ones(4, 1)}, "AdaLoRA", "x"),
    "quantised": ({"x.lokr_w1": W1.to(torch.float8_e4m3fn), "x.lokr_w2": W2, "x.lokr_w1.weight_scale": ones()}, "quantised LoKr", "x"),
    "no number": ({"x.lokr_w1": W1, "x.lokr_w2_a": UP, "x.lokr_w2_b": DOWN, "x.alpha": torch.tensor(float("nan"))}, "LoKr", "x"),
    "integers": ({"x.lokr_w1": W1.to(torch.int8), "x.lokr_w2": W2}, "LoKr", "x"),
    "a mystery": ({"x.mystery": ones(7)}, 'tensors called "mystery"', "x.mystery"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BESIDE)
def test_the_rest_is_read_and_the_stranger_is_named(kind, tmp_path):
    strange, method, layer = BESIDE[kind]
    path = write(tmp_path / "x.safetensors", {**GOOD, **strange})
    adapter = load(path)
    assert dict(adapter.layers) == {"good": Kron(Full(W1), Full(W2))}
    assert [(one.method, one.names) for one in adapter.left_out if layer in one.names] == [(method, (layer,))]
    assert any(note.startswith(f"Left out: {method} (1: {layer})") for note in adapter.notes)
    if kind != "no number":  # what only a value tells
        seen = inspect_header(path)
        assert (len(seen.layers), seen.left_out) == (1, adapter.left_out)


@pytest.mark.parametrize("kind", BESIDE)
def test_a_file_of_nothing_else_is_an_error_that_names_the_method(kind, tmp_path):
    strange, method, layer = BESIDE[kind]
    path = write(tmp_path / "x.safetensors", strange)
    with pytest.raises(FormatError) as caught:
        load(path)
    assert layer in str(caught.value)
    named = layer if method.startswith(("LoKr", "LoRA", "alpha")) and "embedding" not in method else method
    assert named in str(caught.value)
    assert "whole model" not in str(caught.value)


def test_two_methods_that_cannot_be_read_are_both_told_with_their_counts(tmp_path):
    tensors = {**{f"a{n}.oft_blocks": ones(2, 3, 3) for n in range(3)}, "b.a1.weight": ones(2, 2)}
    with pytest.raises(
        FormatError, match=r"None of it can be read: OFT \(3\), GLoRA \(1\)\. ComfyUI's own Load LoRA applies"
    ):
        load(write(tmp_path / "x.safetensors", tensors))


@pytest.mark.parametrize("lora", [{}, {"x.alpha": ones()}, {"x.lora_up.weight": UP, "x.lora_down.weight": DOWN}])
def test_a_whole_model_is_called_one(lora, tmp_path):
    weights = {f"model.diffusion_model.input_blocks.{n}.0.weight": ones(4, 4) for n in range(9)}
    with pytest.raises(FormatError, match="It is a whole model"):
        load(write(tmp_path / "x.safetensors", {**weights, **lora}))


def test_a_layer_of_which_only_a_part_is_good_is_left_out_whole(tmp_path):
    path = write(tmp_path / "x.safetensors", {**GOOD, "x.lokr_w1": W1, "x.diff_b": ones(6)})
    assert list(load(path).layers) == ["good"]


def test_it_is_told_after_every_operation_and_at_the_prompt(tmp_path, capsys):
    path = write(tmp_path / "x.safetensors", {**GOOD, "x.oft_blocks": ones(2, 3, 3)})
    adapter = load(path)
    for made in (adapter.scaled(0.5), adapter.to(dtype=torch.float64), blend([(adapter, 0.5)]), report(adapter)):
        assert made.left_out == adapter.left_out
        assert made.notes[-1].startswith("Left out: OFT (1: x)")
    out = tmp_path / "y.safetensors"
    for arguments in (
        ["inspect", path],
        ["inspect", path, "--tensors"],
        ["convert", path, "-o", out, "--keep-names"],
        ["blend", f"{path}=0.5", "-o", out, "--overwrite", "--keep-names"],
    ):
        assert main([str(argument) for argument in arguments]) == 0
        assert capsys.readouterr().out.count("Left out: OFT (1: x). ComfyUI's own Load LoRA applies them") == 1


def test_one_foreign_tensor_in_a_file_of_peft_changes_no_scale(tmp_path):
    tensors = {f"{PEFT}x.lokr_w1": W1, f"{PEFT}x.lokr_w2": W2}
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LOKR", "r": 8, "alpha": 4, "target_modules": ["x"], "rank_dropout_scale": False})
    )
    for name, more in enumerate(
        ({}, {"mystery": ones(3)}, {f"{PEFT}head.modules_to_save.weight": ones(3, 3)}, {"y.alpha": ones()})
    ):
        adapter = load(write(tmp_path / f"{name}.safetensors", {**tensors, **more}))
        assert dict(adapter.layers) == {f"{PEFT}x": Kron(Full(W1), Full(W2), 0.5)}


@pytest.mark.parametrize("name", ["default", "my_adapter", "2"])
def test_the_name_of_pefts_adapter_is_no_part_of_the_layers(name, tmp_path):
    tensors = {
        f"a.lora_A.{name}.weight": DOWN, f"a.lora_B.{name}.weight": UP, f"a.lora_magnitude_vector.{name}.weight": ones(6),
        f"b.lora_down.{name}.weight": DOWN, f"b.lora_up.{name}.weight": UP, f"c.lokr_w1.{name}": W1, f"c.lokr_w2.{name}": W2,
        f"b.lora_B.{name}.bias": ones(6),
    }  # fmt: skip
    adapter = load(write(tmp_path / "x.safetensors", tensors))
    assert adapter.left_out == ()
    assert dict(adapter.layers) == {
        "a": Dora(Matrix(LowRank(UP, DOWN)), ones(6, 1)), "b": Matrix(LowRank(UP, DOWN)), "b.bias": Matrix(Full(ones(6))),
        "c": Kron(Full(W1), Full(W2)),
    }  # fmt: skip


SPELLED_TWICE = [
    ("lora_unet_a_b.c_to_q", "lora_unet_a_b_c_to_q"),
    ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"),
    ("lora_unet_output_blocks_5_1_proj_in", "lora_unet_up_blocks_1_attentions_2_proj_in"),
    ("lora_unet_middle_block_1_proj_in", "lora_unet_mid_block_attentions_0_proj_in"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "other"), SPELLED_TWICE)
@pytest.mark.parametrize("moved", [("magnitude",), ("alpha",), ("alpha", "magnitude"), ("lora_down.weight",)])
def test_parts_of_one_layer_are_found_under_two_spellings(name, other, moved, tmp_path):
    parts = {"lora_up.weight": UP, "lora_down.weight": DOWN, "alpha": torch.tensor(2.0), "magnitude": torch.rand(6)}
    tensors = {f"{other if part in moved else name}.{part}": value for part, value in parts.items()}
    adapter = load(write(tmp_path / "x.safetensors", tensors))
    (delta,) = adapter.layers.values()
    assert delta == Dora(Matrix(LowRank(UP, DOWN), 0.5), parts["magnitude"][:, None])
    assert adapter.left_out == ()
    if "lora_down.weight" not in moved:
        assert list(adapter.layers) == [name]


def test_layers_that_only_look_alike_stay_apart(tmp_path):
    tensors = {"a.b_c.lokr_w1": W1, "a.b_c.lokr_w2": W2, "a_b.c.lokr_w1": W1, "a_b.c.lokr_w2": W2}
    assert set(load(write(tmp_path / "x.safetensors", tensors)).layers) == {"a.b_c", "a_b.c"}


def test_a_replacement_and_a_larger_weight_go_through_a_file(tmp_path):
    tensors = {
        "norm.set_weight": torch.rand(6), "x.lora_up.weight": UP, "x.lora_down.weight": DOWN, "x.reshape_weight": torch.tensor([6, 5]),
        "x.alpha": torch.tensor(4.0),
    }  # fmt: skip
    adapter = load(write(tmp_path / "x.safetensors", tensors))
    assert dict(adapter.layers) == {
        "norm": Replacement(tensors["norm.set_weight"]),
        "x": Enlarged(Matrix(LowRank(UP, DOWN))),
    }
    assert load(save(adapter, tmp_path / "y.safetensors")).layers == adapter.layers
    half = blend([(adapter, 0.5)]).layers
    small, norm = torch.rand(6, 3), torch.rand(6)
    torch.testing.assert_close(half["x"].add_to(small.clone()), torch.cat([small, ones(6, 2) * 0], 1) + 0.5 * UP @ DOWN)
    assert torch.equal(half["norm"].add_to(norm), tensors["norm.set_weight"])  # ComfyUI's: all or nothing
    assert {layer.name: layer.form for layer in report(adapter).layers} == {
        "norm": "replacement",
        "x": "LoRA 4, enlarges the weight",
    }


def test_a_control_lora_of_black_forest_labs(tmp_path):
    tensors = {
        "img_in.lora_A.weight": DOWN, "img_in.lora_B.weight": UP, "img_in.lora_B.bias": ones(6),
        "single_blocks.0.norm.key_norm.scale": ones(3), "single_blocks.0.norm.query_norm.scale": ones(3),
    }  # fmt: skip
    adapter = load(write(tmp_path / "x.safetensors", tensors))
    assert adapter.left_out == ()
    assert {name: type(delta) for name, delta in adapter.layers.items()} == {
        "img_in": Enlarged, "img_in.bias": Matrix, "single_blocks.0.norm.key_norm": Replacement,
        "single_blocks.0.norm.query_norm": Replacement,
    }  # fmt: skip


@pytest.mark.parametrize("outer", [6, 4, 3])
@pytest.mark.parametrize("norm", [None, "of all rows", "of its rows"])
def test_row_offset_is_where_a_projection_begins(outer, norm, tmp_path):
    """q of 8 rows, k and v of 2 each; with blocks of 2, 3 and 4 rows the cuts fall between and inside them."""
    w1, w2, norms = torch.randn(outer, 2), torch.randn(12 // outer, 4), torch.rand(12, 1)
    tensors, product = {}, torch.kron(w1, w2)
    assert thirds((12, 8)) == ((0, 8), (8, 2), (10, 2))
    for kind, (start, length) in zip("qkv", thirds((12, 8)), strict=True):
        tensors |= {
            f"a.to_{kind}.lokr_w1": w1,
            f"a.to_{kind}.lokr_w2": w2,
            f"a.to_{kind}.row_offset": torch.tensor(start),
        }
        if norm:
            tensors[f"a.to_{kind}.dora_scale"] = norms if norm == "of all rows" else norms[start : start + length]
    path = write(tmp_path / "x.safetensors", tensors)
    adapter = load(path)
    assert {layer.name[-1]: layer.shape[0] for layer in inspect_header(path).layers} == {"q": 8, "k": 2, "v": 2}
    for kind, (start, length) in zip("qkv", thirds((12, 8)), strict=True):
        delta = adapter.layers[f"a.to_{kind}"]
        if norm:
            assert torch.equal(delta.magnitude, norms[start : start + length])
            delta = delta.delta
        torch.testing.assert_close(delta.dense(), product[start : start + length])
    again = load(save(adapter.scaled(1.0), tmp_path / "y.safetensors"))
    weight = torch.randn(2, 8)
    for name in ("a.to_k", "a.to_v"):
        torch.testing.assert_close(
            again.layers[name].add_to(weight.clone()), adapter.layers[name].add_to(weight.clone())
        )
    blend([(adapter, 0.5), (again, 0.5)])
    report(adapter)


def test_three_projections_of_one_product_are_saved_each_with_its_own_numbers(tmp_path):
    whole = Kron(Full(torch.randn(4, 2)), Full(torch.randn(3, 4)))
    layers = {f"a.to_{kind}": rows(whole, *part) for kind, part in zip("qkv", thirds((12, 8)), strict=True)}
    again = load(save(Adapter(layers), tmp_path / "x.safetensors")).layers
    for name, delta in layers.items():
        torch.testing.assert_close(again[name].dense(), delta.dense())


TYPES = {
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F64": torch.float64, "BF16": torch.bfloat16, "F16": torch.float16,
}  # fmt: skip


def raw_file(path, entries):
    """Of types that the library does not write."""
    header, body = {}, b""
    for key, (dtype, shape, data) in entries.items():
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def stored(tensor, dtype):
    return dtype, list(tensor.shape), tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("other", ["F32", "F64", "F8_E4M3"])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_that_torch_holds_goes_through_every_operation(dtype, other, tmp_path):
    a, b = (torch.rand(4, 4) + 0.5).to(TYPES[dtype]), (torch.rand(4, 6) + 0.5).to({**TYPES, "F32": torch.float32}[other])
    entries = {
        "k.lokr_w1": (a, dtype),
        "k.lokr_w2": (b, other),
        "l.lora_up.weight": (a, dtype),
        "l.lora_down.weight": (b, other),
    }
    path = raw_file(tmp_path / "x.safetensors", {key: stored(*value) for key, value in entries.items()})
    expected = {"k": torch.kron(a.double(), b.double()), "l": a.double() @ b.double()}
    adapter = load(path)
    assert len(inspect_header(path).layers) == len(report(adapter).layers) == 2
    scaled = adapter.scaled(0.3)
    blended = blend([(adapter, 0.1), (load(path), 0.2)])
    files = [
        load(save(scaled, tmp_path / f"{format}.safetensors", format, rank=rank))
        for format, rank in (("lokr", None), ("lora", 16))
    ]
    for name, whole in expected.items():
        for result in (scaled, blended, *files):
            torch.testing.assert_close(result.layers[name].dense().double(), 0.3 * whole, rtol=1e-4, atol=1e-5)
        for weight in (torch.zeros_like(whole), torch.zeros_like(whole).float()):
            torch.testing.assert_close(adapter.layers[name].add_to(weight).double(), whole, rtol=1e-5, atol=1e-6)
        x = torch.rand(3, whole.shape[1])
        torch.testing.assert_close(adapter.layers[name].apply(x).double(), x.double() @ whole.mT, rtol=1e-4, atol=1e-5)
    assert load(save(adapter, tmp_path / "y.safetensors")).layers["k"].dense().equal(adapter.layers["k"].dense())


@pytest.mark.parametrize(("dtype", "size"), [("F6_E2M3", 18), ("F6_E3M2", 18)])
def test_a_type_that_torch_has_not_is_named(dtype, size, tmp_path):
    packed = {"x.lokr_w1": (dtype, [4, 6], bytes(size)), "x.lokr_w2": stored(W2, "F32")}
    for read in (load, inspect_header):
        with pytest.raises(FormatError, match=f"x: lokr_w1 is stored as {dtype}, numbers that PyTorch cannot hold"):
            read(raw_file(tmp_path / "x.safetensors", packed))
        (left,) = read(
            raw_file(tmp_path / "y.safetensors", {**packed, **{k: stored(v, "F32") for k, v in GOOD.items()}})
        ).left_out
        assert (left.method, left.names) == ("LoKr", ("x",))


def test_two_numbers_in_a_byte_are_read_and_saved_exactly(tmp_path):
    """The sixteen numbers of the OCP's table; PyTorch has the first in the lower half."""
    numbers = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
    codes = [(5 * n + 3) % 16 for n in range(24)]
    data = bytes(low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True))
    path = raw_file(tmp_path / "x.safetensors", {"x.lokr_w1": ("F4", [4, 6], data), "x.lokr_w2": stored(W2, "F32")})
    adapter = load(path)
    first = torch.tensor([numbers[code] for code in codes]).view(4, 6)
    assert adapter.layers["x"].dense().equal(torch.kron(first, W2))
    assert inspect_header(path).layers[0].factors == ((4, 6), tuple(W2.shape))
    assert inspect_header(path).dtypes["F4"] == 1
    again = load(save(adapter, tmp_path / "y.safetensors"))
    assert again.layers["x"].dense().equal(adapter.layers["x"].dense())


def test_a_number_alone_in_half_a_byte_is_named(tmp_path):
    odd = {"x.lokr_w1": ("F4", [2, 3], bytes(3)), "x.lokr_w2": stored(W2, "F32")}
    for read in (load, inspect_header):
        with pytest.raises(FormatError, match="x: lokr_w1 is stored as F4, numbers that PyTorch cannot hold"):
            read(raw_file(tmp_path / "x.safetensors", odd))


def test_a_replaced_weight_at_strength_0_is_named_when_it_is_not_written(tmp_path, capsys):
    tensors = {"norm.set_weight": torch.rand(6), "x.lora_up.weight": UP, "x.lora_down.weight": DOWN}
    save_file(tensors, tmp_path / "a.safetensors")
    for strength, is_named in (("0", True), ("0.5", False)):
        there = tmp_path / f"{strength}.safetensors"
        assert (
            main(["convert", str(tmp_path / "a.safetensors"), "-o", str(there), "--strength", strength, "--keep-names"])
            == 0
        )
        assert ("Left out: replaced weights (1: norm)." in capsys.readouterr().out) == is_named
        assert ("norm" in load(there).layers) != is_named
