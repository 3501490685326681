"""The service: store, search, read and delete, over one data directory.

Everything slow runs in worker threads. Importing this module imports the models'
and the index's libraries; `opening` does so in the background.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from mcp_hybrid_search import models
from mcp_hybrid_search.changing import DocumentChanger, no_document
from mcp_hybrid_search.chunking import joined
from mcp_hybrid_search.documents import (
    NOBODY,
    AuditEntry,
    Chunk,
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
from mcp_hybrid_search.embeddings import Encoders, FastEmbedEncoders
from mcp_hybrid_search.errors import HybridSearchError, InvalidInputError
from mcp_hybrid_search.paging import Pager
from mcp_hybrid_search.searching import Searcher
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stores.directory import DataDirectory
from mcp_hybrid_search.stores.embedded import EmbeddedStore
from mcp_hybrid_search.storing import DocumentWriter
from mcp_hybrid_search.turns import Work
from mcp_hybrid_search.validation import check_audit, check_place

PROGRESS_SECONDS = 1.0
CONCURRENT_SEARCHES = 4
CONCURRENT_STORES = 8
CONCURRENT_SCANS = 2
"""Calls that may read every document of a namespace for a filter."""

Progress = Callable[[float, float, str], Awaitable[None]]
"""Called about every second with (done, total, what is being done)."""

T = TypeVar("T")


class Engine:
    """One data directory and one model set. Its methods may be called at once."""

    def __init__(
        self,
        settings: Settings,
        encoders: Encoders | None = None,
        directory: DataDirectory | None = None,
        *,
        first_notices: tuple[str, ...] = (),
    ) -> None:
        """Load the models and open the data directory; blocks for seconds.

        Args:
            settings: Read once.
            encoders: Instead of those that the settings name; closed with the
                engine.
            directory: Already locked, by who will release it; else the one that
                the settings name is locked, and released by `close`.
            first_notices: What the first search tells besides.

        Raises:
            HybridSearchError: If the directory cannot be used.
        """
        model_set = models.model_set(settings)
        with ExitStack() as opened:
            if directory is None:
                directory = DataDirectory(
                    settings.data_dir, min_free_bytes=settings.min_free_bytes
                )
                opened.callback(directory.release)
            self._encoders = encoders or FastEmbedEncoders(model_set, settings)
            opened.callback(self._encoders.close)
            self._store = EmbeddedStore(
                settings,
                directory,
                models=models.description(model_set, settings),
                fingerprint=models.fingerprint(model_set, settings),
                dims=self._encoders.dims,
            )
            opened.callback(self._store.close)
            self._opened = opened.pop_all()
        self._writer = DocumentWriter(self._store, self._encoders, settings)
        self._searcher = Searcher(
            self._store, self._encoders, settings, first_notices=first_notices
        )
        self._changer = DocumentChanger(self._store, settings)
        self._pager = Pager(self._store)
        self._store.maintain(self._writer.encode_again)
        self._stores = anyio.CapacityLimiter(CONCURRENT_STORES)
        self._searches = anyio.CapacityLimiter(CONCURRENT_SEARCHES)
        self._scans = anyio.CapacityLimiter(CONCURRENT_SCANS)

    def close(self) -> None:
        """Bring everything to the disk and give the directory back."""
        self._opened.close()

    async def store(
        self,
        document: NewDocument,
        *,
        origin: Origin = NOBODY,
        progress: Progress | None = None,
    ) -> Stored:
        """Store one document; acknowledged means kept.

        Raises:
            HybridSearchError: If it was not stored.
        """
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
        """Store documents, each whole or not at all.

        Calls share the encoders by turns; those beyond `CONCURRENT_STORES` wait.
        Cancelling keeps those that were stored before.

        Returns:
            What became of each, in order; an error stands for one document only.
        """
        work = Work()
        store = partial(self._writer.store, documents, work, origin)
        try:
            return await _with_progress(store, work, progress, limiter=self._stores)
        finally:
            self._writer.stop(work)

    async def search(self, request: SearchRequest) -> SearchResult:
        """Find passages by meaning, words and tokens; best first.

        Raises:
            InvalidInputError: If the request is out of its limits.
            NotFoundError: If the namespace has documents, but not in this collection.
        """
        return await anyio.to_thread.run_sync(
            self._searcher.search,
            request,
            limiter=self._searches,
            abandon_on_cancel=True,
        )

    async def document(
        self,
        collection: str,
        namespace: str,
        document_id: str,
        *,
        first_chunk: int = 0,
        chunk_limit: int | None = None,
    ) -> DocumentText:
        """Return a document, or a window of its chunks.

        Raises:
            NotFoundError: If there is no such document.
            InvalidInputError: If the window begins behind the last chunk.
        """

        def read() -> DocumentText:
            check_place(collection, namespace, document_id)
            found = self._store.collection(collection, namespace)
            limit = -1 if chunk_limit is None else chunk_limit
            stored = found and self._store.read(
                found, namespace, document_id, first=first_chunk, limit=limit
            )
            if not stored:
                raise no_document(collection, namespace, document_id)
            document, chunks = stored
            if first_chunk >= document.chunk_count:
                msg = f"first_chunk must be below {document.chunk_count}."
                raise InvalidInputError(msg)
            return DocumentText(document, joined(chunks), first_chunk, len(chunks))

        return await _in_thread(read)

    async def documents(self, request: ListRequest) -> DocumentPage:
        """Return a page of documents, without their texts.

        What is there from the first page to the last and is not changed comes
        exactly once, whatever is written meanwhile.

        Raises:
            InvalidInputError: If the request is out of its limits, or its cursor is
                of another one.
            NotFoundError: If the namespace has documents, but not in this collection.
        """
        return await _in_thread(partial(self._pager.page, request), self._scans)

    async def update_metadata(
        self,
        collection: str,
        namespace: str,
        document_id: str,
        patch: Mapping[str, Json],
        *,
        origin: Origin = NOBODY,
    ) -> Document:
        """Change a document's metadata by merge patch; nothing is encoded again.

        Args:
            collection: Of the document.
            namespace: Of the document.
            document_id: As it was stored.
            patch: RFC 7396: null removes a key, objects are merged, the rest is set.
            origin: Who asks.

        Raises:
            NotFoundError: If there is no such document.
            InvalidInputError: If the result would be over a limit.
        """
        update = partial(self._changer.update_metadata, origin=origin)
        return await _in_thread(
            partial(update, collection, namespace, document_id, patch)
        )

    async def delete(
        self,
        collection: str,
        namespace: str,
        document_id: str,
        *,
        origin: Origin = NOBODY,
    ) -> bool:
        """Delete a document; False if there is none."""
        delete = partial(self._changer.delete, origin=origin)
        return await _in_thread(partial(delete, collection, namespace, document_id))

    async def delete_matching(
        self,
        collection: str,
        namespace: str,
        filter_: Mapping[str, Json],
        *,
        expected_count: int | None,
        origin: Origin = NOBODY,
    ) -> Deletion:
        """Delete all documents that match, or none.

        Args:
            collection: Of the documents.
            namespace: Of the documents.
            filter_: Not empty.
            expected_count: How many must match; None to see how many do.
            origin: Who asks.

        Raises:
            ConflictError: If another number matches now.
            InvalidInputError: If the filter is empty or is none.
        """
        delete = partial(
            self._changer.delete_matching, expected_count=expected_count, origin=origin
        )
        return await _in_thread(
            partial(delete, collection, namespace, filter_), self._scans
        )

    async def collections(self, namespace: str | None = None) -> list[CollectionInfo]:
        """Describe every collection, or only what a namespace has in each."""
        return await _in_thread(partial(self._store.collections, namespace))

    async def namespaces(
        self, collection: str, prefix: str = "", limit: int = 100
    ) -> list[str]:
        """Return names of namespaces that have documents, in order."""
        return await _in_thread(
            partial(self._pager.namespaces, collection, prefix, limit)
        )

    async def document_ids(
        self, collection: str, namespace: str, prefix: str = "", limit: int = 100
    ) -> list[str]:
        """Return ids of documents that begin with `prefix`, in order."""
        return await _in_thread(
            partial(self._pager.document_ids, collection, namespace, prefix, limit)
        )

    async def audit(
        self, *, limit: int = 100, namespace: str | None = None
    ) -> list[AuditEntry]:
        """Return the newest changes, newest first; of one namespace or of all."""
        check_audit(limit, namespace)
        return await _in_thread(
            partial(self._store.audit, limit=limit, namespace=namespace)
        )

    async def reindex(
        self,
        name: str,
        *,
        origin: Origin = NOBODY,
        progress: Progress | None = None,
    ) -> int:
        """Encode a collection again with the settings as they are.

        The old index stays until the new one is complete.

        Returns:
            The number of documents.

        Raises:
            NotFoundError: If there is no such collection.
            HybridSearchError: If a document could not be stored again; the
                collection is as it was.
        """
        old, new, keys = await _in_thread(partial(self._store.begin_reindexing, name))
        for done, key in enumerate(keys, 1):
            stored = await _in_thread(partial(self._store.read_by_key, key))
            if stored is not None:
                await self.store(_copy(*stored, collection=new.name))
            if progress is not None:
                await progress(done, len(keys), "documents encoded")
        await _in_thread(
            partial(self._store.finish_reindexing, old, new, origin=origin)
        )
        return len(keys)


def _copy(
    document: Document, chunks: Sequence[Chunk], *, collection: str
) -> NewDocument:
    return NewDocument(
        text=joined(chunks),
        collection=collection,
        namespace=document.namespace,
        document_id=document.document_id,
        title=document.title,
        source=document.source,
        metadata=document.metadata,
        times=(document.created_at, document.updated_at),
    )


async def _with_progress(
    call: Callable[[], T],
    work: Work,
    progress: Progress | None,
    *,
    limiter: anyio.CapacityLimiter,
) -> T:
    """Run `call` in a thread, telling every second how far `work` is."""
    if progress is None:
        return await _in_thread(call, limiter)
    async with anyio.create_task_group() as group:
        group.start_soon(_report, work, progress)
        result = await _in_thread(call, limiter)
        group.cancel_scope.cancel()
    return result


async def _report(work: Work, progress: Progress) -> None:
    while True:
        await anyio.sleep(PROGRESS_SECONDS)
        await progress(work.encodings / 2, work.chunks, "chunks encoded")


async def _in_thread(
    call: Callable[[], T], limiter: anyio.CapacityLimiter | None = None
) -> T:
    return await anyio.to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=True)
