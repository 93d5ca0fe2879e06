"""The tensors of a branch are a model of their own to the real host, which counts, loads and takes them off with the model
that the branch is on."""

import gc
import os
import weakref
from itertools import chain

import pytest
import torch
from branch_cases import EMPTY, branch, latents, sample
from official_branches import TINY_SD15, i2v_adapter, mv_adapter
from official_formulas import sample as sample_of_two
from safetensors.torch import save_file

from krona_ops import load, save
from krona_ops.names.branches import GATE
from krona_ops.updates.delta import tensors
from tools import tiny_models

CPU = torch.device("cpu")


def apply(adapter, model, **use):
    from krona_host.branches.apply import Use, apply_branches

    return apply_branches(adapter, model, Use(**{"reference": latents(1), **use}))[0]


def carried(model):
    """What the host loads with a model."""
    return model.get_nested_additional_models()


def of_adapter(adapter):
    """The tensors that are computed with: all but the gates, which are numbers."""
    return [tensor for name, delta in adapter.layers.items() if not name.endswith(GATE) for tensor in tensors(delta)]


def addresses(held):
    return sorted(tensor.data_ptr() for tensor in held)


def bytes_of(held):
    return sum(tensor.nbytes for tensor in held)


@pytest.fixture
def model(world):
    return world[0]


@pytest.fixture(scope="module")
def sd15(comfy):
    path = tiny_models.cached("sd15", clip=False, vae=False, layout="shaped")
    with torch.inference_mode():
        model = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]
    return model, tiny_models.conditioning("sd15", ["a robot", "blurry"])


@pytest.fixture(scope="module", params=["mv", "i2v"])
def official(request, tmp_path_factory):
    """A file of MV-Adapter, with a branch of each of two modes, or of I2V-Adapter, in half precision."""
    make = {"mv": mv_adapter, "i2v": i2v_adapter}[request.param]
    file = tmp_path_factory.mktemp("official") / "x.safetensors"
    save_file({key: tensor.half() for key, tensor in make(TINY_SD15).items()}, file, metadata={"format": "pt"})
    with torch.inference_mode():
        return load(file)


def draw(sd15, adapter, model=None):
    """Two groups of three, of a file of MV-Adapter or I2V-Adapter."""
    if model is None:
        model = apply(adapter, sd15[0], reference=latents(1, channels=4), views=3)
    return sample_of_two(model, sd15[1], latents(6, seed=8, channels=4), steps=1)


# ------------------------------------------------------------------------------------------------------ what is counted


def seen_while_sampling(model, run):
    """What the host has for the models that it loads: of each, its class, bytes that it asks room for, bytes loaded."""
    import comfy.model_management as management

    seen, watched = [], model.clone()

    def watch(executor, *args, **more):
        elsewhere = torch.device("meta")  # on no device that it is loaded on
        result = executor(*args, **more)
        for each in result[2]:
            asked = management.LoadedModel(each).model_memory_required(elsewhere)
            seen.append((type(each.model).__name__, asked, each.loaded_size()))
            assert any(each is loaded for loaded in management.loaded_models())
        return result

    watched.add_wrapper_with_key("prepare_sampling", "watch", watch)
    run(watched)
    return seen


def test_the_host_counts_every_byte_of_a_branch(model, prompts):
    adapter = branch(model)
    size = bytes_of(of_adapter(adapter))
    assert size > 0
    for patched, expected in ((model, []), (apply(adapter, model), [("BranchWeights", size, size)])):
        assert seen_while_sampling(patched, lambda watched: sample(watched, prompts, EMPTY, steps=1)) == expected


def test_the_host_counts_every_byte_of_a_file_of_others(sd15, official):
    patched = apply(official, sd15[0], reference=latents(1, channels=4), views=3)
    seen = seen_while_sampling(patched, lambda watched: draw(sd15, official, watched))
    assert {name for name, *_ in seen} == {"BranchWeights"}
    size = bytes_of(of_adapter(official))
    assert (sum(asked for _, asked, _ in seen), sum(loaded for *_, loaded in seen)) == (size, size)


def test_it_is_loaded_where_the_model_is(model):
    model = model.clone()
    model.load_device, model.offload_device = torch.device("cuda:3"), torch.device("cuda:2")
    [weights] = carried(apply(branch(model), model))
    assert (weights.load_device, weights.offload_device) == (model.load_device, model.offload_device)


