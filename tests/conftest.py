"""What all tests share: the pack importable as ComfyUI imports it, and the real host on the CPU."""

import gc
import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONG = {line for line in (ROOT / "tests" / "long.txt").read_text("utf-8").splitlines() if not line.startswith("#")}
IN_THE_HOST = ("tests/host", "tests/proof", "tests/slow", "tests/tools", "tests/web", "tests/world")
"""Folders whose tests need ComfyUI, or tools that look for it."""


def pytest_configure(config):
    """ComfyUI first on the path, as in its own process; the pack under another name, so that `nodes` is the host's."""
    gc.disable()  # until all tests are collected: nothing of them is garbage, and looking for it took a fifth of the time
    comfyui = os.environ.get("COMFYUI_PATH")
    if not comfyui:
        return
    sys.path.insert(0, comfyui)
    where = {"submodule_search_locations": [str(ROOT)]}
    spec = importlib.util.spec_from_file_location("krona_pack", ROOT / "__init__.py", **where)
    module = importlib.util.module_from_spec(spec)
    sys.modules["krona_pack"] = module
    spec.loader.exec_module(module)


def pytest_collection_finish():
    """Garbage is collected again; what has been imported and collected until now is none."""
    gc.freeze()
    gc.enable()


def pytest_ignore_collect(collection_path):
    """Without ComfyUI, the folders that need it are not even imported."""
    inside = collection_path.is_relative_to(ROOT) and collection_path.relative_to(ROOT).as_posix()
    return True if not os.environ.get("COMFYUI_PATH") and inside in IN_THE_HOST else None


def marks_of(place, name, fixtures):
    """The markers of one test, from where it is and what it takes."""
    if place.startswith(tuple(f"{folder}/" for folder in IN_THE_HOST)) or "comfy" in fixtures:
        yield "host"
    if place.startswith("tests/web/") and {"chromium", "editor"} & set(fixtures):
        yield "browser"
    if any(f"{place}::{each}" in LONG for each in (name, *fixtures)):
        yield "long"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """Under `make coverage`, what a worker has reached is written now.

    xdist kills one that takes longer than ten seconds from its last test to its exit, and with it what it has counted.
    """
    coverage = sys.modules.get("coverage") if hasattr(session.config, "workerinput") else None
    counting = coverage and coverage.Coverage.current()
    if counting:
        counting.stop()  # so that nothing is left to be written at the exit
        counting.save()


def pytest_itemcollected(item):
    """Markers that nobody has to remember."""
    name = getattr(item, "originalname", item.name)
    for mark in marks_of(item.path.relative_to(ROOT).as_posix(), name, getattr(item, "fixturenames", ())):
        item.add_marker(mark)


def pytest_report_header():
    """What the short draws of the standing proof depend on, so that they can be repeated."""
    from draws import seed_of_the_day

    notice = "no ComfyUI (COMFYUI_PATH): only the tests that need none; `make test` runs all"
    alone = [] if os.environ.get("COMFYUI_PATH") else [notice]
    return [*alone, f"seed of the short draws: {seed_of_the_day()} (KRONA_SEED={seed_of_the_day()} repeats them)"]


LONGEST_FIRST = ("tests/web", "tests/host", "tests/tools", "tests/world", "tests/proof", "tests/train", "tests/ops")
"""By the time that one file takes: what two workers begin last should be short, or one has nothing to do at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Folder by folder; within one, as they stand."""
    folders = [ROOT / folder for folder in LONGEST_FIRST]

    def place(item):
        return next((n for n, folder in enumerate(folders) if item.path.is_relative_to(folder)), len(folders))

    items.sort(key=place)  # sorting is stable


def scope_of(nodeid):
    """What one worker takes as a whole: a file; of tests/web its tests in one way of drawing nodes, which share a page.

    The order in tests/web/conftest.py is the same.
    """
    file, _, name = nodeid.partition("::")
    modes = [mode for mode in ("canvas", "vue") if re.search(rf"\[(.*-)?{mode}(-.*)?\]", name)]
    return file if not file.startswith("tests/web/") or file.endswith("_newest_editor.py") else "@".join((file, *modes))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Workers take what belongs together as a whole."""
    from xdist.scheduler import LoadScopeScheduling

    class ByPlace(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return scope_of(nodeid)

    config.option.loadscopereorder = False
    return ByPlace(config, log)


@pytest.fixture(scope="session")
def comfy():
    """The host's `comfy` package, on the CPU."""
    if not os.environ.get("COMFYUI_PATH"):
        pytest.skip("there is no ComfyUI (COMFYUI_PATH)")
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import comfy.model_management
    import comfy.sd

    return comfy
