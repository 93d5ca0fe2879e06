"""Adapter files as an attacker or a broken disk would hand them in, and what the pack makes of each: a value or an error of its own.

    python tests/support/hostile_adapters.py SEED [--start N] [--count N]

Case ``n`` of a seed is a function of the two, so any part can be run again. A file is first written by a grammar: every method and dialect, with
names, element types, values, settings and sizes that nobody would write; then it is perhaps broken: tensors dropped, doubled, reshaped, bytes changed,
inserted, cut. `run` reads it in every way and does with it what users do. `run_all` does so in a process of its own, whose memory is limited and whose
processor time is watched, for a hang and a crash are outcomes too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 6 * 2**30
"""Bytes of address space of the process that runs cases; PyTorch itself takes half of it."""
SECONDS = 30.0
"""Of processor time for one case. The slowest take one, and on a busy machine three."""


@dataclass(frozen=True)
class Case:
    """One file, and perhaps the settings beside it."""

    seed: int
    number: int
    data: bytes
    sidecar: bytes | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    kind: str
    """``ok``: it was read and used; ``refused``: by an error of the pack; ``violation``."""
    what: str = ""
    """The name of the exception, or what was wrong."""


@dataclass
class Summary:
    """What came of many."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[int, str]] = field(default_factory=list)
    """The number of each case, and what was wrong."""


# ---------------------------------------------------------------------------------------------------------------- grammar

_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "F8_E8M0": 1,
    "C64": 8, "U64": 8, "U32": 4, "U16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_PACKED = {"F4": 0.5, "F6_E2M3": 0.75, "F6_E3M2": 0.75}
_NAMES = (
    "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q", "lora_unet_mid_block_attentions_0_proj_in", "base_model.model.blocks.0.attn.to_q",
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q", "transformer.single_transformer_blocks.3.attn.to_k", "lycoris_a_b_c", "a",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj", "lora_te1_text_model_encoder_layers_0_mlp_fc1", "double_blocks.1.img_attn.qkv", "img_in",
    "diffusion_model.double_blocks.0.img_attn.key_norm", "clip_l.transformer.text_model.encoder.layers.1.mlp.fc2", "te2.x", "blocks.0.self_attn.q",
    "", ".", "a..b", "-", "lora_unet_", "base_model.model.", "a" * 41 + "!", "a.b" * 200, "x" * 1500, "\x1b]0;pwned\x07x", "\x1b[2J", "a\nb", "\ud800", "名前",
    "‮evil", "a\x00b", "../../etc", "%s{0}", '"', "\\", "🤖" * 20, ".diff" * 30, "a.lora_A", "__metadata__", "a.alpha", "NaN", "()[]*+?",
)  # fmt: skip
_ENDS = (
    {"lora_up": "lora_B.weight", "lora_down": "lora_A.weight"},
    {"lora_up": "lora_up.weight", "lora_down": "lora_down.weight"},
)


