"""A store whose documents were never encoded: for what the ledger alone answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcp_hybrid_search.documents import NOBODY, Chunk, Document
from mcp_hybrid_search.settings import load_settings
from mcp_hybrid_search.stores.directory import DataDirectory
from mcp_hybrid_search.stores.embedded import EmbeddedStore


@contextmanager
def fabricated_store(root: Path) -> Iterator[EmbeddedStore]:
    """Open a store that has no models, and so no index."""
    directory = DataDirectory(root, min_free_bytes=0)
    store = EmbeddedStore(
        load_settings(data_dir=root, min_free_bytes=0),
        directory,
        models="none",
        fingerprint="none",
        dims={},
    )
    # What is tested here does not depend on what is synced.
    store._ledger._db.execute("PRAGMA synchronous = OFF")
    yield store
    store.close()
    directory.release()


def put(
    store: EmbeddedStore,
    document_id: str,
    *,
    collection: str = "documents",
    namespace: str = "default",
    **given: Any,
) -> None:
    """Write a document of one chunk, or replace it."""
    found = store.collection_for_writing(collection, namespace)
    values = {
        "title": None,
        "source": None,
        "metadata": {},
        "created_at": 0.0,
        "updated_at": 0.0,
        **given,
    }
    store._ledger.write(
        found,
        Document(document_id, collection, namespace, chunk_count=1, **values),
        [Chunk(0, 0, "text")],
        first_point_id=store._ledger.next_point_id(),
        content_hash=b"",
        origin=NOBODY,
    )
