"""What an engine answers, as its client reads it; see `engine_protocol`."""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from packaging.version import InvalidVersion
from pydantic import ValidationError

from mcp_hybrid_search import engine_protocol as protocol
from mcp_hybrid_search.engine_protocol import Operation
from mcp_hybrid_search.errors import StoreUnavailableError

Progress = Callable[[float, float, str], Awaitable[None]]
"""Called about every second with (done, total, what is being done)."""


class Answer:
    """The lines of one answer as they come in."""

    def __init__(self, progress: Progress | None, *, waits: bool) -> None:
        """Read nothing yet.

        Args:
            progress: Told how far the engine is.
            waits: Whether the call has to wait until it is `started`.
        """
        self._progress = progress
        self._waits = waits
        self.started = False
        """Whether the engine was doing it when it ended."""
        self.last: tuple[str, str] | None = None

    async def read(self, chunks: AsyncIterable[bytes]) -> None:
        """Read to the end; progress is told at once.

        Raises:
            StoreUnavailableError: If it makes no sense.
        """
        rest = bytearray()
        async for chunk in chunks:
            rest += chunk
            if b"\n" in chunk:
                *lines, rest = rest.split(b"\n")
                for line in lines:
                    await self._take(line)
        if self.last is None:
            raise _nonsense()

    def break_off(self) -> None:
        """Take note that the engine ended after it was asked."""
        self.started = self.started or not self._waits

    async def _take(self, line: bytearray) -> None:
        word, _, value = line.decode(errors="replace").partition(" ")
        if word in {protocol.RESULT, protocol.FAILED}:
            self.last = (word, value)
        elif word == protocol.STARTED:
            self.started = True
        elif word == protocol.PROGRESS and self._progress is not None:
            with understood():
                told = protocol.TOLD.validate_json(value)
            await self._progress(*told)


def outcome(operation: Operation, word: str, value: str) -> Any:
    """Return what the last line of an answer says, or raise it."""
    with understood():
        if word == protocol.RESULT:
            return protocol.parsed_result(operation, value)
        failed = protocol.FAILURE.validate_json(value)
    raise protocol.error(failed)


@contextmanager
def understood() -> Iterator[None]:
    """Tell what makes no sense without its text, which may be anybody's."""
    try:
        yield
    except (ValidationError, InvalidVersion):
        raise _nonsense() from None


def _nonsense() -> StoreUnavailableError:
    return StoreUnavailableError(
        "The engine said what this program does not understand. End it with"
        " `mcp-hybrid-search stop`, then retry. Its log: `mcp-hybrid-search logs`."
    )
