"""Parallel branches in training, on the toy: the loss against its formula, and everything that a training must keep."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from krona_ops import Adapter, TargetRule, load, save
from krona_ops.branches.branch import branches_of
from krona_ops.errors import ConfigError, CoverageError, DataError
from krona_ops.names.branches import GATE, MODES, PROJECTIONS, layer_name
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig, fit
from krona_train.adapters.branches import GATE_RATE
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example, Group, Item
from krona_train.config import MemoryConfig, PriorConfig, ValidationConfig
from krona_train.monitor.validation import keep_out
from krona_train.objectives.branch import BranchDenoising
from krona_train.objectives.branch_config import BranchConfig
from krona_train.objectives.noise import draw
from krona_train.randomness import generator
from krona_train.run.events import Ended, Saved, Stepped, Validated

SITE = "attn1"
RULE = TargetRule((4, 2))


def groups(count=3, members=6, size=(4, 6)):
    rng = torch.Generator().manual_seed(1)
    return [
        Group(tuple(Item((Example(torch.randn(4, *size, generator=rng), torch.randn(7, 24, generator=rng), f"{g}.{m}"),)) for m in range(members)))
        for g in range(count)
    ]  # fmt: skip


def config(mode="reference", steps=6, **changed):
    own = {key: changed.pop(key) for key in list(changed) if key in BranchConfig.__dataclass_fields__}
    return TrainConfig(
        steps=steps,
        batch_size=2,
        save_every=2,
        adapter=AdapterConfig(targets=(RULE,)),
        optimizer=OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0),
        objective=BranchConfig(mode=mode, **own),
        **changed,
    )


def of_mode(said):
    return said.partition(",")[0]


def reading(said):
    return {"reading": "with the others"} if said.endswith("with the others") else {}


def train(settings, data=None, resume=None, backbone=None):
    events = []
    fit(backbone or ToyBackbone(), data or groups(), settings, events.append, resume)
    return events


def ended(events):
    return next(event for event in events if isinstance(event, Ended))


@pytest.mark.parametrize("mode", MODES)
def test_it_trains_the_branch_and_nothing_else(mode, tmp_path):
    backbone = ToyBackbone()
    before = {name: value.clone() for name, value in backbone.net.state_dict().items()}
    adapter = ended(train(config(mode), backbone=backbone)).adapter
    assert list(adapter.layers) == [layer_name(SITE, mode, part) for part in (*PROJECTIONS, GATE)]
    assert all(torch.equal(value, before[name]) for name, value in backbone.net.state_dict().items())
    [branch] = branches_of(load(save(adapter, tmp_path / "branch.safetensors")))
    assert branch.mode == mode
    assert branch.sites[SITE].gate != 0
    assert branch.sites[SITE].out.update.b.dense().any()


@pytest.mark.parametrize(
    "rule", [TargetRule(kind="lora"), TargetRule((4, 2), kind="sum", terms=((2, 4),)), TargetRule(kind="difference")]
)
def test_other_kinds_of_layer_can_stand_there(rule):
    settings = replace(config(), adapter=AdapterConfig(targets=(rule,)))
    adapter = ended(train(settings)).adapter
    assert len(adapter.layers) == 5
    [branch] = branches_of(adapter)
    assert branch.sites[SITE].out.update.dense().any()


class Watched(BranchDenoising):
    """Keeps what a loss was made of."""

    def losses(self, piece):
        for loss in super().losses(piece):
            self.seen = piece, loss
            yield loss


def one_loss(monkeypatch, settings, data, gate):
    """The loss of a single step with the branch at random factors, and what it was taken from."""
    from krona_train.adapters.layers.difference import DifferenceLayer
    from krona_train.adapters.layers.kronecker import KronLayer

    made = []
    plain_kron, plain_gate = KronLayer.build.__func__, DifferenceLayer.build.__func__

    def build_kron(cls, *args):
        layer = plain_kron(cls, *args)
        rng = torch.Generator().manual_seed(len(made))
        with torch.no_grad():
            layer.b.copy_(torch.randn(layer.b.shape, generator=rng) / 4)
            layer.a.copy_(torch.randn(layer.a.shape, generator=rng))
        made.append((layer.a.detach().clone(), layer.b.detach().clone()))
        return layer

    def build_gate(cls, *args):
        layer = plain_gate(cls, *args)
        with torch.no_grad():
            layer.value.fill_(gate)
        return layer

    monkeypatch.setattr(KronLayer, "build", classmethod(build_kron))
    monkeypatch.setattr(DifferenceLayer, "build", classmethod(build_gate))
    objective = Watched(settings.objective)
    monkeypatch.setattr("krona_train.loop.objective_of", lambda *args: objective)
    backbone = ToyBackbone()
    events = []
    fit(backbone, data, replace(settings, steps=1), events.append)
    piece, loss = objective.seen
    return backbone, piece, loss, made, events


def attention(q, k, v):
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v


def by_formula(backbone, factors, gate, x_t, sigma, contexts, source_of):
    """What the toy with a branch predicts, written out; ``source_of(n)`` gives each sample's source ``(M, d)``."""
    net = backbone.net
    tokens = x_t.flatten(2).mT
    n = net.proj_in(torch.cat([tokens, sigma[:, None, None].expand(*tokens.shape[:2], 1)], -1))
    own = net.attn1
    weights = [own.to_q.weight, own.to_k.weight, own.to_v.weight, own.to_out[0].weight]
    q, k, v, out = (w + torch.kron(a, b) for w, (a, b) in zip(weights, factors, strict=True))
    gained = []
    for number, each in enumerate(n):
        source = source_of(n, number)
        if source is None:
            gained.append(torch.zeros_like(each))
            continue
        mixed = attention(F.linear(each, q), F.linear(source, k), F.linear(source, v))
        gained.append(gate * F.linear(mixed, out, own.to_out[0].bias))
    tokens = n + own(n, n) + torch.stack(gained)
    tokens = tokens + net.attn2(tokens, contexts)
    tokens = tokens + net.mlp(tokens)
    v_pred = net.proj_out(tokens).mT.unflatten(2, x_t.shape[2:])
    return x_t - sigma[:, None, None, None] * v_pred


