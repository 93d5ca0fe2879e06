"""Write what the translations in ``locales/`` start from,
and say which of them are missing or were made from an older text.

    python3 tools/host.py run tools/generate/locales.py             writes locales/en, tidies the others, lists what is to do
    python3 tools/host.py run tools/generate/locales.py --accept    says that zh and ja are translations of the texts as they are now

English is what the nodes themselves say. Chinese and Japanese are written by hand, in ``locales/<language>/*.json``;
the English texts that they were made from are kept in ``tools/generate/translated_from.json``.
tests/tools/test_locales.py fails when one of them is behind.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PACK = Path(__file__).absolute().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

from tools.comfyui.server import Server  # noqa: E402

FOLDER = PACK / "locales"
LANGUAGES = ("zh", "ja")
SOURCES = PACK / "tools" / "generate" / "translated_from.json"
"""Outside ``locales/``, all of which ComfyUI sends to the browser."""
GROWN = 8
"""How many sockets of an input that grows them have a tooltip."""

SETTINGS = {
    "KronA_Uploads_LargestFile": {
        "name": "KronA: Largest file to upload",
        "tooltip": "In megabytes. Adapters that are dropped on the canvas, or chosen with a loader's Upload button, are sent "
        "up to this size.",
    },
}
COMMANDS = {
    "KronA_ShowTrainings": {"label": "KronA: show trainings"},
    "KronA_AddFiles": {"label": "KronA: add adapter files…"},
}
"""What the browser's part of the pack registers, in web/*/feature.mjs; tests/web/test_languages.py compares."""
MAIN = {"nodeCategories": {"KronA": "KronA"}, "settingsCategories": {"KronA": "KronA", "Uploads": "Uploads"}}
Table = dict[str, Any]


def english(object_info: Mapping[str, Any]) -> dict[str, Table]:
    """File to table, as ComfyUI's editor looks texts up: ``nodeDefs.<node>.inputs.<input>.tooltip`` and so on."""
    nodes = {kind: _node(info) for kind, info in sorted(object_info.items()) if kind.startswith("Krona")}
    return {"main": MAIN, "nodeDefs": nodes, "settings": SETTINGS, "commands": COMMANDS}


def _node(info: Mapping[str, Any]) -> Table:
    inputs: Table = {}
    for section in ("required", "optional"):
        for name, (kind, *options) in info["input"].get(section, {}).items():
            settings = options[0] if options else {}
            inputs[name] = _said(name, settings.get("tooltip"))
            if kind == "COMFY_AUTOGROW_V3":
                template = settings["template"]
                [(_, *grown)] = template["input"]["required"].values()
                for number in range(min(GROWN, template["max"])):
                    label = f"{template['prefix']}{number}"
                    inputs[f"{name}_{label}"] = _said(label, grown[0].get("tooltip"))
    outputs = {
        str(number): _said(name, tooltip)
        for number, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
    }
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": inputs,
        "outputs": outputs,
    }


def _said(name: str, tooltip: str | None) -> Table:
    return {"name": name, **({"tooltip": tooltip} if tooltip else {})}


def texts(tables: Mapping[str, Table]) -> dict[str, str]:
    """All texts by the path that leads to them: ``nodeDefs.KronaLoad.inputs.file.tooltip``."""
    return dict(_texts(tables, ()))


def _texts(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, (*path, key))
    else:
        yield ".".join(path), value


def read(language: str) -> dict[str, Table]:
    """The tables of a language."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((FOLDER / language).glob("*.json"))
    }


def write(language: str, tables: Mapping[str, Table]) -> None:
    """Write the tables of a language."""
    (FOLDER / language).mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        (FOLDER / language / f"{name}.json").write_text(
            json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def like(english: Any, translated: Any) -> Any:
    """The translation in the order of the English table, without what English does not have any more."""
    if not isinstance(english, Mapping):
        return translated if isinstance(translated, str) else None
    table = translated if isinstance(translated, Mapping) else {}
    made = {key: like(inner, table.get(key)) for key, inner in english.items()}
    return {key: inner for key, inner in made.items() if inner is not None}


def behind(english: Mapping[str, Table], translated: Mapping[str, Table], sources: Mapping[str, str]) -> list[str]:
    """What is to do for a language, by path; empty when it is up to date.

    Args:
        sources: The English text that each translation was made from.
    """
    now, there = texts(english), texts(translated)
    problems = [f"missing: {path}" for path in now if path not in there]
    problems += [f"not in English any more: {path}" for path in there if path not in now]
    problems += [f"made from an older text: {path}" for path in now if path in there and sources.get(path) != now[path]]
    return problems


def main(arguments: list[str]) -> int:
    """The command line; the exit status."""
    with tempfile.TemporaryDirectory() as base, Server(base, packs={"krona": PACK}, cpu=True) as server:
        tables = english(server.client.object_info())
    write("en", tables)
    for language in LANGUAGES:
        write(language, like(tables, read(language)))
    if "--accept" in arguments:
        SOURCES.write_text(json.dumps(texts(tables), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sources = json.loads(SOURCES.read_text(encoding="utf-8")) if SOURCES.exists() else {}
    todo = [f"{language}: {line}" for language in LANGUAGES for line in behind(tables, read(language), sources)]
    print("\n".join((*todo, f"{len(texts(tables))} texts, {len(todo)} to do")))
    return bool(todo)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
