"""Parallel branches in training on the small world: what is trained is what the host draws with, and a whole training
through the session."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from krona_ops import TargetRule, load
from krona_ops.branches.branch import branches_of
from krona_ops.names.branches import MODES
from krona_ops.updates.reading import in_metadata
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig
from krona_train.adapters.attach import all_attached
from krona_train.adapters.branches import branch_targets
from krona_train.adapters.gates import Attending, Gates, Recording
from krona_train.adapters.trainee import build_layers, collect
from krona_train.batches.examples import Example, Group, Item
from krona_train.config import PreviewConfig
from krona_train.objectives.branch_config import BranchConfig
from krona_train.run.events import Ended, Previewed
from krona_train.settings.groups import MAIN

SAID = "a photo of a red cat"
VIEWS = 6


@pytest.fixture(scope="module")
def world(comfy):
    from krona_host.model.small_world import load_world

    with torch.inference_mode():
        return load_world()


def groups(world, count=2, members=VIEWS, size=(8, 6)):
    from krona_train.comfyui.encode import PictureSize, TextCondition

    rng = torch.Generator().manual_seed(2)
    height, width = size
    picture = PictureSize(8 * width, 8 * height, 0, 0, 8 * width, 8 * height)
    with torch.inference_mode():
        text = TextCondition(world[1].encode_from_tokens(world[1].tokenize(SAID)), {}, picture)
        latents = [[torch.randn(32, *size, generator=rng) for _ in range(members)] for _ in range(count)]
    return [Group(tuple(Item((Example(latent, text, SAID),)) for latent in each)) for each in latents]


def random_layers(backbone, mode):
    """A branch with random numbers everywhere, gates too."""
    targets = branch_targets(backbone, AdapterConfig(targets=(TargetRule((4, 4)),)), mode)
    layers = build_layers(targets, AdapterConfig(), 0, backbone.device)
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for layer in layers.values():
            for parameter in layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * (0.5 if parameter.numel() == 1 else 0.2))
    return layers


@pytest.mark.parametrize(("mode", "alone"), [*((mode, mode == "reference") for mode in MODES), ("first", True)])
def test_the_host_draws_with_what_is_trained(world, mode, alone):
    """One prediction of the trainer and one step of the host's sampler from the same noise are the same picture."""
    import comfy.sample

    from krona_host.branches.apply import Use, apply_branches
    from krona_train.comfyui.model import ComfyBackbone

    model, clip, _ = world
    backbone = ComfyBackbone(model)
    [group, _] = groups(world)
    examples = [member.forms[0] for member in group.members]
    with backbone.ready(), torch.no_grad():
        layers, gates = random_layers(backbone, mode), Gates(backbone.rows)
        adapter = collect(layers).with_metadata(**in_metadata("alone" if alone else "with the others"))
        batch = backbone.collate(examples)
        count = VIEWS - 1 if mode == "reference" else VIEWS
        noise = torch.randn(count, *batch.x0.shape[1:], generator=torch.Generator().manual_seed(5))
        sigma = model.model.model_sampling.sigmas[-1:].expand(count)
        clean = batch.x0[:1]
        start = torch.zeros_like(noise)
        with all_attached(backbone, {MAIN: layers}, gates):
            tokens = {}
            if alone:
                smallest = backbone.noise_levels(torch.zeros(1))
                with gates.attending(Recording(tokens)):
                    backbone.predict(backbone.as_input(clean, smallest), smallest, batch.conditions[:1])
            x_t = model.model.model_sampling.noise_scaling(sigma, noise, start, True)  # as at a sampler's beginning
            if mode == "first":
                x_t[:1] = backbone.as_input(clean, sigma[:1])
            # of `first` no frame is left out here: the one that is looked at gains what nobody sees
            with gates.attending(Attending(mode, count, tuple(noise.shape[2:]), tokens or None)):
                ours = backbone.predict(x_t, sigma, batch.conditions[-count:])
            plain = backbone.predict(x_t, sigma, batch.conditions[-count:])
    reference = examples[0].latent[None] if mode in ("reference", "first") else None
    patched, report = apply_branches(adapter, backbone.patcher, Use(reference=reference))  # in its precision
    assert "beside 7 of 7 self-attentions" in report
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (SAID, ""))
    with torch.inference_mode():
        drawn = comfy.sample.sample(patched, noise, 1, 1.0, "euler", "normal", positive, negative, start, seed=0)
        drawn = model.model.process_latent_in(drawn)
    shown = slice(1, None) if mode == "first" else slice(None)
    assert (ours - plain)[shown].norm() > 0.02 * plain.norm()
    assert (drawn - ours)[shown].norm() < 1e-5 * plain.norm()


