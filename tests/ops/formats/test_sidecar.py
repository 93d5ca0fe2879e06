"""Which ``adapter_config.json`` is believed: files of PEFT gathered in one folder,
and settings that change what tensors mean."""

import contextlib
import json
import time

import peft
import pytest
import torch
from originals import relative
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from torch import nn

from krona_ops import load
from krona_ops.errors import FormatError
from krona_ops.formats.inspection import inspect_header
from krona_ops.formats.patterns import MOST_KEYS, Patterns, literal, matches_whole

PREFIX = "base_model.model."
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["to_q", "to_out.0"]}
LOKR = {"peft_type": "LOKR", "r": 4, "alpha": 2, "target_modules": ["to_q"], "rank_dropout_scale": False}
PATHS = ("blocks.0.attn.to_q", "blocks.1.attn.to_out.0")


def lora(rank=4, paths=PATHS, magnitude=False):
    tensors = {}
    for path in paths:
        tensors[f"{PREFIX}{path}.lora_A.weight"] = torch.randn(rank, 12)
        tensors[f"{PREFIX}{path}.lora_B.weight"] = torch.randn(10, rank)
        if magnitude:
            tensors[f"{PREFIX}{path}.lora_magnitude_vector"] = torch.rand(10) + 1
    return tensors


def lokr(rank=4, whole=False):
    stem = f"{PREFIX}blocks.0.attn.to_q.lokr_w"
    if whole:
        return {f"{stem}1": torch.randn(2, 3), f"{stem}2": torch.randn(12, 10)}
    return {f"{stem}1": torch.randn(2, 3), f"{stem}2_a": torch.randn(12, rank), f"{stem}2_b": torch.randn(rank, 10)}


@pytest.fixture
def read(tmp_path):
    def read(tensors, config, name="mine.safetensors", others=1, metadata=None):
        save_file(tensors, tmp_path / name, metadata or {})
        for n in range(others):
            save_file({"x.diff": torch.ones(2, 2)}, tmp_path / f"other-{n}.sft")
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        adapter = load(tmp_path / name)
        return {getattr(delta, "scale", None) for delta in adapter.layers.values()}, adapter.notes

    return read


@pytest.mark.parametrize(
    ("tensors", "config", "scale"),
    [
        (lora(), LORA, 4.0),
        (lora(), {**LORA, "target_modules": "all-linear"}, 4.0),
        (lora(), {**LORA, "target_modules": None}, 4.0),
        (lora(), {**LORA, "use_rslora": True}, 8.0),
        (lora(8), {**LORA, "rank_pattern": {"to_q": 8, "attn.to_out.0": 8}, "alpha_pattern": {"^blocks.0.attn.to_q": 16}}, 2.0),
        (lora(), {**LORA, "layers_to_transform": [0, 1]}, 4.0),
        (lora(), {**LORA, "exclude_modules": ["blocks.2.attn.to_q"]}, 4.0),
        (lora(paths=PATHS[:1]), {**LORA, "target_modules": "blocks.0.attn.to_q"}, 4.0),
        (lokr(), LOKR, 0.5),
        (lokr(whole=True), {**LOKR, "r": 8}, 0.25),
    ],
)
def test_settings_that_fit_are_used_and_it_is_said(tensors, config, scale, read):
    scales, notes = read(tensors, config)
    assert scales == {scale}
    assert "were used" in notes[-1]


