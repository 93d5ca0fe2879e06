"""docs/speed.md and its sentence in the README: made from the results in the repository, and honest about those that miss."""

import argparse
import json

import pytest

from benchmarks.claims import BENCHMARKS, Claim, Measurement, judge, times_faster
from benchmarks.command import RESULTS
from benchmarks.contest import finish
from benchmarks.pages.readme_table import BEGIN, DOCUMENT, END, README, Judged, in_short, make, read, table

RENAMED = {"the same where not even the frozen layer reaches it, least"}
"""A name that recorded files have and that is another one now."""


def result(name="step, times the base", value=1.234567, bar=1.45, wanted="at most", **changes):
    return Judged(**{
        "benchmark": "layer", "commit": "abc1234", "machine": "some-cpu", "claims": (Claim(name, value, bar, wanted),), **changes,
    })  # fmt: skip


def recorded(ours=1.2, frozen=1.0, core=1.5, **changes):
    """A file of benchmarks/results: one step of batch 1."""
    seconds = {"frozen": frozen, "KronA": ours, "core weight": core, "core bypass": core + 1}
    cell = {
        "seconds": {who: {"median": told} for who, told in seconds.items()},
        "peak bytes": {"frozen": 100, "KronA": 100, "core weight": 300, "core bypass": 400},
        "base bytes": 200,
    }
    return {"benchmark": "step", "commit": "abc1234", "machine": "some-cpu", "results": {"batch 1": cell}, **changes}


def files():
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]


def test_the_readme_has_the_table_of_the_results_in_the_repository():
    for page, what in ((DOCUMENT, table(read())), (README, in_short(read()))):
        text = page.read_text(encoding="utf-8")
        assert make(text, what) == text, f"{page.name}: run python3 benchmarks/pages/readme_table.py"


def test_every_bar_is_a_row_with_its_machine_and_commit():
    other = result(value=1.1, machine="other-cpu", commit="def5678")
    lines = table([result(), other, result(name="memory")]).splitlines()
    assert "| benchmark | claim | wanted | `other-cpu` | `some-cpu` |" in lines
    rows = [line for line in lines if line.startswith("| [layer]")]
    assert rows == [
        "| [layer](../benchmarks/layer.py) | step, times the base | at most 1.45 | 1.1 | 1.23 |",
        "| [layer](../benchmarks/layer.py) | memory | at most 1.45 |  | 1.23 |",
    ]
    assert "Measured on `other-cpu`: layer at `def5678`; `some-cpu`: layer, layer at `abc1234`." in lines


def test_a_benchmark_with_an_option_is_still_the_same_file():
    assert "| [layer-flux](../benchmarks/layer.py) |" in table([result(benchmark="layer-flux")])


def test_a_miss_is_shown_as_one():
    made = table([result(), result(value=2.0)])
    assert "1 of 2 measured claims hold, **1 missed**:" in made
    assert "| at most 1.45 | **2 missed** |" in made
    assert "missed" not in table([result()])
    assert "1 of 2 measured claims hold, **1 missed**." in in_short([result(), result(value=2.0)])


def test_a_miss_by_little_is_not_rounded_to_its_bar():
    assert "| at most 1.03 | **1.032 missed** |" in table([result(value=1.03208, bar=1.03)])
    assert "| at least 4 | **3.9996 missed** |" in table([result(value=3.9996, bar=4, wanted="at least")])
    assert "| at most 1 | 1 |" in table([result(value=1.0, bar=1.0)])


@pytest.mark.parametrize("change", [{"value": 1.3}, {"bar": 1.5}, {"name": "other"}, {"wanted": "at least"}])
def test_another_result_makes_another_readme(change):
    text = f"before\n\n{BEGIN}\n{END}\n\nafter\n"
    once, other = table([result()]), table([result(**change)])
    assert make(text, other) != make(text, once)
    assert make(make(text, other), once) == make(text, once)


def test_a_measurement_is_shown_beside_its_limit_and_counted_as_no_claim():
    made = table([result(measured=(Measurement("faster than core", 1.05, 1.09, "the frozen step"),))])
    assert "1 of 1 measured claims hold:" in made
    assert "| [layer](../benchmarks/layer.py) | faster than core | the frozen step | 1.05 (1.09) |" in made
    assert "In brackets" not in table([result()])


