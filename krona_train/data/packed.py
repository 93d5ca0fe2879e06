"""Values made of tensors, texts, numbers and a few dataclasses, in one safetensors file: no pickles, and mapped when read."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from krona_ops.errors import AdapterFileError, DataError
from krona_ops.files import load_tensors, save_tensors
from krona_ops.formats.header import read_header

KIND = "krona.packed"
_PLAIN = (str, int, float, bool, type(None))
_VALUE = "value"


def pack(value: Any, path: str | os.PathLike[str], classes: Sequence[type]) -> Path:
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


def unpack(path: str | os.PathLike[str], classes: Sequence[type]) -> Any:
    """What `pack` wrote.

    Raises:
        AdapterFileError: The file is missing, damaged, or of another kind.
    """
    if read_header(path).metadata.get("krona.kind") != KIND:
        raise AdapterFileError(
            "This is no encoded data set.", where=str(path), found="another file", expected=KIND, remedy="Encode it again."
        )
    tensors = load_tensors(path)
    try:
        tree = json.loads(tensors.pop(_VALUE).numpy().tobytes())
        return _value(tree, {kind.__name__: kind for kind in classes}, tensors)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise AdapterFileError(
            f"The encoded data set is damaged or of another version ({type(error).__name__}: {error}).",
            where=str(path),
            found="unknown parts",
            expected=", ".join(kind.__name__ for kind in classes),
            remedy="Start the training again, so that it is encoded again.",
        ) from error


def _tree(value: Any, classes: Mapping[str, type], tensors: dict[int, tuple[int, Tensor]]) -> Any:
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta:
        return {"tensor": tensors.setdefault(id(value), (len(tensors), value))[0]}
    if type(value) in _PLAIN:
        return value
    if type(value) in (tuple, list):  # others, such as named tuples, would come back as something else
        return {type(value).__name__: [_tree(item, classes, tensors) for item in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _tree(item, classes, tensors) for key, item in value.items()}}
    if classes.get(type(value).__name__) is type(value):
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


def _value(tree: Any, classes: Mapping[str, type], tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[f"tensor.{tree['tensor']}"]
    if "class" in tree:
        return classes[tree["class"]](**{key: _value(item, classes, tensors) for key, item in tree["fields"].items()})
    [(kind, items)] = tree.items()
    if kind == "dict":
        return {key: _value(item, classes, tensors) for key, item in items.items()}
    return {"tuple": tuple, "list": list}[kind](_value(item, classes, tensors) for item in items)
