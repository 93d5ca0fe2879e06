"""Workflows that old commits saved, opened in the real editor: it posts the values that it posted then."""

import json
from pathlib import Path

import pytest

OLD = Path(__file__).resolve().parents[1] / "host" / "old"
GRAPHS = sorted(OLD.glob("*/graphs/*.json"), key=lambda path: (path.parts[-3], path.stem))


@pytest.mark.parametrize("mode", ["canvas"], indirect=True)
def test_an_old_workflow_posts_what_it_posted_then(editor):
    editor.forgive_errors("/krona/adapter")  # the files that their loaders name are not there
    different = {}
    for path in GRAPHS:
        fixture = json.loads(path.read_text(encoding="utf-8"))
        posted = editor.page.evaluate(
            """async (graph) => {
                await app.loadGraphData(graph);
                return (await app.graphToPrompt()).output;
            }""",
            fixture["workflow"],
        )
        then = fixture["graph"]
        assert posted.keys() == then.keys()
        different |= {
            (path.parts[-3], path.stem, key, name): (value, posted[key]["inputs"].get(name))
            for key, node in then.items()
            for name, value in node["inputs"].items()
            if posted[key]["inputs"].get(name) != value
        }
        assert not [name for node in posted.values() for name, value in node["inputs"].items() if value is None]
    assert len(GRAPHS) == 8
    assert different == {}
