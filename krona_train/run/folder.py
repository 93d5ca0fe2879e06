"""One training's folder on disk: settings, metrics, states to go on from, result."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from krona_ops import Adapter, Target, save
from krona_ops.atomic import remove, sweep, write_atomically
from krona_ops.errors import AdapterFileError, ConfigError
from krona_ops.formats import lokr_sum

from ..config import AdapterConfig, TrainConfig, to_yaml
from . import layout
from .claim import Claim, claim
from .events import Ended, Event, Noted, Previewed, Saved, Started, Stepped, Validated, Watcher
from .metrics import append, history, read, row_of
from .requests import Ask, forget
from .row import Row
from .state import TrainState, states

log = logging.getLogger(__name__)


class Run(Watcher):
    """Writes what happens into a folder of its own; a sink for `krona_train.loop.fit`.

    ``run.yaml`` holds the settings, ``metrics.jsonl`` one line per event, ``state-<step>.safetensors`` the newest
    states, ``previews/`` the pictures, ``adapter-best.safetensors`` the adapter of the lowest validation loss, and
    ``adapter.safetensors`` the result. A training that was stopped leaves ``adapter-stopped-at-<step>.safetensors``
    instead, and one that was asked to save ``adapter-step-<step>.safetensors``. Requests that are obeyed are forgotten.

    Args:
        folder: Created; a folder that is there already must hold a run that goes on, or one that was killed before its
            first state.
        metadata: Goes into the adapters' files.
        settings: The text of ``run.yaml``; those of the training alone when not given.
        start: The adapter that the training begins at, in the form that is trained; the folder keeps a copy.
        held: The folder is held already, by whoever calls; else the run holds it from the training's start to its end.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        metadata: Mapping[str, str],
        settings: str | None = None,
        start: Adapter | None = None,
        *,
        held: bool = False,
    ) -> None:
        self.folder, self._begun = folder, start
        self._is_held = held
        self._claim: Claim | None = None
        self.losses: list[float] = []
        self.steps: list[int] = []
        """The step of each of the ``losses``; some are missing where metrics were lost in a crash."""
        self.learning_rates: list[float] = []
        self.validations: list[tuple[int, float]] = []
        """Step and loss."""
        self.previews: list[tuple[int, tuple[Path, ...]]] = []
        """Step and picture files, one per prompt."""
        self.adapter_file: Path | None = None
        self._config, self._metadata = config, dict(metadata)
        self._settings = to_yaml(config) if settings is None else settings

    def started(self, event: Started) -> None:
        """Hold the folder and write the settings.

        Raises:
            ConfigError: Another training writes into the folder, or it holds another run.
            AdapterFileError: The folder cannot be written, or the disk is full; the other methods raise this too.
        """
        try:
            self._start(event)
            self._note(event)
        except BaseException:
            self._let_go()
            raise

    def stepped(self, event: Stepped) -> None:
        """Note it."""
        self._note(event)

    def noted(self, event: Noted) -> None:
        """Note it."""
        self._note(event)

    def previewed(self, event: Previewed) -> None:
        """Keep the pictures."""
        self._keep_pictures(event)
        self._note(event)

    def validated(self, event: Validated) -> None:
        """Keep the best adapter."""
        self._note(event)
        if event.is_best and event.adapter is not None:
            self._save(event.adapter, layout.BEST, event.step)

    def saved(self, event: Saved) -> None:
        """Keep the state, and the adapters where somebody asked for them."""
        self._keep(event.state)
        if event.adapter is not None:
            self._save(event.adapter, layout.adapter_at(event.state.step), event.state.step)
            self._save_others(event.others, lambda name: layout.adapter_at(event.state.step, name), event.state.step)
            forget(self.folder, Ask.SAVE)
        self._note(event)

    def ended(self, event: Ended) -> None:
        """Keep the state and what was trained, and let the folder go."""
        try:
            self._end(event)
        finally:
            self._let_go()

    @classmethod
    def recall(cls, folder: Path, config: TrainConfig) -> Run:
        """A run as its folder tells of it, for one that another process has made."""
        run = cls(folder, config, {})
        for row in read(folder / layout.METRICS):
            run._recall(row)
        candidates = [folder / layout.RESULT, *sorted(folder.glob(layout.STOPPED), reverse=True)]
        run.adapter_file = next((path for path in candidates if path.is_file()), None)
        return run

    def _start(self, event: Started) -> None:
        if not self._is_held:
            self._claim = claim(self.folder)
        if not event.done:
            self._require_nothing_to_lose()
        sweep(self.folder / layout.PREVIEWS)
        write_atomically(self.folder / layout.SETTINGS, lambda file: file.write(self._settings.encode()))
        if self._begun is not None and not event.done:
            save_start(self._begun, self.folder / layout.START, self._config.adapter)
        if event.done:  # what came after the state was lost with whatever ended the run; it is done again
            rows = history(self.folder / layout.METRICS, event.done)
            for row in rows:
                self._recall(row)
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            write_atomically(self.folder / layout.METRICS, lambda file: file.write(text.encode()))

    def _let_go(self) -> None:
        if self._claim is not None:
            self._claim.release()

    def _require_nothing_to_lose(self) -> None:
        """A new training may begin where one was killed before its first state, or where a process of its own finds its
        folder made.

        Raises:
            ConfigError: There is a run that can go on, or has an adapter.
        """
        kept = next((path for pattern in layout.KEPT for path in self.folder.glob(pattern)), None)
        if kept is not None:
            raise ConfigError(
                "The folder holds another run already.",
                where=self.folder.name,
                found=kept.name,
                expected="a folder without states and adapters",
                remedy="Go on with that run, or begin in another folder.",
            )
        remove(self.folder / layout.METRICS)

    def _note(self, event: Event) -> None:
        row = row_of(event)
        self._recall(row)
        append(self.folder / layout.METRICS, row)

    def _recall(self, row: Row) -> None:
        if row["event"] == "step":
            self.steps.append(row["step"])
            self.losses.append(row["loss"])
            self.learning_rates.append(row["learning_rate"])
        elif row["event"] == "validation":
            self.validations = [v for v in self.validations if v[0] != row["step"]] + [(row["step"], row["validation"])]
        elif row["event"] == "preview":
            files = tuple(self.folder / layout.PREVIEWS / name for name in row["pictures"])
            self.previews = [p for p in self.previews if p[0] != row["step"]] + [(row["step"], files)]

    def _keep_pictures(self, event: Previewed) -> None:
        folder = self.folder / layout.PREVIEWS
        for name, picture in zip(layout.picture_names(event.step, len(event.pictures)), event.pictures, strict=True):
            write_atomically(folder / name, partial(picture.save, format="PNG"))

    def _keep(self, state: TrainState) -> None:
        kept = state.save(self.folder / layout.state_at(state.step))
        until_now = [
            path for path in states(self.folder) if path.name <= kept.name
        ]  # a later one is damaged, or it would have been taken
        for old in until_now[: -self._config.keep_states]:
            remove(old)

    def _save(self, adapter: Adapter, name: str, step: int) -> Path:
        described = adapter.with_metadata(**self._metadata, ss_steps=str(step))
        return save_as_trained(described, self.folder / name, self._config.adapter)

    def _save_others(self, others: Mapping[str, Adapter], file_of: Callable[[str], str], step: int) -> None:
        """The adapters besides the result, whose kinds are the objective's: in the format that holds every kind."""
        for name, other in others.items():
            save(other.with_metadata(**self._metadata, ss_steps=str(step)), self.folder / file_of(name), lokr_sum.NAME)

    def _end(self, event: Ended) -> None:
        try:
            if event.step > 0 and event.adapter is not None and event.state is not None:
                self._keep(event.state)
                self._save_others(event.others, layout.other_adapter, event.step)
                self._keep_result(event.step, event.adapter, is_whole=event.error is None)
        finally:
            forget(self.folder)
        try:
            self._note(event)
        except AdapterFileError as error:  # the adapter is safe; why the training ended must not be hidden by this
            log.warning("KronA: the end of the training is not in %s: %s", self.folder / layout.METRICS, error)

    def _keep_result(self, step: int, adapter: Adapter, *, is_whole: bool) -> None:
        name = layout.RESULT if is_whole else layout.stopped_at(step)
        self.adapter_file = self._save(adapter, name, step)
        if is_whole:
            for stopped in self.folder.glob(layout.STOPPED):
                remove(stopped)


