"""Speaking to a running ComfyUI: post a graph, follow it over the websocket, fetch what it made.

Synchronous on the outside. HTTP goes through urllib; the websocket is followed by an asyncio loop in a thread of its
own, so that a caller who has a loop running (a browser test) can use it as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

_TEXT = 3
"""The server's number for a text among its binary messages."""
Graph = dict[str, dict]
"""A graph in ComfyUI's API format: node id to ``class_type`` and ``inputs``."""
Status = Literal["success", "error", "interrupted"]
"""How a run has ended."""


class ClientError(Exception):
    """Base of what can go wrong.

    ClientError
    ├── PromptRejected        the server did not take the graph
    ├── ServerLost            the connection broke, or there was none
    ├── RunTimeout            not finished within the time
    └── RunFailed             a node raised
        └── RunInterrupted    somebody stopped it
    """


class PromptRejected(ClientError):  # noqa: N818 (it reads as what happened)
    """The server did not take the graph; the text names each node and what is wrong with it."""

    def __init__(self, message: str, node_errors: dict[str, dict]):
        super().__init__(message)
        self.node_errors = node_errors
        """Per node id: ``class_type`` and ``errors``, a list with ``type``, ``message`` and ``details``."""


class ServerLost(ClientError):  # noqa: N818
    """The server could not be reached, or closed the connection in the middle of a run."""


class RunTimeout(ClientError):  # noqa: N818
    """The run was not finished within the time; it has been told to stop."""


class RunFailed(ClientError):  # noqa: N818
    """A node raised."""

    def __init__(self, message: str, data: dict, result: Result):
        super().__init__(message)
        self.data = data
        """The server's own message: ``node_id``, ``node_type``, ``exception_type``, ``exception_message``,
        ``traceback``."""
        self.result = result
        """What had been made until then."""


class RunInterrupted(RunFailed):
    """The run was interrupted."""


@dataclass(frozen=True)
class Event:
    """One message of the server."""

    type: str
    """``progress``, ``progress_state``, ``progress_text``, ``executing``, ``executed``,
    ``execution_error`` … (previews are left out)."""
    data: dict


@dataclass(frozen=True)
class Result:
    """A finished run."""

    prompt_id: str
    status: Status
    outputs: dict[str, dict]
    """Per node id what it showed: ``images``, ``text`` …"""
    seconds: float
    """From posting to the end, waiting in the queue included."""
    cached: frozenset[str] = frozenset()
    """Node ids that the server did not have to run again."""
    events: tuple[Event, ...] = field(default=(), repr=False)
    """Every message, in order."""

    def files(self, node_id: str | None = None, kind: str = "images") -> list[dict[str, str]]:
        """The files that one node or all of them showed: ``filename``, ``subfolder`` and ``type``,
        as ``view`` takes them."""
        outputs = self.outputs.values() if node_id is None else [self.outputs.get(node_id, {})]
        return [file for output in outputs for file in output.get(kind, []) if "filename" in file]

    def texts(self, node_id: str) -> list[str]:
        """What a node showed in words while it ran, one after the other."""
        return [e.data["text"] for e in self.events if e.type == "progress_text" and e.data["node"] == node_id]


