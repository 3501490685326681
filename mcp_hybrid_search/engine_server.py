"""An engine served to its clients over HTTP on a Unix socket."""

import logging
import os
import resource
import secrets
import signal
import sys
import time
import traceback
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from mcp_hybrid_search import __version__, engine_socket
from mcp_hybrid_search import engine_protocol as protocol
from mcp_hybrid_search.engine_answering import LineByLine, Tell
from mcp_hybrid_search.engine_protocol import Operation
from mcp_hybrid_search.engine_socket import Listening
from mcp_hybrid_search.errors import HybridSearchError, StoreUnavailableError
from mcp_hybrid_search.opening import Opening
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stores.directory import DataDirectory

WATCH_SECONDS = 1.0
STARTING_SECONDS = 30.0
"""How long an engine waits for the client that started it."""
KEEP_ALIVE_SECONDS = 30 * 24 * 3600
"""A connection stands for a client that lives, however long it is silent."""

DIRECTORY_GONE = "the data directory was removed or replaced"

log = logging.getLogger(__name__)


def serve(
    settings: Settings,
    directory: DataDirectory,
    listening: Listening,
    *,
    drain_seconds: int,
) -> None:
    """Serve until the engine has to leave, then bring everything to the disk.

    Args:
        settings: For the engine.
        directory: Locked by this process; the caller releases it.
        listening: Where clients connect.
        drain_seconds: How long calls in flight may take at the end.
    """
    engine_server = EngineServer(settings, directory, listening)
    try:
        engine_server.run(drain_seconds)
    finally:
        # From here on a new engine may wait for the lock.
        listening.retire()
        # A second signal would only cut short what ends by itself.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        engine_server.opening.close()


