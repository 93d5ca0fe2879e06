"""Socket types of the pack."""

from comfy_api.latest import io

Krona = io.Custom("KRONA")
"""A `krona_ops.Adapter`."""
KronaDataset = io.Custom("KRONA_DATASET")
"""A `krona_train.data.pictures.Dataset`."""
KronaWeightsSocket = io.Custom("KRONA_WEIGHTS")
"""A `krona_ops.operations.strengths.Weights`."""
KronaTargetsSocket = io.Custom("KRONA_TARGETS")
"""A `krona_train.AdapterConfig`."""
KronaSettingsSocket = io.Custom("KRONA_SETTINGS")
"""A `krona_train.session.choices.Settings`."""
KronaCamerasSocket = io.Custom("KRONA_CAMERAS")
"""A `krona_ops.branches.cameras.Cameras`."""

CATEGORY = "KronA"
LoraStack = io.Custom("LORA_STACK")
"""What other packs hand around: a list of ``(file name, strength of the model, strength of the text encoder)``."""
