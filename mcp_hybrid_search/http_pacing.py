"""Whose bytes are read next when many requests come at once.

A thousand calls that arrive together would be read in one turn of the event loop, and
whatever comes after them, a ping too, would wait for all of them. So calls that reach
the engine are read one a turn; what is light is read as it comes.
"""

import asyncio
from collections import deque
from typing import Protocol

from mcp_hybrid_search.calls import may_be_limited


class Paced(Protocol):
    """A connection whose bytes may have to wait."""

    def read_waiting(self) -> None:
        """Read what has been waiting."""


class Pacing:
    """The connections that wait for their turn, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: deque[Paced] = deque()
        self._turn_taken = False

    def has_turn(self) -> bool:
        """Return whether a call may be read now; at most once in a turn of the loop."""
        if self._turn_taken:
            return False
        self._turn_taken = True
        asyncio.get_running_loop().call_soon(self._next_turn)
        return True

    def wait(self, connection: Paced) -> None:
        """Let `connection` read when those before it have."""
        self._waiting.append(connection)

    def _next_turn(self) -> None:
        if not self._waiting:
            self._turn_taken = False
            return
        asyncio.get_running_loop().call_soon(self._next_turn)
        self._waiting.popleft().read_waiting()


def holds_call(data: bytes, *, before: bool) -> bool:
    """Return whether a connection's bytes seem to be, or to begin, a call.

    Args:
        data: As they came; a head and its body may come one after the other.
        before: What the connection's last bytes were; True for a new one.
    """
    if data.startswith((b"GET ", b"DELETE ", b"OPTIONS ")):
        return False
    if may_be_limited(data):
        return True
    return before and b'"method"' not in data
