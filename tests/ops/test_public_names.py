"""What `krona_ops` offers is a contract: a name that goes or comes is a decision, made here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import krona_ops

PUBLIC = {
    "Adapter",
    "Delta",
    "DenseForm",
    "Dora",
    "Factor",
    "Full",
    "Hadamard",
    "Kron",
    "KronForm",
    "KronShape",
    "KronaError",
    "LayerName",
    "LowRank",
    "LowRankForm",
    "Matrix",
    "Sum",
    "Target",
    "TargetRule",
    "Tucker",
    "Weights",
    "apply_weights",
    "blend",
    "compress",
    "encode",
    "extract",
    "forms_by_rules",
    "forms_within",
    "inspect_header",
    "load",
    "nearest_kron",
    "parse_weights",
    "read_header",
    "report",
    "save",
    "select",
    "to_low_rank",
    "with_standard_metadata",
}


def test_the_public_names_are_these():
    assert set(krona_ops.__all__) == PUBLIC
    assert all(getattr(krona_ops, name).__doc__ for name in PUBLIC - {"LayerName"})


def test_type_checkers_are_told_the_modules_that_the_names_come_from():
    tree = ast.parse(Path(krona_ops.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert {node.module: tuple(alias.name for alias in node.names) for node in block.body} == krona_ops._MODULES
    assert {name for names in krona_ops._MODULES.values() for name in names} == PUBLIC <= set(dir(krona_ops))


def test_another_name_is_an_error_as_in_any_module():
    with pytest.raises(AttributeError, match="module 'krona_ops' has no attribute 'lode'"):
        krona_ops.lode  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "not_yet"),
    [
        ("import krona_ops", "krona_ops.updates"),
        ("from krona_ops import Adapter, load, save", "krona_ops.formats.layers"),
        ("import krona_ops.formats.inspection", "krona_ops.formats.layers"),
        ("import krona_ops.nearest.forms", "krona_ops.nearest.kronecker"),
    ],
)
def test_what_only_some_need_is_imported_when_it_is_used(statement, not_yet):
    code = f"import sys; {statement}; print([m for m in sys.modules if m.startswith('{not_yet}')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_mathematics_comes_without_the_host_and_the_trainer():
    code = (
        "import sys, krona_ops; [getattr(krona_ops, name) for name in krona_ops.__all__]; "
        "others = {'comfy', 'krona_host', 'krona_train', 'PIL', 'yaml', 'matplotlib'}; "
        "print(sorted(m for m in sys.modules if m.split('.')[0] in others))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
