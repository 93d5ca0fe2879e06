"""Loaded by every Python that starts with this folder on PYTHONPATH, the server's and its children's: an audit hook that writes down what counts.

Each line is JSON: ``event``, ``what``, and ``by``, the pack's innermost frame on the stack, or nothing.
"""

import json
import os
import sys
import threading

PACKS = os.environ["KRONA_AUDIT_PACK"].split(os.pathsep)
"""Where the pack is, by its own name and by the link that leads to it."""
MARK = os.environ["KRONA_AUDIT_MARK"]
OURS = tuple(os.path.join(pack, name) + os.sep for pack in PACKS for name in ("krona_ops", "krona_train", "nodes"))
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
TYPING = sys.modules["typing"].__file__ if "typing" in sys.modules else os.path.join(os.path.dirname(os.__file__), "typing.py")
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
            tell(event, host, frames()[0])
    elif event in CODE:
        ours, is_import = frames()
        source = args[0] if event == "compile" else getattr(args[0], "co_names", ())
        if MARK in repr(source)[:100_000] or (ours and not is_import):
            tell(event, repr(args[1] if event == "compile" else args[0])[:200], ours)
    else:
        ours, _ = frames()
        if ours:
            what = args[1] if event == "subprocess.Popen" else args
            tell(event, [str(part) for part in what][:12] if isinstance(what, (list, tuple)) else str(what), ours)


def address(event, args):
    """The machine that is spoken to, where it is another one."""
    target = args[0] if event.startswith("socket.get") else args[1]
    host = target[0] if isinstance(target, tuple) and target else target
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if not isinstance(host, str) or host.startswith("/"):
        return None  # a path: a socket of this machine
    return None if host in AT_HOME else host


def frames():
    """The pack's innermost frame; and whether an import, or code that a class statement of the standard library makes, lies between it and this."""
    frame, is_import = sys._getframe(2), False
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(OURS):
            short = next(name[len(pack) + 1 :] for pack in PACKS if name.startswith(pack + os.sep))
            at = f"{short}:{frame.f_lineno} {frame.f_code.co_name}"
            return at, is_import or frame.f_code.co_name == "<module>"
        # typing evaluates annotations, which are the pack's own text; MARK is looked for all the same
        is_import |= name.startswith("<frozen importlib") or name == TYPING
        frame = frame.f_back
    return "", is_import


def tell(event, what, ours):
    """One line, whole."""
    os.write(LOG, (json.dumps({"event": event, "what": what, "by": ours, "pid": os.getpid()}) + "\n").encode())


sys.addaudithook(look)
