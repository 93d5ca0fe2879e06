"""Whose page a request comes from: what changes anything is done for pages of this server alone.

The host looks at the same, for loopback addresses and for what browsers say of themselves; `docs/api.md` has who checks
what.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from aiohttp import web

from krona_ops.shown import shown

from .. import listening
from .answers import Refused


def require_a_page_of_ours(request: web.Request) -> None:
    """Refuse requests of other sites' pages.

    Raises:
        Refused: The request is by a page of another site, or by one whose name is made to lead here.
    """
    hosts, origins = request.headers.getall("Host", []), request.headers.getall("Origin", [])
    if len(hosts) != 1 or len(origins) > 1:
        raise Refused(
            400, "The request names several servers or pages, or none.", remedy="Send one Host, and one Origin at most."
        )
    if request.headers.get("Sec-Fetch-Site", "").lower() == "cross-site" and not listening.allowed_origin():
        raise _refused(origins[0] if origins else "another site")
    host = _parts(f"//{hosts[0]}")
    if host is None or not host.hostname:
        raise Refused(
            400, f"The request is to {shown(hosts[0])}, which is no name of a server.", remedy="Open the page anew."
        )
    if listening.is_for_this_computer_alone() and not _is_known(host.hostname):
        raise _refused(hosts[0])
    if origins and not _is_same(origins[0], host):
        raise _refused(origins[0])


def _is_known(host: str) -> bool:
    """Whether a name can only mean this server: others may belong to a page elsewhere and be made to lead here."""
    return listening.is_loopback(host) or listening.is_address(host) or host in listening.allowed_hosts()


def _is_same(text: str, host: SplitResult) -> bool:
    allowed = listening.allowed_origin()
    if allowed in ("*", text):
        return True
    origin = _parts(text)
    if origin is None or not origin.hostname:  # such as null, which a page in a frame without rights sends
        return False
    if origin.hostname in listening.allowed_hosts():
        return True
    ports = {origin.port, host.port}
    return origin.hostname == host.hostname and (len(ports) == 1 or None in ports)


def _parts(address: str) -> SplitResult | None:
    try:
        parts = urlsplit(address)
        _ = parts.port, parts.hostname
    except ValueError:
        return None
    return parts


def _refused(who: str) -> Refused:
    return Refused(
        403,
        f"A page of {shown(who)} may change nothing here.",
        remedy=f"If that is a name of this server, list it in the environment variable {listening.HOSTS} and restart "
        "ComfyUI.",
    )