class _Connection(H11Protocol):
    """One connection, of this user only, that remembers whose it is."""

    client_info: protocol.ClientInfo | None = None

    def connection_made(self, transport: Any) -> None:
        """Take a connection, or drop it if it is another user's."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "connection": self}
        if not engine_socket.is_own(transport.get_extra_info("socket")):
            log.warning("A connection of another user was dropped.")
            transport.abort()


class EngineServer:
    """What is served, and when to stop."""

    def __init__(
        self, settings: Settings, directory: DataDirectory, listening: Listening
    ) -> None:
        self.opening = Opening(settings, directory)
        self._settings = settings
        self._directory = directory
        self._listening = listening
        self._started = time.monotonic()
        self._instance = secrets.token_hex(8)
        self._suspects = anyio.Lock()
        """Held by a call of which engines may have died; see `SUSPECT_ATTEMPTS`."""
        self._last_seen = self._started + STARTING_SECONDS
        self._server: uvicorn.Server | None = None

    def run(self, drain_seconds: int) -> None:
        """Serve until `leave`, or SIGTERM."""
        app = Starlette(
            routes=[
                Route("/hello", self._hello),
                Route("/status", self._status),
                Route("/finish", self._finish, methods=["POST"]),
                Route("/call/{operation}", self._call, methods=["POST"]),
            ]
        )
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=drain_seconds,
            h11_max_incomplete_event_size=64 * 1024,
        )
        self._server = uvicorn.Server(config)
        # The server raises again what it caught, once it has ended.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.opening.start()
        anyio.run(self._serve, self._server)

    async def _serve(self, server: uvicorn.Server) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, server)
            await server.serve(sockets=[self._listening.socket])
            group.cancel_scope.cancel()

    async def _watch(self, server: uvicorn.Server) -> None:
        """Leave when nobody is there any more, or nothing to serve."""
        while True:
            await anyio.sleep(WATCH_SECONDS)
            reason = self._reason_to_leave(server)
            if reason:
                self._leave(reason)
                return

    def _reason_to_leave(self, server: uvicorn.Server) -> str | None:
        try:
            self._directory.check_same()
        except StoreUnavailableError:
            return DIRECTORY_GONE
        if not self._listening.is_found():
            return "the socket was removed or replaced"
        now = time.monotonic()
        if server.server_state.connections:
            self._last_seen = now
        elif now - self._last_seen >= self._settings.engine_idle_seconds:
            return "nobody is connected"
        return None

    def _leave(self, reason: str) -> None:
        if self._server is not None and not self._server.should_exit:
            log.info("Leaving: %s.", reason)
            self._listening.retire()
            self._server.should_exit = True

    def _leaves(self) -> bool:
        """Return whether this is the end; it may have begun by a signal."""
        if self._server is not None and not self._server.should_exit:
            return False
        # Else the client would come back to us, and not find the next engine.
        self._listening.retire()
        return True

    # Routes

    async def _hello(self, request: Request) -> Response:
        own = self._introduced(request)
        hello = protocol.Hello(
            pid=os.getpid(),
            instance=self._instance,
            terms=protocol.terms(self._settings),
            clients=len([c for c in self._clients() if c.key != own]),
        )
        return Response(protocol.HELLO.dump_json(hello))

    async def _status(self, _request: Request) -> Response:
        status = protocol.EngineStatus(
            pid=os.getpid(),
            version=__version__,
            state=self.opening.state(),
            uptime_seconds=time.monotonic() - self._started,
            memory_bytes=memory_bytes(),
            **await self._sizes(),
            clients=sorted(self._clients(), key=lambda client: client.pid),
        )
        return Response(protocol.STATUS.dump_json(status))

    async def _sizes(self) -> dict[str, int]:
        if self.opening.state() != "ready":
            return {"documents": 0, "chunks": 0}
        collections = await (await self.opening.engine()).collections()
        return {
            "documents": sum(each.documents for each in collections),
            "chunks": sum(each.chunks for each in collections),
        }

    async def _finish(self, _request: Request) -> Response:
        self._leave("asked to")
        return Response(status_code=204)

    async def _call(self, request: Request) -> Response:
        self._introduced(request)
        operation = protocol.OPERATIONS.get(request.path_params["operation"])
        if operation is None:
            return Response(status_code=404)
        meant = request.headers.get(protocol.INSTANCE_HEADER) == self._instance
        if self._leaves() or not meant:
            return Response(status_code=409)
        try:
            arguments = operation.arguments.validate_json(await request.body())
        except ValidationError:
            return Response(status_code=400)
        attempt = int(request.headers.get(protocol.ATTEMPT_HEADER, "0"))
        suspect = attempt >= protocol.SUSPECT_ATTEMPTS
        return LineByLine(partial(self._last_line, operation, arguments, suspect))

    async def _last_line(
        self,
        operation: Operation,
        arguments: dict[str, Any],
        suspect: bool,  # noqa: FBT001 - called by `LineByLine`
        tell: Tell,
    ) -> bytes:
        try:
            if not suspect:
                return await self._result(operation, arguments, tell)
            # Whatever killed the engine does it alone, so that it can be named.
            async with self._suspects:
                await tell(protocol.line(protocol.STARTED))
                return await self._result(operation, arguments, tell)
        except HybridSearchError as exc:
            return protocol.line(protocol.FAILED, asdict(protocol.failure(exc)))
        except Exception as exc:  # noqa: BLE001 - whatever it is, the client is told
            # Not its text, which may be somebody's.
            where = "".join(traceback.format_tb(exc.__traceback__))
            log.error(  # noqa: TRY400
                "A call of %s met %s:\n%s", operation.name, type(exc).__name__, where
            )
            return protocol.line(protocol.FAILED, asdict(protocol.failure(exc)))

    async def _result(
        self, operation: Operation, arguments: dict[str, Any], tell: Tell
    ) -> bytes:
        async def progress(done: float, total: float, what: str) -> None:
            await tell(protocol.line(protocol.PROGRESS, [done, total, what]))

        self._directory_is_there()
        engine = await self.opening.engine(progress)
        if operation.tells_progress:
            arguments = {**arguments, "progress": progress}
        result = await getattr(engine, operation.name)(**arguments)
        return protocol.result_line(operation, result)

    def _directory_is_there(self) -> None:
        try:
            self._directory.check_same()
        except StoreUnavailableError:
            self._leave(DIRECTORY_GONE)
            raise

    def _introduced(self, request: Request) -> str:
        """Remember whose a connection is; returns the client's key."""
        connection: _Connection = request.state.connection
        told = request.headers.get(protocol.CLIENT_HEADER)
        if told is not None:
            connection.client_info = protocol.CLIENT.validate_json(told)
        return connection.client_info.key if connection.client_info else ""

    def _clients(self) -> list[protocol.ClientInfo]:
        connections = self._server.server_state.connections if self._server else ()
        infos = (getattr(each, "client_info", None) for each in connections)
        return list({info.key: info for info in infos if info is not None}.values())


def memory_bytes() -> int:
    """Return the memory of this process; where only its peak is known, that."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()
