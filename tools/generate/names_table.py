"""Writes the tables of layer names in docs/formats.md: every family and dialect, counted on the host's own classes.

    python3 tools/host.py run tools/generate/names_table.py

The counts are those of tests/host/test_names.py, which fails when the document is out of date.
"""

import importlib.util
import logging
import os
import sys
from pathlib import Path

PACK = Path(os.path.abspath(__file__)).parents[2]
DOCUMENT = PACK / "docs" / "formats.md"


def main() -> None:
    """Count, and write the document anew."""
    sys.path[0] = os.environ["COMFYUI_PATH"]
    sys.path += [str(PACK), str(PACK / "tests" / "support")]
    importlib.import_module("comfy.cli_args").args.cpu = True
    logging.disable(logging.INFO)
    resolve = importlib.import_module("krona_host.names.resolution").resolve
    table = importlib.import_module("name_table")
    text = DOCUMENT.read_text(encoding="utf-8")
    begin, end = text.index(table.BEGIN), text.index(table.END) + len(table.END)
    made = table.make(lambda f: dict(table.model_counts(f, resolve)), lambda n: dict(table.encoder_counts(n, resolve)))
    DOCUMENT.write_text(text[:begin] + made + text[end:], encoding="utf-8")
    print(f"wrote {DOCUMENT}")


if __name__ == "__main__":
    main()
