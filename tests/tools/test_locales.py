"""Names and tooltips in other languages: complete, up to date, and what ComfyUI's editor can show."""

import json
import re
from functools import cache

import pytest

from tools.comfyui.server import PACK, Server
from tools.generate.locales import FOLDER, LANGUAGES, SOURCES, behind, english, like, read, texts

SYNTAX = re.compile(r"[{}@|]")
"""What the editor's translator takes for more than text, except in tooltips."""


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("base"), packs={"krona": PACK}, cpu=True) as server:
        return english(server.client.object_info())


@cache
def sources():
    return json.loads(SOURCES.read_text(encoding="utf-8"))


def test_english_is_what_the_nodes_say(now):
    assert read("en") == json.loads(json.dumps(now)), "run: python3 tools/host.py run tools/generate/locales.py"


def test_every_node_has_its_table(now):
    assert len(now["nodeDefs"]) == 28
    assert all(table["description"] for table in now["nodeDefs"].values())
    assert [name for name, table in now["nodeDefs"].items() if not table["inputs"]] == ["KronaWorldLoader"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_every_text_and_none_is_older_than_the_english(now, language):
    assert behind(now, read(language), sources()) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_is_in_its_language(language):
    script = {"zh": r"[\u4e00-\u9fff]", "ja": r"[\u3040-\u30ff\u4e00-\u9fff]"}[language]
    told = texts(read(language))
    prose = {path: text for path, text in told.items() if path.endswith((".tooltip", ".description"))}
    assert len(prose) > 200
    assert [path for path, text in prose.items() if not re.search(script, text)] == []
    assert [path for path, text in prose.items() if text == sources()[path]] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_survive_translation(language):
    """A tooltip's numbers are advice: 5e-4 must not become 5e-5. Words for numbers may become figures, never the reverse."""
    lost = []
    for path, text in texts(read(language)).items():
        figures = re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", sources()[path])
        lost += [f"{path}: {figure}" for figure in figures if figure not in text]
    assert lost == []


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_texts_that_the_editor_parses_have_no_syntax_in_them(language):
    parsed = {path: text for path, text in texts(read(language)).items() if not path.endswith(".tooltip")}
    assert [path for path, text in parsed.items() if SYNTAX.search(text)] == []


def test_the_folder_holds_the_languages_and_nothing_else():
    assert {path.name for path in FOLDER.iterdir()} == {"en", *LANGUAGES}
    assert all(path.name in ("main.json", "nodeDefs.json", "settings.json", "commands.json") for path in FOLDER.glob("*/*"))


ENGLISH = {"nodeDefs": {"Node": {"display_name": "Node", "inputs": {"file": {"name": "file", "tooltip": "The file."}}}}}
CHINESE = {"nodeDefs": {"Node": {"display_name": "节点", "inputs": {"file": {"name": "文件", "tooltip": "文件。"}}}}}


def test_a_text_without_a_translation_is_named():
    short = {"nodeDefs": {"Node": {"display_name": "节点"}}}
    assert behind(ENGLISH, short, texts(ENGLISH)) == [
        "missing: nodeDefs.Node.inputs.file.name",
        "missing: nodeDefs.Node.inputs.file.tooltip",
    ]


def test_a_translation_of_an_older_text_is_named():
    older = texts(ENGLISH) | {"nodeDefs.Node.inputs.file.tooltip": "Another file."}
    assert behind(ENGLISH, CHINESE, older) == ["made from an older text: nodeDefs.Node.inputs.file.tooltip"]


def test_a_translation_of_what_is_gone_is_named_and_tidied_away():
    more = {"nodeDefs": {**CHINESE["nodeDefs"], "Gone": {"display_name": "没有"}}}
    assert behind(ENGLISH, more, texts(ENGLISH)) == ["not in English any more: nodeDefs.Gone.display_name"]
    assert like(ENGLISH, more) == CHINESE
