"""What names say: projections in every dialect, prefixes, the base model that layers look like."""

import pytest
import torch

from krona_ops import Dora, Kron, Matrix, Sum
from krona_ops.errors import ShapeError
from krona_ops.names.families import guess
from krona_ops.names.places import block_of, path_of, text_encoder_of
from krona_ops.names.spellings import flat, part_names, projection, spellings, split_names, usual_names
from krona_ops.updates.factor import Full, Hadamard, LowRank, Tucker
from krona_ops.updates.rows import Rows, rows

PROJECTIONS = {
    "input_blocks.1.1.transformer_blocks.0.attn1.to_q": "q",
    "input_blocks.1.1.transformer_blocks.0.attn2.to_out.0": "out",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_k_lora": "k",
    "double_blocks.0.img_attn.qkv": "qkv",
    "double_blocks.0.txt_attn.proj": "out",
    "single_blocks.7.linear1": "qkv",
    "single_blocks.7.linear2": "out",
    "single_transformer_blocks.3.attn.to_qkv_mlp_proj": "qkv",
    "joint_blocks.0.x_block.attn2.qkv": "qkv",
    "double_layers.0.attn.w1q": "q",
    "blocks.0.cross_attn.kv_linear": "kv",
    "blocks.0.cross_attn.k_img": "k",
    "blocks.block0.blocks.1.block.attn.to_v.0": "v",
    "blocks.0.attn_out": "out",
    "blocks.0.attn.proj_qkv.vid": "qkv",
    "double_stream_blocks.0.block.attn1.to_out_t": "out",
    "double_stream_layers.0.img_instruct_attn.processor.instruct_to_q": "q",
    "visual_transformer_blocks.0.cross_attention.to_value": "v",
    "transformer_blocks.0.attn.img_qkv": "qkv",
    "audio_injector.injector.3.o": "out",
    "text_model.encoder.layers.0.self_attn.out_proj": "out",
    "encoder.block.0.layer.0.SelfAttention.q": "q",
    "bert.encoder.layer.0.attention.self.query": "q",
    "bert.encoder.layer.0.attention.output.dense": "out",
}
NONE = (
    "time_embed.0", "input_blocks.1.1.proj_out", "down_blocks.0.attentions.0.proj_out",
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj", "out.2", "blocks.0.ffn.0", "blocks.0.attn.gate",
    "blocks.0.adaln_modulation_self_attn.1", "double_blocks.0.img_attn.norm.query_norm", "transformer_blocks.0.attn1.norm_q",
    "layers.0.attention_norm1", "single_blocks.0.modulation.lin", "first_stage_model.decoder.mid.attn_1.q", "cross_attention_proj.0",
    "bert.encoder.layer.0.output.dense", "pooler.q_proj", "t5_y_embedder.to_kv", "patch_embed.proj", "final_layer.linear",
)  # fmt: skip


@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize("spell", [str, lambda n: f"diffusion_model.{n}", lambda n: f"lora_unet_{n.replace('.', '_')}"])
def test_a_projection_is_known_in_every_spelling(name, spell):
    assert projection(spell(name)) == PROJECTIONS[name]


@pytest.mark.parametrize("name", NONE)
@pytest.mark.parametrize("spell", [str, lambda n: f"diffusion_model.{n}", lambda n: f"lora_unet_{n.replace('.', '_')}"])
def test_what_is_no_attention_projection_is_none(name, spell):
    assert projection(spell(name)) is None


