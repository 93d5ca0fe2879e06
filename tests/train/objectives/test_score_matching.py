"""One step by score implicit matching: the theorem where everything is known, and what a training must keep."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_loop import config as toy_config
from test_loop import examples
from torch.func import functional_call
from torch.testing import assert_close

from krona_ops import TargetRule
from krona_ops.errors import ConfigError, DataError
from krona_train import AdapterConfig, OptimizerConfig, fit
from krona_train.adapters.bank import Bank
from krona_train.backbone.toy import ToyBackbone
from krona_train.batches.examples import Example
from krona_train.batches.samples import Sample
from krona_train.config import DenoisingConfig, EmaConfig, MemoryConfig, PriorConfig, ValidationConfig
from krona_train.loop import choose_all
from krona_train.objectives import kinds
from krona_train.objectives.noise import draw
from krona_train.objectives.protocol import Piece
from krona_train.objectives.score_matching import SCORE, ScoreMatching, matching
from krona_train.objectives.score_matching_config import ScoreMatchingConfig
from krona_train.randomness import generator
from krona_train.run.events import Ended, Saved, Started, Validated
from krona_train.run.state import TrainState
from krona_train.settings.groups import MAIN
from krona_train.step.checkpointing import checkpointed

FACTORS = (8, 4)
RULES = (TargetRule(FACTORS), TargetRule(FACTORS, (), r"mlp"))


def prompts(count=5):
    return [Example(None, e.condition, e.caption, shape=(4, 6, 5)) for e in examples(count)]


def config(steps=6, memory="none", **changed):
    own = {key: changed.pop(key) for key in list(changed) if key in ScoreMatchingConfig.__dataclass_fields__}
    optimizer = OptimizerConfig(learning_rate=1e-2, rate_by_width=0.0, betas=(0.0, 0.999))
    settings = toy_config(steps=steps, save_every=2, adapter=AdapterConfig(targets=RULES), optimizer=optimizer)
    return replace(
        settings, objective=ScoreMatchingConfig(**own), ema=EmaConfig(0.9), memory=MemoryConfig(memory), **changed
    )


def train(settings, data=None, resume=None, backbone=None):
    events = []
    fit(backbone or ToyBackbone(), data or prompts(), settings, events.append, resume)
    return events


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


# -- the theorem ------------------------------------------------------------------------------------------------------

SIGMA, SHARE = 0.7, 0.3
WEIGHTS, MEANS, WIDTH = (0.3, 0.7), (-1.1, 0.9), 0.4
"""The teacher: two Gaussians on a line, so that its score is no straight line."""


def denoised_by_teacher(x):
    variance = WIDTH**2 + SIGMA**2
    logits = torch.stack([np.log(w) - (x - m) ** 2 / (2 * variance) for w, m in zip(WEIGHTS, MEANS, strict=True)])
    each = torch.stack([m + WIDTH**2 / variance * (x - m) for m in MEANS])
    return (logits.softmax(0) * each).sum(0)


def denoised_by_score(x, mean, spread):
    """Of what the generator ``mean + spread · z`` draws, hidden by noise of ``SIGMA``."""
    return mean + spread**2 / (spread**2 + SIGMA**2) * (x - mean)


def divergence(mean, spread, distance):
    """``∫ p(x) d(D_F(x) − D_T(x)) dx`` with p held still, by the trapezoidal rule; its gradient is what the theorem is
    about."""
    x = torch.linspace(-12, 12, 6001, dtype=torch.float64)
    at, width = mean.detach(), (spread.detach() ** 2 + SIGMA**2).sqrt()
    p = torch.exp(-(((x - at) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
    y = denoised_by_score(x, mean, spread) - denoised_by_teacher(x)
    d = (y.square() + SHARE**2).sqrt() - SHARE if distance == "huber" else y.square() / 2
    return torch.trapezoid(p * d, x)


def matched(mean, spread, distance, gradient):
    """The mean of our loss over the generator's noise and the noise that hides its pictures, by the same rule."""
    nodes = torch.linspace(-8, 8, 321, dtype=torch.float64)
    z, noise = torch.meshgrid(nodes, nodes, indexing="ij")
    chance = torch.exp(-(z.square() + noise.square()) / 2) / (2 * np.pi) * (nodes[1] - nodes[0]) ** 2
    x0 = mean + spread * z
    x_t = x0 + SIGMA * noise
    x_t = x_t if gradient == "full" else x_t.detach()
    score = denoised_by_score(x_t, mean.detach(), spread.detach())
    three = (values.reshape(-1, 1, 1, 1) for values in (denoised_by_teacher(x_t), score, x0))
    settings = ScoreMatchingConfig(distance=distance, huber_share=SHARE, gradient=gradient)
    return (matching(*three, settings) * chance.flatten()).sum()


