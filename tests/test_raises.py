"""Every error of the packages says what was found, what was expected and what to do; and proof that this test can fail."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("krona_ops", "krona_host", "krona_train", "nodes")
PARTS = ("found", "expected", "remedy")
A_LAYER = {
    "name", "layer", "layer.name", "error.layer", "self.name", "sizes.name", "names[0]", "vectors[0]",
    "next(iter(reasons), None)", "next(iter(adapter.layers), None)",
    "min(map(str, refused))",
    "different.removeprefix('factors.')",
}  # fmt: skip
"""What is given as ``layer=``, in the packages' own words; a file, a setting or a node is given as ``where=``."""
NO_LAYER = ("krona_train/config/", "krona_train/data/", "krona_train/run/", "krona_train/session/", "nodes/")
"""Where a ``name`` is that of a run, a file or a setting, so that no error is about a layer."""
ROUTES = "Refused"
"""The routes' own error: a status, a message that says what was found, and a remedy."""

OTHERS = {
    "argparse.ArgumentTypeError in __main__.py": "argparse puts it behind the option's name and shows how it is used",
    "TypeError in extract.py": "an argument that only code can leave out",
    "TypeError in rows.py": "a kind of factor that only code can add",
    "KeyboardInterrupt in loop.py": "no error: the word of whoever asked to stop",
    "comfy.model_management.InterruptProcessingException in training.py": "no error: the host's own cancel",
    "web.HTTPNotFound in web.py": "the host's own answer for a web file that is not there",
    "ComfyUITooOld in supported.py": "one sentence with all three, said before anything of the pack is loaded",
    "ValueError in border.py": "a reason, which the border puts into an error of its kind with what it reads and what to do",
    "HeaderError in header_text.py": "a reason, which read_header puts into an error with the file's name and what to do",
    "NotEvaluatedError in expressions.py": "a reason, which patterns.py puts into an error with the pattern and what to do",
    "NotEvaluatedError in patterns.py": "the same reason, from the sum of all layers",
    "_UnknownError in identity.py": "a signal inside that file, which never leaves it",
    "_too_large in opening.py": "PIL's own error for a picture that is too large, told with the picture's name by the caller",
    "ValueError in events.py": "a line of another process that is no event, which wire.py takes for text",
    "ValueError in opening.py": "told with the picture's name by the caller",
    "KeyError in small_world.py": "caught there, and told as a file of something else",
    "AttributeError in __init__.py": "Python's own for a name that a module lacks, where names are loaded when they are asked for",
}
"""What is raised and is no error of the pack, by kind and file, with the reason. What is raised and not listed fails the test, and so does
a line that nothing needs any more."""


class Module:
    """One file, and what its raises and errors lack."""

    def __init__(self, name, source, known):
        self.name, self.known = name, known
        self.lacking, self.others, self.no_layers = [], set(), []
        errors = {*known.errors, ROUTES}
        for node in nodes(source):
            if isinstance(node, ast.Raise):
                self._raised(node.exc)
            elif isinstance(node, ast.Call) and last(node.func) in errors:
                self._made(node)

    def _raised(self, raised):
        """An error of the pack, or something that is at hand already, or a line of the list."""
        if isinstance(raised, ast.IfExp):
            self._raised(raised.body)
            self._raised(raised.orelse)
            return
        if isinstance(raised, ast.Call):
            if is_copy(raised):
                self._made(raised)
                return
            if last(raised.func) in (*self.known.errors, *self.known.makers, ROUTES):
                return
        elif raised is None or isinstance(raised, ast.Subscript) or (isinstance(raised, ast.Name) and raised.id.islower()):
            return
        kind = ast.unparse(raised.func if isinstance(raised, ast.Call) else raised)
        self.others.add(f"{kind} in {Path(self.name).name}")

    def _made(self, call):
        """Whether an error has all its parts, or passes on another one that has."""
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        message = next((arg for arg in call.args if not isinstance(arg, ast.Constant) or isinstance(arg.value, str)), None)
        passes_on = message is not None and any(is_error(part) for part in ast.walk(message))
        wanted = ("remedy",) if last(call.func) == ROUTES else PARTS
        lacks = [part for part in wanted if part not in given]
        if lacks and not passes_on:
            self.lacking.append(f"{self.name}:{call.lineno} lacks {', '.join(lacks)}: {ast.unparse(call)[:120]}")
        layer = ast.unparse(given["layer"]) if "layer" in given else None
        if layer is not None and (layer not in A_LAYER or self.name.startswith(NO_LAYER)):
            self.no_layers.append(f"{self.name}:{call.lineno} gives {layer} as a layer; where= is for files and settings")
        remedy = given.get("remedy")
        if isinstance(remedy, ast.Constant) and not str(remedy.value).endswith((".", "?", "!")):
            self.lacking.append(f"{self.name}:{call.lineno} has a remedy that is no sentence: {remedy.value!r}")


