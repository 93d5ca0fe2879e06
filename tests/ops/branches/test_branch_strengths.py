"""A parallel branch made stronger, weaker, blended, compressed, looked at and saved: its gates are what a strength
multiplies, and no operation loses one."""

import pytest
import torch
from torch.nn import functional as F

from krona_ops import (
    Adapter,
    Full,
    Kron,
    KronForm,
    LowRankForm,
    Matrix,
    Sum,
    apply_weights,
    blend,
    compress,
    encode,
    inspect_header,
    load,
    parse_weights,
    report,
    save,
)
from krona_ops.branches.branch import branches_of
from krona_ops.branches.projections import Bases
from krona_ops.errors import ConfigError, FormatError
from krona_ops.formats.encode import LORA, as_lora, without_vectors
from krona_ops.left_out import LeftOut
from krona_ops.names.branches import GATE, PROJECTIONS, branches_in_words, layer_name, places_by_mode
from krona_ops.names.places import attention_of, block_of, role_of, sorted_roles
from krona_ops.operations.blend import difference, negate
from krona_ops.operations.report import report_of_header
from krona_ops.operations.respell import respelled, unified
from krona_ops.operations.strengths import describe_unmatched, selectors
from krona_ops.updates.reading import READING

SITES = tuple(
    f"diffusion_model.{block}.1.transformer_blocks.0.attn1" for block in ("input_blocks.1", "output_blocks.3")
)
OWN = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_q"
HEADS = 2


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adapter(seed=0, gates=(0.25, -0.5), mode="reference"):
    layers = {}
    for n, (site, gate) in enumerate(zip(SITES, gates, strict=True)):
        for p, part in enumerate(PROJECTIONS):
            number = 100 * seed + 10 * n + p
            layers[layer_name(site, mode, part)] = Kron(
                Full(drawn(4, 2, seed=number)), Full(drawn(3, 6, seed=number + 50))
            )
        if gate is not None:
            layers[layer_name(site, mode, GATE)] = Matrix(Full(torch.tensor([gate], dtype=torch.float64)))
    return Adapter(layers)


def outputs(one):
    """What the branch adds at each place of `SITES`, for fixed tokens; 0 where it does not stand."""
    n, s = drawn(2, 5, 12, seed=900), drawn(2, 7, 12, seed=901)
    weights = [drawn(12, 12, seed=910 + i) for i in range(4)]
    bases = Bases(*(lambda x, w=w: F.linear(x, w) for w in weights))

    def mix(q, k, v):
        split = [x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v)]
        return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    if not one.layers:
        return [torch.zeros_like(n)] * 2
    [branch] = branches_of(one)
    sites = (branch.sites.get(site) for site in SITES)
    return [torch.zeros_like(n) if site is None else site.output(bases, n, s, mix) for site in sites]


