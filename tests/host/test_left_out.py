"""Files with more than updates in them, as ComfyUI's own loader applies them; ComfyUI is the oracle."""

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from krona_ops import Kron, LowRank, Matrix, load
from krona_ops.updates.control import Enlarged
from krona_ops.updates.rows import own_rows, thirds

BLOCK = "diffusion_model.input_blocks.1.1.transformer_blocks.0"


@pytest.fixture
def both(comfy, tmp_path):
    """The weights of a model after ComfyUI's loader, and after ours, at a strength."""

    def apply(model, tensors, strength=1.0):
        from krona_host.patching.apply import apply_adapter

        path = tmp_path / "x.safetensors"
        save_file(tensors, path)
        with torch.inference_mode():
            core = comfy.sd.load_lora_for_models(
                model, None, comfy.utils.load_torch_file(str(path), safe_load=True), strength, 0
            )[0]
            ours = apply_adapter(load(path), model, strength_model=strength).model
            states = []
            for patched in (core, ours):
                comfy.model_management.load_models_gpu([patched])
                states.append({key: value.clone() for key, value in patched.model.state_dict().items()})
                patched.unpatch_model()
        return states

    return apply


def changed(state, base):
    return {key for key, value in state.items() if value.shape != base[key].shape or not torch.equal(value, base[key])}


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_file_with_strangers_changes_what_comfyui_changes(sd15, both, strength):
    base = {key: value.clone() for key, value in sd15.model.state_dict().items()}
    q, norm = f"{BLOCK}.attn1.to_q", f"{BLOCK}.norm1"
    tensors = {
        f"{q}.lora_up.weight": torch.randn(320, 2) * 0.05, f"{q}.lora_down.weight": torch.randn(2, 320) * 0.05,
        f"{norm}.set_weight": torch.rand(320), f"{BLOCK}.attn1.to_k.alpha": torch.ones(()), f"{BLOCK}.diff_m": torch.ones(1, 6, 8),
        "emb_params": torch.ones(2, 8), f"{BLOCK}.attn1.to_v.dora_scale": torch.ones(320, 1),
        f"{BLOCK}.attn2.to_q.a1.bias": torch.ones(3),
    }  # fmt: skip
    core, ours = both(sd15, tensors, strength)
    assert changed(ours, base) == changed(core, base) == {f"{q}.weight", f"{norm}.weight"}
    for key in (f"{q}.weight", f"{norm}.weight"):
        assert_close(ours[key], core[key], rtol=1e-5, atol=1e-6)
    assert torch.equal(ours[f"{norm}.weight"], tensors[f"{norm}.set_weight"])


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_reshape_weight_enlarges_the_weight_as_in_comfyui(sd15, both, strength):
    base = {key: value.clone() for key, value in sd15.model.state_dict().items()}
    name, other = f"{BLOCK}.attn2.to_k", f"{BLOCK}.attn2.to_v"
    tensors = {
        f"{name}.lora_up.weight": torch.randn(320, 2) * 0.05, f"{name}.lora_down.weight": torch.randn(2, 900) * 0.05,
        f"{name}.reshape_weight": torch.tensor([320, 900]), f"{other}.lora_up.weight": torch.randn(320, 2) * 0.05,
        f"{other}.lora_down.weight": torch.randn(2, 768) * 0.05,
    }  # fmt: skip
    core, ours = both(sd15, tensors, strength)
    assert changed(ours, base) == changed(core, base) == {f"{name}.weight", f"{other}.weight"}
    assert ours[f"{name}.weight"].shape == core[f"{name}.weight"].shape == (320, 900)
    assert_close(ours[f"{name}.weight"], core[f"{name}.weight"], rtol=1e-5, atol=1e-6)


def test_a_weight_larger_than_its_enlarged_form_is_refused(sd15):
    from krona_host.names.resolution import resolve
    from krona_ops import Adapter
    from krona_ops.errors import ShapeError

    small = Enlarged(Matrix(LowRank(torch.randn(320, 2), torch.randn(2, 100))))
    with pytest.raises(
        ShapeError,
        match=r"Its update is 320 × 100, .* is 320 × 768; 1 of 1 layers have another shape .*\(cross attention width 100\)",
    ):
        resolve(Adapter({f"{BLOCK}.attn2.to_k": small}), sd15)


@pytest.mark.parametrize("outer", [80, 6])
def test_a_wide_lokr_under_the_name_of_one_projection_gives_its_rows(sd15, load_weights, outer, tmp_path):
    """ComfyUI after 0.30: the name says which rows of the product of q, k and v they are."""
    w1, w2 = torch.randn(outer, 8) * 0.1, torch.randn(960 // outer, 40) * 0.1
    tensors = {f"{BLOCK}.attn1.to_{kind}.lokr_w{n}": w.clone() for kind in "qkv" for n, w in ((1, w1), (2, w2))}
    save_file(tensors, tmp_path / "x.safetensors")
    base, patched = load_weights(sd15, load(tmp_path / "x.safetensors"))
    product = torch.kron(w1, w2)
    for kind, (start, length) in zip("qkv", thirds((960, 320)), strict=True):
        key = f"{BLOCK}.attn1.to_{kind}.weight"
        assert_close(patched[key], base[key] + product[start : start + length], rtol=1e-5, atol=1e-5)


@pytest.fixture
def load_weights(load):
    def apply(model, adapter):
        from krona_host.patching.apply import apply_adapter

        base = {key: value.clone() for key, value in model.model.state_dict().items()}
        net = load(apply_adapter(adapter, model).model)
        return base, {key: value.clone() for key, value in net.state_dict().items()}

    return apply


@pytest.mark.parametrize(
    ("name", "weight", "shape", "rows"),
    [
        ("x.attn.to_q", "diffusion_model.x.attn.wq.weight", (64, 64), (0, 64)),
        ("x.attn.to_k", "diffusion_model.x.attn.wk.weight", (16, 64), (64, 16)),
        ("x.attn.to_v", "diffusion_model.x.attn.wv.weight", (16, 64), (80, 16)),
        ("x.attn.to_k", "diffusion_model.x.attn.wk.weight", (64, 64), None),  # as many rows as q has
        ("x.attn.to_out", "diffusion_model.x.attn.wo.weight", (64, 64), None),
        ("x.mlp", "diffusion_model.x.mlp.up.weight", (64, 64), None),
    ],
)
def test_only_a_projection_of_the_right_height_takes_rows(name, weight, shape, rows):
    from krona_ops import Full

    wide = Kron(Full(torch.randn(6, 4)), Full(torch.randn(16, 16)))
    own = own_rows(wide, name, weight, shape)
    if rows is None:
        assert own is wide
    else:
        start, length = rows
        assert_close(own.dense(), wide.dense()[start : start + length])
