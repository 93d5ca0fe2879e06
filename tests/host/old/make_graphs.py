"""How the graphs in this folder were made: from an old commit's examples, and what its own server said of its nodes.

    git worktree add --detach /somewhere/old COMMIT
    python3 tools/host.py run tests/host/old/make_graphs.py COMMIT /somewhere/old

`graphs/<name>.json` has the workflow as the editor saves it, and the graph that it posts, which names each input.
`nodes.json` has of each node its inputs with their types, which of them are widgets, and its outputs.
"""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parents[2])

from tools.comfyui.server import Server  # noqa: E402
from tools.comfyui.workflow import to_api, widgets  # noqa: E402

CHOSEN = {
    "b76559f": ("1 - train on a folder", "2 - load and apply"),
    "f317e4e": ("3 - DreamBooth with previews", "6 - blend of three", "9 - per-block weights"),
    "0a0a05a": ("7 - compare LoRA with KronA", "8 - strength schedule", "10 - small world, train two subjects"),
}


def described(info: dict) -> dict:
    """What of a node must stay."""
    sections = (info["input"].get(section, {}) for section in ("required", "optional"))
    inputs = {name: options[0] for section in sections for name, options in section.items()}
    kinds = {name: "COMBO" if isinstance(kind, list) else kind for name, kind in inputs.items()}
    return {"inputs": kinds, "widgets": [name for name, _ in widgets(info)], "outputs": info["output"]}


def without_control(info: dict) -> dict:
    """As the first commit's nodes were read: no control behind a seed that does not say so."""
    for section in info["input"].values():
        for _, *options in section.values() if isinstance(section, dict) else ():
            if options:
                options[0].setdefault("control_after_generate", False)
    return info


def main(commit: str, pack: str) -> None:
    """Make the fixtures of one commit anew."""
    out = HERE / commit
    (out / "graphs").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base, Server(Path(base), packs={"krona": Path(pack)}, cpu=True) as server:
        known = server.client.object_info()
    known = {name: without_control(info) if info["category"] == "KronA" else info for name, info in known.items()}
    ours = {name: described(info) for name, info in sorted(known.items()) if info["category"] == "KronA"}
    (out / "nodes.json").write_text(json.dumps(ours, separators=(",", ":")) + "\n", encoding="utf-8")
    for name in CHOSEN[commit]:
        workflow = json.loads((Path(pack) / "example_workflows" / f"KronA {name}.json").read_text(encoding="utf-8"))
        workflow["nodes"] = [node for node in workflow["nodes"] if node["type"] != "MarkdownNote"]
        both = {"workflow": workflow, "graph": to_api(workflow, known)}
        text = json.dumps(both, separators=(",", ":")) + "\n"
        (out / "graphs" / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