def save_start(adapter: Adapter, path: Path, config: AdapterConfig) -> Path:
    """Save the adapter that a training begins at, so that reading it gives the same numbers: each LoRA with its own
    alpha.

    Raises:
        AdapterFileError: The folder cannot be written, or the disk is full.
    """
    needs_own = config.layout == "shuffled" or "sum" in config.kinds
    return save_as_trained(adapter, path, config) if needs_own else save(adapter, path)


def save_as_trained(adapter: Adapter, path: Path, config: AdapterConfig) -> Path:
    """Save an adapter in the format of what is trained, without converting anything.

    Raises:
        FormatError: See `require_a_format`.
        AdapterFileError: The folder cannot be written, or the disk is full.
    """
    if config.kinds == {"lora"}:
        return save(adapter, path, "lora", rank=config.rank)
    if "sum" in config.kinds and config.layout == "kron":
        return save(adapter, path, lokr_sum.NAME)
    if config.layout == "shuffled":
        return save(adapter, path, "diffusekrona", rename=_official)
    return save(adapter, path)


def require_a_format(targets: Sequence[Target], config: AdapterConfig) -> None:
    """Whether a file can hold what is trained: the shuffled layout has official DiffuseKronA files alone.

    Raises:
        ConfigError: A layer is none that these files have.
    """
    if config.layout == "kron" or not config.kinds & {"kronecker", "sum"}:
        return
    if config.kinds != {"kronecker"}:
        raise ConfigError(
            "The layout shuffled fits into official DiffuseKronA files alone, which hold Kronecker products and nothing else.",
            where="adapter.layout",
            found=", ".join(sorted(config.kinds)),
            expected="kronecker alone",
            remedy="Train with the layout kron.",
        )
    name = next((t.name for t in targets if t.sizes.kernel or not _OFFICIAL.fullmatch(_official(t.name))), None)
    if name is not None:
        raise ConfigError(
            "The layout shuffled fits into official DiffuseKronA files alone, which hold attention's to_q, to_k, to_v and to_out.",
            where=str(name),
            found="another layer",
            expected="layers such as transformer_blocks.0.attn1.to_q",
            remedy="Train with the layout kron, or narrow the targets to those layers.",
        )


_OFFICIAL = re.compile(r".*attn\d*\.processor\.to_(q|k|v|out)")


def _official(name: str) -> str:
    """A layer's name with what diffusers' attention processors add."""
    return str(name).removesuffix(".0").replace(".to_", ".processor.to_")
