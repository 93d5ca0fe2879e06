"""The newest editor that the browser tests look at, beside the one that ComfyUI brings along.

python tools/host.py run tools/comfyui/frontend.py       its folder, for ComfyUI's --front-end-root
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

PACK = Path(os.path.abspath(__file__)).parents[2]
if __name__ == "__main__":
    sys.path[0] = str(PACK)  # instead of this file's folder, so that `tools` is one package for scripts and for tests

from tools.install import cache, command  # noqa: E402
from tools.install.lock import locked  # noqa: E402

VERSION = "1.58.1"
"""The newest on PyPI when this was last looked at."""


def install() -> Path:
    """The folder with its index.html; downloaded once.

    Raises:
        HostError: No network, or no such version.
    """
    root = cache.make_folder(cache.cache_folder())
    folder = root / f"frontend-{VERSION}"
    static = folder / "comfyui_frontend_package" / "static"
    with locked(root / "frontend.lock", lambda: None):
        if not (static / "index.html").is_file():
            part = root / f"frontend-{VERSION}.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            wanted: list[str | Path] = ["install", "--no-deps", "--target", part]
            wanted.append(f"comfyui-frontend-package=={VERSION}")
            command.pip(Path(sys.executable), wanted, root / "frontend.log", f"Downloading ComfyUI's editor {VERSION}")
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
    return static


if __name__ == "__main__":
    print(install())