@pytest.mark.parametrize(
    ("tensors", "config", "reason"),
    [
        (lora(8), LORA, "blocks.0.attn.to_q has rank 8, they say 4"),
        (lora(), {**LORA, "rank_pattern": {"to_out.0": 8}}, "blocks.1.attn.to_out.0 has rank 4, they say 8"),
        (lora(), {**LORA, "target_modules": ["to_q"]}, "blocks.1.attn.to_out.0 is none of their target_modules"),
        (
            lora(),
            {**LORA, "target_modules": ["q", "0"]},
            "blocks.0.attn.to_q is none of their target_modules",
        ),  # no half of a word
        (lora(), {**LORA, "target_modules": "to_q"}, "none of their target_modules"),  # one text is a whole path to PEFT
        (lora(), {**LORA, "exclude_modules": ["to_q"]}, "none of their target_modules"),
        (lora(), {**LORA, "layers_to_transform": 0}, "blocks.1.attn.to_out.0 is none of their layers_to_transform"),
        (lora(), {**LORA, "target_modules": ["to_q", "to_out.0", "to_k"]}, "the file has no layer to_k"),
        (lora(), {**LORA, "use_dora": True}, "with DoRA norms, the file has none"),
        (lora(magnitude=True), {**LORA, "use_dora": False}, "without DoRA norms, the file has some"),
        (lora(), {**LOKR, "target_modules": ["to_q", "to_out.0"]}, "they are about LOKR, and the file holds lora tensors"),
        (lora(), {**LORA, "peft_type": "ADALORA"}, "they are about ADALORA"),
        (
            lora(),
            {**LORA, "init_lora_weights": "pissa", "r": 2},
            "has rank 4, they say 2",
        ),  # another file's PiSSA does not matter
        (lora(), {"peft_type": "LORA", "target_modules": ["to_q"]}, "they say no rank and alpha"),
        (lokr(), {**LOKR, "r": 8}, "has rank 4, they say 8"),
        (lokr(whole=True), LOKR, "is whole, which a rank of 4 is too small for"),
        (
            {f"lora_unet_x.lora_{part}.weight": torch.ones(4, 4) for part in ("up", "down")},
            LORA,
            "not named as PEFT names them",
        ),
        ({**lora(), f"{PREFIX}{PATHS[0]}.alpha": torch.tensor(4.0)}, LORA, "an alpha for each layer"),
    ],
)
def test_settings_of_another_file_are_not_used_and_it_is_said_why(tensors, config, reason, read):
    scales, notes = read(tensors, config)
    assert scales <= {1.0, None}
    assert "were not used" in notes[-1]
    assert reason in notes[-1]


@pytest.mark.parametrize(("name", "others"), [("adapter_model.safetensors", 2), ("renamed.sft", 0)])
def test_a_target_that_the_model_lacks_does_no_harm_beside_the_only_file_it_can_be_about(name, others, read):
    scales, _ = read(lora(), {**LORA, "target_modules": ["to_q", "to_out.0", "add_k_proj"]}, name, others)
    assert scales == {4.0}


def test_an_expression_for_the_targets_is_not_evaluated_and_it_is_said(read):
    """Nor one that a backtracking engine would take for ever on."""
    for expression in ("(blocks|layers).*to_(q|out.0)", "(.*)*(.*)*(.*)*(.*)*x"):
        scales, notes = read(lora(), {**LORA, "target_modules": expression})
        assert scales == {4.0}
        assert "could not be compared" in notes[-1]


def test_a_file_beside_settings_of_its_own_in_the_metadata_needs_no_others(read):
    scales, notes = read(lora(), {**LORA, "r": 8}, metadata={"adapter_config": json.dumps({**LORA, "lora_alpha": 2})})
    assert scales == {0.5}
    assert not any("beside the file" in note for note in notes)


def test_nothing_is_said_where_there_are_no_settings(tmp_path):
    save_file(lora(), tmp_path / "x.safetensors")
    assert not any("settings" in note for note in load(tmp_path / "x.safetensors").notes)


@pytest.mark.parametrize("whole", [False, True])
def test_lokr_of_peft_before_0_14_has_no_scale(whole, read):
    """Checked with peft 0.13.2 (scale 1) and 0.14.0 (alpha / r), whose settings differ in `rank_dropout_scale`."""
    old = {key: value for key, value in LOKR.items() if key != "rank_dropout_scale"}
    scales, notes = read(lokr(whole=whole), {**old, "r": 6 if whole else 4})
    assert scales == {1.0}
    assert "PEFT before 0.14" in notes[0]


PATTERNS = [
    "to_q",
    "attn.to_q",
    "^blocks.0.attn.to_q",
    r"blocks\\.0\\.attn\\.to_q",
    "^attn.to_q",
    "q",
    "t._q",
    "attnxto_q",
    "0.attn.to_q$",
]


