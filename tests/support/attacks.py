"""Hostile requests on every route of the pack, as a table: what is sent, and which answers are right.

Whatever is sent, nothing on the disk changes, no answer is the server's own failure, none tells where files are, and none holds what lies
outside the folders that a menu lists.
"""

import base64
import hashlib
import json
import select
import socket
import time
from dataclasses import dataclass, field

import torch
from safetensors.torch import save, save_file

SECRET = "kept-from-everybody"
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
STREAM = {"Content-Type": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}
NOT_FOUND = frozenset({404})
BAD = frozenset({400})
CLOSED = 0
"""No answer: the connection was closed at once."""
NOT_OURS = frozenset({400, 403, 404, 405, 413, 414, 431})
"""What the host or its library may say before a route of the pack is asked."""


@dataclass(frozen=True)
class Attack:
    """One request."""

    name: str
    target: str
    """As it stands in the first line of the request."""
    expected: frozenset[int]
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    """What Content-Length says; of the body where it is not given."""
    pieces: float = 0.0
    """Seconds between the bytes of the body; the server need not wait for them."""
    host: str | None = None
    """The Host header; the server's own where it is not given."""


def lay_out(base):
    """What the attacks are after, below a server's base folder and beside it."""
    run = base / "output" / "krona" / "victim"
    (run / "previews").mkdir(parents=True, exist_ok=True)
    rows = [{"event": "started", "step": 0, "steps": 2}, {"event": "step", "step": 1, "loss": 0.5, "learning_rate": 0.1}]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (run / "run.yaml").write_text(f"name: {SECRET}\n")
    (run / "previews" / "step-000001-1.png").write_bytes(PNG)
    (run / "previews" / "step-000001-2.png").unlink(missing_ok=True)
    outside = base.parent / f"outside {base.name}"
    (outside / "previews").mkdir(parents=True, exist_ok=True)
    (outside / "metrics.jsonl").write_text(f'{{"event": "note", "step": 1, "text": "{SECRET}"}}\n')
    (outside / "picture.png").write_bytes(PNG + SECRET.encode())
    save_file({"a.diff": torch.ones(3)}, outside / "secret.safetensors", {"modelspec.title": SECRET})
    (run / "previews" / "step-000001-2.png").symlink_to(outside / "picture.png")
    linked = base / "output" / "krona" / "linked"
    if not linked.is_symlink():
        linked.symlink_to(outside, target_is_directory=True)
    models = base / "models" / "krona"
    models.mkdir(parents=True, exist_ok=True)
    save_file({"a.diff": torch.ones(3)}, models / "victim.safetensors", {"modelspec.title": "mine"})


def traversals():
    """Names that lead elsewhere, as they may be written in a request."""
    names = {
        "up": "../outside", "up twice": "../../outside", "up, quoted": "%2e%2e%2foutside", "up, quoted twice": "%252e%252e%252foutside",
        "up for Windows": "..%5coutside", "up in UTF-8 of too many bytes": "%c0%ae%c0%ae%c0%afoutside", "absolute": "%2fetc%2fpasswd",
        "a drive": "C:%5cWindows%5cwin.ini", "a share": "%5c%5c127.0.0.1%5cc$", "a zero": "victim%00", "a zero and a suffix": "victim%00.png",
        "a line": "victim%0d%0aSet-Cookie:a=b", "an escape code": "%1b%5d0;pwned%07", "no UTF-8": "%ff%fe", "a lone surrogate": "%ed%a0%80",
        "right to left": "%e2%80%aemitciv", "a point": "%2e", "two points": "%2e%2e", "nothing but blanks": "%20%20", "a device": "con", "another device": "NUL",
        "a stream": "victim::$DATA", "a wildcard": "*", "the other case": "VICTIM", "a blank behind": "victim%20", "a point behind": "victim.",
        "five thousand letters": "x" * 5000, "a file of the run": "victim%2fmetrics.jsonl", "a template": "%7b%7b7*7%7d%7d", "a home": "~root", "a variable": "$HOME",
        "a link": "linked",
    }  # fmt: skip
    return names


