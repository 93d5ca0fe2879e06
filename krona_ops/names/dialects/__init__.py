"""What other tools call the layers of the models that the host names in its own way, one table per kind of model.

The host's own key map comes first (`krona_host/names/resolution.py`); here is what it leaves out: embedders,
modulations, feed-forwards, refiners, connectors, whole families. Most names are those of diffusers, some those of the
original repositories. The tables are held against diffusers' converters by tests/host/test_converters.py, row by row.
"""

from __future__ import annotations

from collections.abc import Collection

from . import flux, image, sound, video
from .table import OtherName, Table

__all__ = ["TABLES", "OtherName", "Table", "table_of"]

TABLES: tuple[Table, ...] = (*flux.TABLES, *video.TABLES, *image.TABLES, *sound.TABLES)
"""Where two fit, the first is the model's."""


def table_of(layers: Collection[str]) -> Table | None:
    """The table of a model with these layers (paths inside the diffusion model);
    ``None`` where the host's own names are all there is."""
    return next((table for table in TABLES if table.fits(layers)), None)
