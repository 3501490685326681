"""Requests that are not served: the status, why, and what to do about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from mcp.types import INVALID_REQUEST, ErrorData, JSONRPCError, RequestId
from starlette.responses import Response


@dataclass(eq=False)
class RefusedError(Exception):
    """A request that is refused; the message repeats nothing that was sent."""

    status: HTTPStatus
    message: str
    kind: str = "malformed"
    """For the metrics: `host`, `origin`, `token`, `size`, `busy`, `slow`…"""
    headers: Mapping[str, str] = field(default_factory=dict)
    code: int = INVALID_REQUEST
    request_id: RequestId | None = None

    def answer(self, *, closes: bool) -> Response:
        """Return the answer as JSON-RPC clients read it.

        Args:
            closes: Whether something of the request is still unread.
        """
        error = ErrorData(code=self.code, message=self.message)
        body = JSONRPCError(jsonrpc="2.0", id=self.request_id, error=error)
        return Response(
            body.model_dump_json(by_alias=True, exclude_unset=True),
            status_code=self.status,
            media_type="application/json",
            headers={**self.headers, **({"Connection": "close"} if closes else {})},
        )


def not_found() -> RefusedError:
    """Nothing is served at this path."""
    message = "There is nothing here. See docs/http.md for the paths."
    return RefusedError(HTTPStatus.NOT_FOUND, message, "path")


def not_allowed(methods: Sequence[str]) -> RefusedError:
    """Nothing is served at this path by this method."""
    allowed = ", ".join(methods)
    return RefusedError(
        HTTPStatus.METHOD_NOT_ALLOWED,
        f"Use {allowed} here.",
        "path",
        {"Allow": allowed},
    )