@pytest.mark.parametrize(
    ("name", "bare", "owner", "encoder"),
    [
        ("lora_unet_blocks_0_self_attn_q", "blocks_0_self_attn_q", "model", None),
        ("lora_unet__blocks_0_cross_attn_k", "blocks_0_cross_attn_k", "model", None),  # Wan Fun
        ("lycoris_double_blocks_0_img_attn_qkv", "double_blocks_0_img_attn_qkv", None, None),
        ("lycoris_transformer_blocks_0_attn_to_q", "transformer_blocks_0_attn_to_q", None, None),
        ("lycoris_unet_mid_block_attentions_0", "mid_block_attentions_0", "model", None),
        ("lora_transformer_transformer_blocks_0_attn_to_q", "transformer_blocks_0_attn_to_q", "model", None),
        ("unet.base_model.model.transformer_blocks.0.attn1.to_q", "transformer_blocks_0_attn1_to_q", "model", None),
        ("base_model.model.model.diffusion_model.out.2", "out_2", "model", None),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", "text_model_encoder_layers_0_mlp_fc1", "text encoder", 1),
        ("lora_te2_text_projection", "text_projection", "text encoder", 2),
        (
            "text_encoder_3.encoder.block.0.layer.0.SelfAttention.q",
            "encoder_block_0_layer_0_selfattention_q",
            "text encoder",
            3,
        ),
        ("lycoris_text_encoder_2_text_projection", "text_projection", "text encoder", 2),
        ("base_model.model.text_model.encoder.layers.0.mlp.fc1", "text_model_encoder_layers_0_mlp_fc1", "text encoder", None),
        ("time_embed.0", "time_embed_0", None, None),
        ("text_fusion.projector", "text_fusion_projector", None, None),
        ("Hunyuan_video_I2V_lora_double_blocks_0_img_attn_qkv", "double_blocks_0_img_attn_qkv", "model", None),
        ("hunyuan_video_lora_double_blocks.0.img_attn.qkv", "double_blocks_0_img_attn_qkv", "model", None),
        ("pipe.dit.blocks.0.self_attn.q", "blocks_0_self_attn_q", "model", None),  # DiffSynth-Studio
        ("pipe_dit_blocks_0_self_attn_q", "blocks_0_self_attn_q", "model", None),
        ("transformer._orig_mod.blocks.0._orig_mod.self_attn.q", "blocks_0_self_attn_q", "model", None),  # torch.compile
        ("lora_unet__orig_mod_blocks_0__orig_mod_self_attn_q", "blocks_0_self_attn_q", "model", None),
        ("_fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module.ffn.2", "blocks_0_ffn_2", None, None),
        ("module.module.blocks.0.module.ffn.2", "blocks_0_ffn_2", None, None),
        ("net.model.base_model.model.blocks.0.ffn.2", "blocks_0_ffn_2", None, None),
        ("pipe.text_encoder_2._orig_mod.text_projection", "text_projection", "text encoder", 2),
        ("module.text_model.encoder.layers.0.mlp.fc1", "text_model_encoder_layers_0_mlp_fc1", "text encoder", None),
        ("cond_stage_model.transformer.text_model.final", "text_model_final", "text encoder", 1),
        ("model", "model", None, None),  # never is nothing left
        ("transformer.transformer_blocks.0.ff.net.2", "transformer_blocks_0_ff_net_2", "model", None),
        ("network_blocks_0", "blocks_0", None, None),
    ],
)
def test_prefixes_are_taken_off_and_understood(name, bare, owner, encoder):
    meaning = spellings(name)
    assert meaning.names[0] == flat(name)
    assert (meaning.names[-1], meaning.owner, meaning.encoder) == (bare, owner, encoder)


def test_what_most_tools_call_a_projection_is_known():
    assert set(usual_names("a.cross_attn.o_proj")) == {"a.cross_attn.to_out", "a.cross_attn.to_out.0"}
    assert set(usual_names("a.attn.to_q.0")) == {"a.attn.to_q"}
    assert not set(usual_names("a.cross_attn.k_img")), (
        "a stream that is added goes by other names than the attention's own"
    )
    assert ("a.attn.to_k", "k") in set(part_names("a.attn.qkv", "qkv"))
    assert ("a_attn_to_q", "a_attn_to_k", "a_attn_to_v") in set(split_names("a_attn_to_qkv"))
    assert ("a_attn_to_k", "a_attn_to_v") in set(split_names("a_attn_to_kv"))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", (640, 2048), "SDXL (cross attention width 2048)"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", (320, 768), "SD1.5 (cross attention width 768)"),
        ("base_model.model.mid_block.attentions.0.transformer_blocks.0.attn2.to_v", (1280, 1024), "SD2 (cross attention width 1024)"),
        ("lora_unet_single_blocks_0_linear1", (21504, 3072), "Flux.1 (or Chroma, HunyuanVideo, Flux.2 Klein 4B) (width 3072)"),
        ("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", (55296, 6144), "Flux.2 (width 6144)"),
        ("diffusion_model.joint_blocks.0.x_block.attn.qkv", (4608, 1536), "SD3 medium (width 1536)"),
        ("lycoris_blocks_0_self_attn_q", (5120, 5120), "Wan 2.1 or 2.2 (14B) (width 5120)"),
        ("transformer.transformer_blocks.0.attn.add_q_proj", (3072, 3072), "Qwen-Image (or the double blocks of Flux) (width 3072)"),
        ("diffusion_model.layers.0.attention.to_q", (3840, 3840), "Z-Image (width 3840)"),
        ("diffusion_model.layers.0.attention.qkv", (3840, 2304), "Lumina 2 (width 2304)"),
        ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", (768, 768), "a text encoder (CLIP-L, as in SD1.5 and SDXL)"),
        ("nowhere.in.particular", (4, 4), None),
    ],
)  # fmt: skip
def test_the_base_model_is_guessed_from_names_and_shapes(name, shape, expected):
    assert guess({name: shape}) == expected


