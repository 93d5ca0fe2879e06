"""Adapters from the browser: what is one arrives whole under a name of its own, everything else leaves nothing behind."""

import hashlib
import http.client
import json
import os
import pickle
import select
import shutil
import socket
import threading
import time
import urllib.parse
import zipfile
from concurrent.futures import ThreadPoolExecutor

import graphs
import pytest
import torch
from safetensors.torch import save as to_bytes

from krona_ops import Adapter, Full, Kron
from krona_ops import save as save_adapter
from krona_ops.locks import take
from tools import tiny_models

LAYER = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"
AT_ONCE = 8


@pytest.fixture
def adapter(tmp_path):
    """The bytes of an adapter file; another seed gives another of the same size."""

    def make(seed=0, size=7):
        rng = torch.Generator().manual_seed(seed)
        kron = Kron(Full(torch.randn(4, 3, generator=rng)), Full(torch.randn(size, 5, generator=rng)))
        save_adapter(Adapter({LAYER: kron}), tmp_path / "made.safetensors")
        return (tmp_path / "made.safetensors").read_bytes()

    return make


@pytest.fixture
def folder(server):
    """``models/krona``, empty before and after."""
    place = server.base / "models" / "krona"
    kept = place.with_name("krona kept")
    if place.exists():
        place.rename(kept)
    yield place
    shutil.rmtree(place, ignore_errors=True)
    if kept.exists():
        kept.rename(place)


