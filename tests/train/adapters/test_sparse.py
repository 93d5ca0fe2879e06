"""Factors trained in parts: the masks, the gradients, the mean over the parts, and everything that a training must keep."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_loop import config, examples
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from krona_ops import TargetRule
from krona_ops.errors import ConfigError
from krona_train import AdapterConfig, OptimizerConfig, fit
from krona_train.adapters.bank import Bank, choose
from krona_train.adapters.sparse import partition
from krona_train.adapters.start import begin_at
from krona_train.adapters.targets import targets_of
from krona_train.adapters.trainee import Recipe
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example, Group, Item, Seen
from krona_train.batches.samples import Samples, as_items
from krona_train.config import EmaConfig, MemoryConfig, PriorConfig, ValidationConfig, from_yaml, to_yaml
from krona_train.objectives.branch_config import BranchConfig
from krona_train.objectives.denoising import denoising
from krona_train.objectives.guidance_config import GuidanceConfig
from krona_train.objectives.noise import Draw, draw
from krona_train.objectives.pairs_config import PairsConfig
from krona_train.objectives.score_matching_config import ScoreMatchingConfig
from krona_train.randomness import generator
from krona_train.run.events import Saved, Started, Stepped, Validated
from krona_train.run.metadata import describe
from krona_train.run.state import TrainState, newest
from krona_train.settings.groups import MAIN, SparseConfig
from krona_train.step.checkpointing import checkpointed

KINDS = {
    "kronecker": TargetRule((8, 4)),
    "lora": TargetRule(kind="lora"),
    "sum": TargetRule((8, 4), kind="sum", terms=((4, 8),)),
}
SEED = 3
ROOT = Path(__file__).resolve().parents[3]


def bank_of(backbone, rule, parts, layout="kron"):
    """One adapter, not at zero."""
    settings = AdapterConfig(targets=(rule, TargetRule(rule.factors, (), r"mlp", kind=rule.kind)), layout=layout)
    settings = replace(settings, sparse=SparseConfig(parts))
    recipe = Recipe(settings, OptimizerConfig(rate_by_width=0.0), EmaConfig(0.0), 10, SEED)
    bank = Bank(backbone, {MAIN: choose(backbone, recipe)})
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in bank.main.parameters:
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    return bank


def split_factors(layer):
    return layer.by_role()["zero"]


def owners_of(layers, parts):
    """For each split factor its masks, written out from the seed."""
    factors = [factor for layer in layers.values() for factor in split_factors(layer)]
    orders = [torch.randperm(f.numel(), generator=generator(SEED, "sparse parts", n)) for n, f in enumerate(factors)]
    return [(order % parts).view(f.shape) for order, f in zip(orders, factors, strict=True)]


def drawn_at(step, parts, count, number=0, seed=SEED):
    return torch.randint(parts, (count,), generator=generator(seed, "sparse draws", step, number))


@pytest.fixture
def inputs():
    rng = torch.Generator().manual_seed(7)
    return torch.randn(3, 4, 6, 5, generator=rng), torch.rand(3, generator=rng), torch.randn(3, 7, 24, generator=rng)


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 35, 256])
def test_every_entry_has_one_part_and_all_parts_are_of_one_size(parts):
    shape = (7, 5, 3, 3)
    owners = partition(shape, parts, generator(0, "sparse parts", 0))
    masks = torch.stack([owners == e for e in range(parts)])
    assert torch.equal(masks.sum(0), torch.ones(shape, dtype=torch.int64))
    sizes = masks.flatten(1).sum(1)
    assert sizes.max() - sizes.min() <= 1
    assert owners.element_size() == 1
    if parts > 1:
        assert not torch.equal(owners, partition(shape, parts, generator(0, "sparse parts", 1)))
        assert not torch.equal(owners, partition(shape, parts, generator(1, "sparse parts", 0)))
        rows = masks[0].flatten(1).sum(1)
        assert rows.float().std() > 0 or parts > 35  # at random, and not in stripes
    assert torch.equal(owners, partition(shape, parts, generator(0, "sparse parts", 0)))


@pytest.mark.parametrize("layout", ["kron", "shuffled"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [2, 5])
def test_a_pass_is_that_of_the_dense_update_of_the_drawn_parts_and_so_is_its_gradient(kind, parts, layout, inputs):
    """The oracle forms ``W + A ⊗ (N · M ∘ B)`` in float64. Entries of other parts get exactly nothing."""
    backbone = ToyBackbone()
    bank = bank_of(backbone, KINDS[kind], parts, layout)
    layers, zero = bank.main.layers, [f for layer in bank.main.layers.values() for f in split_factors(layer)]
    owners = owners_of(layers, parts)
    draws = drawn_at(4, parts, len(zero))
    assert len(draws.unique()) > 1
    with backbone.ready(), bank.attached(), bank.drawing(4):
        out = backbone.net(*inputs)
        gradients = torch.autograd.grad(out.square().sum(), bank.main.parameters)

    twin = ToyBackbone()
    twin.net.double()
    ours = {id(p): p.detach().double().requires_grad_() for p in bank.main.parameters}
    masked = {id(f): ours[id(f)] * (parts * (o == e)) for f, o, e in zip(zero, owners, draws, strict=True)}
    weights = {}
    for name, layer in layers.items():
        random = layer.by_role()["random"]
        products = [(ours[id(a)], masked[id(b)]) for a, b in zip(random, split_factors(layer), strict=True)]
        weights[f"{name}.weight"] = twin.module(name).weight + sum(_product(kind, a, b, layer, layout) for a, b in products)
    expected = torch.func.functional_call(twin.net, weights, tuple(x.double() for x in inputs))
    assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(expected.square().sum(), [ours[id(p)] for p in bank.main.parameters])
    for mine, theirs in zip(gradients, wanted, strict=True):
        assert theirs.norm() > 0
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()
    by_id = {id(p): g for p, g in zip(bank.main.parameters, gradients, strict=True)}
    for factor, owner, e in zip(zero, owners, draws, strict=True):
        assert not by_id[id(factor)][owner != e].any()
        assert by_id[id(factor)][owner == e].any()


def _product(kind, a, b, layer, layout):
    if kind == "lora":
        return layer.scale * b @ a
    if layout == "kron":
        return torch.kron(a, b)
    return torch.kron(b, a).view(b.shape[0], a.shape[0], b.shape[1], a.shape[1]).transpose(2, 3).reshape(
        b.shape[0] * a.shape[0], -1
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_over_the_parts_is_the_adapter_that_is_saved(kind):
    """All factors at part e, for each e: the mean of the updates is the saved one, by the layers and in float64."""
    parts = 4
    backbone = ToyBackbone()
    bank = bank_of(backbone, KINDS[kind], parts)
    count, adapter = sum(len(split_factors(layer)) for layer in bank.main.layers.values()), bank.main.result()
    x = {n: torch.randn(5, backbone.module(n).in_features) for n in bank.main.layers}
    for name, layer in bank.main.layers.items():
        weight, module = backbone.module(name).weight, backbone.module(name)
        with backbone.ready(), torch.no_grad(), bank.attached():
            weighed, called = [], []
            for e in range(parts):
                with bank.gates.drawing(torch.full((count,), e)):
                    weighed.append(layer.weigh(torch.zeros_like(weight)).double())
                    called.append(module(x[name]).double())
            whole = module(x[name])
        saved = adapter.layers[name].dense().double()
        assert saved.norm() > 0
        assert (weighed[0] - saved).norm() > 0.5 * saved.norm()
        assert (sum(weighed) / parts - saved).norm() <= 1e-6 * saved.norm()
        assert (sum(called) / parts - whole).norm() <= 1e-6 * whole.norm()
        expected = torch.nn.functional.linear(x[name].double(), weight.double() + saved)
        bias = 0 if module.bias is None else module.bias.double()
        assert (whole - expected - bias).norm() <= 1e-6 * expected.norm()


def test_without_a_draw_a_factor_is_the_parameter_itself_and_one_part_is_never_drawn(inputs):
    backbone = ToyBackbone()
    split, plain = (bank_of(backbone, KINDS["kronecker"], parts) for parts in (4, 1))
    outs = []
    for bank in (split, plain):
        with backbone.ready(), bank.attached(), torch.no_grad():
            outs.append(backbone.net(*inputs))
    assert torch.equal(*outs)
    assert plain.main.sparse.draw(0) is None
    with plain.drawing(0):
        assert plain.gates.drawn is None
    layer = next(iter(split.main.layers.values()))
    assert layer._b() is layer.b


def test_nothing_of_the_weight_s_size_is_formed():
    """``B`` is masked before the product."""

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and not (args and isinstance(args[0], torch.Tensor) and out.data_ptr() == args[0].data_ptr()):
                self.numbers = max(self.numbers, out.numel())
            return out

    backbone = ToyBackbone(width=256, context_width=256)
    bank = bank_of(backbone, TargetRule((16, 16)), 4)
    x = torch.randn(2, 256, requires_grad=True)
    module = backbone.module("attn1.to_q")
    with backbone.ready(), bank.attached(), bank.drawing(0), Largest() as largest:
        module(x).sum().backward()
    assert 0 < largest.numbers <= 16 * 256


def test_one_draw_is_for_all_layers_apart_and_for_all_samples_of_a_step():
    bank = bank_of(ToyBackbone(), KINDS["sum"], 4)
    draws = [bank.main.sparse.draw(step) for step in range(200)]
    assert all(torch.equal(d, drawn_at(step, 4, len(d))) for step, d in enumerate(draws))
    together = torch.stack(draws)
    assert together.shape == (200, 2 * len(bank.main.layers))
    for e in range(4):
        assert ((together == e).float().mean(0) - 0.25).abs().max() < 0.12  # 4 standard errors
    assert not torch.equal(together[:, 0], together[:, 1])
    assert torch.equal(bank.main.sparse.draw(7, 1), drawn_at(7, 4, together.shape[1], 1))
    assert not torch.equal(bank.main.sparse.draw(7, 1), draws[7])


# -- recomputation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["blocks", "offloaded"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_computed_again_for_the_gradient_has_the_same_parts(kind, mode, inputs):
    """Two draws in one graph, and the backward pass under neither of them."""
    backbone = ToyBackbone()
    bank = bank_of(backbone, KINDS[kind], 4)

    def gradients():
        with bank.drawing(0):
            first = backbone.net(*inputs)
        with bank.drawing(0, 1):
            second = backbone.net(*inputs)
        return torch.autograd.grad((first - second).square().sum(), bank.main.parameters)

    with backbone.ready(), bank.attached():
        expected = gradients()
        with checkpointed(backbone.blocks(), mode, bank.gates.pinned):
            found = gradients()
    assert all(g.abs().max() > 0 for g in expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 2e-6 * theirs.norm()  # two graphs' gradients are summed in another order


# -- trainings --------------------------------------------------------------------------------------------------------

SPARSE = SparseConfig(3, 20.0)
"""So much that it counts beside the objectives' own terms, though the toy's adapters are small."""


def with_class(count=5):
    return [replace(e, class_condition=0.5 * e.condition) for e in examples(count)]


def drawings(sigma=None):
    """What a model may have seen when it drew, each at a guidance and a noise level of its own."""
    rng = torch.Generator().manual_seed(5)
    items = []
    for n in range(5):
        x_t, x0 = (torch.randn(4, 6, 5, generator=rng) for _ in range(2))
        seen = Seen(x_t, sigma or 0.1 + 0.2 * n, 1.5 + n, x0)
        items.append(Item((Example(None, torch.randn(7, 24, generator=rng), f"{n}", shape=(4, 6, 5), seen=seen),)))
    return items


def groups():
    return [Group(tuple(Item((e,)) for e in examples(6, seed))) for seed in (1, 2, 3)]


def prompts():
    return [Example(None, e.condition, e.caption, shape=(4, 6, 5)) for e in examples()]


CASES = {
    "denoising": ({}, examples),
    "denoising, a prior of the model": ({"prior": PriorConfig(0.7, "model")}, with_class),
    "denoising, a prior of pictures": ({"prior": PriorConfig(0.7, "pictures")}, examples),
    "branch": ({"objective": BranchConfig(mode="reference")}, groups),
    "guidance": ({"objective": GuidanceConfig()}, drawings),
    "pairs": ({"objective": PairsConfig()}, lambda: drawings(0.999)),
    "score matching": ({"objective": ScoreMatchingConfig()}, prompts),
}
"""Settings and data of each objective."""


def case(what, sparse=SPARSE, rate=1e-2, **changes):
    own, data = CASES[what]
    settings = config(**{"steps": 6, "save_every": 2, **own, **changes})
    adapter, optimizer = replace(settings.adapter, sparse=sparse), replace(settings.optimizer, learning_rate=rate)
    return replace(settings, adapter=adapter, optimizer=optimizer), data()


def record(settings, data, resume=None):
    events = []
    classes = examples(3, seed=4) if settings.prior.source == "pictures" and settings.prior.weight else ()
    fit(ToyBackbone(), data, settings, events.append, resume, class_data=classes)
    return events


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("what", CASES)
def test_a_training_goes_on_bit_for_bit_and_its_state_holds_nothing_more(what, tmp_path):
    settings, data = case(what)
    whole = record(settings, data)
    saved = of(Saved, whole)[0].state
    state = TrainState.load(saved.save(tmp_path / "state.safetensors"))
    rest = record(settings, data, state)
    assert rest[-1].adapter == whole[-1].adapter
    dense = record(*case(what, SparseConfig()))
    assert dense[-1].adapter != whole[-1].adapter
    assert dense[-1].state.tensors.keys() == whole[-1].state.tensors.keys()
    assert dense[-1].state.numbers.keys() == whole[-1].state.numbers.keys()
    another, _ = case(what, SparseConfig(2, 20.0))
    with pytest.raises(ConfigError, match=r"adapter\.sparse"):
        record(another, data, state)


PROGRAM = """
import os, signal, sys
sys.path[:0] = ["tests/train", "."]
import torch
from pathlib import Path
from test_loop import config, examples
from krona_train import fit
from krona_train.backbone.toy import ToyBackbone
from krona_train.config import from_yaml
from krona_train.run.events import Stepped
from krona_train.run.folder import Run
torch.set_num_threads(1)
settings = from_yaml(Path(sys.argv[1]).read_text())
run = Run(Path(sys.argv[2]), settings, {})

