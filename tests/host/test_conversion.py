"""What conversion writes without a model, loaded by ComfyUI's own loader on the host's own models, against what the pack makes of the original."""

import dialects
import families
import pytest
import tiny_families
import torch
from torch.testing import assert_close

from krona_ops import Adapter, Matrix, encode
from krona_ops.errors import FormatError
from krona_ops.names.core_names import FILE, bases
from krona_ops.operations.blend import blend
from krona_ops.operations.respell import respelled, unified
from krona_ops.updates.factor import LowRank
from tools.generate import core_names
from tools.install.recipe import COMFYUI_VERSION

FAMILIES = ["SD15", "SD3", "Flux", "ZImage", "HunyuanVideo", "WAN21_T2V"]
FORMATS = ["lokr", "kohya", "lora", "kohya-lora"]
ASKS = {"SD3": "norm1_context"}
"""Layers that no name in a file can hold alone: the host keeps the last one's halves the other way round, so the model is asked for."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, comfy):
    model = tiny_families.build(request.param)
    return request.param, model, list(spellings_of(request.param, model.model))


def update(where, net, rng):
    shape = list(net.state_dict()[where[0]].shape)
    if where[1] is not None:
        shape[0] = where[1][2]
    return Matrix(LowRank(torch.randn(shape[0], 1, generator=rng), torch.randn(1, *shape[1:], generator=rng)))


def diffusers_names(name, net):
    """Diffusers' converters know full widths only, so their rows are brought to the tiny model's."""
    full = families.build(name).model
    wide = {f"diffusion_model.{path}.weight": shape for path, shape in dialects.layers(full).items()}
    narrow = {key: tuple(weight.shape) for key, weight in net.state_dict().items()}
    places = {}
    for path, (key, offset, order) in dialects.diffusers(name, full).items():
        if key not in narrow or order is not None:
            continue  # another depth; rows in another order have no name that ComfyUI knows, see tests/host/test_names.py
        if offset is not None:
            axis, start, length = offset
            rows = [n * narrow[key][axis] / wide[key][axis] for n in (start, length)]
            assert all(n == int(n) for n in rows), (path, key)
            offset = (axis, *map(int, rows))
        places[path] = (key, offset)
    return places


def spellings_of(name, net):
    """The family's attention layers as the tools spell them: its own paths, and diffusers' words under four prefixes."""
    is_unet = "num_res_blocks" in net.model_config.unet_config
    own = {path: where for path, where in dialects.native(net).items() if ASKS.get(name, "-") not in path}
    theirs = dialects.diffusers(name, net) if is_unet else diffusers_names(name, net)
    if is_unet:  # most of their layers are alike, and there are hundreds
        own, theirs = dict(list(own.items())[::7]), dict(list(theirs.items())[::7])
    yield from ((title, {spell(path): where for path, where in own.items()}) for title, spell in dialects.DIALECTS.items())
    theirs = {path: where for path, where in theirs.items() if ASKS.get(name, "-") not in path}
    for title, spell in (dialects.DIFFUSERS_UNET if is_unet else dialects.DIFFUSERS).items():
        yield f"diffusers {title}", {spell(path): where for path, where in theirs.items()}


def by_pack(adapter, model):
    from krona_host.names.resolution import resolve

    resolution = resolve(adapter, model)
    assert not resolution.unmatched
    changes = {}
    for site, delta in resolution.model:
        whole = changes.setdefault(site.key, torch.zeros_like(model.model.state_dict()[site.key]))
        part = whole if site.offset is None else whole.narrow(*site.offset)
        part += delta.dense().reshape(part.shape)
    return changes


def by_core(tensors, model, caplog):
    import comfy.lora

    with torch.inference_mode():
        key_map = comfy.lora.model_lora_keys_unet(model.model, {})
        caplog.clear()
        patches = comfy.lora.load_lora(dict(tensors), key_map)
        assert "not loaded" not in caplog.text
        changes = {}
        for target, patch in patches.items():
            key, offset, function = (target, None, None) if isinstance(target, str) else (*target, None)[:3]
            whole = changes.setdefault(key, torch.zeros_like(model.model.state_dict()[key]))
            comfy.lora.calculate_weight([(1.0, patch, 1.0, offset, function)], whole, key)
    return changes


def equal(changes, expected):
    assert changes.keys() == expected.keys()
    for key, change in expected.items():
        assert_close(changes[key], change, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("format", FORMATS)
def test_every_spelling_becomes_names_that_comfyui_loads_to_the_same_weights(family, format, caplog):
    name, model, spelled = family
    rng = torch.Generator().manual_seed(0)
    for _, names in spelled:
        adapter = Adapter({n: update(where, model.model, rng) for n, where in names.items()})
        if not names:
            continue
        written = encode(
            respelled(adapter, format, base=name), format, rank=8 if "-" in format or format == "lora" else None, rename=str
        )
        equal(by_core(written.tensors, model, caplog), by_pack(adapter, model))


def test_without_being_told_the_model_it_loads_or_asks(family, caplog):
    _, model, spelled = family
    rng = torch.Generator().manual_seed(0)
    for _, names in spelled:
        adapter = Adapter({n: update(where, model.model, rng) for n, where in names.items()})
        if not names:
            continue
        try:
            written = encode(respelled(adapter, "kohya"), "kohya", rename=str)
        except FormatError:
            continue
        equal(by_core(written.tensors, model, caplog), by_pack(adapter, model))


def test_a_blend_of_two_dialects_loads_whole_in_comfyui(family, caplog):
    name, model, spelled = family
    if name in ("SD15", "SDXL"):
        pytest.skip(
            "the tiny UNets have one residual block on a level, which diffusers' words do not tell; tests/ops has the real count"
        )
    rng = torch.Generator().manual_seed(0)
    named = [names for _, names in spelled if names]
    pair = [Adapter({n: update(where, model.model, rng) for n, where in names.items()}) for names in (named[0], named[-1])]
    expected = by_pack(pair[0].scaled(0.5), model)
    for key, change in by_pack(pair[1].scaled(0.5), model).items():
        expected[key] = expected.get(key, 0) + change
    blended = blend([(adapter, 0.5) for adapter in unified(pair, base=name)])
    equal(by_core(encode(respelled(blended, base=name), rename=str).tensors, model, caplog), expected)


def test_the_tables_hold_no_name_that_the_host_lacks(comfy):
    """A row for every other family; a newer host may know more."""
    import comfy.lora

    for base in [b for b in bases() if b.kind == "model"][::4]:
        present = [name for name in base.names if name in families.present()]
        if not present:
            continue
        net = families.build(present[0]).model
        for name, target in comfy.lora.model_lora_keys_unet(net, {}).items():
            weight = base.loads(name)
            key = target if isinstance(target, str) else target[0]
            if weight is not None and key.endswith(".weight"):
                assert key == f"diffusion_model.{weight.path}.weight", (present[0], name)


def test_the_shipped_tables_are_those_of_the_pinned_comfyui(comfy):
    import comfyui_version

    if comfyui_version.__version__ != COMFYUI_VERSION:
        pytest.skip(f"the tables are made from ComfyUI {COMFYUI_VERSION}, this is {comfyui_version.__version__}")
    assert core_names.make() == FILE.read_text("utf-8"), "run: python3 tools/host.py run tools/generate/core_names.py"
