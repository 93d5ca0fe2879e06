"""The same functions at a prompt: ``python -m krona_ops inspect|convert|blend|compress FILE…``.

The result goes to stdout. What is wrong goes to stderr in one line, with exit status 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from .errors import ConfigError, KronaError
from .files import load, load_tensors, read_header, save
from .formats.encode import LORA, as_lora, notes_on_file, switched_off, without_vectors, writable
from .formats.inspection import inspect_header
from .formats.pair import note_on_half
from .formats.scale_rules import ScaleRule
from .nearest.forms import Form, Forms, KronForm, LowRankForm
from .operations.against import against
from .operations.blend import blend
from .operations.compress import ErrorReport, compress, forms_within
from .operations.methods import METHODS
from .operations.report import By, report, report_of_header
from .operations.respell import respelled, unified
from .operations.strengths import PRESETS, apply_weights, describe_unmatched, parse_weights
from .shown import printable
from .targets.rules import PAPER_FACTORS
from .updates.adapter import Adapter
from .updates.kron import Layout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that these arguments, or ``sys.argv``, name; returns the exit status: 0, or 2 for an error."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KronaError as error:
        print(_for_terminal(f"error: {error}"), file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
    return 0


def _say(line: object) -> None:
    print(_for_terminal(str(line)))


def _for_terminal(text: str) -> str:
    """The text without control codes, and with characters that the terminal's encoding lacks spelled out."""
    encoding = sys.stdout.encoding or "utf-8"
    return printable(text, "\n").encode(encoding, "backslashreplace").decode(encoding)


def _inspect(options: argparse.Namespace) -> None:
    for n, path in enumerate(options.files):
        inspection = inspect_header(path)
        facts = report(load(path, options.scale_rule)) if options.tensors else report_of_header(inspection)
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in inspection.dtypes.items())
        counts = f"{len(facts.layers)} layers, {facts.parameters:,} parameters, {inspection.bytes / 1e6:.2f} MB"
        _say("\n" * (n > 0) + f"{path}: {inspection.format}, {counts} ({dtypes})")
        for note in facts.notes:
            _say(f"  {note}")
        _say(facts.table(options.by))


def _convert(options: argparse.Namespace) -> None:
    adapter = load(options.file, options.scale_rule, options.other)
    if note := note_on_half(adapter):
        _say(note)
    if options.against:
        adapter = against(adapter, read_header(options.against).shapes, partial(load_tensors, options.against))
    weights = parse_weights(PRESETS.get(options.weights, options.weights))
    for line in describe_unmatched(adapter, weights):
        _say(line)
    _write(apply_weights(adapter, weights).scaled(options.strength), options)


def _blend(options: argparse.Namespace) -> None:
    weighted = [_weighted(argument) for argument in options.files]
    adapters = {path: load(path, options.scale_rule) for path in dict.fromkeys(path for path, _ in weighted)}
    if not options.keep_names:  # two names of one weight become one
        adapters = dict(zip(adapters, unified(list(adapters.values()), base=options.base), strict=True))
    pairs = [(adapters[path], weight) for path, weight in weighted]
    exact = options.method == "sum"
    form = None if exact else _form(options)
    blended = blend(
        pairs, normalise=options.normalise, method=options.method, density=options.density, seed=options.seed, form=form
    )
    if exact and (form := _form(options)):
        blended, lost = compress(blended, form)
        _tell(lost)
    _write(blended, options)


def _compress(options: argparse.Namespace) -> None:
    adapter = load(options.file, options.scale_rule)
    forms: Forms = _form(options) or KronForm()
    if options.parameters is not None or options.error is not None:
        candidates = {"candidates": [options.factors]} if options.factors else {}
        forms = forms_within(
            adapter,
            parameters=options.parameters,
            error=options.error,
            max_terms=options.terms,
            layout=options.layout,
            **candidates,
        )
    compressed, lost = compress(adapter, forms)
    _tell(lost)
    if options.by_layer:
        for layer in lost.layers:
            _say(f"{layer.error:10.3g}  {layer.name}")
    _write(compressed, options)


def _form(options: argparse.Namespace) -> Form | None:
    """What the options ask layers to be brought into; ``None`` where they ask for nothing."""
    if options.factors:
        return KronForm(options.factors, options.terms, options.layout)
    if getattr(options, "to_rank", None):
        return LowRankForm(options.to_rank)
    return KronForm(PAPER_FACTORS, options.terms, options.layout) if options.terms > 1 else None


