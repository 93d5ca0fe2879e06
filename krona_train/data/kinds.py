"""Which files are read as pictures, and why others are not, by the endings of their names."""

from __future__ import annotations

import importlib
import logging
from functools import lru_cache

from PIL import Image, features

log = logging.getLogger(__name__)

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
    *(".avif", ".jp2", ".jpx", ".jpf", ".j2k", ".j2c", ".jpc", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    *(".tga", ".psd", ".qoi"),
)
"""Endings of the pictures that Pillow reads by itself, in small letters."""
USUAL = "PNG, JPEG, WebP, AVIF, TIFF, BMP or GIF"
PICTURE_FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "TGA", "PSD", "QOI"),
    *("HEIF", "JXL"),
)
"""What a file may be inside, whatever its ending. Those that start other programs, as EPS does, are not among them."""


def _table(*rows: tuple[str, str]) -> dict[str, str]:
    """Each ending with its dot, to its text; a row has several endings."""
    return {f".{ending}": reason for endings, reason in rows for ending in endings.split()}


_PLUGINS = _table(
    ("heic heif heics hif", "HEIC pillow_heif pillow-heif"),
    ("avif avifs", "AVIF pillow_avif pillow-avif-plugin"),
    ("jxl", "JPEG-XL pillow_jxl pillow-jxl-plugin"),
)
"""Ending to the format's name, the module that teaches Pillow to read it, and the package of that module."""
_RAW = "a camera's raw picture: develop it and save it as JPEG or PNG"
_LOOKS_LIKE_A_PICTURE = _table(
    ("cr2 cr3 nef nrw arw srf dng raf orf rw2 pef srw x3f raw 3fr iiq", _RAW),
    ("svg svgz eps ai pdf ps wmf emf", "a drawing without pixels: export it as PNG"),
    ("xcf kra clip psb procreate afphoto sai sai2 blend", "an editor's own file: export it as PNG"),
    ("exr hdr", "this kind of picture is not read: save it as PNG or TIFF"),
    ("ico icns cur", "an icon, not a picture to train on"),
    ("pcx sgi dds xbm xpm fits fit wbmp jbig2 bpg jxr wdp ktx", "this kind of picture is not read: save it as PNG"),
)
_OTHER = _table(
    ("mp4 mov m4v mkv avi webm mpg mpeg wmv flv 3gp mts", "a video: save frames of it as pictures"),
    ("zip rar 7z tar gz bz2 xz tgz cbz parquet arrow tfrecord h5", "an archive: unpack it"),
    ("json xml csv tsv yaml yml toml", "captions are read from .txt, .caption, metadata.jsonl and metadata.csv"),
    ("cap tags tag caption2 wd14", "captions are read from .txt, .caption, metadata.jsonl and metadata.csv"),
)
_ELSE = "neither a picture nor a caption"
HIDDEN = "hidden, or a file of the operating system"
_OF_THE_SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "__macosx", "$recycle.bin")


def is_hidden(name: str) -> bool:
    """Whether the name is hidden (``.DS_Store``, ``._dog.jpg``), or one that an operating system makes."""
    return name.startswith(".") or name.lower() in _OF_THE_SYSTEM


def is_picture(suffix: str) -> bool:
    """Whether files of this ending are read, with a plugin of Pillow where one is needed and there."""
    suffix = suffix.lower()
    if suffix in _PLUGINS and (suffix != ".avif" or not _has_avif()):
        return _plugin(_PLUGINS[suffix].split()[1]) == ""
    return suffix in SUFFIXES


def looks_like_a_picture(suffix: str) -> bool:
    """Whether files of this ending are pictures of some kind, read or not."""
    suffix = suffix.lower()
    return suffix in SUFFIXES or suffix in _PLUGINS or suffix in _LOOKS_LIKE_A_PICTURE


def why_not(suffix: str) -> str:
    """Why files of this ending are left out, and what to do about it."""
    suffix = suffix.lower()
    if suffix in _PLUGINS:
        format_name, module, package = _PLUGINS[suffix].split()
        failed = _plugin(module)
        broken = "" if failed == _MISSING else f" (it is there, but fails: {failed})"
        return f"{format_name} needs a package, pip install {package}{broken}; or save them as JPEG or PNG"
    return _LOOKS_LIKE_A_PICTURE.get(suffix) or _OTHER.get(suffix) or _ELSE


@lru_cache(maxsize=1)
def formats() -> tuple[str, ...]:
    """The `PICTURE_FORMATS` that this Pillow has, and those that plugins have added by now."""
    Image.init()
    return tuple(name for name in PICTURE_FORMATS if name in Image.OPEN)


_MISSING = "it is not installed"


@lru_cache(maxsize=8)
def _plugin(module: str) -> str:
    """Have a plugin register itself with Pillow; returns why it did not, an empty text where it did."""
    try:
        plugin = importlib.import_module(module)
    except ModuleNotFoundError as error:
        return _MISSING if error.name == module else str(error)
    except (ImportError, OSError) as error:
        log.debug("KronA: %s cannot be imported: %s", module, error)
        return str(error)
    if module == "pillow_heif":
        plugin.register_heif_opener()
    formats.cache_clear()
    return ""


def _has_avif() -> bool:
    return "avif" in features.modules and bool(features.check("avif"))
