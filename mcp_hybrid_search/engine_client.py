"""The engine as its clients see it: a process of its own, started when it is needed.

Imports neither models nor stores.
"""

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic_core import PydanticSerializationError

from mcp_hybrid_search import engine_protocol as protocol
from mcp_hybrid_search.documents import (
    NOBODY,
    AuditEntry,
    CollectionInfo,
    Deletion,
    Document,
    DocumentPage,
    DocumentText,
    Json,
    ListRequest,
    NewDocument,
    Origin,
    Outcome,
    SearchRequest,
    SearchResult,
    Stored,
)
from mcp_hybrid_search.engine_answer import Progress
from mcp_hybrid_search.engine_connection import EngineConnection, EngineGoneError
from mcp_hybrid_search.engine_protocol import Operation
from mcp_hybrid_search.errors import (
    HybridSearchError,
    InvalidInputError,
    StoreUnavailableError,
)
from mcp_hybrid_search.filters import parse_filter
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.validation import (
    check_audit,
    check_completion,
    check_deletion,
    check_document,
    check_list,
    check_metadata,
    check_place,
    check_search,
)

CRASH_LIMIT = 3
CRASH_SECONDS = 60.0
"""A call in which the engine died so often in this time is refused by name."""
GONE_LIMIT = 20
"""Engines that may leave before a call begins, before it is given up."""

REPEATED = (
    "The engine ended during this call and was started again; the call was repeated."
)


