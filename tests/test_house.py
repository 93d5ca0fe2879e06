"""The direction of dependencies, as docs/architecture.md draws it; and proof that this test can fail."""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STDLIB = set(sys.stdlib_module_names)
HOST = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "aiohttp", "comfy_extras", "node_helpers"}
MAY_IMPORT = {
    "krona_ops": STDLIB | {"krona_ops", "numpy", "torch", "safetensors"},
    "krona_host": STDLIB | {"krona_host", "krona_ops", "numpy", "torch", "comfy"},
    "krona_train": STDLIB | {"krona_train", "krona_ops", "numpy", "torch", "PIL", "yaml", "matplotlib", "tqdm"},
    "nodes": STDLIB | HOST | {"krona_train", "krona_host", "krona_ops", "numpy", "torch", "tqdm", "PIL", "matplotlib"},
}
ALSO = {
    "krona_train/comfyui/": {"comfy", "krona_host"},
    "krona_train/session/": {"krona_host"},
    "krona_train/evaluation/": {"safetensors", "transformers"},
    "krona_train/adapters/optim.py": {"bitsandbytes", "prodigyopt", "schedulefree"},
    "krona_train/processes/together.py": {"accelerate"},
    "krona_train/step/usage.py": {"psutil"},
}
"""The files of the trainer that know one thing more: the host, and libraries that only they may load."""