EXPRESSIONS = [
    *("to_[qk]", "to_q|to_k", ".*to_q", "(a|b)lo.*q", "[^x]+", r"\\w+_\\w", r"(blocks\\.\\d+\\.)?attn\\.to_q", "t?o*_q+", "(?:at{2}n).to_(q|k|v)"),
    *("b{1,3}locks.*", r"\\d", "^(blocks|x).*_q$", "a{2}", "a?", "(to_)*q", "(to_|q){2}", ".{4}", ".+?", "[a-z.]{4,}_q", r"[\\W\\d]+.*q", "|to_q"),
]  # fmt: skip


@pytest.mark.parametrize("pattern", [pattern.replace("\\\\", "\\") for pattern in PATTERNS + EXPRESSIONS])
@pytest.mark.parametrize(
    "path", ["blocks.0.attn.to_q", "to_q", "attn.to_q", "blocks.0.attn_to_q", "no", "a.b\nc.to_q", "x.0", "aa"]
)
def test_keys_of_patterns_mean_what_peft_makes_of_them(pattern, path):
    expected = 7.0 if get_pattern_key([pattern], path) == pattern else None
    assert Patterns({pattern: 7.0}, "alpha_pattern").value_of(path) == expected or pattern == path


def test_expressions_are_evaluated_only_where_they_have_to_be():
    assert [literal(pattern.replace("\\\\", "\\")) for pattern in EXPRESSIONS] == [None] * len(EXPRESSIONS)


def test_the_first_key_that_matches_counts():
    assert Patterns({"x": 1, "to_q": 2, "attn.to_q": 3}, "alpha_pattern").value_of("a.attn.to_q") == 2
    assert Patterns({"to_q": 2, "(": 3}, "alpha_pattern").value_of("a.attn.to_q") == 2
    assert Patterns({"to_(q|k)": 1, "to_q": 2}, "alpha_pattern").value_of("a.attn.to_q") == 1
    assert Patterns({"to_(x|k)": 1, "to_q": 2}, "alpha_pattern").value_of("a.attn.to_q") == 2


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+", "(a|a)+", "(a*)*b", "((a+)+)+b", "(.*a){12}b", "(a?){30}a{30}", "(([a-z])+.)+[A-Z]([a-z])+", "(.+)+(.+)+(.+)+x", "(a{1,999}){1,999}b"],
)  # fmt: skip
def test_no_expression_takes_longer_than_a_line(pattern):
    """Python's engine needs up to 2 to the power of 40 steps for these."""
    began = time.process_time()
    with contextlib.suppress(FormatError):
        assert Patterns({pattern: 1}, "alpha_pattern").value_of("a" * 40 + "!") is None
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "pattern", ["(", "a\\", r"(a)\1", "(?=a).*", r"\bto", "(?i)TO", "a)|(b", "(?<=a)b", "[", "a" * 600 + "+" * 600]
)
def test_an_expression_that_is_not_evaluated_is_refused_by_name(pattern):
    with pytest.raises(FormatError, match=r"alpha_pattern has the key .* is a regular expression"):
        Patterns({pattern: 1}, "alpha_pattern").value_of("a" * 40)
    assert matches_whole(pattern, "a") is None


def test_more_keys_than_layers_are_refused():
    with pytest.raises(FormatError, match="20,001 keys, which are more than"):
        Patterns({str(n): 1 for n in range(MOST_KEYS + 1)}, "rank_pattern")
    dots = {"".join("." if (n >> bit) & 1 else "a" for bit in range(12)): 1 for n in range(4096)}
    with pytest.raises(FormatError, match="in too many ways"):
        Patterns(dots, "rank_pattern")


