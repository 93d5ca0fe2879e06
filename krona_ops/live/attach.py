"""Change what a layer of a shared model computes, and leave no trace afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError

Forward = Callable[..., Any]
"""``forward(original, x, *args, **kwargs)``: called instead of the module's own,
which it gets as its first argument."""
Weigh = Callable[[Tensor], Tensor]
"""From a layer's weight ``(out, in, *kernel)``, as it is about to be multiplied with, to one with the change in it;
the one given stays as it is."""


class ForwardPatch:
    """Replaces one module's ``forward`` until it is detached.

    ``forward`` becomes an attribute of the instance, which hides the class's method; taking it away restores the module
    exactly. If somebody else has replaced it in between, theirs stays and ours becomes a plain pass-through: other
    tools put back what they found, in any order, and a dead link in that chain would break the shared model.

    Some code multiplies with a layer's weight itself and never calls ``forward`` (ComfyUI's ``linear_input_act`` for
    int8, Kandinsky 6's modulation). What asks the host for that weight gets it through the layer's list of
    ``weight_function``; there stands ``weigh``, which is out of the list whenever ``forward`` runs.
    So a change is made once, whichever way the layer is used.

    Args:
        weigh: The same change of the weight as ``forward`` makes beside it;
            ``None`` leaves the weight alone, and so does a layer without such a list.
    """

    def __init__(self, module: nn.Module, forward: Forward, weigh: Weigh | None = None) -> None:
        self._module, self._forward = module, forward
        self._original: Callable[..., Any] | None = None
        self._hidden: Forward | None = None
        self._has_own_list = False
        self.is_reached = False
        """Whether the change has been used, in one way or the other, since somebody last wrote ``False`` here."""
        self._read = None if weigh is None else self._reading(weigh)

    def attach(self) -> None:
        """Put ``forward`` and ``weigh`` in place; does nothing when already attached."""
        if self._original is not None:
            return
        module, read = self._module, self._read
        self._hidden = module.__dict__.get("forward")
        original = self._original = module.forward

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._original is not original:  # detached while somebody else still calls us
                return original(*args, **kwargs)
            self.is_reached = True
            functions: list[Weigh] = getattr(module, "weight_function", [])
            if read is None or read not in functions:
                return self._forward(original, *args, **kwargs)
            functions.remove(read)
            try:
                return self._forward(original, *args, **kwargs)
            finally:
                functions.append(read)

        self._call = call
        module.forward = call
        self._has_own_list = "weight_function" in module.__dict__
        self.offer_weight()

    def offer_weight(self) -> None:
        """Put ``weigh`` back where it stood: a host empties the list when it loads the model.
        Does nothing where it stands or never stood."""
        functions = getattr(self._module, "weight_function", None)
        if self._original is None or self._read is None or not isinstance(functions, list) or self._read in functions:
            return
        self._set_functions([*functions, self._read])  # a list of its own: the class has one for all layers

    def detach(self) -> None:
        """Put the module back as it was; does nothing when not attached."""
        if self._original is None:
            return
        self._original = None
        self._take_weight_back()
        if self._module.__dict__.get("forward") is not self._call:
            return
        if self._hidden is None:
            del self._module.forward
        else:
            self._module.forward = self._hidden

    def _take_weight_back(self) -> None:
        functions = self._module.__dict__.get("weight_function")
        if self._read is None or not functions or self._read not in functions:
            return
        rest = [function for function in functions if function is not self._read]
        if rest or self._has_own_list:
            self._set_functions(rest)
        else:
            del self._module.weight_function

    def _set_functions(self, functions: list[Weigh]) -> None:
        self._module.weight_function = functions  # type: ignore[assignment]  # declared for tensors and modules

    def _reading(self, weigh: Weigh) -> Weigh:
        def read(weight: Tensor) -> Tensor:
            self.is_reached = True
            return weigh(weight)

        return read


@contextmanager
def patched(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Patch some modules for the length of a ``with`` block."""
    with every([ForwardPatch(module, forward) for module, forward in forwards.items()]):
        yield


@contextmanager
def every(patches: Collection[ForwardPatch]) -> Iterator[None]:
    """Some patches, attached for the length of a ``with`` block."""
    try:
        for patch in patches:
            patch.attach()
        yield
    finally:
        for patch in reversed(list(patches)):
            patch.detach()


def convolution_options(module: nn.Module, name: str) -> dict[str, object] | None:
    """Stride, padding and dilation of a convolution; ``None`` for a linear layer.

    Raises:
        ConfigError: The convolution is grouped or padded by anything but zeros.
    """
    if getattr(module, "kernel_size", None) is None:
        return None
    if module.groups != 1 or module.padding_mode != "zeros":
        raise ConfigError(
            f"A convolution with {module.groups} groups and {module.padding_mode} padding cannot be adapted on the fly.",
            layer=name,
            found=(module.groups, module.padding_mode),
            expected="one group, zeros",
            remedy="Leave this layer out with a target rule, or apply the adapter in merge mode.",
        )
    return {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
