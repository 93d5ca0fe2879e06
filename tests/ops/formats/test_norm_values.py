"""The two files of a ResAdapter as values: told by what is in them, joined, looked at, refused."""

import pytest
import torch
from resadapter_files import SD15, SDXL, lora_file, norm_file, norm_shapes
from safetensors.torch import save_file

from krona_ops import Adapter, Full, Matrix, blend, compress, inspect_header, load, report, save
from krona_ops.__main__ import main
from krona_ops.errors import FormatError, KronaError, ShapeError
from krona_ops.formats import norm_values, pair, registry
from krona_ops.formats.header import Header
from krona_ops.names.resadapter import base_model, is_norm, is_sampler, levels
from krona_ops.operations.strengths import apply_weights, parse_weights
from krona_ops.updates.absolute import Absolute, waiting

NARROW = (12, 20, 28)
WHOLE = {"SD1.5": (SD15, 88, 99_840, 6, 870_400), "SDXL": (SDXL, 68, 66_560, 4, 460_800)}
"""Tensors and numbers of the published files, by base model: of the norms' values, of the LoRA."""


def put(tensors, folder, name):
    path = folder / name
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata={"format": "pt"})
    return path


@pytest.fixture
def files(tmp_path):
    """A LoRA and values that belong together, under names that say nothing."""
    return put(lora_file(NARROW), tmp_path, "a.safetensors"), put(norm_file(norm_shapes(NARROW)), tmp_path, "b.safetensors")


@pytest.mark.parametrize("kind", WHOLE)
def test_the_published_files_are_all_read(kind, tmp_path):
    widths, norms, numbers, convolutions, parameters = WHOLE[kind]
    first = put(lora_file(widths), tmp_path, "x.safetensors")
    second = put(norm_file(norm_shapes(widths)), tmp_path, "y.safetensors")
    assert inspect_header(second).format == "norm values"
    assert inspect_header(first).format == "lora"
    whole = load(first, other=second)
    values = waiting(whole.layers)
    assert (len(values), sum(whole.layers[name].parameters for name in values)) == (norms, numbers)
    lora = [name for name in whole.layers if name not in set(values)]
    assert len(lora) == convolutions
    assert sum(whole.layers[name].parameters for name in lora) == parameters
    assert not whole.left_out
    assert base_model(lora) == base_model(values) == kind
    assert all(map(is_sampler, lora))
    assert all(map(is_norm, values))


def test_values_are_told_by_names_and_shapes_alone():
    tensors = norm_file(norm_shapes(NARROW))
    assert registry.detect(Header.of(tensors, {})) is norm_values
    with_prefix = {f"unet.{key}": value for key, value in tensors.items()}
    assert registry.detect(Header.of(with_prefix, {})) is norm_values
    as_matrices = {key: value[:, None] for key, value in tensors.items()}
    others = {
        "a VAE": {f"encoder.{key}": value for key, value in tensors.items()},
        "matrices": as_matrices,
        "a whole UNet": tensors | {f"down_blocks.{n}.resnets.0.conv1.weight": torch.zeros(2, 2, 3, 3) for n in range(100)},
    }
    for what, other in others.items():
        assert not norm_values.sniff(Header.of(other, {})), what
    with_lora = tensors | lora_file(NARROW)
    assert not norm_values.sniff(Header.of(with_lora, {}))  # one file that has both: the LoRA's own reader names the rest


def test_a_value_is_reached_at_strength_one_and_every_other_strength_is_on_the_line():
    base, value = torch.randn(7), torch.randn(7)
    for strength in (-1.0, 0.0, 0.3, 0.6, 1.0, 1.7):
        wanted = base.double() + strength * (value.double() - base.double())
        for got in (
            Absolute(value).add_to(base.clone(), strength),
            Absolute(value).scaled(strength).add_to(base.clone()),
            base + Absolute(value).against(base).scaled(strength).dense(),
        ):
            torch.testing.assert_close(got.double(), wanted, rtol=2e-7, atol=2e-7)
    with pytest.raises(ShapeError, match="The file has 7 values, the model has"):
        Absolute(value).against(torch.zeros(8))


def test_half_precision_values_are_subtracted_in_float32():
    value, base = torch.randn(9).half(), torch.randn(9).half()
    assert torch.equal(Absolute(value).against(base).dense(), value.float() - base.float())
    wide = base.double()
    assert Absolute(value).against(wide).dense().dtype == torch.float64


def test_both_files_are_one_adapter_in_either_order(files):
    lora, norms = files
    one, other = load(lora, other=norms), load(norms, other=lora)
    assert list(one.layers) == list(other.layers)
    assert one == other
    assert pair.half_of(one) is None
    assert not any("two files" in note for note in one.notes)