class EngineClient:
    """Has the methods of `Engine`. For one event loop.

    An engine that ends, or was never started, is started by the next call; a call
    that it was busy with is repeated, which does no harm: what is stored already is
    `unchanged`, what is deleted already stays so.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = EngineConnection(settings)
        self._crashes: dict[bytes, list[float]] = {}
        """When the engine died of a call, monotonic, by the call's digest."""
        self._started = False

    def start(self) -> None:
        """Begin to start the engine; returns at once. Calls tell if that fails."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._start, name="start", daemon=True).start()

    def _start(self) -> None:
        from mcp_hybrid_search.engine_starting import running  # noqa: PLC0415 - slow

        with suppress(HybridSearchError):
            running(self._settings)

    def introduce(self, name: str) -> None:
        """Say on whose behalf the calls from now on are."""
        self._connection.introduce(name)

    async def engine(self, progress: Progress | None = None) -> "EngineClient":
        """Return at once: every call waits for the engine itself."""
        del progress
        return self

    async def aclose(self) -> None:
        """Let the engine know that this client has gone."""
        await self._connection.aclose()

    async def store(
        self,
        document: NewDocument,
        *,
        origin: Origin = NOBODY,
        progress: Progress | None = None,
    ) -> Stored:
        """Store one document; see `Engine.store`."""
        (outcome,) = await self.store_many([document], origin=origin, progress=progress)
        if isinstance(outcome, HybridSearchError):
            raise outcome
        return outcome

    async def store_many(
        self,
        documents: Sequence[NewDocument],
        *,
        origin: Origin = NOBODY,
        progress: Progress | None = None,
    ) -> list[Outcome]:
        """Store documents; see `Engine.store_many`."""
        outcomes: list[Outcome | None] = [self._refusal(each) for each in documents]
        good = [
            d for d, refusal in zip(documents, outcomes, strict=True) if not refusal
        ]
        if good:
            arguments = {"documents": good, "origin": origin}
            stored, repeated = await self._call(
                "store_many", arguments, _named(good), progress
            )
            rest = iter(stored)
            outcomes = [outcome or next(rest) for outcome in outcomes]
            if repeated:
                outcomes = [_noted(outcome) for outcome in outcomes]
        return [outcome for outcome in outcomes if outcome is not None]

    def _refusal(self, document: NewDocument) -> HybridSearchError | None:
        # What is beyond a limit may not even travel.
        try:
            check_document(document, self._settings)
        except InvalidInputError as exc:
            return exc
        return None

    async def search(self, request: SearchRequest) -> SearchResult:
        """Find passages; see `Engine.search`."""
        check_search(request, self._settings)
        if request.filter is not None:
            parse_filter(request.filter)
        found, repeated = await self._call("search", {"request": request}, "search")
        result: SearchResult = found
        if repeated:
            return replace(result, notices=(*result.notices, REPEATED))
        return result

    async def document(
        self,
        collection: str,
        namespace: str,
        document_id: str,
        *,
        first_chunk: int = 0,
        chunk_limit: int | None = None,
    ) -> DocumentText:
        """Return a document; see `Engine.document`."""
        check_place(collection, namespace, document_id)
        arguments = {
            "collection": collection,
            "namespace": namespace,
            "document_id": document_id,
            "first_chunk": first_chunk,
            "chunk_limit": chunk_limit,
        }
        found, _ = await self._call("document", arguments, f"reading {document_id!r}")
        text: DocumentText = found
        return text

    async def documents(self, request: ListRequest) -> DocumentPage:
        """Return a page of documents; see `Engine.documents`."""
        check_list(request)
        arguments = {"request": request}
        found, _ = await self._call("documents", arguments, "listing documents")
        page: DocumentPage = found
        return page

    async def update_metadata(
        self,
        collection: str,
        namespace: str,
        document_id: str,
        patch: Mapping[str, Json],
        *,
        origin: Origin = NOBODY,
    ) -> Document:
        """Change a document's metadata; see `Engine.update_metadata`."""
        check_place(collection, namespace, document_id)
        check_metadata(patch, self._settings.max_metadata_bytes)
        arguments = {
            "collection": collection,
            "namespace": namespace,
            "document_id": document_id,
            "patch": patch,
            "origin": origin,
        }
        told = f"changing the metadata of {document_id!r}"
        found, _ = await self._call("update_metadata", arguments, told)
        document: Document = found
        return document

    async def delete(
        self,
        collection: str,
        namespace: str,
        document_id: str,
        *,
        origin: Origin = NOBODY,
    ) -> bool:
        """Delete a document; see `Engine.delete`."""
        check_place(collection, namespace, document_id)
        arguments = {
            "collection": collection,
            "namespace": namespace,
            "document_id": document_id,
            "origin": origin,
        }
        done, _ = await self._call("delete", arguments, f"deleting {document_id!r}")
        return bool(done)

    async def delete_matching(
        self,
        collection: str,
        namespace: str,
        filter_: Mapping[str, Json],
        *,
        expected_count: int | None,
        origin: Origin = NOBODY,
    ) -> Deletion:
        """Delete all documents that match, or none; see `Engine.delete_matching`."""
        check_deletion(collection, namespace, filter_, expected_count)
        arguments = {
            "collection": collection,
            "namespace": namespace,
            "filter_": filter_,
            "expected_count": expected_count,
            "origin": origin,
        }
        told = f"deleting documents of {collection!r}"
        found, _ = await self._call("delete_matching", arguments, told)
        deletion: Deletion = found
        return deletion

    async def collections(self, namespace: str | None = None) -> list[CollectionInfo]:
        """Describe collections; see `Engine.collections`."""
        arguments = {"namespace": namespace}
        found, _ = await self._call("collections", arguments, "listing collections")
        collections: list[CollectionInfo] = found
        return collections

    async def namespaces(
        self, collection: str, prefix: str = "", limit: int = 100
    ) -> list[str]:
        """Return names of namespaces; see `Engine.namespaces`."""
        check_completion(collection, None, prefix, limit)
        arguments = {"collection": collection, "prefix": prefix, "limit": limit}
        found, _ = await self._call("namespaces", arguments, "listing namespaces")
        return list(found)

    async def document_ids(
        self, collection: str, namespace: str, prefix: str = "", limit: int = 100
    ) -> list[str]:
        """Return ids of documents; see `Engine.document_ids`."""
        check_completion(collection, namespace, prefix, limit)
        arguments = {
            "collection": collection,
            "namespace": namespace,
            "prefix": prefix,
            "limit": limit,
        }
        found, _ = await self._call("document_ids", arguments, "listing ids")
        return list(found)

    async def audit(
        self, *, limit: int = 100, namespace: str | None = None
    ) -> list[AuditEntry]:
        """Return the newest changes; see `Engine.audit`."""
        check_audit(limit, namespace)
        arguments = {"limit": limit, "namespace": namespace}
        found, _ = await self._call("audit", arguments, "reading the audit")
        entries: list[AuditEntry] = found
        return entries

    async def reindex(
        self,
        name: str,
        *,
        origin: Origin = NOBODY,
        progress: Progress | None = None,
    ) -> int:
        """Encode a collection again; see `Engine.reindex`."""
        told = f"reindexing {name!r}"
        arguments = {"name": name, "origin": origin}
        count, _ = await self._call("reindex", arguments, told, progress)
        return int(count)

    async def _call(
        self,
        name: str,
        arguments: dict[str, Any],
        told: str,
        progress: Progress | None = None,
    ) -> tuple[Any, bool]:
        """Return what the engine returns, and whether it was asked again."""
        operation = protocol.OPERATIONS[name]
        key, body = _key_and_body(operation, arguments)
        repeated = False
        for _ in range(GONE_LIMIT):
            try:
                result = await self._connection.call(
                    operation,
                    body,
                    attempt=self._checked_crashes(key, told),
                    progress=progress,
                )
            except EngineGoneError as gone:  # noqa: PERF203 - asked again
                if gone.died_of_it:
                    repeated = True
                    self._crashes.setdefault(key, []).append(time.monotonic())
            else:
                self._crashes.pop(key, None)
                return result, repeated
        msg = f"{GONE_LIMIT} engines left before this could be done; retry: {told}."
        raise StoreUnavailableError(msg)

    def _checked_crashes(self, key: bytes, told: str) -> int:
        """Return how often the engine died of a call of late; refuse a deadly one."""
        since = time.monotonic() - CRASH_SECONDS
        recent = {k: [t for t in ts if t > since] for k, ts in self._crashes.items()}
        self._crashes = {k: ts for k, ts in recent.items() if ts}
        count = len(self._crashes.get(key, ()))
        if count >= CRASH_LIMIT:
            msg = (
                f"The engine ended {count} times within a minute while it was busy with"
                f" this call: {told}. It is not tried again for a minute; other calls"
                " go on. Report it with the log that `mcp-hybrid-search logs` shows."
            )
            raise StoreUnavailableError(msg)
        return count


