"""Let gradients pass, exactly, through a model that a server loaded for inference only.

Two things stand in their way. Weights made under inference mode cannot be saved for a backward pass: `gradient_ready`
puts ordinary tensors over the same memory in their place. And operations in place overwrite what has been saved: after
``y = f(x)`` and ``x += z`` the backward pass needs ``f'`` at the old ``x``, and meets the new one. `exact_in_place`
lets such a write go to fresh memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.overrides import TorchFunctionMode

from krona_ops.errors import TrainingError

Operation = Callable[..., object]
"""A function or a method of torch, as `torch.overrides` hands it on."""
Substitutes = Mapping[object, Operation]
"""By operator (``torch.ops.library.name``): a function of the same arguments."""
_NO_WRITES = {"requires_grad_", "set_", "resize_", "rename_", "share_memory_"}
"""Methods that end like those that write in place, and leave the numbers alone."""
_PURE: Mapping[str, Operation] = {"add_": torch.add, "sub_": torch.sub, "mul_": torch.mul, "div_": torch.div}
"""What ``+=`` and its like compute, as functions that give a new tensor."""


class FreshWrites(TorchFunctionMode):
    """Operations in place write to fresh memory wherever a gradient flows, so that what was saved stays as it was.

    Flux-type blocks add to their residual stream in place (``img += …``), LTX-type blocks with ``x.addcmul_(…)``.
    Autograd then refuses, or, with gradient checkpointing, gives gradients that are 4 to 28 % wrong. Here the tensor
    gets memory of its own just before such a write, and keeps its identity: whoever holds it sees the new values, what
    was saved keeps the old ones. (Returning a new tensor instead is exact for ``+=``, which rebinds the name, and loses
    the update of a bare ``x.add_(y)``.)

    It needs everything that is saved to be an alias: see `exact_in_place`. Gradient checkpointing saves aliases by
    itself.

    Args:
        substitutes: Formulas instead of kernels that have no gradient, where one is needed.
    """

    def __init__(self, substitutes: Substitutes = MappingProxyType({})) -> None:
        super().__init__()
        self._substitutes = substitutes

    def __torch_function__(
        self, func: Operation, types: object, args: tuple = (), kwargs: dict[str, object] | None = None
    ) -> object:
        kwargs = kwargs or {}
        if func in self._substitutes and torch.is_grad_enabled() and _any_requires_grad(args, kwargs):
            return self._substitutes[func](*args, **kwargs)
        target = _written(func, args, kwargs) if torch.is_grad_enabled() else None
        if target is None or not _flows(target, args, kwargs):
            return func(*args, **kwargs)
        return _write(func, target, args, kwargs)


_ACTIVE: ContextVar[Substitutes | None] = ContextVar("exact_in_place", default=None)


def mode_of_recomputation() -> AbstractContextManager[object]:
    """What a backward pass must enter to compute again what is computed now: it runs outside of `exact_in_place`."""
    active = _ACTIVE.get()
    return nullcontext() if active is None else FreshWrites(active)


@contextmanager
def exact_in_place(substitutes: Substitutes = MappingProxyType({})) -> Iterator[None]:
    """Gradients inside are exact, whatever the model writes in place.

    Args:
        substitutes: See `FreshWrites`.

    Raises:
        TrainingError: In the backward pass, where something was overwritten after all.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(_pack, _unpack))
        stack.enter_context(FreshWrites(substitutes))
        stack.callback(_ACTIVE.reset, _ACTIVE.set(substitutes))
        yield


def _pack(tensor: Tensor) -> tuple[Tensor, int]:
    """What autograd keeps of a tensor: an alias, and how often the memory had been written into by then.

    Autograd would keep the very object, whose memory `_give_own_memory` is about to exchange; the alias keeps the old
    memory. It shares the version counter with the tensor, which torch raises by one at each write in place.
    """
    return tensor.detach(), tensor._version


def _unpack(saved: tuple[Tensor, int]) -> Tensor:
    """The tensor as it was saved.

    Raises:
        TrainingError: It was written into since, by code that this module did not see.
    """
    tensor, version = saved
    if tensor._version != version:
        raise TrainingError(
            f"A tensor of shape {tuple(tensor.shape)} was overwritten before its gradient was computed.",
            found=f"version {tensor._version}",
            expected=f"version {version}",
            remedy="The gradients of this model would be wrong; please report it with the model's name.",
        )
    return tensor