@pytest.mark.parametrize("mode", ["reference", "first", "first, with the others", "views"])
def test_the_loss_is_the_formula(monkeypatch, mode):
    settings = config(of_mode(mode), references=2, targets=3, **reading(mode))
    backbone, piece, loss, factors, _ = one_loss(monkeypatch, settings, groups(members=5), 0.3)
    batch, size = piece.batch, 5
    drawn = draw(backbone, batch.x0, 0, piece.numbers, settings.objective)
    sigma = drawn.sigma[::size].repeat_interleave(size)
    contexts = torch.stack(batch.conditions)
    x_t = torch.lerp(batch.x0, drawn.noise, sigma[:, None, None, None])
    with torch.no_grad():
        if mode in ("reference", "first"):
            shown = 2 if mode == "reference" else 1
            clean = backbone.noise_levels(torch.zeros(len(x_t)))
            flat = batch.x0.flatten(2).mT
            read = backbone.net.proj_in(torch.cat([flat, clean[:, None, None].expand(*flat.shape[:2], 1)], -1))

            def source_of(n, number):
                group = number // size * size
                return None if number % size < shown else read[group : group + shown].flatten(0, 1)

            learnt = [i for i in range(len(x_t)) if i % size >= shown]
        elif mode == "first, with the others":
            x_t[::size] = batch.x0[::size]

            def source_of(n, number):
                return None if number % size == 0 else n[number // size * size]

            learnt = [i for i in range(len(x_t)) if i % size]
        else:

            def source_of(n, number):
                group = number // size * size
                return n[group : group + size].flatten(0, 1)

            learnt = list(range(len(x_t)))
        predicted = by_formula(backbone, factors, 0.3, x_t, sigma, contexts, source_of)
        each = (predicted - batch.x0).square().flatten(1).mean(1) / sigma**2
    torch.testing.assert_close(loss.weight * loss.values.mean(), each[learnt].mean(), rtol=1e-4, atol=0)
    assert not loss.values[[i for i in range(len(x_t)) if i not in learnt]].any()


@pytest.mark.parametrize("mode", ["reference", "first", "first, with the others", "views"])
def test_a_group_that_is_kept_out_is_looked_at_whole_without_weights_or_chance(monkeypatch, mode):
    """The validation loss is the formula's plain error, at each level, of the pictures that are learnt."""
    kept_out = ValidationConfig(every=5, pictures=1, levels=2)
    how = {"references": 2, "targets": 3, "drop_source": 1.0, "weighting": "min_snr", **reading(mode)}
    settings = config(of_mode(mode), validation=kept_out, **how)
    data = groups(members=5)
    backbone, _, _, factors, events = one_loss(monkeypatch, settings, data, 0.3)
    [group] = keep_out(data, settings)[1]
    x0 = torch.stack([item.forms[0].latent for item in group.members])
    contexts = torch.stack([item.forms[0].condition for item in group.members])
    errors = []
    for level in range(2):
        sigma = backbone.noise_levels(torch.full((5,), (level + 0.5) / 2))
        noise = torch.randn(x0.shape, generator=generator(0, "validation", 0, level))
        x_t = torch.lerp(x0, noise, sigma[:, None, None, None])
        clean = backbone.noise_levels(torch.zeros(5))
        read = backbone.net.proj_in(torch.cat([x0.flatten(2).mT, clean[:, None, None].expand(5, 24, 1)], -1))
        if mode == "first, with the others":
            x_t[0] = x0[0]
        sources = {
            "reference": lambda n, number, read=read: None if number < 2 else read[:2].flatten(0, 1),
            "first": lambda n, number, read=read: read[0] if number else None,
            "first, with the others": lambda n, number: n[0] if number else None,
            "views": lambda n, number: n.flatten(0, 1),
        }
        with torch.no_grad():
            predicted = by_formula(backbone, factors, 0.3, x_t, sigma, contexts, sources[mode])
        learnt = {"reference": slice(2, None), "first": slice(1, None), "views": slice(None)}[of_mode(mode)]
        errors.append(((predicted - x0).square().flatten(1).mean(1) / sigma**2)[learnt].mean().item())
    validated = next(event for event in events if isinstance(event, Validated))
    assert validated.step == 0
    assert validated.loss == pytest.approx(sum(errors) / 2, rel=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_it_starts_at_the_model_itself(monkeypatch, mode):
    """With gates at 0 the loss is that of the frozen model, whatever the branch attends to."""
    data = groups()
    zero, half = (one_loss(monkeypatch, config(mode), data, gate)[2] for gate in (0.0, 0.5))
    assert not torch.equal(zero.values, half.values)
    monkeypatch.undo()
    first = next(e for e in train(config(mode), data) if isinstance(e, Stepped))
    torch.testing.assert_close(torch.tensor(first.loss), zero.weight * zero.values.mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("checkpointing", ["none", "blocks"])
def test_it_goes_on_bit_for_bit(mode, checkpointing):
    settings = config(
        mode, memory=MemoryConfig(checkpointing=checkpointing), drop_text=0.2, drop_source=0.2, drop_both=0.2
    )
    events = train(settings)
    state = next(event.state for event in events if isinstance(event, Saved) and event.state.step == 4)
    assert dict(ended(train(settings, resume=state)).adapter.layers) == dict(ended(events).adapter.layers)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_computed_again_attends_to_the_same(mode):
    """Under checkpointing a branch computes again in the backward pass, when what it attended to is no longer set."""
    plain, again = (
        ended(train(config(mode, memory=MemoryConfig(checkpointing=c)))).adapter for c in ("none", "blocks")
    )
    assert dict(plain.layers) == dict(again.layers)


@pytest.mark.parametrize(("mode", "said"), [("first", "alone"), ("first, with the others", None), ("reference", None)])
def test_the_adapter_says_how_the_first_frame_is_read(mode, said, tmp_path):
    """From the first step on: previews draw with it as it stands."""
    settings = config(of_mode(mode), steps=2, **reading(mode))
    events = train(settings)
    for adapter in (ended(events).adapter, load(save(ended(events).adapter, tmp_path / "branch.safetensors"))):
        assert adapter.metadata.get("krona.branch.reading") == said
        [branch] = branches_of(adapter)
        assert branch.reading == (said or "with the others")


def test_first_read_alone_is_trained_as_reference_with_one_picture_is_bit_for_bit():
    """Where any picture of a group may be its first: the same factors, moments and losses at every step."""
    dropped = {"drop_text": 0.2, "drop_source": 0.2, "drop_both": 0.2}
    reference = train(config("reference", references=1, targets=3, **dropped))
    drawn_anew = [replace(group, take=4) for group in groups()]
    first = train(config("first", **dropped), drawn_anew)
    losses = [[event.loss for event in events if isinstance(event, Stepped)] for events in (reference, first)]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 6
    ours = {name.replace("krona_first", "krona_reference"): d for name, d in ended(first).adapter.layers.items()}
    assert Adapter(ours) == Adapter(ended(reference).adapter.layers)
    others = train(config("first", reading="with the others", **dropped), drawn_anew)
    assert [event.loss for event in others if isinstance(event, Stepped)] != losses[0]


def test_a_group_of_one_picture_teaches_nothing_and_stops_nothing():
    losses = [event.loss for event in train(config("first"), groups(members=1)) if isinstance(event, Stepped)]
    assert len(losses) == 6


def test_groups_are_learnt_without_text_or_source_as_often_as_asked():
    objective = BranchDenoising(BranchConfig(drop_text=0.2, drop_source=0.3, drop_both=0.1))
    dropped = objective._dropped(5, range(4000))
    both = sum(t and s for t, s in zip(dropped.text, dropped.source, strict=True)) / 4000
    assert abs(both - 0.1) < 0.02
    assert abs(sum(dropped.text) / 4000 - 0.3) < 0.03
    assert abs(sum(dropped.source) / 4000 - 0.4) < 0.03
    assert objective._dropped(5, range(7, 9)) == type(dropped)(dropped.text[7:9], dropped.source[7:9])


def test_by_default_no_group_is_learnt_without_anything():
    dropped = BranchDenoising(BranchConfig())._dropped(5, range(4000))
    assert not any(dropped.text)
    assert not any(dropped.source)
    assert BranchDenoising(BranchConfig()).needs == {"pictures", "groups"}  # none without a prompt, either


def test_a_source_that_is_dropped_gives_the_branch_no_gradient(monkeypatch):
    settings = config(drop_source=1.0, references=1, targets=2)
    zero, half = (one_loss(monkeypatch, settings, groups(), gate)[2] for gate in (0.0, 0.5))
    assert torch.equal(zero.values, half.values)


def test_the_gates_learn_faster():
    from krona_train.adapters.rates import learning_rates
    from krona_train.adapters.targets import targets_of

    backbone, settings = ToyBackbone(), config()
    targets = targets_of(backbone, settings.adapter, "reference")
    rates = learning_rates(backbone, targets, settings.optimizer)
    assert [rates[target.name] for target in targets] == [1.0, 1.0, 1.0, 1.0, GATE_RATE]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(DataError, match=r"needs groups of pictures\..*Sort the pictures into folders"):
        train(config(), [member for group in groups() for member in group.members])
    with pytest.raises(DataError, match=r"A group of 3 pictures is too small: 5 are taken from each\."):
        train(config(), groups(members=3))
    with pytest.raises(ConfigError, match=r"drop_text, drop_source and drop_both are 1\.1 together"):
        BranchConfig(drop_text=0.5, drop_source=0.6)
    with pytest.raises(ConfigError, match=r"Prior preservation goes with denoising, and not with branch\."):
        train(config(prior=PriorConfig(1.0)))
    for changed, found in (({"kind": "full"}, "full"), ({"text_encoder": True}, "text_encoder")):
        settings = replace(config(), adapter=AdapterConfig(targets=(RULE,), **changed))
        with pytest.raises(ConfigError, match="stands beside the diffusion model's attentions") as refused:
            train(settings)
        assert refused.value.found == found

    class NoUnet(ToyBackbone):
        def sites(self):
            return ()

    with pytest.raises(CoverageError, match="stands beside the self-attentions of a UNet, and this model has none"):
        train(config(), backbone=NoUnet())
