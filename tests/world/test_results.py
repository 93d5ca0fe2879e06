"""What was measured with the shipped model, judges and settings says what the project claims."""

import pytest

from benchmarks.pages.quality import read_results
from benchmarks.world.subjects import COUNT
from benchmarks.world.summary import References, as_they_come
from benchmarks.world.trial import current


@pytest.fixture(scope="module")
def rows():
    return current(read_results()["trials"])


def test_the_default_settings_learn_every_subject_and_still_follow_prompts(rows):
    """Half of the gap to real pictures at least, at most ten points of prompt accuracy lost: subject by subject."""
    references, own = References(rows), as_they_come(rows)
    assert [row["subject"] for row in own] == list(range(COUNT)), "run: make bench-quality ARGS='--parts references,default'"
    assert {row["subject"]: references.gain(row) for row in own if references.gain(row) < 0.5} == {}
    assert {row["subject"]: references.drop(row) for row in own if references.drop(row) > 0.10} == {}


def test_the_base_model_follows_prompts_and_real_pictures_show_them(rows):
    """Else nothing that is lost could be seen."""
    for row in rows:
        if row["contender"] in ("base", "real"):
            assert row["prompt"] >= (0.85 if row["contender"] == "base" else 0.95), row
