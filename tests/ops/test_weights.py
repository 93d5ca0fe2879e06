"""Strengths by name: what each selector means, in every dialect, and exactness."""

import pytest
import torch

from krona_ops import Adapter, Full, Kron
from krona_ops.errors import ConfigError
from krona_ops.names.places import (
    attention_of,
    block_of,
    path_of,
    role_of,
    sorted_blocks,
    sorted_roles,
    text_encoder_of,
)
from krona_ops.operations.strengths import (
    PRESETS,
    WeightRule,
    Weights,
    apply_weights,
    describe_unmatched,
    format_weights,
    parse_weights,
    selectors,
)
from krona_ops.updates.delta import tensors

SD = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_q"
PLACES = [
    # name, block, role, text encoder
    (SD, "input_blocks.4", "cross q", None),
    ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_q", "input_blocks.4", "cross q", None),
    ("lora_unet_middle_block_1_transformer_blocks_3_attn1_to_out_0", "middle_block", "self out", None),
    ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v", "down_blocks.1.attentions.0", "self v", None),
    (
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_ff_net_0_proj",
        "down_blocks.1.attentions.0",
        "feed-forward",
        None,
    ),
    ("unet.mid_block.attentions.0.proj_in", "mid_block", "in/out projection", None),
    ("diffusion_model.output_blocks.3.0.in_layers.2", "output_blocks.3", "convolution", None),
    ("diffusion_model.double_blocks.12.img_attn.qkv", "double_blocks.12", "qkv", None),
    ("lora_unet_double_blocks_12_txt_attn_qkv", "double_blocks.12", "text qkv", None),
    ("lora_unet_double_blocks_12_txt_mlp_0", "double_blocks.12", "text feed-forward", None),
    ("transformer.single_transformer_blocks.7.attn.to_k", "single_transformer_blocks.7", "k", None),
    ("lycoris_transformer_blocks_3_attn_to_add_out", "transformer_blocks.3", "text out", None),
    ("diffusion_model.joint_blocks.3.x_block.attn2.qkv", "joint_blocks.3", "self qkv", None),
    ("diffusion_model.joint_blocks.3.context_block.attn.qkv", "joint_blocks.3", "text qkv", None),
    ("base_model.model.layers.5.attention.qkv", "layers.5", "qkv", None),
    ("diffusion_model.blocks.9.cross_attn.k", "blocks.9", "cross k", None),
    ("lora_unet_blocks_9_self_attn_o", "blocks.9", "self out", None),
    (
        "diffusion_model.txt_in.individual_token_refiner.blocks.0.self_attn.qkv",
        "txt_in.individual_token_refiner.blocks.0",
        "self qkv",
        None,
    ),
    ("diffusion_model.noise_refiner.1.attention.out", "noise_refiner.1", "out", None),
    ("diffusion_model.final_layer.linear", "final_layer", "other", None),
    ("diffusion_model.time_embed.0", "time_embed", "modulation", None),
    ("lora_te1_text_model_encoder_layers_3_self_attn_q_proj", "text_encoder.layers.3", "self q", "text_encoder"),
    ("lora_te2_text_model_encoder_layers_3_mlp_fc1", "text_encoder_2.layers.3", "feed-forward", "text_encoder_2"),
    ("clip_l.transformer.text_model.encoder.layers.11.self_attn.out_proj", "clip_l.layers.11", "self out", "clip_l"),
    ("t5xxl.transformer.encoder.block.3.layer.0.SelfAttention.q", "t5xxl.block.3", "self q", "t5xxl"),
    ("qwen25_7b.transformer.model.layers.3.self_attn.q_proj", "qwen25_7b.layers.3", "self q", "qwen25_7b"),
]


@pytest.mark.parametrize(("name", "block", "role", "encoder"), PLACES)
def test_a_name_says_where_its_layer_stands(name, block, role, encoder):
    assert (block_of(name), role_of(name), text_encoder_of(name)) == (block, role, encoder)


def test_both_spellings_of_a_path_are_one():
    assert path_of("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_q") == path_of(SD)
    assert (
        path_of("lora_te1_text_model_encoder_layers_3_self_attn_q_proj")
        == "text_model.encoder.layers.3.self_attn.q_proj"
    )
    assert attention_of("diffusion_model.output_blocks.3.0.in_layers.2") is None