def test_one_file_alone_says_what_the_other_would_add(files):
    lora, norms = files
    [note] = [note for note in load(norms).notes if "two files" in note]
    assert note == (
        "This is one of the two files of a ResAdapter for SDXL: the values of the residual blocks' norms "
        "(diffusion_pytorch_model.safetensors). The other one, the LoRA of the down- and upsamplers "
        "(pytorch_lora_weights.safetensors) would add 4 convolutions. Choose it as 'other_file' (at a prompt --other)."
    )
    [note] = [note for note in load(lora).notes if "two files" in note]
    assert "the values of the residual blocks' norms (diffusion_pytorch_model.safetensors) would add the norms" in note


def test_files_that_are_no_pair_are_refused(files, tmp_path):
    lora, norms = files
    with pytest.raises(FormatError, match=r"Both files are the LoRA of the down- and upsamplers .* Choose the values"):
        load(lora, other=lora)
    with pytest.raises(FormatError, match="Both files are the values of the residual blocks' norms"):
        load(norms, other=norms)
    style = put({"lora_unet_mid.lora_down.weight": torch.ones(2, 8), "lora_unet_mid.lora_up.weight": torch.ones(8, 2)}, tmp_path, "s.safetensors")
    with pytest.raises(FormatError, match="the second is no part of a ResAdapter"):
        load(norms, other=style)
    with pytest.raises(FormatError, match="the first is no part of a ResAdapter"):
        load(style, other=lora)
    with pytest.raises(FormatError, match="the first and the second are no part"):
        load(style, other=style)
    four = put(norm_file(norm_shapes((*NARROW, 28))), tmp_path, "four.safetensors")
    with pytest.raises(FormatError, match=r"a UNet of 3 levels \(SDXL\), the norms' values for one of 4 levels \(SD1.5\)"):
        load(lora, other=four)
    wide = put(norm_file(norm_shapes((12, 24, 28))), tmp_path, "wide.safetensors")
    with pytest.raises(FormatError, match="down_blocks_1_downsamplers_0_conv: The two files are for different base models: the LoRA has 20 channels here"):
        load(lora, other=wide)


def test_what_needs_the_model_says_so_and_where(files, tmp_path):
    lora, norms = files
    whole = load(lora, other=norms)
    expected = "34 norms and biases are values|68 norms and biases are values|norms and biases are values as they end"
    for act in (
        lambda: save(whole, tmp_path / "out.safetensors"),
        lambda: save(whole, tmp_path / "out.safetensors", "kohya-lora", rank=16),
        lambda: blend([(whole, 0.5), (whole, 0.5)]),
        lambda: compress(whole),
    ):
        with pytest.raises(KronaError, match=expected) as caught:
            act()
        assert "Connect the MODEL to Load KronA" in str(caught.value)
        assert "--against CHECKPOINT" in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()
    with pytest.raises(KronaError, match="no update without the base model's own"):
        whole.layers["mid_block.resnets.0.norm1"].dense()


def test_it_is_looked_at_scaled_and_weighted_without_a_model(files):
    lora, norms = files
    whole = load(lora, other=norms)
    facts = report(whole)
    assert {layer.form for layer in facts.layers} == {"LoRA 16", "norm value"}
    half = whole.scaled(0.5)
    assert half.layers["mid_block.resnets.0.norm1"].strength == 0.5
    weighted = apply_weights(whole, parse_weights("up_blocks.1=0.25"))
    assert weighted.layers["up_blocks.1.resnets.0.norm2.bias"].strength == 0.25
    assert weighted.layers["mid_block.resnets.0.norm1"].strength == 1.0


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("mid_block.resnets.0.norm1.weight", torch.ones(5), "Its weight has 5 numbers and its bias 28"),
        ("mid_block.resnets.0.norm1.weight", torch.ones(28, 1), "weight has 2 axes"),
        ("mid_block.resnets.0.norm1.bias", torch.ones(28, dtype=torch.int32), "of type int32"),
        ("mid_block.resnets.0.norm1.bias", torch.ones(0), "bias is 0 of type"),
    ],
)
def test_a_damaged_norm_is_left_out_whole_and_named(key, value, reason, tmp_path):
    tensors = norm_file(norm_shapes(NARROW)) | {key: value}
    adapter = load(put(tensors, tmp_path, "x.safetensors"))
    [left_out] = adapter.left_out
    assert left_out.names == ("mid_block.resnets.0.norm1",)
    assert reason in left_out.reason
    assert len(adapter) == len(tensors) - 2


def test_a_file_of_damaged_norms_alone_is_an_error(tmp_path):
    path = put({"mid_block.resnets.0.norm1.weight": torch.ones(0)}, tmp_path, "x.safetensors")
    with pytest.raises(FormatError, match="weight is 0 of type float32"):
        load(path)


def test_other_tensors_of_such_a_file_are_named(tmp_path):
    tensors = norm_file(norm_shapes(NARROW)) | {"conv_norm_out.weight": torch.ones(12), "emb_params": torch.ones(3, 4)}
    adapter = load(put(tensors, tmp_path, "x.safetensors"))
    assert {name for entry in adapter.left_out for name in entry.names} == {"conv_norm_out", "emb_params"}


