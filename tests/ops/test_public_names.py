"""What `krona_ops` offers is a contract: a name that goes or comes is a decision, made here."""

import subprocess
import sys

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


def test_the_mathematics_comes_without_the_host_and_the_trainer():
    code = "import sys, krona_ops; print(sorted(m for m in sys.modules if m.split('.')[0] in {'comfy', 'krona_host', 'krona_train', 'PIL', 'yaml', 'matplotlib'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
