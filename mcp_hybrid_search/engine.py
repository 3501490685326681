"""The service: store, search, read and delete, over one data directory.

Everything slow runs in worker threads. Importing this module imports the models'
and the index's libraries; `opening` does so in the background.
"""

import hashlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from mcp_hybrid_search import models
from mcp_hybrid_search.chunking import (
    Chunking,
    encoded_text,
    joined,
    split,
    title_for,
)
from mcp_hybrid_search.documents import (
    Chunk,
    CollectionInfo,
    Document,
    DocumentText,
    Hit,
    NewDocument,
    SearchRequest,
    SearchResult,
    Status,
    Stored,
    derived_id,
)
from mcp_hybrid_search.embeddings import Encoded, Encoders, FastEmbedEncoders
from mcp_hybrid_search.errors import (
    ConflictError,
    HybridSearchError,
    InvalidInputError,
    ModelUnavailableError,
    NotFoundError,
)
from mcp_hybrid_search.filters import Filter, parse_filter
from mcp_hybrid_search.ranking import Fused, fuse, grouped
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stores.embedded import EmbeddedStore
from mcp_hybrid_search.stores.ledger import Collection
from mcp_hybrid_search.validation import check_document, check_id, check_name, check_search

WINDOW_CHUNKS = 64
"""Chunks encoded together: enough to sort by length, few enough to keep in memory."""
PROGRESS_SECONDS = 1.0
WIDEST_PREFETCH = 4
"""How far a search goes down the first rankings to fill its limit, in doublings."""
CONCURRENT_SEARCHES = 4

Progress = Callable[[float, float, str], Awaitable[None]]
"""Called about every second with (done, total, what is being done)."""

T = TypeVar("T")


class _StoppedError(Exception):
    """The caller no longer waits for the encoding."""


