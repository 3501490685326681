"""Whether the engine answers, and how much it holds; asked no more than needed."""

import time
from typing import TYPE_CHECKING, Protocol

import anyio

from mcp_hybrid_search.errors import HybridSearchError

if TYPE_CHECKING:
    from mcp_hybrid_search.documents import CollectionInfo
    from mcp_hybrid_search.opening import AnyEngine

READY, LOADING, FAILED, STOPPING = "ready", "loading", "failed", "stopping"

FRESH_SECONDS = 10.0
"""How long an answer of the engine is good for."""
PATIENCE_SECONDS = 2.0
"""How long whoever asks waits for the engine."""
RETRY_SECONDS = 1.0


class Opening(Protocol):
    """Reaches the engine."""

    async def engine(self) -> "AnyEngine":
        """Wait for the engine."""


class Readiness:
    """Asks the engine for its collections, which it can answer only when it is open.

    The first question also starts the engine, and its connection keeps it.
    """

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._asking = anyio.Lock()
        self._asked = -FRESH_SECONDS
        self._state = LOADING
        self.stopping = False
        """Set when the server is about to stop."""
        self.collections: list[CollectionInfo] = []
        """As the engine told last."""

    async def state(self) -> str:
        """Return `ready`, `loading`, `failed` or `stopping`."""
        if not self.stopping:
            await self.refresh()
        return STOPPING if self.stopping else self._state

    async def refresh(self) -> None:
        """Ask the engine again if its last answer is old."""
        with anyio.move_on_after(PATIENCE_SECONDS) as patience:
            async with self._asking:
                seconds = FRESH_SECONDS if self._state == READY else RETRY_SECONDS
                if time.monotonic() - self._asked >= seconds:
                    await self._ask()
        if patience.cancelled_caught and self._is_old():
            self._state = LOADING

    async def _ask(self) -> None:
        try:
            engine = await self._opening.engine()
            self.collections = await engine.collections()
        except HybridSearchError:
            # Why is for the log and for callers with a token, not for everybody.
            self._state = FAILED
        else:
            self._state = READY
        self._asked = time.monotonic()

    def _is_old(self) -> bool:
        return time.monotonic() - self._asked > 3 * FRESH_SECONDS
