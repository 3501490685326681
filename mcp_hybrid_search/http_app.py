"""Both HTTP transports of one MCP server, and what operators ask of it."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Literal

from mcp.server import MCPServer
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_hybrid_search.http_refusal import not_allowed, not_found
from mcp_hybrid_search.settings import Settings

Transport = Literal["streamable-http", "sse", "http"]

MCP, SSE, MESSAGES = "/mcp", "/sse", "/messages/"
READING = ("GET",)
SESSION_IDLE_SECONDS = 30 * 60


class HttpApp:
    """What is served at which path; everything else is not found."""

    def __init__(self, routes: dict[str, ASGIApp]) -> None:
        self._routes = {path.encode(): app for path, app in routes.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request by its path as it was sent, undecoded."""
        app = self._routes.get(scope["raw_path"])
        if app is None:
            raise not_found()
        await app(scope, receive, send)


class Transports:
    """The MCP server over streamable HTTP, over SSE, or both."""

    def __init__(self, server: MCPServer[Any], settings: Settings) -> None:
        # As the public run_stdio_async() does, and with our own streams around it.
        self._server = server._lowlevel_server  # noqa: SLF001
        # Host, Origin and size are checked in front, with fewer gaps.
        self.manager = StreamableHTTPSessionManager(
            self._server,
            json_response=settings.json_responses,
            session_idle_timeout=SESSION_IDLE_SECONDS,
            max_sessions=settings.max_sessions,
            max_request_body_size=settings.max_body_bytes,
        )
        self._sse = SseServerTransport(
            MESSAGES, max_request_body_size=settings.max_body_bytes
        )

    def routes(self, transport: Transport) -> dict[str, ASGIApp]:
        """Return the paths of a transport."""
        routes: dict[str, ASGIApp] = {}
        if transport in {"http", "streamable-http"}:
            routes[MCP] = self.manager.handle_request
        if transport in {"http", "sse"}:
            routes[SSE] = self._connect
            routes[MESSAGES] = self._sse.handle_post_message
        return routes

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one SSE session for as long as its stream is open."""
        if scope["method"] != "GET":
            raise not_allowed(READING)
        async with self._sse.connect_sse(scope, receive, send) as (reading, writing):
            options = self._server.create_initialization_options()
            await self._server.run(reading, writing, options)


def probe(state: Callable[[], Awaitable[str]], *, good: str) -> ASGIApp:
    """Return what answers 200 while `state` is `good`, and 503 with it otherwise."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in READING:
            raise not_allowed(READING)
        now = await state()
        status = HTTPStatus.OK if now == good else HTTPStatus.SERVICE_UNAVAILABLE
        headers = {"Cache-Control": "no-store"}
        response = PlainTextResponse(f"{now}\n", status, headers)
        await response(scope, receive, send)

    return answer