def _methods(draw: random.Random) -> dict[str, tuple[int, ...]]:
    """Parts with shapes that belong together."""
    out, width, rank = draw.choice((1, 2, 3, 4, 6, 8)), draw.choice((1, 2, 4, 5, 9)), draw.choice((1, 2, 3))
    kernel = draw.choice(((), (), (), (1,), (3,), (1, 1), (3, 3), (1, 2, 3)))
    lora_ends = draw.choice(_ENDS)
    ones = (1,) * len(kernel)
    whole = {
        "lokr": {"lokr_w1": (2, 3), "lokr_w2": (out, width, *kernel)},
        "lokr low": {"lokr_w1": (2, 3), "lokr_w2_a": (out, rank), "lokr_w2_b": (rank, width, *kernel)},
        "lokr both": {"lokr_w1_a": (2, rank), "lokr_w1_b": (rank, 3), "lokr_w2_a": (out, rank), "lokr_w2_b": (rank, width)},
        "lokr core": {"lokr_w1": (2, 2), "lokr_t2": (rank, rank, 3, 3), "lokr_w2_a": (rank, out), "lokr_w2_b": (rank, width)},
        "loha": {f"hada_w{n}_{s}": (out, rank) if s == "a" else (rank, width, *kernel) for n in (1, 2) for s in "ab"},
        "loha core": {"hada_t1": (rank, rank, 3, 3), "hada_t2": (rank, rank, 3, 3), **{f"hada_w{n}_{s}": (rank, out if s == "a" else width) for n in (1, 2) for s in "ab"}},
        "lora": {lora_ends["lora_up"]: (out, rank, *ones), lora_ends["lora_down"]: (rank, width, *kernel)},
        "locon": {"lora_up.weight": (out, rank, 1, 1), "lora_mid.weight": (rank, rank, 3, 3), "lora_down.weight": (rank, width, 1, 1)},
        "embedding": {"lora_embedding_A": (rank, 7), "lora_embedding_B": (width, rank)},
        "cdka": {"cdka_a": (rank, out, width), "cdka_b": (rank, 2, 3)},
        "diff": {"diff": (out, width, *kernel)},
        "norm": {"w_norm": (out,), "b_norm": (out,)},
        "vector": {"diff": (out,), "diff_b": (out,)},
        "replaced": {"set_weight": (out, width)},
        "krona": {"_lora.down.weight": (2, 3), "_lora.up.weight": (out, width)},
        "other": {draw.choice(("oft_blocks", "weight", "scale", "glora_a", "vera_lambda_b", "lora_E", "emb_params", "key_norm.scale", "lora_A.x.weight")): (out, out)},
    }  # fmt: skip
    parts = dict(whole[draw.choice(sorted(whole))])
    for part, shape, chance in (
        ("alpha", (), 0.4), ("dora_scale", draw.choice(((2 * out, 1), (out, 1), (1, width), (out,))), 0.15), ("scalar", (), 0.05),
        ("row_offset", (), 0.04), ("reshape_weight", (2,), 0.04), ("lora_magnitude_vector", (out,), 0.05), ("lora_B.bias", (out,), 0.05), ("diff_b", (out,), 0.05),
    ):  # fmt: skip
        if draw.random() < chance:
            parts[part] = shape
    return parts


