"""Settings: defaults of the paper, YAML and JSON both ways, and errors that name the setting."""

import json

import pytest

from krona_ops import TargetRule
from krona_ops.errors import ConfigError
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig
from krona_train.config import from_dict, from_yaml, to_dict, to_yaml


def test_the_defaults_are_the_papers_best():
    config = TrainConfig()
    assert config.adapter.targets[0].factors == (64, 4)
    assert config.optimizer.learning_rate == 5e-4
    assert config.optimizer.weight_decay == 1e-2
    assert config.optimizer.max_grad_norm == 1.0
    assert config.adapter.layout == "kron"


CUSTOM = TrainConfig(
    steps=7,
    seed=3,
    adapter=AdapterConfig(
        targets=(TargetRule((8, 2), ("q",), r"attn2"), TargetRule((4, 4), (), "")),
        layout="shuffled",
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, betas=(0.8, 0.9)),
)


@pytest.mark.parametrize("config", [TrainConfig(), CUSTOM])
def test_a_config_survives_yaml_and_json(config):
    assert from_yaml(to_yaml(config)) == config
    assert from_yaml(json.dumps(to_dict(config))) == config
    assert from_dict(TrainConfig, to_dict(config)) == config


def test_settings_that_are_not_named_keep_their_defaults():
    assert from_yaml("steps: 5\noptimizer: {learning_rate: 1}\n") == TrainConfig(
        steps=5, optimizer=OptimizerConfig(learning_rate=1.0)
    )
    assert from_yaml("") == TrainConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: 5", r"There is no setting step\."),
        ("optimizer: {lr: 1}", r"There is no setting optimizer\.lr\."),
        ("steps: many", "steps is 'many'"),
        ("steps: 1.5", "steps is 1.5"),
        ("steps: true", "steps is True"),
        ("optimizer: {learning_rate: .nan}", "learning_rate is nan"),
        ("optimizer: {betas: [0.9]}", r"optimizer\.betas is \[0\.9\]"),
        ("adapter: {layout: other}", r"adapter\.layout is 'other'"),
        ("adapter: {targets: [{factors: [0, 4]}]}", "Factors 0 × 4 are not possible"),
        ("adapter: {targets: [{pattern: '('}]}", "is no regular expression"),
        ("adapter: {targets: []}", "There is no target rule"),
        ("batch_size: 0", "batch_size is 0"),
        ("[1, 2]", "holds no settings"),
        ("a: [", "is no YAML"),
        ("!!python/object/apply:os.system ['true']", "is no YAML"),
    ],
)
def test_a_wrong_setting_is_named(text, message):
    with pytest.raises(ConfigError, match=message):
        from_yaml(text)
