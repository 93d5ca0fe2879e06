"""How quickly an upload has to come, and which one gives up its place: none keeps others out by standing still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from .answers import Refused

T = TypeVar("T")
SECONDS_OF_GRACE = 20.0
"""Seconds for the first byte, and to make up for a pause."""
LEAST_RATE = 32_000
"""Bytes a second, on average since the start."""
LONGEST = 3 * 3600.0
"""Seconds for the largest file."""
SECONDS_UNTIL_IDLE = 2.0
"""An upload that has not sent a byte for so long gives up its place when another one needs it."""


class Place:
    """The place of one upload among those that go on at a time.

    Args:
        size: Bytes that were announced.
        now: A clock, in seconds.
    """

    def __init__(self, size: int, now: Callable[[], float]) -> None:
        self.size = size
        self._now = now
        self._heard = now()
        self._come, self._waited = 0, 0.0
        self._given_up = False
        self._waiting: asyncio.Future | None = None

    def idle(self) -> float:
        """Seconds since something came, while more is waited for."""
        return self._now() - self._heard if self._waiting is not None else 0.0

    def give_up(self) -> None:
        """End the upload for another one."""
        self._given_up = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def next(self, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """What has come since; nothing at the end.

        Raises:
            Refused: It came too slowly, or another upload needed the place.
        """
        seconds, begun = self._seconds_left(), self._now()
        self._waiting = asyncio.ensure_future(read())
        try:
            data = await asyncio.wait_for(self._waiting, max(0.0, seconds))
        except asyncio.TimeoutError as error:
            raise self._too_slow() from error
        except asyncio.CancelledError:
            if not self._given_up:  # the server ends
                raise
            message = f"Nothing came for {self._now() - self._heard:.0f} s, and somebody else needed the place."
            raise Refused(408, message, remedy="Upload it again.") from None
        finally:
            self._waiting = None
            self._waited += self._now() - begun
        self._come += len(data)
        self._heard = self._now()
        return data

    def _seconds_left(self) -> float:
        """Until the average is below the least rate, or all time is over; the server's own time is not counted."""
        return min(SECONDS_OF_GRACE + self._come / LEAST_RATE, LONGEST) - self._waited

    def _too_slow(self) -> Refused:
        return Refused(
            408,
            f"{self._come:,} bytes came in {self._waited:.0f} s; {LEAST_RATE:,} a second are needed, "
            f"and all within {LONGEST / 3600:.0f} hours.",
            remedy="Upload it over a faster connection, or copy the file into models/krona.",
        )


class Places:
    """Uploads that go on at the same time.

    Args:
        number: How many there are.
        now: A clock, in seconds.
    """

    def __init__(self, number: int, now: Callable[[], float] = time.monotonic) -> None:
        self._number, self._now = number, now
        self._taken: list[Place] = []

    def announced(self) -> int:
        """Bytes that the uploads under way have announced, together."""
        return sum(place.size for place in self._taken)

    @contextmanager
    def one(self, size: int) -> Iterator[Place]:
        """A place for an upload of so many bytes.

        Raises:
            Refused: All are taken by uploads that go on.
        """
        if len(self._taken) >= self._number:
            self._free_one()
        place = Place(size, self._now)
        self._taken.append(place)
        try:
            yield place
        finally:
            if place in self._taken:
                self._taken.remove(place)

    def _free_one(self) -> None:
        longest = max(self._taken, key=Place.idle)
        if longest.idle() < SECONDS_UNTIL_IDLE:
            raise Refused(429, f"{self._number} uploads go on already.", remedy="Try again when one of them has ended.")
        self._taken.remove(longest)
        longest.give_up()