def test_a_lora_of_other_layers_too_is_no_half():
    layers = {"lora_unet_down_blocks_0_downsamplers_0_conv": Matrix(Full(torch.ones(2, 2, 3, 3)))}
    assert pair.half_of(Adapter(layers)) is None  # dense
    assert pair.half_of(Adapter({})) is None
    assert levels(["conv_in"]) == 0


def native(key):
    """Stability's name of a residual block's norm, as diffusers' conversion counts."""
    *path, number, norm, end = key.split(".")
    norm = {"norm1": "in_layers.0", "norm2": "out_layers.0"}[norm]
    if path[0] == "mid_block":
        return f"model.diffusion_model.middle_block.{2 * int(number)}.{norm}.{end}"
    is_down = path[0] == "down_blocks"
    index = 3 * int(path[1]) + int(number) + is_down
    return f"model.diffusion_model.{'input' if is_down else 'output'}_blocks.{index}.0.{norm}.{end}"


@pytest.mark.parametrize("layout", ["checkpoint", "diffusers", "half"])
def test_a_checkpoint_makes_changes_of_the_values_at_a_prompt(files, tmp_path, capsys, layout):
    lora, norms = map(str, files)
    values = norm_file(norm_shapes(NARROW))
    base = {key: torch.randn(len(value)) for key, value in values.items()}
    if layout == "half":
        base = {key: value.half() for key, value in base.items()}
    stored = base if layout == "diffusers" else {native(key): v for key, v in base.items()}
    checkpoint = put(stored | {"model.diffusion_model.out.2.weight": torch.zeros(4, 4)}, tmp_path, "base.safetensors")
    out = tmp_path / "out.safetensors"
    assert main(["convert", lora, "--other", norms, "-o", str(out)]) == 2
    assert "--against CHECKPOINT" in capsys.readouterr().err
    assert main(["convert", lora, "--other", norms, "--against", str(checkpoint), "-o", str(out), "--base", "SD15"]) == 0
    one = load(out)
    changes = {key: delta for key, delta in one.layers.items() if len(delta.shape) == 1}
    assert len(changes) == len(values)
    assert len(one) - len(changes) == 4
    for key, value in values.items():
        name = key.removesuffix(".weight")
        [delta] = [d for layer, d in changes.items() if layer.endswith((name, name.replace(".", "_")))]
        assert torch.equal(delta.dense(), value - base[key].float())


def test_one_file_alone_is_converted_and_says_what_the_other_would_add(files, tmp_path, capsys):
    lora, norms = map(str, files)
    checkpoint = put({native(key): value for key, value in norm_file(norm_shapes(NARROW), seed=9).items()}, tmp_path, "base.safetensors")
    assert main(["convert", lora, "-o", str(tmp_path / "lora out.safetensors")]) == 0
    assert "would add the norms" in capsys.readouterr().out
    assert main(["convert", norms, "--against", str(checkpoint), "-o", str(tmp_path / "norms out.safetensors")]) == 0
    assert "would add 4 convolutions" in capsys.readouterr().out
    assert len(load(tmp_path / "norms out.safetensors")) == 68


def test_names_that_look_like_norms_are_none():
    for key in (
        "down_blocks.0.resnets.0.norm3.weight", "down_blocks.999999.resnets.0.norm1.weight", "down_blocks..resnets.0.norm1.weight",
        "down_blocks.٣.resnets.0.norm1.weight", "up_blocks.0.resnets.0.norm1", "up_blocks.0.resnets.0.norm1.bias.bias",
        "x" * 900 + ".mid_block.resnets.0.norm1.weight", "mid_block.resnets.0.norm1.weight.weight", ".weight", "",
    ):  # fmt: skip
        assert not norm_values.sniff(Header({key: (4,)}, {})), key
    many = {f"mid_block.resnets.{n}.norm1.weight": (4,) for n in range(100)} | {f"x{n}": (4,) for n in range(60_000)}
    assert not norm_values.sniff(Header(many, {}))


def test_a_checkpoint_of_another_model_is_refused(files, tmp_path, capsys):
    lora, norms = map(str, files)
    values = norm_file(norm_shapes(NARROW))
    some = put({native(key): v for key, v in values.items() if not key.startswith("mid")}, tmp_path, "some.safetensors")
    wide = put({native(key): v.repeat(2) for key, v in values.items()}, tmp_path, "wide.safetensors")
    for checkpoint, sentence in (
        (some, "The checkpoint has 60 of the 68 norms and biases that the file has values for."),
        (wide, "The file has 12 values, the model has (24,)"),
        (tmp_path / "none.safetensors", "cannot be opened"),
    ):
        out = str(tmp_path / "out.safetensors")
        assert main(["convert", lora, "--other", norms, "--against", str(checkpoint), "-o", out]) == 2
        assert sentence in capsys.readouterr().err
