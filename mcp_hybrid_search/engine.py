"""The service: store, search, read and delete, over one data directory.

Everything slow runs in worker threads. Importing this module imports the models'
and the index's libraries; `opening` does so in the background.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from mcp_hybrid_search import models
from mcp_hybrid_search.chunking import joined
from mcp_hybrid_search.documents import (
    Chunk,
    CollectionInfo,
    Document,
    DocumentText,
    NewDocument,
    Outcome,
    SearchRequest,
    SearchResult,
    Stored,
)
from mcp_hybrid_search.embeddings import Encoders, FastEmbedEncoders
from mcp_hybrid_search.errors import (
    HybridSearchError,
    InvalidInputError,
    NotFoundError,
)
from mcp_hybrid_search.searching import Searcher
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stores.directory import DataDirectory
from mcp_hybrid_search.stores.embedded import EmbeddedStore
from mcp_hybrid_search.storing import DocumentWriter
from mcp_hybrid_search.turns import Work
from mcp_hybrid_search.validation import check_place

PROGRESS_SECONDS = 1.0
CONCURRENT_SEARCHES = 4
CONCURRENT_STORES = 8

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
        self._store.maintain(self._writer.encode_again)
        self._stores = anyio.CapacityLimiter(CONCURRENT_STORES)
        self._searches = anyio.CapacityLimiter(CONCURRENT_SEARCHES)

    def close(self) -> None:
        """Bring everything to the disk and give the directory back."""
        self._opened.close()

    async def store(
        self, document: NewDocument, *, progress: Progress | None = None
    ) -> Stored:
        """Store one document; acknowledged means kept.

        Raises:
            HybridSearchError: If it was not stored.
        """
        (outcome,) = await self.store_many([document], progress=progress)
        if isinstance(outcome, HybridSearchError):
            raise outcome
        return outcome

    async def store_many(
        self, documents: Sequence[NewDocument], *, progress: Progress | None = None
    ) -> list[Outcome]:
        """Store documents, each whole or not at all.

        Calls share the encoders by turns; those beyond `CONCURRENT_STORES` wait.
        Cancelling keeps those that were stored before.

        Returns:
            What became of each, in order; an error stands for one document only.
        """
        work = Work()
        store = partial(self._writer.store, documents, work)
        try:
            return await _with_progress(store, work, progress, limiter=self._stores)
        finally:
            self._writer.stop(work)

    async def search(self, request: SearchRequest) -> SearchResult:
        """Find passages by meaning, words and tokens; best first.

        Raises:
            InvalidInputError: If the request is out of its limits.
            NotFoundError: If other collections exist, but not this one.
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
            found = self._store.collection(collection)
            limit = -1 if chunk_limit is None else chunk_limit
            stored = found and self._store.read(
                found, namespace, document_id, first=first_chunk, limit=limit
            )
            if not stored:
                msg = (
                    f"There is no document {document_id!r} in namespace {namespace!r}"
                    f" of collection {collection!r}. Search with hybrid-search."
                )
                raise NotFoundError(msg)
            document, chunks = stored
            if first_chunk >= document.chunk_count:
                msg = f"first_chunk must be below {document.chunk_count}."
                raise InvalidInputError(msg)
            return DocumentText(document, joined(chunks), first_chunk, len(chunks))

        return await _in_thread(read)

    async def delete(self, collection: str, namespace: str, document_id: str) -> bool:
        """Delete a document; False if there is none."""

        def delete() -> bool:
            check_place(collection, namespace, document_id)
            found = self._store.collection(collection)
            return found is not None and self._store.delete(
                found, namespace, document_id
            )

        return await _in_thread(delete)

    async def collections(self) -> list[CollectionInfo]:
        """Describe every collection."""
        return await _in_thread(self._store.collections)

    async def reindex(self, name: str, *, progress: Progress | None = None) -> int:
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
        await _in_thread(partial(self._store.finish_reindexing, old, new))
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
