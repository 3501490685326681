"""The calls that a server works on: how many at once, how many wait, how often.

What is over a limit is refused at once and told when to try again, so that what was
let in is answered in time.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import anyio

from mcp_hybrid_search.errors import BusyError

LIMITED_METHODS = frozenset(
    {"tools/call", "resources/read", "resources/list", "completion/complete"}
)
"""Methods that reach the engine. Others, such as ping, are always answered."""

_LIMITED = tuple(f'"{method}"'.encode() for method in sorted(LIMITED_METHODS))

BUSY = -32000
"""JSON-RPC code of what is refused because there is too much to do."""

MOST_CALLERS = 10_000
"""Callers whose rate is remembered; of more, the one not seen for longest is not."""

_LEARNING = 0.1
"""Weight of the newest call in the average duration."""


def may_be_limited(message: bytes) -> bool:
    """Return whether a JSON-RPC message that nobody parsed yet seems to be limited."""
    return any(method in message for method in _LIMITED)


class Observer(Protocol):
    """Who wants to know what became of the calls: metrics."""

    def called(self, tool: str, outcome: str, seconds: float) -> None:
        """Take note of a call: `ok`, `refused`, `busy`, `failed` or `cancelled`."""

    def searched(self, milliseconds: Mapping[str, float]) -> None:
        """Take note of the time that the stages of a search took."""


class Calls:
    """Places for calls, given in the order in which they are asked for."""

    def __init__(self, *, at_once: int, waiting: int, per_minute: int = 0) -> None:
        """Begin with every place free.

        Args:
            at_once: Calls that are worked on.
            waiting: Calls that may wait for a place.
            per_minute: Most calls of one caller; 0: no limit.
        """
        self._at_once = at_once
        self._most_waiting = waiting
        self._per_minute = per_minute
        self._places = anyio.CapacityLimiter(at_once)
        self._seconds = 0.05
        """How long a call takes, by and large."""
        self._budgets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Calls left and when that was so, monotonic, by caller."""
        self._closing = False
        self._empty = anyio.Event()
        self.active = 0
        """Calls that have a place."""
        self.waiting = 0
        """Calls that wait for one."""

    def check(self, caller: str | None = None) -> None:
        """Refuse what `place` would refuse now; takes nothing.

        Args:
            caller: Who asks; None: whoever it is.

        Raises:
            BusyError: Saying when to try again.
        """
        if self._closing:
            msg = "The server is about to stop."
            raise BusyError(msg, 5)
        if self.active >= self._at_once and self.waiting >= self._most_waiting:
            msg = f"{self.active} calls are being worked on and {self.waiting} wait."
            raise BusyError(msg, self._until_free())
        if caller is not None and self._per_minute:
            self._check_budget(self._left(caller))

    @asynccontextmanager
    async def place(self, caller: str = "") -> AsyncIterator[None]:
        """Hold a place for one call; waits for it if need be.

        Args:
            caller: Whose rate it counts towards.

        Raises:
            BusyError: Saying when to try again.
        """
        self.check()
        self._spend(caller)
        self.waiting += 1
        try:
            await self._places.acquire_on_behalf_of(place := object())
        finally:
            self.waiting -= 1
            self._tell_if_empty()
        self.active += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self._places.release_on_behalf_of(place)
            self.active -= 1
            taken = time.monotonic() - started
            self._seconds += _LEARNING * (taken - self._seconds)
            self._tell_if_empty()

    def close(self) -> None:
        """Refuse calls from now on; those that were let in go on."""
        self._closing = True
        self._tell_if_empty()

    async def drained(self) -> None:
        """Wait until there is no call left."""
        while self.active or self.waiting:
            self._empty = anyio.Event()
            await self._empty.wait()

    def _tell_if_empty(self) -> None:
        if not self.active and not self.waiting:
            self._empty.set()

    def _until_free(self) -> int:
        ahead = (self.waiting + self.active) / self._at_once
        return max(1, round(ahead * self._seconds))

    def _spend(self, caller: str) -> None:
        """Take one call from the caller's budget, which fills evenly."""
        if not self._per_minute:
            return
        left = self._left(caller)
        self._budgets.pop(caller, None)
        self._budgets[caller] = (left - 1 if left >= 1 else left, time.monotonic())
        if len(self._budgets) > MOST_CALLERS:
            self._budgets.popitem(last=False)
        self._check_budget(left)

    def _left(self, caller: str) -> float:
        now = time.monotonic()
        left, then = self._budgets.get(caller, (float(self._per_minute), now))
        return min(self._per_minute, left + (now - then) * self._per_minute / 60)

    def _check_budget(self, left: float) -> None:
        if left < 1:
            msg = f"More than {self._per_minute} calls came within a minute."
            raise BusyError(msg, max(1, round((1 - left) * 60 / self._per_minute)))
