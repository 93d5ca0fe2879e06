"""Files of MV-Adapter and I2V-Adapter as values: read, looked at, scaled, saved again, refused."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from official_branches import SDXL, i2v_adapter, mv_adapter
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from krona_ops import Adapter, Full, Kron, Matrix, blend, compress, inspect_header, load, report, save
from krona_ops.branches.attention import to_source
from krona_ops.branches.branch import branches_of
from krona_ops.branches.projections import Bases, Beside, Own
from krona_ops.errors import AdapterFileError, FormatError, KronaError
from krona_ops.formats import attention_branch, registry
from krona_ops.formats.encode import WITH_BRANCHES, without_vectors, writable
from krona_ops.formats.header import Header
from krona_ops.names.branches import PROJECTIONS, layer_name
from krona_ops.operations.blend import difference
from krona_ops.operations.respell import respelled
from krona_ops.operations.strengths import apply_weights, describe_unmatched, parse_weights
from krona_ops.updates.control import Replacement

SITES = {
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1": (12, ""),
    "mid_block.attentions.0.transformer_blocks.0.attn1": (20, ""),
}
FIRST, SECOND = SITES


def put(tensors, folder, name="x.safetensors"):
    path = folder / name
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata={"format": "pt"})
    return path


def one_of(branches, mode):
    [branch] = [branch for branch in branches if branch.mode == mode]
    return branch


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_mv_adapters_files_are_two_branches_with_matrices_of_their_own(tmp_path, prefix):
    tensors = mv_adapter(SITES, prefix=prefix)
    adapter = load(put(tensors, tmp_path))
    branches = branches_of(adapter)
    assert [branch.mode for branch in branches] == ["reference", "row"]
    for mode, kind in (("row", "mv"), ("reference", "ref")):
        branch = one_of(branches, mode)
        assert branch.has_own_weights
        assert list(branch.sites) == [f"{prefix}{site}" for site in SITES]
        for site, part in branch.sites.items():
            assert part.gate == 1.0
            for name in ("q", "k", "v"):
                own = getattr(part, name)
                assert isinstance(own, Own)
                assert torch.equal(own.weight, tensors[f"{site}.processor.to_{name}_{kind}.weight"])
                assert own.bias is None
            assert torch.equal(part.out.weight, tensors[f"{site}.processor.to_out_{kind}.0.weight"])
            assert torch.equal(part.out.bias, tensors[f"{site}.processor.to_out_{kind}.0.bias"])
    [encoder] = adapter.left_out
    assert encoder.method == "MV-Adapter's condition encoder"
    assert set(encoder.names) == {key for key in tensors if key.startswith("adapter.")}
    assert any("KronA View Condition takes it" in note for note in adapter.notes)
    assert any("choose the mode row+col where it is for texturing" in note for note in adapter.notes)


@pytest.mark.parametrize("processor", [False, True])
def test_i2v_adapters_files_have_a_query_and_an_output_and_the_bases_keys_and_values(tmp_path, processor):
    tensors = i2v_adapter(SITES, processor=processor)
    adapter = load(put(tensors, tmp_path))
    [branch] = branches_of(adapter)
    assert (branch.mode, list(branch.sites), adapter.left_out, adapter.notes) == ("first", list(SITES), (), ())
    middle = ".processor" if processor else ""
    for site, part in branch.sites.items():
        assert torch.equal(part.q.weight, tensors[f"{site}{middle}.to_q_ff.weight"])
        assert torch.equal(part.out.weight, tensors[f"{site}{middle}.to_out_ff.weight"])
        assert torch.equal(part.out.bias, tensors[f"{site}{middle}.to_out_ff.bias"])
        assert all(isinstance(projection, Beside) and projection.update is None for projection in (part.k, part.v))


def test_what_a_site_adds_is_the_papers_sum():
    """``Attn(n W_q', s W_k', s W_v') W_o' + b'`` without the base, for I2V-Adapter with the base's keys and values."""
    n, s = torch.randn(2, 5, 12, dtype=torch.float64), torch.randn(2, 7, 12, dtype=torch.float64)
    base = [torch.randn(12, 12, dtype=torch.float64) for _ in range(4)]
    bases = Bases(*(lambda x, w=w: F.linear(x, w) for w in base))
    mix = lambda q, k, v: to_source(q, k, v, F.scaled_dot_product_attention)  # noqa: E731
    tensors = {key: value.double() for key, value in mv_adapter(SITES, encoder=False).items()}
    header = Header.of(tensors, {})
    site = one_of(branches_of(attention_branch.read(tensors, header)), "reference").sites[FIRST]
    q, k, v, o, b = (tensors[f"{FIRST}.processor.to_{p}"] for p in (
        "q_ref.weight", "k_ref.weight", "v_ref.weight", "out_ref.0.weight", "out_ref.0.bias"))  # fmt: skip
    expected = F.scaled_dot_product_attention(n @ q.mT, s @ k.mT, s @ v.mT) @ o.mT + b
    torch.testing.assert_close(site.output(bases, n, s, mix), expected, rtol=0, atol=1e-12)
    tensors = {key: value.double() for key, value in i2v_adapter(SITES).items()}
    [branch] = branches_of(attention_branch.read(tensors, Header.of(tensors, {})))
    q, o, b = (tensors[f"{FIRST}.to_{p}"] for p in ("q_ff.weight", "out_ff.weight", "out_ff.bias"))
    expected = F.scaled_dot_product_attention(n @ q.mT, s @ base[1].mT, s @ base[2].mT) @ o.mT + b
    torch.testing.assert_close(branch.sites[FIRST].output(bases, n, s, mix), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "method", "per_site"), [(mv_adapter, "MV-Adapter", 10), (i2v_adapter, "I2V-Adapter", 3)]
)
def test_they_are_called_by_their_method_wherever_they_are_looked_at(tmp_path, make, method, per_site):
    tensors = make(SITES)
    path = put(tensors, tmp_path)
    seen = inspect_header(path)
    assert seen.format == "attention branch"
    assert {layer.method for layer in seen.layers} == {method}
    assert len(seen.layers) == per_site * len(SITES)
    adapter = load(path)
    assert seen.parameters == adapter.parameters
    assert seen.left_out == adapter.left_out
    assert [(layer.name, layer.shape) for layer in seen.layers] == [(n, d.shape) for n, d in adapter.layers.items()]
    measured = report(adapter)
    assert {layer.form for layer in measured.layers} == {method}
    assert method in measured.table("block")
    again = inspect_header(save(adapter, tmp_path / "again.safetensors"))
    assert {layer.method for layer in again.layers} == {method}
    shown = subprocess.run(
        [sys.executable, "-m", "krona_ops", "inspect", str(path)], capture_output=True, text=True, check=True
    )
    assert method in shown.stdout
    assert "whole weights" not in shown.stdout


@pytest.mark.parametrize("make", [mv_adapter, i2v_adapter])
def test_saved_in_our_own_format_they_are_the_same_branches(tmp_path, make):
    adapter = load(put(make(SITES), tmp_path))
    path = save(respelled(adapter), tmp_path / "ours.safetensors")
    again = load(path)
    assert dict(again.layers) == dict(adapter.layers)
    assert [b.mode for b in branches_of(again)] == [b.mode for b in branches_of(adapter)]
    assert all(".krona_" in key for key in load_file(path))
    assert again.left_out == ()  # the condition encoder is in the authors' file alone


def gates(adapter, mode):
    return {site: part.gate for site, part in one_of(branches_of(adapter), mode).sites.items()}


@pytest.mark.parametrize("scale", [0.5, -2.0, 0.0])
def test_a_scale_is_the_gates_and_leaves_the_matrices(tmp_path, scale):
    """Half of a query's matrix is no half of what is drawn."""
    adapter = load(put(mv_adapter(SITES), tmp_path))
    scaled = adapter.scaled(scale)
    for each in (scaled, load(save(scaled, tmp_path / "ours.safetensors"))):
        for mode in ("row", "reference"):
            assert gates(each, mode) == dict.fromkeys(SITES, scale)
            before, after = (one_of(branches_of(a), mode).sites[FIRST] for a in (adapter, each))
            assert all(torch.equal(getattr(before, p).weight, getattr(after, p).weight) for p in ("q", "k", "v", "out"))
            assert torch.equal(before.out.bias, after.out.bias)
    assert gates(scaled.scaled(3.0), "row") == dict.fromkeys(SITES, 3 * scale)


def test_weights_are_by_attention_and_0_leaves_a_place_out_whole(tmp_path):
    adapter = load(put(mv_adapter(SITES), tmp_path))
    weights = parse_weights("down_blocks.0.attentions.1=0.5, mid_block=0")
    assert gates(apply_weights(adapter, weights), "row") == {FIRST: 0.5}
    assert describe_unmatched(adapter, weights) == ()
    q_alone = parse_weights("q=0, /to_q$/=0")
    assert dict(apply_weights(adapter, q_alone).layers) == dict(adapter.layers)
    assert len(describe_unmatched(adapter, q_alone)) == 2  # told, not dropped


@pytest.mark.parametrize("format", [name for name in writable() if name not in WITH_BRANCHES])
def test_other_formats_have_no_place_for_a_branch(tmp_path, format):
    adapter = load(put(mv_adapter(SITES), tmp_path))
    with pytest.raises(FormatError, match=r"has a place in ComfyUI's LoKr files alone.*Save it as ComfyUI LoKr"):
        save(adapter, tmp_path / "y.safetensors", format, rank=4)


def test_beside_updates_of_layers_it_is_no_file_of_branches(tmp_path):
    """A file is in one format; the matrices are left out by name."""
    kron = {"x.to_q.lokr_w1": torch.ones(4, 2), "x.to_q.lokr_w2": torch.ones(3, 6)}
    adapter = load(
        put(
            i2v_adapter({FIRST: (12, "")})
            | {f"{n}.{key}": value.clone() for n in range(3) for key, value in kron.items()},
            tmp_path,
        )
    )
    assert list(adapter.layers) == [f"{n}.x.to_q" for n in range(3)]
    assert [left.method for left in adapter.left_out] == ["whole weights"]


@pytest.mark.parametrize("make", [mv_adapter, i2v_adapter])
def test_a_blend_has_the_mean_of_their_matrices_and_the_sum_of_the_gates(tmp_path, make):
    one, two = (load(put(make(SITES, seed=seed), tmp_path, f"{seed}.safetensors")) for seed in (1, 2))
    alone = blend([(one, 0.5)])
    assert dict(alone.layers) == dict(one.scaled(0.5).layers)
    for weights, shares in (((0.5, 0.5), (0.5, 0.5)), ((1.0, 3.0), (0.25, 0.75)), ((1.0, -0.2), (1.25, -0.25))):
        both = blend([(one, weights[0]), (two, weights[1])])
        for branch in branches_of(both):
            first, second = (one_of(branches_of(each), branch.mode) for each in (one, two))
            for site, part in branch.sites.items():
                assert part.gate == pytest.approx(sum(weights))
                for name in ("q", "k", "v", "out"):
                    if isinstance(getattr(part, name), Own):
                        mean = sum(
                            share * getattr(each.sites[site], name).weight
                            for share, each in zip(shares, (first, second), strict=True)
                        )
                        torch.testing.assert_close(getattr(part, name).weight, mean)
                mean = shares[0] * first.sites[site].out.bias + shares[1] * second.sites[site].out.bias
                torch.testing.assert_close(part.out.bias, mean)
    assert len(difference(one, one)) == 0
    with pytest.raises(KronaError, match="matrix of its own here, which is no update, so it cannot be combined in any"):
        blend([(one, 1.0)], method="ties")


@pytest.mark.parametrize("dtypes", [(torch.float8_e4m3fn, torch.float8_e5m2), (torch.float16, torch.float32), (torch.bfloat16, torch.float64)])
def test_a_mean_is_computed_in_float32_or_wider_whatever_the_files_hold(tmp_path, dtypes):
    """PyTorch multiplies no float8, and adds none to anything."""
    files = [{name: tensor.to(dtype) for name, tensor in i2v_adapter(SITES, seed=n).items()} for n, dtype in enumerate(dtypes)]
    one, two = (load(put(tensors, tmp_path, f"{n}.safetensors")) for n, tensors in enumerate(files))
    made = blend([(one, 0.25), (two, 0.75)])
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    for name, delta in made.layers.items():
        if isinstance(delta, Replacement):
            first, second = one.layers[name], two.layers[name]
            assert delta.value.dtype == wide
            torch.testing.assert_close(delta.value, 0.25 * first.value.to(wide) + 0.75 * second.value.to(wide))


def test_branches_of_two_modes_are_beside_each_other(tmp_path):
    one, two = load(put(mv_adapter(SITES), tmp_path)), load(put(i2v_adapter(SITES), tmp_path, "y.safetensors"))
    both = blend([(one, 0.5), (two, 2.0)])
    assert {branch.mode: branch.sites[FIRST].gate for branch in branches_of(both)} == {
        "reference": 0.5, "first": 2.0, "row": 0.5,
    }  # fmt: skip
    assert all(both.layers[name] == delta for each in (one, two) for name, delta in each.layers.items())


def test_a_matrix_and_an_update_have_no_mean(tmp_path):
    """Of ``M`` and ``W + ΔW`` it is known only where the base's weight is."""
    own = load(put(i2v_adapter(SITES), tmp_path))
    updates = Adapter(
        {layer_name(FIRST, "first", part): Kron(Full(torch.ones(4, 2)), Full(torch.ones(3, 6))) for part in PROJECTIONS}
    )
    keys_alone = Adapter({layer_name(FIRST, "first", "to_k"): Kron(Full(torch.ones(4, 2)), Full(torch.ones(3, 6)))})
    for other in (updates, keys_alone):
        with pytest.raises(FormatError, match=r"another one has the base's projection, so there is no mean.*one after"):
            blend([(own, 0.5), (other, 0.5)])


def test_what_makes_no_sense_with_a_branch_is_refused(tmp_path):
    adapter = load(put(i2v_adapter(SITES), tmp_path))
    with pytest.raises(KronaError, match=r"matrix of its own here, which is no update, so it cannot be compressed"):
        compress(adapter)
    kept, dropped = without_vectors(adapter.scaled(0.5))
    assert not dropped
    assert gates(kept, "first") == dict.fromkeys(SITES, 0.5)
    bias = next(name for name in adapter.layers if name.endswith("to_out.bias"))
    out = bias.removesuffix(".bias")
    for changed in (
        {name: delta for name, delta in adapter.layers.items() if name != out},
        {**adapter.layers, bias: Matrix(Full(torch.zeros(12)))},
        {**adapter.layers, bias: adapter.layers[bias.replace(FIRST, SECOND)]},
    ):
        with pytest.raises(FormatError, match="a bias without the output projection that it belongs to"):
            branches_of(Adapter(changed))


DAMAGE = {
    "a missing key": (lambda t, site: t.pop(f"{site}.to_k_mv.weight"), "to_k is missing"),
    "a missing bias": (lambda t, site: t.pop(f"{site}.to_out_mv.0.bias"), r"to_out\.bias is missing"),
    "a wide matrix": (lambda t, site: t.update({f"{site}.to_v_mv.weight": torch.ones(12, 20)}), r"to_v is 12 × 20, which does not fit its to_q of 12 × 12"),
    "a short bias": (lambda t, site: t.update({f"{site}.to_out_mv.0.bias": torch.ones(11)}), r"to_out\.bias is 11, which does not fit"),
    "whole numbers": (lambda t, site: t.update({f"{site}.to_q_mv.weight": torch.ones(12, 12).int()}), "to_q is 12 × 12 of type int32"),
    "a convolution": (lambda t, site: t.update({f"{site}.to_q_mv.weight": torch.ones(12, 12, 1, 1)}), "to_q has 4 axes"),
    "one twice": (lambda t, site: t.update({f"{FIRST}.to_q_mv.weight": torch.ones(12, 12)}), "Two tensors are the same part of it"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_place_is_left_out_whole_and_named(tmp_path, damage):
    """Half a branch would attend with the base's own matrices in the place of what is missing."""
    tensors = mv_adapter(SITES, ("mv",), encoder=False)
    change, reason = DAMAGE[damage]
    change(tensors, f"{FIRST}.processor")
    path = put(tensors, tmp_path)
    adapter = load(path)
    assert list(one_of(branches_of(adapter), "row").sites) == [SECOND]
    [left] = adapter.left_out
    assert (left.method, left.names) == ("MV-Adapter branch", (FIRST,))
    assert inspect_header(path).left_out == (left,)
    with pytest.raises(FormatError, match=reason):
        load(put({key: value for key, value in tensors.items() if key.startswith(FIRST)}, tmp_path, "y.safetensors"))


def test_a_file_in_which_no_place_is_whole_says_how_many(tmp_path):
    tensors = {key: value for key, value in mv_adapter(SITES, ("mv",)).items() if "to_v" not in key}
    with pytest.raises(FormatError, match=r"At none of the 2 attentions.*to_v is missing.*cut short or edited"):
        load(put(tensors, tmp_path))


def test_what_else_is_in_a_file_is_left_out_by_name(tmp_path):
    """The authors' training saves a whole pipeline where somebody asks for it."""
    tensors = i2v_adapter(SITES) | {
        "mid_block.motion_modules.0.proj.weight": torch.ones(3, 3),
        f"{FIRST}.to_k_ff.weight": torch.ones(12, 12),
        f"{FIRST}.to_q_ff.bias": torch.ones(12),
    }
    adapter = load(put(tensors, tmp_path))
    assert [(left.method, len(left.names)) for left in adapter.left_out] == [("whole weights", 3)]


def test_a_file_of_the_real_size_is_told_by_its_header_alone():
    """819 million numbers of SDXL's ``i2mv``, none of which exists."""
    tensors = mv_adapter(SDXL, device="meta")
    header = Header.of(tensors, {"format": "pt"})
    assert registry.detect(header) is attention_branch
    adapter = attention_branch.read(header.placeholders(), header)
    assert (len(adapter), adapter.parameters) == (700, 819_366_400)
    assert [len(branch.sites) for branch in branches_of(adapter)] == [70, 70]


def test_a_pickle_is_told_how_it_becomes_a_safetensors_file(tmp_path):
    """The command does what it says, what it makes is loaded, and the page has it too."""
    tensors = i2v_adapter(SITES) | {"turned.weight": torch.ones(2, 3).mT}
    torch.save(tensors, tmp_path / "i2v_module.pth")
    with pytest.raises(AdapterFileError, match="never opened, they can run code") as refused:
        load(tmp_path / "i2v_module.pth")
    command = str(refused.value).partition("where you trust it: ")[2]
    _, *words = shlex.split(command.removesuffix("FILE"))
    subprocess.run([sys.executable, *words, "i2v_module.pth"], cwd=tmp_path, check=True)
    made = load_file(tmp_path / "i2v_module.safetensors")
    assert made.keys() == tensors.keys()
    [branch] = branches_of(load(tmp_path / "i2v_module.safetensors"))
    assert branch.mode == "first"
    assert command in (Path(__file__).parents[3] / "docs" / "formats.md").read_text("utf-8")
