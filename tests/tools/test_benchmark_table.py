"""The README's table of speed: made from the results in the repository, and honest about those that miss."""

import json

import pytest

from benchmarks.contest import Bar, finish
from benchmarks.pages.readme_table import BEGIN, DOCUMENT, END, make, read, table


def result(**changes):
    bar = {"name": "step, times the base", "value": 1.234567, "bar": 1.45, "wanted": "at most", "holds": True, **changes}
    return {"benchmark": "layer", "commit": "abc1234", "machine": "some-cpu", "bars": [bar], "results": {}}


def test_the_readme_has_the_table_of_the_results_in_the_repository():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert make(text, read()) == text, "run: python3 benchmarks/pages/readme_table.py"


def test_every_bar_is_a_row_with_its_machine_and_commit():
    other = {**result(value=1.1), "machine": "other-cpu", "commit": "def5678"}
    lines = table([result(), other, result(name="memory")]).splitlines()
    assert "| benchmark | claim | wanted | `other-cpu` | `some-cpu` |" in lines
    rows = [line for line in lines if line.startswith("| [layer]")]
    assert rows == [
        "| [layer](benchmarks/layer.py) | step, times the base | at most 1.45 | 1.1 | 1.23 |",
        "| [layer](benchmarks/layer.py) | memory | at most 1.45 |  | 1.23 |",
    ]
    assert "Measured on `other-cpu`: layer at `def5678`; `some-cpu`: layer, layer at `abc1234`." in lines


def test_a_benchmark_with_an_option_is_still_the_same_file():
    assert "| [layer-flux](benchmarks/layer.py) |" in table([{**result(), "benchmark": "layer-flux"}])


def test_a_miss_is_shown_as_one():
    made = table([result(), result(value=2.0, holds=False)])
    assert "1 of 2 measured claims hold, <b>1 missed</b>" in made
    assert "| at most 1.45 | **2 missed** |" in made
    assert "missed" not in table([result()])


@pytest.mark.parametrize("change", [{"value": 1.3}, {"bar": 1.5}, {"holds": False}, {"name": "other"}, {"wanted": "at least"}])
def test_another_result_makes_another_readme(change):
    text = f"before\n\n{BEGIN}\n{END}\n\nafter\n"
    assert make(text, [result(**change)]) != make(text, [result()])
    assert make(make(text, [result(**change)]), [result()]) == make(text, [result()])


def test_files_without_bars_and_files_of_other_kinds_are_left_out(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(result()))
    (tmp_path / "old.json").write_text(json.dumps({"results": {"seconds": 1.0}}))
    (tmp_path / "z.json").write_text(json.dumps({**result(), "bars": []}))
    (tmp_path / "notes.txt").write_text("no JSON")
    assert read(tmp_path) == [result()]


def test_without_results_nothing_is_claimed():
    assert table([]) == "Speed: no benchmark with a bar has been run yet (`make bench`)."


def test_a_name_cannot_break_the_table():
    assert "a \\| b" in table([result(name="a | b")])


def test_a_readme_without_a_place_is_refused():
    with pytest.raises(ValueError, match="<!-- benchmarks -->"):
        make("no place", [])


def test_what_a_benchmark_writes_is_what_the_table_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.contest.ROOT", tmp_path)
    monkeypatch.setattr("benchmarks.contest.RESULTS", tmp_path)
    monkeypatch.setattr("benchmarks.contest.commit", lambda: "abc1234")
    finish("layer", [Bar("fast", 0.5, 1.0), Bar("small", 3.0, 2.0)], {})
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [bar["holds"] for bar in last["bars"]] == [True, False]
    [told] = read(tmp_path)
    assert "| fast | at most 1 | 0.5 |" in table([told])
    assert "| small | at most 2 | **3 missed** |" in table([told])
