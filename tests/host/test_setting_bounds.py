"""A number means the same in a graph and in a file: every node's input has the bounds of the setting that it becomes."""

import dataclasses
import math

import pytest

from krona_ops.bounds import bounds
from krona_ops.errors import ConfigError
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig
from krona_train.config import (
    DataConfig,
    DenoisingConfig,
    EmaConfig,
    PreviewConfig,
    PriorConfig,
    ValidationConfig,
    from_yaml,
)
from krona_train.data.choices import PictureFiles
from krona_train.objectives.branch_config import BranchConfig
from krona_train.objectives.guidance_config import GuidanceConfig
from krona_train.objectives.pairs_config import PairsConfig
from krona_train.objectives.score_matching_config import ScoreMatchingConfig
from krona_train.run.job import Job
from krona_train.settings.groups import SparseConfig

OTHERWISE = {
    "KronaTrainSettings": {
        "ema": (EmaConfig, "decay"),
        "prior_weight": (PriorConfig, "weight"),
        "validate_every": (ValidationConfig, "every"),
        "validation_pictures": (ValidationConfig, "pictures"),
        "patience": (ValidationConfig, "patience"),
        "keep_states": (TrainConfig, "keep_states"),
    },
    "KronaDataset": {"class_pictures": (PictureFiles, "class_count"), "repeats": (PictureFiles, "repeats")},
    "KronaPrompts": {
        "count": (PictureFiles, "prompt_count"),
        "seed": (PictureFiles, "prompt_seed"),
        "width": (PictureFiles, "width"),
        "height": (PictureFiles, "height"),
    },
    "KronaTargets": {
        "lora_rank": (AdapterConfig, "rank"),
        "lora_alpha": (AdapterConfig, "alpha"),
        "sparse_parts": (SparseConfig, "parts"),
        "sparse_consistency": (SparseConfig, "consistency"),
    },
    "KronaTrain": {"learning_rate": (OptimizerConfig, "learning_rate"), "preview_every": (PreviewConfig, "every")},
    "KronaDistill": {"learning_rate": (OptimizerConfig, "learning_rate"), "preview_every": (PreviewConfig, "every")},
    "KronaOneStep": {"sigma": (ScoreMatchingConfig, "start_level")},
}
"""Inputs that are called otherwise than their fields, or whose field is in another group than most."""
GROUPS = {
    "KronaTrainSettings": (OptimizerConfig, DenoisingConfig),
    "KronaBranchSettings": (BranchConfig,),
    "KronaDataset": (DataConfig,),
    "KronaTargets": (AdapterConfig,),
    "KronaTrain": (TrainConfig,),
    "KronaDistill": (TrainConfig, GuidanceConfig, PairsConfig),
    "KronaOneStep": (),
}
OF_THE_KIND = {("KronaDistill", "drawings"), ("KronaDistill", "drawing_steps")}
"""Inputs of which 0 is no value of the setting: it leaves the number to what is learnt."""
FACTORS = {"factor_out", "factor_in"}


def field_of(node, name):
    if name in OTHERWISE[node]:
        return OTHERWISE[node][name]
    if node == "KronaTrainSettings" and name.startswith("preview_"):
        return PreviewConfig, name.removeprefix("preview_")
    return next(((kind, name) for kind in GROUPS[node] if name in kind.__dataclass_fields__), None)


def numbers():
    from krona_pack.nodes.dataset import KronaDataset
    from krona_pack.nodes.distill import KronaDistill
    from krona_pack.nodes.one_step import KronaOneStep
    from krona_pack.nodes.prompts import KronaPrompts
    from krona_pack.nodes.settings import KronaTrainSettings
    from krona_pack.nodes.targets import KronaTargets
    from krona_pack.nodes.train import KronaTrain

    for node in (KronaTrain, KronaTrainSettings, KronaDataset, KronaPrompts, KronaTargets, KronaDistill, KronaOneStep):
        for given in node.define_schema().inputs:
            if getattr(given, "min", None) is not None and given.id not in FACTORS:
                yield node.__name__, given


