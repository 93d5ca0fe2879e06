"""Names that ComfyUI knows, from the shipped tables: what conversion writes, and what it refuses.
tests/host/test_conversion.py asks the host."""

import pytest
import torch
from torch.testing import assert_close

from krona_ops import Adapter, Full, Kron, Matrix, Sum, load
from krona_ops.__main__ import main
from krona_ops.errors import FormatError
from krona_ops.files import save
from krona_ops.names.core_names import bases
from krona_ops.names.template import filled, template
from krona_ops.operations.respell import respelled, unified
from krona_ops.targets.rules import TargetRule, select
from krona_ops.updates.factor import LowRank
from krona_ops.updates.joined import joined


def kron(out=8, into=8):
    return Kron(Full(torch.randn(2, 2)), Full(torch.randn(out // 2, into // 2)))


def lora(out=8, into=8, rank=2):
    return Matrix(LowRank(torch.randn(out, rank), torch.randn(rank, into)))


@pytest.mark.parametrize(
    ("name", "pattern", "numbers"),
    [
        ("double_blocks.3.img_mlp.0", "double_blocks.#.img_mlp.0", ("3",)),
        ("lora_unet_input_blocks_4_1_transformer_blocks_10_attn1_to_q", "lora_unet_input_blocks_#_1_transformer_blocks_#_attn1_to_q", ("4", "10")),
        ("blocks.block12.blocks.0.block.attn.to_q.0", "blocks.block#.blocks.#.block.attn.to_q.0", ("12", "0")),
        ("input_blocks.1.0.in_layers.2", "input_blocks.#.0.in_layers.2", ("1",)),
    ],
)  # fmt: skip
def test_a_template_hides_the_numbers_of_blocks_alone(name, pattern, numbers):
    assert template(name) == (pattern, numbers)
    assert filled(pattern, numbers) == name


QWEN = ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.img_mlp.net.0.proj")
WAN = ("blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.1.attn2.to_k")
WAN_NATIVE = ("blocks.0.self_attn.q", "blocks.1.cross_attn.o", "blocks.1.cross_attn.k")


@pytest.mark.parametrize(
    "prefix", ["transformer.", "base_model.model.", "model.diffusion_model.", "diffusion_model.", "lycoris_", "lora_unet_"]
)
@pytest.mark.parametrize("format", ["lokr", "kohya"])
@pytest.mark.parametrize(("theirs", "native"), [(QWEN, QWEN), (WAN, WAN_NATIVE)])
def test_what_is_written_is_a_name_of_the_only_model_that_it_fits(prefix, format, theirs, native):
    names = [prefix + (name.replace(".", "_") if prefix.endswith("_") else name) for name in theirs]
    written = respelled(Adapter({name: kron() for name in names}), format)
    base = next(b for b in bases() if ("QwenImage" if theirs is QWEN else "WAN21_T2V") in b.names)
    assert [base.loads(name).path for name in written.layers] == list(native)
    if format == "kohya":
        assert all(name.startswith("lora_unet_") and "." not in name for name in written.layers)


def test_a_name_that_several_kinds_of_model_have_takes_a_spelling_that_all_of_them_load_or_asks():
    flux = Adapter({"transformer.single_transformer_blocks.0.attn.to_q": kron()}, {"ss_base_model_version": "flux1"})
    assert next(iter(respelled(flux, "kohya").layers)).startswith(("lycoris_single", "lora_transformer_single"))
    adapter = Adapter({"base_model.model.transformer_blocks.0.attn.to_q": kron()})
    with pytest.raises(FormatError, match=r"several kinds of base model.*Save KronA.*--base"):
        respelled(adapter, "kohya")
    assert list(respelled(adapter, "kohya", base="QwenImage").layers) == ["lora_unet_transformer_blocks_0_attn_to_q"]


def test_a_name_that_no_model_has_is_an_error_that_says_what_to_do(tmp_path, capsys):
    save(Adapter({"base_model.model.my.own.layer": kron()}), tmp_path / "a.safetensors")
    there = str(tmp_path / "b.safetensors")
    for format in ("lokr", "kohya", "peft"):
        assert main(["convert", str(tmp_path / "a.safetensors"), "-o", there, "--format", format]) == 2
        message = capsys.readouterr().err
        assert "nothing loads" in message
        assert "--keep-names" in message
        assert "Connect the model" in message
    assert main(["convert", str(tmp_path / "a.safetensors"), "-o", there, "--keep-names"]) == 0
    assert list(load(there).layers) == ["base_model.model.my.own.layer"]


def test_a_model_newer_than_the_tables_keeps_its_own_names():
    adapter = Adapter({"diffusion_model.brand_new.0.mixer.q": kron()})
    assert list(respelled(adapter).layers) == ["diffusion_model.brand_new.0.mixer.q"]
    assert list(respelled(adapter, "kohya").layers) == ["lora_unet_brand_new_0_mixer_q"]


@pytest.mark.parametrize(
    ("name", "format", "written"),
    [
        ("text_encoders.clip_l.transformer.text_model.encoder.layers.3.mlp.fc1", "kohya", "lora_te1_text_model_encoder_layers_3_mlp_fc1"),
        ("text_encoder_2.text_model.encoder.layers.3.mlp.fc1", "kohya", "lora_te2_text_model_encoder_layers_3_mlp_fc1"),
        ("lora_te2_text_model_encoder_layers_3_mlp_fc1", "lokr", "lora_te2_text_model_encoder_layers_3_mlp_fc1"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out", "kohya", "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", "lokr", "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"),
    ],
)  # fmt: skip
def test_unets_and_text_encoders(name, format, written):
    assert list(respelled(Adapter({name: kron(1280, 1280)}), format).layers) == [written]


def test_parts_without_a_name_become_the_whole_weight_exactly():
    names = [f"transformer_blocks.0.attn.to_{p}" for p in "qkv"] + [
        "context_embedder.token_refiner.refiner_blocks.0.attn.to_out.0"
    ]
    adapter = Adapter({name: lora() for name in names})
    layers = respelled(adapter, "lokr", base="HunyuanVideo").layers
    whole = layers["diffusion_model.double_blocks.0.img_attn.qkv"]
    assert_close(whole.dense(), torch.cat([adapter.layers[name].dense() for name in names[:3]]))
    assert isinstance(whole.factor, LowRank)


def test_products_of_parts_that_have_no_name_are_an_error_that_says_what_helps(tmp_path):
    adapter = Adapter({f"transformer_blocks.0.attn.to_{p}": kron(96, 64) for p in "qkv"})
    whole = respelled(adapter, "lokr", base="HunyuanVideo")
    for format in ("lokr", "kohya", "peft"):
        with pytest.raises(
            FormatError, match=r"img_attn\.qkv: .* several layers, such as q, k and v\. Save it as a LoRA of some rank"
        ):
            save(whole, tmp_path / "x.safetensors", format)
    saved = load(save(whole, tmp_path / "x.safetensors", "lora", rank=96))
    assert_close(next(iter(saved.layers.values())).dense(), torch.cat([d.dense() for d in adapter.layers.values()]))
    overlapping = Adapter({"x": Sum((kron(), kron()))})
    with pytest.raises(FormatError, match=r"a sum of 2 updates\. Bring each layer"):
        save(overlapping, tmp_path / "x.safetensors")


PAIRS = [
    ("lora_unet_double_blocks_0_img_attn_proj", "transformer.transformer_blocks.0.attn.to_out.0"),
    ("lora_unet_input_blocks_4_1_proj_in", "unet.down_blocks.1.attentions.0.proj_in"),
    ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "text_encoder.text_model.encoder.layers.0.mlp.fc1"),
    ("diffusion_model.blocks.3.self_attn.q", "base_model.model.blocks.3.attn1.to_q"),
]


@pytest.mark.parametrize(("one", "other"), [*PAIRS, *(pair[::-1] for pair in PAIRS)])
def test_two_names_of_one_weight_become_the_first(one, other):
    adapters = unified([Adapter({one: lora()}), Adapter({other: lora()})])
    assert [list(adapter.layers) for adapter in adapters] == [[one], [one]]


def test_a_weight_whole_in_one_file_and_in_parts_in_another_is_one():
    whole = Adapter({"lora_unet_double_blocks_0_img_attn_qkv": lora(24)})
    parts = Adapter({f"transformer.transformer_blocks.0.attn.to_{p}": lora() for p in "qkv"})
    first, second = unified([whole, parts])
    assert set(first.layers) == set(second.layers) == {"lora_unet_double_blocks_0_img_attn_qkv"}
    assert_close(next(iter(second.layers.values())).dense(), torch.cat([d.dense() for d in parts.layers.values()]))


def test_loras_of_a_sum_become_one_of_their_ranks_sum():
    a, b = lora(rank=2), lora(rank=3)
    both = joined(Sum((a.scaled(0.5), b)))
    assert both.factor.up.shape[1] == 5
    assert_close(both.dense(), 0.5 * a.dense() + b.dense())


NEWER = {
    "SenseNova U1": ([f"language_model.model.layers.0.self_attn.{p}_proj_mot_gen" for p in "qkvo"],
                     [f"language_model.model.layers.0.self_attn.{p}_proj" for p in "qkvo"]),
    "Qwen-Image 2.1": ([f"transformer_blocks.0.attn.{leaf}" for leaf in ("to_q", "to_k", "to_v", "to_out.0")],
                       ["transformer_blocks.0.mlp.gate_up", "txt_in.in_layer", "modulation.1"]),
    "Kandinsky 6": ([f"visual_transformer_blocks.0.{a}.{leaf}" for a in ("videoT.self_attention", "va_cross_attention", "videoT.cross_attention")
                     for leaf in ("to_query", "to_key", "to_value", "out_layer")],
                    ["visual_transformer_blocks.0.feed_forward.in_layer", "visual_transformer_blocks.0.modulation.out_layer"]),
    "Prism": ([f"{block}.{a}.{p}" for block in ("fusion_blocks.0.video_block", "fusion_blocks.0.audio_block", "video_dit_2.blocks.39")
               for a in ("self_attn", "cross_attn") for p in "qkvo"], ["fusion_blocks.0.video_block.ffn.0"]),
    "YuE2": ([f"model.layers.0.nar_self_attn.{p}_proj" for p in "qkvo"], [f"model.layers.0.self_attn.{p}_proj" for p in "qkvo"]),
}  # fmt: skip


@pytest.mark.parametrize("family", NEWER)
def test_default_targets_are_the_attention_that_generates(family):
    """Names from the public sources: SenseNova-U1's LoRA, diffusers' Qwen-Image 2.1 and Kandinsky 6,
    ComfyUI's Prism, YuE2's checkpoint."""
    wanted, others = NEWER[family]
    targets = select({f"diffusion_model.{name}": (128, 128) for name in (*others, *wanted)})
    assert {target.name.removeprefix("diffusion_model.") for target in targets} == set(wanted)


def test_the_expert_that_reads_is_adapted_when_a_pattern_asks_for_it():
    wanted, others = NEWER["SenseNova U1"]
    weights = dict.fromkeys((*others, *wanted), (128, 128))
    assert {t.name for t in select(weights, (TargetRule(pattern=r"_proj$"),))} == set(others)
    feed_forward = {"layers.0.mlp.up_proj": (128, 128), "layers.0.mlp_mot_gen.up_proj": (128, 128)}
    assert [t.name for t in select(feed_forward, (TargetRule(projections=()),))] == ["layers.0.mlp_mot_gen.up_proj"]