def imports(tree):
    """(top-level module, level of a relative import, line) of every import, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], 0, node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0], node.level, node.lineno


def violations(package, files):
    found = []
    for name, source in files.items():
        also = (more for place, more in ALSO.items() if name.startswith(place))
        allowed = MAY_IMPORT[package].union(*also)
        depth = len(Path(name).parts) - 1
        for module, level, line in imports(ast.parse(source)):
            if level == 0 and module not in allowed:
                found.append(f"{name}:{line} imports {module}")
            if level > depth:
                found.append(f"{name}:{line} reaches out of {package}")
    return found


def files_of(package):
    return {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in sorted((ROOT / package).rglob("*.py"))}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_each_package_imports_only_what_it_may(package):
    assert violations(package, files_of(package)) == []


@pytest.mark.parametrize(
    ("package", "name", "source"),
    [
        ("krona_ops", "krona_ops/updates/kron.py", "import comfy"),
        ("krona_ops", "krona_ops/updates/kron.py", "def f():\n    from krona_train import fit"),
        ("krona_ops", "krona_ops/formats/x.py", "from ...nodes import host"),
        ("krona_train", "krona_train/loop.py", "import comfy.model_management"),
        ("krona_train", "krona_train/loop.py", "import accelerate"),
        ("krona_train", "krona_train/adapters/optim.py", "def f():\n    import diffusers"),
        ("krona_train", "krona_train/run/tensorboard.py", "import tensorboardX"),
        ("krona_train", "krona_train/backbone/protocol.py", "import comfy"),
        ("krona_train", "krona_train/loop.py", "import nodes"),
        ("krona_host", "krona_host/names/resolution.py", "import folder_paths"),
        ("krona_host", "krona_host/patching/apply.py", "from krona_train.run import layout"),
        ("krona_train", "krona_train/run/job.py", "from krona_host.model import families"),
        ("nodes", "nodes/server/paths.py", "import nodes"),
        ("nodes", "nodes/load.py", "import diffusers"),
    ],
)
def test_the_rule_can_be_broken(package, name, source):
    assert len(violations(package, {name: source})) == 1


AROUND = {"tools": {"tools"}, "benchmarks": {"tools", "benchmarks"}, "proof": {"tools", "benchmarks", "proof"}}
"""What stands around the pack takes from each other in this direction alone; the tests take from all of it, and nothing takes from them."""


def against_the_direction(name, source):
    """The imports of a file beside the pack from what stands above it."""
    above = {*AROUND, "tests"} - AROUND[Path(name).parts[0]]
    return [f"{name}:{line} imports {module}" for module, _, line in imports(ast.parse(source)) if module in above]


@pytest.mark.parametrize("folder", AROUND)
def test_what_stands_around_the_pack_takes_in_one_direction(folder):
    files = files_of(folder)
    assert files
    assert [line for name, source in files.items() for line in against_the_direction(name, source)] == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("tools/generate/samples.py", "from benchmarks.contest import commit"),
        ("tools/demo.py", "def f():\n    import proof.table"),
        ("benchmarks/pages/reliability.py", "from proof import table"),
        ("proof/inside.py", "from tests.support import draws"),
    ],
)
def test_an_import_against_the_direction_is_seen(name, source):
    assert len(against_the_direction(name, source)) == 1


ROOMS = {
    "krona_ops": {
        "atomic": {"errors", "locks", "shown"},
        "border": {"errors", "shown"},
        "bounds": {"errors"},
        "branches": {"errors", "names", "shown", "updates"},
        "checksum": set(),
        "errors": {"shown"},
        "files": {"atomic", "errors", "formats", "updates"},
        "formats": {"border", "errors", "left_out", "names", "nearest", "room", "shown", "updates"},
        "left_out": {"shown"},
        "live": {"errors", "updates"},
        "locks": set(),
        "names": set(),
        "nearest": {"errors", "names", "room", "targets", "updates"},
        "operations": {"errors", "formats", "left_out", "names", "nearest", "room", "shown", "targets", "updates"},
        "room": {"errors"},
        "shown": set(),
        "targets": {"bounds", "errors", "names", "updates"},
        "updates": {"errors", "left_out", "names", "room", "shown"},
        "__init__": {"errors", "files", "formats", "names", "nearest", "operations", "targets", "updates"},
        "__main__": {"errors", "files", "formats", "nearest", "operations", "shown", "targets", "updates"},
    },
    "krona_host": {
        "branches": {"model", "names", "types"},
        "model": {"types"},
        "names": {"model", "types"},
        "patching": {"model", "names", "types"},
        "types": set(),
        "views": {"types"},
        "__init__": set(),
    },
    "krona_train": {
        "adapters": {"backbone", "packages", "randomness", "settings"},
        "backbone": {"batches"},
        "batches": {"randomness", "settings"},
        "comfyui": {"backbone", "batches", "data", "objectives", "run", "settings", "step"},
        "config": {"objectives", "settings"},
        "data": {"batches", "settings"},
        "drawing": {"data", "packages"},
        "evaluation": {"data", "drawing"},
        "loop": {
            "adapters",
            "backbone",
            "batches",
            "config",
            "monitor",
            "objectives",
            "processes",
            "run",
            "settings",
            "step",
        },
        "monitor": {
            *("adapters", "backbone", "batches", "config", "objectives", "randomness", "run", "settings", "step"),
        },
        "objectives": {"adapters", "backbone", "batches", "randomness", "settings"},
        "packages": set(),
        "processes": {"packages", "run"},
        "randomness": set(),
        "run": {"config", "data", "settings"},
        "session": {
            *(
                "adapters",
                "batches",
                "comfyui",
                "config",
                "data",
                "loop",
                "monitor",
                "objectives",
                "processes",
                "run",
                "settings",
            ),
        },
        "settings": set(),
        "step": {"adapters", "backbone", "batches", "config", "objectives", "processes", "run", "settings"},
        "__init__": {"config", "loop"},
        "__main__": {"comfyui", "evaluation", "processes", "run", "session"},
    },
}
"""What each room of a package, and each file beside the rooms, may take from the others."""


def rooms_of(name, source):
    """The rooms of its own package that a file imports from."""
    package, *folder = Path(name).parts[:-1]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom):
            continue
        inside = (node.module or "").split(".")
        if node.level:
            inside = [package, *folder][: len(folder) + 2 - node.level] + inside
        if inside[0] == package:
            yield from [inside[1]] if inside[1:2] not in ([], [""]) else [alias.name for alias in node.names]


def wrong_arrows(files):
    found = []
    for name, source in files.items():
        package, room = Path(name).parts[0], Path(name).parts[1].removesuffix(".py")
        allowed = ROOMS[package][room] | {room}
        found += [f"{name} takes from {other}" for other in rooms_of(name, source) if other not in allowed]
    return found


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_take_only_from_those_below_them(package):
    files = files_of(package)
    assert {Path(name).parts[1].removesuffix(".py") for name in files} == set(ROOMS[package])
    assert wrong_arrows(files) == []
    TopologicalSorter(ROOMS[package]).prepare()  # raises where there is a circle
    assert len(ROOMS[package]) <= 20, "a stranger sees the architecture in ls"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("krona_train/run/state.py", "from ..adapters import start"),
        ("krona_train/run/state.py", "from ..adapters.start import Start"),
        ("krona_train/run/state.py", "def f():\n    from .. import loop"),
        ("krona_train/randomness.py", "from . import config"),
        ("krona_train/randomness.py", "from krona_train.config import TrainConfig"),
        ("krona_ops/formats/kinds/lora.py", "from ...operations.blend import blend"),
        ("krona_ops/updates/delta.py", "from ..nearest import forms"),
    ],
)
def test_an_arrow_upward_is_seen(name, source):
    assert len(wrong_arrows({name: source})) == 1


def test_arrows_inside_a_room_are_not_counted():
    assert (
        wrong_arrows(
            {
                "krona_train/run/state.py": "from . import layout\nfrom .told import read\nfrom ..config import TrainConfig"
            }
        )
        == []
    )


def test_a_circle_is_seen():
    with pytest.raises(CycleError):
        TopologicalSorter({**ROOMS["krona_train"], "config": {"run"}}).prepare()


SHARED = {"drawing", "images", "inputs", "node", "server", "sockets", "trained", "wires"}
"""What a node may take from its own package; only `extension` takes the nodes."""


def arrows_between_nodes(files):
    nodes = {
        name: source for name, source in files.items() if len(Path(name).parts) == 2 and name != "nodes/extension.py"
    }
    return [
        f"{name} takes from {room}"
        for name, source in nodes.items()
        for room in rooms_of(name, source)
        if room not in SHARED
    ]


def test_no_node_takes_from_another():
    assert arrows_between_nodes(files_of("nodes")) == []


def test_a_node_that_takes_from_another_is_seen():
    assert (
        len(arrows_between_nodes({"nodes/apply.py": "from .scale import weighted\nfrom .inputs import weighted"})) == 1
    )


def test_the_entry_file_imports_nothing_on_its_own():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert [type(n).__name__ for n in tree.body] == ["Expr", "Assign", "AsyncFunctionDef", "Assign"]


def test_no_tensor_or_print_waits_at_import_time():
    """Module level holds names and constants only: no calls into torch, no print anywhere in the packages."""
    calls, prints = [], []
    for package in MAY_IMPORT:
        for name, source in files_of(package).items():
            tree = ast.parse(source)
            for node in tree.body:
                for inner in ast.walk(node) if isinstance(node, ast.Assign | ast.Expr | ast.AnnAssign) else ():
                    if isinstance(inner, ast.Call) and ast.unparse(inner.func).startswith("torch."):
                        calls.append(f"{name}:{inner.lineno}")
            if not name.endswith("__main__.py"):
                prints += [
                    f"{name}:{n.lineno}"
                    for n in ast.walk(tree)
                    if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"
                ]
    assert calls == []
    assert prints == []


SCRIPT = ("__name__ == '__main__'", "__name__ in ('__main__', '__mp_main__')")
"""How a file asks whether it is run, not imported; the second, in the processes that it starts too."""


def paths_put_first(source):
    """The lines that put a folder before what is on ``sys.path`` when a file is imported; a script may, before it imports."""
    waiting = list(ast.parse(source).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) in SCRIPT:
            waiting += node.orelse
            continue
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr):
            to = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.value.func]
                if isinstance(node.value, ast.Call)
                else []
            )
            if any(
                ast.unparse(t).startswith(("sys.path[", "sys.path.insert")) or ast.unparse(t) == "sys.path" for t in to
            ):
                yield node.lineno
        waiting += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt | ast.excepthandler)]


@pytest.mark.parametrize("folder", [*AROUND, *MAY_IMPORT])
def test_what_is_imported_puts_no_folder_first(folder):
    """The pack and its host both have a `nodes`: whoever imports a benchmark would get the wrong one afterwards."""
    assert [f"{name}:{line}" for name, source in files_of(folder).items() for line in paths_put_first(source)] == []


@pytest.mark.parametrize(
    "source",
    [
        "sys.path[0] = str(ROOT)",
        "sys.path.insert(0, str(ROOT))",
        "if ROOT:\n    sys.path[:0] = [ROOT]",
        "try:\n    import comfy\nexcept ImportError:\n    sys.path = [ROOT]",
    ],
)
def test_a_folder_that_is_put_first_is_seen(source):
    assert len(list(paths_put_first(source))) == 1


@pytest.mark.parametrize(
    "source", ["if __name__ == '__main__':\n    sys.path[0] = ROOT", "def f():\n    sys.path.insert(0, ROOT)"]
)
def test_a_script_puts_its_folder_first(source):
    assert list(paths_put_first(source)) == []
