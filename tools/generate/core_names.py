"""Writes krona_ops/names/core_names.json: what ComfyUI's own Load LoRA calls the layers of each kind of base model,
without their blocks' numbers.

    python3 tools/host.py run tools/generate/core_names.py

tests/host/test_conversion.py fails when the file is out of date with the pinned ComfyUI.
Made from the host's own key maps and, for other tools' names, from the pack's index of them. Families of a newer host
that `tests/support/families.py` does not list are left out; nothing here has to know every family.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

PACK = Path(os.path.abspath(__file__)).parents[2]
sys.path.append(str(PACK))

from krona_ops.names.core_names import FILE, FLAT  # noqa: E402
from krona_ops.names.spellings import flat  # noqa: E402
from krona_ops.names.template import template  # noqa: E402

PREFIXES = (
    *FLAT, "transformer.", "unet.base_model.model.", "base_model.model.", "diffusion_model.", "unet.",
    "text_encoders.", "text_encoder_2.", "text_encoder.", "",
)  # fmt: skip
"""What the host's key maps put in front of a name; underscores alone behind those of ``FLAT``."""
NOT_ADAPTED = ("DepthAnything3", "RT_DETR_v4", "SAM3", "SAM31", "SeedVR2", "TripoSplat")
"""Families that nobody makes adapters for."""


