"""The engine, opened in the background and awaited by whoever needs it.

Keeps the libraries behind the engine out of the way of `initialize`: they are
imported by a thread, after the first message was answered.
"""

import logging
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.to_thread

from mcp_hybrid_search.settings import Settings

if TYPE_CHECKING:
    from mcp_hybrid_search.engine import Engine, Progress
    from mcp_hybrid_search.engine_client import EngineClient
    from mcp_hybrid_search.stores.directory import DataDirectory

    AnyEngine: TypeAlias = Engine | EngineClient
    AnyOpening: TypeAlias = "Opening | EngineClient"

log = logging.getLogger(__name__)

NO_SOCKETS = (
    "This system has no Unix sockets: the engine runs in this process, and no other one"
    " can use the data directory meanwhile."
)


class Opening:
    """Opens an engine once; after a failure, the next call tries again."""

    def __init__(
        self,
        settings: Settings,
        directory: "DataDirectory | None" = None,
        *,
        first_notices: tuple[str, ...] = (),
    ) -> None:
        """Open nothing yet; the arguments are those of `Engine`."""
        self._settings = settings
        self._directory = directory
        self._first_notices = first_notices
        self._lock = threading.Lock()
        self._future: Future[Engine] | None = None

    def introduce(self, name: str) -> None:
        """Do nothing: nobody else can ask who is there."""

    def start(self) -> "Future[Engine]":
        """Begin to open the engine, if nobody has; returns at once."""
        with self._lock:
            if self._future is None or _failed(self._future):
                self._future = Future()
                threading.Thread(
                    target=self._open, args=(self._future,), name="opening", daemon=True
                ).start()
            return self._future

    def _open(self, future: "Future[Engine]") -> None:
        try:
            from mcp_hybrid_search.engine import Engine  # noqa: PLC0415 - slow

            engine = Engine(
                self._settings,
                directory=self._directory,
                first_notices=self._first_notices,
            )
        except BaseException as exc:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(exc)
        else:
            future.set_result(engine)

    async def engine(self, progress: "Progress | None" = None) -> "Engine":
        """Wait for the engine.

        Raises:
            HybridSearchError: If it cannot be opened now.
        """
        future = self.start()
        waited = 0.0
        while not future.done():
            await anyio.sleep(0.02)
            waited += 0.02
            if progress is not None and waited % 1 < 0.02:  # noqa: PLR2004
                await progress(waited, waited + 1, "loading the models")
        return future.result()

    def state(self) -> str:
        """Return `ready`, `loading`, or why the last attempt failed."""
        future = self._future
        if future is None or not future.done():
            return "loading"
        error = future.exception()
        return "ready" if error is None else str(error)

    async def aclose(self) -> None:
        """Close the engine; nothing else is left to be done meanwhile."""
        self.close()

    def close(self) -> None:
        """Close the engine if it was opened, after it is if it is being opened."""
        if self._future is not None and self._future.exception() is None:
            self._future.result().close()


def _failed(future: "Future[Engine]") -> bool:
    return future.done() and future.exception() is not None


def opener(settings: Settings) -> "AnyOpening":
    """Return what reaches the engine: in its own process where that can be."""
    from mcp_hybrid_search.engine_client import EngineClient  # noqa: PLC0415
    from mcp_hybrid_search.engine_socket import sockets_exist  # noqa: PLC0415

    if settings.in_process:
        return Opening(settings)
    if not sockets_exist():
        log.warning(NO_SOCKETS)
        return Opening(settings, first_notices=(NO_SOCKETS,))
    return EngineClient(settings)