def _expanding(draw: random.Random) -> dict[str, tuple[int, ...]]:
    """Small factors of a large update."""
    n = draw.choice((2_000, 20_000, 60_000))
    return draw.choice(
        (
            {"lora_B.weight": (n, 1), "lora_A.weight": (1, n)},
            {f"hada_w{k}_{s}": (n, 1) if s == "a" else (1, n) for k in (1, 2) for s in "ab"},
            {"lokr_w1": (1, 1), "lokr_t2": (1, 1, 3, 3), "lokr_w2_a": (1, n), "lokr_w2_b": (1, n)},
            {"lokr_w1": (200, 100), "lokr_w2": (100, n // 100)},
            {"lokr_w1_a": (n, 1), "lokr_w1_b": (1, n), "lokr_w2": (2, 2)},
            {"lora_B.weight": (1, n), "lora_A.weight": (n, 1)},
        )
    )


def _values(draw: random.Random, dtype: str, count: int) -> bytes:
    size = _SIZES.get(dtype) or _PACKED.get(dtype, 4)
    length = int(count * size)
    if length > 4096:
        return bytes(length)
    kind = draw.random()
    if kind < 0.5 and dtype in ("F64", "F32", "F16"):
        code = {"F64": "d", "F32": "f", "F16": "e"}[dtype]
        return struct.pack(f"<{count}{code}", *(draw.uniform(-1, 1) for _ in range(count)))
    if kind < 0.65 and dtype in ("F64", "F32"):
        special = (float("nan"), float("inf"), -0.0, 1e-45, 3e38, *((1e300, -1e308, 5e-324) if dtype == "F64" else ()))
        return struct.pack(f"<{count}{'d' if dtype == 'F64' else 'f'}", *(draw.choice(special) for _ in range(count)))
    if kind < 0.75:
        return bytes(length)
    if dtype == "BOOL":
        return bytes(draw.randrange(2) for _ in range(length))
    return draw.randbytes(length) if kind < 0.9 else bytes([draw.randrange(256)]) * length


def _number(draw: random.Random) -> object:
    return draw.choice((1, 4, 0, -1, 2.5, 1e300, -1e300, 1e-320, 10**400, 2**63, True, None, "4", "1e400", "x", [], {}, [1], {"a": 1}, 9999999999, float("nan"), float("inf")))  # fmt: skip


def _json(draw: random.Random, depth: int = 0) -> object:
    if depth < 4 and draw.random() < 0.4:
        if draw.random() < 0.5:
            return [_json(draw, depth + 1) for _ in range(draw.randrange(4))]
        return {draw.choice(_NAMES): _json(draw, depth + 1) for _ in range(draw.randrange(4))}
    return _number(draw)


_PATTERNS = (
    "to_q",
    "(a+)+",
    "(a|a)*b",
    "^a$",
    ".*",
    "[",
    "a{1,999}",
    "(?i)x",
    "attn.to_q",
    "",
    "\\",
    "(" * 50,
    "a" * 2000,
    "(.*)*\\1",
)


def _peft(draw: random.Random) -> object:
    made: dict[str, object] = {
        "peft_type": draw.choice(("LORA", "LOKR", "LOHA", "OFT", "PeftType.LORA", 3, None, "\x1b[31m")),
        "r": draw.choice((1, 2, 3)) if draw.random() < 0.6 else _number(draw),
        draw.choice(("lora_alpha", "alpha")): 4 if draw.random() < 0.5 else _number(draw),
    }
    for key in ("rank_pattern", "alpha_pattern"):
        if draw.random() < 0.4:
            made[key] = {draw.choice(_PATTERNS): draw.choice((2, 1, _number(draw))) for _ in range(draw.randrange(4))}
    for key in (
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "use_rslora",
        "use_dora",
        "init_lora_weights",
        "rank_dropout_scale",
        "use_qalora",
    ):
        if draw.random() < 0.15:
            made[key] = draw.choice((["to_q"], draw.choice(_PATTERNS), _json(draw), True))
    return made if draw.random() < 0.9 else _json(draw)


def _text(draw: random.Random, value: object) -> str:
    text = json.dumps(value)
    if draw.random() < 0.1:
        text = draw.choice(
            (
                "[" * 5000,
                '{"a":' * 2000,
                text[:-1],
                text + "x",
                "9" * 5000,
                '"' + "\\" * 99,
                "\ufeff" + text,
                "NaN",
                text * 2,
                "[1e999]",
                "",
            )
        )
    return text


def _metadata(draw: random.Random) -> dict[str, str]:
    found: dict[str, str] = {}
    if draw.random() < 0.3:
        found["ss_network_args"] = _text(draw, {draw.choice(("linear_dim", "linear_alpha", "conv_dim", "rs_lora", "bypass_mode", "dora_wd", "cdka_alpha", "krona_alpha", "use_cdka_scale", "full_matrix", "r")): draw.choice((_number(draw), "true", 4)) for _ in range(3)})  # fmt: skip
    if draw.random() < 0.15:
        found["lycoris_config"] = _text(draw, _json(draw))
    if draw.random() < 0.3:
        found["adapter_config"] = _text(draw, _peft(draw))
    if draw.random() < 0.1:
        found["lora_adapter_metadata"] = _text(draw, {"r": _number(draw), "lora_alpha": _number(draw)} if draw.random() < 0.5 else {f"{p}.{k}": _number(draw) for p in ("unet", "transformer") for k in ("r", "lora_alpha", "alpha_pattern")})  # fmt: skip
    for key in (
        "ss_network_module",
        "ss_network_dim",
        "ss_network_alpha",
        "ss_sd_scripts_commit_hash",
        "ss_tag_frequency",
        "modelspec.thumbnail",
        "modelspec.title",
        "modelspec.trigger_phrase",
        "modelspec.tags",
        "ss_base_model_version",
    ):
        if draw.random() < 0.08:
            found[key] = draw.choice(("networks.cdka", "networks.krona", "networks.lora", "0c641ec", "4", "1e300", "nan", "9" * 400, '{"a":{"b":1}}', '{"a":{"b":1e9,"":9}}', "data:image/png;base64,AAAA", "\x1b[2J", "\ud800", "x" * 5000, ""))  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------------------- breaking it


def _tensors(draw: random.Random) -> dict[str, tuple[str, list[int], bytes]]:
    usual = draw.choice(("F32", "F16", "BF16", "F32", "F64"))
    found: dict[str, tuple[str, list[int], bytes]] = {}
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        name = draw.choice(_NAMES[:15]) if draw.random() < 0.75 else draw.choice(_NAMES)
        parts = _expanding(draw) if draw.random() < 0.01 else _methods(draw)
        for part, given in parts.items():
            shape, dtype, change = list(given), usual, draw.random()
            if change < 0.04:
                shape = draw.choice(
                    (
                        [0, 2],
                        [0],
                        [],
                        [1] * 7,
                        [*shape, 1],
                        shape[:-1],
                        shape[::-1],
                        [0, 2**63],
                        [2**31, 0],
                        [1] * 70,
                        [n + 1 for n in shape],
                    )
                )
            if draw.random() < 0.12:
                dtype = draw.choice((*_SIZES, *_PACKED))
            if change > 0.97:
                continue
            key = f"{name}{part}" if part.startswith("_") else f"{name}.{part}"
            if draw.random() < 0.02:
                key = draw.choice(
                    (f"{name}.{part}.default", f"{name}.{part}.weight", key.upper(), f"{key}_scale", key.replace(".", "_"))
                )
            length = prod(shape)
            found[key] = dtype, shape, _values(draw, dtype, length if length < 10**6 else 0)
    return found


def _header(draw: random.Random, tensors: dict[str, tuple[str, list[int], bytes]]) -> tuple[str, bytes]:
    header: dict[str, object] = {}
    metadata = _metadata(draw)
    if metadata:
        header["__metadata__"] = metadata
    body, at = [], 0
    for key, (dtype, shape, data) in tensors.items():
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        body.append(data)
        at += len(data)
    if header and draw.random() < 0.08:
        key = draw.choice(sorted(header))
        place = header[key]
        if draw.random() < 0.3 or key == "__metadata__":
            header[key] = _json(draw)
        else:
            place[draw.choice(("dtype", "shape", "data_offsets", "x"))] = draw.choice(
                (_json(draw), [at, 0], [-1, 4], [0, 2**64], "F99", [2**62, 2**62])
            )  # type: ignore[index]
    text = json.dumps(header, ensure_ascii=draw.random() < 0.5, separators=draw.choice(((",", ":"), (", ", ": "))))
    return text, b"".join(body)


def _broken(draw: random.Random, data: bytearray, where: int) -> bytearray:
    """Bytes changed, inserted, cut or doubled, most of them before ``where``."""
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(min(len(data), where) if draw.random() < 0.8 else len(data)) if data else 0
        way = draw.random()
        if way < 0.5 and data:
            data[at] = draw.choice((draw.randrange(256), draw.choice(b'"{}[],:0189\\ntfe-')))
        elif way < 0.65:
            data[at:at] = draw.choice((b"\0", b"[", b"{", b'"', b"\\", b"9" * 30, b"\xff", draw.randbytes(8), b"[" * 3000))
        elif way < 0.8:
            del data[at : at + draw.choice((1, 2, 8, 100))]
        elif way < 0.9:
            data[at:at] = data[at : at + draw.choice((4, 60))]
        else:
            del data[at:]
    return data


def case(seed: int, number: int) -> Case:
    """One case."""
    draw = random.Random(f"{seed}:{number}")
    text, body = _header(draw, _tensors(draw))
    raw = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.05:
        raw = draw.choice(
            (
                b"{" + raw,
                raw + b" " * 9,
                b" " + raw,
                b'{"a":' + b"[" * 9000,
                b'{"a":{' * 900,
                b'{"":0,' * 99,
                raw.replace(b":", b"::", 1),
                raw[:-1] + b',"__metadata__":{"a":"b"}}',
            )
        )
    data = bytearray(struct.pack("<Q", len(raw)) + raw + body)
    if draw.random() < 0.25:
        data = _broken(draw, data, 8 + len(raw))
        if draw.random() < 0.6 and len(data) > 8:  # the length goes with it, so that what is inside is reached
            data[:8] = struct.pack("<Q", max(0, len(data) - 8 - len(body)))
    sidecar = _text(draw, _peft(draw)).encode("utf-8", "surrogatepass") if draw.random() < 0.1 else None
    return Case(seed, number, bytes(data), sidecar)


def cases(seed: int, start: int = 0) -> Iterator[Case]:
    """All cases of a seed from one on; they do not end."""
    while True:
        yield case(seed, start)
        start += 1


# ---------------------------------------------------------------------------------------------------------------- running it


def _uses(path: Path, draw: random.Random) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is done with a file: looked at in every way, and three things that users do."""
    import krona_ops as k
    from krona_ops.__main__ import main
    from krona_ops.formats import metadata
    from krona_ops.formats.encode import writable
    from krona_ops.operations.respell import respelled
    from krona_ops.operations.strengths import selectors

    output = path.with_name("out") / "o.safetensors"
    rule = draw.choice(("auto", "auto", "auto", "lycoris", "alpha/rank", "alpha/sqrt(in)", "alpha/sqrt(rank)", "1"))
    form = draw.choice((k.KronForm((2, 2)), k.KronForm((4, 4), 2), k.LowRankForm(2), k.DenseForm()))

    def again() -> object:
        k.save(k.load(path, rule), output, draw.choice(writable()), rank=draw.choice((None, 1, 4)))
        return k.load(output)

    def described() -> object:
        adapter = k.load(path, rule)
        facts = adapter.metadata
        metadata.manager_entry(adapter, path="/a/b.safetensors", size=1, modified=0.0, sha256="")
        return (
            metadata.trigger_words(facts),
            metadata.thumbnail_in(facts, 1000),
            metadata.title_of(facts),
            selectors(adapter.layers),
        )

    yield "inspect", lambda: k.inspect_header(path)
    yield "load", lambda: k.load(path, rule)
    more: list[tuple[str, Callable[[], object]]] = [
        ("report", lambda: k.report(k.load(path, rule)).table(draw.choice(("layer", "block", "role")))),
        ("save", again),
        ("describe", described),
        ("sum", lambda: k.blend([(k.load(path, rule), 1.0), (k.load(path), -0.5)])),
        ("ties", lambda: k.blend([(k.load(path, rule), 1.0), (k.load(path), 0.5)], method=draw.choice(("ties", "dare", "dare ties")))),
        ("compress", lambda: k.compress(k.load(path, rule), form)),
        ("respell", lambda: respelled(k.load(path, rule), "lokr")),
        ("prompt", lambda: main(["inspect", "--by", "layer", str(path), *(["--tensors"] if draw.random() < 0.5 else [])])),
        ("convert", lambda: main(["convert", str(path), "-o", str(output), "--overwrite", "--format", draw.choice(writable()), "--rank", "2", *(["--keep-names"] if draw.random() < 0.7 else [])])),
    ]  # fmt: skip
    yield from draw.sample(more, 3)


def run(one: Case, folder: Path) -> Outcome:
    """What comes of a case in this process.

    Args:
        folder: An empty one, which is empty again afterwards.
    """
    from krona_ops.errors import KronaError

    path = folder / "a.safetensors"
    path.write_bytes(one.data)
    (folder / "out").mkdir(exist_ok=True)
    sidecar = folder / "adapter_config.json"
    if one.sidecar is not None:
        sidecar.write_bytes(one.sidecar)
    refused = ""
    try:
        for what, use in _uses(path, random.Random(one.number)):
            said = io.StringIO()
            try:
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    use()
            except KronaError as error:
                refused = refused or type(error).__name__
                said.write(str(error))
            except Exception as error:  # noqa: BLE001 (that is what is looked for)
                return Outcome("violation", f"{what}: {type(error).__name__}: {str(error)[:200]!r}")
            told = said.getvalue()
            if not told.replace("\n", "").isprintable() or "Traceback" in told:
                return Outcome("violation", f"{what}: said {told[:200]!r}")
        left = [file.name for file in (folder / "out").iterdir() if file.name not in ("o.safetensors", "adapter_config.json")]
        return Outcome("violation", f"left {left}") if left else Outcome("refused" if refused else "ok", refused)
    finally:
        for file in (path, sidecar, *(folder / "out").iterdir()):
            file.unlink(missing_ok=True)


def run_all(
    seed: int, start: int, count: int, told: Callable[[int, Outcome], object] = lambda number, outcome: None
) -> Summary:
    """Run cases in processes of their own.

    Args:
        told: Called with each case's number and outcome, as it is known.
    """
    summary, following = Summary(), start
    while following < start + count:
        for number, outcome in _in_a_process(seed, following, start + count - following):
            summary.counts[outcome.kind] += 1
            if outcome.kind == "violation":
                summary.violations.append((number, outcome.what))
            told(number, outcome)
            following = number + 1
    return summary


def _in_a_process(seed: int, start: int, count: int) -> Iterator[tuple[int, Outcome]]:
    """The outcomes of cases one after the other; the last is that of the case at which the process ended, or was ended."""
    with (
        tempfile.TemporaryDirectory() as folder,
        (Path(folder) / "said").open("w") as heard,
        (Path(folder) / "said").open() as said,
    ):
        command = [sys.executable, __file__, str(seed), "--start", str(start), "--count", str(count), "--child", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        child = subprocess.Popen(command, stdout=heard, stderr=subprocess.PIPE, text=True, env=environment)
        number, position, since = start, 0, None
        try:
            while number < start + count:
                ended = child.poll() is not None
                said.seek(position)
                for line in iter(said.readline, ""):
                    if not line.endswith("\n"):
                        break
                    position, since = said.tell(), None
                    if line != "ready\n":
                        yield number, Outcome(*json.loads(line))
                        number += 1
                if number == start + count:
                    return
                spent = _processor_seconds(child.pid)
                since = spent if since is None else since
                if ended:
                    yield (
                        number,
                        Outcome("violation", f"the process ended with {child.returncode}: {child.stderr.read()[-300:]!r}"),
                    )  # type: ignore[union-attr]
                    return
                if position and spent - since > SECONDS:
                    yield number, Outcome("violation", f"took more than {SECONDS:g} s of processor time")
                    return
                time.sleep(0.05)
        finally:
            child.kill()
            child.wait()
            child.stderr.close()  # type: ignore[union-attr]


def _processor_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _child(seed: int, start: int, count: int, folder: Path) -> None:
    sys.path.insert(0, str(ROOT))
    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    place = folder / "case"
    place.mkdir()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for number in range(start, start + count):
        outcome = run(case(seed, number), place)
        sys.stdout.write(json.dumps([outcome.kind, outcome.what]) + "\n")
        sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.seed, options.start, options.count, options.child)
        return 0
    began = time.monotonic()

    def told(number: int, outcome: Outcome) -> None:
        if outcome.kind == "violation":
            sys.stdout.write(f"{number}: {outcome.what}\n")
            sys.stdout.flush()

    found = run_all(options.seed, options.start, options.count, told)
    sys.stdout.write(f"{dict(found.counts)} in {time.monotonic() - began:.0f} s\n")
    return bool(found.violations)


if __name__ == "__main__":
    sys.exit(main())