def test_an_expression_among_the_ranks_does_no_harm_where_the_tensors_tell_the_rank(read):
    scales, _ = read(lora(8), {**LORA, "rank_pattern": {r"(to_q)\1": 8}})
    assert scales == {2.0}
    with pytest.raises(FormatError, match="alpha_pattern has the key"):
        read(lora(), {**LORA, "alpha_pattern": {r"(to_q)\1": 8}})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"init_lora_weights": "pissa"}, "began with PiSSA"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "olora"}, "began with OLoRA"),
        ({"init_lora_weights": "corda"}, "began with CorDA"),
        ({"init_lora_weights": "lora_ga"}, "began with LoRA-GA"),
        ({"init_lora_weights": "loftq"}, "began with LoftQ.*quantised model"),
        ({"use_qalora": True}, "a QA-LoRA adapter"),
        ({"use_bdlora": {"nblocks": 2}}, "a BD-LoRA adapter"),
        ({"alora_invocation_tokens": [1, 2]}, "an Activated LoRA"),
        ({"arrow_config": {"top_k": 2}}, "Arrow"),
        ({"kasa_config": {"beta": 1.0}}, "a KaSA adapter"),
        ({"target_parameters": ["experts.down_proj"]}, "target_parameters"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication"),
        ({"megatron_config": {"a": 1}}, "Megatron"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    ],
)
@pytest.mark.parametrize("where", ["adapter_config", "lora_adapter_metadata", "beside"])
def test_what_is_no_update_of_a_plain_model_is_refused_by_name(where, settings, reason, read, tmp_path):
    config = {**LORA, **settings}
    metadata = {"beside": {}, "adapter_config": {"adapter_config": json.dumps(config)}}.get(
        where, {where: json.dumps({f"{PREFIX}{key}": value for key, value in config.items()})}
    )
    for reading in (
        lambda: read(lora(), config, metadata=metadata),
        lambda: inspect_header(tmp_path / "mine.safetensors"),
    ):
        with pytest.raises(FormatError, match=reason):
            reading()


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_starts_that_leave_the_base_model_alone_are_plain(start, read):
    assert read(lora(), {**LORA, "init_lora_weights": start, "megatron_core": "megatron.core", "bias": "none"})[0] == {
        4.0
    }


@pytest.mark.parametrize(("part", "name"), [("lora_E", "AdaLoRA"), ("lora_diag", "KaSA")])
def test_tensors_that_tell_another_kind_are_enough(part, name, tmp_path):
    save_file({**lora(), f"{PREFIX}{PATHS[0]}.{part}": torch.ones(4, 1)}, tmp_path / "x.safetensors")
    adapter = load(tmp_path / "x.safetensors")
    assert set(adapter.layers) == {f"{PREFIX}{PATHS[1]}"}
    assert any(name in note for note in adapter.notes)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(17, 6)
        self.grouped = nn.Conv2d(8, 12, 3, groups=2)


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_lora_of_an_embedding_is_read_as_peft_computes_it(use_dora, tmp_path):
    torch.manual_seed(0)
    model = Net()
    weight = model.words.weight.detach().clone()
    config = peft.LoraConfig(target_modules=["words"], r=4, lora_alpha=6, init_lora_weights=False, use_dora=use_dora)
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + torch.rand_like(parameter))
    wrapped.save_pretrained(tmp_path)
    wrapped.merge_adapter()
    expected = wrapped.base_model.model.words.base_layer.weight.detach()
    delta = load(tmp_path / "adapter_model.safetensors").layers[f"{PREFIX}words"]
    assert relative(delta.add_to(weight.clone()) - weight, expected - weight) < 3e-6


def test_a_lora_of_a_grouped_convolution_is_refused_by_name(tmp_path):
    config = peft.LoraConfig(target_modules=["grouped"], r=4, init_lora_weights=False)
    peft.get_peft_model(Net(), config).save_pretrained(tmp_path)
    with pytest.raises(FormatError, match="a convolution in 2 groups"):
        load(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_whole_biases_are_never_taken_for_changes(bias, tmp_path):
    peft.get_peft_model(Net(), peft.LoraConfig(target_modules=["grouped"], r=4, bias=bias)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    biases = {key: value for key, value in tensors.items() if key.endswith(".bias")}
    assert biases
    save_file({**lora(), **biases}, tmp_path / "x.safetensors")
    with contextlib.suppress(FormatError):  # refused, or left out
        adapter = load(tmp_path / "x.safetensors")
        assert not any(name.endswith(".bias") for name in adapter.layers)
        assert any("bias" in note for note in adapter.notes)


def test_biases_that_the_settings_name_and_the_file_lacks_are_told(tmp_path):
    peft.get_peft_model(Net(), peft.LoraConfig(target_modules=["words"], r=4, bias="all")).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    missing = "PEFT trained biases of the base model too (bias='all'); the file has none of them"
    assert not any(note.startswith(missing) for note in load(path).notes)
    save_file({key: value for key, value in tensors.items() if not key.endswith(".bias")}, path)
    assert any(note.startswith(missing) for note in load(path).notes)
