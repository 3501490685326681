"""Requests that are being answered, so that what lasts can be ended."""

from collections.abc import Callable
from http import HTTPStatus

import anyio
from starlette.types import ASGIApp, Receive, Scope

from mcp_hybrid_search.credentials import Credential
from mcp_hybrid_search.http_guard import Reply
from mcp_hybrid_search.http_refusal import RefusedError


class Streams:
    """Every request behind a token check, with whose it is."""

    def __init__(self) -> None:
        self._open: dict[anyio.CancelScope, Credential | None] = {}
        self._closed = False

    async def run(
        self,
        credential: Credential | None,
        app: ASGIApp,
        scope: Scope,
        receive: Receive,
        reply: Reply,
    ) -> None:
        """Answer a request, until somebody cuts it."""
        if self._closed:
            message = "The server is about to stop."
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, message, "busy")
        with anyio.CancelScope() as cut:
            self._open[cut] = credential
            try:
                await app(scope, receive, reply)
            finally:
                del self._open[cut]
        if cut.cancelled_caught:
            await reply.end()

    def cut(self, unless: Callable[[Credential | None], bool]) -> None:
        """End every answer unless its credential is good."""
        for cut, credential in list(self._open.items()):
            if not unless(credential):
                cut.cancel()

    def close(self) -> None:
        """End every answer, and begin no more."""
        self._closed = True
        self.cut(unless=lambda _: False)
