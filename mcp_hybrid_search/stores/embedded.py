"""The embedded store: the ledger, and an index that is kept equal to it.

A write goes to the index first, under point ids that no row knows yet, and becomes
visible by the ledger's commit: whole, or not at all. What the index holds beyond
the last checkpoint is lost in a crash and encoded again from the ledger.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from mcp_hybrid_search.documents import (
    AuditEntry,
    Chunk,
    CollectionInfo,
    Document,
    Origin,
    Status,
)
from mcp_hybrid_search.embeddings import Encoded
from mcp_hybrid_search.errors import (
    ConflictError,
    NotFoundError,
    StoreUnavailableError,
)
from mcp_hybrid_search.filters import Filter
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stores import audit
from mcp_hybrid_search.stores.directory import DataDirectory
from mcp_hybrid_search.stores.edge import Point, Ranking, size_bytes
from mcp_hybrid_search.stores.indexes import Encode, Indexes
from mcp_hybrid_search.stores.ledger import Ledger
from mcp_hybrid_search.stores.lists import Lists
from mcp_hybrid_search.stores.rows import Collection, DocumentRow

DRAFT = ".reindexing"
"""Begins the name of a collection that is being made: no user's name can."""


class EmbeddedStore:
    """The store of one data directory; one process at a time has it."""

    def __init__(
        self,
        settings: Settings,
        directory: DataDirectory,
        *,
        models: str,
        fingerprint: str,
        dims: Mapping[str, int],
    ) -> None:
        """Open the ledger; indexes open when first used.

        Args:
            settings: How vectors are stored.
            directory: Stays the caller's to release.
            models: Description of the model set, for people.
            fingerprint: What a collection must have been made with.
            dims: Vector lengths; empty if the models could not be loaded.

        Raises:
            StoreUnavailableError: If the ledger cannot be used.
        """
        self._models = models
        self._fingerprint = fingerprint
        self._directory = directory
        self._ledger = Ledger(directory.root / "ledger.sqlite3")
        self.lists = Lists(self._ledger.rows)
        """What is stored, counted and listed."""
        self._remove_drafts()
        self._indexes = Indexes(
            self._directory,
            self._ledger,
            self.lists,
            dims=dims,
            storage=settings.token_storage,
        )

    def _remove_drafts(self) -> None:
        for collection in self._ledger.collections():
            if collection.name.startswith(DRAFT):
                self._ledger.delete_collection(collection.key)

    def maintain(self, encode: Encode) -> None:
        """Start checkpointing and repairing in the background."""
        self._indexes.maintain(encode)

    def close(self) -> None:
        """Bring the index to the disk."""
        # Whatever fails, the rest is closed; the ledger has every document.
        with ExitStack() as last:
            last.callback(self._ledger.close)
            self._indexes.close()

    # Collections

    def collection(self, name: str, namespace: str) -> Collection | None:
        """Return a collection that has documents of a namespace.

        One that never had any is as if it did not exist: who uses a namespace sees
        nothing of the others. One whose documents were deleted is empty.

        Returns:
            None if the namespace has no documents at all.

        Raises:
            NotFoundError: If it has some in other collections, but not in this one.
            ConflictError: If it was made with other models or chunking.
        """
        found = self._named(name)
        if found is not None and (
            self.lists.holds(found, namespace)
            or audit.has_changes(self._ledger.rows, found.name, namespace)
        ):
            if found.name != name:
                raise _named_otherwise(found)
            return self._checked(found)
        names = [each.name for each in self.collections_of(namespace)]
        if not names:
            return None
        listed = ", ".join(map(repr, names))
        msg = f"There is no collection {name!r}. There are: {listed}."
        raise NotFoundError(msg)

    def collections_of(self, namespace: str) -> list[Collection]:
        """Return the collections that have documents of a namespace."""
        return [
            collection
            for collection in self._ledger.collections()
            if not collection.name.startswith(DRAFT)
            if self.lists.holds(collection, namespace)
        ]

    def collection_for_writing(self, name: str, namespace: str) -> Collection:
        """Return a collection, created if need be.

        Raises:
            ConflictError: If it was made with other models or chunking, or another's
                name differs only in case.
        """
        with self._indexes.write_lock:
            found = self._named(name)
            if found is None:
                self._directory.check_writable()
                self._ledger.create_collection(
                    name,
                    models=self._models,
                    fingerprint=self._fingerprint,
                    now=time.time(),
                )
                found = self._named(name)
        if found is None:
            msg = "A collection was created and is not there."
            raise AssertionError(msg)
        if found.name != name:
            if self.lists.holds(found, namespace):
                raise _named_otherwise(found)
            msg = (
                f"There can be no collection {name!r}: names that differ only in case"
                " are one name. Write it in another case, or choose another."
            )
            raise ConflictError(msg)
        return self._checked(found)

    def named(self, name: str) -> Collection | None:
        """Return a collection whatever it was made with; None if there is none."""
        found = self._named(name)
        return found if found is not None and found.name == name else None

    def _named(self, name: str) -> Collection | None:
        """Return the collection whose name differs in case at most."""
        for collection in self._ledger.collections():
            if collection.name.casefold() == name.casefold():
                return collection
        return None

    def _checked(self, collection: Collection) -> Collection:
        if collection.fingerprint != self._fingerprint:
            msg = (
                f"The collection {collection.name!r} was made with {collection.models};"
                f" the settings name {self._models}. Their vectors do not compare. Set"
                " HYBRID_SEARCH_MODELS and the chunk settings as they were, name"
                " another collection, or encode it again with:"
                f" mcp-hybrid-search reindex {collection.name}"
            )
            raise ConflictError(msg)
        return collection

    def collections(self, namespace: str | None = None) -> list[CollectionInfo]:
        """Describe every collection, or what a namespace has in each."""
        if namespace is None:
            return [
                self._described(each)
                for each in self._ledger.collections()
                if not each.name.startswith(DRAFT)
            ]
        return [
            self._described_in(each, namespace)
            for each in self.collections_of(namespace)
        ]

    def _described(self, collection: Collection) -> CollectionInfo:
        documents, chunks, text_bytes = self.lists.sizes(collection)
        index_bytes = size_bytes(self._directory.index_path(collection.key))
        return CollectionInfo(
            name=collection.name,
            model_set=collection.models,
            documents=documents,
            chunks=chunks,
            size_bytes=text_bytes + index_bytes,
            created_at=collection.created_at,
        )

    def _described_in(self, collection: Collection, namespace: str) -> CollectionInfo:
        documents, chunks, text_bytes = self.lists.sizes(collection, namespace)
        return CollectionInfo(
            name=collection.name,
            model_set=collection.models,
            documents=documents,
            chunks=chunks,
            size_bytes=text_bytes,
            created_at=self.lists.first_created_at(collection, namespace),
        )

    # Documents

    def find(
        self, collection: Collection, namespace: str, document_id: str
    ) -> DocumentRow | None:
        """Return a document's row, or None."""
        return self._ledger.find(collection, namespace, document_id)

    def read(
        self,
        collection: Collection,
        namespace: str,
        document_id: str,
        *,
        first: int = 0,
        limit: int = -1,
    ) -> tuple[Document, list[Chunk]] | None:
        """Return a document and chunks of it as they were at one moment.

        Args:
            collection: Searched alone.
            namespace: Searched alone.
            document_id: As it was stored.
            first: Index of the first chunk.
            limit: Most chunks; negative: all.
        """
        with self._ledger.unchanged():
            row = self._ledger.find(collection, namespace, document_id)
            if row is None:
                return None
            chunks = self._ledger.chunks(row.key, first=first, limit=limit)
            return row.document, chunks

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers out, so that what was found stays true."""
        with self._indexes.write_lock:
            yield

    def write(
        self,
        collection: Collection,
        document: Document,
        chunks: Sequence[Chunk],
        encoded: Sequence[Encoded],
        *,
        content_hash: bytes,
        origin: Origin,
    ) -> None:
        """Store a document in place of the one with its id, whole or not at all.

        Raises:
            StoreUnavailableError: If the disk is full or cannot be written.
        """
        with self._indexes.write_lock:
            self._directory.check_writable()
            opened = self._indexes.opened(collection)
            first = self._ledger.next_point_id()
            points = [
                Point(first + i, vectors, document) for i, vectors in enumerate(encoded)
            ]
            self._indexes.changed(opened)
            try:
                opened.index.upsert(points)
                key, replaced = self._ledger.write(
                    collection,
                    document,
                    chunks,
                    first_point_id=first,
                    content_hash=content_hash,
                    # Collections that are made again are noted as a whole.
                    origin=None if collection.name.startswith(DRAFT) else origin,
                )
            except BaseException:
                # If that fails too: they have no rows, so they are no hits.
                with suppress(StoreUnavailableError):
                    opened.index.delete([point.point_id for point in points])
                raise
            opened.unflushed.append(key)
            self._indexes.changed(opened)
            self._indexes.forget(opened.index, replaced)

    def update_metadata(
        self,
        collection: Collection,
        document: Document,
        *,
        content_hash: bytes,
        origin: Origin,
    ) -> None:
        """Keep a document's new metadata; its chunks and vectors stay.

        Raises:
            StoreUnavailableError: If the disk is full or cannot be written.
        """
        with self._indexes.write_lock:
            self._directory.check_writable()
            key = self._ledger.update_metadata(
                collection, document, content_hash=content_hash, origin=origin
            )
            # An index that is not open will be compared with the ledger.
            opened = self._indexes.if_open(collection)
            if opened is not None:
                self._indexes.update(opened, key, document)
                self._indexes.changed(opened)

    def delete(
        self,
        collection: Collection,
        namespace: str,
        document_ids: Sequence[str],
        *,
        origin: Origin,
    ) -> bool:
        """Delete documents, all or none; False if there were none."""
        with self._indexes.write_lock:
            points = self._ledger.delete(
                collection, namespace, document_ids, origin=origin
            )
            # An index that is not open will be compared with the ledger.
            opened = self._indexes.if_open(collection)
            if points and opened is not None:
                self._indexes.changed(opened)
                self._indexes.forget(opened.index, points)
        return bool(points)

    # Who changed what

    def audit(self, *, limit: int, namespace: str | None) -> list[AuditEntry]:
        """Return the newest changes, newest first."""
        return audit.entries(self._ledger.rows, limit=limit, namespace=namespace)

    def stored_by(self, origin: Origin) -> dict[tuple[str, str, str], Status]:
        """Return what a call stored before it was repeated; see `audit.stored`."""
        return audit.stored(self._ledger.rows, origin)

    def deleted_by(self, origin: Origin, collection: str, namespace: str) -> list[str]:
        """Return what a call deleted before it was repeated, in order of id."""
        return audit.deleted(self._ledger.rows, origin, collection, namespace)

    # Search

    def rankings(
        self,
        collection: Collection,
        query: Encoded,
        *,
        namespace: str,
        filter_: Filter | None,
        limit: int,
    ) -> dict[str, Ranking]:
        """Rank the chunks of a namespace by each stage; see `EdgeIndex.rankings`."""
        if not self._indexes.exists(collection):
            return {}
        return self._indexes.opened(collection).index.rankings(
            query, namespace=namespace, filter_=filter_, limit=limit
        )

    def places(
        self, namespace: str, point_ids: Sequence[int]
    ) -> dict[int, tuple[int, int]]:
        """Return (document key, chunk index) of the points that are still true."""
        return self._ledger.places(namespace, point_ids)

    def hits(self, point_ids: Sequence[int]) -> dict[int, tuple[Document, Chunk]]:
        """Return (document, chunk) of the points that are still true."""
        return self._ledger.hits(point_ids)

    def missing(self, collection: Collection, namespace: str) -> list[str]:
        """Say what a search that begins now cannot find, after a moment's patience.

        Raises:
            HybridSearchError: If the index cannot be opened now.
        """
        if not self._indexes.exists(collection):
            return []
        opened = self._indexes.opened(collection)
        self._indexes.wait_until_complete(opened, namespace)
        return self._indexes.notices(collection, namespace)

    # Reindexing

    def begin_reindexing(self, name: str) -> tuple[Collection, Collection, list[int]]:
        """Begin to make a collection again, whatever it was made with.

        Returns:
            The collection, an empty draft of it, and its documents' keys.

        Raises:
            NotFoundError: If there is no such collection.
        """
        old = self._named(name)
        if old is not None and old.name != name:
            raise _named_otherwise(old)
        if old is None:
            msg = f"There is no collection {name!r}."
            raise NotFoundError(msg)
        with self._indexes.write_lock:
            draft = self._named(f"{DRAFT}.{old.key}")
            if draft is not None:
                self._ledger.delete_collection(draft.key)
                self._indexes.drop(draft)
            new = self.collection_for_writing(f"{DRAFT}.{old.key}", "")
            return old, new, self._ledger.document_keys(old)

    def read_by_key(self, key: int) -> tuple[Document, list[Chunk]] | None:
        """Return a document with all of its chunks; None if it is gone."""
        with self._ledger.unchanged():
            row = self._ledger.document(key)
            return (row.document, self._ledger.chunks(key)) if row else None

    def finish_reindexing(
        self, old: Collection, new: Collection, *, origin: Origin
    ) -> None:
        """Let `new` take the place of `old`, whose index is removed."""
        with self._indexes.write_lock:
            self._indexes.checkpoint()
            self._ledger.replace_collection(old, new, origin=origin)
            self._indexes.drop(old)


def _named_otherwise(found: Collection) -> ConflictError:
    return ConflictError(
        f"There is a collection {found.name!r}; names that differ only in case are one"
        f" name. Use {found.name!r}."
    )