@pytest.fixture
def menus(comfy, monkeypatch):
    """Nodes that list adapter files, without any."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "krona", ([], {".safetensors"}))
    return comfy


def test_every_number_of_a_node_has_the_bounds_of_its_setting(menus):
    seen = 0
    for node, given in numbers():
        field = field_of(node, given.id)
        assert field is not None, f"{node}.{given.id} becomes no setting"
        kind, name = field
        bound = bounds(kind)[name]
        low = 0 if (node, given.id) in OF_THE_KIND else bound.low
        assert (given.min, given.max) == (pytest.approx(low), pytest.approx(bound.high)), f"{node}.{given.id}"
        seen += 1
    assert seen > 60


def test_a_guidance_is_what_the_hosts_sampler_takes_as_cfg(menus):
    from krona_pack.nodes.guidance import KronaGuidance

    import nodes

    [given] = [each for each in KronaGuidance.define_schema().inputs if each.id == "guidance"]
    cfg = nodes.KSampler.INPUT_TYPES()["required"]["cfg"][1]
    assert (given.min, given.max) == (cfg["min"], cfg["max"])


@pytest.mark.parametrize("kind", [GuidanceConfig, ScoreMatchingConfig, PairsConfig], ids=lambda each: each.kind)
def test_a_number_of_an_objective_outside_its_bounds_is_named_with_its_place(kind):
    for name, bound in bounds(kind).items():
        whole = isinstance(getattr(kind(), name), int)
        for value in (bound.low - 1, bound.high + 1, *(() if whole else (math.nan,))):
            text = ".nan" if value != value else int(value) if whole else value
            with pytest.raises(ConfigError) as caught:
                from_yaml(f"training:\n  objective:\n    kind: {kind.kind}\n    {name}: {text}\n", Job)
            message = str(caught.value)
            assert message.startswith(f"training.objective.{name} is "), message
            assert f"; it must be {bound}." in message


def settings():
    """Every number of a run.yaml, with its place."""

    def inside(kind, place):
        hints = {f.name: f for f in dataclasses.fields(kind)}
        for name, bound in bounds(kind).items():
            yield place, kind, name, bound
        for name, field in hints.items():
            default = getattr(kind(), name)
            if dataclasses.is_dataclass(default):
                yield from inside(type(default), f"{place}{name}.")
            del field

    yield from inside(Job, "")


def test_a_number_outside_its_bounds_is_named_with_its_place_its_value_and_what_is_possible():
    count = 0
    for place, kind, name, bound in settings():
        whole = isinstance(getattr(kind(), name), int) or "[int" in str(kind.__dataclass_fields__[name].type)  # a list of them
        wrong = [bound.low - 1] if math.isfinite(bound.low) else []
        wrong += [bound.low] if bound.open_low else []
        wrong += [bound.high + 1] if math.isfinite(bound.high) else []
        wrong += [] if whole else [math.nan, math.inf, -math.inf]
        for value in wrong:
            value = int(value) if whole else value
            shown = [value] * 2 if isinstance(getattr(kind(), name), tuple) else value
            text = ".nan" if value != value else ".inf" if value == math.inf else "-.inf" if value == -math.inf else str(value)
            text = f"[{text}, {text}]" if isinstance(shown, list) else text
            *groups, _ = (*place.split("."),)
            yaml = (
                "".join(f"{'  ' * depth}{group}:\n" for depth, group in enumerate(groups))
                + f"{'  ' * len(groups)}{name}: {text}\n"
            )
            with pytest.raises(ConfigError) as caught:
                from_yaml(yaml, Job)
            message = str(caught.value)
            assert message.startswith(f"{place}{name} is "), message
            assert f"; it must be {bound}." in message
            assert "\n" not in message
            count += 1
    assert count > 150


@pytest.mark.parametrize("rate", [0.0, -1e-4, math.nan, math.inf, 2.0])
def test_a_learning_rate_that_cannot_train_is_refused_by_the_node_before_anything_is_done(comfy, rate):
    from krona_pack.nodes.train import KronaTrain

    with pytest.raises(ConfigError, match=r"^learning_rate is .*; it must be above 0, to 1\. 5e-4 is the paper's best"):
        KronaTrain.execute(None, None, None, None, "run", 10, rate, 1, 0, 8, 4)


def test_the_node_offers_every_kind_of_layer_as_a_whole_and_by_rule(comfy):
    from krona_pack.nodes.targets import KINDS, RULES, KronaTargets

    from krona_train.adapters.layers import LAYERS

    assert tuple(layer.kind for layer in LAYERS) == KINDS
    rules = "\n".join(f"attn{n}; *; 8x4; ; {kind}" for n, kind in enumerate(KINDS))
    [config] = KronaTargets.execute(RULES, 64, 4, rules=rules, adapter="full").args
    assert [rule.kind for rule in config.targets] == list(KINDS)
    assert config.kind == "full"
    assert KronaTargets.validate_inputs("norm; *; ; ; difference") is True
    assert "There is no kind 'norms'" in KronaTargets.validate_inputs("norm; *; ; ; norms")