def uploads():
    """Uploads that must be refused."""
    good = save({"a.diff": torch.full((3,), 7.0)})

    def one(name, expected, target="/krona/adapters?name=evil.safetensors", body=good, headers=STREAM, **more):
        return Attack(f"upload: {name}", target, frozenset(expected), "POST", headers, body, **more)

    def called(name, what, *expected):
        return one(f"called {what}", expected or {400}, f"/krona/adapters?name={name}")

    def header(entries, tail=b""):
        text = json.dumps(entries).encode()
        return len(text).to_bytes(8, "little") + text + tail

    wide = {f"layer.{n}.diff": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(300)}
    yield one("no type", {415}, headers={})
    for kind in (
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/json",
        "",
        ";",
    ):
        yield one(f"of type {kind!r}", {415}, headers={"Content-Type": kind})
    yield one("from another site", {403}, headers={**STREAM, "Origin": "http://evil.example"})
    yield one("from another port", {403}, headers={**STREAM, "Origin": "http://127.0.0.1:1"})
    yield one("from no site", {403}, headers={**STREAM, "Origin": "null"})
    yield one("from a site that is none", {403}, headers={**STREAM, "Origin": "//"})
    yield one("from a file", {403}, headers={**STREAM, "Origin": "file://"})
    yield one("said to be cross-site", {403}, headers={**STREAM, "Sec-Fetch-Site": "cross-site"})
    yield one("by a name made to lead here", {403}, host="evil.example", headers={**STREAM, "Origin": "http://evil.example"})
    yield one("by such a name and no origin", {403}, host="evil.example")
    yield one("to a host that is none", {400, 403}, host="[::1")
    for name, what in (
        ("", "nothing"), ("..%2f..%2fevil.safetensors", "up"), ("%2fetc%2fevil.safetensors", "absolute"), ("..%5cevil.safetensors", "up for Windows"),
        ("a%00.safetensors", "with a zero"), ("con.safetensors", "as a device"), (".con.safetensors", "as a hidden device"), ("x" * 300 + ".safetensors", "too long"),
        ("%f0%9d%85%a0" * 47 + ".safetensors", "too long once it is composed"), ("state-00000012.safetensors", "as a run's state"), ("encoded.safetensors", "as a run's pictures"),
        ("%c2%a0.safetensors", "a blank that is none"), ("a%0a.safetensors", "with a line"), ("%1b%5b2J.safetensors", "with an escape code"),
    ):  # fmt: skip
        yield called(name, what)
    for suffix in ("pt", "ckpt", "py", "safetensors.exe", "html", "png"):
        yield called(f"evil.{suffix}", f".{suffix}", 415)
    yield one("a pickle", {415}, body=b"\x80\x04" + b"." * 100)
    yield one("a zip", {400, 415}, body=b"PK\x03\x04" + b"\0" * 100)
    yield one("a page", {400}, body=b"<!doctype html><script>alert(1)</script>" + b" " * 100)
    yield one("nothing", {400}, body=b"")
    yield one("a header of 2^63 bytes", {400}, body=b"\xff" * 7 + b"\x7f" + b"{}" * 50)
    yield one("nesting", {400}, body=(90_000).to_bytes(8, "little") + b"[" * 90_000)
    yield one(
        "a number of 4000 digits",
        {400},
        body=(lambda t: len(t).to_bytes(8, "little") + t)(
            b'{"a.diff":{"dtype":"F32","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,0]}}'
        ),
    )
    yield one(
        "a shape of 2^63", {400, 415}, body=header({"a.diff": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}})
    )
    yield one(
        "a shape that is true",
        {400, 415},
        body=header({"a.diff": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"\0" * 4),
    )
    yield one("many empty layers and a byte too few", {400}, body=header(wide)[:-1])
    yield one("fewer bytes than announced", {400, 408}, length=len(good) + 10)
    yield one("a length below nothing", {400}, length=-1)
    yield one("a length of 2^70", {CLOSED, 400, 413}, length=2**70)
    yield Attack("upload: by GET", "/krona/adapters?name=evil.safetensors", frozenset({404, 405}))
    yield Attack("upload: a length and pieces", "/krona/adapters?name=evil.safetensors", frozenset({400}), "POST", {**STREAM, "Transfer-Encoding": "chunked"}, b"0\r\n\r\n", length=5)  # fmt: skip


def asks():
    """Requests to a training that must be refused."""

    def one(name, expected, body=b'{"ask": "finish"}', headers=JSON, run="victim", **more):
        return Attack(f"ask: {name}", f"/krona/runs/{run}/requests", frozenset(expected), "POST", headers, body, **more)

    yield one("a run that does not train", {409})
    yield one("no type", {415}, headers={})
    yield one("as a form", {415}, headers={"Content-Type": "text/plain"})
    yield one("in an alphabet that there is not", {400, 409}, headers={"Content-Type": "application/json; charset=nonsense"})
    yield one("from another site", {403}, headers={**JSON, "Origin": "http://evil.example"})
    yield one("from no site", {403}, headers={**JSON, "Origin": "null"})
    yield one(
        "by a name made to lead here", {403}, host="evil.example:80", headers={**JSON, "Origin": "http://evil.example:80"}
    )
    bodies = {
        "nothing": b"", "no JSON": b"{", "no UTF-8": b'"\xff"', "another word": b'{"ask": "stop"}', "a path": b'{"ask": "../../x"}', "a list": b'["finish"]',
        "a list as a word": b'{"ask": ["finish"]}', "a depth": b"[" * 900, "digits": b'{"ask": ' + b"9" * 900 + b"}", "NaN": b"NaN", "a surrogate": b'{"ask": "\\ud800"}',
        "too much": b" " * 5000 + b'{"ask": "save"}',
    }  # fmt: skip
    for name, body in bodies.items():
        yield one(name, {400}, body)
    yield one("a length that is none", {400}, length=-5)
    for name, text in traversals().items():
        yield one(f"a run called {name}", NOT_OURS, run=text)


def reads():
    """GETs that find nothing."""
    for name, text in traversals().items():
        yield Attack(f"run: {name}", f"/krona/runs/{text}", NOT_OURS | {404})
        yield Attack(f"preview: {name}", f"/krona/runs/{text}/previews/1/1", NOT_OURS)
        for route in ("adapter", "adapter/thumbnail"):
            yield Attack(f"{route}: {name}", f"/krona/{route}?name={text}", NOT_OURS)
    for name in (
        "..%2foutside%2fsecret.safetensors",
        "%2fetc%2fpasswd",
        "victim.safetensors%00",
        "./victim.safetensors",
        "krona%2f..%2fvictim.safetensors",
    ):
        yield Attack(f"adapter: {name}", f"/krona/adapter?name={name}", NOT_FOUND)
    yield Attack("adapter: no name", "/krona/adapter", NOT_FOUND)
    yield Attack("adapter: two names", "/krona/adapter?name=..&name=..", NOT_FOUND)
    for start in ("-1", "1e9", "9" * 400, "0x10", "%00", "٣", "a", "1.5", " 1", "NaN"):
        quoted = "".join(f"%{byte:02x}" for byte in start.encode()) if not start.startswith("%") else start
        yield Attack(f"run: from {start[:9]!r}", f"/krona/runs/victim?from={quoted}", BAD)
    for step, number in (
        ("1", "0"),
        ("1", "2"),
        ("1", "9999"),
        ("999999999", "1"),
        ("1", "-1"),
        ("..", "1"),
        ("1", "1%2f.."),
        ("1", "00001"),
        ("9" * 50, "1"),
        ("1", "٣"),
    ):
        quoted = "".join(c if c.isascii() else "".join(f"%{byte:02x}" for byte in c.encode()) for c in number)
        yield Attack(f"preview: {step[:10]}/{number}", f"/krona/runs/victim/previews/{step}/{quoted}", NOT_FOUND)
    yield Attack("a header of 100,000 bytes", "/krona/runs", frozenset({400, 431}), headers={"X": "a" * 100_000})
    yield Attack("10,000 questions", "/krona/runs/victim?" + "&".join(f"a{n}=1" for n in range(10_000)), frozenset({400, 414}))
    for method in ("PUT", "DELETE", "PATCH", "POST", "PROPFIND"):
        for route in ("runs", "runs/victim", "adapter?name=victim.safetensors"):
            yield Attack(f"{method} {route}", f"/krona/{route}", frozenset({400, 403, 404, 405}), method)
    yield Attack("GET of a request", "/krona/runs/victim/requests", frozenset({404, 405}))


def slow():
    """Bodies that hardly come: the server must not wait for their end."""
    good = save({"a.diff": torch.full((3,), 7.0)})
    for name, body, pieces in (("never", b"", 0.0), ("after a byte never", good[:1], 0.0), ("a byte a second", good[:40], 1.0)):
        target = "/krona/adapters?name=slow.safetensors"
        yield Attack(f"slow upload: {name}", target, frozenset({408}), "POST", STREAM, body, length=len(good), pieces=pieces)
    yield Attack("slow request", "/krona/runs/victim/requests", frozenset({408}), "POST", JSON, b'{"as', length=20)


def table():
    """All of them but those that take long."""
    found = [*reads(), *asks(), *uploads()]
    assert len({attack.name for attack in found}) == len(found)
    return found


def wrong(base, port, attack, seconds=60.0):
    """Carry one out; what must not have happened, empty where all is well."""
    began = time.monotonic()
    answer = _sent(port, attack, seconds)
    took = time.monotonic() - began
    found = []
    status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else CLOSED
    if status not in attack.expected:
        found.append(f"answered {status}, not {sorted(attack.expected)}: {answer[-300:]!r}")
    if status >= 500:
        found.append("the server's own failure")
    for told in (str(base), str(base.resolve()), SECRET, "Traceback"):
        if told.encode() in answer:
            found.append(f"{told!r} is in the answer")
    if took > seconds:
        found.append(f"it took {took:.0f} s")
    return found


def _sent(port, attack, seconds):
    length = len(attack.body) if attack.length is None else attack.length
    head = [f"{attack.method} {attack.target} HTTP/1.1", f"Host: {attack.host or f'127.0.0.1:{port}'}", "Connection: close"]
    head += [f"{name}: {value}" for name, value in attack.headers.items()]
    if attack.method in ("POST", "PUT", "PATCH"):
        head.append(f"Content-Length: {length}")
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as line:
        try:
            line.sendall("\r\n".join([*head, "", ""]).encode("utf-8", "surrogateescape"))
            for piece in [attack.body[n : n + 1] for n in range(len(attack.body))] if attack.pieces else [attack.body]:
                line.sendall(piece)
                if select.select([line], [], [], attack.pieces)[0]:  # it has not waited for the rest
                    break
            if length > len(attack.body) and not attack.pieces and 408 not in attack.expected:
                line.shutdown(socket.SHUT_WR)
            while part := line.recv(1 << 16):
                answer += part
                if 408 in attack.expected and b"\r\n\r\n" in answer:
                    break
        except OSError:
            pass  # the server has closed it, after its answer or without one; or has not answered in time, which is seen by the answer
    return answer


def everything(base):
    """Each file and link below the folders that the pack writes to, with what it holds."""
    found = {}
    for top in ("models", "output", "input", "custom_nodes"):
        for path in sorted((base / top).rglob("*")):
            if path.is_symlink():
                found[str(path)] = str(path.readlink())
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(path)] = "a folder"
    return found
