"""Documents that are changed without being encoded: metadata, deletions. Blocks."""

import json
from collections.abc import Mapping
from dataclasses import replace

from mcp_hybrid_search.chunking import joined
from mcp_hybrid_search.documents import Deletion, Document, Json, Origin
from mcp_hybrid_search.errors import ConflictError, NotFoundError
from mcp_hybrid_search.filters import parse_filter
from mcp_hybrid_search.listing import Order
from mcp_hybrid_search.merging import merged
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stores.embedded import EmbeddedStore
from mcp_hybrid_search.storing import changed_at, hash_of
from mcp_hybrid_search.validation import (
    check_deletion,
    check_metadata,
    check_place,
)

FIRST_IDS = 10
_BY_ID = Order("id", descending=False)


class DocumentChanger:
    """Changes what is stored in one store."""

    def __init__(self, store: EmbeddedStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def update_metadata(
        self,
        collection: str,
        namespace: str,
        document_id: str,
        patch: Mapping[str, Json],
        *,
        origin: Origin,
    ) -> Document:
        """Apply a merge patch to a document's metadata; see `Engine`."""
        check_place(collection, namespace, document_id)
        check_metadata(patch, self._settings.max_metadata_bytes)
        with self._store.writing():
            found = self._store.collection(collection, namespace)
            if found is None:
                raise no_document(collection, namespace, document_id)
            stored = self._store.read(found, namespace, document_id)
            if stored is None:
                raise no_document(collection, namespace, document_id)
            before, chunks = stored
            metadata = merged(before.metadata, patch)
            check_metadata(metadata, self._settings.max_metadata_bytes)
            if _spelled(metadata) == _spelled(before.metadata):
                return before
            after = replace(before, metadata=metadata, updated_at=changed_at(before))
            self._store.update_metadata(
                found,
                after,
                content_hash=hash_of(
                    joined(chunks), after.title, after.source, metadata
                ),
                origin=origin,
            )
            return after

    def delete(
        self, collection: str, namespace: str, document_id: str, *, origin: Origin
    ) -> bool:
        """Delete a document; see `Engine`."""
        check_place(collection, namespace, document_id)
        with self._store.writing():
            if document_id in self._store.deleted_by(origin, collection, namespace):
                return True
            found = self._store.collection(collection, namespace)
            return found is not None and self._store.delete(
                found, namespace, [document_id], origin=origin
            )

    def delete_matching(
        self,
        collection: str,
        namespace: str,
        filter_: Mapping[str, Json],
        *,
        expected_count: int | None,
        origin: Origin,
    ) -> Deletion:
        """Delete what matches, if it is as much as expected; see `Engine`."""
        check_deletion(collection, namespace, filter_, expected_count)
        if expected_count is None:
            ids = self._matching(collection, namespace, filter_)
            return _deletion(ids, deleted=False)
        # What matches must not change until it is deleted.
        with self._store.writing():
            before = self._store.deleted_by(origin, collection, namespace)
            if before:
                return _deletion(before, deleted=True)
            ids = self._matching(collection, namespace, filter_)
            if len(ids) != expected_count:
                msg = (
                    f"The filter matches {len(ids)} documents now, not"
                    f" {expected_count}. Nothing was deleted. See what it matches and"
                    " confirm that number."
                )
                raise ConflictError(msg)
            found = self._store.collection(collection, namespace)
            if found is not None and ids:
                self._store.delete(found, namespace, ids, origin=origin)
        return _deletion(ids, deleted=True)

    def _matching(
        self, collection: str, namespace: str, filter_: Mapping[str, Json]
    ) -> list[str]:
        found = self._store.collection(collection, namespace)
        if found is None:
            return []
        condition = parse_filter(filter_)
        matching = self._store.lists.matching(found, namespace, _BY_ID, condition)
        return [document_id for (_, document_id), _ in matching]


def no_document(collection: str, namespace: str, document_id: str) -> NotFoundError:
    """Say that there is no such document."""
    return NotFoundError(
        f"There is no document {document_id!r} in namespace {namespace!r} of collection"
        f" {collection!r}. Search with hybrid-search."
    )


def _deletion(ids: list[str], *, deleted: bool) -> Deletion:
    return Deletion(len(ids), tuple(ids[:FIRST_IDS]), deleted)


def _spelled(metadata: Mapping[str, Json]) -> str:
    return json.dumps(dict(metadata), sort_keys=True)
