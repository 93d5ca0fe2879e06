"""Where the scale comes from, and what the user is told about it."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from krona_ops import load
from krona_ops.errors import ConfigError, FormatError

WHOLE = {"lokr_w1": torch.ones(32, 4), "lokr_w2": torch.ones(3, 6)}
SPLIT = {"lokr_w1": torch.ones(2, 3), "lokr_w2_a": torch.ones(5, 4), "lokr_w2_b": torch.ones(4, 7)}
LORA = {"lora_up.weight": torch.ones(6, 4), "lora_down.weight": torch.ones(4, 5)}


@pytest.fixture
def scale_of(tmp_path):
    def read(parts, alpha=None, metadata=None, rule="auto", name="x"):
        tensors = {f"{name}.{part}": value for part, value in parts.items()}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
        save_file(tensors, tmp_path / "x.safetensors", metadata or {})
        adapter = load(tmp_path / "x.safetensors", scale_rule=rule)
        (delta,) = adapter.layers.values()
        return delta.scale, adapter.notes[0]

    return read


def sdscripts(module, **args):
    return {"ss_network_module": f"networks.{module}", "ss_network_args": json.dumps(args), "ss_network_dim": "4"}


@pytest.mark.parametrize(
    ("parts", "alpha", "metadata", "expected", "reason"),
    [
        (SPLIT, 2.0, {}, 0.5, "alpha 2 / rank 4"),
        (SPLIT, None, {}, 1.0, "no alpha"),
        (LORA, 2.0, {}, 0.5, "alpha 2 / rank 4"),
        (LORA, 0.0, {}, 1.0, "alpha 0 means alpha = rank"),
        (WHOLE, None, {}, 1.0, "both factors whole: scale 1"),
        (WHOLE, 1.0, {}, 1.0, "alpha 1 is ignored"),  # ComfyUI's trainer
        (WHOLE, 16.0, {"ss_network_dim": "16"}, 1.0, "alpha 16 is ignored"),
        (WHOLE, 16.0, {"ss_network_dim": "8", "ss_network_args": '{"conv_dim": "16"}'}, 1.0, "alpha 16 is ignored"),
        (WHOLE, 0.25, {}, 1.0, "choose the scale rule"),
        (WHOLE, 2.0, {}, 1.0, "choose the scale rule"),  # LyCORIS would have decomposed a rank of 2
        (WHOLE, 2.0, {"ss_network_args": '{"full_matrix": "True"}'}, 1.0, "alpha 2 is ignored"),
        (WHOLE, 10000.0, {"lycoris_config": '{"linear_dim": 10000}'}, 1.0, "alpha 10000 is ignored"),
        (WHOLE, 512.0, {"lycoris_config": '{"linear_dim": 64, "rs_lora": true}'}, 8.0, "rs_lora"),
        (WHOLE, 27.0, {"ss_network_args": '{"rs_lora": "True"}'}, 3.0, "rs_lora"),  # the dimension from alpha itself
        (SPLIT, 2.0, {"ss_network_args": '{"bypass_mode": "True"}'}, 0.5, "too weak, choose the scale rule"),
        # sd-scripts PR 2370: the root of w1's inputs, 4
        (WHOLE, 16.0, sdscripts("cdka", cdka_alpha="16"), 8.0, "alpha / √in_a"),
        (
            WHOLE,
            16.0,
            sdscripts("cdka", cdka_alpha="16", cdka_factor_in="4"),
            1.0,
            "alpha 16 is ignored",
        ),  # later: in the factor
        (WHOLE, 4.0, sdscripts("cdka"), 1.0, "alpha 4 is ignored"),
        (WHOLE, 8.0, sdscripts("krona", krona_alpha="8", use_cdka_scale="true"), 4.0, "alpha / √in_a"),
        (WHOLE, 4.0, sdscripts("krona", krona_alpha="8"), 1.0, "alpha 4 is ignored"),
        (WHOLE, 8.0, sdscripts("krona", cdka_alpha="8"), 1.0, "scale 1"),
        # metadata is never trusted to be well-formed
        (SPLIT, 2.0, {"ss_network_args": "{nope", "lycoris_config": "[1]", "ss_network_dim": "None"}, 0.5, "alpha 2 / rank 4"),
        (SPLIT, 2.0, {"adapter_config": '{"peft_type": "LOKR"}', "ss_network_dim": "nan"}, 0.5, "alpha 2 / rank 4"),
    ],
)
def test_the_rule_follows_the_file(parts, alpha, metadata, expected, reason, scale_of):
    scale, note = scale_of(parts, alpha, metadata)
    assert scale == pytest.approx(expected, rel=1e-7)
    assert reason in note


@pytest.mark.parametrize(
    ("rule", "parts", "expected"),
    [
        ("1", SPLIT, 1.0),
        ("lycoris", SPLIT, 2.0),
        ("alpha/rank", SPLIT, 2.0),
        ("alpha/sqrt(rank)", SPLIT, 4.0),
        ("alpha/sqrt(in)", SPLIT, 8 / math.sqrt(3)),
        ("alpha/sqrt(in)", LORA, 2.0),  # no Kronecker product: its usual rule
        ("alpha/sqrt(rank)", LORA, 4.0),
        ("lycoris", WHOLE, 1.0),
        ("alpha/sqrt(in)", WHOLE, 4.0),
    ],
)
def test_the_user_can_choose_another_rule(rule, parts, expected, scale_of):
    assert scale_of(parts, 8.0, rule=rule)[0] == pytest.approx(expected)


def test_diffusers_says_the_alpha_of_a_lora_in_the_metadata(scale_of):
    metadata = {
        "lora_adapter_metadata": json.dumps(
            {"unet.r": 4, "unet.lora_alpha": 2, "text_encoder.r": 4, "text_encoder.lora_alpha": 16}
        )
    }
    parts = {"lora_B.weight": torch.ones(6, 4), "lora_A.weight": torch.ones(4, 5)}
    assert scale_of(parts, metadata=metadata, name="unet.x")[0] == 0.5
    assert scale_of(parts, metadata=metadata, name="text_encoder.x")[0] == 4.0


@pytest.mark.parametrize("rule", ["alpha/rank", "alpha/sqrt(rank)"])
def test_a_rule_without_its_number_is_an_error(rule, scale_of):
    with pytest.raises(FormatError, match="needs rank, and the file does not say it"):
        scale_of(WHOLE, 8.0, rule=rule)
    with pytest.raises(FormatError, match="needs alpha, and the file does not say it"):
        scale_of(SPLIT, rule=rule)


def test_a_rule_that_does_not_exist_is_an_error(scale_of):
    with pytest.raises(ConfigError, match='no scale rule "half"'):
        scale_of(WHOLE, rule="half")


@pytest.mark.parametrize("alpha", [math.nan, [1.0, 2.0]])
def test_an_alpha_that_is_no_number_is_an_error(alpha, scale_of):
    with pytest.raises(FormatError, match="alpha"):
        scale_of(SPLIT, alpha)


def test_a_copy_of_a_file_is_not_scaled_twice(tmp_path):
    from krona_ops import save

    metadata = sdscripts("cdka", cdka_alpha="16")
    save_file(
        {f"x.{part}": value for part, value in WHOLE.items()} | {"x.alpha": torch.tensor(16.0)},
        tmp_path / "x.safetensors",
        metadata,
    )
    once = load(tmp_path / "x.safetensors")
    twice = load(save(once, tmp_path / "y.safetensors"))
    assert torch.equal(once.layers["x"].dense(), twice.layers["x"].dense())
    assert json.loads(twice.metadata["krona.source.ss_network_args"]) == {"cdka_alpha": "16"}
