"""docs/quality.md: its tables are what was measured."""

import json
import re

import pytest

from benchmarks.quality import judged_by
from benchmarks.world.trial import STEPS, Trial, as_it_comes
from tools.make_quality import DOCUMENT, README, in_short, make, put, read_results

PAGE = DOCUMENT.read_text(encoding="utf-8")


def test_the_page_has_the_tables_of_the_script():
    assert make(PAGE, read_results()) == PAGE, "run: python3 tools/host.py run tools/make_quality.py"


def test_the_readme_says_what_the_page_says():
    text = README.read_text(encoding="utf-8")
    assert put(text, "short", in_short(read_results())) == text, "run: python3 tools/host.py run tools/make_quality.py"


def test_every_picture_of_the_page_is_there():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", PAGE)
    assert [name for name in pictures if not (DOCUMENT.parent / name).is_file()] == []


def test_a_table_that_only_one_of_both_knows_is_an_error():
    with pytest.raises(ValueError, match="dreams"):
        make(f"{PAGE}\n<!-- quality: dreams -->\n<!-- /quality -->\n", read_results())


def test_other_measurements_make_another_page(tmp_path):
    nothing = make(PAGE, read_results(tmp_path))
    plain = {
        "pictures": 4,
        "prior": 0.0,
        "steps": STEPS,
        "seed": 0,
        "agreement": 0.5,
        "diversity": 0.1,
        "seconds": 1.0,
        "parameters": 100,
    }
    rows = [
        {
            **plain,
            "recipe": Trial(name).recipe(),
            "contender": name,
            "subject": 0,
            "rate": 5e-4,
            "likeness": likeness,
            "class_likeness": 0.1,
            "prompt": 0.9,
        }
        for name, likeness in (("base", 0.2), ("real", 0.9), ("krona 64x4", 0.3))
    ]
    own = as_it_comes(0)
    rows.append({**rows[-1], "contender": own.contender, "recipe": own.recipe(), "steps": own.steps, "likeness": 0.55})
    told = {**read_results(tmp_path), "trials": rows, "headline": {"subjects": 1, "subject_gain": 0.5}}
    made = make(PAGE, told)
    assert made != nothing
    assert "| 0 | 0.20 | 0.55 | 0.90 | 50 % | 0.90 | 0.90 | 0 |" in made
    assert "| gain of the default settings, mean | 50 % |" in made


def results(machine, likeness, subjects):
    own = [
        {**vars(Trial(name, subject=s)), "recipe": Trial(name).recipe(), "likeness": likeness, "prompt": 0.9, "parameters": 0}
        for s in subjects
        for name in ("base", "real")
    ]
    return {"machine": machine, "judged by": judged_by(), "trials": own}


def test_trials_of_several_machines_are_joined_and_the_one_that_has_most_counts(tmp_path):
    (tmp_path / "quality-one.json").write_text(json.dumps(results("one", 0.1, [0, 1])))
    (tmp_path / "quality-two.json").write_text(json.dumps(results("two", 0.2, [1, 2, 3])))
    (tmp_path / "quality-three.json").write_text(json.dumps({**results("three", 0.3, range(8)), "judged by": "others"}))
    told = read_results(tmp_path)
    assert sorted((row["subject"], row["likeness"]) for row in told["trials"] if row["contender"] == "base") == [
        (0, 0.1), (1, 0.2), (2, 0.2), (3, 0.2),
    ]  # fmt: skip
    assert told["machines"] == {"two": 6, "one": 2}
    assert told["done"]["references"] == [8, 16]
    assert "Trials: 6 on `two`, 2 on `one`; model and judges" in make(PAGE, told)
