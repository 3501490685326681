"""Resources: every document by its URI, and the list of collections."""

import base64
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.server.mcpserver.resources import ResourceSecurity
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    ListResourcesResult,
    PaginatedRequestParams,
    Resource,
)

from mcp_hybrid_search import results
from mcp_hybrid_search.backend import Backend
from mcp_hybrid_search.calls import BUSY
from mcp_hybrid_search.documents import Document, ListRequest
from mcp_hybrid_search.errors import (
    BusyError,
    HybridSearchError,
    InvalidInputError,
    NotFoundError,
)

if TYPE_CHECKING:
    from mcp_hybrid_search.opening import AnyEngine

COLLECTIONS_URI = "collections://"
DOCUMENT_URI = "document://{collection}/{id}"
PAGE = 100
"""Documents on a page of the list of resources."""

# Ids are names, whatever they look like: no file is ever opened by them.
_IDS = ResourceSecurity(
    reject_path_traversal=False, reject_absolute_paths=False, reject_null_bytes=False
)


def document_uri(collection: str, document_id: str) -> str:
    """Return the URI of a document."""
    return f"document://{collection}/{quote(document_id, safe='')}"


def add_resources(server: MCPServer[None], backend: Backend) -> None:
    """Offer the collections and each document."""

    @server.resource(
        COLLECTIONS_URI,
        name="collections",
        title="Collections",
        description="The collections with their sizes and models.",
        mime_type="application/json",
    )
    async def collections() -> str:
        try:
            async with backend.engine(None, "listing") as (engine, _):
                found = await engine.collections(backend.access().namespace)
        except HybridSearchError as exc:
            raise ResourceError(str(exc)) from exc
        return results.collections(found).model_dump_json()

    @server.resource(
        DOCUMENT_URI,
        name="document",
        title="Document",
        description="The text of a stored document, as hits and lists name it.",
        mime_type="text/plain",
        security=_IDS,
    )
    async def document(context: Context[None, Any], collection: str, id: str) -> str:
        namespace = backend.namespace(None)
        try:
            async with backend.engine(context, "reading") as (engine, _):
                found = await engine.document(collection, namespace, id)
        except (NotFoundError, InvalidInputError) as exc:
            raise ResourceNotFoundError(str(exc)) from exc
        except HybridSearchError as exc:
            raise ResourceError(str(exc)) from exc
        return found.text

    async def resources(
        _context: ServerRequestContext[Any, Any], params: PaginatedRequestParams
    ) -> ListResourcesResult:
        return await _listed(backend, params.cursor)

    # The SDK would list what is registered, which documents are not.
    server._lowlevel_server.add_request_handler(  # noqa: SLF001
        "resources/list", PaginatedRequestParams, resources
    )


async def _listed(backend: Backend, cursor: str | None) -> ListResourcesResult:
    """Return a page of the resources that the caller may read."""
    try:
        async with backend.engine(None, "listing") as (engine, _):
            return await _page(engine, backend.namespace(None), cursor)
    except BusyError as exc:
        data = {"retryAfterSeconds": exc.retry_seconds}
        raise MCPError(BUSY, str(exc), data) from None
    except HybridSearchError as exc:
        raise MCPError(INTERNAL_ERROR, str(exc)) from None


async def _page(
    engine: "AnyEngine", namespace: str, cursor: str | None
) -> ListResourcesResult:
    resources = [] if cursor else [_collections()]
    name, inner = _parsed(cursor)
    names = [each.name for each in await engine.collections(namespace)]
    for each in sorted(found for found in names if found >= name):
        request = ListRequest(
            collection=each,
            namespace=namespace,
            limit=PAGE,
            cursor=inner if each == name else None,
        )
        page = await engine.documents(request)
        resources += [_resource(document) for document in page.documents]
        if page.next_cursor is not None or len(resources) >= PAGE:
            following = page.next_cursor
            after = [found for found in names if found > each]
            if following is None and not after:
                break
            place = (each, following) if following else (min(after), None)
            return ListResourcesResult(resources=resources, next_cursor=_cursor(*place))
    return ListResourcesResult(resources=resources)


def _collections() -> Resource:
    return Resource(
        uri=COLLECTIONS_URI,
        name="collections",
        title="Collections",
        description="The collections with their sizes and models.",
        mime_type="application/json",
    )


def _resource(document: Document) -> Resource:
    return Resource(
        uri=document_uri(document.collection, document.document_id),
        name=document.document_id,
        title=document.title,
        description=document.source,
        mime_type="text/plain",
    )


def _cursor(name: str, inner: str | None) -> str:
    return base64.urlsafe_b64encode(json.dumps([name, inner]).encode()).decode()


def _parsed(cursor: str | None) -> tuple[str, str | None]:
    if cursor is None:
        return "", None
    try:
        name, inner = json.loads(base64.urlsafe_b64decode(cursor))
    except ValueError:
        name, inner = None, None
    if not isinstance(name, str) or not isinstance(inner, str | None):
        raise MCPError(INVALID_PARAMS, "The cursor is none of ours. Leave it out.")
    return name, inner
