"""What operators and OAuth clients ask of the server beside MCP."""

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_hybrid_search.http_refusal import not_allowed

READING = ("GET", "HEAD")
WELL_KNOWN = "/.well-known/oauth-protected-resource"


def probe(state: Callable[[], Awaitable[str]], *, good: str) -> ASGIApp:
    """Return what answers 200 while `state` is `good`, and 503 with it otherwise."""

    async def response() -> Response:
        now = await state()
        status = HTTPStatus.OK if now == good else HTTPStatus.SERVICE_UNAVAILABLE
        return PlainTextResponse(f"{now}\n", status)

    return _read_only(response)


def metrics(text: Callable[[], Awaitable[bytes]]) -> ASGIApp:
    """Return what answers with metrics."""

    async def response() -> Response:
        return Response(await text(), media_type=CONTENT_TYPE_LATEST)

    return _read_only(response)


def resource_metadata(resource: str, issuer: str, scopes: Sequence[str]) -> ASGIApp:
    """Return what tells OAuth clients whose tokens open `resource` (RFC 9728)."""
    content = {
        "resource": resource,
        "authorization_servers": [issuer],
        "scopes_supported": list(scopes),
        "bearer_methods_supported": ["header"],
    }

    async def response() -> Response:
        return JSONResponse(content)

    return _read_only(response)


def _read_only(response: Callable[[], Awaitable[Response]]) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in READING:
            raise not_allowed(READING)
        found = await response()
        found.headers["Cache-Control"] = "no-store"
        await found(scope, receive, send)

    return answer