def test_it_is_of_the_hosts_kind_of_dynamic_models_where_the_model_is_dynamic(model, monkeypatch):
    """The host puts its class of them into this name where it has a GPU for it, without which it cannot be made."""
    import comfy.model_patcher

    class Dynamic(comfy.model_patcher.ModelPatcher):
        def is_dynamic(self):
            return True

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic)
    for kind in (comfy.model_patcher.ModelPatcher, Dynamic):
        [weights] = carried(apply(branch(model), kind(model.model, CPU, CPU)))
        assert type(weights) is kind


# ----------------------------------------------------------------------------------------------- what is shared and kept


def test_an_adapters_tensors_are_shared_and_come_back_from_elsewhere(model):
    adapter = branch(model)
    [weights] = carried(apply(adapter, model))
    shared = addresses(of_adapter(adapter))
    assert addresses(weights.model.parameters()) == shared
    before = [tensor.clone() for tensor in of_adapter(adapter)]
    for move in (weights.model.to, *(layer.to for layer in weights.model.layers)):
        move(torch.float64)  # as another device would be, of which there is none here
        assert addresses(weights.model.parameters()) != shared
        move(torch.float32)
        assert addresses(weights.model.parameters()) == shared
    assert all(torch.equal(*pair) for pair in zip(before, of_adapter(adapter), strict=True))


def test_one_file_is_in_memory_once_for_as_long_as_a_model_has_it_on(model, tmp_path):
    from krona_host.branches.shared import load_shared

    file = save(branch(model), tmp_path / "x.safetensors")
    first, second = (apply(load_shared(file), model, strength=strength) for strength in (1.0, 0.5))
    held = [addresses(weights.model.parameters()) for weights in (*carried(first), *carried(second))]
    assert held[0] == held[1]
    save(branch(model, seed=5), file)
    [anew] = carried(apply(load_shared(file), model))
    assert not set(addresses(anew.model.parameters())) & set(held[0])
    os.utime(file, ns=(1, 1))  # the same content at another time is read again
    patched = apply(load_shared(file), model)
    [again] = carried(patched)
    assert not set(addresses(again.model.parameters())) & {*held[0], *addresses(anew.model.parameters())}
    gone = weakref.ref(load_shared(file))
    assert gone() is not None
    del patched, again
    gc.collect()
    assert gone() is None


def test_an_update_is_read_where_the_host_puts_it_and_not_where_it_was(model):
    """It moves a network whole or by layers; of a dynamic one it sets each parameter as an attribute, and sets it back."""
    import comfy.utils

    [weights] = carried(apply(branch(model), model))
    part = next(iter(weights.model.parts.values()))
    x = torch.zeros(1)

    def read():
        return tensors(part.like(x).q.update)[0]

    here = read()
    assert read().data_ptr() == here.data_ptr()
    weights.model.to(torch.float64)
    assert torch.equal(read(), here)
    assert read().data_ptr() != here.data_ptr()
    elsewhere = weakref.ref(weights.model.layers[0].tensor_0)
    weights.model.to(torch.float32)
    assert read().data_ptr() == here.data_ptr()
    assert elsewhere() is None
    comfy.utils.set_attr_param(weights.model, "layers.0.tensor_0", torch.full_like(here, 3.0))
    assert torch.equal(read(), torch.full_like(here, 3.0))
    comfy.utils.set_attr_param(weights.model, "layers.0.tensor_0", here)
    assert read().data_ptr() == here.data_ptr()


def test_matrices_of_a_files_own_are_shared(sd15, official):
    patched = apply(official, sd15[0], reference=latents(1, channels=4), views=3)
    held = [each.model.parameters() for each in carried(patched)]
    assert addresses(chain.from_iterable(held)) == addresses(of_adapter(official))
    draw(sd15, official, patched)
    assert addresses(chain.from_iterable(each.model.parameters() for each in carried(patched))) == addresses(
        of_adapter(official)
    )