@pytest.fixture
def upload(server):
    """Send bytes; the status and the JSON value of the answer."""

    def send(data, name="robot.safetensors", kind="application/octet-stream", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        target = "/krona/adapters" + ("" if name is None else f"?name={urllib.parse.quote(name, safe='')}")
        connection.request("POST", target, data, {"Content-Type": kind, **headers})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if text else None

    return send


@pytest.fixture
def opened(server):
    """A connection on which an upload has begun: a real socket, for what no client would do."""
    sockets = []

    def begin(length, name="robot.safetensors"):
        line = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        sockets.append(line)
        head = f"POST /krona/adapters?name={urllib.parse.quote(name)} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        line.sendall(f"{head}Content-Type: application/octet-stream\r\n{length}\r\n\r\n".encode())
        return line

    yield begin
    for line in sockets:
        line.close()


def answer_on(line):
    """Status and JSON value of what the server answers on a socket."""
    response = http.client.HTTPResponse(line)
    response.begin()
    return response.status, json.loads(response.read())


def listing(folder):
    """Everything below a folder, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


def wait_until(claim, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def options(server):
    return server.client.object_info("KronaLoad")["input"]["required"]["file"][1]["options"]


def test_an_adapter_arrives_whole_and_in_the_menu(server, folder, upload, adapter):
    data = adapter()
    assert upload(data) == (200, {"name": "robot.safetensors", "is_new": True})
    assert (folder / "robot.safetensors").read_bytes() == data
    assert listing(folder) == ["robot.safetensors"]
    assert "robot.safetensors" in options(server)
    assert server.client.get_json("/krona/adapter", name="robot.safetensors")["layers"] == 1
    shown = {"1": graphs.load("robot.safetensors"), "2": graphs.node("PreviewAny", source=["1", 1])}
    assert server.client.run(shown).status == "success"


def test_the_same_bytes_are_used_again_wherever_they_are(server, folder, upload, adapter):
    first, other = adapter(1), adapter(2)
    assert len(first) == len(other)
    assert upload(first, "a.safetensors")[1] == {"name": "a.safetensors", "is_new": True}
    assert upload(first, "b.safetensors")[1] == {"name": "a.safetensors", "is_new": False}
    (server.base / "models" / "loras" / "there.safetensors").write_bytes(other)
    try:
        assert upload(other, "b.safetensors")[1] == {"name": "there.safetensors", "is_new": False}
    finally:
        (server.base / "models" / "loras" / "there.safetensors").unlink()
    assert listing(folder) == ["a.safetensors"]


def test_another_files_name_is_never_taken_in_any_folder(server, folder, upload, adapter):
    elsewhere = server.base / "models" / "loras" / "Mine.safetensors"
    elsewhere.write_bytes(adapter(50, size=2))
    try:
        names = [upload(adapter(seed), "mine.safetensors")[1]["name"] for seed in range(3)]
    finally:
        elsewhere.unlink()
    assert names == [f"mine ({n}).safetensors" for n in (2, 3, 4)]
    assert [(folder / name).read_bytes() for name in names] == [adapter(seed) for seed in range(3)]


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("Käfer 🤖 (1).safetensors", "Käfer 🤖 (1).safetensors"),
        ('a<b>:c|d?e*f"g.safetensors', "a-b--c-d-e-f-g.safetensors"),
        (" . spaced . .SAFETENSORS", "spaced.safetensors"),
        ("right\u202eto left.safetensors", "right-to left.safetensors"),
        ("console.safetensors", "console.safetensors"),
        ("flux.lora.SFT", "flux.lora.sft"),
        ("%2e%2e%2fx.safetensors", "%2e%2e%2fx.safetensors"),
    ],
)
def test_a_name_is_made_safe_and_otherwise_kept(server, folder, upload, adapter, asked, given):
    assert upload(adapter(), asked) == (200, {"name": given, "is_new": True})
    assert listing(folder) == [given]
    assert given in options(server)


def test_what_is_called_like_a_runs_own_files_is_hidden_in_the_folder_of_a_run_only(server, folder, adapter):
    mine, run = folder / "mine", server.base / "output" / "krona" / "called alike"
    names = ["encoded.safetensors", "start.safetensors", "state-00000012.safetensors"]
    try:
        for place in (mine, run):
            place.mkdir(parents=True)
            for name in names:
                (place / name).write_bytes(adapter())
        (run / "run.yaml").write_text("")
        shown = [name.replace("\\", "/") for name in options(server)]
        assert all(f"mine/{name}" in shown for name in names)
        assert not any("called alike/" in name for name in shown)
    finally:
        shutil.rmtree(mine, ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)


WRONG_NAMES = {
    "none": None, "empty": "", "blank": "  ", "up": "../../x.safetensors", "up for Windows": "..\\..\\x.safetensors",
    "absolute": "/tmp/x.safetensors", "a drive": "C:\\x.safetensors", "a zero": "x\0.safetensors", "a line": "x\n.safetensors",
    "too long": "x" * 300 + ".safetensors", "too many bytes": "🤖" * 60 + ".safetensors", "a device": "con.safetensors",
    "a device in capitals": "NUL.safetensors", "a device with more": "com1.tar.safetensors", "a port": "LPT9 .safetensors",
    "a device behind a point": ".con.safetensors", "as a run's state": "state-00000012.safetensors", "as a run's pictures": "encoded.safetensors",
    "too long once it is composed": "\U0001d160" * 47 + ".safetensors", "a blank that is none": "\xa0.safetensors",
    "only the suffix": ".safetensors", "only points": "....safetensors",
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_NAMES)
def test_a_name_that_leads_elsewhere_or_is_none_is_refused(server, folder, upload, adapter, what):
    before = listing(server.base)
    status, answer = upload(adapter(), WRONG_NAMES[what])
    assert status == (415 if what.startswith("only") else 400)
    assert "error" in answer
    assert [name for name in listing(server.base) if name not in before] in ([], ["models/krona"])


def zipped(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", b"x" * 5000)
    return path.read_bytes()


def headed(entries, tail=b""):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + tail


def tensor(shape=(2, 2), end=16, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, end]}


def no_adapters(tmp_path, adapter):
    good = adapter()
    weights = {"conditioner.weight": torch.zeros(3, 2), "x.bias": torch.zeros(2)}
    return {
        "a zip": (415, "is a zip archive", zipped(tmp_path / "a.zip")),
        "a pickle": (415, "is a pickle, which can run code", pickle.dumps({"a": list(range(999))})),
        "an old pickle": (400, "is no safetensors file", pickle.dumps({"a": list(range(999))}, protocol=0)),
        "a header of 2^60 bytes": (400, "a header of 1152921504606846976 bytes is not possible", (1 << 60).to_bytes(8, "little") + good[8:]),
        "a header longer than the file": (400, "is not possible", len(good).to_bytes(8, "little") + good[8:]),
        "no JSON": (400, "its header makes no sense", (64).to_bytes(8, "little") + b"\xff" * 100),
        "a depth without end": (400, "its header makes no sense", (90_000).to_bytes(8, "little") + b"[" * 90_000),
        "a list": (400, "its header makes no sense", headed([1, 2])),
        "metadata that is no text": (400, "its header makes no sense", headed({"__metadata__": {"a": 1}})),
        "a shape of an unknown kind that no file holds": (
            400,
            "its header makes no sense",
            headed({"a.lokr_w1": tensor((2**40, 2**40), dtype="F4")}, b"\0" * 16),
        ),
        "tensors on top of each other": (
            400,
            "its header makes no sense",
            headed({f"{LAYER}.lokr_w1": tensor(), f"{LAYER}.lokr_w2": tensor()}, b"\0" * 16),
        ),
        "a negative size": (400, "its header makes no sense", headed({"a.lokr_w1": tensor((-2, -2))}, b"\0" * 16)),
        "a size beyond all disks": (400, "its header makes no sense", headed({"a.lokr_w1": tensor((2**40, 2**20), 2**62)}, b"\0" * 16)),
        "a byte less than the header says": (400, "the header speaks of", good[:-1]),
        "a byte more than the header says": (400, "the header speaks of", good + b"\0"),
        "nothing": (400, "", b""),
        "seven bytes": (400, "", good[:7]),
        "no tensors": (415, "holds no adapter", headed({})),
        "half a layer": (415, "holds no adapter", headed({"diffusion_model.a.lokr_w1": tensor()}, b"\0" * 16)),
        "other weights": (415, "holds no adapter: No known adapter format: it holds", to_bytes(weights)),
        "a whole model": (415, "no adapter but a whole model: SD1.5", tiny_models.cached("sd15", clip=False, vae=False).read_bytes()),
        "a web page": (400, "is no safetensors file", b"<!doctype html><html>" + b" " * 500),
    }  # fmt: skip


KINDS = (
    "a zip", "a pickle", "an old pickle", "a header of 2^60 bytes", "a header longer than the file", "no JSON", "a depth without end",
    "a shape of an unknown kind that no file holds", "tensors on top of each other", "a list", "metadata that is no text", "a negative size", "a size beyond all disks", "a byte less than the header says",
    "a byte more than the header says", "nothing", "seven bytes", "no tensors", "half a layer", "other weights", "a whole model",
    "a web page",
)  # fmt: skip


@pytest.mark.parametrize("what", KINDS)
def test_what_is_no_adapter_is_refused_with_a_reason_and_leaves_nothing(folder, upload, adapter, tmp_path, what):
    status, reason, data = no_adapters(tmp_path, adapter)[what]
    code, answer = upload(data)
    assert code == status, answer
    assert reason in answer["error"]["message"]
    assert listing(folder) == []


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".zip", ".safetensors.pt", ""])
def test_another_suffix_is_refused_whatever_the_bytes_are(folder, upload, adapter, suffix):
    status, answer = upload(adapter(), f"robot{suffix}")
    assert status == 415
    assert "never opened" in answer["error"]["message"]
    assert listing(folder) == []


def test_a_header_is_judged_before_the_rest_has_come(folder, opened, adapter):
    good = adapter()
    length = 8 + int.from_bytes(good[:8], "little")
    for start in (headed({"other.weight": tensor((2**20, 2**8), 2**30)}), (1 << 60).to_bytes(8, "little")):
        line = opened(f"Content-Length: {len(start) + 2**30}")
        line.sendall(start)
        status, _ = answer_on(line)
        assert status in (400, 415)
    line = opened(f"Content-Length: {len(good)}")
    line.sendall(good[: length - 1])
    wait_until(lambda: [len(path.read_bytes()) for path in folder.iterdir()] == [length - 1])
    line.sendall(good[length - 1 :])
    assert answer_on(line) == (200, {"name": "robot.safetensors", "is_new": True})
    assert listing(folder) == ["robot.safetensors"]


@pytest.mark.parametrize("pieces", [1, 7, 8, 9, 60, 1000])
def test_it_does_not_matter_in_what_pieces_a_file_comes(folder, opened, adapter, pieces):
    data = adapter()
    line = opened(f"Content-Length: {len(data)}")
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start in range(0, min(len(data), 40 * pieces), pieces):
        line.sendall(data[start : start + pieces])
        time.sleep(0.001)
    line.sendall(data[min(-(-len(data) // pieces) * pieces, 40 * pieces) :])
    assert answer_on(line)[0] == 200
    assert hashlib.sha256((folder / "robot.safetensors").read_bytes()).digest() == hashlib.sha256(data).digest()


def test_a_file_that_grows_while_it_is_sent_arrives_as_it_was_announced_or_not_at_all(folder, opened, adapter):
    data = adapter()
    line = opened(f"Content-Length: {len(data)}")
    line.sendall(data + b"GET /etc/passwd and what has been added since" * 50)
    response = http.client.HTTPResponse(line)
    response.begin()
    if response.status == 200:
        assert (folder / "robot.safetensors").read_bytes() == data
    else:  # aiohttp has seen what comes behind it before it handed on the last of the file
        assert response.status == 400
        wait_until(lambda: listing(folder) == [])
    kept = listing(folder)
    line = opened(f"Content-Length: {len(data) + 4}")  # it had grown before the browser looked at its size
    line.sendall(data + b"more")
    status, answer = answer_on(line)
    assert (status, "the header speaks of" in answer["error"]["message"]) == (400, True)
    assert listing(folder) == kept


@pytest.mark.parametrize("part", [0, 4, 8, 100, -1])
def test_a_connection_that_breaks_leaves_nothing_and_no_place_is_lost(folder, opened, upload, adapter, part):
    data = adapter()
    for _ in range(AT_ONCE + 2):
        line = opened(f"Content-Length: {len(data)}")
        line.sendall(data[:part])
        line.shutdown(socket.SHUT_RDWR)
        line.close()
        wait_until(lambda: upload(data)[0] == 200)  # 429 where the server has not seen it break yet
    wait_until(lambda: listing(folder) == ["robot.safetensors"])


def test_a_body_without_a_length_is_refused(folder, opened, adapter):
    line = opened("Transfer-Encoding: chunked")
    status, answer = answer_on(line)
    assert (status, "Content-Length" in answer["error"]["message"]) == (400, True)
    assert listing(folder) == []


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
)
def test_a_body_of_another_kind_is_refused(folder, upload, adapter, kind):
    status, answer = upload(adapter(), kind=kind)
    assert (status, "application/octet-stream" in answer["error"]["message"]) == (415, True)
    assert listing(folder) == []


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_an_upload_from_another_site_is_refused(folder, upload, adapter, headers):
    assert upload(adapter(), **headers)[0] == 403
    assert listing(folder) == []


def test_the_users_setting_bounds_the_size(server, folder, upload, adapter, opened):
    data = adapter()
    server.client.post_json("/settings/KronA.Uploads.LargestFile", len(data) / 1e6)
    try:
        assert upload(data)[0] == 200
        server.client.post_json("/settings/KronA.Uploads.LargestFile", (len(data) - 1) / 1e6)
        status, answer = upload(data)
        assert (status, "KronA: Largest file to upload" in answer["error"]["message"]) == (413, True)
        for nonsense in ("many", None, -3, True, [1]):
            server.client.post_json("/settings/KronA.Uploads.LargestFile", nonsense)
            assert upload(data)[0] == 200
            assert answer_on(opened("Content-Length: 4096000001"))[0] == 413
    finally:
        server.client.post_json("/settings/KronA.Uploads.LargestFile", 4096)
    assert listing(folder) == ["robot.safetensors"]


def test_what_the_disk_has_no_room_for_is_refused_before_it_comes(server, folder, opened):
    server.client.post_json("/settings/KronA.Uploads.LargestFile", 1e12)
    try:
        status, answer = answer_on(opened(f"Content-Length: {10**17}"))
    finally:
        server.client.post_json("/settings/KronA.Uploads.LargestFile", 4096)
    assert (status, "left on the disk" in answer["error"]["message"]) == (507, True)
    assert listing(folder) == []


def test_fifty_at_once_all_arrive_or_are_told_to_come_again(folder, upload, adapter):
    files = [adapter(seed) for seed in range(50)]
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(upload, files))
    assert {status for status, _ in answers} <= {200, 429}
    placed = {answer["name"]: data for (status, answer), data in zip(answers, files, strict=True) if status == 200}
    assert len(placed) >= AT_ONCE
    assert listing(folder) == sorted(placed)
    assert all((folder / name).read_bytes() == data for name, data in placed.items())


def test_uploads_that_do_nothing_keep_nobody_out(server, folder, opened, upload, adapter):
    """Of eight that are announced and do not come, one gives up its place for each that comes."""
    data = adapter()
    lines = [opened(f"Content-Length: {len(data)}", f"{n}.safetensors") for n in range(AT_ONCE)]
    wait_until(lambda: len(listing(folder)) == AT_ONCE)
    assert [name for name in options(server) if name.startswith(".")] == []
    wait_until(lambda: upload(adapter(1))[0] == 200)  # 429 as long as they may only pause
    [gone], _, _ = select.select(lines, [], [], 20)
    status, answer = answer_on(gone)
    assert (status, "somebody else needed the place" in answer["error"]["message"]) == (408, True)
    others = [line for line in lines if line is not gone]
    for line in others:
        line.sendall(data)
    [name] = {answer_on(line)[1]["name"] for line in others}
    assert listing(folder) == [name, "robot.safetensors"]


def test_a_body_whose_type_is_not_told_is_refused(folder, server, adapter):
    """Without one, any page could send it from any site without asking."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/krona/adapters?name=a.safetensors", adapter())
    answer = connection.getresponse()
    assert (answer.status, b"application/octet-stream" in answer.read()) == (415, True)
    assert listing(folder) == []