def gradients(loss, distance, *more):
    of_generator = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.25, 0.8)]
    return torch.stack(torch.autograd.grad(loss(*of_generator, distance, *more), of_generator))


@pytest.mark.parametrize("distance", ["huber", "l2"])
def test_the_gradient_of_the_loss_is_that_of_the_divergence_of_scores(distance):
    """Luo et al. 2024, Theorem 3.1, without chance on either side."""
    exact = gradients(divergence, distance)
    assert exact.abs().min() > 0.01
    assert_close(gradients(matched, distance, "full"), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("distance", ["huber", "l2"])
def test_a_stopped_gradient_is_another_one(distance):
    assert (gradients(matched, distance, "stopped") - gradients(divergence, distance)).abs().max() > 0.01


def test_l2_is_the_loss_of_sid_with_alpha_1():
    """Zhou et al. 2024: ``−α ‖y‖² + ⟨y, D_T − x0⟩``, here as a mean over the latent's numbers."""
    rng = torch.Generator().manual_seed(0)
    given = [torch.randn(3, 4, 5, 2, generator=rng, requires_grad=True) for _ in range(3)]
    teacher, score, x0 = given
    y, alpha = teacher - score, 1
    sid = (-alpha * y.square() + y * (teacher - x0)).flatten(1).sum(1) / 40
    ours = matching(*given, ScoreMatchingConfig(distance="l2"))
    assert_close(ours, sid)
    for a, b in zip(torch.autograd.grad(ours.sum(), given), torch.autograd.grad(sid.sum(), given), strict=True):
        assert_close(a, b)


def test_huber_is_the_paper_s_in_means_instead_of_sums():
    """``⟨y, D_F − x0⟩ / √(‖y‖² + c²)`` with c = 0.05 √dim, over √dim."""
    rng = torch.Generator().manual_seed(0)
    teacher, score, x0 = (torch.randn(3, 4, 5, 2, generator=rng) for _ in range(3))
    y, c = teacher - score, 0.05 * 40**0.5
    paper = (y * (score - x0)).flatten(1).sum(1) / (y.flatten(1).norm(dim=1) ** 2 + c**2).sqrt()
    assert_close(matching(teacher, score, x0, ScoreMatchingConfig()), paper / 40**0.5)


# -- gradients through the bank ---------------------------------------------------------------------------------------


class Case:
    """A bank on the toy whose adapters are not at zero, and a turn of the generator."""

    def __init__(self, **own):
        self.settings = config(**own)
        self.backbone, self.objective = ToyBackbone(), ScoreMatching(self.settings.objective)
        self.bank = Bank(self.backbone, choose_all(self.backbone, self.objective, self.settings))
        rng = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for trainee in self.bank.trainees.values():
                for parameter in trainee.parameters:
                    parameter += 0.2 * torch.randn(parameter.shape, generator=rng)

    def piece(self, place):
        samples = [Sample(20 + n, example) for n, example in enumerate(prompts(3))]
        return Piece(self.backbone, self.bank, 3, 7, self.objective.turns[place], "data", samples)

    def gradients(self, mode="none"):
        """Of the generator's turn, by the factors of `MAIN`."""
        bank = self.bank
        repeated = checkpointed(self.backbone.blocks(), mode, bank.gates.pinned)
        with self.backbone.ready(), bank.attached(), repeated, bank.moving(MAIN):
            [loss] = self.objective.losses(self.piece(-1))
            return loss.values.detach(), torch.autograd.grad(loss.values.sum(), bank.main.parameters)


def by_hand(case, gradient):
    """The same from three plain networks with merged weights, by the formula: in full by autograd, or as the gradient of
    distribution matching, ``(D_F − D_T) / √(‖y‖² + c²) · ∂x0``."""
    net, bank = case.backbone.net, case.bank
    plain = dict(net.named_parameters())

    def predict(weights, x, sigma, context):
        return x - sigma[:, None, None, None] * functional_call(net, weights, (x, sigma, context))

    def merged(adapter):
        layers = bank.trainees[adapter].layers
        return {**plain, **{f"{n}.weight": plain[f"{n}.weight"] + torch.kron(each.a, each.b) for n, each in layers.items()}}

    piece = case.piece(-1)
    numbers = [number * 3 + 2 for number in piece.numbers]  # two turns of the score come first
    z = torch.stack([torch.randn(4, 6, 5, generator=generator(3, "one step", number)) for number in numbers])
    drawn = draw(case.backbone, torch.zeros(3, 4, 6, 5), 3, numbers, stream="score noise")
    context, start = torch.stack([e.condition for e in prompts(3)]), torch.full((3,), 0.999)
    x0 = predict(merged(MAIN), 0.999 * z, start, context)
    x_t = torch.lerp(x0, drawn.noise, drawn.sigma[:, None, None, None])
    with_prompt, without = (predict(plain, x_t, drawn.sigma, each) for each in (context, 0 * context))
    teacher = without + case.settings.objective.guidance * (with_prompt - without)
    score = predict(merged(SCORE), x_t, drawn.sigma, context)
    y = teacher - score
    length = (y.square().mean((1, 2, 3)) + 0.05**2).sqrt()[:, None, None, None]
    values = (y / length * (score - x0)).mean((1, 2, 3))
    if gradient == "full":
        return values.detach(), torch.autograd.grad(values.sum(), bank.main.parameters)
    return values.detach(), torch.autograd.grad(x0, bank.main.parameters, (-y / length / 120).detach())


@pytest.mark.parametrize("mode", ["none", "blocks"])
@pytest.mark.parametrize("gradient", ["full", "stopped"])
def test_gradients_are_those_of_three_networks(gradient, mode):
    case = Case(gradient=gradient)
    (loss, ours), (value, theirs) = case.gradients(mode), by_hand(case, gradient)
    assert_close(loss, value, rtol=1e-4, atol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        assert b.norm() > 1e-4
        assert (a - b).norm() <= 1e-4 * b.norm()


def test_full_and_stopped_gradients_differ():
    (_, full), (_, stopped) = (by_hand(Case(gradient=gradient), gradient) for gradient in ("full", "stopped"))
    assert all((a - b).norm() > 0.1 * b.norm() for a, b in zip(full, stopped, strict=True))


# -- a training -------------------------------------------------------------------------------------------------------


def test_each_turn_moves_its_own_adapter_and_nothing_else(monkeypatch):
    seen = []

    class Watched(ScoreMatching):
        def losses(self, piece):
            factors = {n: [p.detach().clone() for p in t.parameters] for n, t in piece.bank.trainees.items()}
            seen.append((piece.turn.adapter, factors))
            return super().losses(piece)

    monkeypatch.setattr(kinds, "OBJECTIVES", (Watched,))
    backbone = ToyBackbone()
    before = {name: value.clone() for name, value in backbone.net.state_dict().items()}
    train(config(steps=4), backbone=backbone)
    assert [turn for turn, _ in seen] == [SCORE, SCORE, MAIN] * 4
    for (turn, now), (_, after) in pairwise(seen):
        moved = {name for name in now if any(not torch.equal(a, b) for a, b in zip(now[name], after[name], strict=True))}
        assert moved == {turn}
    assert all(torch.equal(value, before[name]) for name, value in backbone.net.state_dict().items())


def test_turns_of_a_step_see_noise_of_their_own_and_the_score_sees_what_the_generator_draws(monkeypatch):
    drawn = []

    class Watched(ScoreMatching):
        def one_step(self, backbone, bank, batch, noise):
            x0 = super().one_step(backbone, bank, batch, noise)
            drawn.append((noise, x0))
            return x0

    monkeypatch.setattr(kinds, "OBJECTIVES", (Watched,))
    train(config(steps=2, score_steps=3))
    noises = torch.stack([noise for noise, _ in drawn]).flatten(2).flatten(0, 1)
    assert len(noises) == 2 * 4 * 3
    assert torch.cdist(noises, noises).fill_diagonal_(9).min() > 1
    assert [x0.requires_grad for _, x0 in drawn] == [False, False, False, True] * 2


@pytest.mark.parametrize("at", [2, 4])
def test_a_training_goes_on_bitwise_with_both_adapters(at, tmp_path):
    settings = config()
    events = train(settings)
    [state] = [event.state for event in of(Saved, events) if event.state.step == at]
    rest = train(settings, resume=TrainState.load(state.save(tmp_path / "state.safetensors")))
    [whole], [again] = of(Ended, events), of(Ended, rest)
    assert any(key.startswith(f"adapters.{SCORE}.optimizer") for key in whole.state.tensors)
    assert whole.state.tensors.keys() == again.state.tensors.keys()
    assert all(torch.equal(value, again.state.tensors[key]) for key, value in whole.state.tensors.items())
    assert whole.adapter == again.adapter
    assert whole.others == again.others


def test_the_score_has_the_layers_of_the_result_and_starts_at_other_factors():
    case = Case()
    ours, theirs = (case.bank.trainees[name].layers for name in (MAIN, SCORE))
    assert ours.keys() == theirs.keys()
    assert all(not torch.equal(ours[name].a, theirs[name].a) for name in ours)


class Counted(ToyBackbone):
    """Counts passes of the model, and those with gradients."""

    def __init__(self):
        super().__init__()
        self.passes = []

    def predict(self, x_t, sigma, conditions):
        x0 = super().predict(x_t, sigma, conditions)
        self.passes.append(x0.requires_grad)
        return x0


@pytest.mark.parametrize(
    ("own", "passes", "gradients", "held"),
    [
        ({}, 8, 6, "4 passes are"),
        ({"guidance": 1.0}, 7, 5, "3 passes are"),
        ({"gradient": "stopped"}, 8, 3, "1 pass is"),
        ({"score_steps": 5, "gradient": "stopped", "guidance": 1.0}, 13, 6, "1 pass is"),
    ],
)
def test_what_a_step_costs_is_said_before_it_begins(own, passes, gradients, held):
    backbone = Counted()
    events = train(config(steps=2, **own), backbone=backbone)
    assert len(backbone.passes) == 2 * passes
    assert sum(backbone.passes) == 2 * gradients
    [note] = [note for note in of(Started, events)[0].notes if note.startswith("Score matching")]
    assert f"a step is {passes} passes of the model, {gradients} of them with gradients" in note
    assert f"activations of {held} held at a time" in note


def test_the_validation_is_the_distance_of_the_scores_on_pictures_of_one_step():
    settings = config(steps=2, validation=ValidationConfig(every=1, pictures=2, levels=3))
    losses = [event.loss for event in of(Validated, train(settings))]
    assert len(losses) == 3
    assert len(set(losses)) == 3
    # An adapter that does nothing, and a teacher without guidance: both are the model itself.
    untouched = replace(settings, objective=ScoreMatchingConfig(guidance=1.0))
    assert of(Validated, train(untouched))[0].loss == 0


def test_pictures_of_a_data_set_are_not_looked_at():
    pictures = [replace(e, latent=torch.full((4, 6, 5), float(n))) for n, e in enumerate(prompts())]
    assert of(Ended, train(config(steps=3), pictures))[0].adapter == of(Ended, train(config(steps=3)))[0].adapter


@pytest.mark.parametrize("levels", ["logit_normal", "shifted"])
def test_levels_of_matching_are_those_of_the_settings(levels):
    assert of(Ended, train(config(steps=2, levels=levels)))[0].adapter != of(Ended, train(config(steps=2)))[0].adapter


# -- wrong inputs -----------------------------------------------------------------------------------------------------


def test_a_prior_is_refused():
    with pytest.raises(ConfigError, match=r"goes with denoising, and not with score matching\. Set prior\.weight to 0"):
        train(config(prior=PriorConfig(1.0)))


def test_masks_are_refused():
    masked = [replace(e, mask=torch.ones(6, 5)) for e in prompts()]
    with pytest.raises(DataError, match=r"score matching learns from prompts alone.*Set data\.masks to false"):
        train(config(), masked)


def test_a_full_gradient_with_offloading_is_refused_and_a_stopped_one_is_not():
    with pytest.raises(ConfigError, match=r"full gradient of score matching.*Set objective\.gradient to stopped") as error:
        replace(config(), memory=MemoryConfig(offload=True))
    assert error.value.where == "objective.gradient"
    replace(config(gradient="stopped"), memory=MemoryConfig(offload=True))


def test_guidance_needs_the_empty_prompt_and_no_guidance_does_not():
    class WithoutEmpty(ToyBackbone):
        has_unconditional = False

        def collate(self, examples):
            return replace(super().collate(examples), unconditional=())

    with pytest.raises(ConfigError, match=r"score matching needs what the model makes of an empty prompt"):
        train(config(), backbone=WithoutEmpty())
    train(config(steps=1, guidance=1.0), backbone=WithoutEmpty())


def test_a_step_that_begins_above_the_model_s_noise_is_refused():
    with pytest.raises(ConfigError, match=r"begins at noise level 2\.5, and the model's largest is 0\.999"):
        train(config(start_level=2.5))
    train(config(steps=1, start_level=0.9))


@pytest.mark.parametrize(
    "own", [{"score_steps": 0}, {"score_rate": 0.0}, {"huber_share": -1.0}, {"guidance": -1.0}, {"start_level": -0.1}]
)
def test_settings_out_of_their_bounds_are_refused_by_name(own):
    with pytest.raises(ConfigError, match=next(iter(own))):
        ScoreMatchingConfig(**own)


def test_a_training_that_goes_on_with_another_kind_is_refused():
    [state, *_] = [event.state for event in of(Saved, train(config()))]
    with pytest.raises(ConfigError, match=r"objective\.kind = score matching"):
        train(replace(config(), objective=DenoisingConfig()), examples(), state)
