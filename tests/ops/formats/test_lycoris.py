"""Files written by LyCORIS itself, against the weights that LyCORIS computes."""

import pytest
import torch
from originals import LAYERS, lycoris, relative

from krona_ops import load
from krona_ops.updates.reshape import reshaped

TOLERANCE = 1e-6
CONVOLUTIONS = ["conv1d", "conv2d", "conv3d"]

LOKR = {
    "both whole": {"lora_dim": 8, "factor": 2},
    "w2 decomposed": {"factor": 2},
    "w1 decomposed": {"factor": 5, "lora_dim": 1, "decompose_both": True, "unbalanced_factorization": True},
    "both decomposed": {"factor": 4, "lora_dim": 1, "decompose_both": True},
    "full matrix": {"lora_dim": 1, "full_matrix": True},
    "rs_lora": {"factor": 2, "lora_dim": 2, "alpha": 3, "rs_lora": True},
    "scalar": {"factor": 2, "use_scalar": True},
    "alpha 0": {"factor": 2, "alpha": 0},
    "dora per output": {"factor": 2, "weight_decompose": True},
    "dora per input": {"factor": 2, "weight_decompose": True, "wd_on_out": False},
}


def merged(original, **options):
    """The base weight with the file's update, by our reader."""
    delta = load(original.path, **options).layers[original.layer]
    return reshaped(delta, tuple(original.weight.shape)).add_to(original.weight.clone())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("case", LOKR)
def test_every_lokr_branch_reads_as_lycoris_computes_it(layer, case, tmp_path):
    original = lycoris("lokr", layer, tmp_path, **LOKR[case])
    assert relative(merged(original) - original.weight, original.delta) < TOLERANCE


@pytest.mark.parametrize("layer", CONVOLUTIONS)
@pytest.mark.parametrize("more", [{}, {"decompose_both": True, "factor": 4, "lora_dim": 1}, {"weight_decompose": True}])
def test_a_tucker_core_reads_as_lycoris_computes_it(layer, more, tmp_path):
    """ComfyUI drops these layers with an error in its log (L1, ComfyUI #11245)."""
    original = lycoris("lokr", layer, tmp_path, **{"use_tucker": True, "factor": 2, **more})
    assert f"{original.layer}.lokr_t2" in original.tensors
    assert relative(merged(original) - original.weight, original.delta) < TOLERANCE


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["loha", "locon"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rs_lora": True, "alpha": 3},
        {"weight_decompose": True},
        {"weight_decompose": True, "wd_on_out": False},
        {"use_scalar": True},
    ],
)
def test_loha_and_locon_read_as_lycoris_computes_them(kind, layer, options, tmp_path):
    original = lycoris(kind, layer, tmp_path, **options)
    assert relative(merged(original) - original.weight, original.delta) < TOLERANCE


@pytest.mark.parametrize("layer", CONVOLUTIONS)
@pytest.mark.parametrize("kind", ["loha", "locon"])
def test_loha_and_locon_with_a_tucker_core(kind, layer, tmp_path):
    original = lycoris(kind, layer, tmp_path, use_tucker=True)
    assert any("_t1" in key or "mid" in key for key in original.tensors)
    assert relative(merged(original) - original.weight, original.delta) < TOLERANCE


@pytest.mark.parametrize(("dim", "scale"), [(64, 8.0), (16, 4.0)])
def test_rs_lora_with_both_factors_whole_has_the_scale_of_the_training(dim, scale, tmp_path):
    """LyCORIS trains with √dim; other loaders take 1, an eighth or a quarter of it."""
    metadata = {"ss_network_args": '{"algo": "lokr", "rs_lora": "True"}', "ss_network_dim": str(dim)}
    original = lycoris("lokr", "linear", tmp_path, lora_dim=dim, alpha=1, rs_lora=True, metadata=metadata)
    adapter = load(original.path)
    assert adapter.layers[original.layer].scale == pytest.approx(scale)
    assert relative(merged(original) - original.weight, original.delta) < TOLERANCE
    assert relative(merged(original, scale_rule="lycoris") - original.weight, original.delta / scale) < TOLERANCE
    assert "rs_lora" in adapter.notes[0]
    assert "ss_network_args" not in adapter.metadata  # a copy of the file must not be scaled twice


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_computed_with_in_full(dtype, tmp_path):
    original = lycoris("lokr", "linear", tmp_path, factor=2, dtype=dtype)
    parts = {key.rpartition(".")[2]: value.float() for key, value in original.tensors.items()}
    expected = torch.kron(parts["lokr_w1"], parts["lokr_w2_a"] @ parts["lokr_w2_b"]) * parts["alpha"] / 2
    assert relative(load(original.path).layers[original.layer].dense(), expected) < TOLERANCE


def test_a_whole_network_with_presets_and_norms_reads_layer_by_layer(tmp_path):
    """LoKr for one layer, LoRA for another, a norm, a bias: what LyCORIS's presets put into one file."""
    from lycoris import LycorisNetwork, create_lycoris
    from originals import quiet
    from safetensors.torch import save_file

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(12, 10), torch.nn.Linear(10, 14)
            self.norm, self.last = torch.nn.LayerNorm(14), torch.nn.Linear(14, 6)

    model = Net()
    with quiet():
        LycorisNetwork.apply_preset(
            {
                "target_module": ["Linear", "LayerNorm"],
                "module_algo_map": {},
                "name_algo_map": {
                    "first": {"algo": "lokr", "factor": 2},
                    "second": {"algo": "locon"},
                    "last": {"algo": "full"},
                },
            }
        )
        network = create_lycoris(model, 1.0, linear_dim=2, linear_alpha=1, algo="lokr", factor=2, train_norm=True)
        network.apply_to()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    path = tmp_path / "mixed.safetensors"
    save_file(state, path)
    adapter = load(path)
    kinds = {name: type(getattr(delta, "factor", delta)).__name__ for name, delta in adapter.layers.items()}
    assert set(kinds) >= {
        "lycoris_first",
        "lycoris_second",
        "lycoris_norm",
        "lycoris_norm.bias",
        "lycoris_last",
        "lycoris_last.bias",
    }
    assert kinds["lycoris_first"] == "Kron"
    assert kinds["lycoris_second"] == "LowRank"
    assert adapter.layers["lycoris_norm"].shape == (14,)
    assert torch.equal(adapter.layers["lycoris_last"].dense(), state["lycoris_last.diff"])
