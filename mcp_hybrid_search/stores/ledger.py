"""The record of truth: every document and chunk, in one SQLite file.

`ledger_file` opens it, `lists` counts and lists what is in it, and `audit` keeps who
changed it. A chunk's row id is
the id of its point in the index and is never given out again, so whatever the index
still holds of a replaced or deleted document leads to no row and is not a hit.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcp_hybrid_search.documents import Chunk, Document, Origin
from mcp_hybrid_search.errors import ConflictError
from mcp_hybrid_search.stores import audit
from mcp_hybrid_search.stores.ledger_file import connect, ledger_errors
from mcp_hybrid_search.stores.rows import (
    DOCUMENT,
    Collection,
    DocumentRow,
    document_row,
)

ABSENT, INDEXED, OLD_PAYLOAD = 0, 1, 2
"""What of a document the index has on the disk: not all of it, all of it, or all but
its newest metadata."""


class Ledger:
    """One open ledger. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Open or create the ledger; a file of another version is refused.

        Raises:
            StoreUnavailableError: If the file is damaged, of another version or
                cannot be opened.
        """
        self.path = path
        self._lock = threading.RLock()
        with ledger_errors(path):
            self._db = connect(path)

    def close(self) -> None:
        """Close the file; what was committed is on the disk already."""
        with self._lock:
            self._db.close()

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Keep writers out, so that several reads see one moment."""
        with self._lock:
            yield

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, ledger_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # A full disk makes SQLite roll back by itself.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """Return what a query finds."""
        with self._lock, ledger_errors(self.path):
            return self._db.execute(sql, parameters).fetchall()

    # Collections

    def collections(self) -> list[Collection]:
        """Return every collection by name."""
        return [
            Collection(*row)
            for row in self.rows(
                "SELECT key, name, models, fingerprint, created_at"
                " FROM collections ORDER BY name"
            )
        ]

    def create_collection(
        self, name: str, *, models: str, fingerprint: str, now: float
    ) -> None:
        """Add a collection; a name that differs in case only is the same name."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO collections"
                " (name, folded_name, models, fingerprint, created_at)"
                " VALUES (?, ?, ?, ?, ?)",
                (name, name.casefold(), models, fingerprint, now),
            )

    def delete_collection(self, key: int) -> None:
        """Remove a collection with its documents."""
        with self._transaction():
            self._db.execute("DELETE FROM collections WHERE key = ?", (key,))

    def replace_collection(
        self, old: Collection, new: Collection, *, origin: Origin
    ) -> None:
        """Let `new` take the name and the age of `old`, which is removed.

        Raises:
            ConflictError: If `old` was written to after it was copied.
        """
        with self._transaction():
            if self._versions(old) != self._versions(new):
                msg = (
                    f"The collection {old.name!r} was written to while it was encoded"
                    " again. It is as it was; try again when nothing writes to it."
                )
                raise ConflictError(msg)
            self._db.execute("DELETE FROM collections WHERE key = ?", (old.key,))
            self._db.execute(
                "UPDATE collections SET name = ?, folded_name = ?, created_at = ?"
                " WHERE key = ?",
                (old.name, old.name.casefold(), old.created_at, new.key),
            )
            audit.append(self._db, origin, audit.REINDEXED, old.name)

    def _versions(self, collection: Collection) -> set[Any]:
        return set(
            self.rows(
                "SELECT namespace, document_id, updated_at FROM documents"
                " WHERE collection_key = ?",
                collection.key,
            )
        )

    # Documents

    def find(
        self, collection: Collection, namespace: str, document_id: str
    ) -> DocumentRow | None:
        """Return a document, or None."""
        rows = self.rows(
            f"SELECT {DOCUMENT} FROM documents JOIN collections"
            " ON collections.key = collection_key"
            " WHERE collection_key = ? AND namespace = ? AND document_id = ?",
            collection.key,
            namespace,
            document_id,
        )
        return document_row(rows[0]) if rows else None

    def document_keys(self, collection: Collection) -> list[int]:
        """Return every document's key, oldest first."""
        rows = self.rows(
            "SELECT key FROM documents WHERE collection_key = ? ORDER BY key",
            collection.key,
        )
        return [key for (key,) in rows]

    def document(self, key: int) -> DocumentRow | None:
        """Return a document by its key, or None if it is gone."""
        rows = self.rows(
            f"SELECT {DOCUMENT} FROM documents JOIN collections"
            " ON collections.key = collection_key WHERE documents.key = ?",
            key,
        )
        return document_row(rows[0]) if rows else None

    def chunks(self, key: int, *, first: int = 0, limit: int = -1) -> list[Chunk]:
        """Return chunks of a document in order; a negative limit means all."""
        return [
            Chunk(*row)
            for row in self.rows(
                "SELECT chunk_index, start, text FROM chunks WHERE document_key = ?"
                " AND chunk_index >= ? ORDER BY chunk_index LIMIT ?",
                key,
                first,
                limit,
            )
        ]

    def next_point_id(self) -> int:
        """Return the lowest point id that was never given out."""
        rows = self.rows("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'")
        return rows[0][0] + 1 if rows else 1

    def write(
        self,
        collection: Collection,
        document: Document,
        chunks: Sequence[Chunk],
        *,
        first_point_id: int,
        content_hash: bytes,
        origin: Origin | None,
    ) -> tuple[int, list[int]]:
        """Commit a document in place of the one with its id.

        Args:
            collection: Where to.
            document: Its chunks are counted here.
            chunks: In order.
            first_point_id: Of the first chunk.
            content_hash: Tells whether a document would change.
            origin: Who stores it; None for a copy, which changes nothing.

        Returns:
            The document's key and the point ids of the chunks it replaced.
        """
        with self._transaction():
            replaced = self._remove(
                collection, document.namespace, document.document_id
            )
            key = self._db.execute(
                "INSERT INTO documents (collection_key, namespace, document_id,"
                " title, source, metadata, content_hash, created_at, updated_at,"
                " chunk_count) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    collection.key,
                    document.namespace,
                    document.document_id,
                    document.title,
                    document.source,
                    _json(document),
                    content_hash,
                    document.created_at,
                    document.updated_at,
                    len(chunks),
                ),
            ).lastrowid
            self._db.executemany(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?)",
                (
                    (first_point_id + i, key, chunk.index, chunk.start, chunk.text)
                    for i, chunk in enumerate(chunks)
                ),
            )
            if origin is not None:
                action = audit.REPLACED if replaced else audit.CREATED
                place = (document.namespace, document.document_id)
                audit.append(self._db, origin, action, collection.name, [place])
        if key is None:
            msg = "SQLite gave no row id."
            raise AssertionError(msg)
        return key, replaced

    def update_metadata(
        self,
        collection: Collection,
        document: Document,
        *,
        content_hash: bytes,
        origin: Origin,
    ) -> int:
        """Commit a document's metadata and time of change; returns its key."""
        place = (document.namespace, document.document_id)
        with self._transaction():
            ((key,),) = self._db.execute(
                "UPDATE documents SET metadata = ?, content_hash = ?, updated_at = ?,"
                " indexed = CASE indexed WHEN ? THEN ? ELSE indexed END"
                " WHERE collection_key = ? AND namespace = ? AND document_id = ?"
                " RETURNING key",
                (
                    _json(document),
                    content_hash,
                    document.updated_at,
                    INDEXED,
                    OLD_PAYLOAD,
                    collection.key,
                    *place,
                ),
            ).fetchall()
            audit.append(self._db, origin, audit.METADATA, collection.name, [place])
        return int(key)

    def delete(
        self,
        collection: Collection,
        namespace: str,
        document_ids: Sequence[str],
        *,
        origin: Origin,
    ) -> list[int]:
        """Delete documents, all or none; returns the point ids of their chunks."""
        where = (
            "collection_key = ? AND namespace = ?"
            " AND document_id IN (SELECT value FROM json_each(?))"
        )
        chosen = (collection.key, namespace, json.dumps(document_ids))
        with self._transaction():
            points = self._db.execute(
                "SELECT point_id FROM documents JOIN chunks ON document_key = key"
                f" WHERE {where}",
                chosen,
            ).fetchall()
            places = self._db.execute(
                f"SELECT namespace, document_id FROM documents WHERE {where}", chosen
            ).fetchall()
            audit.append(self._db, origin, audit.DELETED, collection.name, places)
            self._db.execute(f"DELETE FROM documents WHERE {where}", chosen)
        return [point for (point,) in points]

    def _remove(
        self, collection: Collection, namespace: str, document_id: str
    ) -> list[int]:
        points = self.rows(
            "SELECT point_id FROM chunks JOIN documents ON key = document_key"
            " WHERE collection_key = ? AND namespace = ? AND document_id = ?",
            collection.key,
            namespace,
            document_id,
        )
        self._db.execute(
            "DELETE FROM documents"
            " WHERE collection_key = ? AND namespace = ? AND document_id = ?",
            (collection.key, namespace, document_id),
        )
        return [point for (point,) in points]

    # What the index holds

    def places(
        self, namespace: str, point_ids: Iterable[int]
    ) -> dict[int, tuple[int, int]]:
        """Return (document key, chunk index) by point id; the rest are gone."""
        rows = self.rows(
            "SELECT point_id, document_key, chunk_index FROM chunks"
            " JOIN documents ON key = document_key"
            " WHERE point_id IN (SELECT value FROM json_each(?)) AND namespace = ?",
            json.dumps(list(point_ids)),
            namespace,
        )
        return {point_id: (key, index) for point_id, key, index in rows}

    def hits(self, point_ids: Iterable[int]) -> dict[int, tuple[Document, Chunk]]:
        """Return (document, chunk) by point id; the rest are gone."""
        ids = json.dumps(list(point_ids))
        rows = self.rows(
            "SELECT point_id, chunk_index, start, chunks.text,"
            f" {DOCUMENT} FROM chunks"
            " JOIN documents ON documents.key = document_key"
            " JOIN collections ON collections.key = collection_key"
            " WHERE point_id IN (SELECT value FROM json_each(?))",
            ids,
        )
        documents: dict[int, Document] = {}
        found = {}
        for point_id, index, start, text, *rest in rows:
            key = rest[0]
            if key not in documents:
                documents[key] = document_row(rest).document
            found[point_id] = (documents[key], Chunk(index, start, text))
        return found

    def point_ids(self, collection: Collection) -> dict[int, int]:
        """Return the document key of every point that must be in the index."""
        return dict(
            self.rows(
                "SELECT point_id, document_key FROM chunks"
                " JOIN documents ON key = document_key"
                " WHERE collection_key = ? AND indexed",
                collection.key,
            )
        )

    def document_point_ids(self, key: int) -> list[int]:
        """Return the point ids of a document's chunks in order."""
        rows = self.rows(
            "SELECT point_id FROM chunks WHERE document_key = ? ORDER BY chunk_index",
            key,
        )
        return [point for (point,) in rows]

    def unindexed(self, collection: Collection) -> list[int]:
        """Return the documents whose points may not have reached the disk."""
        rows = self.rows(
            "SELECT key FROM documents WHERE collection_key = ? AND NOT indexed"
            " ORDER BY key",
            collection.key,
        )
        return [key for (key,) in rows]

    def with_old_payload(self, collection: Collection) -> list[int]:
        """Return the documents whose newest metadata may not have reached the disk."""
        rows = self.rows(
            "SELECT key FROM documents WHERE collection_key = ? AND indexed = 2",
            collection.key,
        )
        return [key for (key,) in rows]

    def changed_points(self, collection: Collection) -> dict[int, tuple[int, float]]:
        """Return (document key, time of change) by point id, if there was a change."""
        rows = self.rows(
            "SELECT point_id, key, updated_at FROM documents"
            " JOIN chunks ON document_key = key"
            " WHERE collection_key = ? AND indexed = 1 AND updated_at <> created_at",
            collection.key,
        )
        return {point: (key, updated_at) for point, key, updated_at in rows}

    def mark_indexed(self, keys: Iterable[int], state: int = INDEXED) -> None:
        """Record what of these documents the index holds on disk."""
        with self._transaction():
            self._db.execute(
                "UPDATE documents SET indexed = ?"
                " WHERE key IN (SELECT value FROM json_each(?))",
                (state, json.dumps(list(keys))),
            )

    def mark_payloads(self, keys: Iterable[int]) -> None:
        """Record that the index holds the newest metadata of these on disk."""
        with self._transaction():
            self._db.execute(
                "UPDATE documents SET indexed = ? WHERE indexed = 2"
                " AND key IN (SELECT value FROM json_each(?))",
                (INDEXED, json.dumps(list(keys))),
            )


def _json(document: Document) -> str:
    return json.dumps(dict(document.metadata), ensure_ascii=False)
