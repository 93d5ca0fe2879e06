"""tools/comfyui/server.py and tools/comfyui/client.py against the real ComfyUI, with its own nodes only."""

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tools.comfyui import server as server_module
from tools.comfyui.server import PromptRejected, RunFailed, RunInterrupted, RunTimeout, Server, ServerFailed, ServerLost

PNG = b"\x89PNG\r\n\x1a\n"


def picture(prefix: str = "picture", width: int = 40) -> dict:
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": width, "height": 24, "batch_size": 1, "color": 0x336699}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def slow(steps: int = 12) -> dict:
    """Many nodes of a good part of a second each."""
    graph = {
        "0": {
            "class_type": "EmptyImage",
            "inputs": {"width": 1536, "height": 1536, "batch_size": 1, "color": time.time_ns() % 255},
        }
    }
    for i in range(steps):
        blur = {"image": [str(i), 0], "blur_radius": 31, "sigma": 5.0}
        graph[str(i + 1)] = {"class_type": "ImageBlur", "inputs": blur}
    graph["save"] = {"class_type": "PreviewImage", "inputs": {"images": [str(steps), 0]}}
    return graph


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("base"), cpu=True) as running:
        yield running


def test_a_run_ends_with_its_files_on_disk_and_its_events_in_order(server):
    seen = []
    result = server.client.run(picture("sub/first"), on_event=seen.append, timeout=60)
    assert result.status == "success"
    assert tuple(seen) == result.events
    kinds = [event.type for event in seen if event.type != "progress_state"]
    assert kinds == ["execution_start", "execution_cached", *["executing"] * 2, "executed", "execution_success", "executing"]
    (file,) = result.files("2")
    assert file["subfolder"] == "sub"
    on_disk = (server.base / "output" / "sub" / file["filename"]).read_bytes()
    assert on_disk.startswith(PNG)
    assert server.client.view(**file) == on_disk
    assert server.client.history(result.prompt_id)["status"]["completed"]


def test_what_did_not_change_is_told_as_cached(server):
    assert server.client.run(picture("twice"), timeout=60).cached == frozenset({"1"})  # as in the test before
    again = server.client.run(picture("twice"), timeout=60)
    assert again.cached == frozenset({"1", "2"})
    assert len(again.files()) == 1


def test_a_rejected_graph_names_the_node_and_the_reason(server):
    with pytest.raises(PromptRejected, match=r"node 1 \(EmptyImage\): Value -5 smaller than min of 1: width") as caught:
        server.client.post(picture(width=-5))
    assert caught.value.node_errors["1"]["class_type"] == "EmptyImage"
    with pytest.raises(PromptRejected, match=r"Node 'Nowhere' not found.*'#9'"):
        server.client.post({**picture(), "9": {"class_type": "Nowhere", "inputs": {}}})


def test_half_a_graph_is_not_run(server):
    good, bad = picture("half"), {"inputs": {"filename_prefix": "half"}, "class_type": "SaveImage"}
    with pytest.raises(PromptRejected, match=r"node 3 \(SaveImage\): Required input is missing: images"):
        server.client.post({**good, "3": bad})


def test_a_workflow_of_the_editor_is_told_from_a_graph(server):
    with pytest.raises(ValueError, match=r"Export \(API\)"):
        server.client.post({"nodes": [], "links": []})


def test_a_node_that_raises_is_named_with_its_traceback(server):
    with pytest.raises(RunFailed, match=r"node 2 \(SaveImage\): .*output folder") as caught:
        server.client.run(picture("../../outside"), timeout=60)
    assert "Traceback" in str(caught.value) or "File " in str(caught.value)
    assert caught.value.result.status == "error"
    assert caught.value.data["node_id"] == "2"


def test_a_run_can_be_interrupted(server):
    client = server.client

    def stop_at_the_first_node(event):
        if event.type == "executing":
            client.interrupt(event.data["prompt_id"])

    with pytest.raises(RunInterrupted, match=r"interrupted at node \d+ \((EmptyImage|ImageBlur)\)"):
        client.run(slow(), on_event=stop_at_the_first_node, timeout=120)


def test_a_run_that_takes_too_long_is_stopped_and_the_server_goes_on(server):
    with pytest.raises(RunTimeout, match=r"not finished within 0.5 s: at node \d+ \((EmptyImage|ImageBlur)\)"):
        server.client.run(slow(), timeout=0.5)
    assert server.client.run(picture("after"), timeout=60).status == "success"


def test_it_can_be_used_where_an_event_loop_is_running(server):
    async def main():
        return server.client.run(picture("loop"), timeout=60)

    with ThreadPoolExecutor(1) as thread:  # this one may have a loop already: Playwright's, from the browser's tests
        assert thread.submit(lambda: asyncio.run(main())).result().status == "success"


def test_nodes_and_logs_can_be_asked_for(server):
    assert server.client.object_info("EmptyImage")["input"]["required"].keys() >= {"width", "height"}
    assert "KSampler" in server.client.object_info()
    with pytest.raises(KeyError):
        server.client.object_info("Nowhere")
    assert "got prompt" in server.client.logs()
    assert "got prompt" in server.log()


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_stopping_ends_the_server_and_all_that_it_started(tmp_path, monkeypatch):
    pack = tmp_path / "source"
    pack.mkdir()
    (pack / "__init__.py").write_text(
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path(__file__).with_name('pid').write_text(str(child.pid))\n"
        "NODE_CLASS_MAPPINGS = {}\n"
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1], server_module.free_port()]
        # Another process takes the port between its choice and its use: only by choosing a taken one does that happen here.
        monkeypatch.setattr(server_module, "free_port", lambda: ports.pop(0))
        with Server(tmp_path / "base folder", packs={"a pack-1": pack}, cpu=True) as running:
            assert ports == []
            pids = [running.process.pid, int((pack / "pid").read_text())]
            assert all(map(is_running, pids))
            client = running.client
    assert not any(map(is_running, pids))
    assert running.process is None
    with pytest.raises(ServerLost):
        client.run(picture(), timeout=5)


def test_a_server_that_cannot_start_fails_at_once_with_its_log(tmp_path):
    with pytest.raises(ServerFailed, match=r"(?s)ended with code 2 while starting.*unrecognized arguments: --nonsense"):
        Server(tmp_path, cpu=True, args=["--nonsense"]).start()


def test_a_link_replaces_an_older_link_but_no_folder(tmp_path):
    first, second, path = tmp_path / "first", tmp_path / "second", tmp_path / "link"
    first.mkdir()
    second.mkdir()
    server_module.link(path, first)
    server_module.link(path, second)
    assert path.resolve() == second.resolve()
    assert first.exists()
    with pytest.raises(FileExistsError):
        server_module.link(first, second)