def test_the_same_file_twice_at_once_is_one_file(server, folder, upload, adapter):
    data, start = adapter(size=50_000), threading.Barrier(6)

    def send(number):
        start.wait()
        return upload(data, f"{number}.safetensors")

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(send, range(6)))
    assert [status for status, _ in answers] == [200] * 6
    assert len({answer["name"] for _, answer in answers}) == 1
    assert sum(answer["is_new"] for _, answer in answers) == 1
    assert listing(folder) == [answers[0][1]["name"]]


def test_different_files_of_one_name_at_once_are_all_kept_and_all_listed(server, folder, upload, adapter):
    files = [adapter(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(upload, files))
    names = [answer["name"] for _, answer in answers]
    assert sorted(names) == sorted(["robot.safetensors", *(f"robot ({n}).safetensors" for n in range(2, 7))])
    assert [(folder / name).read_bytes() for name in names] == files
    assert set(names) <= set(options(server))


def test_what_a_crash_has_left_is_removed_by_the_next_upload_and_nothing_else(folder, upload, adapter):
    """What another server is about to write is locked by it."""
    folder.mkdir(parents=True)
    for name in (".aaaa.upload", ".bbbb.upload", ".locked.upload", "mine.upload", ".other"):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - 3600,) * 2)
    os.utime(folder / ".aaaa.upload")  # a moment ago
    with (folder / ".locked.upload").open("rb") as file:
        assert take(file.fileno())
        assert upload(adapter())[0] == 200
    assert listing(folder) == [".locked.upload", ".other", "mine.upload", "robot.safetensors"]


def test_what_a_crash_has_left_is_removed_by_the_next_start(comfy, tmp_path, monkeypatch):
    import folder_paths
    from krona_pack.nodes.server.routes import upload

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    upload.sweep()
    assert listing(tmp_path) == []
    (tmp_path / "krona").mkdir()
    (tmp_path / "krona" / ".aaaa.upload").write_bytes(b"half")
    upload.sweep()
    assert listing(tmp_path) == ["krona"]


def test_a_folder_that_cannot_be_written_is_an_error_in_words(server, folder, upload, adapter):
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("in the way")
    try:
        status, answer = upload(adapter())
    finally:
        folder.unlink()
    assert (status, "cannot be written" in answer["error"]["message"]) == (422, True)


def no_links(path, target):
    """A memory stick."""
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("link", [os.link, no_links])
def test_a_name_is_taken_only_where_it_is_free_with_hard_links_and_without(comfy, tmp_path, link):
    from krona_pack.nodes.server.routes.storage import moved

    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert not moved(tmp_path / "a", tmp_path / "b", link)
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["a", "b"]
    assert moved(tmp_path / "a", tmp_path / "c", link)
    assert listing(tmp_path) == ["b", "c"]
    assert (tmp_path / "c").read_text() == "a"
