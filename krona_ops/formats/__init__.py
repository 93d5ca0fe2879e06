"""Adapter file formats: one module each with ``NAME``, ``sniff``, ``read`` and ``write``; a new one is a line in `FORMATS`."""

from . import lokr

FORMATS = (lokr,)
