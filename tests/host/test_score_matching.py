"""Score matching on the host's models: gradients through the frozen passes, and one step of the host's own sampler."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_families
import torch
from PIL import Image

from krona_ops import TargetRule
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.adapters.bank import Bank
from krona_train.batches.examples import Example
from krona_train.batches.samples import Sample
from krona_train.config import EmaConfig, PreviewConfig
from krona_train.data.choices import PictureFiles
from krona_train.data.source import read_pictures
from krona_train.loop import choose_all
from krona_train.objectives.protocol import Piece
from krona_train.objectives.score_matching import SCORE, ScoreMatching
from krona_train.objectives.score_matching_config import ScoreMatchingConfig
from krona_train.run.events import Ended, Stepped
from krona_train.settings.groups import MAIN
from krona_train.step.checkpointing import checkpointed

FAMILIES = ["SD15", "SDXL", "SD3", "ZImage", "WAN21_T2V"]
"""ε, ε with pooled texts, flow, flow of another scale, and flow of clips."""


def config(**changed):
    return TrainConfig(
        steps=2,
        save_every=0,
        adapter=AdapterConfig(targets=(TargetRule((4, 4)),)),
        optimizer=OptimizerConfig(learning_rate=1e-3, betas=(0.0, 0.999)),
        objective=ScoreMatchingConfig(guidance=1.0, **changed),
        ema=EmaConfig(0.0),
    )


def loss_of(backbone, bank, objective, examples):
    samples = [Sample(n, example) for n, example in enumerate(examples)]
    [loss] = objective.losses(Piece(backbone, bank, 3, 0, objective.turns[-1], "data", samples))
    return loss.values.sum()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_full_gradient_is_that_of_difference_quotients_with_and_without_checkpointing(comfy, name):
    from krona_train.comfyui.model import ComfyBackbone

    backbone, settings = ComfyBackbone(tiny_families.build(name)), config()
    objective, examples = ScoreMatching(settings.objective), [tiny_families.example(name, seed) for seed in range(3)]
    with backbone.ready():
        bank = Bank(backbone, choose_all(backbone, objective, settings))
        rng = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for trainee in bank.trainees.values():
                for parameter in trainee.parameters:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
        factors, found = bank.main.parameters, {}
        with bank.attached(), bank.moving(MAIN):
            for mode in ("none", "blocks"):
                with checkpointed(backbone.blocks(), mode, bank.gates.pinned):
                    loss = loss_of(backbone, bank, objective, examples)
                    grads = torch.autograd.grad(loss, factors, allow_unused=True)
                found[mode] = torch.cat([(p * 0 if g is None else g).flatten() for g, p in zip(grads, factors, strict=True)])
            norm = found["none"].norm()
            # Three passes are added up in another order: 6e-5 at most was seen.
            assert (found["blocks"] - found["none"]).norm() <= 2e-4 * norm

            def moved(step):
                """The loss with all factors moved along the gradient."""
                along = found["none"].split([p.numel() for p in factors])
                with torch.no_grad():
                    for parameter, piece in zip(factors, along, strict=True):
                        parameter += step * piece.view_as(parameter) / norm
                    value = loss_of(backbone, bank, objective, examples).double()
                    for parameter, piece in zip(factors, along, strict=True):
                        parameter -= step * piece.view_as(parameter) / norm
                return value

            errors = {}
            for step in (4e-2, 2e-2, 1e-2, 5e-3):  # the host rounds to float32 in places, so that no one step fits all
                slope = (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step)
                errors[step] = abs(slope / norm - 1).item()
    assert norm > 1e-3
    assert min(errors.values()) <= 0.01, errors


def test_previews_begin_where_the_one_step_is_trained(world, tmp_path):
    """Of a lower level than the model's largest: the host's sampler with these two levels, before the first step."""
    import comfy.sample
    import comfy.samplers

    from krona_train.session.material import Places, prepare
    from krona_train.session.training import HostTraining

    model, clip, vae = world
    said, level = "a photo of a red cat", 5.0
    how = replace(config(start_level=level), steps=1, preview=PreviewConfig(every=1, steps=1, seed=4))
    dataset = read_pictures(PictureFiles(prompts=(said,)), how.data)
    with torch.inference_mode():
        material = prepare(*world, dataset, how, Places(tmp_path / "c", tmp_path / "p"), lambda *args: None)
    _, run = HostTraining(*world, material, how, "").run(tmp_path / "run")
    with Image.open(run.previews[0][1][0]) as shown:
        ours, teacher = np.split(np.asarray(shown, dtype=int), 2, axis=1)
    noise, zeros = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(4)), torch.zeros(1, 32, 8, 8)
    with torch.inference_mode():
        prompt, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(each)) for each in (said, ""))
        euler = comfy.samplers.sampler_object("euler")
        drawn = {
            sigma: comfy.sample.sample_custom(
                model, noise, 1.0, euler, torch.tensor([sigma, 0.0]), prompt, negative, zeros, disable_pbar=True, seed=4
            )
            for sigma in (level, float(model.get_model_object("model_sampling").sigma_max))
        }
        low, high = ((vae.decode(latent)[0].clamp(0, 1) * 255).round().int().numpy() for latent in drawn.values())
    assert np.abs(ours - low).max() <= 2
    assert np.abs(ours - high).max() > 20
    assert np.abs(teacher - low).max() > 20


@pytest.mark.parametrize("gradient", ["full", "stopped"])
def test_one_step_of_the_host_draws_what_is_trained(world, gradient):
    """From prompts alone on the small world; a sampler begins with noise that is a little larger than the largest level
    says, where the model predicts ε."""
    import comfy.sample

    from krona_host.patching.apply import apply_adapter
    from krona_train.comfyui.encode import PictureSize, TextCondition
    from krona_train.comfyui.model import ComfyBackbone

    model, clip, _ = world
    said = "a photo of a red cat"
    with torch.inference_mode():
        picture = PictureSize(64, 64, 0, 0, 64, 64)
        text = TextCondition(clip.encode_from_tokens(clip.tokenize(said)), {}, picture)
    example, events = Example(None, text, said, shape=(32, 8, 8)), []
    backbone = ComfyBackbone(model)
    adapter = fit(backbone, [example], config(gradient=gradient), events.append)
    assert [event.step for event in events if isinstance(event, Stepped)] == [1, 2]
    [ended] = [event for event in events if isinstance(event, Ended)]
    assert set(ended.others) == {SCORE}
    noise = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(each)) for each in (said, ""))
        pictures = {}
        for strength in (0.0, 1.0):
            patched = apply_adapter(adapter, backbone.patcher, strength_model=strength).model
            start = torch.zeros_like(noise)
            x0 = comfy.sample.sample(patched, noise, 1, 1.0, "euler", "normal", positive, negative, start, seed=0)
            pictures[strength] = model.model.process_latent_in(x0)
    settings, objective = config(gradient=gradient), ScoreMatching(ScoreMatchingConfig(guidance=1.0))
    with backbone.ready():
        bank = Bank(backbone, choose_all(backbone, objective, settings))
        with torch.no_grad(), bank.attached():
            for name, layer in bank.main.layers.items():
                layer.begin_at(adapter.layers[name])
            ours = objective.one_step(backbone, bank, backbone.collate([example]), noise)
    change = (pictures[1.0] - pictures[0.0]).norm()
    assert change > 0
    assert (pictures[1.0] - ours).norm() < 0.01 * ours.norm()
