"""What the ledger holds, counted and listed. Reads only.

Everything that a tenant may see is asked by its namespace: what other namespaces hold
changes no answer.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mcp_hybrid_search.filter_matching import (
    Matcher,
    MetadataReader,
    field_payload,
    matcher,
)
from mcp_hybrid_search.filters import Filter
from mcp_hybrid_search.listing import Order, Place
from mcp_hybrid_search.stores.audit import Rows
from mcp_hybrid_search.stores.rows import (
    DOCUMENT,
    Collection,
    DocumentRow,
    document_row,
)

SCAN_ROWS = 500
"""Documents read at once for a filter: writers get their turn in between."""

_AFTER_ALL = "\U0010ffff"
"""In no name and no id, and after whatever is."""


class Lists:
    """Counts and lists of one ledger."""

    def __init__(self, rows: Rows) -> None:
        """Read nothing yet.

        Args:
            rows: See `Ledger.rows`.
        """
        self._rows = rows

    # Collections

    def holds(self, collection: Collection, namespace: str) -> bool:
        """Return whether a collection has documents of a namespace."""
        return bool(
            self._rows(
                "SELECT 1 FROM documents WHERE collection_key = ? AND namespace = ?"
                " LIMIT 1",
                collection.key,
                namespace,
            )
        )

    def sizes(
        self, collection: Collection, namespace: str | None = None
    ) -> tuple[int, int, int]:
        """Return a collection's documents, chunks, and bytes of text."""
        where, parameters = _within(collection, namespace)
        ((documents, chunks),) = self._rows(
            f"SELECT count(*), coalesce(sum(chunk_count), 0) FROM documents {where}",
            *parameters,
        )
        ((size_bytes,),) = self._rows(
            "SELECT coalesce(sum(length(CAST(text AS BLOB))), 0) FROM documents"
            f" JOIN chunks ON document_key = key {where}",
            *parameters,
        )
        return documents, chunks, size_bytes

    def first_created_at(self, collection: Collection, namespace: str) -> float:
        """Return when the oldest document of a namespace was created."""
        ((moment,),) = self._rows(
            "SELECT coalesce(min(created_at), 0.0) FROM documents"
            " WHERE collection_key = ? AND namespace = ?",
            collection.key,
            namespace,
        )
        return float(moment)

    def namespaces(self, collection: Collection, prefix: str, limit: int) -> list[str]:
        """Return names of namespaces that have documents, in order."""
        found: list[str] = []
        # One look-up a name: counting the documents of each would read them all.
        at_least, last = prefix, ""
        while len(found) < limit:
            rows = self._rows(
                "SELECT namespace FROM documents WHERE collection_key = ?"
                " AND namespace >= ? AND namespace > ? AND namespace < ?"
                " ORDER BY namespace LIMIT 1",
                collection.key,
                at_least,
                last,
                prefix + _AFTER_ALL,
            )
            if not rows:
                break
            ((last,),) = rows
            found.append(last)
        return found

    # Documents

    def document_ids(
        self, collection: Collection, namespace: str, prefix: str, limit: int
    ) -> list[str]:
        """Return ids that begin with `prefix`, in order."""
        rows = self._rows(
            "SELECT document_id FROM documents WHERE collection_key = ?"
            " AND namespace = ? AND document_id >= ? AND document_id < ?"
            " ORDER BY document_id LIMIT ?",
            collection.key,
            namespace,
            prefix,
            prefix + _AFTER_ALL,
            limit,
        )
        return [document_id for (document_id,) in rows]

    def count(self, collection: Collection, namespace: str) -> int:
        """Return how many documents a namespace has."""
        ((count,),) = self._rows(
            "SELECT count(*) FROM documents WHERE collection_key = ? AND namespace = ?",
            collection.key,
            namespace,
        )
        return int(count)

    def count_of(self, keys: Iterable[int], namespace: str) -> int:
        """Return how many of these documents are of a namespace."""
        ((count,),) = self._rows(
            "SELECT count(*) FROM documents"
            " WHERE key IN (SELECT value FROM json_each(?)) AND namespace = ?",
            json.dumps(list(keys)),
            namespace,
        )
        return int(count)

    def page(
        self,
        collection: Collection,
        namespace: str,
        order: Order,
        *,
        after: Place | None,
        limit: int,
    ) -> list[DocumentRow]:
        """Return documents in order, from what comes after a place."""
        rows = self._page(collection, namespace, order, after=after, limit=limit)
        return [document_row(row) for row in rows]

    def matching(
        self, collection: Collection, namespace: str, order: Order, filter_: Filter
    ) -> Iterator[tuple[Place, list[Any]]]:
        """Yield the place and the row of each document that passes, in order.

        Reads as it goes: what is written meanwhile may or may not be seen, but what
        is not touched is seen once.
        """
        passes, reader = matcher(filter_), MetadataReader(filter_)
        after: Place | None = None
        while rows := self._page(
            collection, namespace, order, after=after, limit=SCAN_ROWS
        ):
            for row in rows:
                if _passes(row, passes, reader):
                    yield _place(row, order), row
            after = _place(rows[-1], order)

    def _page(
        self,
        collection: Collection,
        namespace: str,
        order: Order,
        *,
        after: Place | None,
        limit: int,
    ) -> list[Any]:
        found: list[Any] = []
        for condition, columns, start in _segments(order, after):
            direction, sign = ("DESC", "<") if order.descending else ("ASC", ">")
            beyond = ""
            if start is not None:
                marks = ", ".join("?" * len(start))
                beyond = f" AND ({', '.join(columns)}) {sign} ({marks})"
            sorting = ", ".join(f"{column} {direction}" for column in columns)
            found += self._rows(
                f"SELECT {DOCUMENT} FROM documents JOIN collections"
                " ON collections.key = collection_key"
                f" WHERE collection_key = ? AND namespace = ?{condition}{beyond}"
                f" ORDER BY {sorting} LIMIT ?",
                collection.key,
                namespace,
                *(start or ()),
                limit - len(found),
            )
        return found


def _segments(
    order: Order, after: Place | None
) -> Iterator[tuple[str, tuple[str, ...], tuple[Any, ...] | None]]:
    """Yield what is read one after the other: a condition, an order, where it starts.

    Titles that are missing come last either way, which is no order of an index.
    """
    by_id = after and after[1:]
    if order.field == "id":
        yield "", ("document_id",), by_id
    elif order.field == "title":
        in_first = after is None or after[0] is not None
        if in_first:
            yield " AND title IS NOT NULL", ("title", "document_id"), after
        yield " AND title IS NULL", ("document_id",), None if in_first else by_id
    else:
        yield "", (f"documents.{order.field}", "document_id"), after


def _place(row: Sequence[Any], order: Order) -> Place:
    _, document_id, _, _, title, _, _, created_at, updated_at, *_ = row
    values = {"title": title, "created_at": created_at, "updated_at": updated_at}
    return values.get(order.field), document_id


def _passes(row: Sequence[Any], passes: Matcher, reader: MetadataReader) -> bool:
    _, _, _, _, title, source, metadata, created_at, updated_at, *_ = row
    payload = field_payload(
        title=title, source=source, created_at=created_at, updated_at=updated_at
    )
    if reader.names:
        payload |= reader.payload(json.loads(metadata))
    return passes(payload)


def _within(
    collection: Collection, namespace: str | None
) -> tuple[str, tuple[Any, ...]]:
    if namespace is None:
        return "WHERE collection_key = ?", (collection.key,)
    return "WHERE collection_key = ? AND namespace = ?", (collection.key, namespace)
