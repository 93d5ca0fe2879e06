"""A real server with an audit hook in it and in all its children, that loads, applies, blends, saves,
trains in both places, and answers requests."""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes

from krona_ops import Adapter, Full, Kron
from krona_ops.formats import encode as encoding
from tools import tiny_models
from tools.comfyui.server import PACK, ClientError, Server

from ..driver import Bench, Outcome

sys.path.append(str(PACK / "tests" / "support"))
import graphs

HOOK = Path(__file__).parent / "hook"
MARK = "krona_audit_mark"
"""In every name, text and value that strangers hand in here: whoever runs it as code has it in its source."""
CODE = f"__import__('os').system('{MARK}')"
FORMATS = ("lokr", "kohya", "lora", "kohya-lora")
OWN = ("-m", "krona_train")


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """One server, and one thing after the other done to it."""
    log = bench.folder / "audit.jsonl"
    base = _lay_out(bench.folder / "base")
    environment = {
        "PYTHONPATH": str(HOOK), "KRONA_AUDIT_PACK": os.pathsep.join(map(str, (PACK, base / "custom_nodes" / "krona"))), "KRONA_AUDIT_MARK": MARK, "KRONA_AUDIT_LOG": str(log),
    }  # fmt: skip
    things = list(THINGS)
    Random(bench.seed).shuffle(things)  # so that a short draw does other ones every day
    with Server(base, packs={"krona": PACK}, cpu=True, env=environment) as server:
        audit = _Audit(log)
        for number in numbers:
            what = things[number % len(things)]
            try:
                THINGS[what](server, base, bench.rng(number))
                failed = []
            except (ClientError, urllib.error.URLError, OSError) as error:
                failed = [f"the server did not do it: {error}"[:500]]
            yield Outcome(number, what, (*failed, *audit.violations()))


class _Audit:
    """The hook's lines, each once."""

    def __init__(self, log: Path) -> None:
        self._log, self._read = log, 0

    def violations(self) -> list[str]:
        """What since the last time was more than the pack's own trainer."""
        lines = self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []
        new, self._read = lines[self._read :], len(lines)
        events = [json.loads(line) for line in new]
        return list(
            dict.fromkeys(
                f"{t['event']} by {t['by'] or 'the host'}: {t['what']}" for t in events if not _is_own_trainer(t)
            )
        )


def _is_own_trainer(event: dict) -> bool:
    """Whether it is the documented process of a training, and nothing else."""
    arguments = event["what"]
    starts = event["event"] in ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec")
    by = event["by"].partition(":")[0]
    if event["event"] == "subprocess.Popen":
        return by == "krona_train/processes/launch.py" and isinstance(arguments, list) and tuple(arguments[1:3]) == OWN
    return starts and by == "krona_train/processes/launch.py"


def _lay_out(base: Path) -> Path:
    graphs.lay_out(base)
    pictures = base / "input" / "krobot"
    shutil.copytree(PACK / "samples" / "krobot", pictures)
    (pictures / "brick.txt").write_text(f"a photo of sks robot, {CODE}", encoding="utf-8")
    (base / "models" / "krona").mkdir()
    adapter = _adapter()
    for kind in FORMATS:
        made = encoding.encode(adapter, kind, rank=4 if "lora" in kind else None)
        environment = {
            **made.metadata,
            "ss_network_args": json.dumps({"x": CODE}),
            CODE: CODE,
            "adapter_config": json.dumps({"base": CODE}),
        }
        data = to_bytes(
            {name: tensor.contiguous() for name, tensor in made.tensors.items()},
            {k: str(v) for k, v in environment.items() if k != "adapter_config"},
        )
        (base / "models" / "krona" / f"{kind}.safetensors").write_bytes(data)
    (base / "models" / "krona" / "pickle.safetensors").write_bytes(
        b"\x80\x04cos\nsystem\n(S'" + MARK.encode() + b"'\ntR."
    )
    run = base / "output" / "krona" / "hostile"
    run.mkdir(parents=True)
    (run / "run.yaml").write_text(
        f"name: !!python/object/apply:os.system ['{MARK}']\ncomfyui: {base}\n", encoding="utf-8"
    )
    (run / "metrics.jsonl").write_text(
        json.dumps({"event": "note", "step": 1, "text": CODE, "time": 0}) + "\n", encoding="utf-8"
    )
    return base


