"""Where the scale comes from, and what the user is told about it."""

import json
import math

import pytest
import torch
from originals import lycoris, quiet, relative
from safetensors.torch import save_file
from torch import nn

from krona_ops import load
from krona_ops.errors import ConfigError, FormatError

WHOLE = {"lokr_w1": torch.ones(32, 4), "lokr_w2": torch.ones(3, 6)}
SPLIT = {"lokr_w1": torch.ones(2, 3), "lokr_w2_a": torch.ones(5, 4), "lokr_w2_b": torch.ones(4, 7)}
CONV = {"lokr_w1": torch.ones(2, 3), "lokr_w2": torch.ones(3, 6, 3, 3)}
FIRST_BUILD = {"ss_sd_scripts_commit_hash": "0c641ecd0316a239914b6d6f0c948311746f1a36"}
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
        # LyCORIS's wrapper drops rs_lora and saves the dimension; `lycoris.kohya` saves dim·√dim
        (WHOLE, 64.0, {"lycoris_config": '{"linear_dim": 64, "rs_lora": true}'}, 1.0, "rs_lora was left out"),
        (WHOLE, 2000.0, {"lycoris_config": '{"linear_dim": 2000, "rs_lora": true}'}, 1.0, "rs_lora was left out"),
        (WHOLE, 9984.0, {"lycoris_config": '{"linear_dim": 10000, "rs_lora": true}'}, 1.0, "rs_lora was left out"),  # bfloat16
        (WHOLE, math.inf, {"lycoris_config": '{"linear_dim": 100000, "rs_lora": true}'}, 1.0, "leaves rs_lora out"),
        (WHOLE, math.inf, {"ss_network_args": '{"rs_lora": "True"}', "ss_network_dim": "10000"}, 100.0, "√10000"),
        (WHOLE, 999424.0, {"ss_network_args": '{"rs_lora": "True"}', "ss_network_dim": "10000"}, 100.0, "√1e+04"),  # bfloat16
        (WHOLE, math.inf, {"ss_network_args": '{"rs_lora": "True"}'}, 1.0, "placeholder"),
        (
            CONV,
            math.inf,
            {"ss_network_args": '{"rs_lora": "True", "conv_dim": "2500"}', "ss_network_dim": "10000"},
            50.0,
            "√2500",
        ),
        (CONV, 8.0, {"ss_network_args": '{"rs_lora": "True", "conv_dim": "4"}', "ss_network_dim": "64"}, 2.0, "√4"),
        (
            SPLIT,
            math.inf,
            {"ss_network_args": '{"rs_lora": "True"}', "ss_network_dim": "4", "ss_network_alpha": "40000"},
            20000.0,
            "from the metadata",
        ),
        (
            SPLIT,
            4.0,
            {"ss_network_args": '{"rs_lora": "True"}', "ss_network_dim": "4", "ss_network_alpha": "2"},
            1.0,
            "alpha 4",
        ),
        # rounded by bfloat16, or by float8
        (WHOLE, 9984.0, {"ss_network_dim": "10000"}, 1.0, "alpha 9984 is ignored"),
        (WHOLE, 10240.0, {"ss_network_dim": "10000"}, 1.0, "alpha 10240 is ignored"),
        # sd-scripts PR 2370: only its first build leaves the scale, by the root of w1's inputs (4), out of w1
        (WHOLE, 16.0, {**sdscripts("cdka", cdka_alpha="16"), **FIRST_BUILD}, 8.0, "alpha / √in_a"),
        (WHOLE, 16.0, sdscripts("cdka", cdka_alpha="16"), 1.0, 'choose the scale rule "alpha/sqrt(in)" (8)'),
        (WHOLE, 16.0, sdscripts("cdka", cdka_alpha="16", factor_in="4"), 1.0, "choose the scale rule"),
        (WHOLE, 16.0, sdscripts("cdka"), 1.0, "in lokr_w1 already"),  # 16 is its default
        (WHOLE, 16.0, sdscripts("krona", cdka_alpha="16", factor_in="4"), 1.0, "in lokr_w1 already"),
        (WHOLE, 16.0, sdscripts("cdka", r="1", r1="2", r2="4"), 1.0, "in lokr_w1 already"),
        (WHOLE, 16.0, sdscripts("cdka", r="3", r1="2", r2="4"), 4.0, "alpha 16 / dim 4"),
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
    assert "choose" in reason or "choose" not in note


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

    metadata = {**sdscripts("cdka", cdka_alpha="16"), **FIRST_BUILD}
    save_file(
        {f"x.{part}": value for part, value in WHOLE.items()} | {"x.alpha": torch.tensor(16.0)},
        tmp_path / "x.safetensors",
        metadata,
    )
    once = load(tmp_path / "x.safetensors")
    twice = load(save(once, tmp_path / "y.safetensors"))
    assert torch.equal(once.layers["x"].dense(), twice.layers["x"].dense())
    assert json.loads(twice.metadata["krona.source.ss_network_args"]) == {"cdka_alpha": "16"}


