"""The HTTP server as a process: how it begins, what it looks after, how it ends."""

import contextlib
import gc
import logging
import socket
import ssl
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import anyio
import uvicorn
from starlette.types import ASGIApp

from mcp_hybrid_search import oauth
from mcp_hybrid_search.calls import Calls
from mcp_hybrid_search.http_address import Host, is_loopback
from mcp_hybrid_search.http_app import Building, Transport
from mcp_hybrid_search.http_connection import connection_class
from mcp_hybrid_search.http_guard import HEAD_BYTES, Guard
from mcp_hybrid_search.http_listening import (
    BACKLOG,
    addresses,
    base_url,
    check_exposure,
    listening,
    most_connections,
    scheme,
    tls_context,
    trusted_proxies,
    url_path,
)
from mcp_hybrid_search.http_transports import MCP, SSE, Transports
from mcp_hybrid_search.metrics import Metrics
from mcp_hybrid_search.opening import opener
from mcp_hybrid_search.readiness import Readiness
from mcp_hybrid_search.server import create_server
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stdio import leave_within, signals_call
from mcp_hybrid_search.tokens import LOOK_SECONDS, Tokens

if TYPE_CHECKING:
    from mcp_hybrid_search.opening import AnyOpening

DRAIN_SECONDS = 8.0
"""How long calls in flight may take at the end."""
SETTLE_SECONDS = 1.0
LEAVE_SECONDS = 9.5

PLAIN = (
    "Tokens travel in plain text to %s. Use HYBRID_SEARCH_TLS_CERT_FILE, or a proxy"
    " that speaks TLS."
)
NAMING_SESSIONS = ("mcp.server.sse", "mcp.server.streamable_http_manager")
"""Loggers whose warnings have ids of sessions."""

log = logging.getLogger(__name__)


async def serve(settings: Settings, transport: Transport) -> None:
    """Serve until a signal ends it.

    Raises:
        HybridSearchError: If it cannot listen, or must not.
    """
    check_exposure(settings)
    for name in NAMING_SESSIONS:
        logging.getLogger(name).setLevel(logging.ERROR)
    tokens = _tokens(settings)
    issuer = oauth.configured(settings)
    tls = tls_context(settings)
    if (tokens or issuer) and not (tls or is_loopback(settings.host)):
        log.warning(PLAIN, settings.host)
    with listening(settings) as listener:
        opening = opener(settings)
        try:
            serving = _Serving(settings, opening, listener)
            app = await serving.app(transport, tokens, issuer)
            await serving.run(_config(settings, app, tls), transport)
        finally:
            await opening.aclose()


def _tokens(settings: Settings) -> Tokens | None:
    if settings.tokens_file is None and settings.token is None:
        return None
    single = settings.token
    return Tokens(
        settings.tokens_file, None if single is None else single.get_secret_value()
    )


class _Serving:
    """One server from its first connection to its last."""

    def __init__(
        self, settings: Settings, opening: "AnyOpening", listener: socket.socket
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._port: int = listener.getsockname()[1]
        self._base_url = base_url(settings, self._port)
        self._calls = Calls(
            at_once=settings.max_calls,
            waiting=settings.max_waiting_calls,
            per_minute=settings.max_calls_per_minute,
        )
        self._metrics = Metrics()
        self._server = create_server(
            opening, settings, calls=self._calls, observer=self._metrics
        )
        self._transports = Transports(
            self._server, settings, prefix=url_path(self._base_url)
        )
        self._readiness = Readiness(opening)
        self._leaving = anyio.Event()
        self._draining = anyio.CancelScope()

    async def app(
        self, transport: Transport, tokens: Tokens | None, issuer: oauth.OAuth | None
    ) -> ASGIApp:
        """Return what answers requests."""
        tools = await self._server.list_tools()
        self._metrics.know([tool.name for tool in tools])
        self._building = Building(
            self._settings,
            transports=self._transports,
            calls=self._calls,
            tokens=tokens,
            issuer=issuer,
            base_url=self._base_url,
            writing_tools=frozenset(
                tool.name
                for tool in tools
                if tool.annotations is None or not tool.annotations.read_only_hint
            ),
        )
        return Guard(
            self._building.routes(transport, self._readiness, self._metrics),
            addresses(self._settings, self._port),
            listens_on=self._settings.host,
            refused=self._metrics.refused,
        )

    async def run(self, config: uvicorn.Config, transport: Transport) -> None:
        """Serve until a signal comes, and then what was begun."""
        server = _Server(config)
        async with self._transports.manager.run(), anyio.create_task_group() as group:
            with signals_call(self._leave):
                group.start_soon(self._readiness.state)
                group.start_soon(self._watch)
                group.start_soon(self._end, server)
                # What was imported stays: a full collection would look at all of it
                # again and again, a quarter of a second amid calls.
                gc.freeze()
                _announce(self._settings, transport, self._port)
                await server.serve(sockets=[self._listener])
            group.cancel_scope.cancel()

    async def _watch(self) -> None:
        """Cut off whoever's token was revoked or has expired."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            trusts = self._building.gatekeeper.still_trusts
            self._building.streams.cut(unless=trusts)

    def _leave(self) -> None:
        """Begin to end; asked again, end at once."""
        again = self._leaving.is_set()
        leave_within(SETTLE_SECONDS if again else LEAVE_SECONDS)
        if again:
            self._draining.cancel()
        self._readiness.stopping = True
        self._calls.close()
        self._leaving.set()

    async def _end(self, server: uvicorn.Server) -> None:
        await self._leaving.wait()
        log.info("Leaving; calls in flight: %d.", self._calls.active)
        self._draining.deadline = anyio.current_time() + DRAIN_SECONDS
        with self._draining:
            await self._calls.drained()
            # Answers may be on their way from the call to the connection.
            with anyio.move_on_after(SETTLE_SECONDS):
                await anyio.wait_all_tasks_blocked()
        self._building.streams.close()
        server.should_exit = True


class _Server(uvicorn.Server):
    """Leaves the signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _config(
    settings: Settings, app: ASGIApp, tls: ssl.SSLContext | None
) -> uvicorn.Config:
    proxies = trusted_proxies(settings)
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=connection_class(most_connections()),
        ws="none",
        lifespan="off",
        log_config=None,
        # Its lines hold query strings, which name sessions.
        access_log=False,
        # Else it believes whoever connects from this machine.
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        server_header=False,
        backlog=BACKLOG,
        # Clients drop an idle connection after 5 s: it must not be closed just then.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    config.load()
    config.ssl = tls
    return config


def _announce(settings: Settings, transport: Transport, port: int) -> None:
    host = Host(settings.host, port)
    path = SSE if transport == "sse" else MCP
    sys.stderr.write(f"Listening on {scheme(settings)}://{host}{path}\n")
    sys.stderr.flush()