@dataclass(slots=True)
class _Work:
    """How far an encoding is, and whether it is still wanted."""

    total: int
    done: int = 0
    stopped: bool = False

    def advance(self) -> None:
        self.done += 1
        if self.stopped:
            raise _StoppedError


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A document that is going to be stored."""

    place: int
    document: NewDocument
    document_id: str
    content_hash: bytes
    encoded_title: str | None
    chunks: Sequence[Chunk]
    notices: tuple[str, ...]


class Engine:
    """One data directory and one model set. Its methods may be called at once."""

    def __init__(self, settings: Settings, encoders: Encoders | None = None) -> None:
        """Load the models and open the data directory; blocks for seconds.

        Args:
            settings: Read once.
            encoders: Instead of those that the settings name.

        Raises:
            HybridSearchError: If the directory cannot be used.
        """
        self._settings = settings
        model_set = models.model_set(settings)
        self._encoders = encoders or FastEmbedEncoders(model_set, settings)
        try:
            self._store = EmbeddedStore(
                settings,
                models=model_set.describe(),
                fingerprint=models.fingerprint(model_set, settings),
                dims=self._encoders.dims,
            )
        except HybridSearchError:
            self._encoders.close()
            raise
        self._store.maintain(self._encode_again)
        self._storing = anyio.Semaphore(1)
        self._searches = anyio.CapacityLimiter(CONCURRENT_SEARCHES)
        self._closed = threading.Event()
        self._chunking = Chunking(
            min(settings.chunk_tokens, self._encoders.token_limit),
            settings.chunk_overlap_tokens,
        )

    def close(self) -> None:
        """Bring everything to the disk and give the directory back."""
        self._closed.set()
        self._store.close()
        self._encoders.close()

    # Storing

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
    ) -> list[Stored | HybridSearchError]:
        """Store documents, each whole or not at all.

        Cancelling keeps those that were stored before.

        Returns:
            What became of each, in order; an error stands for one document only.
        """
        outcomes: dict[int, Stored | HybridSearchError] = {}
        async with self._storing:
            prepared = await _in_thread(partial(self._prepare, documents, outcomes))
            total = sum(len(item.chunks) for item in prepared)
            work = _Work(total * 2)
            for window in _windows(prepared):
                await self._store_window(window, work, outcomes, progress)
        return [outcomes[place] for place in range(len(documents))]

    def _prepare(
        self,
        documents: Sequence[NewDocument],
        outcomes: dict[int, Stored | HybridSearchError],
    ) -> list[_Prepared]:
        prepared = []
        for place, document in enumerate(documents):
            try:
                item = self._prepare_one(place, document)
            except HybridSearchError as exc:
                outcomes[place] = exc
                continue
            if isinstance(item, Stored):
                outcomes[place] = item
            else:
                prepared.append(item)
        return prepared

    def _prepare_one(self, place: int, document: NewDocument) -> _Prepared | Stored:
        check_document(document, self._settings)
        if self._encoders.problem is not None or self._encoders.tokenizer is None:
            raise ModelUnavailableError(
                f"Nothing can be stored without all three models."
                f" {self._encoders.problem}"
            )
        collection = self._store.collection_for_writing(document.collection)
        document = self._completed(collection, document)
        identity = document.document_id or ""
        content_hash = _content_hash(document)
        settled = self._settled(collection, document, content_hash)
        if settled is not None:
            return settled
        tokenizer = self._encoders.tokenizer
        title = title_for(document.title, tokenizer, self._chunking)
        chunks = split(
            document.text, title=title, tokenizer=tokenizer, chunking=self._chunking
        )
        notices = () if title == document.title else (_LONG_TITLE,)
        return _Prepared(
            place, document, identity, content_hash, title, chunks, notices
        )

    def _completed(
        self, collection: Collection, document: NewDocument
    ) -> NewDocument:
        """Give a document its id; without one, what it omits stays as it was."""
        if document.document_id is not None:
            return document
        identity = derived_id(document.namespace, document.text)
        row = self._store.find(collection, document.namespace, identity)
        document = replace(document, document_id=identity)
        if row is None:
            return document
        stored = row.document
        return replace(
            document,
            title=stored.title if document.title is None else document.title,
            source=stored.source if document.source is None else document.source,
            metadata=(
                stored.metadata if document.metadata is None else document.metadata
            ),
        )

    def _settled(
        self, collection: Collection, document: NewDocument, content_hash: bytes
    ) -> Stored | None:
        """Return the outcome if nothing needs to be written."""
        identity = document.document_id or ""
        row = self._store.find(collection, document.namespace, identity)
        if row is None:
            return None
        status: Status | None = None
        if row.content_hash == content_hash:
            status = "unchanged"
        elif document.if_exists == "skip":
            status = "skipped"
        elif document.if_exists == "error":
            msg = (
                f"There is a document {identity!r} already. Choose another id, or"
                ' if_exists="replace".'
            )
            raise ConflictError(msg)
        if status is None:
            return None
        return Stored(identity, collection.name, status, row.document.chunk_count)

    async def _store_window(
        self,
        window: Sequence[_Prepared],
        work: _Work,
        outcomes: dict[int, Stored | HybridSearchError],
        progress: Progress | None,
    ) -> None:
        texts = [
            encoded_text(item.encoded_title, chunk.text)
            for item in window
            for chunk in item.chunks
        ]
        encode = partial(self._encoders.encode_documents, texts, advance=work.advance)
        encoded = await _with_progress(encode, work, progress)
        rest = iter(encoded)
        for item in window:
            vectors = [next(rest) for _ in item.chunks]
            # A write that has begun is finished, so that it is never half known.
            with anyio.CancelScope(shield=True):
                outcomes[item.place] = await anyio.to_thread.run_sync(
                    self._write, item, vectors
                )

    def _write(
        self, item: _Prepared, encoded: Sequence[Encoded]
    ) -> Stored | HybridSearchError:
        document = item.document
        try:
            with self._store.writing():
                collection = self._store.collection_for_writing(document.collection)
                settled = self._settled(collection, document, item.content_hash)
                if settled is not None:
                    return settled
                row = self._store.find(
                    collection, document.namespace, item.document_id
                )
                now = time.time()
                created_at, updated_at = document.times or (
                    row.document.created_at if row else now,
                    now,
                )
                self._store.write(
                    collection,
                    Document(
                        document_id=item.document_id,
                        collection=collection.name,
                        namespace=document.namespace,
                        title=document.title,
                        source=document.source,
                        metadata=document.metadata or {},
                        created_at=created_at,
                        updated_at=updated_at,
                        chunk_count=len(item.chunks),
                    ),
                    item.chunks,
                    encoded,
                    content_hash=item.content_hash,
                )
        except HybridSearchError as exc:
            return exc
        return Stored(
            item.document_id,
            collection.name,
            "replaced" if row else "created",
            len(item.chunks),
            item.notices,
        )

    def _encode_again(
        self, title: str | None, chunks: Sequence[Chunk]
    ) -> list[Encoded]:
        tokenizer = self._encoders.tokenizer
        if tokenizer is None:
            raise ModelUnavailableError(self._encoders.problem or "")
        title = title_for(title, tokenizer, self._chunking)
        texts = [encoded_text(title, chunk.text) for chunk in chunks]
        return self._encoders.encode_documents(texts, advance=lambda: None)

    # Searching

    async def search(self, request: SearchRequest) -> SearchResult:
        """Find passages by meaning, words and tokens; best first.

        Raises:
            InvalidInputError: If the request is out of its limits.
            NotFoundError: If other collections exist, but not this one.
        """
        return await anyio.to_thread.run_sync(
            self._search, request, limiter=self._searches, abandon_on_cancel=True
        )

    def _search(self, request: SearchRequest) -> SearchResult:
        check_search(request, self._settings)
        filter_ = None if request.filter is None else parse_filter(request.filter)
        started = time.perf_counter()
        collection = self._store.collection(request.collection)
        if collection is None:
            return SearchResult((), request.collection, (_NOTHING_STORED,))
        query = self._encoders.encode_query(request.query)
        encoded_at = time.perf_counter()
        hits, index_seconds = self._hits(collection, request, query, filter_)
        if request.explain:
            hits = [self._explained(hit, request.query) for hit in hits]
        notices = self._notices(collection, request, found=bool(hits))
        ended = time.perf_counter()
        seconds = {
            "encode": encoded_at - started,
            "index": index_seconds,
            "read": ended - encoded_at - index_seconds,
            "total": ended - started,
        }
        return SearchResult(
            tuple(hits),
            collection.name,
            tuple(notices),
            {name: value * 1000 for name, value in seconds.items()},
        )

    def _hits(
        self,
        collection: Collection,
        request: SearchRequest,
        query: Encoded,
        filter_: Filter | None,
    ) -> tuple[list[Hit], float]:
        """Search wider until the limit is filled or the rankings end."""
        limit = max(self._settings.prefetch_limit, request.limit)
        index_seconds = 0.0
        for _ in range(WIDEST_PREFETCH):
            started = time.perf_counter()
            rankings = self._store.rankings(
                collection,
                query,
                namespace=request.namespace,
                filter_=filter_,
                limit=limit,
            )
            index_seconds += time.perf_counter() - started
            hits = self._assembled(request, fuse(rankings))
            exhausted = all(len(ranking) < limit for ranking in rankings.values())
            if len(hits) >= request.limit or exhausted:
                break
            limit *= 2
        return hits[: request.limit], index_seconds

    def _assembled(self, request: SearchRequest, points: Sequence[Fused]) -> list[Hit]:
        found = self._store.hits(
            request.namespace, [point.point_id for point in points]
        )
        groups = grouped(
            points,
            {point: (key, chunk.index) for point, (key, _, chunk) in found.items()},
            per_document=request.per_document,
            join_first=request.limit,
        )
        return [
            Hit(
                document=found[best.point_id][1],
                chunk_index=found[best.point_id][2].index,
                text=joined([found[point.point_id][2] for _, point in run]),
                score=best.score,
                ranks=best.ranks,
                stage_scores=best.scores,
            )
            for best, run in groups[: request.limit]
        ]

    def _explained(self, hit: Hit, query: str) -> Hit:
        text = encoded_text(None, hit.text)
        return replace(hit, token_matches=self._encoders.token_matches(query, text))

    def _notices(
        self, collection: Collection, request: SearchRequest, *, found: bool
    ) -> Iterator[str]:
        yield from self._store.notices(collection)
        if self._encoders.problem is not None:
            yield f"Only keyword search (BM25) ran. {self._encoders.problem}"
        excess = self._encoders.query_excess(request.query)
        if excess:
            yield (
                f"The last {excess} tokens of the query were used for keyword search"
                " only; ask shorter."
            )
        if not found and not self._store.chunk_count(collection, request.namespace):
            yield (
                f"Nothing is stored in namespace {request.namespace!r} of collection"
                f" {collection.name!r} yet."
            )

    # Reading and deleting

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
        """
        return await _in_thread(
            partial(
                self._document,
                collection,
                namespace,
                document_id,
                first_chunk=first_chunk,
                chunk_limit=chunk_limit,
            )
        )

    def _document(
        self,
        collection: str,
        namespace: str,
        document_id: str,
        *,
        first_chunk: int,
        chunk_limit: int | None,
    ) -> DocumentText:
        _check_place(collection, namespace, document_id)
        found = self._store.collection(collection)
        row = found and self._store.find(found, namespace, document_id)
        if row is None:
            msg = (
                f"There is no document {document_id!r} in namespace {namespace!r} of"
                f" collection {collection!r}. Search for it with hybrid-search."
            )
            raise NotFoundError(msg)
        count = row.document.chunk_count
        if first_chunk >= count:
            msg = f"first_chunk must be below {count}, the number of chunks."
            raise InvalidInputError(msg)
        limit = -1 if chunk_limit is None else chunk_limit
        chunks = self._store.chunks(row, first=first_chunk, limit=limit)
        return DocumentText(row.document, joined(chunks), first_chunk, len(chunks))

    async def delete(self, collection: str, namespace: str, document_id: str) -> bool:
        """Delete a document; False if there is none."""
        return await _in_thread(
            partial(self._delete, collection, namespace, document_id)
        )

    def _delete(self, collection: str, namespace: str, document_id: str) -> bool:
        _check_place(collection, namespace, document_id)
        found = self._store.collection(collection)
        return found is not None and self._store.delete(found, namespace, document_id)

    async def collections(self) -> list[CollectionInfo]:
        """Describe every collection."""
        return await _in_thread(self._store.collections)

    # Encoding again

    async def reindex(self, name: str, *, progress: Progress | None = None) -> int:
        """Encode a collection again with the settings as they are.

        The old index answers until the new one is complete.

        Returns:
            The number of documents.
        """
        old, keys = await _in_thread(partial(self._store.documents_of, name))
        draft = f"reindexing.{old.key}"
        await _in_thread(partial(self._discard, draft))
        for done, key in enumerate(keys):
            document = await _in_thread(partial(self._copy_for, draft, key))
            if document is not None:
                await self.store(document)
            if progress is not None:
                await progress(done + 1, len(keys), "documents encoded")
        await _in_thread(partial(self._adopt, old, draft))
        return len(keys)

    def _copy_for(self, draft: str, key: int) -> NewDocument | None:
        row = self._store.document_by_key(key)
        if row is None:
            return None
        document = row.document
        return NewDocument(
            text=joined(self._store.chunks(row, first=0, limit=-1)),
            collection=draft,
            namespace=document.namespace,
            document_id=document.document_id,
            title=document.title,
            source=document.source,
            metadata=document.metadata,
            times=(document.created_at, document.updated_at),
        )

    def _discard(self, draft: str) -> None:
        if any(info.name == draft for info in self._store.collections()):
            self._store.delete_collection(self._store.documents_of(draft)[0])

    def _adopt(self, old: Collection, draft: str) -> None:
        new = self._store.collection_for_writing(draft)
        self._store.replace_collection(old, new)


