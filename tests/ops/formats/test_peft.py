"""Files written by PEFT itself, against the updates that PEFT computes; and ours, read by PEFT."""

import json

import peft
import pytest
import torch
from originals import LAYERS, peft_lokr, relative
from peft.tuners.lokr.layer import factorization
from safetensors.torch import load_file, save_file
from torch import nn

from krona_ops import Adapter, Full, Kron, LowRank, load, save
from krona_ops.errors import AdapterFileError, FormatError
from krona_ops.formats.peft import _split
from krona_ops.updates.reshape import reshaped

CASES = {
    "w2 decomposed": {"decompose_factor": 2},
    "both whole": {"r": 8, "alpha": 3},
    "both decomposed": {"decompose_factor": 5, "r": 1, "decompose_both": True},
    "w1 decomposed too": {"decompose_factor": 4, "r": 1, "decompose_both": True},
    "tucker": {"decompose_factor": 2, "use_effective_conv2d": True},
    "patterns": {"rank_pattern": {"block": 1}, "alpha_pattern": {"^bl.ck": 5}},
}
SUPPORTED = [layer for layer in LAYERS if layer != "conv3d"]


@pytest.mark.parametrize("layer", SUPPORTED)
@pytest.mark.parametrize("case", CASES)
def test_every_branch_reads_as_peft_computes_it(layer, case, tmp_path):
    """The scale is alpha / r also where both factors are whole; ComfyUI takes 1 (L5):
    8/3 times as strong in that case."""
    original = peft_lokr(layer, tmp_path, **CASES[case])
    adapter = load(original.path)
    delta = reshaped(adapter.layers[original.layer], tuple(original.weight.shape))
    assert relative(delta.dense(), original.delta) < 1e-6
    assert "PEFT: alpha" in adapter.notes[0]


@pytest.mark.parametrize("layer", SUPPORTED)
@pytest.mark.parametrize("case", CASES)
def test_a_file_written_for_peft_is_the_file_that_peft_wrote(layer, case, tmp_path):
    original = peft_lokr(layer, tmp_path, **CASES[case])
    adapter = load(original.path)
    if (layer, case) == ("conv1d", "both whole"):
        pytest.skip("PEFT makes no Kronecker product of these, see the next test")
    if layer != "linear":  # only the weight knows the kernel of a flattened convolution
        shape = tuple(original.weight.shape)
        adapter = Adapter({name: reshaped(delta, shape) for name, delta in adapter.layers.items()}, adapter.metadata)
    save(adapter, tmp_path / "again" / "adapter_model.safetensors", "peft")
    again = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert again.keys() == original.tensors.keys()
    assert all(torch.equal(again[key], original.tensors[key]) for key in again)
    ours = load(tmp_path / "again" / "adapter_model.safetensors").layers[original.layer]
    assert torch.equal(reshaped(ours, tuple(original.weight.shape)).dense(), adapter.layers[original.layer].dense())


def test_a_one_dimensional_convolution_is_read_as_peft_trains_it_and_not_written(tmp_path):
    """PEFT aligns the axes of `torch.kron` on the right: a product that is none of the two factors' channels."""
    original = peft_lokr("conv1d", tmp_path, r=8, alpha=3)
    parts = {key.rpartition(".")[2]: value for key, value in original.tensors.items()}
    proper = Kron(Full(parts["lokr_w1"]), Full(parts["lokr_w2"]), 3 / 8)
    assert relative(proper.dense(), original.delta) > 1
    with pytest.raises(FormatError, match="multiplies in another order"):
        save(Adapter({"x": proper}), tmp_path / "x.safetensors", "peft")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 10), nn.Linear(10, 14)
        self.conv = nn.Conv2d(4, 6, 3)

    def forward(self, x):
        return self.second(self.first(x))


def test_what_is_exported_loads_into_peft_and_does_the_same(tmp_path):
    """Layers with different ranks, alphas and kinds, loaded by peft itself onto the same weights."""
    adapter = Adapter(
        {
            "first": Kron(Full(torch.randn(2, 2)), LowRank(torch.randn(5, 2), torch.randn(2, 6)), 0.75),
            "second": Kron(Full(torch.randn(2, 2)), Full(torch.randn(7, 5)), 2.5),
            "conv": Kron(Full(torch.randn(2, 2)), LowRank(torch.randn(3, 1), torch.randn(1, 2, 3, 3)), -0.5),
        }
    )
    save(adapter, tmp_path / "adapter_model.safetensors", "peft")
    model = Net()
    x = torch.randn(5, 12)
    first = model.first.weight + adapter.layers["first"].dense()
    second = model.second.weight + adapter.layers["second"].dense()
    expected = nn.functional.linear(nn.functional.linear(x, first, model.first.bias), second, model.second.bias)
    wrapped = peft.PeftModel.from_pretrained(model, tmp_path)
    torch.testing.assert_close(wrapped(x), expected, rtol=1e-5, atol=1e-5)
    conv = wrapped.base_model.model.conv.get_delta_weight("default")
    torch.testing.assert_close(conv, adapter.layers["conv"].dense(), rtol=1e-6, atol=1e-6)