def test_blocks_and_roles_come_in_the_order_of_the_model():
    blocks = [
        "output_blocks.0",
        "input_blocks.10",
        "text_encoder.layers.0",
        "input_blocks.9",
        "time_embed",
        "middle_block",
    ]
    assert sorted_blocks(blocks) == (
        "input_blocks.9",
        "input_blocks.10",
        "middle_block",
        "output_blocks.0",
        "time_embed",
        "text_encoder.layers.0",
    )
    assert sorted_blocks(["single_blocks.0", "double_blocks.18", "clip_l.layers.0", "single_blocks.0"]) == (
        "double_blocks.18",
        "single_blocks.0",
        "clip_l.layers.0",
    )
    assert sorted_roles(["other", "cross q", "out", "self q"]) == ("self q", "cross q", "out", "other")


Q, V = (
    "lora_unet_output_blocks_2_1_transformer_blocks_0_attn1_to_q",
    "unet.up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_v",
)
FLUX, TE = "lora_unet_double_blocks_12_img_attn_qkv", "lora_te1_text_model_encoder_layers_3_self_attn_q_proj"


@pytest.mark.parametrize(
    ("selector", "matched"),
    [
        ("default", {SD, Q, V, FLUX, TE}),
        ("q", {SD, Q, TE}),
        ("qkv", {FLUX}),
        ("cross", {SD, V}),
        ("self.q", {Q, TE}),
        ("joint", {FLUX}),
        ("text_encoder", {TE}),
        ("model", {SD, Q, V, FLUX}),
        ("input_blocks.4", {SD}),
        ("output_blocks.1-3", {Q}),
        ("output_blocks.3-11", set()),
        ("double_blocks", {FLUX}),
        ("double_blocks.1", set()),
        ("blocks.12", set()),
        ("up_blocks.0", {V}),
        ("up_blocks.0.attentions.2", {V}),
        ("double_blocks.*", {FLUX}),
        ("*_blocks.?", {SD, Q}),
        ("*.attn2.*", {SD, V}),
        ("attn2", {SD, V}),
        ("attn1.to_q", {Q}),
        ("to_", set()),
        ("/attn[12].to_v$/", {V}),
        ("/^lora_/", {Q, FLUX, TE}),
    ],
)
def test_selectors(selector, matched):
    assert {name for name in (SD, Q, V, FLUX, TE) if WeightRule(selector, 1).matches(name)} == matched


def test_the_last_match_counts_and_one_is_the_default():
    weights = parse_weights("default=0.5, input_blocks.4=2\nq=0.25 # comment\n *.attn2.*=0,")
    assert [weights.of(name) for name in (SD, Q, V, FLUX)] == [0, 0.25, 0, 0.5]
    assert Weights().of(SD) == 1
    assert (weights + parse_weights(f"/{SD}/=7")).of(SD) == 7


