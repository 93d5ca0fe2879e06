"""Training on every family of the host that can be built small: what is found, and that gradients are exact."""

import copy
from collections import Counter

import gradients
import pytest
import tiny_families
import torch
from torch.testing import assert_close

from krona_ops import select
from krona_ops.names.spellings import projection


def same(*names, **counts):
    """The same counts for several families."""
    return dict.fromkeys(names, counts)


UNETS = {"SD15": 14, "SD20": 14, "SDXL": 16, "SSD1B": 12, "SDXLRefiner": 14}
SPLIT = ("q", "k", "v", "out")
FOUND = {
    **{name: dict.fromkeys(SPLIT, count) for name, count in UNETS.items()},
    "SD3": {"qkv": 4, "out": 3},  # the last block's text is not used: there is no projection for it
    "SD3 (3.5 medium)": {"qkv": 5, "out": 4},
    "AuraFlow": dict.fromkeys(SPLIT, 6),
    **same("PixArtAlpha", "PixArtSigma", "HunyuanDiT", qkv=2, q=2, kv=2, out=4),
    **same("Flux", "FluxSchnell", "LongCatImage", "Flux2", "Chroma", "ChromaRadiance", qkv=6, out=6),
    **same("Lumina2", "ZImage", qkv=4, out=4),
    **same("QwenImage", "MageFlow", q=4, k=4, v=4, out=4),
    "Krea2": dict.fromkeys(SPLIT, 6),
    "HiDream": dict.fromkeys(SPLIT, 6),
    "Omnigen2": dict.fromkeys(SPLIT, 5),
    "Boogu": {"q": 8, "k": 8, "v": 8, "out": 9},
    **same("JoyImage", "Lens", qkv=4, out=4),
    "ErnieImage": dict.fromkeys(SPLIT, 2),
    **same("HunyuanImage21", "HunyuanVideo", qkv=8, out=8),
    "HunyuanVideo15": {"qkv": 6, "out": 6},
    **same("CosmosT2IPredict2", "CosmosT2V", "LTXV", "WAN21_T2V", "WAN22_T2V", q=4, k=4, v=4, out=4),
    "Anima": dict.fromkeys(SPLIT, 16),
    **same("Kandinsky5", "Kandinsky5Image", q=6, k=6, v=6, out=6),
    "CogVideoX_T2V": dict.fromkeys(SPLIT, 2),
    "Hunyuan3Dv2": {"qkv": 6, "out": 6},
}
"""How many projections of each kind the default targets find."""


@pytest.fixture(autouse=True)
def one_thread():
    """These models are so small that a second thread costs more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def backbone_of(comfy):
    from krona_train.comfyui.model import ComfyBackbone

    return lambda name, dtype=torch.float32: ComfyBackbone(tiny_families.build(name, dtype))


@pytest.mark.parametrize("name", tiny_families.TINY)
def test_the_default_targets_are_the_attention_projections(backbone_of, name):
    targets = select(backbone_of(name).weights())
    assert Counter(projection(target.name) for target in targets) == FOUND[name]


@pytest.mark.parametrize("name", tiny_families.TINY)
def test_every_block_is_called_as_a_module_and_training_predicts_what_drawing_predicts(backbone_of, name):
    """Two samples at once; what keeps writes in place exact must not change what is computed."""
    backbone = backbone_of(name)
    examples = [tiny_families.example(name, seed) for seed in (0, 1)]
    blocks, calls = backbone.blocks(), Counter()
    hooks = [b.register_forward_hook(lambda module, args, out: calls.update([module])) for b in blocks]
    with backbone.ready():
        with torch.no_grad():
            drawn = gradients.loss_of(backbone, backbone.collate(examples))
        named = {module: path for path, module in backbone.module("diffusion_model").named_modules()}
        layers = gradients.random_layers(backbone)
        for layer in layers.values():
            torch.nn.init.zeros_(layer.b)
        with gradients.attached(backbone, layers):
            trained = gradients.loss_of(backbone, backbone.collate(examples))
    for hook in hooks:
        hook.remove()
    assert_close(trained.detach(), drawn, rtol=1e-5, atol=0)
    assert len(blocks) >= 2
    never = {named[block] for block in blocks if block not in calls}
    assert never <= {"ref_image_refiner.0"}, never  # for pictures to go by, of which there are none


@pytest.mark.parametrize("name", tiny_families.TINY)
def test_gradients_are_those_of_difference_quotients_with_and_without_checkpointing(backbone_of, name):
    """All factors random and not zero; float64 losses against float32 gradients."""
    tiny, backbone, example = tiny_families.TINY[name], backbone_of(name), [tiny_families.example(name)]
    layers = gradients.random_layers(backbone)
    loss, grads = gradients.gradients(backbone, layers, example, unused=tiny.unused)
    for mode in ("blocks", "offloaded"):
        again, again_grads = gradients.gradients(backbone, layers, example, mode, tiny.unused)
        assert again == loss
        assert gradients.relative(again_grads, grads) <= 5e-6  # gradients of one input are added up in another order
    if tiny.float64:
        precise, tolerance = backbone_of(name, torch.float64), 1e-4
        layers = {layer: copy.deepcopy(value).double() for layer, value in layers.items()}
    else:
        precise, tolerance = backbone, 3e-3
    error = gradients.numerical_error(precise, layers, example, grads, tolerance, tiny.directions)
    assert error <= tolerance, error


@pytest.mark.parametrize("name", ["SDXL", "Flux", "LTXV", "QwenImage"])
@pytest.mark.parametrize("mode", ["none", "blocks"])
def test_training_over_a_bypassed_adapter_is_training_over_a_merged_one(comfy, name, mode):
    """Two bypassed updates in a layer write into what the first one made, also where writes in place are kept exact."""
    from krona_host.patching.apply import apply_adapter
    from krona_train.comfyui.model import ComfyBackbone

    tiny, model, results = tiny_families.TINY[name], tiny_families.build(name), []
    with torch.inference_mode():
        adapters = [random_adapter(model, seed) for seed in (5, 6)]
    for way in ("merge", "bypass"):
        patched = model
        with torch.inference_mode():
            for adapter, strength in zip(adapters, (0.7, -0.4), strict=True):
                patched = apply_adapter(adapter, patched, strength_model=strength, mode=way).model
        backbone = ComfyBackbone(patched)
        layers = gradients.random_layers(backbone)
        results.append(gradients.gradients(backbone, layers, [tiny_families.example(name)], mode, tiny.unused))
    (loss, merged), (other, bypassed) = results
    assert_close(other, loss, rtol=1e-5, atol=0)
    assert gradients.relative(bypassed, merged) <= 1e-4
    backbone = ComfyBackbone(model)
    plain, _ = gradients.gradients(backbone, gradients.random_layers(backbone), [tiny_families.example(name)], mode, tiny.unused)
    assert abs(plain - loss) > 1e-3 * loss  # the adapters do something


def random_adapter(model, seed):
    """An update of every attention projection, a tenth as large as its weight."""
    from krona_ops import Adapter, Full, Kron
    from krona_train.comfyui.model import ComfyBackbone

    rng = torch.Generator().manual_seed(seed)
    return Adapter(
        {
            target.name: Kron(
                Full(torch.randn(target.sizes.out_a, target.sizes.in_a, generator=rng)),
                Full(0.1 * torch.randn(target.sizes.out_b, target.sizes.in_b, generator=rng) / target.sizes.in_features**0.5),
            )
            for target in select(ComfyBackbone(model).weights())
        }
    )
