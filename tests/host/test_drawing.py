"""Pictures of adapters: they are drawn for every kind, and show what they should."""

import numpy as np
import torch

from krona_ops import Adapter, Dora, Full, Kron, LowRank, Matrix
from krona_ops.operations.report import report


def adapter(scale=1.0):
    g = torch.Generator().manual_seed(0)
    blocks = ("input_blocks.4", "middle_block", "output_blocks.3")
    return Adapter(
        {
            f"diffusion_model.{block}.1.transformer_blocks.0.attn{n}.to_{p}": Kron(
                Full(torch.randn(4, 3, generator=g)), Full(torch.randn(3, 6, generator=g)), scale * 10.0**-row
            )
            for row, block in enumerate(blocks)
            for n in (1, 2)
            for p in "qkv"
        }
    )


def test_the_heat_map_grows_with_the_model_and_is_darker_where_more_moved():
    from krona_pack.nodes.drawing import heat_map

    picture = heat_map(report(adapter(1e-4)).grid(), "title", "subtitle")
    pixels = np.asarray(picture).astype(float)
    assert picture.mode == "RGB"
    rows = [
        pixels[int(picture.height * y), int(picture.width * 0.2) : int(picture.width * 0.5)].mean() for y in (0.52, 0.63, 0.74)
    ]
    assert rows == sorted(rows)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_every_adapter_has_its_pictures():
    from krona_pack.nodes.drawing import factor_spectra, heat_map

    cases = (
        adapter(),
        adapter(0.0),
        Adapter({}),
        Adapter({"x.attn1.to_q": Dora(Matrix(Full(torch.ones(4, 6))), torch.ones(4, 1))}),
        Adapter({"x.attn1.to_q": Matrix(LowRank(torch.ones(4, 2), torch.ones(2, 6)))}),
    )
    for case in cases:
        measured = report(case)
        for picture in (heat_map(measured.grid()), heat_map(measured.grid("norm"), "t"), factor_spectra(measured.layers, "t")):
            assert min(picture.size) > 200
