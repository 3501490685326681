"""The MCP server over streamable HTTP and over SSE, in at most so many sessions."""

from http import HTTPStatus
from typing import Any

from mcp.server import MCPServer
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import Receive, Scope, Send

from mcp_hybrid_search.calls import BUSY
from mcp_hybrid_search.http_body import RPC_METHOD
from mcp_hybrid_search.http_refusal import RefusedError, not_allowed, not_found
from mcp_hybrid_search.settings import Settings

MCP, SSE, MESSAGES = "/mcp", "/sse", "/messages/"
SESSION_IDLE_SECONDS = 30 * 60
RETRY_SECONDS = 30


class Transports:
    """Both transports of one server; each message knows who sent it."""

    def __init__(
        self, server: MCPServer[Any], settings: Settings, *, prefix: str
    ) -> None:
        """Begin without a session.

        Args:
            server: Whose tools are served.
            settings: For its limits.
            prefix: Of the path under which clients see this server.
        """
        # As the public run_stdio_async() does, and with our own streams around it.
        self._server = server._lowlevel_server  # noqa: SLF001
        self._most_sessions = settings.max_sessions
        self._prefix = prefix
        # Host, Origin, size and form are checked in front, with fewer gaps.
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
        self._sse_sessions = 0

    @property
    def sessions(self) -> int:
        """Count the sessions that are open."""
        # There is no public way to count them.
        return len(self.manager._server_instances) + self._sse_sessions  # noqa: SLF001

    async def streamable_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a message, or a stream of a session."""
        if scope["method"] not in {"GET", "POST", "DELETE"}:
            raise not_allowed(("GET", "POST", "DELETE"))
        opens = scope["state"].get(RPC_METHOD) == "initialize"
        if opens and b"mcp-session-id" not in dict(scope["headers"]):
            self._check_room()
        await self.manager.handle_request(scope, receive, send)

    async def sse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one SSE session for as long as its stream is open."""
        if scope["method"] != "GET":
            raise not_allowed(("GET",))
        self._check_room()
        self._sse_sessions += 1
        try:
            seen = {**scope, "root_path": self._prefix}
            async with self._sse.connect_sse(seen, receive, send) as (reading, writing):
                options = self._server.create_initialization_options()
                await self._server.run(reading, writing, options)
        finally:
            self._sse_sessions -= 1

    async def messages(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a message for an SSE session."""
        if scope["method"] != "POST":
            raise not_allowed(("POST",))
        query = scope["query_string"].decode("latin-1")
        # The SDK logs what it does not understand.
        name, _, session = query.partition("=")
        if name != "session_id" or not _is_session(session):
            raise not_found()
        await self._sse.handle_post_message(scope, receive, send)

    def _check_room(self) -> None:
        if self.sessions >= self._most_sessions:
            message = (
                f"{self._most_sessions} sessions are open, which is the limit."
                f" Busy: retry in {RETRY_SECONDS} s."
            )
            raise RefusedError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                message,
                "busy",
                {"Retry-After": str(RETRY_SECONDS)},
                BUSY,
            )


def _is_session(text: str) -> bool:
    return len(text) == 32 and set(text) <= set("0123456789abcdef")  # noqa: PLR2004
