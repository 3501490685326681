"""Calls that share the encoders: each has its turn, in the order in which they ask."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

TURN_SECONDS = 2.0
"""How long a call encodes before those that wait have their turns."""


class StoppedError(Exception):
    """The caller no longer waits."""


@dataclass(eq=False, slots=True)
class Work:
    """How far a call is, and whether it is still wanted."""

    chunks: int = 0
    encodings: int = 0
    """Two for every chunk, by the dense and the late-interaction encoder."""
    stopped: bool = False


class Turns:
    """A queue of calls; the first of them has the turn.

    After its turn a call stands behind all that wait: long work lets short work pass,
    and nobody starves.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._queue: deque[Work] = deque()
        self._begun = 0.0

    @contextmanager
    def turn(self, work: Work) -> Iterator[None]:
        """Wait for a turn and keep it for the block, but for what `advance` gives.

        Raises:
            StoppedError: If `work` was stopped before its turn came.
        """
        with self._changed:
            self._queue.append(work)
            if self._queue[0] is work:
                self._begun = time.monotonic()
        try:
            with self._changed:
                self._wait(work)
            yield
        finally:
            with self._changed:
                if self._queue[0] is work:
                    self._next()
                self._queue.remove(work)

    def advance(self, work: Work) -> None:
        """Count an encoding, and let others pass if the turn is over.

        Called from several threads of a call: none of them goes on out of turn.

        Raises:
            StoppedError: If the caller no longer waits.
        """
        with self._changed:
            work.encodings += 1
            over = time.monotonic() - self._begun >= TURN_SECONDS
            if over and self._queue[0] is work and len(self._queue) > 1:
                self._queue.rotate(-1)
                self._next()
            self._wait(work)

    def wake(self) -> None:
        """Let those whose work was stopped leave the queue."""
        with self._changed:
            self._changed.notify_all()

    def _wait(self, work: Work) -> None:
        self._changed.wait_for(lambda: work.stopped or self._queue[0] is work)
        if work.stopped:
            raise StoppedError

    def _next(self) -> None:
        self._begun = time.monotonic()
        self._changed.notify_all()