def _write(adapter: Adapter, options: argparse.Namespace) -> None:
    output = Path(options.output)
    if output.exists() and not options.overwrite:
        raise ConfigError(
            "The file exists.",
            where=str(output),
            found="a file",
            expected="a new name",
            remedy="Add --overwrite to replace it.",
        )
    if options.leave_out_vectors:
        adapter, vectors = without_vectors(adapter)
        _say(f"{len(vectors)} norms and biases were left out{': ' if vectors else ''}{', '.join(vectors[:3])}"
              f"{', …' if len(vectors) > 3 else ''}")  # fmt: skip
    rename = None
    if not options.keep_names and options.format != "diffusekrona":
        adapter, rename = respelled(adapter, options.format, base=options.base), str
    if options.format in LORA:
        adapter, errors = as_lora(adapter, options.rank, options.format)
        if errors:
            worst = max(errors, key=lambda name: errors[name])
            _say(f"{len(errors)} layers became LoRAs, largest relative error {errors[worst]:.3g} in {worst}")
    for left_out in (*adapter.left_out, *switched_off(adapter)):
        _say(left_out)
    save(adapter, output, options.format, rename=rename)
    for note in notes_on_file(read_header(output).shapes, options.format):
        _say(note)
    size = output.stat().st_size
    _say(f"{output}: {options.format}, {len(adapter)} layers, {adapter.parameters:,} parameters, {size / 1e6:.2f} MB")


def _tell(lost: ErrorReport) -> None:
    _say(lost)


def _weighted(argument: str) -> tuple[str, float]:
    """Path and weight of ``FILE=WEIGHT``, or of ``FILE`` with the weight 1."""
    path, equals, weight = argument.rpartition("=")
    try:
        return (path, float(weight)) if equals else (argument, 1.0)
    except ValueError:
        return argument, 1.0


def _factors(text: str) -> tuple[int, int]:
    try:
        out_a, in_a = (int(part) for part in text.lower().replace("×", "x").split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} are no factors; out × in, for example 64x4") from error
    return out_a, in_a


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m krona_ops", description="Kronecker adapters: look at them, convert, add, compress."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    reading = argparse.ArgumentParser(add_help=False)
    reading.add_argument(
        "--scale-rule", choices=get_args(ScaleRule), default="auto", help="how strong the update is (auto)"
    )
    writing = argparse.ArgumentParser(add_help=False)
    writing.add_argument("-o", "--output", required=True, metavar="FILE", help="the .safetensors file to write")
    writing.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    writing.add_argument("--format", choices=writable(), default="lokr", help="of the file (lokr)")
    writing.add_argument(
        "--base", metavar="MODEL", help="the kind of base model (Flux, WAN21_T2V, …), where the names fit several"
    )
    writing.add_argument(
        "--keep-names", action="store_true", help="write the names as they are, also where no program may load them"
    )
    writing.add_argument(
        "--leave-out-vectors", action="store_true", help="leave out norms and biases, which the lora format cannot hold"
    )
    writing.add_argument("--rank", type=int, help="of a LoRA format, for layers that are no LoRA yet")
    forming = argparse.ArgumentParser(add_help=False)
    forming.add_argument(
        "--factors", type=_factors, metavar="OUTxIN", help="nearest Kronecker product with A of this shape"
    )
    forming.add_argument(
        "--terms", type=int, default=1, help="products per layer (1; more do not fit into a LoKr file)"
    )
    forming.add_argument("--layout", choices=get_args(Layout), default="kron", help="order of the rows (kron)")
    forming.add_argument("--to-rank", type=int, help="nearest LoRA of this rank instead")

    command = commands.add_parser("inspect", parents=[reading], help="what is in a file; reads its header only")
    command.add_argument("files", nargs="+", metavar="FILE")
    command.add_argument("--tensors", action="store_true", help="read the tensors too: norms and effective ranks")
    command.add_argument("--by", choices=get_args(By), default="block", help="a line per layer, block or role (block)")
    command.set_defaults(run=_inspect)

    command = commands.add_parser("convert", parents=[reading, writing], help="write a file in another format")
    command.add_argument("file", metavar="FILE")
    command.add_argument("--other", metavar="FILE", help="the second file of an adapter that has two (ResAdapter)")
    command.add_argument(
        "--against", metavar="CHECKPOINT", help="the base model's file, where values of norms have to become changes"
    )
    command.add_argument("--strength", type=float, default=1.0, help="multiply everything (1)")
    command.add_argument(
        "--weights", default="", help='strengths by name: "q=0.3, input_blocks.4=0", or a preset\'s name'
    )
    command.set_defaults(run=_convert)

    command = commands.add_parser("blend", parents=[reading, writing, forming], help="a weighted sum of files")
    command.add_argument("files", nargs="+", metavar="FILE[=WEIGHT]")
    command.add_argument("--normalise", action="store_true", help="divide by the sum of the weights")
    command.add_argument("--method", choices=METHODS, default="sum", help="how disagreements are settled (sum: exact)")
    command.add_argument("--density", type=float, default=0.5, help="part of each update that ties and dare keep (0.5)")
    command.add_argument("--seed", type=int, default=0, help="of the random choice of dare (0)")
    command.set_defaults(run=_blend)

    command = commands.add_parser(
        "compress", parents=[reading, writing, forming], help="the nearest adapter with fewer parameters"
    )
    command.add_argument("file", metavar="FILE")
    budget = command.add_mutually_exclusive_group()
    budget.add_argument("--parameters", type=int, help="choose factors per layer so that all have this many at most")
    budget.add_argument(
        "--error", type=float, help="choose factors per layer so that this relative error remains at most"
    )
    command.add_argument("--by-layer", action="store_true", help="tell the error of each layer")
    command.set_defaults(run=_compress)
    return parser


if __name__ == "__main__":
    sys.exit(main())