def _randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


DELTAS = {
    "kron": Kron(Full(_randn(6, 5)), Full(_randn(4, 3)), scale=0.5),
    "kron of a low-rank A": Kron(LowRank(_randn(6, 2), _randn(2, 5)), Full(_randn(4, 3))),
    "kron whose rows of A are too tall": Kron(Full(_randn(4, 5)), Full(_randn(6, 3))),
    "shuffled": Kron(Full(_randn(6, 5)), Full(_randn(4, 3)), layout="shuffled"),
    "dense": Matrix(Full(_randn(24, 15)), scale=2.0),
    "low rank": Matrix(LowRank(_randn(24, 2), _randn(2, 15))),
    "tucker": Matrix(Tucker(_randn(2, 3, 3), _randn(2, 24), _randn(3, 15))),
    "hadamard": Matrix(Hadamard(LowRank(_randn(24, 2), _randn(2, 15)), Full(_randn(24, 15)))),
    "sum": Sum((Kron(Full(_randn(6, 5)), Full(_randn(4, 3))), Matrix(Full(_randn(24, 15))))),
}


@pytest.mark.parametrize("kind", DELTAS)
def test_rows_of_an_update_are_its_rows(kind):
    delta = DELTAS[kind]
    part = rows(delta, 8, 12)
    expected = delta.dense()[8:20]
    torch.testing.assert_close(part.dense(), expected)
    assert part.shape == tuple(expected.shape)
    torch.testing.assert_close(part.scaled(-2.0).dense(), -2 * expected)
    torch.testing.assert_close(part.add_to(torch.ones_like(expected), 3.0), 1 + 3 * expected)
    if expected.ndim == 2:
        x = _randn(7, 15)
        torch.testing.assert_close(part.apply(x), x @ expected.T)


def test_rows_keep_the_structure_where_the_factors_allow():
    assert isinstance(rows(DELTAS["kron"], 8, 12), Kron)
    assert isinstance(rows(DELTAS["kron whose rows of A are too tall"], 8, 12), Rows)
    assert isinstance(rows(DELTAS["shuffled"], 8, 12), Rows)


def test_rows_of_a_dora_update_need_a_norm_per_output():
    weight = _randn(24, 15)
    whole = Dora(DELTAS["kron"], _randn(24, 1).abs())
    expected = whole.add_to(weight.clone(), 0.7)[8:20]
    torch.testing.assert_close(rows(whole, 8, 12).add_to(weight[8:20].clone(), 0.7), expected)
    with pytest.raises(ShapeError, match="norm per input of a fused weight cannot be divided"):
        rows(Dora(DELTAS["kron"], _randn(1, 15).abs()), 8, 12)


@pytest.mark.parametrize(
    ("name", "path", "block", "encoder"),
    [
        ("pipe.dit.blocks.3.self_attn.q", "blocks.3.self_attn.q", "blocks.3", None),
        ("transformer._orig_mod.blocks.3._orig_mod.self_attn.q", "blocks.3.self_attn.q", "blocks.3", None),
        ("module.transformer.transformer_blocks.3.attn.to_q", "transformer_blocks.3.attn.to_q", "transformer_blocks.3", None),
        ("net.base_model.model.double_blocks.3.img_attn.qkv", "double_blocks.3.img_attn.qkv", "double_blocks.3", None),
        ("Hunyuan_video_I2V_lora_double_blocks_3_img_attn_qkv", "double_blocks.3.img_attn.qkv", "double_blocks.3", None),
        ("pipe.text_encoder_2.text_model.encoder.layers.3.mlp.fc1", "text_model.encoder.layers.3.mlp.fc1", "text_encoder_2.layers.3", "text_encoder_2"),
        ("text_encoder._orig_mod.text_model.encoder.layers.3.mlp.fc1", "text_model.encoder.layers.3.mlp.fc1", "text_encoder.layers.3", "text_encoder"),
    ],
)  # fmt: skip
def test_prefixes_say_nothing_about_where_a_layer_stands(name, path, block, encoder):
    assert (path_of(name), block_of(name), text_encoder_of(name)) == (path, block, encoder)