class Client:
    """One ComfyUI server."""

    def __init__(self, url: str, seconds: float = 60.0):
        self.url = url.rstrip("/")
        self._seconds = seconds  # for one HTTP request
        # The server is on this machine: a proxy from the environment would only be in the way.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def get(self, path: str, **query: str) -> bytes:
        """The body of a GET.

        Raises:
            ServerLost: The server cannot be reached.
            urllib.error.HTTPError: It answers with an error.
        """
        return self._request(path + (f"?{urllib.parse.urlencode(query)}" if query else ""))

    def get_json(self, path: str, **query: str) -> Any:
        """The JSON value of a GET. Raises as ``get``."""
        return json.loads(self.get(path, **query))

    def post_json(self, path: str, body: object) -> Any:
        """Send a JSON value; the JSON answer, None where the answer is empty. Raises as ``get``."""
        answer = self._request(path, json.dumps(body).encode())
        return json.loads(answer) if answer.strip() else None

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with self._open(request, timeout=self._seconds) as answer:
                return answer.read()
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            raise ServerLost(f"{self.url}{path}: {getattr(error, 'reason', error)}") from None

    def post(self, graph: Graph, client_id: str | None = None) -> str:
        """Queue a graph; its prompt id.

        Args:
            graph: In API format (the menu's "Export (API)").
            client_id: The websocket that is to be told about it.

        Raises:
            PromptRejected: The graph, or one of its outputs, does not pass the server's validation: none of it runs.
            ServerLost: The server cannot be reached.
        """
        if isinstance(graph.get("nodes"), list):
            raise ValueError("This is a workflow as the editor saves it; export it with 'Export (API)' to post it.")
        prompt_id = str(uuid.uuid4())
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id or prompt_id}
        try:
            answer = self.post_json("/prompt", body)
        except urllib.error.HTTPError as error:
            raise _rejected(graph, error) from None
        if answer.get("node_errors"):
            # The server runs the outputs that are valid and leaves out the others. Half a graph is nobody's wish.
            self.interrupt(answer["prompt_id"])
            raise PromptRejected(_rejection(graph, {}, answer["node_errors"]), answer["node_errors"])
        return answer["prompt_id"]

    def run(self, graph: Graph, on_event: Callable[[Event], object] | None = None, timeout: float = 600.0) -> Result:
        """Queue a graph and follow it to its end.

        Args:
            graph: In API format.
            on_event: Called in this thread with every message of this run, as it comes.
            timeout: Seconds; a run that takes longer is interrupted.

        Raises:
            PromptRejected: The server does not take the graph.
            RunFailed: A node raised; names it, with its traceback.
            RunInterrupted: The run was interrupted.
            RunTimeout: It took too long.
            ServerLost: The connection broke.
        """
        start = time.monotonic()
        with _listen(self.url) as (client_id, messages):  # connected before posting: no message is missed
            prompt_id = self.post(graph, client_id)
            events = []
            try:
                for event in _events_of(messages, prompt_id, start + timeout):
                    events.append(event)
                    if on_event:
                        on_event(event)
            except RunTimeout:
                self.interrupt(prompt_id)
                raise RunTimeout(f"not finished within {timeout:g} s: {_where(graph, events)}") from None
        return self._result(graph, prompt_id, tuple(events), time.monotonic() - start)

    def _result(self, graph: Graph, prompt_id: str, events: tuple[Event, ...], seconds: float) -> Result:
        ends: dict[str, Status] = {
            "execution_success": "success",
            "execution_interrupted": "interrupted",
            "execution_error": "error",
        }
        last = next((event for event in reversed(events) if event.type in ends), None)
        cached = {node for event in events if event.type == "execution_cached" for node in event.data["nodes"]}
        outputs = self.history(prompt_id).get("outputs", {})
        result = Result(prompt_id, ends[last.type] if last else "error", outputs, seconds, frozenset(cached), events)
        if result.status == "success":
            return result
        data = last.data if last else {}
        node = f"node {data.get('node_id')} ({data.get('node_type')})"
        if result.status == "interrupted":
            raise RunInterrupted(f"interrupted at {node}", data, result)
        trace = "".join(data.get("traceback", []))
        raise RunFailed(f"{node}: {data.get('exception_type')}: {data.get('exception_message')}\n{trace}", data, result)

    def history(self, prompt_id: str) -> dict:
        """What the server remembers of a finished run: ``prompt``, ``outputs``, ``status``;
        empty where it knows none."""
        return self.get_json(f"/history/{prompt_id}").get(prompt_id, {})

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop what is running; with ``prompt_id`` only that one,
        which is also taken from the queue if it waits there."""
        if prompt_id is None:
            self.post_json("/interrupt", {})
            return
        self.post_json("/queue", {"delete": [prompt_id]})
        self.post_json("/interrupt", {"prompt_id": prompt_id})

    def object_info(self, node_id: str | None = None) -> dict:
        """The definition of one node, or of all by id.

        Raises:
            KeyError: The server has no such node.
        """
        if node_id is None:
            return self.get_json("/object_info")
        return self.get_json(f"/object_info/{urllib.parse.quote(node_id)}")[node_id]

    def view(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """A file that the server made or was given. Raises as ``get``."""
        return self.get("/view", filename=filename, subfolder=subfolder, type=type)

    def logs(self) -> str:
        """The last lines of the server's log (it keeps 300)."""
        return self.get_json("/internal/logs")