def _adapter() -> Adapter:
    rng = torch.Generator().manual_seed(0)
    layers = {}
    with safe_open(tiny_models.cached("sd15"), "pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            if ".attn1.to_q.weight" in name:
                out, into = file.get_slice(name).get_shape()
                own = name.removeprefix("model.").removesuffix(".weight")
                layers[own] = Kron(
                    Full(torch.randn(8, 8, generator=rng)), Full(0.01 * torch.randn(out // 8, into // 8, generator=rng))
                )
    return Adapter(layers)


def load_and_sample(server: Server, base: Path, rng: Random) -> None:
    """A file of each kind, applied in both ways, and a picture with it."""
    file = f"{rng.choice(FORMATS)}.safetensors"
    mode = rng.choice(("merge", "bypass"))
    graph = {
        "1": graphs.checkpoint(graphs.CHECKPOINT),
        "9": graphs.load(file),
        "10": graphs.apply(("9", 0), mode=mode, strength=rng.random()),
    }
    server.client.run({**graph, **graphs.render(("10", 0))})


def inspect_and_save(server: Server, base: Path, rng: Random) -> None:
    """The heat map, the report, and a file of another format."""
    graph = {
        "9": graphs.load(f"{rng.choice(FORMATS)}.safetensors"),
        "10": graphs.node("KronaScale", krona=["9", 0], strength=rng.random()),
        "11": graphs.node("KronaInspect", krona=["10", 0], measure="how far weights move", table_by="block"),
        "12": graphs.save(("10", 0), prefix="krona/saved"),
    }
    server.client.run(graph)


def train_here(server: Server, base: Path, rng: Random) -> None:
    """In the server's own process, with previews and class pictures."""
    _train(server, rng, "in ComfyUI")


def train_apart(server: Server, base: Path, rng: Random) -> None:
    """In a process of its own, which is the only one that may start."""
    _train(server, rng, "separate process")


def _train(server: Server, rng: Random, where: str) -> None:
    graph = {
        "1": graphs.checkpoint(graphs.CHECKPOINT),
        "2": graphs.dataset(
            folder="krobot", prompt=f"a photo of sks robot {CODE}", class_prompt="a robot", class_pictures=1
        ),
        "3": graphs.train(steps=3, name=f"robot {rng.random()}", where=where, preview_every=2, resume="(new run)"),
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["3", 2]}},
    }
    server.client.run(graph)


def ask_routes(server: Server, base: Path, rng: Random) -> None:
    """Every route that reads, on files of all kinds, the hostile ones included."""
    for path in (
        "/krona/runs",
        "/krona/runs/hostile",
        "/krona/runs/hostile/metrics",
        "/models/krona",
        "/object_info/KronaTrain",
    ):
        _get(server, path)
    for kind in (*FORMATS, "pickle"):
        _get(server, f"/krona/adapters/{kind}.safetensors")
        _get(server, f"/krona/adapters/{kind}.safetensors/thumbnail")


def upload(server: Server, base: Path, rng: Random) -> None:
    """A whole adapter, and a pickle that calls itself one."""
    kind = rng.choice((*FORMATS, "pickle"))
    data = (base / "models" / "krona" / f"{kind}.safetensors").read_bytes()
    request = urllib.request.Request(f"{server.url}/krona/adapters?name={kind}{rng.randrange(1000)}.safetensors", data)
    request.add_header("Content-Type", "application/octet-stream")
    _answered(request)


def open_pickle(server: Server, base: Path, rng: Random) -> None:
    """A graph that names the pickle: refused before anything runs."""
    try:
        server.client.run({"9": graphs.load("pickle.safetensors"), "12": graphs.save(("9", 0))})
    except ClientError:
        return
    raise OSError("the pickle was loaded")


def _get(server: Server, path: str) -> None:
    _answered(urllib.request.Request(server.url + path))


def _answered(request: urllib.request.Request) -> None:
    """Whatever the answer, it must come."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        error.read()


THINGS: dict[str, Callable[[Server, Path, Random], None]] = {
    "load, apply and sample": load_and_sample,
    "inspect, scale and save": inspect_and_save,
    "train in the server": train_here,
    "answer requests": ask_routes,
    "take an upload": upload,
    "open a pickle": open_pickle,
    "train in a process of its own": train_apart,
}
