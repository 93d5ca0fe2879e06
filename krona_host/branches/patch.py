"""One branch on the host's model: what it does before, in and after each forward pass of a sampling."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import comfy.ldm.modules.attention
import comfy.patcher_extension
import torch
from torch import Tensor

from krona_ops import Adapter
from krona_ops.branches.attention import Grid, among_views, size_at, to_source
from krona_ops.branches.projections import Bases, SiteBranch
from krona_ops.errors import ConfigError, ShapeError
from krona_ops.names.branches import READINGS, Mode, Reading

from ..types import DiffusionNet
from .places import Site, Spot
from .sampling import Guider, Pass, Read, Recording, Rows, Sampling, Tokens, wanted_ids
from .weights import add_weights, weights_on

if TYPE_CHECKING:
    from ..types import Model

Options = dict[str, Any]
"""The host's ``transformer_options``, or what it hands to patches of them."""
_KEY = "krona branch "


class Executor(Protocol):
    """What is used of the host's ``WrapperExecutor``: call it to go on."""

    class_obj: Any

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        """What is wrapped."""


@dataclass(frozen=True, eq=False)
class BranchPatch:
    """A branch with how it is used. It is put on a clone of a model by `attach` and holds nothing of a sampling."""

    mode: Mode
    parts: Mapping[Spot, SiteBranch]
    sites: Mapping[Spot, Site]
    strength: float = 1.0
    reference: Tensor | None = None
    """``(R, C, *space)`` clean latents in the VAE's scale."""
    views: int = 0
    """Samples of a group; 0 takes the whole batch."""
    rows: Rows = "positive"
    start: float = 0.0
    """The branch counts from this part of the way on, 0 is pure noise."""
    end: float = 1.0
    """And up to this one, 1 is the finished picture."""
    blanks: bool = False
    """Whether conditions that guidance leads away from see blank references, which is tokens of zeros: so MV-Adapter
    was trained with references left out, and so its pipeline guides."""
    reading: Reading = READINGS[0]
    """Of ``first``: how it reads the first frame."""
    adapter: Adapter | None = None
    """What it is a part of, so that others of the same file find it (`krona_host.branches.shared`)."""
    key: str = field(default_factory=lambda: f"{_KEY}{uuid.uuid4().hex}")

    def attach(self, model: Model) -> Model:
        """A clone of the model with the branch on it, whose tensors the host loads with the model; the network itself is
        not touched."""
        model = model.clone()
        patch = replace(self, parts=add_weights(self.parts, model, self.key))
        model.set_model_attn1_patch(patch._before_attention)
        model.set_model_attn1_output_patch(patch._after_attention)
        kinds = comfy.patcher_extension.WrappersMP
        model.add_wrapper_with_key(kinds.OUTER_SAMPLE, self.key, patch._around_sampling)
        model.add_wrapper_with_key(kinds.SAMPLER_SAMPLE, self.key, patch._around_sampler)
        model.add_wrapper_with_key(kinds.APPLY_MODEL, self.key, patch._around_pass)
        return model

    @property
    def _reads_alone(self) -> bool:
        """Whether what it looks at is read in a pass of its own, at no noise, instead of where pictures are drawn."""
        return self.mode == "reference" or (self.mode == "first" and self.reading == "alone")

    def _around_sampling(
        self,
        executor: Executor,
        noise: Tensor,
        latent: Tensor,
        sampler: object,
        sigmas: Tensor,
        *rest: Any,
        **more: Any,
    ) -> Tensor:
        """The first frame of each group stays what it was, to the last bit, where the sampling comes to its end."""
        drawn = executor(noise, latent, sampler, sigmas, *rest, **more)
        if self.mode != "first" or float(sigmas[-1]) != 0:
            return drawn
        views = self._views(len(drawn))
        frames = drawn.clone()
        frames[::views] = _first_frames(latent, self.reference, views).to(drawn)
        return frames

    def _views(self, samples: int) -> int:
        """Samples of a group.

        Raises:
            ShapeError: The batch is no number of whole groups.
        """
        views = self.views or samples
        if self.mode != "reference" and samples % views:
            raise ShapeError(
                f"A batch of {samples} cannot be drawn in groups of {views}.",
                found=samples,
                expected=f"a multiple of {views}",
                remedy="Set the batch size of the empty latent to whole groups, or 'views' to 0.",
            )
        return views

    def _around_sampler(
        self,
        executor: Executor,
        guider: Guider,
        sigmas: Tensor,
        extra_args: Options,
        callback: object,
        noise: Tensor,
        *rest: Any,
    ) -> Tensor:
        """What is known of this sampling goes along with the options of each pass, and ends with it."""
        net = guider.inner_model
        reference = None if self.reference is None else net.process_latent_in(self.reference.to(noise))
        if self.mode == "first":
            latent = torch.zeros_like(noise) if not rest or rest[0] is None else rest[0]  # in the model's scale already
            reference = _first_frames(latent, reference, self._views(len(noise)))
        sampling = Sampling(wanted_ids(guider), noise.shape, reference)
        options = extra_args["model_options"].setdefault("transformer_options", {})
        options[self.key] = sampling
        try:
            return executor(guider, sigmas, extra_args, callback, noise, *rest)
        finally:
            options.pop(self.key, None)
            sampling.reads.clear()

    def _around_pass(
        self,
        executor: Executor,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: object = None,
        transformer_options: Options | None = None,
        **conditions: object,
    ) -> Tensor:
        """One call of the model: which rows count, and what they attend to."""
        options = transformer_options or {}
        sampling = options.get(self.key)
        ids = tuple(options.get("uuids", ()))
        net: DiffusionNet = executor.class_obj
        if not isinstance(sampling, Sampling) or not ids:
            return executor(x, t, c_concat, c_crossattn, control, options, **conditions)
        self._require_whole(x, ids, sampling)
        each = len(x) // len(ids)
        wanted = range(len(ids)) if self.rows == "both" else [n for n, i in enumerate(ids) if i in sampling.wanted]
        counted = tuple(wanted) if self._is_on(net, t) else ()
        views = self._views(each)
        if self._reads_alone:
            for number in counted:
                if self._sees_blank(ids[number], sampling):
                    continue
                rows = range(number * each, (number + 1) * each)
                known = {"c_concat": c_concat, "c_crossattn": c_crossattn, **conditions}
                self._look(executor, sampling, ids[number], x, t, options, known, rows)
        frames = sampling.reference if self.mode == "first" else None
        if frames is not None:
            x = x.clone()
            places = torch.arange(0, len(x), views, device=x.device)
            frames = frames.repeat(len(ids), *[1] * (x.ndim - 1)).to(x)
            x[places] = _as_input(net, frames, t[places])
        parts = weights_on(net.current_patcher, self.key) or self.parts  # a copy for one more GPU has its own
        now = Pass(sampling, net, parts, ids, counted, len(x), (x.shape[-2], x.shape[-1]))
        denoised = executor(x, t, c_concat, c_crossattn, control, {**options, self.key: now}, **conditions)
        if frames is not None:
            denoised = denoised.clone()
            denoised[places] = frames.to(denoised)
        return denoised

    def _require_whole(self, x: Tensor, ids: tuple[object, ...], sampling: Sampling) -> None:
        """Refuse a pass that sees a part of what is sampled, where the branch needs all of it."""
        if self.mode == "reference":
            return
        if len(x) != len(ids) * sampling.size[0]:
            raise ConfigError(
                f"A part of the batch is drawn at a time, which cuts the groups of the branch ({self.mode}).",
                found=f"{len(x) // len(ids)} of {sampling.size[0]} samples",
                expected="all of them",
                remedy="Take context windows off the model, or draw fewer samples at once.",
            )
        if self.mode in ("first", "row", "row+col") and x.shape[2:] != sampling.size[2:]:
            raise ConfigError(
                f"A prompt is for an area of the picture, in which the rows of the views are cut ({self.mode}).",
                found=f"{tuple(x.shape[2:])} of {tuple(sampling.size[2:])}",
                expected="prompts for the whole picture",
                remedy="Take the area off the prompt, or use a branch of the mode reference or views.",
            )

    def _is_on(self, net: DiffusionNet, t: Tensor) -> bool:
        """Whether the noise level is one at which the branch counts."""
        first, last = (float(net.model_sampling.percent_to_sigma(percent)) for percent in (self.start, self.end))
        return last <= float(t.max()) <= first

    def _look(
        self,
        executor: Executor,
        sampling: Sampling,
        number: object,
        x: Tensor,
        t: Tensor,
        options: Options,
        conditions: dict[str, Any],
        rows: range,
    ) -> None:
        """Take the tokens of the references, or of each group's first frame, at no noise and under a prompt; once for each
        prompt of a sampling."""
        key = number, str(x.device)
        if key in sampling.reads or sampling.reference is None:
            return
        # where a part of the batch is drawn at a time (context windows), all of them see what the first one sees
        is_whole = len(rows) == sampling.size[0]
        alone = {name: value for name, value in options.items() if not name.startswith(_KEY)}
        alone |= {"cond_or_uncond": [0], "uuids": [number]}
        reads = []
        for who, pictures in self._shown(sampling.reference.to(x), rows):
            for alike in _alike(conditions, who, len(x)) if is_whole else [list(who)]:
                if self.mode == "first" and alike == [who.start]:
                    continue  # no frame that is drawn is under this prompt
                of_first = {name: _rows_of(value, alike[0], len(x)) for name, value in conditions.items()}
                tokens = self._read(executor, pictures, t, alone, of_first)
                reads.append(Read(tuple(row - rows.start for row in alike), tokens))
        sampling.reads[key] = tuple(reads)

    def _shown(self, reference: Tensor, rows: range) -> list[tuple[range, Tensor]]:
        """Which of the rows of one condition look at which pictures: all at all references, or each group at its first
        frame, one by one, so that it is drawn as it would be alone, to the last bit."""
        if self.mode == "reference":
            return [(rows, reference)]
        views = self._views(len(rows))
        groups = range(rows.start, rows.stop, views)
        return [(range(start, start + views), frame) for start, frame in zip(groups, reference.split(1), strict=True)]

    def _read(
        self, executor: Executor, reference: Tensor, t: Tensor, options: Options, conditions: dict[str, Any]
    ) -> Tokens:
        """What each self-attention reads of the references under one prompt."""
        net: DiffusionNet = executor.class_obj
        clean = t.new_full((len(reference),), float(net.model_sampling.sigmas[0]))
        conditions = {name: _repeated(value, len(reference)) for name, value in conditions.items()}
        concat = conditions.pop("c_concat")
        if isinstance(concat, Tensor) and concat.shape[2:] != reference.shape[2:]:
            concat = torch.nn.functional.interpolate(concat, reference.shape[2:], mode="nearest-exact")
        recorded: dict[Spot, Tensor] = {}
        options = {**options, "sigmas": clean[:1], self.key: Recording(recorded)}
        context = conditions.pop("c_crossattn")
        executor(_as_input(net, reference, clean), clean, concat, context, None, options, **conditions)
        return recorded

    def _before_attention(
        self, n: Tensor, context: Tensor, value: Tensor, options: Options
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the attention reads, as it comes from the norm, is kept until its output is there."""
        now = options.get(self.key)
        if isinstance(now, Recording):
            now.tokens[_spot(options)] = n
        elif isinstance(now, Pass) and now.counted and _spot(options) in self.parts:
            if len(n) != now.rows:
                raise _cut(len(n), now.rows)
            size_at(n.shape[1], *now.space)  # refuses tokens that were joined
            options[self.key] = now, n
        return n, context, value

    def _after_attention(self, out: Tensor, options: Options) -> Tensor:
        """The attention's output with the branch's added, in the rows for which it counts."""
        kept = options.pop(self.key, None)
        if not isinstance(kept, tuple):
            return out
        now, n = kept
        if out.shape[:2] != n.shape[:2]:
            raise _cut(tuple(out.shape[:2]), tuple(n.shape[:2]))
        spot = _spot(options)
        part = now.parts[spot].like(n)
        each = len(n) // len(now.chunks)
        site = self.sites[spot]
        bases = _bases(now.net, site.name)
        attend = partial(_attend, heads=site.heads, options=options)
        gained = torch.zeros_like(out)
        for number in now.counted:
            first = number * each
            for samples, source in self._sources(now, now.chunks[number], spot, n):
                rows = slice(first, first + each) if samples is None else [first + sample for sample in samples]
                gained[rows] = self._gain(part, bases, n[rows], source, now, attend)
        if self.mode == "first":
            gained[:: self._views(each)] = 0  # what the first frame is drawn from stays what the base makes of it
        return out + self.strength * gained

    def _sees_blank(self, condition: object, sampling: Sampling) -> bool:
        return self.blanks and condition not in sampling.wanted

    def _sources(
        self, now: Pass, condition: object, spot: Spot, n: Tensor
    ) -> list[tuple[Sequence[int] | None, Tensor | None]]:
        """The tokens ``(1, M, d)`` that were read alone, as samples with a prompt or a first frame of their own see them;
        ``None`` for all samples, and where the branch attends to what is drawn."""
        if not self._reads_alone:
            return [(None, None)]
        if self._sees_blank(condition, now.sampling):
            return [(None, n.new_zeros(1, 1, n.shape[-1]))]  # attention to any number of zeros is attention to one
        reads = now.sampling.reads[condition, str(n.device)]
        sources = [read.tokens[spot].to(n).reshape(1, -1, n.shape[-1]) for read in reads]
        if len(reads) == 1:
            return [(None, sources[0])]
        return [(read.samples, source) for read, source in zip(reads, sources, strict=True)]

    def _gain(
        self,
        part: SiteBranch,
        bases: Bases,
        n: Tensor,
        source: Tensor | None,
        now: Pass,
        attend: Callable[..., Tensor],
    ) -> Tensor:
        """What the rows of one condition gain, ``(B, N, d)``; ``source`` are tokens that were read alone."""
        if source is not None:
            return part.output(bases, n, source, partial(to_source, attend=attend))
        views = self._views(len(n))
        if self.mode == "first":
            # one by one, so that each is drawn as it would be alone, to the last bit
            mix = partial(to_source, attend=attend)
            return torch.cat([part.output(bases, group, group[:1], mix) for group in n.split(views)])
        grid = Grid(views, *size_at(n.shape[1], *now.space))
        return part.output(bases, n, n, partial(among_views, self.mode, grid=grid, attend=attend))


def _cut(found: object, expected: object) -> ShapeError:
    return ShapeError(
        "Something between joins or cuts the tokens of the self-attention, so the branch cannot be added.",
        found=found,
        expected=expected,
        remedy="Take HyperTile and ToMe (Token Merging) off the model.",
    )


def _spot(options: Options) -> Spot:
    side, number = options["block"][:2]
    return Spot(side, number, options["block_index"])


def _bases(net: DiffusionNet, name: str) -> Bases:
    attention = net.get_submodule(name)
    return Bases(*(attention.get_submodule(part) for part in ("to_q", "to_k", "to_v", "to_out")))


def _attend(q: Tensor, k: Tensor, v: Tensor, *, heads: int, options: Options) -> Tensor:
    """The host's own attention, whichever it has chosen."""
    precision = options.get("attn_precision")
    chosen: Callable[..., Tensor] = comfy.ldm.modules.attention.optimized_attention
    return chosen(q, k, v, heads, attn_precision=precision, transformer_options=options)


def _first_frames(latent: Tensor, reference: Tensor | None, views: int) -> Tensor:
    """``(G, C, *space)``: the references, or else the first latent of each group; both in one scale.

    Raises:
        ConfigError: There is neither.
        ShapeError: There is neither one reference nor one for each group.
    """
    groups = len(latent) // views
    if reference is None:
        if not bool(latent[::views].any()):
            raise ConfigError(
                "There is no first frame.",
                found="an empty latent, and no reference",
                expected="a picture's latent",
                remedy="Sample on the latent of KronA First Frame, or connect 'reference'.",
            )
        return latent[::views]
    if len(reference) not in (1, groups):
        raise ShapeError(
            f"{len(reference)} references for {groups} groups of {views} frames.",
            found=len(reference),
            expected=f"1 or {groups}",
            remedy="Connect one picture, or one for each group.",
        )
    if reference.shape[1:] != latent.shape[1:]:
        raise ShapeError(
            "The first frame has another size than the frames that are drawn.",
            found=tuple(reference.shape[1:]),
            expected=tuple(latent.shape[1:]),
            remedy="Scale the picture to the size of the latent before it is encoded.",
        )
    return reference.expand(groups, *reference.shape[1:])


def _as_input(net: DiffusionNet, clean: Tensor, sigma: Tensor) -> Tensor:
    """The ``x`` that the network sees as the clean latent itself at a noise level."""
    shape = (-1, *[1] * (clean.ndim - 1))
    one = torch.ones_like(sigma).reshape(shape)
    return clean / net.model_sampling.calculate_input(sigma, one).to(clean)


def _rows_of(value: object, row: int, count: int) -> object:
    """Of a condition for all rows of a batch, that of one row."""
    return value[row : row + 1] if isinstance(value, Tensor) and value.ndim and len(value) == count else value


def _alike(conditions: Mapping[str, object], rows: range, count: int) -> list[list[int]]:
    """Rows of a batch of ``count``, those together that are told the same beside what is drawn into."""
    told = [value for name, value in conditions.items() if name != "c_concat" and isinstance(value, Tensor)]
    told = [value for value in told if value.ndim and len(value) == count]
    groups: list[list[int]] = []
    for row in rows:
        same = (group for group in groups if all(torch.equal(value[row], value[group[0]]) for value in told))
        group = next(same, None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    return groups


def _repeated(value: object, count: int) -> object:
    is_row = isinstance(value, Tensor) and value.ndim > 0 and len(value) == 1
    return value.expand(count, *value.shape[1:]) if is_row and isinstance(value, Tensor) else value