def test_files_without_bars_and_files_of_other_kinds_are_left_out(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(recorded()))
    (tmp_path / "old.json").write_text(json.dumps({"results": {"seconds": 1.0}}))
    (tmp_path / "blend.json").write_text(json.dumps(recorded(benchmark="blend")))
    (tmp_path / "trials.json").write_text(json.dumps({"benchmark": "quality", "trials": []}))
    (tmp_path / "z.json").write_text(json.dumps(recorded(results={})))
    (tmp_path / "notes.txt").write_text("no JSON")
    [told] = read(tmp_path)
    assert (told.benchmark, told.commit, told.machine) == ("step", "abc1234", "some-cpu")


def test_without_results_nothing_is_claimed():
    for what in (table([]), in_short([])):
        assert what == "Speed: no benchmark with a claim has been run yet (`make bench`)."


def test_a_name_cannot_break_the_table():
    assert "a \\| b" in table([result(name="a | b")])


def test_a_readme_without_a_place_is_refused():
    with pytest.raises(ValueError, match="<!-- benchmarks -->"):
        make("no place", "anything")


def test_what_a_benchmark_writes_is_what_the_table_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.contest.commit", lambda: "abc1234")
    finish("step", recorded()["results"], argparse.Namespace(results=tmp_path, rehearse=False))
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [bar["holds"] for bar in last["bars"]] == [False, True, True, True]
    assert [row["limit"] for row in last["measured"]] == [1.5]
    [told] = read(tmp_path)
    assert "| step, batch 1: times the frozen base | at most 1.03 | **1.2 missed** |" in table([told])
    assert "| step, batch 1: times core's faster mode at the same layers | at most 1 | 0.8 |" in table([told])
    assert "| the frozen base's step alone | 1.25 (1.5) |" in table([told])


# ------------------------------------------------------------------------------------------------------------------ what is claimed


def test_what_the_limit_forbids_is_no_claim_and_what_it_allows_is_one():
    assert times_faster("x", 1.05, 1.6, 1.59, "frozen") == Measurement("x", 1.05, 1.59, "frozen")
    assert times_faster("x", 1.05, 1.6, 1.6, "frozen") == Claim("x", 1.05, 1.6, "at least")


@pytest.mark.parametrize(("core", "kind"), [(1.5, Measurement), (1.7, Claim)])
def test_a_trainer_is_asked_for_a_speed_only_where_the_frozen_model_has_it(core, kind):
    rows = {row.name: row for row in judge("step", recorded(core=core)["results"])}
    assert type(rows["step, batch 1: faster than core's faster mode at the same layers"]) is kind
    never = rows["step, batch 1: times core's faster mode at the same layers"]
    assert never == Claim(never.name, pytest.approx(1.2 / core), 1.0)


@pytest.mark.parametrize("told", files(), ids=lambda told: f"{told.get('benchmark')}-{told['machine']}")
def test_claims_are_computed_as_the_benchmarks_did_when_they_ran(told):
    """Recorded files say what was judged then; bars move, values do not."""
    rows = {row.name: row.value for row in judge(told.get("benchmark", ""), told.get("results") or {})}
    then = {bar["name"]: bar["value"] for bar in told.get("bars", []) if bar["name"] not in RENAMED}
    assert then.items() <= rows.items()


def test_every_benchmark_that_claims_something_has_been_recorded():
    assert {judged.benchmark.partition("-")[0] for judged in read()} == set(BENCHMARKS)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("step, batch 1: times the frozen base", "at most 1.03"),
        ("layer: times the frozen layer, worst of all", "at most 1.3"),
        ("layer: times the fastest peer, worst of all", "at most 1"),
        ("merge, SDXL attention, fp32: KronA / read and write", "at most 1.35"),
        ("merge, SDXL attention, fp32: ComfyUI's LoKr / KronA", "at least 4"),
    ],
)
def test_the_claims_are_tight(name, wanted):
    assert f"| {name} | {wanted} |" in DOCUMENT.read_text(encoding="utf-8")


def test_an_unknown_benchmark_claims_nothing():
    assert judge("blend", {"ten": {}}) == judge("", {}) == judge("layer", {}) == []
