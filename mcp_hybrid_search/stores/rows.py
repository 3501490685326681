"""Rows of the ledger as values, and what is selected to make them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp_hybrid_search.documents import Document


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection's row."""

    key: int
    name: str
    models: str
    fingerprint: str
    created_at: float


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document's row: the document and what only the engine needs."""

    key: int
    document: Document
    content_hash: bytes


DOCUMENT = (
    "documents.key, document_id, name, namespace, title, source, metadata,"
    " documents.created_at, updated_at, chunk_count, content_hash"
)
"""Columns of `documents` joined with `collections`; see `document_row`."""


def document_row(row: Sequence[Any]) -> DocumentRow:
    """Return the row that was selected by `DOCUMENT`."""
    key, identity, name, namespace, title, source, metadata, *rest = row
    created_at, updated_at, chunk_count, content_hash = rest
    loaded: Mapping[str, Any] = json.loads(metadata)
    document = Document(
        document_id=identity,
        collection=name,
        namespace=namespace,
        title=title,
        source=source,
        metadata=loaded,
        created_at=created_at,
        updated_at=updated_at,
        chunk_count=chunk_count,
    )
    return DocumentRow(key, document, content_hash)
