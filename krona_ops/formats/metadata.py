"""What a file says about itself in words that other programs read: kohya's ``ss_*`` and Stability's ``modelspec.*``.

Managers show the title, the trigger words, the base model and the thumbnail of a file from these entries. Lora-Manager
(read at 25e72b4 of August 2026) takes none of them, base model and words included, from the file: they stand in
``<name>.metadata.json`` beside it, see `manager_entry`.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping

from ..border import Border, Limits
from ..errors import AdapterFileError, ConfigError
from ..names.families import base_of
from ..updates.adapter import Adapter
from ..updates.delta import Delta, Dora, Kron, Sum
from ..updates.factor import LowRank, Tucker
from ..updates.gates import is_gate

MODELSPEC = "1.0.1"
MOST_TRIGGERS = 3
MOST_TIMES = 10**12
"""That a tag may occur."""
_TAGS = Border(limits=Limits(size=8_000_000, depth=4, values=400_000))
_IMAGES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"RIFF": "image/webp",
    b"GIF8": "image/gif",
}


def modelspec(*, title: str, trigger: str = "") -> dict[str, str]:
    """The ModelSpec entries that every file written by this pack has."""
    return {
        "modelspec.sai_model_spec": MODELSPEC,
        "modelspec.title": title,
        "modelspec.implementation": "krona",
        "modelspec.trigger_phrase": trigger,
    }


def with_standard_metadata(
    adapter: Adapter,
    *,
    title: str | None = None,
    base_model: str | None = None,
    trigger: str | None = None,
    description: str | None = None,
    author: str | None = None,
    license: str | None = None,
    tags: tuple[str, ...] = (),
    thumbnail: bytes | None = None,
) -> Adapter:
    """The adapter with the metadata that managers show. What it already says is kept where nothing new is given.

    Args:
        base_model: As kohya spells it: ``sdxl_base_v1-0``, ``sd_v1``, ….
        trigger: The words that call up what was trained.
        thumbnail: The bytes of a PNG, JPEG, WebP or GIF picture.

    Raises:
        ConfigError: The thumbnail is no such picture.
    """
    given = {
        "modelspec.title": title,
        "ss_output_name": title,
        "ss_base_model_version": base_model,
        "modelspec.trigger_phrase": trigger,
        "modelspec.description": description,
        "modelspec.author": author,
        "modelspec.license": license,
        "modelspec.tags": ", ".join(tags) or None,
        "modelspec.thumbnail": _data_uri(thumbnail) if thumbnail is not None else None,
    }
    standard = {"modelspec.sai_model_spec": MODELSPEC, "modelspec.implementation": "krona", **network_facts(adapter)}
    return adapter.with_metadata(
        **{**standard, **adapter.metadata, **{k: v for k, v in given.items() if v is not None}}
    )


_MANAGERS_BASES = {
    "SD1.5": "SD 1.5", "SD2": "SD 2.1", "SDXL": "SDXL 1.0", "SD3": "SD 3.5", "Flux.1": "Flux.1 D", "Flux.2": "Flux.2 D", "Flux2": "Flux.2 D",
    "AuraFlow": "AuraFlow", "Chroma": "Chroma", "Lumina2": "Lumina", "Lumina 2": "Lumina", "ZImage": "ZImageTurbo", "Z-Image": "ZImageTurbo",
    "HiDream": "HiDream", "QwenImage": "Qwen", "Qwen-Image": "Qwen", "LTXV": "LTXV", "LTXAV": "LTXV2", "HunyuanVideo": "Hunyuan Video",
    "GenmoMochi": "Mochi", "PixArtAlpha": "PixArt a", "PixArtSigma": "PixArt E", "Anima": "Anima", "Krea2": "Krea 2", "ErnieImage": "Ernie",
    "Ernie-Image": "Ernie", "Kolors": "Kolors", "ACEStep": "ACE Audio", "ACEStep15": "ACE Audio", "Ideogram4": "Ideogram 4.0",
    "WAN21_T2V": "Wan Video", "WAN21_I2V": "Wan Video", "WAN22_T2V": "Wan Video 2.2 TI2V-5B", "Wan": "Wan Video",
}  # fmt: skip
"""Lora-Manager sorts by these words; another one is shown as it is."""


def manager_entry(
    adapter: Adapter, *, path: str, size: int, modified: float, sha256: str, picture: str = ""
) -> dict[str, object]:
    """What ``<name>.metadata.json`` beside an adapter's file holds for Lora-Manager:
    its required facts, the base model in its words, and the trigger words.

    Args:
        path: The file's full path, with forward slashes.
        modified: When the file was written, in seconds since 1970.
        sha256: Of the whole file, in hexadecimal digits.
        picture: Full path of a picture beside it; may be empty.
    """
    name = path.rpartition("/")[2].rpartition(".")[0]
    base = base_of(adapter.metadata, {str(layer): delta.shape for layer, delta in adapter.layers.items()})
    words = list(trigger_words(adapter.metadata))
    return {
        "file_name": name,
        "model_name": title_of(adapter.metadata) or name,
        "file_path": path,
        "size": size,
        "modified": modified,
        "sha256": sha256,
        "base_model": _MANAGERS_BASES.get(base, base) or "Unknown",
        "preview_url": picture,
        "notes": "",
        "from_civitai": False,
        "civitai": {"trainedWords": words},
        "trainedWords": words,
        "modelDescription": description_of(adapter.metadata),
        "tags": [tag.strip() for tag in adapter.metadata.get("modelspec.tags", "").split(",") if tag.strip()],
        "usage_tips": "{}",
    }


def network_facts(adapter: Adapter) -> dict[str, str]:
    """kohya's words for the kind and size of a network. The scale is in the tensors;
    none of these changes it on reading."""
    methods = sorted({_method(delta) for name, delta in adapter.layers.items() if not is_gate(name)})
    ranks = [rank for delta in adapter.layers.values() if (rank := _rank(delta))]
    facts = {"ss_network_module": "krona", "ss_network_args": json.dumps({"algo": "+".join(methods)})}
    if ranks:
        facts |= {"ss_network_dim": str(max(ranks)), "ss_network_alpha": str(max(ranks))}
    return facts


def _method(delta: Delta) -> str:
    if isinstance(delta, Dora):
        return _method(delta.delta)
    if isinstance(delta, Kron):
        return "lokr"
    if isinstance(delta, Sum):
        return "sum"
    return "lora" if _rank(delta) else "full"


def _rank(delta: Delta) -> int | None:
    factor = getattr(delta, "factor", None)
    return factor.down.shape[0] if isinstance(factor, LowRank | Tucker) else None


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """What calls up the subject: the trigger phrase, else the captions or tags that were
    trained most often; may be empty."""
    phrase = metadata.get("modelspec.trigger_phrase", "").strip()
    if phrase:
        return (phrase,)
    counts = _tag_counts(metadata.get("ss_tag_frequency", ""))
    most = max(counts.values(), default=0)
    return tuple(tag for tag, count in counts.most_common(MOST_TRIGGERS) if count == most)


def _tag_counts(text: str) -> Counter[str]:
    """How often each tag occurs in kohya's ``{folder: {tag: count}}``; nothing where it is something else."""
    try:
        folders = _TAGS.json(text)
    except AdapterFileError:
        folders = None
    counts: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if tag.strip() and isinstance(count, int) and 0 < count < MOST_TIMES:
                counts[tag.strip()] += count
    return counts


