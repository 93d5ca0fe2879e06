"""Parts of a model that rules take by name: which layers they are in every dialect, and what can be done with their updates."""

import pytest
import torch
from torch.testing import assert_close

from krona_ops import (
    Adapter,
    Full,
    Kron,
    KronForm,
    Matrix,
    TargetRule,
    apply_weights,
    blend,
    compress,
    load,
    parse_weights,
    report,
    save,
    select,
)
from krona_ops.errors import ConfigError, CoverageError
from krona_ops.names.places import role_of
from krona_ops.operations.strengths import describe_unmatched
from krona_ops.targets.parts import BIASES, MODEL_PARTS, NORMS, SAMPLERS
from krona_ops.targets.rules import describe_missing
from krona_ops.targets.text import parse_rules

OF = {
    NORMS: (
        "diffusion_model.input_blocks.1.0.in_layers.0", "diffusion_model.middle_block.2.out_layers.0.bias",
        "lora_unet_output_blocks_11_0_out_layers_0", "down_blocks.0.resnets.1.norm1", "unet.mid_block.resnets.0.norm2.bias",
        "lora_unet_up_blocks_3_resnets_2_norm2",
    ),
    SAMPLERS: (
        "diffusion_model.input_blocks.3.0.op", "diffusion_model.output_blocks.5.2.conv", "lora_unet_output_blocks_2_1_conv",
        "down_blocks.1.downsamplers.0.conv", "lora_unet_up_blocks_0_upsamplers_0_conv",
    ),
    BIASES: (
        "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_out.0.bias", "diffusion_model.double_blocks.0.img_attn.qkv.bias",
        "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.bias",
    ),
}  # fmt: skip
NONE = (
    "diffusion_model.input_blocks.1.0.in_layers.2", "diffusion_model.input_blocks.1.0.in_layers.2.bias", "diffusion_model.out.0",
    "diffusion_model.input_blocks.1.0.time_stack.in_layers.0", "diffusion_model.input_blocks.1.1.norm", "diffusion_model.input_blocks.3.0.op.bias",
    "diffusion_model.output_blocks.2.0.skip_connection", "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_out.0",
    "diffusion_model.middle_block.1.transformer_blocks.0.ff.net.2.bias", "diffusion_model.middle_block.1.transformer_blocks.0.norm1",
)  # fmt: skip
WEIGHTS = {
    "diffusion_model.input_blocks.1.0.in_layers.0": (32,),
    "diffusion_model.input_blocks.1.0.in_layers.0.bias": (32,),
    "diffusion_model.input_blocks.1.0.in_layers.2": (48, 32, 3, 3),
    "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q": (48, 48),
    "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0": (48, 48),
    "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.bias": (48,),
    "diffusion_model.input_blocks.2.0.op": (48, 48, 3, 3),
}
NORM, NORM_BIAS, _, _, _, OUT_BIAS, OP = WEIGHTS


def whole(rule):
    return rule.trained == "difference"


@pytest.mark.parametrize("part", OF)
def test_a_part_is_told_by_names_of_every_dialect(part):
    has = MODEL_PARTS[part].has
    assert [name for name in OF[part] if not has(name)] == []
    others = [name for other, names in OF.items() if other != part for name in names]
    assert [name for name in (*NONE, *others) if has(name)] == []


def test_a_rule_may_name_a_part_in_the_place_of_a_pattern():
    assert parse_rules(f"{NORMS}\n{BIASES}; q; ; 0.5; full\n{SAMPLERS}; ; 8x8", (64, 4), ("full",)) == (
        TargetRule((64, 4), (), part=NORMS),
        TargetRule((64, 4), (), rate=0.5, kind="full", part=BIASES),
        TargetRule((8, 8), (), part=SAMPLERS),
    )
    assert [rule.trained for rule in parse_rules(f"{NORMS}\n{SAMPLERS}\nattn2", (64, 4))] == ["difference", "", ""]
    message = r"no part of a model by the name 'norms'\. Write one of norms of the residual blocks, down- and upsamplers, biases"
    with pytest.raises(ConfigError, match=message):
        TargetRule(part="norms")


def test_rules_by_name_take_their_layers_each_with_what_suits_it():
    rules = (TargetRule((8, 4), part=SAMPLERS), TargetRule(part=NORMS), TargetRule(part=BIASES, rate=0.5))
    targets = select(WEIGHTS, rules, is_whole=whole)
    assert [(t.name, t.kind, t.shape, t.rate) for t in targets] == [
        (NORM, "difference", (32,), 1.0),
        (NORM_BIAS, "difference", (32,), 1.0),
        (OUT_BIAS, "difference", (48,), 0.5),
        (OP, "", (48, 48, 3, 3), 1.0),
    ]
    assert (targets[-1].sizes.out_a, targets[-1].sizes.in_a) == (8, 4)
    narrowed = select(WEIGHTS, (TargetRule(part=NORMS, pattern="bias"),), is_whole=whole)
    assert [t.name for t in narrowed] == [NORM_BIAS]


