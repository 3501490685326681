"""The tools that store documents and change their metadata."""

from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from mcp_hybrid_search import result_texts, results
from mcp_hybrid_search.backend import Backend
from mcp_hybrid_search.documents import NewDocument, Outcome, Stored
from mcp_hybrid_search.errors import ForbiddenError, InvalidInputError
from mcp_hybrid_search.resources import document_uri
from mcp_hybrid_search.tool_arguments import (
    WRITES,
    CollectionName,
    DocumentId,
    DocumentItem,
    Id,
    Metadata,
    Namespace,
    Source,
    Text,
    Title,
    WhatIfExists,
)
from mcp_hybrid_search.tool_results import answer


def add_writing_tools(server: MCPServer[None], backend: Backend) -> None:
    """Offer store-document, store-documents and update-metadata."""
    _add_store_document(server, backend)
    _add_store_documents(server, backend)
    _add_update_metadata(server, backend)


def _add_store_document(server: MCPServer[None], backend: Backend) -> None:
    @server.tool("store-document", title="Store a document", annotations=WRITES)
    async def store_document(
        context: Context[None, Any],
        text: Text,
        id: Id = "",
        title: Title = "",
        source: Source = "",
        metadata: Metadata = {},  # noqa: B006
        collection: CollectionName = "",
        namespace: Namespace = "",
        if_exists: WhatIfExists = "replace",
    ) -> Annotated[CallToolResult, results.StoredDocument]:
        """Keep a text so that hybrid-search finds it later, in any session.

        Use it for facts, decisions, preferences and documents worth remembering.
        The same text stored twice is one document. Returns the id and what happened.
        """
        item = DocumentItem(
            text=text,
            id=id or None,
            title=title or None,
            source=source or None,
            metadata=metadata or None,
            collection=collection or None,
            namespace=namespace or None,
            if_exists=if_exists,
        )
        document = _new_document(item, backend)
        async with backend.engine(context, "storing") as (engine, progress):
            outcome = await engine.store(
                document,
                origin=backend.origin(context, "store-document"),
                progress=progress,
            )
        await _tell(backend, [(document, outcome)])
        result = results.stored(outcome)
        return answer(result_texts.stored(result), result)


def _add_store_documents(server: MCPServer[None], backend: Backend) -> None:
    @server.tool("store-documents", title="Store documents", annotations=WRITES)
    async def store_documents(
        context: Context[None, Any],
        documents: Annotated[
            list[DocumentItem], Field(description="Documents to store.")
        ],
    ) -> Annotated[CallToolResult, results.StoredDocuments]:
        """Keep several texts at once; prefer it to many store-document calls.

        Returns one result for each, in order. One bad document never loses the
        others: look at `failed` and at each `error`.
        """
        most = backend.settings.max_documents_per_call
        if len(documents) > most:
            msg = (
                f"documents has {len(documents)} items; the limit is"
                f" {most}. Send them in several calls."
            )
            raise InvalidInputError(msg)
        allowed = [_allowed(item, backend) for item in documents]
        good = [each for each in allowed if isinstance(each, NewDocument)]
        async with backend.engine(context, "storing") as (engine, progress):
            stored = await engine.store_many(
                good,
                origin=backend.origin(context, "store-documents"),
                progress=progress,
            )
        await _tell(backend, list(zip(good, stored, strict=True)))
        rest = iter(stored)
        outcomes = [
            next(rest) if isinstance(each, NewDocument) else each for each in allowed
        ]
        result = results.batch(outcomes)
        return answer(result_texts.batch(result), result)


def _add_update_metadata(server: MCPServer[None], backend: Backend) -> None:
    @server.tool("update-metadata", title="Update metadata", annotations=WRITES)
    async def update_metadata(
        context: Context[None, Any],
        id: DocumentId,
        metadata: Annotated[
            dict[str, Any],
            Field(
                description="JSON merge patch: given keys are set, null removes a key,"
                " the others stay."
            ),
        ],
        collection: CollectionName = "",
        namespace: Namespace = "",
    ) -> Annotated[CallToolResult, results.UpdatedMetadata]:
        """Change the metadata of a stored document; its text stays as it is.

        Use it to tag, date or correct what hybrid-search filters on. Returns the
        new metadata.
        """
        async with backend.engine(context, "updating") as (engine, _):
            document = await engine.update_metadata(
                backend.collection(collection),
                backend.namespace(namespace),
                id,
                metadata,
                origin=backend.origin(context, "update-metadata"),
            )
        result = results.updated_metadata(document)
        return answer(result_texts.updated_metadata(result), result)


def _allowed(item: DocumentItem, backend: Backend) -> NewDocument | ForbiddenError:
    """Return an item as the engine takes it, or why the caller may not store it."""
    try:
        return _new_document(item, backend)
    except ForbiddenError as exc:
        return exc


def _new_document(item: DocumentItem, backend: Backend) -> NewDocument:
    return NewDocument(
        text=item.text,
        collection=backend.collection(item.collection),
        namespace=backend.namespace(item.namespace),
        document_id=item.id,
        title=item.title,
        source=item.source,
        metadata=item.metadata,
        if_exists=item.if_exists,
    )


async def _tell(backend: Backend, outcomes: list[tuple[NewDocument, Outcome]]) -> None:
    """Tell clients which documents are new, and which have another text."""
    created: set[str] = set()
    for document, outcome in outcomes:
        if not isinstance(outcome, Stored):
            continue
        if outcome.status == "created":
            created.add(document.namespace)
        elif outcome.status == "replaced":
            uri = document_uri(outcome.collection, outcome.document_id)
            await backend.changes.updated(document.namespace, uri)
    for namespace in sorted(created):
        await backend.changes.listed(namespace)
