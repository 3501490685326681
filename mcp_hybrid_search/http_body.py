"""The body of a request: read whole, within limits, and JSON-RPC or nothing.

The SDK reads it again: what it would log, repeat or stumble over never gets there.
"""

from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any

import anyio
from mcp.types import JSONRPCRequest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_hybrid_search import jsonrpc
from mcp_hybrid_search.access import caller
from mcp_hybrid_search.calls import (
    BUSY,
    LIMITED_METHODS,
    Calls,
    may_be_limited,
)
from mcp_hybrid_search.errors import BusyError
from mcp_hybrid_search.http_refusal import RefusedError

FIRST_SECONDS = 10.0
LEAST_BYTES_A_SECOND = 20_000
"""A body may take FIRST_SECONDS and this rate."""
MOST_BODIES = 16
"""So many of the largest size are held at once, of all requests together."""
LINGER_SECONDS = 2.0

READS_ONLY = "This token only reads. Use one with the scope write."

RPC_METHOD = "rpc_method"
"""Where the method is noted in the state of the request."""


class Bodies:
    """Hands on requests whose body is a JSON-RPC message and is not too much."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limit_bytes: int,
        calls: Calls,
        check: Callable[[JSONRPCRequest], None],
    ) -> None:
        """Put the limits before `app`.

        Args:
            app: Reads the body again.
            limit_bytes: Of one body.
            calls: Says whether there is room for one more.
            check: Refuses what the caller may not ask for.
        """
        self._app = app
        self._limit = limit_bytes
        self._calls = calls
        self._check = check
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        _check_type(headers)
        await self._check_declared(headers, receive)
        body = bytearray()
        try:
            await self._read(body, receive)
            scope["state"]["body_read"] = True
            self._check_message(scope, headers, bytes(body))
            await self._app(scope, _again(bytes(body), receive), send)
        finally:
            self._held -= len(body)

    async def _check_declared(
        self, headers: dict[bytes, bytes], receive: Receive
    ) -> None:
        declared = int(headers.get(b"content-length", b"0"))
        if declared > self._limit:
            # Else a client that is still sending would not read the answer.
            if declared <= 2 * self._limit and b"expect" not in headers:
                await _discard(receive, declared)
            raise self._too_large(declared)

    async def _read(self, body: bytearray, receive: Receive) -> None:
        slow = "The body came too slowly."
        started = anyio.current_time()
        with anyio.move_on_at(started + FIRST_SECONDS) as patience:
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    # Nobody is left to read an answer.
                    raise RefusedError(HTTPStatus.BAD_REQUEST, slow, "slow")
                chunk = message.get("body", b"")
                more = message.get("more_body", False)
                self._held += len(chunk)
                body += chunk
                await self._check_size(body, receive, more=more)
                allowed = FIRST_SECONDS + len(body) / LEAST_BYTES_A_SECOND
                patience.deadline = started + allowed
            return
        raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, slow, "slow")

    async def _check_size(
        self, body: bytearray, receive: Receive, *, more: bool
    ) -> None:
        if len(body) > self._limit:
            if more:
                await _discard(receive, self._limit)
            raise self._too_large(len(body))
        if self._held > MOST_BODIES * self._limit:
            message = "Too many large bodies at once. Busy: retry in 5 s."
            raise RefusedError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                message,
                "busy",
                {"Retry-After": "5"},
                BUSY,
            )

    def _too_large(self, size_bytes: int) -> RefusedError:
        message = (
            f"The body has {size_bytes} bytes or more; the limit is {self._limit}."
            " Send less at once."
        )
        return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, "size")

    def _check_message(
        self, scope: Scope, headers: dict[bytes, bytes], body: bytes
    ) -> None:
        if _is_limited(headers, body):
            self._check_room(body)
        try:
            line = jsonrpc.Line(body, len(body), self._limit)
            message = jsonrpc.parsed(line)
        except jsonrpc.RefusedError as refused:
            error = refused.answer.error
            raise RefusedError(
                HTTPStatus.BAD_REQUEST,
                error.message,
                code=error.code,
                request_id=refused.answer.id,
            ) from None
        if isinstance(message, JSONRPCRequest):
            scope["state"][RPC_METHOD] = message.method
            self._check(message)

    def _check_room(self, body: bytes) -> None:
        try:
            self._calls.check(caller().name)
        except BusyError as exc:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                str(exc),
                "busy",
                {"Retry-After": str(exc.retry_seconds)},
                BUSY,
                jsonrpc.skimmed_id(body),
            ) from None


def _check_type(headers: dict[bytes, bytes]) -> None:
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json" or b"content-encoding" in headers:
        message = "Send the body as application/json, not compressed."
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message, "type")


def _is_limited(headers: dict[bytes, bytes], body: bytes) -> bool:
    """Return whether a message seems to reach the engine.

    When the server is busy it must not read large bodies only to refuse them. Who
    writes a method in an unusual way is refused later, in the words of a tool.
    """
    named = headers.get(b"mcp-method")
    if named is not None:
        return named.decode("latin-1") in LIMITED_METHODS
    return may_be_limited(body)


async def _discard(receive: Receive, most_bytes: int) -> None:
    """Let a client finish what it sends, if that is soon; nothing is kept."""
    left = most_bytes
    with anyio.move_on_after(LINGER_SECONDS):
        while left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            if not message.get("more_body", False):
                return


def _again(body: bytes, receive: Receive) -> Receive:
    read = False

    async def replay() -> Message:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def check_rights(
    message: JSONRPCRequest,
    *,
    writing_tools: Collection[str],
    refusal: Callable[[str], RefusedError],
) -> None:
    """Refuse a tool that changes something to a caller that only reads.

    Raises:
        RefusedError: So that a client can ask for a token that writes.
    """
    params: dict[str, Any] = message.params or {}
    if message.method != "tools/call" or params.get("name") not in writing_tools:
        return
    if not caller().writes:
        raise refusal(READS_ONLY)