def test_factors_that_no_setting_of_peft_gives_are_refused(tmp_path):
    """The paper's 64 × 4: PEFT has one factor for both sides."""
    adapter = Adapter({"x": Kron(Full(torch.randn(64, 4)), Full(torch.randn(20, 320)))})
    with pytest.raises(FormatError, match=r"one factor for all layers and both sides; none gives 64 × 4 ⊗ 20 × 320"):
        save(adapter, tmp_path / "x.safetensors", "peft")
    assert list(tmp_path.iterdir()) == []


def test_a_low_rank_that_peft_would_store_whole_is_refused(tmp_path):
    adapter = Adapter({"x": Kron(Full(torch.randn(2, 2)), LowRank(torch.randn(5, 3), torch.randn(3, 6)))})
    with pytest.raises(FormatError, match="PEFT LoKr cannot hold the update"):
        save(adapter, tmp_path / "x.safetensors", "peft")


def test_how_peft_splits_a_side():
    sizes = [1, 2, 3, 7, 9, 12, 16, 30, 36, 49, 60, 64, 97, 120, 127, 128, 320, 640, 1280]
    for size in sizes:
        for factor in (-1, *range(1, 70), 128, 640):
            assert _split(size, factor) == factorization(size, factor), (size, factor)


def test_settings_of_another_adapter_in_the_same_folder_are_not_applied(tmp_path):
    """A folder of many files may hold one PEFT adapter's settings."""
    adapter = Adapter({"lora_unet_x": Kron(Full(torch.randn(2, 2)), Full(torch.randn(5, 6)))})
    save(adapter, tmp_path / "mine.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LOKR", "r": 2, "alpha": 16}))
    assert load(tmp_path / "mine.safetensors").layers["lora_unet_x"].scale == 1.0


def test_settings_that_contradict_the_tensors_are_an_error(tmp_path):
    original = peft_lokr("linear", tmp_path, decompose_factor=2)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    metadata = {"adapter_config": json.dumps({**config, "r": 4})}
    save_file(original.tensors, original.path, metadata)
    with pytest.raises(FormatError, match="say rank 4 and alpha 3, the file has rank 2"):
        load(original.path)


def test_without_its_settings_a_peft_file_is_read_with_a_warning(tmp_path):
    original = peft_lokr("linear", tmp_path, decompose_factor=2)
    (tmp_path / "adapter_config.json").unlink()
    adapter = load(original.path)
    assert "adapter_config.json is not beside the file" in adapter.notes[0]
    assert relative(adapter.layers[original.layer].dense() * 1.5, original.delta) < 1e-6


def test_settings_of_another_adapter_are_not_overwritten(tmp_path):
    one = Adapter({"x": Kron(Full(torch.randn(2, 2)), Full(torch.randn(5, 6)))})
    save(one, tmp_path / "a.safetensors", "peft")
    save(one, tmp_path / "a.safetensors", "peft")
    with pytest.raises(AdapterFileError, match="settings of another PEFT adapter"):
        save(Adapter({"y": one.layers["x"]}), tmp_path / "b.safetensors", "peft")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("layer", ["linear", "conv2d"])
def test_a_plain_lora_of_peft_takes_its_alpha_from_the_settings(layer, use_rslora, use_dora, tmp_path):
    """ComfyUI has no alpha in these files and takes scale 1."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("block", LAYERS[layer]())
    weight = model.block.weight.detach().clone()
    config = peft.LoraConfig(
        target_modules=["block"], r=2, lora_alpha=5, use_rslora=use_rslora, use_dora=use_dora, init_lora_weights=False
    )
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    wrapped.save_pretrained(tmp_path)
    wrapped.merge_adapter()
    expected = wrapped.base_model.model.block.base_layer.weight.detach()
    delta = load(tmp_path / "adapter_model.safetensors").layers["base_model.model.block"]
    merged = delta.add_to(weight.clone())
    assert relative(merged - weight, expected - weight) < 3e-6
