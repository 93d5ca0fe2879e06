"""What KSampler makes of the frames: it starts from α·D + σ·ε at the level that denoise says, frame after frame."""

import pytest
import torch

from krona_ops.branches.similarity import groups_of_frames


@pytest.mark.parametrize("scheduler", ["normal", "simple", "ddim_uniform", "sgm_uniform"])
def test_the_sampler_starts_from_the_prior_at_the_level_that_denoise_says(comfy, sd15, scheduler):
    import comfy.sample
    from comfy.patcher_extension import WrappersMP

    rng = torch.Generator().manual_seed(0)
    prior = groups_of_frames(torch.randn(2, 4, 8, 8, generator=rng), 3, 0.5, 1.5, 1)
    denoise, steps, seed = 0.7, 7, 5
    seen = []

    def first(executor, x, t, *args, **kwargs):
        seen.append((x.clone(), t.clone()))
        return executor(x, t, *args, **kwargs)

    sd15.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", first)
    with torch.inference_mode():
        text = [[torch.randn(1, 77, 768, generator=rng), {}]]
        noise = comfy.sample.prepare_noise(prior, seed)
        comfy.sample.sample(sd15, noise, steps, 1.0, "euler", scheduler, text, text, prior, denoise=denoise, seed=seed)
    x, sigma = seen[0][0], seen[0][1][0]
    alpha = 1 / (1 + sigma**2) ** 0.5
    start = x * alpha  # the host's latents are those of the paper divided by alpha
    scaled = sd15.model.process_latent_in(prior)
    assert torch.allclose(start, alpha * scaled + (1 - alpha**2) ** 0.5 * noise, rtol=0, atol=1e-5)
    timestep = sd15.model.model_sampling.timestep(sigma).item()
    assert abs(timestep / 999 - denoise) <= 1 / steps

