"""Files are not trusted: whatever is in them, the only exceptions are ours."""

import contextlib
import json
import struct

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import save as to_bytes

from krona_ops import load
from krona_ops.errors import AdapterFileError, FormatError
from krona_ops.formats.header import Header
from krona_ops.formats.inspection import inspect_header
from krona_ops.formats.parts import SUFFIXES
from krona_ops.formats.registry import detect, readers
from krona_ops.formats.scale_rules import RULES

OF_BRANCHES = [".attn1.processor.to_q_mv.weight", ".attn1.to_out_ff.0.bias", ".attn1.krona_row.gate"]
ENDS = [*sorted(SUFFIXES), *OF_BRANCHES, "_lora.down.weight", ".unknown", ""]
NAMES = ["x", "y.z", "base_model.model.x", "unet.a.attn1.processor.to_q", "bundle_emb.x"]
SHAPES = st.lists(st.integers(0, 4), max_size=6).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool, torch.float8_e4m3fn])
JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["r", "alpha", "peft_type", "rank_pattern", "rs_lora", "x"]), inner, max_size=5)
    ),
    max_leaves=8,
)
METADATA = st.dictionaries(
    st.sampled_from(
        ["ss_network_args", "ss_network_module", "ss_network_dim", "lycoris_config", "adapter_config", "lora_adapter_metadata"]
    ),
    st.sampled_from(["networks.cdka", "networks.krona", "{", "nan", "-1", "1e400"])
    | JSONISH.map(json.dumps)
    | st.text(max_size=10),
    max_size=4,
)
SLOW = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fuzz.safetensors"


def must_not_surprise(path, rule="auto"):
    for read in (lambda p: load(p, scale_rule=rule), inspect_header):
        with contextlib.suppress(AdapterFileError):
            read(path)


@SLOW
@given(
    tensors=st.dictionaries(st.tuples(st.sampled_from(NAMES), st.sampled_from(ENDS)), st.tuples(SHAPES, DTYPES), max_size=8),
    metadata=METADATA,
    rule=st.sampled_from(RULES),
)
def test_random_tensors_under_known_names(path, tensors, metadata, rule):
    made = {f"{name}{end}": torch.ones(shape).to(dtype) for (name, end), (shape, dtype) in tensors.items()}
    path.write_bytes(to_bytes(made, metadata))
    must_not_surprise(path, rule)


WHOLE = {
    "lokr": {"lokr_w1": (2, 3), "lokr_w2_a": (5, 2), "lokr_w2_b": (2, 4), "alpha": (), "dora_scale": (10, 1)},
    "tucker": {"lokr_w1_a": (2, 1), "lokr_w1_b": (1, 3), "lokr_t2": (2, 2, 3, 3), "lokr_w2_a": (2, 5), "lokr_w2_b": (2, 4)},
    "loha": {"hada_w1_a": (6, 2), "hada_w1_b": (2, 5), "hada_w2_a": (6, 2), "hada_w2_b": (2, 5), "alpha": (), "diff_b": (6,)},
    "lora": {
        "lora_up.weight": (6, 2, 1, 1),
        "lora_mid.weight": (2, 2, 3, 3),
        "lora_down.weight": (2, 5, 1, 1),
        "dora_scale": (1, 5, 1, 1),
    },
    "cdka": {"cdka_a": (2, 2, 3), "cdka_b": (2, 4, 5), "alpha": ()},
    "branch": {
        **{f"attn1.processor.to_{part}_ref.weight": (6, 6) for part in ("q", "k", "v", "out")},
        "attn1.processor.to_out_ref.bias": (6,),
        "attn1.to_q_ff.weight": (4, 6),
        "attn1.to_out_ff.weight": (6, 4),
        "attn1.to_out_ff.0.bias": (6,),
    },
}


@SLOW
@given(data=st.data(), kind=st.sampled_from(sorted(WHOLE)), metadata=METADATA)
def test_a_whole_file_with_parts_missing_or_reshaped(path, data, kind, metadata):
    parts = dict(WHOLE[kind])
    for part in data.draw(st.lists(st.sampled_from(sorted(parts)), max_size=2, unique=True)):
        change = data.draw(st.sampled_from(["drop", "shape", "more"]))
        if change == "drop":
            del parts[part]
        elif change == "shape":
            parts[part] = data.draw(SHAPES)
        else:
            parts[part] = (*parts[part], 1)
    path.write_bytes(to_bytes({f"x.{part}": torch.ones(shape) for part, shape in parts.items()}, metadata))
    must_not_surprise(path)


@SLOW
@given(
    header=JSONISH | st.dictionaries(st.sampled_from(["x.lokr_w1", "x.lokr_w2", "__metadata__"]), JSONISH),
    rest=st.binary(max_size=40),
)
def test_a_header_of_anything(path, header, rest):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)
    must_not_surprise(path)


@SLOW
@given(
    entry=st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "F4", "C64", "BOOL", ""]),
            "shape": st.lists(st.integers(-3, 2**62), max_size=4),
            "data_offsets": st.lists(st.integers(-3, 2**62), max_size=3),
        }
    )
)
def test_a_header_with_impossible_sizes(path, entry):
    text = json.dumps({"x.lokr_w1": entry, "x.lokr_w2": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    must_not_surprise(path)


@SLOW
@given(data=st.data(), kind=st.sampled_from(sorted(WHOLE)))
def test_a_file_with_bytes_changed_or_cut(path, data, kind):
    content = bytearray(to_bytes({f"x.{part}": torch.ones(shape) for part, shape in WHOLE[kind].items()}, {"a": "b"}))
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    must_not_surprise(path)


@settings(max_examples=300, deadline=None)
@given(
    keys=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(ENDS)), max_size=6), metadata=METADATA, shape=SHAPES
)
def test_a_file_is_in_one_format_at_most(keys, metadata, shape):
    header = Header({f"{name}{end}": shape for name, end in keys}, metadata)
    assert sum(bool(module.sniff(header)) for module in readers()) <= 1


def test_two_formats_that_both_claim_a_file_are_an_error():
    header = Header({"x.lokr_w1": (2, 2), "x.lokr_w2": (2, 2)}, {})
    lokr = detect(header)
    with pytest.raises(FormatError, match="could be lokr or lokr"):
        detect(header, (lokr, lokr))


def test_a_pattern_that_is_a_regular_expression_is_an_error(path):
    config = {"peft_type": "LOKR", "r": 2, "alpha": 2, "rank_pattern": {"(": 3}}
    path.write_bytes(
        to_bytes(
            {"base_model.model.x.lokr_w1": torch.ones(2, 2), "base_model.model.x.lokr_w2": torch.ones(2, 2)},
            {"adapter_config": json.dumps(config)},
        )
    )
    with pytest.raises(FormatError, match="a regular expression, and it is no"):
        load(path)