def test_what_is_chosen_in_the_node_is_what_is_trained(comfy):
    from krona_pack.nodes.branch_settings import KronaBranchSettings

    chosen = {
        "mode": "first", "targets": 3, "references": 2, "drop_text": 0.1, "drop_source": 0.2, "drop_both": 0.3,
        "level_shift": 2.0, "reading": "with the others",
    }  # fmt: skip
    assert {given.id for given in KronaBranchSettings.define_schema().inputs} == {*chosen, "settings"}
    objective = KronaBranchSettings.execute(**chosen)[0].objective
    assert {name: getattr(objective, name) for name in chosen} == chosen
    older = KronaBranchSettings.execute(mode="first", targets=3)[0].objective  # of a graph from before the input
    assert older.reading == "alone"


def config(mode, **changed):
    return TrainConfig(
        steps=2,
        batch_size=2,
        save_every=1,
        adapter=AdapterConfig(targets=(TargetRule((4, 4)),)),
        optimizer=OptimizerConfig(learning_rate=5e-3),
        objective=BranchConfig(
            mode=mode, embedded_guidance=0.0, targets=3, drop_text=0.1, drop_source=0.1, drop_both=0.1
        ),
        preview=PreviewConfig(every=2, steps=2, width=48, height=64),
        **changed,
    )


def session(world, settings):
    from krona_train.comfyui.encode import ComfyEncoder
    from krona_train.comfyui.sampling import encode_prompts
    from krona_train.session.material import Material
    from krona_train.session.training import HostTraining

    model, clip, vae = world
    with torch.inference_mode():
        empty = ComfyEncoder(clip, vae).encode_captions([""])[""]
        *prompts, negative = encode_prompts(clip, (SAID, ""))
    material = Material(tuple(groups(world)), (), tuple(prompts), negative, (SAID,), 64, (), empty)
    return HostTraining(model, clip, vae, material, settings, "")


@pytest.mark.parametrize(("mode", "pictures"), [("reference", 1), ("first", 2), ("views", VIEWS), ("row", VIEWS)])
def test_a_training_draws_previews_with_the_first_groups_reference(world, tmp_path, mode, pictures):
    events = []
    before = {name: value.clone() for name, value in world[0].model.state_dict().items()}
    with torch.inference_mode():
        adapter, run = session(world, config(mode)).run(tmp_path / "run", [events.append])
    [branch] = branches_of(adapter)
    assert branch.mode == mode
    assert branch.reading == ("alone" if mode == "first" else "with the others")
    assert len(branch.sites) == 7
    previews = [event for event in events if isinstance(event, Previewed)]
    assert [event.step for event in previews] == [0, 2]
    for event in previews:
        [picture] = event.pictures
        assert picture.size == (48 * pictures, 64)
    assert run.adapter_file is not None
    [again] = branches_of(load(Path(run.adapter_file)))
    assert again.reading == branch.reading
    assert all(torch.equal(value, before[name]) for name, value in world[0].model.state_dict().items())


def test_the_branch_is_in_the_preview(world, tmp_path):
    """Without it, the preview of the last step would be that of the first."""
    events = []
    settings = config("reference")
    faster = replace(
        settings, optimizer=OptimizerConfig(learning_rate=0.05), ema=replace(settings.ema, decay=0.0), steps=4
    )
    with torch.inference_mode():
        session(world, faster).run(tmp_path / "run", [events.append])
    first, *_, last = [event.pictures[0] for event in events if isinstance(event, Previewed)]
    assert isinstance(first, Image.Image)
    assert first.tobytes() != last.tobytes()


def test_a_training_goes_on_bit_for_bit(world, tmp_path):
    from krona_train.run.state import newest_whole

    settings = config("first")
    with torch.inference_mode():
        whole, _ = session(world, settings).run(tmp_path / "whole")

        def stop(event):
            if getattr(event, "step", 0) == 1 and not isinstance(event, Ended | Previewed):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            session(world, settings).run(tmp_path / "run", [stop])
        state = newest_whole(tmp_path / "run")
        assert state.step == 1
        again, _ = session(world, settings).run(tmp_path / "run", resume=state)
    assert dict(again.layers) == dict(whole.layers)