def _written(func: Operation, args: tuple, kwargs: Mapping[str, object]) -> Tensor | None:
    """The tensor that a call writes into, if any: told by torch's own habits of naming."""
    name = getattr(func, "__name__", "")
    out = kwargs.get("out")
    if isinstance(out, Tensor):
        return out
    # x.add_(y), and x += y, which arrives under the same name; x[i] = y; F.relu(x, inplace=True).
    in_place = name == "__setitem__" or (name.endswith("_") and not name.startswith("_")) or kwargs.get("inplace")
    if not in_place or name in _NO_WRITES or not args or not isinstance(args[0], Tensor):
        return None
    return args[0]


def _flows(target: Tensor, args: tuple, kwargs: Mapping[str, object]) -> bool:
    """Whether a gradient is involved in a write: only then may the old numbers have been saved.

    A leaf that requires a gradient is a parameter, which keeps its memory, and which autograd protects by itself.
    """
    if (target.is_leaf and target.requires_grad) or not target.is_floating_point():
        return False
    return _any_requires_grad(args, kwargs)


def _any_requires_grad(args: tuple, kwargs: Mapping[str, object]) -> bool:
    return any(isinstance(value, Tensor) and value.requires_grad for value in (*args, *kwargs.values()))


@_disable_dynamo  # splits the compiled block in two at each write
def _write(func: Operation, target: Tensor, args: tuple, kwargs: Mapping[str, object]) -> object:
    """A call that writes into ``target``, with fresh memory for what it writes."""
    if _is_one_of_several_views(target):
        # Autograd refuses any write into these, so the code can only have worked with the name rebound.
        pure = _PURE.get(func.__name__)
        return func(*args, **kwargs) if pure is None else pure(*args, **kwargs)
    _give_own_memory(target)
    # Nobody has saved the fresh memory. Counted, the write would make `_unpack` refuse the old memory's aliases, which
    # share the counter although the memory under them has not changed.
    with torch.autograd._unsafe_preserve_version_counter(target):
        return func(*args, **kwargs)


def _is_one_of_several_views(tensor: Tensor) -> bool:
    """Whether it came from ``split``, ``chunk`` or ``unbind``, whose results autograd lets nobody write into."""
    return tensor._is_view() and type(tensor.grad_fn).__name__.startswith(("Split", "Unbind"))


def _give_own_memory(tensor: Tensor) -> None:
    """Move a tensor, with the one that it is a view of, to memory that nothing else refers to.

    Both have to move: a write through the view must be seen in what it is a view of. Assigning ``data`` exchanges the
    memory under the same tensor object, and autograd's graph stays as it is.
    """
    base = tensor._base if tensor._is_view() else None
    if base is None:
        tensor.data = tensor.data.clone()
        return
    fresh = base.data.clone()
    if fresh.stride() != base.stride():
        return  # a base with overlapping elements cannot be written into anyway
    offset = tensor.storage_offset() - base.storage_offset()  # the clone begins at 0, the base may begin anywhere
    base.data = fresh
    tensor.data = fresh.as_strided(tensor.shape, tensor.stride(), offset)


@contextmanager
def gradient_ready(model: nn.Module) -> Iterator[None]:
    """Inside, the model's parameters and buffers are ordinary tensors over the same memory; then the old ones are back.

    Tensors made under ``torch.inference_mode`` cannot be saved for the backward pass. Copying a model only for that
    would double its memory; an alias of the same storage made outside inference mode costs nothing.
    """
    swapped: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    aliases: dict[int, Tensor] = {}  # by the tensor's id: tied weights stay tied
    try:
        for module in model.modules():
            # By the names of their attributes: torch gives the two tables different types.
            for table in (vars(module)["_parameters"], vars(module)["_buffers"]):
                for name, tensor in table.items():
                    if tensor is None or not _needs_alias(tensor):
                        continue
                    if id(tensor) not in aliases:
                        aliases[id(tensor)] = _alias(tensor)
                    swapped.append((table, name, tensor))
                    table[name] = aliases[id(tensor)]
        yield
    finally:
        for table, name, tensor in swapped:
            table[name] = tensor


def _needs_alias(tensor: Tensor) -> bool:
    """Whether it is an inference tensor or a parameter that would train.

    Tensor subclasses (quantised weights) have their own rules and stay.
    """
    is_plain = type(tensor) in (Tensor, nn.Parameter) and type(tensor.data) is Tensor
    return is_plain and (tensor.is_inference() or tensor.requires_grad)


def _alias(tensor: Tensor) -> Tensor:
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
        tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride()
    )
    return nn.Parameter(alias, requires_grad=False) if isinstance(tensor, nn.Parameter) else alias
