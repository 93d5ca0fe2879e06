"""A file that TensorBoard reads: its records and the few messages that a training has for it, without a package of
their own.

The format is TensorFlow's: records of a length, its checksum, a protocol buffer (``event.proto``, ``summary.proto``)
and its checksum. tensorboardX writes the same, and brings protobuf along, which other packs pin.
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

Message = bytes
"""A protocol buffer."""
_LARGEST = 3.4028234e38


class EventFile:
    """Records, each on the disk after `flush`.

    Args:
        folder: Where the file is made; it must exist.
    """

    def __init__(self, folder: Path) -> None:
        # Parts of a run are read in the order of their names, and two may start in one second: so the time to the
        # nanosecond.
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}"
        self._file = (folder / name).open("xb")
        self.write(0, _text(3, "brain.Event:2"))

    def write(self, step: int, content: Message) -> None:
        """Add one of `scalar`, `picture`, `text` and `session_start`."""
        event = _double(1, time.time()) + _number(2, step) + content
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))

    def flush(self) -> None:
        """Hand everything to the system."""
        self._file.flush()

    def close(self) -> None:
        """No more records."""
        self._file.close()


def scalar(tag: str, value: float) -> Message:
    """A number; kept in single precision, where what is too large is infinite."""
    if abs(value) > _LARGEST:
        value = math.copysign(math.inf, value)
    return _summary(tag, _field(2, 5, struct.pack("<f", value)))


def picture(tag: str, png: bytes, size: tuple[int, int]) -> Message:
    """An RGB picture of so many pixels, width first."""
    width, height = size
    return _summary(tag, _bytes(4, _number(1, height) + _number(2, width) + _number(3, 3) + _bytes(4, png)))


def text(tag: str, value: str) -> Message:
    """Markdown, as TensorBoard's page of texts shows it."""
    plugin = _bytes(9, _bytes(1, _text(1, "text")))
    shape = _bytes(2, _bytes(2, _number(1, 1)))
    tensor = _bytes(8, _number(1, 7) + shape + _text(8, value))  # 7: of strings
    return _summary(f"{tag}/text_summary", plugin + tensor)


def session_start() -> Message:
    """The order to forget what earlier files say of this step and later ones."""
    return _bytes(7, _number(1, 1))


def _summary(tag: str, content: Message) -> Message:
    return _bytes(5, _bytes(1, _text(1, tag) + content))


def _field(number: int, kind: int, content: bytes) -> Message:
    return _varint(number << 3 | kind) + content


def _number(number: int, value: int) -> Message:
    return _field(number, 0, _varint(value))


def _double(number: int, value: float) -> Message:
    return _field(number, 1, struct.pack("<d", value))


def _bytes(number: int, content: bytes) -> Message:
    return _field(number, 2, _varint(len(content)) + content)


def _text(number: int, value: str) -> Message:
    return _bytes(number, value.encode("utf-8", "replace"))


def _varint(value: int) -> bytes:
    """Seven bits to a byte, the lowest first."""
    done = bytearray()
    while value > 0x7F:
        done.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*done, value])


def _checksum(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted as TensorFlow does, so that data with checksums in it has another one."""
    crc = _crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc32c(data: Iterable[int]) -> int:
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    """What each byte does to the checksum (Castagnoli's polynomial, reversed)."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)
