"""Socket types of the pack."""

from comfy_api.latest import io

Krona = io.Custom("KRONA")
"""A `krona_ops.Adapter`."""
KronaDataset = io.Custom("KRONA_DATASET")
"""A `krona_train.data.pictures.Dataset`."""

CATEGORY = "KronA"
