"""The tools that delete: one document, or with the user's consent many."""

from typing import Annotated, Any, Literal

from mcp.server import MCPServer
from mcp.server.elicitation import (
    AcceptedElicitation,
    CancelledElicitation,
    DeclinedElicitation,
)
from mcp.server.mcpserver import Context, Elicit, Resolve
from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from mcp_hybrid_search import result_texts, results
from mcp_hybrid_search.backend import Backend
from mcp_hybrid_search.documents import Deletion
from mcp_hybrid_search.errors import ConflictError
from mcp_hybrid_search.tool_arguments import (
    DELETES,
    CollectionName,
    DocumentId,
    FilterObject,
    Namespace,
)
from mcp_hybrid_search.tool_results import answer


class Consent(BaseModel):
    """What the user is asked before many documents are deleted."""

    delete: bool = Field(description="Delete these documents for good?")


def add_deleting_tools(server: MCPServer[None], backend: Backend) -> None:
    """Offer delete-document and delete-documents."""
    _add_delete_document(server, backend)
    _add_delete_documents(server, backend)


def _add_delete_document(server: MCPServer[None], backend: Backend) -> None:
    @server.tool("delete-document", title="Delete a document", annotations=DELETES)
    async def delete_document(
        context: Context[None, Any],
        id: DocumentId,
        collection: CollectionName = "",
        namespace: Namespace = "",
    ) -> Annotated[CallToolResult, results.Deleted]:
        """Delete a stored document for good. `not-found` if there is none."""
        place = backend.namespace(namespace)
        async with backend.engine(context, "deleting") as (engine, _):
            deleted = await engine.delete(
                backend.collection(collection),
                place,
                id,
                origin=backend.origin(context, "delete-document"),
            )
        if deleted:
            await backend.changes.listed(place)
        status: Literal["deleted", "not-found"] = "deleted" if deleted else "not-found"
        return answer(f"{status}: {id!r}", results.Deleted(id=id, status=status))


def _add_delete_documents(server: MCPServer[None], backend: Backend) -> None:
    async def matching(
        context: Context[None, Any],
        filter: dict[str, Any],
        collection: str,
        namespace: str,
    ) -> Deletion:
        async with backend.engine(context, "counting") as (engine, _):
            return await engine.delete_matching(
                backend.collection(collection),
                backend.namespace(namespace),
                filter,
                expected_count=None,
            )

    async def consent(
        context: Context[None, Any],
        matching: Annotated[Deletion, Resolve(matching)],
        dry_run: bool,  # noqa: FBT001 - by the name of the tool's argument
    ) -> Consent | Elicit[Consent]:
        if dry_run or not matching.count or not _can_ask(context, backend):
            return Consent(delete=False)
        return Elicit(_question(matching), Consent)

    @server.tool("delete-documents", title="Delete by filter", annotations=DELETES)
    async def delete_documents(
        context: Context[None, Any],
        filter: FilterObject,
        matching: Annotated[Deletion, Resolve(matching)],
        consent: Annotated[
            AcceptedElicitation[Consent] | DeclinedElicitation | CancelledElicitation,
            Resolve(consent),
        ],
        collection: CollectionName = "",
        namespace: Namespace = "",
        dry_run: Annotated[
            bool, Field(description="Only count; nothing is deleted.")
        ] = False,
        confirm_count: Annotated[
            int,
            Field(
                ge=0,
                description="How many documents will go, as a dry run counted. Needed"
                " where the user cannot be asked.",
            ),
        ] = 0,
    ) -> Annotated[CallToolResult, results.DeletedDocuments]:
        """Delete every document that a filter matches, for good.

        Call it with dry_run first. The user is asked before anything is deleted;
        where that cannot be, confirm_count must be the count of the dry run.
        """
        if dry_run or not matching.count:
            return _deleted(matching, dry_run=dry_run)
        if not _can_ask(context, backend):
            _check_count(matching, confirm_count)
        elif not (isinstance(consent, AcceptedElicitation) and consent.data.delete):
            msg = "The user did not agree. Nothing was deleted."
            raise ConflictError(msg)
        place = backend.namespace(namespace)
        async with backend.engine(context, "deleting") as (engine, _):
            deletion = await engine.delete_matching(
                backend.collection(collection),
                place,
                filter,
                expected_count=matching.count,
                origin=backend.origin(context, "delete-documents"),
            )
        await backend.changes.listed(place)
        return _deleted(deletion, dry_run=False)


def _can_ask(context: Context[None, Any], backend: Backend) -> bool:
    """Return whether the user can be asked through the client."""
    capabilities = context.client_capabilities
    asks = None if capabilities is None else capabilities.elicitation
    if asks is None or (asks.form is None and asks.url is not None):
        return False
    # A handshake client takes a question only in a stream; the stateless era sends
    # it as the answer.
    session = context.session
    over_http = context.request_context.request is not None
    return session.protocol_version >= "2026-07-28" or (
        session.can_send_request and not (over_http and backend.settings.json_responses)
    )


def _check_count(matching: Deletion, confirm_count: int) -> None:
    if confirm_count != matching.count:
        given = f"confirm_count is {confirm_count}" if confirm_count else "Confirm it"
        msg = (
            f"{matching.count} documents match ({result_texts.ids(matching.first_ids)}"
            f"); {given}. Nothing was deleted. If they shall go, call again with"
            f" confirm_count={matching.count}."
        )
        raise ConflictError(msg)


def _question(matching: Deletion) -> str:
    shown = result_texts.ids(matching.first_ids)
    more = matching.count - len(matching.first_ids)
    rest = f" and {more} more" if more else ""
    return f"Delete {matching.count} documents for good? {shown}{rest}"


def _deleted(deletion: Deletion, *, dry_run: bool) -> CallToolResult:
    result = results.DeletedDocuments(
        count=deletion.count,
        first_ids=list(deletion.first_ids),
        deleted=deletion.deleted,
        dry_run=dry_run,
    )
    return answer(result_texts.deleted_documents(result), result)
