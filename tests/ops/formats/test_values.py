"""Numbers and texts in adapter files that no trainer writes:
an error that names the layer, or nothing, but no foreign exception."""

import json
import struct

import pytest
import torch
from safetensors.torch import save

from krona_ops import blend, inspect_header, load, report
from krona_ops import save as save_adapter
from krona_ops.__main__ import main
from krona_ops.errors import KronaError
from krona_ops.formats.metadata import trigger_words

HUGE = "9" * 400
ESCAPE = "\x1b]0;pwned\x07\x1b[2J\u202ex"


def lokr(name="a"):
    return {f"{name}.lokr_w1": torch.ones(2, 3), f"{name}.lokr_w2": torch.ones(4, 5)}


def lora(name="base_model.model.a"):
    return {f"{name}.lora_A.weight": torch.ones(1, 4), f"{name}.lora_B.weight": torch.ones(4, 1)}


def file(path, tensors, metadata=None):
    path.write_bytes(save(tensors, metadata))
    return path


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        (lokr(), {"ss_network_args": f'{{"linear_dim": {HUGE}, "linear_alpha": {HUGE}}}'}),
        (lokr(), {"ss_network_args": '{"linear_dim": "' + HUGE + '"}', "ss_network_dim": HUGE, "ss_network_alpha": "1e400"}),
        ({**lokr(), "a.alpha": torch.tensor(4.0)}, {"ss_network_args": '{"linear_dim": 1e300, "rs_lora": true}'}),
        ({**lokr(), "a.alpha": torch.tensor(torch.inf)}, {"ss_network_args": '{"linear_dim": 1e300, "rs_lora": true}'}),
        ({**lokr(), "a.alpha": torch.tensor(1e308, dtype=torch.float64)}, {"ss_network_args": '{"rs_lora": true}'}),
        (lokr(), {"ss_network_args": "[" * 5000, "lycoris_config": '{"a":' * 5000, "ss_tag_frequency": "[" * 5000}),
        (lora(), {"adapter_config": f'{{"peft_type": "LORA", "lora_alpha": 1, "r": {HUGE}}}'}),
        (lora(), {"adapter_config": '{"peft_type": ["LORA"], "lora_alpha": {"a": 1}, "r": [1]}'}),
        (lora(), {"adapter_config": '{"peft_type": "LORA", "lora_alpha": 1, "r": 1, "rank_pattern": [1], "alpha_pattern": "x"}'}),
        (lora(), {"lora_adapter_metadata": json.dumps({f"{n}.r": 1 for n in range(5000)})}),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_none(tmp_path, tensors, metadata):
    path = file(tmp_path / "x.safetensors", tensors, metadata)
    (delta,) = load(path).layers.values()
    assert delta.scale in (
        1.0,
        pytest.approx(4 ** (1 / 3)),
        pytest.approx(1e308 ** (1 / 3)),
    )  # rs_lora's own rule, from the saved alpha
    assert trigger_words(inspect_header(path).metadata) == ()


@pytest.mark.parametrize(
    ("alpha", "said"),
    [
        (torch.tensor(1 + 1j, dtype=torch.complex64), "alpha is a complex number"),
        (torch.tensor(torch.nan), "alpha is no number"),
        (torch.ones(2), "alpha is 2 numbers"),
    ],
)
def test_an_alpha_that_is_no_number_is_named(tmp_path, alpha, said):
    with pytest.raises(KronaError, match=f"base_model.model.a: Its {said}"):
        load(file(tmp_path / "x.safetensors", {**lora(), "base_model.model.a.alpha": alpha}))


def test_a_scale_that_no_float32_can_be_multiplied_with_is_named(tmp_path):
    config = json.dumps({"peft_type": "LORA", "lora_alpha": 1e300, "r": 1})
    with pytest.raises(KronaError, match=r"Its scale is 1e\+300"):
        load(file(tmp_path / "x.safetensors", lora(), {"adapter_config": config}))


@pytest.mark.parametrize("number", [2.5, torch.nan, torch.inf, 1e30, -3])
def test_a_row_offset_that_is_no_row_is_named(tmp_path, number):
    tensors = {"a.lokr_w1": torch.ones(2, 1), "a.lokr_w2": torch.ones(6, 4), "a.row_offset": torch.tensor(number)}
    with pytest.raises(KronaError, match="Its row_offset is"):
        load(file(tmp_path / "x.safetensors", tensors))


def test_norms_whose_square_no_float_holds_are_added(tmp_path):
    large = torch.full((2, 2), 1e100, dtype=torch.float64)
    tensors = {
        f"{name}.{part}": value
        for name in "ab"
        for part, value in (("lokr_w1", large.clone()), ("lokr_w2", large[:1, :1].clone()))
    }
    measured = report(load(file(tmp_path / "x.safetensors", tensors)))
    assert measured.norm == pytest.approx(8**0.5 * 1e200)
    assert "2.83e+200" in measured.table()


def test_sums_inside_of_enlarged_weights_are_blended_term_by_term(tmp_path):
    tensors = {f"a.{part}": torch.rand(2, 3, 3) for part in ("cdka_a", "cdka_b")}
    adapter = load(file(tmp_path / "x.safetensors", {**tensors, "a.reshape_weight": torch.tensor([9, 9])}))
    both = blend([(adapter, 1.0), (adapter, 0.5)])
    weight = torch.zeros(9, 9)
    torch.testing.assert_close(both.layers["a"].add_to(weight.clone()), adapter.layers["a"].add_to(weight.clone(), 1.5))


def test_names_reach_no_terminal_as_they_are(tmp_path, capsys):
    path = file(
        tmp_path / "x.safetensors", {**lokr(ESCAPE), **lora("b"), f"{ESCAPE}2.oft_blocks": torch.ones(2, 3, 3)}, {"a": ESCAPE}
    )
    assert main(["inspect", "--by", "layer", "--tensors", str(path)]) == 0
    main(["convert", str(path), "-o", str(tmp_path / "y.safetensors"), "--format", "diffusekrona"])
    main(["inspect", str(file(tmp_path / "z.safetensors", {f"{ESCAPE}.lokr_w1": torch.ones(2, 2)}))])
    main(["inspect", str(tmp_path / f"{ESCAPE[2:]}.pt")])
    output = capsys.readouterr()
    for text in (output.out, output.err):
        assert text.replace("\n", "").isprintable()
        assert "\\x1b]0;pwned\\x07" in output.out


def test_messages_are_short_whatever_the_file_says(tmp_path):
    tensors = {f"{'k' * 900}{n}.{n}": torch.ones(1) for n in range(300)}
    with pytest.raises(KronaError) as caught:
        load(file(tmp_path / "x.safetensors", tensors))
    assert len(str(caught.value)) < 5000


def test_types_that_are_seldom_can_be_saved_and_measured(tmp_path):
    header = {
        "a.lokr_w1": {"dtype": "F8_E8M0", "shape": [4, 4], "data_offsets": [0, 16]},
        "a.lokr_w2": {"dtype": "F64", "shape": [1, 2], "data_offsets": [16, 32]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\x7f" * 16 + struct.pack("<2d", 1, 2))
    adapter = load(path)
    assert report(adapter).norm == pytest.approx(4 * 5**0.5)
    assert load(save_adapter(adapter.scaled(0.3), tmp_path / "y.safetensors")).layers["a"].shape == (4, 8)
