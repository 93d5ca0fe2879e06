"""The branches that come with the small world: small, and what they do is what docs/quality.md says."""

import numpy as np
import pytest

from benchmarks.pages.quality import read_results
from benchmarks.world.judge_branches import Gallery, short_hash
from benchmarks.world.subjects import COUNT, Subject
from benchmarks.world.train_branches import first_of
from krona_ops import load
from krona_ops.branches.branch import branches_of


@pytest.fixture(scope="module")
def gallery(comfy):
    return Gallery(seeds=2)


@pytest.fixture(scope="module")
def branches(comfy):
    from krona_host.model.small_world import BRANCHES

    return BRANCHES


def test_the_files_are_small_and_branches_alone(branches):
    for mode, file in branches.items():
        assert file.stat().st_size <= 0.3e6
        adapter = load(file)
        assert adapter.parameters == {"reference": 114_807, "first": 114_807, "views": 29_127}[mode]
        assert adapter.metadata["krona.branch"] == mode


def test_the_first_frame_is_read_alone_by_the_numbers_of_reference(branches):
    first = load(branches["first"])
    [branch] = branches_of(first)
    assert (branch.mode, branch.reading) == ("first", "alone")
    assert dict(first.layers) == dict(first_of(load(branches["reference"])).layers)


def test_a_picture_is_recognised_in_what_is_drawn_and_prompts_are_kept(gallery, branches):
    """The floor of the mean over all subjects, for one; the base model reaches 0.12 there."""
    subject = Subject(0)
    model = gallery.with_branch(load(branches["reference"]), subject)
    row = gallery.row(subject, gallery.drawn(subject.class_prompts(), model))
    assert row["likeness"] >= 0.45
    assert row["prompt"] >= 0.95


def test_the_first_picture_goes_on(gallery, branches):
    subject = Subject(0)
    model = gallery.with_branch(load(branches["first"]), subject)
    row = gallery.row(subject, gallery.drawn(subject.class_prompts(), model, frames=True))
    assert row["likeness"] >= 0.45
    assert row["prompt"] >= 0.95


def test_pictures_that_are_drawn_together_show_one_and_others_another(gallery, branches):
    subject = Subject(0)
    model = gallery.with_branch(load(branches["views"]), subject)
    row = gallery.row(subject, gallery.drawn(subject.class_prompts(), model))
    assert row["within"] >= 0.6
    assert row["within"] - row["across"] >= 0.4


def test_the_committed_results_are_of_these_files_and_keep_their_floors(branches):
    results = read_results()
    rows, head = results["branches"], results["headline"]
    hashes = {mode: short_hash(file) for mode, file in branches.items()}
    for part, mode in (("reference", "reference"), ("first", "first"), ("views", "views"), ("both", "reference")):
        own = [row for row in rows if row["part"] == part]
        assert {row["subject"] for row in own} == set(range(COUNT)), f"run: judge_branches.py --parts {part}"
        assert {row["branch"] for row in own} == {hashes[mode]}, f"run: judge_branches.py --parts {part}"
    assert head["reference_likeness"] >= 0.45
    assert head["reference_least"] >= 0.15
    assert head["views_likeness"] >= 0.65
    assert head["views_likeness"] - head["views_across"] >= 0.4
    assert head["branch_prompt_drop"] <= 0.02
    assert head["steps_with_branch"] < head["steps_alone"]
    assert head["first_frame_likeness"] >= 0.6
    assert np.isfinite(head["views_across"])