def close(one, other):
    return all(torch.allclose(a, b, rtol=0, atol=1e-11) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("gates", [(0.25, -0.5), (None, 0.5)])
@pytest.mark.parametrize("strength", [2.0, 0.5, -1.0, 0.0])
def test_a_strength_multiplies_what_the_branch_adds(gates, strength):
    one = adapter(gates=gates)
    expected = [strength * out for out in outputs(one)]
    assert close(outputs(one.scaled(strength)), expected)
    assert close(outputs(apply_weights(one, parse_weights(f"default={strength}"))), expected)
    assert close(outputs(blend([(one, strength)])), expected)
    for name, delta in one.layers.items():
        if not name.endswith(GATE):
            assert one.scaled(strength).layers[name] is delta


def test_strength_1_changes_nothing():
    one = adapter(gates=(None, 0.5))
    assert one.scaled(1.0) == one
    assert apply_weights(one, parse_weights("default=1")) == one


def test_strengths_by_name_are_those_of_places():
    one = adapter(gates=(0.25, None))
    first, second = outputs(one)
    weighted = apply_weights(one, parse_weights("input_blocks.1=0.5, output_blocks.3=-2"))
    assert close(outputs(weighted), [0.5 * first, -2 * second])
    assert close(outputs(apply_weights(one, parse_weights("default=0, self=1"))), [first, second])
    assert close(outputs(apply_weights(one, parse_weights("output_blocks=0"))), [first, 0 * second])
    assert len(apply_weights(one, parse_weights("output_blocks=0"))) == 5
    assert len(apply_weights(one, parse_weights("default=0, cross=1"))) == 0


def test_rules_for_projections_are_told_to_match_nothing():
    one = adapter()
    weights = parse_weights("to_q=0, self.q=0.5, input_blocks.1=0.5")
    assert close(outputs(apply_weights(one, weights)), [0.5 * outputs(one)[0], outputs(one)[1]])
    told = describe_unmatched(one, weights)
    assert told == (
        '"to_q" matches none of the adapter\'s 2 gates, which alone have strengths; its blocks are named like input_blocks.1.',
        '"self.q" matches none of the adapter\'s 2 gates, which alone have strengths; its blocks are named like input_blocks.1.',
    )
    assert selectors(one.layers) == {"input_blocks.1": "input_blocks.1", "output_blocks.3": "output_blocks.3"}


def test_a_blend_has_the_mean_of_the_projections_and_the_sum_of_the_gates():
    one, two = adapter(1, gates=(0.25, None)), adapter(2, gates=(0.5, 0.75))
    for weights, shares in (((0.5, 0.5), (0.5, 0.5)), ((1.0, 3.0), (0.25, 0.75)), ((1.0, -0.2), (1.25, -0.25))):
        blended = blend(list(zip((one, two), weights, strict=True)))
        for site, gates in zip(SITES, ((0.25, 0.5), (1.0, 0.75)), strict=True):
            gate = blended.layers[layer_name(site, "reference", GATE)].dense()
            assert float(gate) == pytest.approx(sum(w * g for w, g in zip(weights, gates, strict=True)))
            for part in PROJECTIONS:
                name = layer_name(site, "reference", part)
                mean = sum(s * each.layers[name].dense() for s, each in zip(shares, (one, two), strict=True))
                assert torch.allclose(blended.layers[name].dense(), mean)
    normalised = blend([(one, 2.0), (two, 2.0)], normalise=True)
    assert close(outputs(normalised), outputs(blend([(one, 0.5), (two, 0.5)])))


def test_where_only_one_stands_a_blend_has_its_projections():
    one = adapter(1)
    two = Adapter({name: delta for name, delta in adapter(2).layers.items() if SITES[0] in name})
    blended = blend([(one, 0.5), (two, 0.5)])
    assert close(outputs(blended)[1:], [0.5 * outputs(one)[1]])


def test_a_branch_of_another_mode_is_beside_and_not_mixed():
    one, two = adapter(1), adapter(2, mode="views")
    blended = blend([(one, 0.5), (two, 1.0)])
    kinds = {branch.mode: branch for branch in branches_of(blended)}
    assert set(kinds) == {"reference", "views"}
    assert kinds["reference"].sites[SITES[0]].gate == 0.125
    assert kinds["views"].sites[SITES[1]].gate == -0.5


def test_what_cancels_is_gone_and_what_has_no_mean_is_refused():
    one, two = adapter(1), adapter(2)
    assert len(difference(one, one)) == len(blend([(one, 2.0), (negate(one), 2.0)])) == 0
    unsaid = adapter(1, gates=(None, 0.5))
    assert len(difference(unsaid, unsaid)) == 0
    with pytest.raises(
        ConfigError, match=r"gate: The strengths of the parallel branches add up to 0 here.*Change a strength"
    ):
        blend([(one, 1.0), (two, -1.0)])


@pytest.mark.parametrize("method", ["ties", "dare", "dare ties"])
def test_no_method_drops_a_gate(method):
    one, two = adapter(1, gates=(0.25, 0.0)), adapter(2, gates=(0.5, 0.0))
    blended = blend([(one, 1.0), (two, 1.0)], method=method, density=0.2)
    gates = [float(blended.layers[layer_name(site, "reference", GATE)].dense()) for site in SITES]
    assert gates == [0.375 if "ties" in method else 0.75, 0.0]


@pytest.mark.parametrize("method", ["sum", "ties", "dare", "dare ties"])
def test_the_mean_of_equal_branches_is_one_of_them(method):
    one = adapter()
    blended = blend([(one, 1.0), (adapter(), 3.0)], method=method, density=1.0, normalise=True)
    assert blended.layers.keys() == one.layers.keys()
    for name, delta in one.layers.items():
        assert torch.allclose(blended.layers[name].dense(), delta.dense()), name


def test_compressing_keeps_gates_even_at_0():
    one = adapter(gates=(0.25, 0.0))
    for form in (KronForm((2, 2)), LowRankForm(3)):
        smaller, _ = compress(one, form)
        assert smaller.layers.keys() == one.layers.keys()
        for site in SITES:
            name = layer_name(site, "reference", GATE)
            assert smaller.layers[name] == one.layers[name]
    exact, lost = compress(one, KronForm((4, 2)))
    assert lost.error < 1e-6
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(outputs(exact), outputs(one), strict=True))