def sink(event):
    run(event)
    if isinstance(event, Stepped) and event.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)

fit(ToyBackbone(), examples(), settings, sink)
"""


def test_a_killed_training_goes_on_bit_for_bit(tmp_path):
    settings, data = case("denoising")
    job = tmp_path / "training.yaml"
    job.write_text(to_yaml(settings))
    killed = subprocess.run([sys.executable, "-c", PROGRAM, str(job), str(tmp_path / "run")], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    state = TrainState.load(newest(tmp_path / "run"))
    assert state.step == 2
    assert record(settings, data, state)[-1].adapter == record(settings, data)[-1].adapter


@pytest.mark.parametrize("what", CASES)
def test_checkpointing_changes_nothing(what):
    settings, data = case(what)
    adapters = [record(replace(settings, memory=MemoryConfig(mode)), data)[-1].adapter for mode in ("none", "blocks")]
    for name, delta in adapters[0].layers.items():
        one, other = delta.dense(), adapters[1].layers[name].dense()
        assert (one - other).norm() <= 1e-3 * one.norm(), name  # rounding, which AdamW's division makes larger


@pytest.mark.parametrize("what", CASES)
def test_consistency_is_a_term_beside_the_objective_s_own(what):
    """Of the first steps it is nothing, as the update is zero then; after them it is linear in its weight."""
    steps = 4 if what == "branch" else 2  # its gate is zero too
    losses = {}
    for weight in (0.0, 30.0, 60.0):
        settings, data = case(what, SparseConfig(3, weight), rate=0.1)
        losses[weight] = [event.loss for event in of(Stepped, record(replace(settings, steps=steps), data))]
    none, half, whole = losses.values()
    first = next(n for n, (a, b) in enumerate(zip(none, whole, strict=True)) if b != pytest.approx(a, rel=1e-6))
    assert first > 0
    assert whole[first] > half[first] > none[first]
    assert whole[first] - none[first] == pytest.approx(2 * (half[first] - none[first]), rel=1e-2)


def test_the_loss_is_that_of_one_draw_and_the_difference_to_another():
    """Of the third step, dense and in float64, with the adapter that two steps give."""
    settings, data = case("denoising", SparseConfig(3, 30.0), rate=0.1, ema=EmaConfig(0.0), seed=SEED)
    adapter = record(replace(settings, steps=2), data)[-1].adapter
    [step] = [event for event in of(Stepped, record(replace(settings, steps=3), data)) if event.step == 3]
    samples = Samples(as_items(data), settings).batch(2)
    predictions, losses = [], []
    for number in (0, 1):
        twin = ToyBackbone()
        twin.net.double()
        draws = drawn_at(2, 3, len(adapter.layers), number)
        for n, (name, delta) in enumerate(adapter.layers.items()):
            a, b = delta.a.dense().double(), delta.b.dense().double()
            owner = (torch.randperm(b.numel(), generator=generator(SEED, "sparse parts", n)) % 3).view(b.shape)
            twin.module(name).weight += torch.kron(a, 3 * (owner == draws[n]) * b)
        batch = twin.collate([replace(s.example, latent=s.example.latent.double()) for s in samples])
        noise = draw(ToyBackbone(), batch.x0.float(), SEED, [s.number for s in samples])
        noise = Draw(noise.sigma.double(), noise.noise.double())
        with torch.no_grad():
            losses.append(denoising(twin, batch, noise).mean())
            x_t = twin.add_noise(batch.x0, noise.noise, noise.sigma)
            predictions.append(twin.predict(x_t, noise.sigma, batch.conditions))
    difference = (predictions[0] - predictions[1]).square().mean()
    assert 30 * difference > 1e-2 * losses[0]
    assert step.loss == pytest.approx((losses[0] + 30 * difference).item(), rel=1e-5)


def test_one_part_is_the_dense_training_bit_for_bit():
    dense, data = case("denoising", SparseConfig())
    once = replace(dense, adapter=replace(dense.adapter, sparse=SparseConfig(parts=1)))
    assert record(dense, data)[-1].adapter == record(once, data)[-1].adapter == fit(ToyBackbone(), data, config(steps=6, save_every=2))


def test_a_step_has_one_draw_however_its_samples_are_taken():
    """Accumulated batches are one large batch, and so are the pieces of one."""
    adapters = []
    for batch, accumulate in ((6, 1), (2, 3), (1, 6)):
        settings, data = case("denoising", batch_size=batch, accumulate=accumulate)
        adapters.append(record(settings, data)[-1].adapter)
    for other in adapters[1:]:
        for name, delta in adapters[0].layers.items():
            one = delta.dense()
            assert (one - other.layers[name].dense()).norm() <= 1e-4 * one.norm(), name


def test_validation_sees_the_adapter_itself():
    """Its loss is that of the result without any parts, on a model of its own."""
    settings, data = case("denoising", validation=ValidationConfig(every=3, pictures=2, levels=2))
    [_, third, last] = of(Validated, record(settings, data))
    dense = replace(settings, adapter=replace(settings.adapter, sparse=SparseConfig()))
    for seen in (third, last):
        start = begin_at(seen.adapter, targets_of(ToyBackbone(), dense.adapter, None), dense.adapter)
        events = []
        fit(ToyBackbone(), data, replace(dense, steps=1), events.append, start=start)
        assert of(Validated, events)[0].loss == seen.loss


def test_a_compiled_block_is_one_program_for_every_draw(inputs):
    """A part's number is a tensor: as a number of Python's it would be compiled again for each part."""
    from torch._dynamo.testing import CompileCounter

    backbone, counter = ToyBackbone(), CompileCounter()
    bank = bank_of(backbone, KINDS["lora"], 4)
    x = torch.randn(2, 30, 48)
    with backbone.ready(), bank.attached(), torch.no_grad():
        compiled = torch.compile(lambda x: backbone.net.mlp(x), backend=counter)
        outs = []
        for step in range(6):
            with bank.drawing(step):
                outs.append((compiled(x), backbone.net.mlp(x)))
    assert all(torch.equal(ours, plain) for ours, plain in outs)
    assert not torch.equal(outs[0][0], outs[1][0])
    programs = counter.frame_count
    assert programs > 0
    with backbone.ready(), bank.attached(), torch.no_grad():
        for step in range(6, 9):
            with bank.drawing(step):
                compiled(x)
    assert counter.frame_count == programs


def test_who_trains_is_told_what_consistency_costs():
    settings, data = case("denoising")
    assert any("computed twice" in note for note in of(Started, record(settings, data))[0].notes)
    without, _ = case("denoising", SparseConfig(3))
    assert of(Started, record(without, data))[0].notes == of(Started, record(*case("denoising", SparseConfig())))[0].notes


def test_the_file_and_the_settings_tell_of_it():
    settings, _ = case("denoising")
    assert "  sparse:\n    parts: 3\n    consistency: 20.0\n" in to_yaml(settings)
    assert from_yaml(to_yaml(settings)) == settings
    told = describe(settings, name="x", family="toy", captions=["dog"], resolution=8)
    assert '"sparse_parts": 3, "sparse_consistency": 20.0' in told["ss_network_args"]
    dense, _ = case("denoising", SparseConfig())
    assert "sparse" not in describe(dense, name="x", family="toy", captions=["dog"], resolution=8)["ss_network_args"]


# -- wrong inputs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["difference", "full"])
def test_kinds_without_factors_cannot_be_split(kind):
    rules = (TargetRule(kind=kind, projections=("q",)), TargetRule((8, 4)))
    settings = config(adapter=AdapterConfig(targets=rules, sparse=SparseConfig(2)))
    events = []
    with pytest.raises(ConfigError) as raised:
        fit(ToyBackbone(), examples(), settings, events.append)
    assert f"Parts are of one factor of two, and the kind {kind} has no factors." in str(raised.value)
    assert raised.value.layer == "attn1.to_q"
    assert not events


def test_a_factor_has_at_least_as_many_entries_as_parts():
    rule = TargetRule((24, 24), ("q",))
    smallest = config(steps=1, adapter=AdapterConfig(targets=(rule,), sparse=SparseConfig(4)))
    fit(ToyBackbone(), examples(), smallest)
    many = replace(smallest, adapter=replace(smallest.adapter, sparse=SparseConfig(5)))
    events = []
    with pytest.raises(ConfigError, match="A factor of 4 entries cannot be split into 5 parts"):
        fit(ToyBackbone(), examples(), many, events.append)
    assert not events


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("parts: 0", "parts"),
        ("parts: 257", "parts"),
        ("parts: 2.5", "a whole number"),
        ("consistency: 1", "with one part there is nothing to draw"),
        ("{parts: 2, consistency: -1}", "consistency"),
        ("piece: 2", "There is no setting adapter.sparse.piece"),
    ],
)
def test_wrong_settings_are_told_by_name(values, message):
    values = values if values.startswith("{") else f"{{{values}}}"
    with pytest.raises(ConfigError, match=message):
        from_yaml(f"adapter: {{sparse: {values}}}")
