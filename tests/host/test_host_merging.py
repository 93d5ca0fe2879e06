"""ComfyUI's own nodes for merging models, with adapters that run beside the layers of one of them."""

import pytest
import torch
from torch.testing import assert_close


def merge(kind, first, second, ratio):
    import comfy_extras.nodes_model_merging as nodes

    if kind == "simple":
        return nodes.ModelMergeSimple().merge(first, second, ratio)[0]
    if kind == "blocks":
        return nodes.ModelMergeBlocks().merge(first, second, input=ratio, middle=ratio, out=1 - ratio)[0]
    if kind == "subtract":
        return nodes.ModelSubtract().merge(first, second, ratio)[0]
    return nodes.ModelAdd().merge(first, second)[0]


@pytest.mark.parametrize("kind", ["simple", "blocks", "subtract", "add"])
def test_what_runs_beside_the_first_model_is_scaled_as_its_weights_are(comfy, sd15, load, predict, random_adapter, kind):
    from krona_host.patching.apply import apply_adapter

    one, two = random_adapter(sd15, 0), random_adapter(sd15, 1)
    other = sd15.clone()
    other.add_patches({f"{name}.weight": ("diff", (delta.dense(),)) for name, delta in random_adapter(sd15, 2).layers.items()})

    def merged(mode):
        first = apply_adapter(one, sd15, strength_model=0.8, mode=mode).model
        again = apply_adapter(two, merge(kind, first, other, 0.25), strength_model=0.5, mode=mode).model
        return predict(load(merge("simple", again, sd15, 0.5)))

    expected = merged("merge")
    assert (merged("bypass") - expected).norm() <= 1e-5 * expected.norm()
    assert (expected - predict(load(sd15))).norm() > 1e-3 * expected.norm()


def test_the_second_model_gives_its_weights_only_and_the_node_says_so(comfy, sd15, load, predict, random_adapter):
    from krona_host.patching.apply import apply_adapter

    adapter = random_adapter(sd15)
    assert apply_adapter(adapter, sd15, mode="merge").notes == ()
    applied = apply_adapter(adapter, sd15, mode="bypass")
    assert applied.notes == (
        f"{len(adapter)} updates run beside their layers. Saving this model, or giving it to a ModelMerge node as the second model, leaves "
        "them out; apply in 'merge' mode for that.",
    )
    assert_close(predict(load(merge("simple", sd15.clone(), applied.model, 0.0))), predict(load(sd15)))


def test_what_cannot_run_beside_its_layer_is_counted(sd15, random_adapter):
    from krona_host.patching.apply import apply_adapter
    from krona_ops import Adapter, Dora, Full, Matrix

    plain = random_adapter(sd15)
    (name, delta), *rest = plain.layers.items()
    layers = {
        name: Dora(delta, torch.ones(delta.shape[0], 1)),
        f"{name.rpartition('.')[0]}.to_out.0.bias": Matrix(Full(torch.ones(320))),
    }
    notes = apply_adapter(Adapter({**layers, **dict(rest)}), sd15, mode="bypass").notes
    assert notes[0] == (
        "2 updates are merged all the same: DoRA, biases of layers and grouped convolutions cannot run beside their layer."
    )
    assert notes[1].startswith(f"{len(rest)} updates run beside their layers.")
    assert apply_adapter(Adapter(layers), sd15).notes == ()
