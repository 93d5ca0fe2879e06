"""The ways of blending that a menu offers; `krona_ops.operations.blend` says what they do."""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["sum", "ties", "dare", "dare ties"]
METHODS: tuple[Method, ...] = get_args(Method)
