"""The tools that find, read and list; none of them changes anything."""

from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from mcp_hybrid_search import result_texts, results
from mcp_hybrid_search.backend import Backend
from mcp_hybrid_search.documents import ListRequest, OrderBy, SearchRequest
from mcp_hybrid_search.tool_arguments import (
    READS,
    CollectionName,
    DocumentId,
    FilterObject,
    Namespace,
)
from mcp_hybrid_search.tool_results import answer


def add_reading_tools(server: MCPServer[None], backend: Backend) -> None:
    """Offer hybrid-search, get-document, list-documents and list-collections."""
    _add_hybrid_search(server, backend)
    _add_get_document(server, backend)
    _add_list_documents(server, backend)
    _add_list_collections(server, backend)


def _add_hybrid_search(server: MCPServer[None], backend: Backend) -> None:
    @server.tool("hybrid-search", title="Search documents", annotations=READS)
    async def hybrid_search(
        context: Context[None, Any],
        query: Annotated[str, Field(description="A question, or words to find.")],
        limit: Annotated[int, Field(ge=1, le=100, description="Hits to return.")] = 10,
        collection: CollectionName = "",
        namespace: Namespace = "",
        filter: FilterObject = {},  # noqa: B006
        per_document: Annotated[
            bool, Field(description="One hit a document; false: one a chunk.")
        ] = True,
        max_tokens: Annotated[
            int, Field(ge=0, description="Most tokens of text; 0: all of it.")
        ] = 0,
        explain: Annotated[
            bool, Field(description="Add scores and matching words; slower.")
        ] = False,
    ) -> Annotated[CallToolResult, results.SearchHits]:
        """Find stored passages by meaning and by exact words, best first.

        Call it before answering from memory. An empty result means that nothing is
        stored, or that the filter excludes everything: try other words or no filter.
        """
        request = SearchRequest(
            query=query,
            collection=backend.collection(collection),
            namespace=backend.namespace(namespace),
            limit=limit,
            filter=filter or None,
            per_document=per_document,
            explain=explain,
        )
        async with backend.engine(context, "searching") as (engine, _):
            found = await engine.search(request)
        if backend.observer is not None:
            backend.observer.searched(found.milliseconds)
        result = results.search_hits(
            found, max_tokens=max_tokens or None, explain=explain
        )
        return answer(result_texts.hits(result), result)


def _add_get_document(server: MCPServer[None], backend: Backend) -> None:
    @server.tool("get-document", title="Read a document", annotations=READS)
    async def get_document(
        context: Context[None, Any],
        id: DocumentId,
        collection: CollectionName = "",
        namespace: Namespace = "",
        first_chunk: Annotated[
            int, Field(ge=0, description="First chunk to return, from 0.")
        ] = 0,
        chunk_limit: Annotated[
            int, Field(ge=0, description="Most chunks to return; 0: all.")
        ] = 0,
    ) -> Annotated[CallToolResult, results.DocumentContent]:
        """Read a stored document, whole or a window of its chunks.

        Use it after hybrid-search when a hit's text is not enough.
        """
        async with backend.engine(context, "reading") as (engine, _):
            found = await engine.document(
                backend.collection(collection),
                backend.namespace(namespace),
                id,
                first_chunk=first_chunk,
                chunk_limit=chunk_limit or None,
            )
        result = results.document_content(found)
        return answer(result.text, result)


def _add_list_documents(server: MCPServer[None], backend: Backend) -> None:
    @server.tool("list-documents", title="List documents", annotations=READS)
    async def list_documents(
        context: Context[None, Any],
        collection: CollectionName = "",
        namespace: Namespace = "",
        filter: FilterObject = {},  # noqa: B006
        order_by: Annotated[
            OrderBy, Field(description="Order; `-` means last or newest first.")
        ] = "-updated_at",
        limit: Annotated[
            int, Field(ge=1, le=1000, description="Documents on a page.")
        ] = 50,
        cursor: Annotated[
            str, Field(description="`next_cursor` of the page before; else leave out.")
        ] = "",
    ) -> Annotated[CallToolResult, results.DocumentList]:
        """List what is stored, page by page, without the texts.

        Use it to see what there is or to go through all of it; to find something,
        use hybrid-search. Empty: nothing is stored, or nothing fits the filter.
        """
        request = ListRequest(
            collection=backend.collection(collection),
            namespace=backend.namespace(namespace),
            filter=filter or None,
            order_by=order_by,
            limit=limit,
            cursor=cursor or None,
        )
        async with backend.engine(context, "listing") as (engine, _):
            page = await engine.documents(request)
        result = results.document_list(page)
        return answer(result_texts.document_list(result), result)


def _add_list_collections(server: MCPServer[None], backend: Backend) -> None:
    @server.tool("list-collections", title="List collections", annotations=READS)
    async def list_collections(
        context: Context[None, Any],
    ) -> Annotated[CallToolResult, results.Collections]:
        """List the collections with their sizes. Empty: nothing is stored yet."""
        async with backend.engine(context, "listing") as (engine, _):
            found = await engine.collections(backend.access().namespace)
        result = results.collections(found)
        return answer(result_texts.collections(result), result)
