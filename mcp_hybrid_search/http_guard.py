"""The first look at a request, on every route: form, host and origin.

Whatever is behind this answers requests that name this server, come from a page that
may call it, or from no page at all, and mean the same to everyone on the way.
"""

import re
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_hybrid_search.http_address import Addresses, Host, is_wildcard, parsed_host
from mcp_hybrid_search.http_refusal import RefusedError

METHODS = "GET, POST, DELETE, OPTIONS"
EXPOSED = "Mcp-Session-Id, WWW-Authenticate, Retry-After"
REQUESTABLE = re.compile(
    r"authorization|content-type|accept|last-event-id|mcp-[a-z0-9-]+", re.IGNORECASE
)
"""Headers that a page may send to us."""
PREFLIGHT_SECONDS = 600
RETRY_SECONDS = 5
HEAD_BYTES = 32 * 1024

_SINGLE = frozenset(
    {
        b"host", b"origin", b"authorization", b"content-length", b"content-type",
        b"transfer-encoding", b"mcp-session-id", b"mcp-protocol-version",
        b"mcp-method", b"mcp-name", b"last-event-id",
    }
)  # fmt: skip
"""Headers of which two could be read differently on the way here."""


class Reply:
    """Where an answer goes; knows how far it is."""

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        self._send = send
        self._headers = headers
        self.begun = False
        self.ended = False

    async def __call__(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            headers.update(self._headers)
            if message["status"] == HTTPStatus.SERVICE_UNAVAILABLE:
                headers.setdefault("Retry-After", str(RETRY_SECONDS))
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
        await self._send(message)

    async def end(self) -> None:
        """End an answer that was begun and that nobody will go on with."""
        if self.begun and not self.ended:
            await self({"type": "http.response.body", "body": b""})


class Guard:
    """Refuses what must not be served, and tells pages what they may read."""

    def __init__(
        self,
        app: ASGIApp,
        addresses: Addresses,
        *,
        listens_on: str,
        refused: Callable[[str], None],
    ) -> None:
        """Put the guard before `app`.

        Args:
            app: Serves what passes; may raise `RefusedError`.
            addresses: Hosts and origins that are served.
            listens_on: Name or address that the server listens on.
            refused: Told the kind of each refusal.
        """
        self._app = app
        self._addresses = addresses
        self._everywhere = is_wildcard(listens_on)
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        headers = {"X-Content-Type-Options": "nosniff"}
        reply = Reply(send, headers)
        try:
            values = _single_headers(scope)
            self._check_host(scope, values)
            origin = self._checked_origin(values)
            if origin is not None:
                headers |= {
                    "Access-Control-Allow-Origin": origin,
                    "Access-Control-Expose-Headers": EXPOSED,
                    "Vary": "Origin",
                }
                if scope["method"] == "OPTIONS":
                    await _preflight(scope)(scope, receive, reply)
                    return
            await self._app(scope, receive, reply)
        except RefusedError as refusal:
            self._refused(refusal.kind)
            # What is unread of the request would be taken for the next one.
            closes = refusal.kind == "malformed" or (
                has_body(scope) and not scope["state"].get("body_read")
            )
            await refusal.answer(closes=closes)(scope, receive, reply)

    def _check_host(self, scope: Scope, values: dict[bytes, str]) -> None:
        host = parsed_host(values.get(b"host", ""))
        if host is None:
            message = "The Host header is missing or is not one host."
            raise RefusedError(HTTPStatus.BAD_REQUEST, message, "host")
        if not (self._addresses.has_host(host) or self._is_own(host, scope)):
            message = (
                "This server does not answer under this Host. Its operator can allow"
                " it with HYBRID_SEARCH_ALLOWED_HOSTS or HYBRID_SEARCH_PUBLIC_URL."
            )
            raise RefusedError(HTTPStatus.MISDIRECTED_REQUEST, message, "host")

    def _is_own(self, host: Host, scope: Scope) -> bool:
        """Return whether `host` is the very address that was connected to.

        A name that a stranger makes lead here is no address, so this is safe.
        """
        return self._everywhere and host == Host(*scope["server"])

    def _checked_origin(self, values: dict[bytes, str]) -> str | None:
        origin = values.get(b"origin")
        if origin is not None and not self._addresses.has_origin(origin):
            message = (
                "Pages of this Origin may not call this server. Its operator can allow"
                " it with HYBRID_SEARCH_ALLOWED_ORIGINS."
            )
            raise RefusedError(HTTPStatus.FORBIDDEN, message, "origin")
        return origin


def has_body(scope: Scope) -> bool:
    """Return whether the request announces a body."""
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length") not in {
        None,
        b"0",
    }


def _single_headers(scope: Scope) -> dict[bytes, str]:
    """Return the headers that may come once; refuse what is ambiguous."""
    _check_line(scope)
    counts = Counter(name for name, _ in scope["headers"] if name in _SINGLE)
    if any(count > 1 for count in counts.values()):
        message = "A header that may come once came more than once."
        raise RefusedError(HTTPStatus.BAD_REQUEST, message)
    values = {
        name: value.decode("latin-1")
        for name, value in scope["headers"]
        if name in _SINGLE
    }
    if {b"content-length", b"transfer-encoding"} <= values.keys():
        message = "Content-Length and Transfer-Encoding exclude each other."
        raise RefusedError(HTTPStatus.BAD_REQUEST, message)
    if scope["method"] != "POST" and has_body(scope):
        message = f"{scope['method']} takes no body."
        raise RefusedError(HTTPStatus.BAD_REQUEST, message)
    return values


def _check_line(scope: Scope) -> None:
    """Refuse what the request line should not be, and a head that is too large."""
    if scope["http_version"] not in {"1.0", "1.1"}:
        message = "This server speaks HTTP/1.1."
        raise RefusedError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, message)
    if not scope["raw_path"].startswith(b"/"):
        message = "The request target must be a path that begins with /."
        raise RefusedError(HTTPStatus.BAD_REQUEST, message)
    size_bytes = len(scope["raw_path"]) + len(scope["query_string"])
    size_bytes += sum(len(name) + len(value) for name, value in scope["headers"])
    # The parser looks at the size only as long as the head is not whole.
    if size_bytes > HEAD_BYTES:
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        message = f"The head has {size_bytes} bytes; the limit is {HEAD_BYTES}."
        raise RefusedError(status, message, "size")


def _preflight(scope: Scope) -> Response:
    """Return what a page may send, before it sends it."""
    asked = dict(scope["headers"]).get(b"access-control-request-headers", b"")
    names = (name.strip() for name in asked.decode("latin-1").split(","))
    return Response(
        status_code=HTTPStatus.NO_CONTENT,
        headers={
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": ", ".join(
                name for name in names if REQUESTABLE.fullmatch(name)
            ),
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        },
    )