def test_a_model_without_the_part_is_refused_and_one_without_samplers_hears_of_it():
    flux = {"diffusion_model.double_blocks.0.img_attn.qkv": (96, 32)}
    rules = (TargetRule(part=SAMPLERS), TargetRule(part=NORMS))
    message = "no down- and upsamplers; this preset is for UNets. Load a UNet, .*or choose a preset of attention"
    with pytest.raises(CoverageError, match=message):
        select(flux, (TargetRule(), *rules), is_whole=whole)
    with pytest.raises(CoverageError, match=r"no biases of attention; its layers have none.*Leave the rule out"):
        select(flux, (TargetRule(), TargetRule(part=BIASES)), is_whole=whole)
    one_level = {name: shape for name, shape in WEIGHTS.items() if name != OP}
    assert [t.name for t in select(one_level, rules, is_whole=whole)] == [NORM, NORM_BIAS]
    assert describe_missing(one_level, rules) == ("The model has no down- and upsamplers, so the rule for them trains nothing.",)
    assert describe_missing(WEIGHTS, rules) == ()


@pytest.fixture
def adapter():
    rng = torch.Generator().manual_seed(3)
    factors = Full(torch.randn(8, 4, generator=rng)), Full(torch.randn(6, 12, 3, 3, generator=rng))
    vectors = {name: Matrix(Full(torch.randn(WEIGHTS[name], generator=rng))) for name in (NORM, NORM_BIAS, OUT_BIAS)}
    return Adapter({**vectors, OP: Kron(*factors)})


def test_norms_and_biases_are_counted_and_have_a_place_in_the_heat_map(adapter):
    measured = report(adapter)
    assert measured.parameters == 32 + 32 + 48 + 8 * 4 + 6 * 12 * 9
    assert [role_of(name) for name in adapter.layers] == ["norm", "norm", "self out bias", "convolution"]
    grid = measured.grid("norm")
    assert (grid.blocks, grid.roles) == (("input_blocks.1", "input_blocks.2"), ("self out bias", "convolution", "norm"))
    both = torch.cat([adapter.layers[NORM].dense(), adapter.layers[NORM_BIAS].dense()])
    assert_close(grid.values[0][2], float(both.norm()))
    for line in measured.layers[:3]:
        assert_close(line.norm, float(adapter.layers[line.name].dense().norm()))
        assert line.form == "dense"
    assert "4 layers" in measured.table("layer")


@pytest.mark.parametrize(
    ("rules", "strengths"),
    [
        (f"{NORMS}=0.5, {SAMPLERS}=0.25", (0.5, 0.5, 1, 0.25)),
        (f"default=0, {BIASES}=2", (0, 0, 2, 0)),
        ("out=0.5", (1, 1, 0.5, 1)),  # a bias is a part of the projection that it belongs to
        ("default=0, self=1", (0, 0, 1, 0)),
        ("self.out=3, cross=0", (1, 1, 3, 1)),
        ("input_blocks.1=0", (0, 0, 0, 1)),
        ("*.in_layers.0*=0.5", (0.5, 0.5, 1, 1)),
    ],
)
def test_weights_scale_norms_and_biases_by_name_block_and_projection(adapter, rules, strengths):
    weights = parse_weights(rules)
    scaled = apply_weights(adapter, weights)
    for (name, delta), strength in zip(adapter.layers.items(), strengths, strict=True):
        if strength == 0:
            assert name not in scaled.layers
        else:
            assert_close(scaled.layers[name].dense(), strength * delta.dense())
    assert all("cross" in line for line in describe_unmatched(adapter, weights))
    assert parse_weights(str(weights)) == weights


def test_norms_and_biases_blend_and_keep_their_place_in_a_file(adapter, tmp_path):
    other = Adapter({NORM: Matrix(Full(torch.full((32,), 2.0)))})
    for method in ("sum", "ties", "dare", "dare ties"):
        blended = blend([(adapter, 0.5), (other, 2.0)], method=method, density=1.0)
        expected = 0.5 * adapter.layers[NORM].dense() + 4.0
        if method in ("sum", "dare"):
            assert_close(blended.layers[NORM].dense(), expected)
        assert_close(blended.layers[OUT_BIAS].dense(), 0.5 * adapter.layers[OUT_BIAS].dense())
    back = load(save(adapter, tmp_path / "all.safetensors"))
    assert set(back.layers) == set(adapter.layers)
    assert all(torch.equal(back.layers[name].dense(), delta.dense()) for name, delta in adapter.layers.items())


@pytest.mark.parametrize("form", [KronForm((2, 2)), KronForm((4, 4), 2)])
def test_compressing_leaves_norms_and_biases_as_they_are_and_says_why(adapter, form):
    compressed, told = compress(adapter, form)
    for name in (NORM, NORM_BIAS, OUT_BIAS):
        assert compressed.layers[name] == adapter.layers[name]
    assert str(told).endswith("; 3 of them are of norms and biases, which have no factors and stay as they are")
    assert "norms" not in str(compress(Adapter({OP: adapter.layers[OP]}), form)[1])
