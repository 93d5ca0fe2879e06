"""Values of tensors, texts, numbers and a few dataclasses, in one safetensors file:
no pickles, and mapped when read."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from krona_ops.errors import AdapterFileError, DataError
from krona_ops.files import load_tensors, save_tensors
from krona_ops.formats.header import read_header

KIND = "krona.packed"
_PLAIN = (str, int, float, bool, type(None))
_VALUE = "value"
_SEQUENCES: dict[str, Callable[[Iterable[object]], object]] = {"tuple": tuple, "list": list}
T = TypeVar("T")


def pack(value: object, path: str | os.PathLike[str], classes: Sequence[type]) -> Path:
    """Write a value; the whole file appears under its name, or nothing changes. Each tensor is written once.

    Args:
        classes: The dataclasses that may occur in it.

    Raises:
        DataError: Something in it is neither a tensor, nor plain, nor of one of the classes.
        AdapterFileError: The folder cannot be written, or the disk is full.
    """
    tensors: dict[int, tuple[int, Tensor]] = {}
    tree = json.dumps(_tree(value, {kind.__name__: kind for kind in classes}, tensors))
    # The tree can be longer than what readers accept as a header, so it is a tensor too.
    packed = {f"tensor.{number}": tensor for number, tensor in tensors.values()}
    packed[_VALUE] = torch.frombuffer(bytearray(tree.encode()), dtype=torch.uint8)
    try:
        # Cloned, because a file cannot hold views of one another.
        payload = {name: tensor.detach().cpu().clone() for name, tensor in packed.items()}
        return save_tensors(payload, path, {"krona.kind": KIND})
    except KeyError as error:
        raise _cannot_pack(f"tensor of {error}") from error  # an element type that the format does not have


def unpack(path: str | os.PathLike[str], kind: type[T], classes: Sequence[type]) -> T:
    """The value that `pack` wrote.

    Args:
        kind: Its class.
        classes: The dataclasses that may occur in it.

    Raises:
        AdapterFileError: The file is missing, damaged, or of another kind.
    """
    if read_header(path).metadata.get("krona.kind") != KIND:
        raise AdapterFileError(
            "This is no encoded data set.",
            where=str(path),
            found="another file",
            expected=KIND,
            remedy="Encode it again.",
        )
    tensors = load_tensors(path)
    try:
        tree = json.loads(tensors.pop(_VALUE).numpy().tobytes())
        value = _value(tree, {known.__name__: known for known in classes}, tensors)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise _damaged(f"{type(error).__name__}: {error}", path, classes) from error
    if not isinstance(value, kind):
        raise _damaged(f"it holds a {type(value).__name__}, not a {kind.__name__}", path, classes)
    return value


def _damaged(reason: str, path: str | os.PathLike[str], classes: Sequence[type]) -> AdapterFileError:
    return AdapterFileError(
        f"The encoded data set is damaged or of another version ({reason}).",
        where=str(path),
        found="unknown parts",
        expected=", ".join(known.__name__ for known in classes),
        remedy="Start the training again, so that it is encoded again.",
    )


def _tree(value: object, classes: Mapping[str, type], tensors: dict[int, tuple[int, Tensor]]) -> object:
    """A value as JSON; its tensors by number, which ``tensors`` gets (by ``id``, so that each is there once).

    Raises:
        DataError: Something in it cannot be written.
    """
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta:
        return {"tensor": tensors.setdefault(id(value), (len(tensors), value))[0]}
    if type(value) in _PLAIN:
        return value
    # Subclasses, such as named tuples, would come back as something else.
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return {type(value).__name__: [_tree(item, classes, tensors) for item in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _tree(item, classes, tensors) for key, item in value.items()}}
    is_known = classes.get(type(value).__name__) is type(value)
    if is_known and dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _tree(getattr(value, f.name), classes, tensors) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, "fields": fields}
    raise _cannot_pack(type(value).__name__)


def _cannot_pack(what: str) -> DataError:
    return DataError(
        f"The encoded captions hold a {what}, which cannot be handed to another process.",
        found=what,
        expected="tensors, texts and numbers",
        remedy="Train in ComfyUI itself.",
    )


def _value(tree: object, classes: Mapping[str, type], tensors: Mapping[str, Tensor]) -> object:
    """The value of which `_tree` made JSON."""
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[f"tensor.{tree['tensor']}"]
    if "class" in tree:
        return classes[tree["class"]](**{key: _value(item, classes, tensors) for key, item in tree["fields"].items()})
    [(kind, items)] = tree.items()
    if kind == "dict":
        return {key: _value(item, classes, tensors) for key, item in items.items()}
    return _SEQUENCES[kind](_value(item, classes, tensors) for item in items)