@pytest.mark.parametrize(("dim", "dtype"), [(10000, torch.bfloat16), (10000, torch.float16), (64, torch.float16)])
def test_rs_lora_of_a_whole_lokr_is_what_lycoris_computes_in_every_type(dim, dtype, tmp_path):
    """With dim 10000 LyCORIS saves alpha 1000000: infinite in float16, 999424 in bfloat16."""
    metadata = {"ss_network_args": json.dumps({"rs_lora": "True"}), "ss_network_dim": str(dim)}
    original = lycoris(
        "lokr", "linear", tmp_path, metadata=metadata, dtype=dtype, lora_dim=dim, alpha=dim, rs_lora=True, factor=2
    )
    delta = load(original.path).layers[original.layer]
    assert delta.scale == pytest.approx(math.sqrt(dim))
    assert relative(delta.dense(), original.delta) < 0.02


def test_the_wrapper_of_lycoris_leaves_rs_lora_out(tmp_path):
    with quiet():
        from lycoris import create_lycoris

        model = nn.Sequential(nn.Linear(12, 10))
        config = {"algo": "lokr", "linear_dim": 1000, "linear_alpha": 1, "rs_lora": True, "factor": 2}
        network = create_lycoris(model, 1.0, **config)
    (module,) = network.loras
    assert module.scale == 1.0
    name = module.lora_name
    tensors = {f"{name}.{key}": value.detach().contiguous() for key, value in module.custom_state_dict().items()}
    save_file(tensors, tmp_path / "x.safetensors", {"lycoris_config": json.dumps(config)})
    assert load(tmp_path / "x.safetensors").layers[name].scale == 1.0


@pytest.mark.parametrize(
    ("bypass", "wd", "norms"), [(True, True, True), (True, True, False), (True, False, True), (False, True, True)]
)
def test_norms_that_bypass_mode_did_not_train_are_told(bypass, wd, norms, tmp_path):
    tensors = {f"x.{part}": value for part, value in SPLIT.items()} | {"x.alpha": torch.tensor(4.0)}
    if norms:
        tensors["x.dora_scale"] = torch.ones(10, 1)
    args = json.dumps({"bypass_mode": str(bypass), "dora_wd": str(wd)})
    save_file(tensors, tmp_path / "x.safetensors", {"ss_network_args": args})
    notes = load(tmp_path / "x.safetensors").notes
    assert any("trains without the DoRA norms" in note for note in notes) == (bypass and wd and norms)


@pytest.mark.parametrize(
    ("metadata", "name"),
    [({"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 8})}, "x"),  # diffusers' save_lora_adapter: no prefix
     ({"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 4, "unet.alpha_pattern": {"^a.x": 8}})}, "unet.a.x"),
     ({"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"^x": 4}})}, "unet.a.x")],
)  # fmt: skip
def test_diffusers_settings_speak_of_paths_inside_the_component(metadata, name, scale_of):
    parts = {"lora_B.weight": torch.ones(6, 4), "lora_A.weight": torch.ones(4, 5)}
    assert scale_of(parts, metadata=metadata, name=name)[0] == 2.0