@contextlib.contextmanager
def _listen(url: str) -> Iterator[tuple[str, queue.Queue]]:
    """A connected websocket: its client id and its messages; the last one is None, or the exception that ended it."""
    client_id = uuid.uuid4().hex
    messages: queue.Queue = queue.Queue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(_receive(f"{url.replace('http', 'ws', 1)}/ws?clientId={client_id}", messages))
    thread = threading.Thread(target=_drive, args=(loop, task), name="comfyui-websocket", daemon=True)
    thread.start()
    try:
        _await_greeting(url, messages)
        yield client_id, messages
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def _await_greeting(url: str, messages: queue.Queue) -> None:
    """Wait for the server's first message, its status: from then on it knows this client."""
    try:
        first = messages.get(timeout=60)
    except queue.Empty:
        first = "no answer within 60 s"
    if not isinstance(first, Event):
        raise ServerLost(f"{url}: no websocket: {first or 'closed'}")


def _drive(loop: asyncio.AbstractEventLoop, task: asyncio.Task) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)


async def _receive(url: str, messages: queue.Queue) -> None:
    import aiohttp  # ComfyUI's own; imported here so that this module can be read without it

    end = None
    try:
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))  # for the handshake
        # No size limit: an `executed` message carries whatever a node shows.
        async with session, session.ws_connect(url, max_msg_size=0) as socket:
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    event = json.loads(message.data)
                    messages.put(Event(event["type"], event.get("data") or {}))
                elif message.type == aiohttp.WSMsgType.BINARY and (words := _words(message.data)):
                    messages.put(words)
    except (OSError, aiohttp.ClientError, asyncio.TimeoutError) as error:
        end = error
    finally:
        messages.put(end)


def _words(data: bytes) -> Event | None:
    """A text on a node: the kind, the length of the node's id, the id, the text; ``None`` for preview pictures."""
    if len(data) < 8 or int.from_bytes(data[:4], "big") != _TEXT:
        return None
    end = 8 + int.from_bytes(data[4:8], "big")
    return Event("progress_text", {"node": data[8:end].decode(), "text": data[end:].decode(errors="replace")})


def _events_of(messages: queue.Queue, prompt_id: str, deadline: float) -> Iterator[Event]:
    """The messages about one prompt until the server has put its result into the history.

    Raises:
        RunTimeout: The deadline passed (without text).
        ServerLost: The connection broke.
    """
    is_ours = False  # texts do not say whose they are; the server runs one prompt after the other
    while True:
        try:
            event = messages.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise RunTimeout from None
        if not isinstance(event, Event):
            raise ServerLost(f"the server closed the connection: {event or 'it has probably ended; see its log'}")
        if event.type == "execution_start":
            is_ours = event.data.get("prompt_id") == prompt_id
        if event.data.get("prompt_id") != prompt_id and not (is_ours and event.type == "progress_text"):
            continue
        yield event
        if event.type == "executing" and event.data.get("node") is None:  # sent after the history was written
            return


def _where(graph: Graph, events: list[Event]) -> str:
    running = [node for event in events if event.type == "executing" and (node := event.data.get("node"))]
    if not running:
        return "still waiting in the queue"
    return f"at node {running[-1]} ({graph.get(running[-1], {}).get('class_type')})"


def _rejected(graph: Graph, error: urllib.error.HTTPError) -> PromptRejected:
    try:
        answer = json.loads(error.read())
    except ValueError:
        return PromptRejected(f"the server answered {error.code} {error.reason}", {})
    node_errors = answer.get("node_errors") or {}
    return PromptRejected(_rejection(graph, answer.get("error") or {}, node_errors), node_errors)


def _rejection(graph: Graph, error: dict, node_errors: dict[str, dict]) -> str:
    lines = [_in_words(error)] if error else []
    for node_id, of_node in node_errors.items():
        kind = of_node.get("class_type") or graph.get(node_id, {}).get("class_type")
        lines += [f"node {node_id} ({kind}): {_in_words(one)}" for one in of_node.get("errors", [])]
    return "\n".join(lines) or "the graph was rejected"


def _in_words(error: dict) -> str:
    return ": ".join(str(error[key]) for key in ("message", "details") if error.get(key))
