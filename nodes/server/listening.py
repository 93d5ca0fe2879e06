"""Who can reach this server at all, as its owner has started it, and what the owner has allowed besides."""

from __future__ import annotations

import ipaddress
import os

from comfy.cli_args import args

HOSTS = "KRONA_HOSTS"
"""Environment variable: further names under which this server is opened, with commas between them."""
DATA_FOLDERS = "KRONA_DATA_FOLDERS"
"""Environment variable: folders that data sets may come from wherever the server listens, with the system's path
separator between them."""


def is_for_this_computer_alone() -> bool:
    """Whether the server is bound to loopback addresses only, as it is unless ``--listen`` says something else."""
    addresses = [address.strip() for address in str(args.listen or "").split(",") if address.strip()]
    return bool(addresses) and all(map(is_loopback, addresses))


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this computer's own, judged without asking a name server."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def is_address(host: str) -> bool:
    """Whether it is an address, which nobody's name server can turn into another one."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def allowed_hosts() -> set[str]:
    """The names that `HOSTS` lists, in lower case."""
    return {name.strip().lower() for name in os.environ.get(HOSTS, "").split(",") if name.strip()}


def allowed_data_folders() -> list[str]:
    """The folders that `DATA_FOLDERS` lists."""
    return [folder.strip() for folder in os.environ.get(DATA_FOLDERS, "").split(os.pathsep) if folder.strip()]


def allowed_origin() -> str | None:
    """The page of another site that the owner has allowed with ``--enable-cors-header``; ``*`` for all."""
    return args.enable_cors_header or None
