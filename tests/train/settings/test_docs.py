"""docs/training.md and the nodes' help pages: complete, up to date, and what they show works."""

import ast
import json
import re
from pathlib import Path

import pytest

from krona_train.config import from_yaml
from krona_train.run.job import Job
from tools.generate.settings_table import DOCUMENT, docstrings, make, sections

ROOT = Path(__file__).resolve().parents[3]
HELP = {
    "KronaTrain": "train.py",
    "KronaTargets": "targets.py",
    "KronaTrainSettings": "settings.py",
    "KronaDataset": "dataset.py",
}
TEXT = DOCUMENT.read_text(encoding="utf-8")


def test_the_table_of_settings_is_that_of_the_dataclasses():
    assert make(TEXT) == TEXT, "run: python3 tools/host.py run tools/generate/settings_table.py"


def test_every_setting_says_what_it_is():
    silent = [
        f"{place}.{f.name}" for place, _, kind, fields in sections(Job) for f in fields if not docstrings(kind).get(f.name)
    ]
    assert silent == []


def test_a_table_that_is_out_of_date_is_found():
    line = next(line for line in TEXT.splitlines() if line.startswith("| `learning_rate` |"))
    assert make(TEXT.replace(line, line.replace("0.0005", "0.001"))) == TEXT


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
def test_every_run_yaml_that_is_shown_can_be_read(text):
    job = from_yaml(text, Job)
    assert job.pictures.folder or job.pictures.is_of_prompts
    assert job.model.checkpoint or job.model.diffusion_model


def anchors(text):
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", ["docs/training.md", "docs/architecture.md", "README.md", "CHANGELOG.md"])
def test_every_link_inside_the_pack_leads_somewhere(name):
    page = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def inputs(source):
    """The names of a node's inputs, as its file declares them."""
    tree = ast.parse(source)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant):
            function = call.func
            if (isinstance(function, ast.Attribute) and function.attr == "Input") or (
                isinstance(function, ast.Name) and function.id.startswith(("optional_", "number_input"))
            ):
                yield call.args[0].value


@pytest.mark.parametrize("node", HELP)
def test_every_input_of_the_training_nodes_has_its_word_on_the_help_page(node):
    page = (ROOT / "web" / "docs" / f"{node}.md").read_text(encoding="utf-8")
    names = list(inputs((ROOT / "nodes" / HELP[node]).read_text(encoding="utf-8")))
    assert len(names) > 8
    bold = " ".join(re.findall(r"\*\*(.*?)\*\*", page))
    assert [name for name in names if not re.search(rf"\b{name}\b", bold)] == []


def test_the_measured_memory_is_that_of_the_named_file():
    named = re.search(r"\(\.\./(benchmarks/results/memory-[^)]+)\)", TEXT)
    results = json.loads((ROOT / named[1]).read_text(encoding="utf-8"))["results"]
    told = re.search(r"falls from (\d+) MB to (\d+) MB with `blocks` and to (\d+) MB", " ".join(TEXT.split()))
    rows = [results[row] for row in ("ours", "ours, blocks", "ours, offloaded")]
    assert all(isinstance(row, dict) for row in rows), f"{named[1]} holds a benchmark that failed: {rows[0]}"
    assert [int(n) for n in told.groups()] == [round(row["activations"]) for row in rows]
