"""Guidance in an adapter beside other adapters: how models are trained for it, and how rows are kept."""

import json

from benchmarks.world.judge_guidance import PARTS, WAYS, trial_of, written
from krona_train import AdapterConfig, OptimizerConfig, TrainConfig


def test_a_subjects_adapter_has_the_default_settings_and_a_checkpoint_is_trained_whole():
    config = trial_of("adapter", 3).config()
    assert (config.adapter, config.optimizer, config.steps) == (AdapterConfig(), OptimizerConfig(), TrainConfig().steps)
    assert trial_of("checkpoint", 3).contender == "full"
    assert {trial_of(part, 3).subject for part in PARTS} == {3}


def test_rows_of_a_part_and_a_subject_take_the_place_of_those_before(tmp_path):
    file = tmp_path / "guidance.json"
    first = [{"part": "checkpoint", "subject": 1, "way": way, "n": 1} for way in WAYS]
    other = [{"part": "adapter", "subject": 1, "way": way, "n": 2} for way in reversed(WAYS)]
    anew = [{"part": "checkpoint", "subject": 1, "way": way, "n": 3} for way in WAYS]
    for rows in (first, other, anew):
        written(file, rows, {"benchmark": "guidance"})
    rows = json.loads(file.read_text())["trials"]
    assert [(row["part"], row["way"], row["n"]) for row in rows] == [
        *(("adapter", way, 2) for way in WAYS),
        *(("checkpoint", way, 3) for way in WAYS),
    ]
