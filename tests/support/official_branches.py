"""Files of MV-Adapter and I2V-Adapter with random numbers: the names, shapes and parts that the authors' files have.

MV-Adapter saves the state of a diffusers UNet's attention processors, those keys with ``_mv`` or ``_ref`` in them, and
beside it the state of a T2I-Adapter (``save_custom_adapter`` of its pipelines, with ``trainable_modules`` of its
configurations). The sites of SD and SDXL are listed here from how diffusers counts blocks, not from the host's tables.
"""

import torch

Sites = dict[str, tuple[int, str]]
"""By diffusers' name of a self-attention: its width, and the host's name of it."""


def unet_sites(downs, middle, ups):
    """Args: ``{block: (attentions, transformer blocks, width)}`` of a UNet with two residual blocks on each level."""
    sites: Sites = {}
    for block, (attentions, depth, width) in downs.items():
        for a in range(attentions):
            for t in range(depth):
                host = f"diffusion_model.input_blocks.{1 + 3 * block + a}.1.transformer_blocks.{t}.attn1"
                sites[f"down_blocks.{block}.attentions.{a}.transformer_blocks.{t}.attn1"] = width, host
    for t in range(middle[0]):
        host = f"diffusion_model.middle_block.1.transformer_blocks.{t}.attn1"
        sites[f"mid_block.attentions.0.transformer_blocks.{t}.attn1"] = middle[1], host
    for block, (attentions, depth, width) in ups.items():
        for a in range(attentions):
            for t in range(depth):
                host = f"diffusion_model.output_blocks.{3 * block + a}.1.transformer_blocks.{t}.attn1"
                sites[f"up_blocks.{block}.attentions.{a}.transformer_blocks.{t}.attn1"] = width, host
    return sites


SD = unet_sites(
    {0: (2, 1, 320), 1: (2, 1, 640), 2: (2, 1, 1280)}, (1, 1280), {1: (3, 1, 1280), 2: (3, 1, 640), 3: (3, 1, 320)}
)
"""SD1.5's and SD2.1's 16 self-attentions."""
SDXL = unet_sites({1: (2, 2, 640), 2: (2, 10, 1280)}, (10, 1280), {0: (3, 10, 1280), 1: (3, 2, 640)})
"""SDXL's 70."""
_TINY_SD15 = {
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.attentions.0": "middle_block.1",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
}
_TINY_SDXL = {
    ("down_blocks.1.attentions.0", "input_blocks.3.1"): 2,
    ("down_blocks.2.attentions.0", "input_blocks.5.1"): 5,
}
TINY_SD15: Sites = {
    f"{theirs}.transformer_blocks.0.attn1": (320, f"diffusion_model.{ours}.transformer_blocks.0.attn1")
    for theirs, ours in _TINY_SD15.items()
}
"""Of `tools.tiny_models.build_sd15` with the layout ``shaped``: one residual block on each of two levels."""
TINY_SDXL: Sites = {
    f"{theirs}.transformer_blocks.{t}.attn1": (320, f"diffusion_model.{ours}.transformer_blocks.{t}.attn1")
    for (theirs, ours), depth in _TINY_SDXL.items()
    for t in range(depth)
}
"""Of `tools.tiny_models.build_sdxl` of the kind ``koala``."""


def _matrix(rng, *shape, device="cpu"):
    if device == "meta":
        return torch.empty(shape, device="meta")
    return torch.randn(shape, generator=rng) / shape[-1] ** 0.5


def mv_adapter(sites, kinds=("mv", "ref"), seed=0, *, prefix="", encoder=True, device="cpu"):
    """The tensors of an MV-Adapter file. ``kinds``: ``("mv",)`` is t2mv and tg2mv, both are i2mv and ig2mv."""
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for site, (width, _) in sites.items():
        for kind in kinds:
            start = f"{prefix}{site}.processor.to"
            for part in ("q", "k", "v"):
                tensors[f"{start}_{part}_{kind}.weight"] = _matrix(rng, width, width, device=device)
            tensors[f"{start}_out_{kind}.0.weight"] = _matrix(rng, width, width, device=device)
            tensors[f"{start}_out_{kind}.0.bias"] = _matrix(rng, width, device=device)
    if encoder:
        tensors["adapter.conv_in.weight"] = _matrix(rng, 8, 6 * 4, 3, 3, device=device)
        tensors["adapter.conv_in.bias"] = _matrix(rng, 8, device=device)
        for n in range(4):
            for m in range(2):
                for block in ("block1", "block2"):
                    shape = (8, 8, 3, 3) if block == "block1" else (8, 8, 1, 1)
                    tensors[f"adapter.body.{n}.resnets.{m}.{block}.weight"] = _matrix(rng, *shape, device=device)
                    tensors[f"adapter.body.{n}.resnets.{m}.{block}.bias"] = _matrix(rng, 8, device=device)
    return tensors


def i2v_adapter(sites, seed=0, *, processor=False, prefix="", device="cpu"):
    """The tensors of an I2V-Adapter file: a query and an output at each self-attention."""
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for site, (width, _) in sites.items():
        start = f"{prefix}{site}{'.processor' if processor else ''}.to"
        tensors[f"{start}_q_ff.weight"] = _matrix(rng, width, width, device=device)
        tensors[f"{start}_out_ff.weight"] = _matrix(rng, width, width, device=device)
        tensors[f"{start}_out_ff.bias"] = _matrix(rng, width, device=device)
    return tensors
