"""Calls that share the encoders: each has its turn, in the order in which they ask."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition


class StoppedError(Exception):
    """The caller no longer waits."""


@dataclass(eq=False, slots=True)
class Work:
    """How far a call is, and whether it is still wanted."""

    chunks: int = 0
    encodings: int = 0
    """Two for every chunk, by the dense and the late-interaction encoder."""
    stopped: bool = False

    def advance(self) -> None:
        """Count an encoding.

        Raises:
            StoppedError: If the caller no longer waits.
        """
        self.encodings += 1
        if self.stopped:
            raise StoppedError


class Turns:
    """A queue of threads; the first of them has the turn.

    Whoever asks again after a turn stands behind all that wait: long work in many
    turns lets short work pass, and nobody starves.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._queue: deque[Work] = deque()

    @contextmanager
    def turn(self, work: Work) -> Iterator[None]:
        """Wait for a turn and keep it while the block runs.

        Raises:
            StoppedError: If `work` was stopped before its turn came.
        """
        with self._changed:
            self._queue.append(work)
            self._changed.wait_for(lambda: work.stopped or self._queue[0] is work)
        try:
            if work.stopped:
                raise StoppedError
            yield
        finally:
            with self._changed:
                self._queue.remove(work)
                self._changed.notify_all()

    def wake(self) -> None:
        """Let those whose work was stopped leave the queue."""
        with self._changed:
            self._changed.notify_all()