def _key_and_body(
    operation: Operation, arguments: dict[str, Any]
) -> tuple[bytes, bytes]:
    """Return what tells a call apart from others, whoever asks, and what is sent."""
    if "origin" not in arguments:
        body = _body(operation, arguments)
        return protocol.digest(operation, body), body
    origin: Origin = arguments["origin"]
    key = protocol.digest(operation, _body(operation, {**arguments, "origin": NOBODY}))
    # By its name the engine knows what this very call did before it is repeated.
    named = replace(origin, call=origin.call or secrets.token_hex(16))
    return key, _body(operation, {**arguments, "origin": named})


def _body(operation: Operation, arguments: dict[str, Any]) -> bytes:
    try:
        return operation.arguments.dump_json(arguments)
    except PydanticSerializationError as exc:
        msg = f"An argument cannot be written as JSON: {exc}."
        raise InvalidInputError(msg) from None


def _named(documents: Sequence[NewDocument]) -> str:
    ids = [repr(d.document_id) for d in documents if d.document_id is not None]
    named = ", ".join(ids[:3]) or "no ids given"
    return f"storing {len(documents)} documents ({named})"


def _noted(outcome: Outcome | None) -> Outcome | None:
    if isinstance(outcome, Stored):
        return replace(outcome, notices=(*outcome.notices, REPEATED))
    return outcome
