"""docs/scaling.md: its tables are what the shapes, the formulas and the measurements say, and those are right."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import FLUX, MODELS, QWEN_IMAGE, WAN, kron_sizes, lora_parameters, ring_seconds, training_cost
from benchmarks.pages.scaling import DOCUMENT, FACTORS, duration, make, percent, read_results, size
from benchmarks.scale import exponent
from benchmarks.shapes import flux_attention, sdxl_attention
from krona_ops import select
from krona_ops.updates import kron
from krona_ops.updates.shapes import split

PAGE = DOCUMENT.read_text(encoding="utf-8")


def test_the_page_has_the_tables_of_the_script():
    assert make(PAGE, read_results()) == PAGE, "run: python3 tools/host.py run benchmarks/pages/scaling.py"


def test_a_table_that_only_one_of_both_knows_is_an_error():
    with pytest.raises(ValueError, match="dreams"):
        make(f"{PAGE}\n<!-- scaling: dreams -->\n<!-- /scaling -->\n", [])


def test_other_measurements_make_another_page():
    curve = {"exponent": 1.0, "formula": 1, "points": {"640": {"median": 1e-3}, "1280": {"median": 4e-3}}}
    told = {"machine": "a", "threads": 2, "commit": "c", "results": {"width": {"over": "width", "curves": {"merge": curve}}}}
    other = {**told, "results": {"width": {"over": "width", "curves": {"merge": {**curve, "exponent": 1.5}}}}}
    assert "| merge | 640 to 1,280 width | 1 ms to 4 ms | 1.00 | 1 |" in make(PAGE, [told])
    assert "| merge | 640 to 1,280 width | 1 ms to 4 ms | 1.50 | 1 |" in make(PAGE, [other])
    # 2 numbers of 4 bytes for each of 1280 × 1280 weights in 4 ms
    assert "3.3 GB/s" in make(PAGE, [told])


# -------------------------------------------------------------------------------------------------------------------------- shapes


def _networks():
    """The published models as the host's classes build them, without their numbers."""
    import comfy.ops
    from comfy.ldm.flux.model import Flux
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
    from comfy.ldm.wan.model import WanModel

    meta = {"device": "meta", "dtype": torch.float32, "operations": comfy.ops.disable_weight_init}
    flux = Flux(
        image_model="flux", in_channels=16, out_channels=16, vec_in_dim=768, context_in_dim=4096, hidden_size=3072, mlp_ratio=4.0,
        num_heads=24, depth=19, depth_single_blocks=38, axes_dim=[16, 56, 56], theta=10000, patch_size=2, qkv_bias=True,
        guidance_embed=True, txt_ids_dims=[], **meta,
    )  # fmt: skip
    wan = WanModel(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, **meta)
    return ((FLUX, flux), (WAN, wan), (QWEN_IMAGE, QwenImageTransformer2DModel(**meta)))


def test_the_shapes_are_those_of_the_hosts_classes(comfy):
    for model, net in _networks():
        linear = {
            f"diffusion_model.{name}": tuple(module.weight.shape)
            for name, module in net.named_modules()
            if isinstance(module, torch.nn.Linear) and "blocks." in name
        }
        assert {name: layer.shape for name, layer in model.layers()} == linear
        assert 0.98 < model.parameters / sum(p.numel() for p in net.parameters()) < 1


def test_the_adapted_layers_are_those_that_training_takes():
    for model in MODELS:
        weights = {name: layer.shape for name, layer in model.layers()}
        assert model.adapted() == {target.name: target.sizes.weight for target in select(weights)}
    assert FLUX.adapted() == flux_attention()


def test_an_input_that_layers_share_is_kept_once():
    width = 5120  # q, k, v; out; cross q; cross out of the clip, and one of the text for cross k and v
    assert WAN.inputs_kept() == 40 * 2 * width * (4 * WAN.image + WAN.text)


# ------------------------------------------------------------------------------------------------------------------------ formulas


def test_parameters_are_those_of_the_paper():
    assert sum(s.parameters for s in kron_sizes(sdxl_attention(), (64, 4)).values()) == 3_874_560
    assert lora_parameters(sdxl_attention(), 4) == 5_806_080


@pytest.mark.parametrize("factors", [*FACTORS, (4, 64), (2, 30)])
def test_multiply_adds_of_training_are_those_that_autograd_does(factors):
    s, tokens = split((1280, 640), factors), 7
    a, b, x = (torch.randn(*shape, requires_grad=True) for shape in ((s.out_a, s.in_a), (s.out_b, s.in_b), (tokens, 640)))
    found = {}
    for order in ("a first", "b first"):
        with FlopCounterMode(display=False) as counter:
            kron.apply(a, b, x, order=order).sum().backward()
        # autograd keeps what both factors met first; the formula computes it again
        again = s.out_a * s.in_a * s.in_b if order == "a first" else s.in_a * s.in_b * s.out_b
        found[order] = counter.get_total_flops() / 2 / tokens + again
    assert training_cost(s) == min(found.values())


def test_a_step_is_the_blocks_matrices_twice_and_attention_three_times():
    d, tokens, text = 3072, 4096, 512
    both = 12 * d * d * (tokens + text)  # q, k, v, out and the two of the feed-forward part, in both streams
    modulation, products = 2 * 6 * d * d, 2 * (tokens + text) ** 2 * d
    assert QWEN_IMAGE.step() == 60 * (2 * (both + modulation) + 3 * products)


def test_a_ring_passes_each_part_around_twice():
    """Step by step: N − 1 times a part of the sum, N − 1 times a finished part."""
    seconds = sum(1e9 / 8 / 1.25e9 + 2e-5 for _ in range(2 * 7))
    assert ring_seconds(10**9, 8, 1.25e9, 2e-5) == pytest.approx(seconds)
    assert ring_seconds(10**9, 1, 1.25e9, 2e-5) == 0


def test_the_fitted_exponent_is_the_powers():
    sizes = (1, 2, 5, 40)
    assert exponent(sizes, [3 * n**1.7 for n in sizes]) == pytest.approx((1.7, 3.0))


def test_numbers_for_people():
    assert [size(n) for n in (999, 1500, 62e6, 23.7e9)] == ["999 B", "1.5 kB", "62 MB", "23.7 GB"]
    assert [duration(s) for s in (12.3, 0.0042, 5e-6)] == ["12.3 s", "4.2 ms", "5 µs"]
    assert [percent(p) for p in (0.0163, 0.2, 0.999, 1.5, 3.72, 133)] == [
        "1.6 %",
        "20 %",
        "100 %",
        "150 %",
        "3.7 times",
        "133 times",
    ]