def test_gates_are_no_vectors_to_leave_out():
    kept, vectors = without_vectors(adapter())
    assert (len(kept), vectors) == (10, ())


@pytest.mark.parametrize("format", ["kohya", "peft", "lora", "kohya-lora", "diffusekrona"])
def test_formats_of_other_programs_have_no_place_for_it(format):
    with pytest.raises(
        FormatError, match=r"to_q: A parallel branch has a place in ComfyUI's LoKr files alone\..*ComfyUI LoKr"
    ):
        (as_lora if format in LORA else encode)(adapter(), format=format, rank=4)


def test_any_form_of_its_parts_is_saved(tmp_path):
    one = adapter()
    lora, _ = compress(one, LowRankForm(4))
    both = blend([(one, 0.5), (adapter(2), 0.5)])
    assert any(isinstance(delta, Sum) for delta in both.layers.values())
    for each, format in ((lora, "lokr"), (both, "lokr-sum"), (one.scaled(0.5), "lokr")):
        again = load(save(each, tmp_path / "branch.safetensors", format))
        assert again.layers.keys() == each.layers.keys()
        for name, delta in each.layers.items():
            torch.testing.assert_close(again.layers[name].dense().double(), delta.dense().double(), rtol=0, atol=1e-5)


def test_a_file_lists_its_modes_and_its_methods(tmp_path):
    path = tmp_path / "branch.safetensors"
    both = Adapter({**adapter().layers, **adapter(mode="row").layers})
    again = load(save(both, path))
    assert again.metadata["krona.branch"] == "reference, row"
    assert again.metadata["ss_network_args"] == '{"algo": "lokr"}'
    own = {OWN: Kron(Full(drawn(4, 2)), Full(drawn(3, 6)))}
    assert "krona.branch" not in load(save(Adapter(own, again.metadata), path)).metadata


def first(seed=0, said=None):
    return Adapter(adapter(seed, mode="first").layers, {} if said is None else {READING: said})


def reading(one):
    [branch] = branches_of(one)
    return branch.reading


def test_how_the_first_frame_is_read_stays_with_the_branch(tmp_path):
    path = tmp_path / "branch.safetensors"
    one = first(said="alone")
    weights = parse_weights("default=0.5, output_blocks=2")
    small, _ = compress(one, KronForm((2, 2)))
    for each in (one, load(save(one, path)), one.scaled(0.5), apply_weights(one, weights), small, negate(one)):
        assert reading(each) == "alone"
    assert reading(first()) == reading(load(save(first(), path))) == "with the others"
    # It is no word about a file that holds no such branch.
    assert READING not in load(save(Adapter(adapter().layers, {READING: "alone"}), path)).metadata
    [branch] = branches_of(Adapter(adapter().layers, {READING: "alone"}))
    assert branch.reading == "with the others"


