"""Documents on their way in: checked, cut into chunks, encoded, written. Blocks."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from mcp_hybrid_search.chunking import Chunking, encoded_text, split, title_for
from mcp_hybrid_search.documents import (
    Chunk,
    Document,
    Json,
    NewDocument,
    Origin,
    Outcome,
    Status,
    Stored,
    derived_id,
)
from mcp_hybrid_search.embeddings import Encoded, Encoders
from mcp_hybrid_search.errors import (
    ConflictError,
    HybridSearchError,
    ModelUnavailableError,
)
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stores.embedded import EmbeddedStore
from mcp_hybrid_search.stores.rows import Collection
from mcp_hybrid_search.turns import Turns, Work
from mcp_hybrid_search.validation import check_document

WINDOW_CHUNKS = 64
"""Chunks encoded together: enough to sort by length, few enough to keep in memory."""

LARGE_CHUNKS = 2 * WINDOW_CHUNKS
"""Windows of more chunks, of large documents, are encoded one after another: their
vectors are in memory until all are there."""

_LONG_TITLE = (
    "The title is long: all of it is kept, but only its beginning helps to find the"
    " document by title."
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document that is going to be stored; its id is known."""

    place: int
    """Among the documents that came with it."""
    document: NewDocument
    content_hash: bytes
    encoded_title: str | None
    chunks: Sequence[Chunk]

    def texts(self) -> list[str]:
        """Return what the encoders see, chunk by chunk."""
        return [encoded_text(self.encoded_title, chunk.text) for chunk in self.chunks]


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks for documents to be stored, and what the same call stored before."""

    origin: Origin
    stored_before: dict[tuple[str, str, str], Status]
    """By collection, namespace and document id."""


class DocumentWriter:
    """Turns new documents into stored ones; calls share the encoders by turns."""

    def __init__(
        self, store: EmbeddedStore, encoders: Encoders, settings: Settings
    ) -> None:
        self._store = store
        self._encoders = encoders
        self._settings = settings
        self._turns = Turns()
        self._large = Turns()
        self._chunking = Chunking(
            min(settings.chunk_tokens, encoders.token_limit),
            settings.chunk_overlap_tokens,
        )

    def store(
        self, documents: Sequence[NewDocument], work: Work, origin: Origin
    ) -> list[Outcome]:
        """Store documents, each whole or not at all; may be called at once.

        One window is written while the next one is encoded.

        Args:
            documents: Checked here.
            work: Told how far this is.
            origin: Who asks. What the very same call stored before the engine died
                is told as it was then.

        Returns:
            What became of each, in order.

        Raises:
            StoppedError: If `work` was stopped; what was written stays.
        """
        call = Call(origin, self._store.stored_by(origin))
        prepared, outcomes = self._prepared(documents, call)
        work.chunks = sum(len(item.chunks) for item in prepared)
        with ThreadPoolExecutor(1, "writer") as pool:
            writing: Future[dict[int, Outcome]] | None = None
            for window in _windows(prepared):
                encoded = self._encoded(window, work)
                if writing is not None:
                    outcomes |= writing.result()
                writing = pool.submit(self._write_window, window, encoded, call)
            if writing is not None:
                outcomes |= writing.result()
        return [outcomes[place] for place in range(len(documents))]

    def stop(self, work: Work) -> None:
        """Let the call of `work` end: at once if it waits, else at the next batch."""
        work.stopped = True
        self._large.wake()
        self._turns.wake()

    def _encoded(
        self, window: Sequence[Prepared], work: Work
    ) -> list[Encoded] | HybridSearchError:
        texts = [text for item in window for text in item.texts()]
        large = len(texts) > LARGE_CHUNKS
        one_at_a_time = self._large.turn(work) if large else nullcontext()
        advance = partial(self._turns.advance, work)
        try:
            with one_at_a_time, self._turns.turn(work):
                return self._encoders.encode_documents(texts, advance=advance)
        except HybridSearchError as exc:
            # It stands for this window: others may be stored already.
            return exc

    def _write_window(
        self,
        window: Sequence[Prepared],
        encoded: list[Encoded] | HybridSearchError,
        call: Call,
    ) -> dict[int, Outcome]:
        if isinstance(encoded, HybridSearchError):
            return {item.place: encoded for item in window}
        rest = iter(encoded)
        return {
            item.place: self._write(item, list(islice(rest, len(item.chunks))), call)
            for item in window
        }

    def _prepared(
        self, documents: Sequence[NewDocument], call: Call
    ) -> tuple[list[Prepared], dict[int, Outcome]]:
        """Return the documents to encode and the outcomes of the others by place."""
        prepared: list[Prepared] = []
        outcomes: dict[int, Outcome] = {}
        for place, document in enumerate(documents):
            try:
                item = self._prepare(place, document, call)
            except HybridSearchError as exc:
                outcomes[place] = exc
                continue
            if isinstance(item, Stored):
                outcomes[place] = item
            else:
                prepared.append(item)
        return prepared, outcomes

    def _prepare(
        self, place: int, document: NewDocument, call: Call
    ) -> Prepared | Stored:
        check_document(document, self._settings)
        tokenizer = self._encoders.tokenizer
        if tokenizer is None:
            msg = f"Nothing can be stored without all models. {self._encoders.problem}"
            raise ModelUnavailableError(msg)
        collection = self._collection(document)
        document = self._completed(collection, document)
        content_hash = hash_of(
            document.text, document.title, document.source, document.metadata or {}
        )
        settled = self._settled(collection, document, content_hash, call)
        if settled is not None:
            return settled
        title = title_for(document.title, tokenizer, self._chunking)
        chunks = split(
            document.text, title=title, tokenizer=tokenizer, chunking=self._chunking
        )
        return Prepared(place, document, content_hash, title, chunks)

    def _collection(self, document: NewDocument) -> Collection:
        return self._store.collection_for_writing(
            document.collection, document.namespace
        )

    def _completed(self, collection: Collection, document: NewDocument) -> NewDocument:
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
        self,
        collection: Collection,
        document: NewDocument,
        content_hash: bytes,
        call: Call,
    ) -> Stored | None:
        """Return the outcome if nothing needs to be written."""
        identity = document.document_id or ""
        row = self._store.find(collection, document.namespace, identity)
        if row is None:
            return None
        status: Status | None = None
        if row.content_hash == content_hash:
            # Once only: the same text twice in one call is one change.
            place = (collection.name, document.namespace, identity)
            status = call.stored_before.pop(place, "unchanged")
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

    def encode_again(self, title: str | None, chunks: Sequence[Chunk]) -> list[Encoded]:
        """Encode chunks as they were when their document was stored."""
        tokenizer = self._encoders.tokenizer
        if tokenizer is None:
            raise ModelUnavailableError(self._encoders.problem)
        title = title_for(title, tokenizer, self._chunking)
        texts = [encoded_text(title, chunk.text) for chunk in chunks]
        return self._encoders.encode_documents(texts, advance=lambda: None)

    def _write(self, item: Prepared, encoded: Sequence[Encoded], call: Call) -> Outcome:
        try:
            with self._store.writing():
                return self._written(item, encoded, call)
        except HybridSearchError as exc:
            return exc

    def _written(
        self, item: Prepared, encoded: Sequence[Encoded], call: Call
    ) -> Stored:
        document = item.document
        identity = document.document_id or ""
        collection = self._collection(document)
        # Another call may have stored it since it was prepared.
        settled = self._settled(collection, document, item.content_hash, call)
        if settled is not None:
            return settled
        row = self._store.find(collection, document.namespace, identity)
        now = changed_at(row.document if row else None)
        created_at, updated_at = document.times or (
            row.document.created_at if row else now,
            now,
        )
        self._store.write(
            collection,
            Document(
                document_id=identity,
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
            origin=call.origin,
        )
        return Stored(
            identity,
            collection.name,
            "replaced" if row else "created",
            len(item.chunks),
            () if item.encoded_title == document.title else (_LONG_TITLE,),
        )


def _windows(prepared: Sequence[Prepared]) -> Iterator[list[Prepared]]:
    """Group documents so that a group has `WINDOW_CHUNKS` chunks or a little more."""
    window: list[Prepared] = []
    chunks = 0
    for item in prepared:
        window.append(item)
        chunks += len(item.chunks)
        if chunks >= WINDOW_CHUNKS:
            yield window
            window, chunks = [], 0
    if window:
        yield window


def hash_of(
    text: str, title: str | None, source: str | None, metadata: Mapping[str, Json]
) -> bytes:
    """Return what differs when a document does."""
    parts = [text, title, source, metadata]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


def changed_at(document: Document | None) -> float:
    """Return the time of a change, later than that of the change before.

    Whole milliseconds are what is shown, and what Edge reads back exactly.
    """
    now = time.time()
    if document is not None:
        now = max(now, document.updated_at + 0.001)
    return round(now, 3)
