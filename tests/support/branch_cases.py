"""Random parallel branches for a model, and the host's sampler on small latents."""

import torch

from krona_ops import Adapter, Full, Kron, Matrix
from krona_ops.names.branches import GATE, PROJECTIONS, layer_name
from krona_ops.updates.reading import in_metadata

CHANNELS = 32
"""Of the small world's latents."""
SIZE = (6, 10)
"""Height and width of the latents: not square, and no multiple of what the UNet divides them by."""
EMPTY = torch.zeros(2, CHANNELS, *SIZE)


ALONE = "first, alone"
"""In the place of a mode: `first` that reads the first frame alone."""


def branch(model, mode="reference", gate=0.5, seed=0):
    """Random parts beside every self-attention; the numbers are the same in every mode."""
    mode, _, reading = mode.partition(", ")
    from krona_host.model.attention import attention_sites

    rng = torch.Generator().manual_seed(seed)
    layers = {}
    for name, _, *projections, _heads in attention_sites(model.model.diffusion_model):
        for part, path in zip(PROJECTIONS, projections, strict=True):
            out, wide = model.model.get_submodule(path).weight.shape
            a = torch.randn(4, 2, generator=rng)
            b = torch.randn(out // 4, wide // 2, generator=rng) / wide**0.5
            layers[layer_name(name, mode, part)] = Kron(Full(a), Full(b))
        layers[layer_name(name, mode, GATE)] = Matrix(Full(torch.tensor([gate])))
    return Adapter(layers, in_metadata(reading or "with the others"))


def latents(count, seed=1, size=SIZE, channels=CHANNELS):
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(seed))


def sample(model, prompts, latent, *, cfg=3.0, steps=3, seed=5, denoise=1.0, sampler="euler", negative=None):
    """What the host's sampler draws, from the noise of this seed."""
    import comfy.sample

    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            sampler,
            "normal",
            prompts[0],
            negative or prompts[1],
            latent,
            denoise=denoise,
            seed=seed,
        )