def test_a_blend_reads_the_first_frame_as_its_branches_do(tmp_path):
    one, two = first(1, said="alone"), first(2, said="alone")
    others, reference = first(3), adapter(4)
    assert reading(blend([(one, 0.5), (two, 0.5)])) == "alone"
    assert reading(blend([(first(4), 0.5), (others, 0.5)])) == "with the others"
    for pairs in ([(one, 1.0), (reference, 1.0)], [(reference, 1.0), (one, 1.0)]):
        of_both = {branch.mode: branch.reading for branch in branches_of(blend(pairs))}
        assert of_both == {"reference": "with the others", "first": "alone"}
    assert reading(blend([(one, 1.0), (others, 0.0)])) == "alone"
    for pairs in ([(one, 0.5), (others, 0.5)], [(others, 0.5), (one, 0.5)]):
        with pytest.raises(FormatError, match=r"One of the branches reads the first frame alone.*Apply them one after"):
            blend(pairs)


def test_a_way_of_reading_that_nobody_knows_is_refused():
    with pytest.raises(FormatError, match=r"reads the first frame in a way that this version does not know\..*newer"):
        branches_of(first(said="twice"))


def test_names_are_left_as_they_are():
    mixed = Adapter({**adapter().layers, OWN: Kron(Full(drawn(4, 2)), Full(drawn(80, 384)))})
    assert respelled(adapter(), "lokr") == adapter()
    assert set(respelled(mixed, "lokr").layers) == set(mixed.layers)
    assert unified([adapter(1), adapter(2)]) == [adapter(1), adapter(2)]


def test_a_branch_of_which_a_part_was_left_out_is_refused():
    name = layer_name(SITES[0], "reference", "to_q")
    for left in (name, f"{name}.oft_blocks", layer_name(SITES[0], "reference", GATE)):
        with pytest.raises(
            FormatError, match=r"A part of the branch cannot be read\. It is damaged\. Get the file again"
        ):
            branches_of(Adapter(adapter().layers, left_out=(LeftOut("LoKr", "It is damaged.", (left,)),)))
    branches_of(Adapter(adapter().layers, left_out=(LeftOut("LoKr", "It is damaged.", (OWN,)),)))


def test_updates_of_the_model_s_own_layers_are_passed_over():
    mixed = Adapter({OWN: Kron(Full(drawn(4, 2)), Full(drawn(3, 6))), **adapter().layers})
    [branch] = branches_of(mixed)
    assert set(branch.sites) == set(SITES)


def test_what_stands_where_is_told_in_words(tmp_path):
    one = Adapter({**adapter().layers, **adapter(mode="row+col", gates=(0.5, None)).layers})
    assert places_by_mode(one.layers) == {"reference": 2, "row+col": 2}
    assert branches_in_words(one.layers) == "parallel branch: reference in 2 places, row+col in 2 places"
    assert branches_in_words([OWN]) == ""
    inspection = inspect_header(save(one, tmp_path / "branch.safetensors"))
    assert inspection.branches == {"reference": 2, "row+col": 2}
    assert {facts.method for facts in inspection.layers} == {"LoKr", "gate"}
    for told in (report(one), report_of_header(inspection)):
        assert told.notes == (
            "Parallel branch: reference in 2 places, row+col in 2 places. Apply KronA Branch applies it.",
        )
    assert report(Adapter({OWN: Kron(Full(drawn(4, 2)), Full(drawn(3, 6)))})).notes == ()


def test_gates_are_shown_and_no_part_of_how_far_weights_move():
    measured = report(adapter())
    gates = [layer for layer in measured.layers if layer.role == "reference gate"]
    assert [layer.form for layer in gates] == ["gate 0.25", "gate -0.5"]
    assert {layer.norm for layer in gates} == {None}
    grid = measured.grid()
    assert grid.roles == ("reference q", "reference k", "reference v", "reference out")
    assert grid.blocks == ("input_blocks.1", "output_blocks.3")
    assert "gate 0.25" in measured.table("layer")


def test_places_and_roles_of_its_layers():
    name = layer_name(SITES[0], "row+col", "to_out")
    assert (block_of(name), role_of(name), attention_of(name)) == ("input_blocks.1", "row+col out", "self")
    assert sorted_roles(["other", "views gate", "feed-forward", "reference v", "self q"]) == (
        "self q",
        "reference v",
        "views gate",
        "feed-forward",
        "other",
    )
