"""Who changed what, in the ledger's own transactions: rows are added, never changed.

No text, no title and no metadata: when, by whom, with which tool, and which document.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

from mcp_hybrid_search.documents import AuditEntry, Origin, Status
from mcp_hybrid_search.stores.ledger_file import Connection

Action = Literal["created", "replaced", "metadata", "deleted", "reindexed"]
CREATED: Action = "created"
REPLACED: Action = "replaced"
METADATA: Action = "metadata"
DELETED: Action = "deleted"
REINDEXED: Action = "reindexed"

Rows = Callable[..., list[Any]]
"""Runs a query with its parameters; see `Ledger.rows`."""

WHOLE_COLLECTION = ("", "")


def append(
    db: Connection,
    origin: Origin,
    action: Action,
    collection: str,
    places: Iterable[tuple[str, str]] = (WHOLE_COLLECTION,),
) -> None:
    """Add changes to the transaction that makes them.

    Args:
        db: In that transaction.
        origin: Who asked for them.
        action: What was done.
        collection: Its name.
        places: Namespace and id of each document.
    """
    now = round(time.time(), 3)
    db.executemany(
        "INSERT INTO audit (time, client, tool, call, action, collection, namespace,"
        " document_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (now, origin.client, origin.tool, origin.call, action, collection, *place)
            for place in places
        ),
    )


def entries(rows: Rows, *, limit: int, namespace: str | None) -> list[AuditEntry]:
    """Return the newest changes, newest first, of one namespace or of all."""
    columns = "time, client, tool, action, collection, namespace, document_id"
    if namespace is None:
        sql = f"SELECT {columns} FROM audit ORDER BY key DESC LIMIT ?"
        return [AuditEntry(*row) for row in rows(sql, limit)]
    sql = f"SELECT {columns} FROM audit WHERE namespace = ? ORDER BY key DESC LIMIT ?"
    return [AuditEntry(*row) for row in rows(sql, namespace, limit)]


def has_changes(rows: Rows, collection: str, namespace: str) -> bool:
    """Return whether a namespace ever wrote to a collection."""
    return bool(
        rows(
            "SELECT 1 FROM audit WHERE namespace = ? AND collection = ? LIMIT 1",
            namespace,
            collection,
        )
    )


def stored(rows: Rows, origin: Origin) -> dict[tuple[str, str, str], Status]:
    """Return what a call stored that is now repeated.

    Returns:
        What it did last, by collection, namespace and document id.
    """
    if not origin.call:
        return {}
    found = rows(
        "SELECT collection, namespace, document_id, action FROM audit"
        " INDEXED BY audit_calls"
        " WHERE call = ? AND call <> '' AND action IN (?, ?) ORDER BY key",
        origin.call,
        CREATED,
        REPLACED,
    )
    return {
        (collection, namespace, document_id): action
        for collection, namespace, document_id, action in found
    }


def deleted(rows: Rows, origin: Origin, collection: str, namespace: str) -> list[str]:
    """Return the ids of what a call deleted that is now repeated, in order of id."""
    if not origin.call:
        return []
    found = rows(
        # Else SQLite may read every change of the namespace.
        "SELECT document_id FROM audit INDEXED BY audit_calls"
        " WHERE call = ? AND call <> '' AND action = ?"
        " AND collection = ? AND namespace = ? ORDER BY document_id",
        origin.call,
        DELETED,
        collection,
        namespace,
    )
    return [document_id for (document_id,) in found]
