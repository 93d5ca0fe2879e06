"""Adapter files as people have them."""

from pathlib import Path

import torch
from official_branches import mv_adapter
from resadapter_files import lora_file, norm_file, norm_shapes
from safetensors.torch import save_file

from krona_ops import Adapter, Full, Kron, Matrix, save, with_standard_metadata

WORKFLOW = (
    '{"version": 0.4, "last_node_id": 1, "last_link_id": 0, "nodes": [{"id": 1, "type": "Note", "pos": [50, 50], "size": [210, 90],\
 "flags": {}, "order": 0, "mode": 0, "inputs": [], "outputs": [], "properties": {}, "widgets_values": ["how the robot was trained"]}], "links": [],\
 "groups": [], "config": {}, "extra": {}}'
)
ATTENTION = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn{}.to_{}"


def adapter(seed: int = 0, *, text_encoder: bool = False, size: float = 0.1) -> Adapter:
    """LoKr updates for the first attention of SD1.5: self-attention's q, k and v, the text's q, and perhaps a layer of CLIP-L."""
    rng = torch.Generator().manual_seed(seed)
    names = [ATTENTION.format(number, part) for number, part in ((1, "q"), (1, "k"), (1, "v"), (2, "q"))]
    shapes = dict.fromkeys(names, ((8, 4), (40, 80)))
    if text_encoder:
        shapes["text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj"] = ((8, 4), (96, 192))
    layers = {
        name: Kron(Full(torch.randn(a, generator=rng) * size), Full(torch.randn(b, generator=rng) * size))
        for name, (a, b) in shapes.items()
    }
    return Adapter(layers)


def branch_file(path: Path, seed: int = 0, mode: str = "reference") -> Path:
    """A file of a parallel branch beside the first self-attention of SD1.5."""
    rng = torch.Generator().manual_seed(seed)
    site = ATTENTION.format(1, "q").removesuffix(".to_q")
    layers = {
        f"{site}.krona_{mode}.to_{part}": Kron(
            Full(torch.randn(8, 4, generator=rng)), Full(torch.randn(40, 80, generator=rng))
        )
        for part in ("q", "k", "v", "out")
    }
    return save(Adapter({**layers, f"{site}.krona_{mode}.gate": Matrix(Full(torch.ones(1)))}), path)


def mv_adapter_file(path: Path, seed: int = 0) -> Path:
    """A file of MV-Adapter's layout, with both of its branches beside three attentions of SD1.5, narrow."""
    sites = {f"down_blocks.{n}.attentions.0.transformer_blocks.0.attn1": (8, "") for n in range(3)}
    save_file(mv_adapter(sites, seed=seed), path, metadata={"format": "pt"})
    return path


def resadapter_files(folder: Path, widths: tuple[int, ...] = (12, 20, 28)) -> tuple[Path, Path]:
    """ResAdapter's two files under their own names, narrow: the LoRA and the values of norms."""
    lora, norms = folder / "pytorch_lora_weights.safetensors", folder / "diffusion_pytorch_model.safetensors"
    save_file(lora_file(widths), lora, metadata={"format": "pt"})
    save_file(norm_file(norm_shapes(widths)), norms, metadata={"format": "pt"})
    return lora, norms


def adapter_file(
    path: Path, seed: int = 0, *, workflow: bool = False, metadata=None, text_encoder: bool = False, **standard
) -> Path:
    """A file of such an adapter."""
    made = (
        with_standard_metadata(adapter(seed, text_encoder=text_encoder), **standard)
        if standard
        else adapter(seed, text_encoder=text_encoder)
    )
    return save(made.with_metadata(**(metadata or {}), **({"workflow": WORKFLOW} if workflow else {})), path)