def test_the_text_form_comes_back_the_same():
    text = "default=0.1, input_blocks.4-7=-2, *.attn2.*=1e-09, cross.v=0.3333333333333333, /a[,=]b\\/c/=1"
    assert format_weights(parse_weights(text)) == text
    assert parse_weights(str(parse_weights(text))) == parse_weights(text)
    assert parse_weights("") == parse_weights(" \n,, # nothing\n") == Weights()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q", '"q" has no strength'),
        ("q=", '"q" has no strength'),
        ("q=strong", '"q" has the strength "strong"'),
        ("=1", "without a selector"),
        ("q=inf", "expected|finite|0 leaves"),
        ("/(/=1", "no regular expression"),
        ("//=1", "nothing in it"),
        ("input_blocks.7-4=1", '"7-4" is no range'),
    ],
)
def test_texts_that_mean_nothing_say_what_would(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_weights(text)


def kron(seed):
    g = torch.Generator().manual_seed(seed)
    return Kron(Full(torch.randn(2, 3, generator=g)), Full(torch.randn(4, 5, generator=g)))


def test_applying_is_exact_and_zero_leaves_out():
    adapter = Adapter({name: kron(n) for n, name in enumerate((SD, Q, V))}, {"k": "v"})
    weighted = apply_weights(adapter, parse_weights("q=0.5, up_blocks=0"))
    assert list(weighted.layers) == [SD, Q]
    assert weighted.layers[SD] == adapter.layers[SD].scaled(0.5)
    assert tensors(weighted.layers[SD])[0] is tensors(adapter.layers[SD])[0]
    assert weighted.metadata == adapter.metadata
    assert apply_weights(adapter, Weights()) == adapter


def test_rules_that_match_nothing_are_told_with_a_hint():
    adapter = Adapter({SD: kron(0), Q: kron(1)})
    (line,) = describe_unmatched(adapter, parse_weights("q=1, input_block.4=0"))
    assert line == '"input_block.4" matches none of the adapter\'s 2 layers; its blocks are named like input_blocks.4.'


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_read_and_say_what_they_do(name):
    weights = parse_weights(PRESETS[name])
    assert parse_weights(str(weights)) == weights
    expected = {
        "all": {SD: 1, Q: 1, TE: 1},
        "self attention only": {SD: 0, Q: 1, TE: 1},
        "cross attention only": {SD: 1, Q: 0, TE: 0},
        "values and outputs only": {SD: 0, V: 1, Q: 0},
        "queries and keys only": {SD: 1, V: 0, Q: 1},
        "without the text encoder": {SD: 1, TE: 0},
        "text encoder only": {SD: 0, TE: 1},
        "deep blocks only (SD, SDXL)": {SD: 0, Q: 1, V: 1},
        "content only (SDXL, B-LoRA)": {SD: 0, Q: 0, V: 0, "lora_unet_output_blocks_0_1_proj_in": 1},
        "style only (SDXL, B-LoRA)": {V: 0, Q: 0, "unet.up_blocks.0.attentions.1.proj_in": 1},
        "double blocks only (Flux)": {
            FLUX: 1,
            "transformer.transformer_blocks.3.attn.to_q": 1,
            "transformer.single_transformer_blocks.3.attn.to_q": 0,
        },
        "single blocks only (Flux)": {FLUX: 0, "diffusion_model.single_blocks.3.linear1": 1},
    }[name]
    assert {layer: weights.of(layer) for layer in expected} == expected


def chosen_by(selector, names):
    """The layers that keep their strength where this selector alone acts;
    by way of the text form, as a user writes it."""
    weights = parse_weights(f"default=0, {selector}=1")
    return {name for name in names if weights.of(name) == 1}


HARD = {
    "a block of which others begin with the name": [
        "unet.down_blocks.1.downsamplers.0.conv", "unet.down_blocks.1.attentions.0.proj_in", "unet.down_blocks.1.resnets.1.conv1",
        "unet.down_blocks.10.attentions.0.proj_in",
    ],
    "a module that is called as a projection is": [
        "diffusion_model.out.2", "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_out.0", "diffusion_model.middle_block.1.q",
    ],
    "text encoders, whole and in parts": [
        "clip_l.transformer.text_projection", "clip_g.transformer.text_projection",
        "clip_l.transformer.text_model.encoder.layers.1.mlp.fc1", "clip_l.transformer.text_model.encoder.layers.11.mlp.fc1",
        "clip_g.transformer.text_model.encoder.layers.1.mlp.fc1", "diffusion_model.layers.1.attention.qkv",
    ],
    "kohya's text encoders": [
        "lora_te1_text_model_encoder_layers_3_self_attn_q_proj", "lora_te2_text_model_encoder_layers_3_mlp_fc1",
        "lora_te1_text_projection", "lora_te2_text_projection", "lora_unet_layers_3_attention_qkv",
    ],
    "names with signs of their own": ["a/b.c,d", "a/b.c+d", "x=1.y", "default.0", "model.1", "self.q", "q", "*.attn2", "b c"],
}  # fmt: skip


@pytest.mark.parametrize("names", [[name for name, *_ in PLACES], *HARD.values()], ids=["everything", *HARD])
def test_the_selector_of_a_block_chooses_its_layers_and_no_other(names):
    by_block = selectors(names)
    assert by_block.keys() == {block_of(name) for name in names}
    for block, selector in by_block.items():
        assert chosen_by(selector, names) == {name for name in names if block_of(name) == block}, selector


def test_the_selector_of_a_block_is_its_name_where_that_says_it():
    assert selectors([SD, "lora_unet_middle_block_1_proj_in"]) == {
        "input_blocks.4": "input_blocks.4",
        "middle_block": "middle_block",
    }
