"""An adapter under the model's own names: the same change of the same weights, whatever its file called them."""

import logging

import pytest
import tiny_families
import torch
from torch.testing import assert_close

from krona_ops import Adapter, Full, Kron, LowRank, Matrix, Sum
from krona_ops.errors import CoverageError, FormatError
from krona_ops.left_out import LeftOut

BLOCK = "diffusion_model.input_blocks.1.1.transformer_blocks.0"
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"


@pytest.fixture(scope="module")
def flux(comfy):
    return tiny_families.build("Flux")


@pytest.fixture(scope="module")
def canonical(comfy):
    from krona_host.names.canonical import canonical

    return canonical


def lora(out, into, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return Matrix(LowRank(torch.randn(out, 2, generator=rng), torch.randn(2, into, generator=rng)))


def kron(out, into, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return Kron(Full(torch.randn(4, 2, generator=rng)), Full(torch.randn(out // 4, into // 2, generator=rng)))


def test_other_names_become_the_models_and_nothing_else_changes(canonical, sd15):
    left_out = (LeftOut("OFT", "ComfyUI applies them.", ("x",)),)
    delta = kron(320, 320)
    renamed = canonical(Adapter({f"{KOHYA}_attn1_to_q": delta}, {"ss_steps": "3"}, ("a note",), left_out), sd15)
    assert dict(renamed.layers) == {f"{BLOCK}.attn1.to_q": delta}
    assert (dict(renamed.metadata), renamed.notes, renamed.left_out) == ({"ss_steps": "3"}, ("a note",), left_out)
    again = canonical(renamed, sd15)
    assert again.layers == renamed.layers


def test_parts_of_one_weight_become_updates_of_the_whole(canonical, flux):
    weight = "diffusion_model.double_blocks.0.img_attn.qkv"
    height, width = flux.model.state_dict()[f"{weight}.weight"].shape
    for make in (lora, kron):
        parts = {f"transformer.transformer_blocks.0.attn.to_{p}": make(height // 3, width, n) for n, p in enumerate("qkv")}
        [(name, whole)] = canonical(Adapter(parts), flux).layers.items()
        assert name == weight
        assert isinstance(whole, Sum)
        assert_close(whole.dense(), torch.cat([delta.dense() for delta in parts.values()]))
    [(name, value)] = canonical(
        Adapter({"transformer.transformer_blocks.0.attn.to_v": lora(height // 3, width)}), flux
    ).layers.items()
    assert name == weight
    assert value.dense()[: -height // 3].abs().max() == 0


def test_two_names_of_one_weight_are_added(canonical, sd15):
    both = Adapter({f"{KOHYA}_attn1_to_q": lora(320, 320, 1), f"{BLOCK}.attn1.to_q": lora(320, 320, 2)})
    [(name, delta)] = canonical(both, sd15).layers.items()
    assert name == f"{BLOCK}.attn1.to_q"
    assert_close(delta.dense(), sum(each.dense() for each in both.layers.values()))


def test_layers_that_the_model_lacks_keep_their_names_and_the_log_says_so(canonical, sd15, caplog):
    layers = {f"{KOHYA}_attn1_to_{p}": lora(320, 320) for p in "qkv"} | {"lora_unet_elsewhere": lora(8, 8)}
    with caplog.at_level(logging.WARNING):
        renamed = canonical(Adapter(layers), sd15)
    assert set(renamed.layers) == {*(f"{BLOCK}.attn1.to_{p}" for p in "qkv"), "lora_unet_elsewhere"}
    assert "lora_unet_elsewhere" in caplog.text
    with pytest.raises(CoverageError, match="lora_unet_elsewhere"):
        canonical(Adapter({"lora_unet_elsewhere": lora(8, 8)}), sd15)


@pytest.mark.parametrize(("format", "name"), [("lokr", f"{BLOCK}.attn1.to_q"), ("kohya", f"lora_unet_{BLOCK[16:]}.attn1.to_q")])
def test_names_for_comfyuis_own_loader_are_the_connected_models(comfy, sd15, format, name):
    import comfy.lora

    from krona_host.names.canonical import named_for_core

    adapter = Adapter({f"{KOHYA}_attn1_to_q": lora(320, 320)})
    [written] = named_for_core(adapter, format, sd15).layers
    assert written == (name.replace(".", "_") if format == "kohya" else name)
    assert comfy.lora.model_lora_keys_unet(sd15.model, {})[written] == f"{BLOCK}.attn1.to_q.weight"
    with pytest.raises(FormatError, match="nothing loads"):
        named_for_core(Adapter({"my.own.layer": lora(8, 8)}), format)