class Known:
    """The names of the pack's errors, and of the functions that make one."""

    def __init__(self, sources):
        declared = [node for source in sources for node in nodes(source)]
        classes = [(node.name, [last(base) for base in node.bases]) for node in declared if isinstance(node, ast.ClassDef)]
        self.errors, before = {"KronaError"}, set()
        while before != self.errors:
            before = set(self.errors)
            self.errors |= {name for name, bases in classes if not before.isdisjoint(bases)}
        functions = (node for node in declared if isinstance(node, ast.FunctionDef) and node.returns is not None)
        self.makers = {node.name for node in functions if ast.unparse(node.returns) in self.errors}


@cache
def nodes(source):
    """What a file raises, calls and declares: nothing else of it is looked at, and each file is parsed once."""
    wanted = (ast.Raise, ast.Call, ast.ClassDef, ast.FunctionDef)
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, wanted)]


@cache
def last(expression):
    return ast.unparse(expression).rpartition(".")[2]


def is_error(part):
    """What holds another error's words: ``error``, ``ended.error``, ``fields["error"]``."""
    name = getattr(part, "id", None) or getattr(part, "attr", None) or getattr(part, "value", None)
    return name in ("error", "first")


def is_copy(call):
    """``type(error)(…)``: the same kind once more."""
    return isinstance(call.func, ast.Call) and ast.unparse(call.func.func) == "type"


@pytest.fixture(scope="module")
def sources():
    return {str(p.relative_to(ROOT)): p.read_text("utf-8") for name in PACKAGES for p in sorted((ROOT / name).rglob("*.py"))}


@pytest.fixture(scope="module")
def known(sources):
    return Known(sources.values())


@pytest.fixture(scope="module")
def modules(sources, known):
    return [Module(name, source, known) for name, source in sources.items()]


def test_every_error_says_what_was_found_what_was_expected_and_what_to_do(modules):
    assert [line for module in modules for line in module.lacking] == []


def test_what_else_is_raised_is_listed_with_its_reason(modules):
    assert {what for module in modules for what in module.others} == set(OTHERS)


def test_a_file_or_a_setting_is_never_given_as_a_layer(modules):
    assert [line for module in modules for line in module.no_layers] == []


@pytest.mark.parametrize(
    ("name", "layer", "count"),
    [
        ("krona_ops/a.py", "name", 0),
        ("krona_ops/a.py", "error.layer", 0),
        ("krona_ops/a.py", "str(path)", 1),
        ("krona_ops/a.py", "path", 1),
        ("krona_ops/a.py", "self.where", 1),
        ("krona_train/comfyui/a.py", "'comfyui'", 1),
        ("krona_train/comfyui/a.py", "f'preview.{what}'", 1),
        ("krona_train/run/a.py", "name", 1),
        ("nodes/save.py", "name", 1),
    ],
)
def test_a_place_given_as_a_layer_is_seen(name, layer, count, known):
    source = f'raise ConfigError("No.", layer={layer}, found=1, expected=2, remedy="Set it.")'
    assert len(Module(name, source, known).no_layers) == count


@pytest.mark.parametrize(
    ("source", "lacking", "others"),
    [
        ('raise ConfigError("No.", found=1, expected=2, remedy="Set it.")', 0, 0),
        ('raise ConfigError("No.")', 1, 0),
        ('raise ConfigError("No.", found=1, expected=2)', 1, 0),
        ('raise ConfigError("No.", found=1, expected=2, remedy="set it")', 1, 0),
        ('def f() -> DataError:\n    return DataError("No.")\nraise f()', 1, 0),
        ("raise ConfigError(str(error), layer=name, found=error.found, expected=error.expected) from error", 0, 0),
        ("raise type(error)(str(error), layer=name) from error", 0, 0),
        ("raise error", 0, 0),
        ("try:\n    pass\nexcept OSError:\n    raise", 0, 0),
        ("raise Refused(404, 'There is none.')", 1, 0),
        ("raise Refused(404, 'There is none.', remedy='Look elsewhere.')", 0, 0),
        ('raise ValueError("no")', 0, 1),
        ("raise ValueError", 0, 1),
        ('raise error if error.where else ConfigError("No.")', 1, 0),
        ("raise helper()", 0, 1),
    ],
)
def test_the_rule_can_be_broken(source, lacking, others, sources):
    found = Module("a.py", source, Known([*sources.values(), source]))
    assert (len(found.lacking), len(found.others)) == (lacking, others)
