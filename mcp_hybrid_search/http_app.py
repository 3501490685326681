"""What is served at which path, and what stands before it."""

from functools import partial
from http import HTTPStatus
from typing import Literal

from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_hybrid_search import oauth
from mcp_hybrid_search.calls import Calls
from mcp_hybrid_search.http_auth import Authenticated, Gatekeeper
from mcp_hybrid_search.http_body import Bodies, check_rights
from mcp_hybrid_search.http_listening import url_path
from mcp_hybrid_search.http_operations import (
    WELL_KNOWN,
    metrics,
    probe,
    resource_metadata,
)
from mcp_hybrid_search.http_refusal import not_found
from mcp_hybrid_search.http_streams import Streams
from mcp_hybrid_search.http_transports import MCP, MESSAGES, SSE, Transports
from mcp_hybrid_search.metrics import Metrics, Now
from mcp_hybrid_search.readiness import READY, Readiness
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.tokens import Tokens

Transport = Literal["streamable-http", "sse", "http"]


class Routes:
    """Serves a path as it was sent, undecoded; every other is not found."""

    def __init__(self, routes: dict[str, ASGIApp]) -> None:
        self._routes = {path.encode(): app for path, app in routes.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        app = self._routes.get(scope["raw_path"])
        if app is None:
            raise not_found()
        await app(scope, receive, send)


class Building:
    """Puts together what is served."""

    def __init__(
        self,
        settings: Settings,
        *,
        transports: Transports,
        calls: Calls,
        tokens: Tokens | None,
        issuer: oauth.OAuth | None,
        base_url: str,
        writing_tools: frozenset[str],
    ) -> None:
        """Take the parts.

        Args:
            settings: For limits.
            transports: Serve MCP.
            calls: Say when there is too much.
            tokens: Of the operator.
            issuer: Of OAuth.
            base_url: Under which clients see this server.
            writing_tools: Names of tools that change something.
        """
        self._settings = settings
        self._transports = transports
        self._calls = calls
        self._tokens = tokens
        self._issuer = issuer
        self._base_url = base_url
        self._writing_tools = writing_tools
        self.streams = Streams()
        self.gatekeeper = self._gatekeeper(MCP)

    def routes(
        self, transport: Transport, readiness: Readiness, counts: Metrics
    ) -> Routes:
        """Return every path that is served."""
        routes: dict[str, ASGIApp] = {
            "/healthz": probe(_alive, good="ok"),
            "/readyz": probe(readiness.state, good=READY),
            "/metrics": Authenticated(
                metrics(partial(self._metrics, readiness, counts)),
                self.gatekeeper,
                self.streams,
                of_everything=True,
            ),
        }
        if transport in {"http", "streamable-http"}:
            routes[MCP] = self._mcp(self._transports.streamable_http, MCP)
            routes |= self._metadata(MCP)
        if transport in {"http", "sse"}:
            routes[SSE] = self._mcp(self._transports.sse, SSE)
            routes[MESSAGES] = self._mcp(self._transports.messages, SSE)
            routes |= self._metadata(SSE)
        return Routes(routes)

    def _mcp(self, app: ASGIApp, resource: str) -> ASGIApp:
        gatekeeper = self._gatekeeper(resource)
        bodies = Bodies(
            app,
            limit_bytes=self._settings.max_body_bytes,
            calls=self._calls,
            check=partial(
                check_rights,
                writing_tools=self._writing_tools,
                refusal=partial(
                    gatekeeper.refusal,
                    HTTPStatus.FORBIDDEN,
                    error="insufficient_scope",
                    scope=f"{oauth.READ_SCOPE} {oauth.WRITE_SCOPE}",
                ),
            ),
        )
        return Authenticated(bodies, gatekeeper, self.streams)

    def _gatekeeper(self, resource: str) -> Gatekeeper:
        challenge = {}
        if self._issuer is not None:
            url = _metadata_url(self._base_url, resource)
            challenge["resource_metadata"] = url
        return Gatekeeper(self._tokens, self._issuer, challenge=challenge)

    def _metadata(self, resource: str) -> dict[str, ASGIApp]:
        if self._issuer is None:
            return {}
        told = resource_metadata(
            self._base_url + resource,
            self._issuer.name,
            (oauth.READ_SCOPE, oauth.WRITE_SCOPE),
        )
        prefix = url_path(self._base_url)
        return {WELL_KNOWN + prefix + resource: told, WELL_KNOWN + resource: told}

    async def _metrics(self, readiness: Readiness, counts: Metrics) -> bytes:
        await readiness.refresh()
        collections = readiness.collections
        return counts.text(
            Now(
                active=self._calls.active,
                waiting=self._calls.waiting,
                sessions=self._transports.sessions,
                ready=await readiness.state() == READY,
                documents=sum(each.documents for each in collections),
                chunks=sum(each.chunks for each in collections),
                size_bytes=sum(each.size_bytes for each in collections),
            )
        )


async def _alive() -> str:
    return "ok"


def _metadata_url(base_url: str, resource: str) -> str:
    """Return where RFC 9728, 3.1, puts the metadata of a resource."""
    prefix = url_path(base_url)
    return base_url.removesuffix(prefix) + WELL_KNOWN + prefix + resource
