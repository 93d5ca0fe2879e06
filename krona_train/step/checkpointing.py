"""Gradient checkpointing and compilation of a model's blocks, without a trace afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from krona_ops.live.attach import Forward, patched

from ..backbone.exact_gradients import mode_of_recomputation
from ..settings.groups import Checkpointing, MemoryConfig

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx

log = logging.getLogger(__name__)
Pinned = Callable[[], AbstractContextManager[object]]


@contextmanager
def prepared(
    blocks: Sequence[nn.Module], memory: MemoryConfig, mode: Checkpointing | None = None, pinned: Pinned = nullcontext
) -> Iterator[None]:
    """Inside, the blocks compute as the settings say.

    Args:
        blocks: As `Backbone.blocks` gives them.
        mode: Instead of ``memory.checkpointing``, for a step that did not fit.
        pinned: See `checkpointed`.
    """
    mode = mode or memory.checkpointing
    if memory.compile and mode != "none":
        # torch.utils.checkpoint turns the compiler off for what it runs, in both passes (torch 2.11).
        log.info("KronA: blocks are not compiled, because gradient checkpointing is on.")
    with compiled(blocks) if memory.compile and mode == "none" else checkpointed(blocks, mode, pinned):
        yield


@contextmanager
def checkpointed(blocks: Sequence[nn.Module], mode: Checkpointing, pinned: Pinned = nullcontext) -> Iterator[None]:
    """Inside, each block keeps its inputs alone, and computes again when its gradient is wanted (Chen et al. 2016).

    Backward passes belong inside as well: what is computed again goes through whatever patches the layers then have.

    Args:
        mode: ``blocks``, or ``offloaded``, where inputs that carry gradients wait in the computer's memory. ``none``
            does nothing.
        pinned: Called when a block computes; what it gives is entered when the block computes again, so that it does
            the same then.
    """
    if mode == "none":
        yield
        return
    with patched({block: _recomputing(block, mode == "offloaded", pinned) for block in blocks}):
        yield


def _recomputing(block: nn.Module, offload: bool, pinned: Pinned) -> Forward:
    """A ``forward`` that saves its inputs only.

    Gradients of layers inside are kept, even where no input carries one.
    """
    random = any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in block.modules())

    def forward(original: Callable[..., object], *args: object, **kwargs: object) -> object:
        if not torch.is_grad_enabled():
            return original(*args, **kwargs)
        call = _Call(original, args, kwargs)
        mode, state = mode_of_recomputation(), pinned()
        with _waiting_in_cpu_memory() if offload else nullcontext():
            return checkpoint(
                call,
                *call.streams,
                use_reentrant=False,
                preserve_rng_state=random,
                context_fn=lambda: (nullcontext(), _Both(mode, state)),
            )

    return forward


class _Both(AbstractContextManager[None]):
    """Two contexts, one inside the other; entered again each time that a graph is gone through backwards."""

    def __init__(self, outer: AbstractContextManager[object], inner: AbstractContextManager[object]) -> None:
        self._outer, self._inner = outer, inner

    def __enter__(self) -> None:
        self._outer.__enter__()
        self._inner.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.__exit__(kind, error, trace)
        self._outer.__exit__(kind, error, trace)


def _waiting_in_cpu_memory() -> AbstractContextManager[object]:
    return torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available())


class _Call:
    """One call of a block, which can be repeated after its caller has gone on.

    Hosts hand one dictionary of options to all blocks and write into it between them (the number of the block, say): a
    copy of it is for the second time. Blocks write into the tensors that they get: they get aliases.
    """

    def __init__(self, original: Callable[..., object], args: tuple, kwargs: dict[str, object]) -> None:
        self._original = original
        self.streams: list[Tensor] = []
        """The tensors that carry gradients; given back at each call, from wherever they have waited."""
        self._places = tuple(_mapped(value, self._take) for value in (*args, *kwargs.values()))
        self._names = tuple(kwargs)
        self._copies = tuple(_copied(value) for value in self._places)
        self._again = False

    def _take(self, tensor: Tensor) -> object:
        if not tensor.requires_grad:
            return tensor.detach()
        self.streams.append(_Alias.apply(tensor))
        return _Stream(len(self.streams) - 1)

    def __call__(self, *streams: Tensor) -> object:
        places, self._again = self._copies if self._again else self._places, True
        aliases = [_Alias.apply(stream) for stream in streams]
        values = [_filled(place, aliases) for place in places]
        split = len(values) - len(self._names)
        return self._original(*values[:split], **dict(zip(self._names, values[split:], strict=True)))


class _Stream(int):
    """Where the tensor of that number belongs among the arguments."""


class _Alias(torch.autograd.Function):
    """The same numbers at the same place in memory, as a tensor of its own."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor) -> Tensor:
        return tensor.data

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient


def _mapped(value: object, change: Callable[[Tensor], object]) -> object:
    """Tensors changed, those in tuples and lists too; dictionaries stay the caller's own: blocks may write into
    them."""
    if isinstance(value, Tensor):
        return change(value)
    return _each(value, partial(_mapped, change=change))


def _copied(value: object) -> object:
    """Dictionaries copied, all the way down."""
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return _each(value, _copied)


def _filled(place: object, streams: Sequence[Tensor]) -> object:
    """An argument again: the stream of a `_Stream`, and everything else as it was kept."""
    if isinstance(place, _Stream):
        return streams[place]
    if isinstance(place, Tensor):
        return place.detach()  # a block that writes into it writes into an alias, both times
    return _each(place, partial(_filled, streams=streams))


def _each(value: object, change: Callable[[object], object]) -> object:
    """The items of a plain tuple or list changed; any other value as it is, named tuples among them."""
    if type(value) is tuple:
        return tuple(change(item) for item in value)
    return [change(item) for item in value] if type(value) is list else value


@contextmanager
def compiled(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, ``torch.compile`` has the blocks; each is compiled when it is first called."""
    import torch._dynamo  # a second of start-up for those who compile alone

    # The compiler goes back to plain Python after 8 versions of one function; here each block may be one.
    limit = max(torch._dynamo.config.recompile_limit, 4 * len(blocks) + 16)
    with torch._dynamo.config.patch(recompile_limit=limit), patched({block: _compiling() for block in blocks}):
        yield


def _compiling() -> Forward:
    """A ``forward`` that compiles the block when it is first called."""
    compiled_block: list[Callable[..., object]] = []

    def forward(original: Callable[..., object], *args: object, **kwargs: object) -> object:
        if not compiled_block:
            compiled_block.append(torch.compile(partial(_on_copies, original), dynamic=False))
        return compiled_block[0](*args, **kwargs)

    return forward


def _on_copies(original: Callable[..., object], *args: object, **kwargs: object) -> object:
    """A block's output from copies of its inputs: what it writes into them must not reach the caller's.

    The compiler leaves out the copies that nobody writes to.
    """
    copies = [_mapped(value, Tensor.clone) for value in args]
    return original(*copies, **{name: _mapped(value, Tensor.clone) for name, value in kwargs.items()})