_NOTHING_STORED = (
    "Nothing is stored yet. Store documents with store-document, or from files with"
    " `mcp-hybrid-search add FILE`."
)
_LONG_TITLE = (
    "The title is long: all of it is kept, but only its beginning helps to find the"
    " document by title."
)


def _check_place(collection: str, namespace: str, document_id: str) -> None:
    check_name("collection", collection)
    check_name("namespace", namespace)
    check_id(document_id)


def _content_hash(document: NewDocument) -> bytes:
    parts = [document.text, document.title, document.source]
    metadata = json.dumps(dict(document.metadata or {}), sort_keys=True)
    return hashlib.sha256(json.dumps([*parts, metadata]).encode()).digest()


def _windows(prepared: Sequence[_Prepared]) -> Iterator[list[_Prepared]]:
    window: list[_Prepared] = []
    for item in prepared:
        window.append(item)
        if sum(len(member.chunks) for member in window) >= WINDOW_CHUNKS:
            yield window
            window = []
    if window:
        yield window


async def _in_thread(call: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)


async def _with_progress(
    call: Callable[[], T], work: _Work, progress: Progress | None
) -> T:
    """Run `call` in a thread, telling every second how far `work` is."""
    error: HybridSearchError | None = None
    result: list[T] = []
    async with anyio.create_task_group() as group:
        if progress is not None:
            group.start_soon(_report, work, progress)
        try:
            result.append(await _in_thread(call))
        except HybridSearchError as exc:
            # Raised below: a task group would wrap it.
            error = exc
        finally:
            work.stopped = not result
        group.cancel_scope.cancel()
    if error is not None:
        raise error
    return result[0]


async def _report(work: _Work, progress: Progress) -> None:
    while True:
        await anyio.sleep(PROGRESS_SECONDS)
        await progress(work.done // 2, work.total // 2, "chunks encoded")
