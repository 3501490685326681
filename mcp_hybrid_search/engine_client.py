"""The engine as its clients see it: a process of its own, started when it is needed.

Imports neither models nor stores.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic_core import PydanticSerializationError

from mcp_hybrid_search import engine_protocol as protocol
from mcp_hybrid_search.documents import (
    CollectionInfo,
    DocumentText,
    NewDocument,
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
from mcp_hybrid_search.validation import check_document, check_place, check_search

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
        self, document: NewDocument, *, progress: Progress | None = None
    ) -> Stored:
        """Store one document; see `Engine.store`."""
        (outcome,) = await self.store_many([document], progress=progress)
        if isinstance(outcome, HybridSearchError):
            raise outcome
        return outcome

    async def store_many(
        self, documents: Sequence[NewDocument], *, progress: Progress | None = None
    ) -> list[Outcome]:
        """Store documents; see `Engine.store_many`."""
        outcomes: list[Outcome | None] = [self._refusal(each) for each in documents]
        good = [
            d for d, refusal in zip(documents, outcomes, strict=True) if not refusal
        ]
        if good:
            stored, repeated = await self._call(
                "store_many", {"documents": good}, _named(good), progress
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

    async def delete(self, collection: str, namespace: str, document_id: str) -> bool:
        """Delete a document; see `Engine.delete`."""
        check_place(collection, namespace, document_id)
        arguments = {
            "collection": collection,
            "namespace": namespace,
            "document_id": document_id,
        }
        done, _ = await self._call("delete", arguments, f"deleting {document_id!r}")
        return bool(done)

    async def collections(self) -> list[CollectionInfo]:
        """Describe every collection."""
        found, _ = await self._call("collections", {}, "listing collections")
        collections: list[CollectionInfo] = found
        return collections

    async def reindex(self, name: str, *, progress: Progress | None = None) -> int:
        """Encode a collection again; see `Engine.reindex`."""
        told = f"reindexing {name!r}"
        count, _ = await self._call("reindex", {"name": name}, told, progress)
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
        body = _body(operation, arguments)
        key = protocol.digest(operation, body)
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