def title_of(metadata: Mapping[str, str]) -> str:
    """What the file calls itself; may be empty."""
    return metadata.get("modelspec.title") or metadata.get("ss_output_name") or ""


def description_of(metadata: Mapping[str, str]) -> str:
    """What the file says about itself in prose; may be empty."""
    return metadata.get("modelspec.description") or metadata.get("ss_training_comment") or ""


def thumbnail_in(metadata: Mapping[str, str], most_bytes: int) -> bytes | None:
    """The picture in a file's metadata; ``None`` where there is none, or something else, or a larger one."""
    head, _, text = metadata.get("modelspec.thumbnail", "").partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")) or len(text) > most_bytes * 4 / 3 + 4:
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return data if picture_type(data) is not None else None


def picture_type(data: bytes) -> str | None:
    """``image/png`` and so on, told by how the bytes begin; ``None`` for all but the four kinds that managers show."""
    kind = next((kind for start, kind in _IMAGES.items() if data.startswith(start)), None)
    return None if kind == "image/webp" and data[8:12] != b"WEBP" else kind


def _data_uri(picture: bytes) -> str:
    kind = picture_type(picture)
    if kind is None:
        raise ConfigError(
            "The thumbnail is no picture that managers show.",
            found=picture[:8],
            expected="PNG, JPEG, WebP or GIF",
            remedy="Give the bytes of such a file.",
        )
    return f"data:{kind};base64,{base64.b64encode(picture).decode('ascii')}"
