"""Turn a workflow as the editor saves it into the form that the server runs, and back.

The editor's form keeps values in the order of a node's widgets; which inputs are widgets, and in which order, only the
server's ``object_info`` knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_AFTER_GENERATE = "fixed"

Graph = dict[str, dict]


def widgets(info: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """A node's widgets in order, and whether the editor puts a "control after generate" behind it."""
    for section in ("required", "optional"):
        for name, (kind, *options) in info["input"].get(section, {}).items():
            settings = options[0] if options else {}
            if (isinstance(kind, list) or kind in WIDGETS) and not settings.get("forceInput"):
                # The editor adds the control to anything called a seed, unless the node says no.
                yield name, bool(settings.get("control_after_generate", name in ("seed", "noise_seed")))


def sockets(info: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """A node's inputs that are no widgets: name, type, and whether it is optional."""
    names = {name for name, _ in widgets(info)}
    for section in ("required", "optional"):
        for name, (kind, *_) in info["input"].get(section, {}).items():
            if name not in names:
                yield name, kind, section == "optional"


def to_api(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Graph:
    """The graph to post.

    Args:
        workflow: As the editor saves it.
        object_info: As the server gives it.

    Raises:
        KeyError: The server does not have one of the nodes.
    """
    origins = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph: Graph = {}
    for node in workflow["nodes"]:
        if node["type"] in ("Note", "MarkdownNote"):
            continue
        inputs: dict[str, Any] = {}
        values = iter(node.get("widgets_values", []))
        for name, has_control in widgets(object_info[node["type"]]):
            inputs[name] = next(values)
            if has_control:
                next(values)
        inputs |= {
            slot["name"]: origins[slot["link"]] for slot in node.get("inputs", []) if slot.get("link") is not None
        }
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def to_workflow(
    graph: Graph, object_info: Mapping[str, Any], layout: Mapping[str, tuple[int, ...]], notes: Mapping[str, Any]
) -> dict:
    """The workflow that the editor shows for a graph.

    Args:
        graph: In API format, node ids are numbers.
        layout: Position in pixels by node id, and behind it width and height where they are not the usual ones.
        notes: ``{title: (text, position, size)}`` of the notes beside the nodes.
    """
    links: list[list] = []
    nodes = {
        key: _node(key, graph[key], object_info[graph[key]["class_type"]], layout[key], order)
        for order, key in enumerate(graph)
    }
    for key, entry in graph.items():
        for slot, socket in enumerate(nodes[key]["inputs"]):
            value = entry["inputs"].get(socket["name"])
            if not isinstance(value, list):
                continue
            origin, output = str(value[0]), value[1]
            socket["link"] = len(links) + 1
            kind = nodes[origin]["outputs"][output]["type"]
            nodes[origin]["outputs"][output]["links"].append(len(links) + 1)
            links.append([len(links) + 1, int(origin), output, int(key), slot, kind])
    last = max(map(int, graph))
    for number, (title, (text, position, size)) in enumerate(notes.items(), 1):
        nodes[title] = {
            "id": last + number, "type": "MarkdownNote", "pos": list(position), "size": list(size), "flags": {}, "order": 0, "mode": 0,
            "inputs": [], "outputs": [], "title": title, "properties": {}, "widgets_values": [text], "color": "#432", "bgcolor": "#653",
        }  # fmt: skip
    return {
        "last_node_id": last + len(notes), "last_link_id": len(links), "nodes": list(nodes.values()), "links": links,
        "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def _kind(info: Mapping[str, Any], name: str) -> str:
    """The type of an input's wires."""
    kind = {**info["input"].get("required", {}), **info["input"].get("optional", {})}[name][0]
    return "COMBO" if isinstance(kind, list) else kind


def _default(info: Mapping[str, Any], name: str) -> Any:
    kind, *options = {**info["input"].get("required", {}), **info["input"].get("optional", {})}[name]
    settings = options[0] if options else {}
    choices = kind if isinstance(kind, list) else settings.get("options", [None])
    return settings.get("default", choices[0] if choices else None)


def _slots(name: str, kind: str, optional: bool, entry: Mapping[str, Any], info: Mapping[str, Any]) -> Iterator[dict]:
    """The sockets of an input: one, or of an input that grows one for each wire and a free one."""
    if kind != "COMFY_AUTOGROW_V3":
        yield {"name": name, "type": kind, "link": None, **({"shape": 7} if optional else {})}
        return
    template = {**info["input"].get("required", {}), **info["input"].get("optional", {})}[name][1]["template"]
    [(grown, *_)] = template["input"]["required"].values()
    wired = sum(key.startswith(f"{name}.") for key in entry["inputs"])
    for number in range(min(wired + 1, template["max"])):
        label = f"{template['prefix']}{number}"
        shape = {} if number < template["min"] else {"shape": 7}
        yield {"name": f"{name}.{label}", "label": label, "type": grown, "link": None, **shape}


def _node(key: str, entry: Mapping[str, Any], info: Mapping[str, Any], place: tuple[int, ...], order: int) -> dict:
    values: list[Any] = []
    for name, has_control in widgets(info):
        value = entry["inputs"].get(name, _default(info, name))
        values.append("" if isinstance(value, list) else value)
        if has_control:
            values.append(_AFTER_GENERATE)
    inputs = [slot for name, kind, optional in sockets(info) for slot in _slots(name, kind, optional, entry, info)]
    inputs += [
        {"name": name, "type": _kind(info, name), "link": None, "widget": {"name": name}}
        for name, _ in widgets(info)
        if isinstance(entry["inputs"].get(name), list)
    ]
    outputs = [
        {"name": name, "type": kind, "links": []}
        for name, kind in zip(info["output_name"], info["output"], strict=True)
    ]
    return {
        "id": int(key), "type": entry["class_type"], "pos": list(place[:2]),
        "size": list(place[2:]) or [315, 60 + 26 * (len(values) + len(inputs))],
        "flags": {}, "order": order, "mode": 0, "inputs": inputs, "outputs": outputs,
        "properties": {"Node name for S&R": entry["class_type"]}, "widgets_values": values,
    }  # fmt: skip