def test_nothing_stays_of_it_after_sampling_and_unloading(model, prompts):
    import comfy.model_management as management

    adapter = branch(model)
    patched = apply(adapter, model)
    sample(patched, prompts, EMPTY, steps=1)
    [weights] = carried(patched)
    assert weights in management.loaded_models()
    left = [weakref.ref(thing) for thing in (patched, weights, weights.model, *weights.model.layers)]
    left += [weakref.ref(parameter) for parameter in weights.model.parameters()]
    left += [weakref.ref(tensor) for tensor in of_adapter(adapter)]
    with torch.inference_mode():
        management.unload_all_models()
    assert weights not in management.loaded_models()
    assert weights.loaded_size() == 0
    del adapter, patched, weights
    gc.collect()
    assert [each() for each in left if each() is not None] == []


def test_the_host_forgets_it_with_the_model_also_while_it_is_loaded(model, prompts):
    import comfy.model_management as management

    patched = apply(branch(model), model)
    sample(patched, prompts, EMPTY, steps=1)
    left = weakref.ref(carried(patched)[0].model)
    del patched
    gc.collect()
    assert left() is None
    assert None not in management.loaded_models()
    assert "BranchWeights" not in {type(each.model).__name__ for each in management.loaded_models()}


# -------------------------------------------------------------------------------------------------- what it is drawn with


def test_pictures_are_those_of_the_tensors_themselves(model, prompts, sd15, official):
    """Bit for bit those of a branch that is no model of its own and moves with what it is computed with."""

    def bare(patched):
        """The same branch on its tensors, as `matched` gives them."""
        for each in carried(patched):
            _, (parts, *_) = each.cached_patcher_init
            each.model.parts = parts
        return patched

    for mode in ("reference", "first", "views", "row"):
        adapter = branch(model, mode)
        drawn = sample(apply(adapter, model), prompts, EMPTY)
        assert torch.equal(drawn, sample(bare(apply(adapter, model)), prompts, EMPTY)), mode
    other = bare(apply(official, sd15[0], reference=latents(1, channels=4), views=3))
    assert torch.equal(draw(sd15, official), draw(sd15, official, other))


@pytest.mark.parametrize("room", [0, 100_000])
def test_pictures_are_the_same_where_memory_is_short(model, prompts, sd15, official, room):
    """The host leaves all of the tensors off the device, or all but some, while something is drawn."""
    taken = []

    def short(patched):
        def take_off(executor, guider, *args):
            for each in carried(guider.model_patcher):
                before = each.loaded_size()
                each.partially_unload(CPU, before - room)
                taken.append((before, each.loaded_size()))
            return executor(guider, *args)

        watched = patched.clone()
        watched.add_wrapper_with_key("sampler_sample", "take off", take_off)
        return watched

    adapter = branch(model)
    assert torch.equal(
        sample(short(apply(adapter, model)), prompts, EMPTY), sample(apply(adapter, model), prompts, EMPTY)
    )
    patched = apply(official, sd15[0], reference=latents(1, channels=4), views=3)
    drawn = draw(sd15, official, patched)
    assert torch.equal(draw(sd15, official, short(patched)), drawn)
    assert all(after <= room < before for before, after in taken)
    assert torch.equal(draw(sd15, official, patched), drawn)  # and loaded again


def test_clones_have_it_and_the_model_before_has_none(model, prompts):
    adapter = branch(model)
    one = apply(adapter, model)
    two = apply(branch(model, "views"), one, strength=0.4)
    assert [len(carried(each)) for each in (model, one, one.clone(), two, two.clone())] == [0, 1, 1, 2, 2]
    assert carried(one.clone())[0].model is carried(one)[0].model
    assert carried(apply(adapter, model, strength=0.0)) == []
    assert torch.equal(sample(one.clone(), prompts, EMPTY), sample(one, prompts, EMPTY))


def test_a_copy_of_the_model_for_another_gpu_has_tensors_of_its_own(sd15, official):
    """The host makes such a copy anew for each device of a sampling on several."""
    patched = apply(official, sd15[0], reference=latents(1, channels=4), views=3)
    if not hasattr(patched, "deepclone_multigpu"):
        pytest.skip("this ComfyUI does not sample on several GPUs")
    drawn = draw(sd15, official, patched)
    with torch.inference_mode():
        copy = patched.deepclone_multigpu(new_load_device=CPU)
    assert [each.model for each in carried(copy)] != [each.model for each in carried(patched)]
    used = []
    for each in carried(copy):
        for layer in each.model.layers:
            layer.register_forward_pre_hook(lambda *args: used.append(1))
    assert torch.equal(draw(sd15, official, copy), drawn)
    assert used