def main() -> None:
    """Write the file anew."""
    sys.path[0] = os.environ["COMFYUI_PATH"]
    sys.path += [str(PACK / "tests" / "support")]
    spec = importlib.util.spec_from_file_location(
        "krona_pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    assert spec is not None  # of a file
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["krona_pack"] = module
    spec.loader.exec_module(module)
    importlib.import_module("comfy.cli_args").args.cpu = True
    logging.disable(logging.INFO)
    FILE.write_text(make(), encoding="utf-8")
    print(f"wrote {FILE}: {FILE.stat().st_size:,} bytes")


def make() -> str:
    """Ask the host: the text of the file."""
    families = importlib.import_module("families")
    encoders = importlib.import_module("text_encoders")
    made: dict[str, list[str]] = {}
    for kind, names, of in (
        ("model", families.present(), of_model),
        ("text encoder", encoders.TEXT_ENCODERS, of_encoders),
    ):
        for name in names:
            if name in NOT_ADAPTED:
                continue
            built = (families if kind == "model" else encoders).build(name)
            made.setdefault(json.dumps({"kind": kind, **of(built)}), []).append(name)
    bases = [{"names": names, **json.loads(text)} for text, names in made.items()]
    return (
        json.dumps({"bases": bases}, separators=(",", ":"), sort_keys=True).replace('},{"core"', '},\n{"core"') + "\n"
    )


def of_model(model: Any) -> dict[str, Any]:
    """The tables of one diffusion model: its layers, core's names for them, other tools' flat names."""
    lora = importlib.import_module("comfy.lora")
    index = importlib.import_module("krona_host.names.name_index").NameIndex
    sites = importlib.import_module("krona_host.names.sites")
    net, root = model.model, "diffusion_model."
    weights = {key: value for key, value in net.state_dict().items() if key.startswith(root)}
    host_map = sites.key_map(lora.model_lora_keys_unet, net)
    table = _Table(
        {key[len(root) : -len(".weight")]: value for key, value in weights.items() if key.endswith(".weight")}
    )
    for name, site in host_map.items():
        path = site.module.removeprefix(root)
        if name not in (f"{root}{path}", f"lora_unet_{path.replace('.', '_')}"):
            table.core(name, path, site)
    for name, place in index.of_model(net, host_map).entries():
        if len(place) == 1:
            table.other(name, place[0].module.removeprefix(root), place[0])
    parameters = {template(key)[0] for key in weights if not key.endswith((".weight", ".bias"))}
    return {**table.made(), "parameters": sorted(parameters), **_unet(net.model_config.unet_config)}


def _unet(config: Mapping[str, Any]) -> dict[str, Any]:
    """How a UNet counts: its residual blocks per level, and the levels on the way up that have no attention."""
    if "num_res_blocks" not in config:
        return {}
    count, depths = config["num_res_blocks"][0], list(reversed(config["transformer_depth_output"]))
    levels = range(len(config["channel_mult"]))
    plain = [level for level in levels if not depths[level * (count + 1) + count]]
    return {"unet": {"residual": count, "without_attention": plain}}


def of_encoders(clip: Any) -> dict[str, Any]:
    """The tables of the text encoders that one model has."""
    lora = importlib.import_module("comfy.lora")
    index = importlib.import_module("krona_host.names.name_index").NameIndex
    sites = importlib.import_module("krona_host.names.sites")
    net = clip.cond_stage_model
    table = _Table(
        {key[: -len(".weight")]: value for key, value in net.state_dict().items() if key.endswith(".weight")}
    )
    for name, site in sites.key_map(lora.model_lora_keys_clip, net).items():
        if name != f"text_encoders.{site.module}":
            table.core(name, site.module, site)
    for name, place in index.of_text_encoders(net).entries(several=True):
        table.other(name, place[0].module, place[0])
    return table.made()


class _Table:
    """Names by template, with the layer that each one is."""

    def __init__(self, layers: Mapping[str, Any]) -> None:
        self.layers = layers
        self.paths = list(dict.fromkeys(template(path)[0] for path in layers))
        self.by_core: dict[str, set[tuple[int, str]]] = {}
        self.by_other: dict[str, set[tuple[int, str]]] = {}

    def core(self, name: str, path: str, site: Any) -> None:
        """A name that the host's key map has."""
        self._put(self.by_core, name, path, site)

    def other(self, name: str, path: str, site: Any) -> None:
        """A flat name that some tool has; the layer's own path goes without saying."""
        if name != flat(path):
            self._put(self.by_other, name, path, site)

    def _put(self, table: dict[str, set[tuple[int, str]]], name: str, path: str, site: Any) -> None:
        if path in self.layers:
            (spelled, numbers), (pattern, wanted) = template(name), template(path)
            where = self.paths.index(pattern) if numbers == wanted else -1
            table.setdefault(spelled, set()).add((where, _part(site, self.layers[path].shape[0])))

    def made(self) -> dict[str, Any]:
        """As the file holds it: core's names in groups of those that go by the same prefixes."""
        groups: dict[tuple[str, ...], dict[str, Any]] = {}
        known = {name: ids.pop() if len(ids) == 1 else (-1, "") for name, ids in self.by_core.items()}
        bare = {_bare(name) for name in known if not name.startswith(FLAT)} | {_bare(name) for name in known}
        dotted = {_bare(name) for name in known if not name.startswith(FLAT)}
        for name in sorted(bare, key=lambda name: (name not in dotted, name)):
            prefixes = tuple(p for p in PREFIXES if p + (name.replace(".", "_") if p in FLAT else name) in known)
            by_target: dict[Any, list[str]] = {}
            for prefix in prefixes:
                by_target.setdefault(
                    known.pop(prefix + (name.replace(".", "_") if prefix in FLAT else name)), []
                ).append(prefix)
            for target, same in by_target.items():
                groups.setdefault(tuple(same), {})[name] = target
        core = [[list(prefixes), dict(sorted(names.items()))] for prefixes, names in sorted(groups.items())]
        others = {name: sorted(ids) for name, ids in sorted(self.by_other.items()) if min(ids)[0] >= 0}
        return {"layers": self.paths, "core": core, "others": others}


def _bare(name: str) -> str:
    return name[len(next(p for p in PREFIXES if name.startswith(p))) :]


def _part(site: Any, height: int) -> str:
    """Which part of the weight: ``1/3:1/3`` is the second third of its rows,
    ``swap`` has its halves in the other order."""
    if site.function is not None:
        return "swap"
    if site.offset is None:
        return ""
    _, start, length = site.offset
    return f"{Fraction(start, height)}:{Fraction(length, height)}"


if __name__ == "__main__":
    main()
