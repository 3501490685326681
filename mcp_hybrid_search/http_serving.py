"""The HTTP server as a process: where it listens, and how it begins and ends."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import anyio
import uvicorn
from starlette.types import ASGIApp

from mcp_hybrid_search.calls import Calls
from mcp_hybrid_search.errors import InvalidInputError, StoreUnavailableError
from mcp_hybrid_search.http_address import (
    DEFAULT_PORTS,
    Addresses,
    Host,
    configured_host,
    configured_url,
    is_loopback,
    is_wildcard,
)
from mcp_hybrid_search.http_app import MCP, SSE, HttpApp, Transport, Transports, probe
from mcp_hybrid_search.http_connection import HEAD_BYTES, connection_class
from mcp_hybrid_search.http_guard import Guard
from mcp_hybrid_search.opening import opener
from mcp_hybrid_search.readiness import READY, Readiness
from mcp_hybrid_search.server import create_server
from mcp_hybrid_search.settings import PREFIX, Settings
from mcp_hybrid_search.stdio import leave_within

MOST_CONNECTIONS = 4_000
DRAIN_SECONDS = 8.0
LEAVE_SECONDS = 9.5
BACKLOG = 1024

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Leaves the signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(settings: Settings, transport: Transport) -> None:
    """Serve until a signal ends it.

    Raises:
        HybridSearchError: If it cannot listen, or must not.
    """
    check_exposure(settings)
    with listening(settings) as listener:
        await _serve(settings, transport, listener)


async def _serve(
    settings: Settings, transport: Transport, listener: socket.socket
) -> None:
    opening = opener(settings)
    calls = Calls(
        at_once=settings.max_calls,
        waiting=settings.max_waiting_calls,
        per_minute=settings.max_calls_per_minute,
    )
    server = create_server(opening, settings, calls=calls)
    transports = Transports(server, settings)
    readiness = Readiness(opening)
    port = listener.getsockname()[1]
    routes: dict[str, ASGIApp] = {
        "/healthz": probe(_alive, good="ok"),
        "/readyz": probe(readiness.state, good=READY),
        **transports.routes(transport),
    }
    guard = Guard(
        HttpApp(routes),
        addresses(settings, port),
        listens_on=settings.host,
        refused=lambda _kind: None,
    )
    uvicorn_server = _Server(_config(settings, guard))
    try:
        async with transports.manager.run(), anyio.create_task_group() as group:
            with _signals_call(lambda: _leave(uvicorn_server, readiness, calls)):
                group.start_soon(readiness.state)
                _announce(settings, transport, port)
                await uvicorn_server.serve(sockets=[listener])
            group.cancel_scope.cancel()
    finally:
        await opening.aclose()


def _leave(server: uvicorn.Server, readiness: Readiness, calls: Calls) -> None:
    leave_within(LEAVE_SECONDS)
    readiness.stopping = True
    calls.close()
    server.should_exit = True


async def _alive() -> str:
    return "ok"


def scheme(settings: Settings) -> str:
    """Return the scheme that the server itself speaks."""
    return "http" if settings.tls_cert_file is None else "https"


def check_exposure(settings: Settings) -> None:
    """Refuse to listen to other machines without tokens.

    Raises:
        InvalidInputError: Saying what to do.
    """
    if is_loopback(settings.host.lower()):
        return
    if not (settings.tokens_file or settings.token or settings.oauth_issuer):
        msg = (
            f"{settings.host} can be reached from other machines, so callers need"
            f" tokens. Make one with: mcp-hybrid-search token create NAME, and name its"
            f" file in {PREFIX}TOKENS_FILE. Or listen on 127.0.0.1."
        )
        raise InvalidInputError(msg)


def addresses(settings: Settings, port: int) -> Addresses:
    """Return the hosts and origins that are served.

    Raises:
        InvalidInputError: If a setting names what is no host or URL.
    """
    names = {settings.host.lower()}
    if is_loopback(settings.host.lower()) or is_wildcard(settings.host):
        names |= set(LOCAL_NAMES)
    found = Addresses(
        scheme=scheme(settings), listens_on=[Host(name, port) for name in sorted(names)]
    )
    if settings.public_url:
        url = configured_url(settings.public_url, variable=f"{PREFIX}PUBLIC_URL")
        host = configured_host(url.netloc, variable=f"{PREFIX}PUBLIC_URL")
        found.allow_host(host, (url.scheme,))
    for text in listed(settings.allowed_hosts):
        host = configured_host(text, variable=f"{PREFIX}ALLOWED_HOSTS")
        found.allow_host(host, DEFAULT_PORTS)
    for text in listed(settings.allowed_origins):
        found.allow_origin(text)
    return found


def listed(text: str) -> list[str]:
    """Return what stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """Listen where the settings say.

    Raises:
        InvalidInputError: If the host is not one of this machine.
        StoreUnavailableError: If the port is taken.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as exc:
            raise _unlistenable(settings, exc) from exc
        listener.listen(BACKLOG)
        yield listener
    finally:
        listener.close()


def _unlistenable(settings: Settings, error: OSError) -> Exception:
    if error.errno == errno.EADDRINUSE:
        msg = (
            f"Port {settings.port} of {settings.host} is in use. Choose another with"
            f" --port, 0 for any free one."
        )
        return StoreUnavailableError(msg)
    msg = f"Cannot listen on {settings.host}, port {settings.port}: {error.strerror}."
    return InvalidInputError(msg)


def _config(settings: Settings, app: ASGIApp) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=connection_class(MOST_CONNECTIONS),
        ws="none",
        lifespan="off",
        log_config=None,
        # Its lines hold query strings, which name sessions.
        access_log=False,
        # Else it believes whoever connects from this machine.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=listed(settings.trusted_proxies),
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    config.load()
    return config


def _announce(settings: Settings, transport: Transport, port: int) -> None:
    host = Host(settings.host, port)
    path = SSE if transport == "sse" else MCP
    sys.stderr.write(f"Listening on {scheme(settings)}://{host}{path}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _signals_call(leave: Callable[[], None]) -> Iterator[None]:
    signals = () if sys.platform == "win32" else (signal.SIGTERM, signal.SIGINT)
    loop = asyncio.get_running_loop()
    for each in signals:
        loop.add_signal_handler(each, leave)
    try:
        yield
    finally:
        for each in signals:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_IGN)
