"""Loaded by every Python that starts with this folder on PYTHONPATH, the server's and its children's:
an audit hook that writes down what counts.

Each line is JSON: ``event``, ``what``, and ``by``, the pack's innermost frame on the stack, or nothing.
"""

import json
import os
import sys
import threading
from types import FrameType

PACKS = os.environ["KRONA_AUDIT_PACK"].split(os.pathsep)
"""Where the pack is, by its own name and by the link that leads to it."""
MARK = os.environ["KRONA_AUDIT_MARK"]
OURS = tuple(
    os.path.join(pack, name) + os.sep for pack in PACKS for name in ("krona_ops", "krona_host", "krona_train", "nodes")
)
LOG = os.open(os.environ["KRONA_AUDIT_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
STARTS = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "os.startfile",
    "pty.spawn",
}
CODE = {"compile", "exec"}
OUTWARD = {"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}
AT_HOME = {"127.0.0.1", "::1", "localhost", "", "None", "0.0.0.0"}
LIBRARY = os.path.dirname(os.__file__) + os.sep
TYPING = LIBRARY + "typing.py"
HOOK = __file__
busy = threading.local()


def look(event, args):
    """The hook: cheap for what does not count, and never looking at itself."""
    if event in CODE or event in STARTS or event in OUTWARD or event == "pickle.find_class":
        if getattr(busy, "looking", False):
            return
        busy.looking = True
        try:
            judge(event, args)
        finally:
            busy.looking = False


def judge(event, args):
    """Write down what may be a violation; the driver decides."""
    if event in OUTWARD:
        host = address(event, args)
        if host is not None:
            tell(event, host, ours())
    elif event in CODE:
        source = (
            args[0]
            if event == "compile"
            else repr((getattr(args[0], "co_names", ()), getattr(args[0], "co_consts", ())))
        )
        by = maker()
        if by or is_marked(source):
            tell(event, repr(args[1] if event == "compile" else args[0])[:200], by)
    else:
        by = ours()
        if by:
            what = args[1] if event == "subprocess.Popen" else args
            tell(event, [str(part) for part in what][:12] if isinstance(what, (list, tuple)) else str(what), by)


def is_marked(source):
    """Whether a stranger's text is in it."""
    return MARK in source if isinstance(source, str) else isinstance(source, bytes) and MARK.encode() in source


def address(event, args):
    """The machine that is spoken to, where it is another one."""
    target = args[0] if event.startswith("socket.get") else args[1]
    host = target[0] if isinstance(target, tuple) and target else target
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if not isinstance(host, str) or host.startswith("/"):
        return None  # a path: a socket of this machine
    return None if host in AT_HOME else host


def ours():
    """The pack's innermost frame on the stack, or nothing."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(OURS):
            return place(frame)
        frame = frame.f_back
    return ""


def maker():
    """The pack's frame, where it is what makes code, itself or through the standard library (`exec`, `dataclass` inside
    a function).

    Nothing for what the host and other libraries make on their way, for imports, for class statements of modules, and
    for typing, which evaluates annotations: the pack's own text.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name == TYPING or name.startswith("<frozen importlib"):
            return ""
        if name.startswith(OURS):
            return "" if frame.f_code.co_name == "<module>" else place(frame)
        if name != HOOK and not name.startswith("<") and (not name.startswith(LIBRARY) or "site-packages" in name):
            return ""
        frame = frame.f_back
    return ""


def place(frame):
    """As ``krona_train/processes/launch.py:12 follow``."""
    name = frame.f_code.co_filename
    short = next(name[len(pack) + 1 :] for pack in PACKS if name.startswith(pack + os.sep))
    return f"{short}:{frame.f_lineno} {frame.f_code.co_name}"


def tell(event, what, by):
    """One line, whole."""
    os.write(LOG, (json.dumps({"event": event, "what": what, "by": by, "pid": os.getpid()}) + "\n").encode())


sys.addaudithook(look)
