"""What `krona_host.types` writes down of the host is there in the real one, and is called as it is written."""

import inspect
from typing import Protocol

import pytest
import torch

from krona_host import types


@pytest.fixture(scope="module")
def of_the_host(comfy):
    """Objects of the real host by the names of their descriptions."""
    import comfy.conds
    import comfy.hooks

    from krona_host.model.small_world import load_world

    with torch.inference_mode():
        model, clip, vae = load_world()
        weight = "diffusion_model.out.2.weight"
        model.add_patches({weight: ("diff", (torch.zeros_like(model.model.get_parameter(weight)),))})
        model.patch_model()
    changed = model.clone()  # what a model says of its guidance, by the host's own setters
    changed.set_model_sampler_cfg_function(print, disable_cfg1_optimization=True)
    changed.set_model_sampler_pre_cfg_function(print)
    changed.set_model_sampler_post_cfg_function(print)
    changed.set_model_sampler_calc_cond_batch_function(print)
    yield {
        "Sampling": model.model.model_sampling,
        "LatentFormat": model.model.latent_format,
        "DiffusionNet": model.model,
        "TextNet": clip.cond_stage_model,
        "Backup": next(iter(model.backup.values())),
        "Condition": comfy.conds.CONDRegular(torch.zeros(1)),
        "ModelOptions": changed.model_options,
        "Patcher": clip.patcher,
        "Model": model,
        "Clip": clip,
        "Autoencoder": vae.first_stage_model,
        "Vae": vae,
        "Hooks": comfy.hooks.HookGroup(),
    }
    model.unpatch_model()


DESCRIBED = [name for name, kind in vars(types).items() if inspect.isclass(kind) and kind.__module__ == types.__name__]


def missing(description, thing):
    """The members of a description that a thing has not, or that cannot be called as described."""
    kinds = [kind for kind in description.__mro__ if kind.__module__ == description.__module__]
    members = sorted({name for kind in kinds for name in own_members(kind)})
    return [name for name in members if not (has(thing, name) and takes(getattr(description, name, None), thing, name))]


def own_members(kind):
    functions = {name for name, value in vars(kind).items() if callable(value) or isinstance(value, property)}
    return {*kind.__annotations__, *functions} - {"__init__", "__subclasshook__"}


def has(thing, name):
    return name in thing if isinstance(thing, dict) else hasattr(thing, name)


def takes(described, thing, name):
    """Whether the host's function takes what the description hands it: by place or by name."""
    if not inspect.isfunction(described):
        return True
    _, *parameters = inspect.signature(described).parameters.values()
    by_place = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    by_name = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    try:
        inspect.signature(getattr(thing, name)).bind(*by_place, **dict.fromkeys(by_name))
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_host_has_what_is_described(name, of_the_host):
    assert missing(getattr(types, name), of_the_host[name]) == []


def test_a_member_that_the_host_has_not_is_seen(of_the_host):
    class Clone(Protocol):
        patches: dict
        torn: int

        def clone(self, disable_dynamic: bool, at_once: bool) -> None: ...
        def is_dynamic(self, now: bool, /) -> None: ...
        def pre_run(self) -> None: ...
        def post_run(self) -> None: ...

    assert missing(Clone, of_the_host["Model"]) == ["clone", "is_dynamic", "post_run", "torn"]


def test_patches_and_texts_have_the_form_that_is_described(of_the_host):
    model, clip = of_the_host["Model"], of_the_host["Clip"]
    [(key, [patch])] = model.patches.items()
    strength, _, strength_model, offset, function = patch
    assert (key, strength, strength_model, offset, function) == ("diffusion_model.out.2.weight", 1.0, 1.0, None, None)
    (weight, convert), *patches = model.get_key_patches()[key]
    assert (weight.shape, callable(convert), patches) == (model.model.get_parameter(key).shape, True, [patch])

    tokens = clip.tokenize("a red ball")
    [(embedding, extras)] = clip.encode_from_tokens_scheduled(tokens)
    assert (embedding.ndim, embedding.shape[0], set(extras)) == (3, 1, {"pooled_output"})
    same, pooled, *more = clip.cond_stage_model.encode_token_weights(tokens)
    assert (same.shape, pooled.shape, more) == (embedding.shape, extras["pooled_output"].shape, [])
