"""The embedded store: the ledger, and an index that is kept equal to it.

A write goes to the index first, under point ids that no row knows yet, and becomes
visible by the ledger's commit: whole, or not at all. What the index holds beyond
the last checkpoint is lost in a crash and encoded again from the ledger.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mcp_hybrid_search.documents import Chunk, CollectionInfo, Document
from mcp_hybrid_search.embeddings import Encoded
from mcp_hybrid_search.errors import (
    ConflictError,
    HybridSearchError,
    ModelUnavailableError,
    NotFoundError,
    StoreUnavailableError,
)
from mcp_hybrid_search.filters import Filter
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stores.edge import EdgeIndex, Point, Ranking, size_bytes
from mcp_hybrid_search.stores.ledger import Collection, DocumentRow, Ledger

log = logging.getLogger(__name__)

CHECKPOINT_IDLE_SECONDS = 1.0
CHECKPOINT_SECONDS = 10.0
RETRY_SECONDS = 10.0
"""How long the background rests after a failure, unless there is a write."""
FULL_BYTES = 4 * 1024 * 1024
"""Free space below which the index is not opened or changed: see `_check_space`."""
REPAIR_CHUNKS = 32
"""Chunks that are encoded again before the next look at what else is due."""
REPAIR_GRACE_SECONDS = 2.0
"""How long a search waits for the index to be complete before it says it is not."""

Encode = Callable[[str | None, Sequence[Chunk]], list[Encoded]]
"""Encode chunks under a title, as they were when they were stored."""


@dataclass(slots=True)
class _Open:
    """An open index and what it still lacks."""

    index: EdgeIndex
    pending: list[int]
    """Documents to encode again, by key, last first."""
    unflushed: list[int]
    """Documents written since the checkpoint, by key."""
    dirty_since: float | None = None
    """When the first change after the checkpoint was made, monotonic."""
    notice: str | None = None
    problem: str | None = None
    """Why the last attempt to encode a document again failed."""

    def touch(self) -> None:
        """Take note of a change that no checkpoint has."""
        if self.dirty_since is None:
            self.dirty_since = time.monotonic()


class EmbeddedStore:
    """The store of one data directory; one process at a time has it."""

    def __init__(
        self,
        settings: Settings,
        *,
        models: str,
        fingerprint: str,
        dims: Mapping[str, int],
    ) -> None:
        """Lock the directory and open its ledger; indexes open when first used.

        Args:
            settings: The directory and how vectors are stored.
            models: Description of the model set, for people.
            fingerprint: What a collection must have been made with.
            dims: Vector lengths; empty if the models could not be loaded.

        Raises:
            StoreUnavailableError: If another process has the directory, or it
                cannot be used.
        """
        self._settings = settings
        self._models = models
        self._fingerprint = fingerprint
        self._dims = dims
        self._root = settings.data_dir
        self._file_lock = _locked(self._root)
        try:
            self._ledger = Ledger(self._root / "ledger.sqlite3")
            self._remove_orphans()
        except BaseException:
            self._file_lock.release()
            raise
        self._open: dict[int, _Open] = {}
        self._write_lock = threading.RLock()
        self._work = threading.Event()
        self._complete = threading.Event()
        self._complete.set()
        self._closing = False
        self._pause_seconds = CHECKPOINT_IDLE_SECONDS
        self._maintenance: threading.Thread | None = None

    # Life

    def maintain(self, encode: Encode) -> None:
        """Start checkpointing and repairing in the background."""
        self._maintenance = threading.Thread(
            target=self._maintain, args=(encode,), name="maintenance", daemon=True
        )
        self._maintenance.start()

    def close(self) -> None:
        """Bring the index to the disk and give the directory back."""
        self._closing = True
        self._work.set()
        if self._maintenance is not None:
            self._maintenance.join()
        with self._write_lock, ExitStack() as last:
            # Whatever fails, the rest is closed; the ledger has every document.
            last.callback(self._file_lock.release)
            last.callback(self._ledger.close)
            self._checkpoint_or_log()
            for opened in self._open.values():
                last.callback(opened.index.close)
            self._open.clear()

    # Collections

    def collection(self, name: str) -> Collection | None:
        """Return a collection that can be searched; None if there is none at all.

        Raises:
            NotFoundError: If other collections exist, but not this one.
            ConflictError: If it was made with other models or chunking.
        """
        found = self._named(name)
        if found is None:
            names = [collection.name for collection in self._ledger.collections()]
            if not names:
                return None
            listed = ", ".join(repr(name) for name in names)
            msg = f"There is no collection {name!r}. There are: {listed}."
            raise NotFoundError(msg)
        return self._checked(found)

    def collection_for_writing(self, name: str) -> Collection:
        """Return a collection, created if need be.

        Raises:
            ConflictError: If it was made with other models or chunking.
        """
        with self._write_lock:
            found = self._named(name)
            if found is None:
                self._check_space()
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
        return self._checked(found)

    def _named(self, name: str) -> Collection | None:
        for collection in self._ledger.collections():
            if collection.name.casefold() == name.casefold():
                if collection.name != name:
                    msg = (
                        f"There is a collection {collection.name!r}; names that differ"
                        f" only in case are one name. Use {collection.name!r}."
                    )
                    raise ConflictError(msg)
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

    def collections(self) -> list[CollectionInfo]:
        """Describe every collection."""
        counts = self._ledger.counts()
        texts = self._ledger.text_bytes()
        return [
            CollectionInfo(
                name=collection.name,
                model_set=collection.models,
                documents=counts.get(collection.key, (0, 0))[0],
                chunks=counts.get(collection.key, (0, 0))[1],
                size_bytes=texts.get(collection.key, 0)
                + size_bytes(self._index_path(collection.key)),
                created_at=collection.created_at,
            )
            for collection in self._ledger.collections()
        ]

    # Documents

    def find(
        self, collection: Collection, namespace: str, document_id: str
    ) -> DocumentRow | None:
        """Return a document's row, or None."""
        return self._ledger.find(collection, namespace, document_id)

    def chunks(self, row: DocumentRow, *, first: int, limit: int) -> list[Chunk]:
        """Return chunks of a document in order; a negative limit means all."""
        return self._ledger.chunks(row.key, first=first, limit=limit)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers out, so that what was found stays true."""
        with self._write_lock:
            yield

    def write(
        self,
        collection: Collection,
        document: Document,
        chunks: Sequence[Chunk],
        encoded: Sequence[Encoded],
        *,
        content_hash: bytes,
    ) -> None:
        """Store a document in place of the one with its id, whole or not at all.

        Raises:
            StoreUnavailableError: If the disk is full or cannot be written.
        """
        with self._write_lock:
            self._check_space()
            opened = self._opened(collection)
            first = self._ledger.next_point_id()
            points = [
                Point(first + i, vectors, document) for i, vectors in enumerate(encoded)
            ]
            opened.touch()
            try:
                opened.index.upsert(points)
                key, replaced = self._ledger.write(
                    collection,
                    document,
                    chunks,
                    first_point_id=first,
                    content_hash=content_hash,
                )
            except BaseException:
                # If that fails too: they have no rows, so they are no hits.
                with suppress(StoreUnavailableError):
                    opened.index.delete([point.point_id for point in points])
                raise
            opened.unflushed.append(key)
            self._work.set()
            self._forget(opened.index, replaced)

    def delete(self, collection: Collection, namespace: str, document_id: str) -> bool:
        """Delete a document; False if there is none."""
        with self._write_lock:
            points = self._ledger.delete(collection, namespace, document_id)
            # An index that is not open will be compared with the ledger.
            opened = self._open.get(collection.key)
            if points and opened is not None:
                opened.touch()
                self._work.set()
                self._forget(opened.index, points)
        return bool(points)

    def _forget(self, index: EdgeIndex, point_ids: Sequence[int]) -> None:
        """Remove points whose rows are gone; until it succeeds they are no hits."""
        try:
            if self._free_bytes() >= FULL_BYTES:
                index.delete(point_ids)
        except StoreUnavailableError as exc:
            log.warning("Deleted chunks are still in the index: %s", exc)

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
        if not self._dims and not self._index_path(collection.key).exists():
            return {}
        opened = self._opened(collection)
        if opened.pending:
            self._complete.wait(REPAIR_GRACE_SECONDS)
        return opened.index.rankings(
            query, namespace=namespace, filter_=filter_, limit=limit
        )

    def hits(
        self, namespace: str, point_ids: Sequence[int]
    ) -> dict[int, tuple[int, Document, Chunk]]:
        """Return (document key, document, chunk) of the points that are still true."""
        return {
            point_id: found
            for point_id, found in self._ledger.hits(point_ids).items()
            if found[1].namespace == namespace
        }

    def notices(self, collection: Collection) -> list[str]:
        """Say what a search of this collection cannot find now."""
        opened = self._open.get(collection.key)
        if opened is None:
            return []
        notices = [opened.notice] if opened.notice else []
        count, problem = len(opened.pending), opened.problem
        if count and problem:
            notices.append(
                f"{count} documents cannot be found until they are indexed again, which"
                f" failed: {problem}"
            )
        elif count:
            notices.append(
                f"{count} documents are being indexed again and cannot be found yet;"
                " search again in a minute."
            )
        return notices

    def chunk_count(self, collection: Collection, namespace: str) -> int:
        """Return how many chunks a namespace holds."""
        return self._ledger.chunk_count(collection, namespace)

    # Reindexing

    def documents_of(self, name: str) -> tuple[Collection, list[int]]:
        """Return a collection, whatever it was made with, and its documents' keys."""
        found = self._named(name)
        if found is None:
            msg = f"There is no collection {name!r}."
            raise NotFoundError(msg)
        return found, self._ledger.document_keys(found)

    def document_by_key(self, key: int) -> DocumentRow:
        """Return a document by a key that `documents_of` gave."""
        row = self._ledger.document(key)
        if row is None:
            msg = "A document was deleted while its collection was encoded again."
            raise NotFoundError(msg)
        return row

    def replace_collection(self, old: Collection, new: Collection) -> None:
        """Let `new` take the place of `old`, whose index is removed."""
        with self._write_lock:
            self._checkpoint()
            self._ledger.replace_collection(old, new)
            self._drop_index(old)

    def discard_collection(self, name: str) -> None:
        """Remove a collection with everything in it, if it exists."""
        with self._write_lock:
            collection = self._named(name)
            if collection is not None:
                self._ledger.delete_collection(collection.key)
                self._drop_index(collection)

    def _drop_index(self, collection: Collection) -> None:
        opened = self._open.pop(collection.key, None)
        if opened is not None:
            opened.index.close()
        shutil.rmtree(self._index_path(collection.key), ignore_errors=True)

    # Keeping the index equal to the ledger

    def _index_path(self, key: int) -> Path:
        return self._root / "index" / str(key)

    def _opened(self, collection: Collection) -> _Open:
        # A search must not wait for a long write to give the lock back.
        opened = self._open.get(collection.key)
        if opened is not None:
            return opened
        with self._write_lock:
            opened = self._open.get(collection.key)
            if opened is None:
                self._check_current(collection)
                opened = self._reconciled(collection)
                self._open[collection.key] = opened
                if opened.pending:
                    self._complete.clear()
                    self._work.set()
            return opened

    def _check_current(self, collection: Collection) -> None:
        if self._closing:
            msg = "The store is being closed."
            raise StoreUnavailableError(msg)
        if collection.key not in {each.key for each in self._ledger.collections()}:
            msg = f"The collection {collection.name!r} was replaced; call again."
            raise NotFoundError(msg)

    def _reconciled(self, collection: Collection) -> _Open:
        """Open an index and compare it with the ledger, point by point."""
        index, notice = self._loaded_or_new(collection)
        expected = self._ledger.point_ids(collection)
        present = index.point_ids()
        missing = {key for point, key in expected.items() if point not in present}
        if missing:
            self._ledger.mark_indexed(missing, indexed=False)
        index.delete(
            [p for p in present if p not in expected or expected[p] in missing]
        )
        pending = self._ledger.unindexed(collection)[::-1]
        opened = _Open(index, pending, [], notice=notice)
        opened.touch()
        return opened

    def _loaded_or_new(self, collection: Collection) -> tuple[EdgeIndex, str | None]:
        """Load an index; a damaged one is moved aside, and told in a notice."""
        path = self._index_path(collection.key)
        try:
            return self._load(path), None
        except StoreUnavailableError as exc:
            full = self._free_bytes() < FULL_BYTES
            if full or not path.exists() or not self._dims:
                raise
            failure = exc
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        path.rename(aside)
        try:
            index = self._load(path)
        except HybridSearchError:
            # Not the index is at fault but the disk, the memory, a limit.
            aside.rename(path)
            raise
        notice = (
            f"The index of {collection.name!r} was damaged. It was moved to {aside} and"
            " is made again from the ledger; no document is lost."
        )
        log.warning("%s (%s)", notice, failure)
        return index, notice

    def _load(self, path: Path) -> EdgeIndex:
        if not self._dims and not path.exists():
            msg = f"The index in {path} cannot be made again without all three models."
            raise ModelUnavailableError(msg)
        if self._free_bytes() < FULL_BYTES:
            msg = (
                f"The disk that holds {self._root} is full, so that the index cannot be"
                " opened for searching. No document is lost. Free space, then retry."
            )
            raise StoreUnavailableError(msg)
        return EdgeIndex(path, dims=self._dims, storage=self._settings.token_storage)

    def _remove_orphans(self) -> None:
        """Remove indexes of collections that are no more: a crash came between."""
        known = {str(collection.key) for collection in self._ledger.collections()}
        for path in (self._root / "index").glob("*"):
            if path.name.isdigit() and path.name not in known:
                shutil.rmtree(path, ignore_errors=True)

    def _maintain(self, encode: Encode) -> None:
        while not self._closing:
            idle = not self._repair(encode) and not self._woken()
            if idle or self._checkpoint_due():
                self._checkpoint_or_log()

    def _woken(self) -> bool:
        """Wait for the next write; False if something else is due before it."""
        self._complete.set()
        opened = [*self._open.copy().values()]
        seconds = None
        if any(each.dirty_since is not None for each in opened):
            seconds = self._pause_seconds
        elif any(each.pending for each in opened):
            seconds = RETRY_SECONDS
        woken = self._work.wait(seconds)
        self._work.clear()
        return woken

    def _checkpoint_due(self) -> bool:
        since = [each.dirty_since for each in self._open.copy().values()]
        overdue = time.monotonic() - CHECKPOINT_SECONDS
        return any(moment is not None and moment < overdue for moment in since)

    def _checkpoint_or_log(self) -> None:
        with self._write_lock:
            try:
                self._checkpoint()
                self._pause_seconds = CHECKPOINT_IDLE_SECONDS
            except Exception:
                # Nothing is lost: the ledger has it, and the next one may succeed.
                log.exception("The index could not be brought to the disk.")
                self._pause_seconds = RETRY_SECONDS
                for opened in self._open.values():
                    if opened.dirty_since is not None:
                        opened.dirty_since = time.monotonic()

    def _checkpoint(self) -> None:
        for opened in self._open.values():
            if opened.dirty_since is not None:
                if self._free_bytes() < FULL_BYTES:
                    msg = f"The disk that holds {self._root} is full."
                    raise StoreUnavailableError(msg)
                opened.index.flush()
                self._ledger.mark_indexed(opened.unflushed)
                opened.unflushed.clear()
                opened.dirty_since = None

    def _repair(self, encode: Encode) -> bool:
        """Encode some of what an index lacks; False if nothing is left to do."""
        for opened in self._open.copy().values():
            if opened.pending:
                return self._repair_next(opened, encode)
        return False

    def _repair_next(self, opened: _Open, encode: Encode) -> bool:
        key = opened.pending[-1]
        try:
            complete = self._repair_document(opened, key, encode)
        except Exception as exc:
            # Whatever it is, it must not end the thread: searches tell it.
            log.exception("A document could not be indexed again.")
            foreseen = isinstance(exc, HybridSearchError)
            opened.problem = str(exc) if foreseen else "a bug; the log has it."
            # The others get their turn, should it be this one that cannot be.
            opened.pending.insert(0, opened.pending.pop())
            return False
        if complete:
            opened.problem = None
            opened.pending.pop()
        return complete

    def _repair_document(self, opened: _Open, key: int, encode: Encode) -> bool:
        """Encode a document again; False if the store is closed meanwhile."""
        row = self._ledger.document(key)
        if row is None:
            return True
        ids = self._ledger.document_point_ids(key)
        for first in range(0, len(ids), REPAIR_CHUNKS):
            chunks = self._ledger.chunks(key, first=first, limit=REPAIR_CHUNKS)
            if self._closing:
                return False
            encoded = encode(row.document.title, chunks)
            with self._write_lock:
                # Replaced meanwhile: its points must not come back.
                if self._ledger.document(key) is None:
                    return True
                self._check_space()
                opened.touch()
                opened.index.upsert(
                    Point(point_id, vectors, row.document)
                    for point_id, vectors in zip(ids[first:], encoded, strict=False)
                )
                if first + REPAIR_CHUNKS >= len(ids):
                    opened.unflushed.append(key)
        return True

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._root).free
        except OSError as exc:
            msg = f"{self._root} cannot be used: {exc.strerror}."
            raise StoreUnavailableError(msg) from exc

    def _check_space(self) -> None:
        # Edge maps its files: a full disk would kill the process (SIGBUS).
        free = self._free_bytes()
        if free < self._settings.min_free_bytes:
            msg = (
                f"The disk that holds {self._root} has {free / 1e6:,.0f} MB free; at"
                f" least {self._settings.min_free_bytes / 1e6:,.0f} MB are kept free"
                " (HYBRID_SEARCH_MIN_FREE_BYTES). Nothing was stored. Free space, then"
                " retry; searching goes on."
            )
            raise StoreUnavailableError(msg)
        if not os.access(self._root, os.W_OK):
            msg = f"{self._root} cannot be written. Give this user write permission."
            raise StoreUnavailableError(msg)


def _locked(root: Path) -> FileLock:
    """Create the data directory and take its lock.

    Raises:
        StoreUnavailableError: If another process has it, naming that process.
    """
    if root.is_symlink() or (root / "lock").is_symlink():
        msg = f"{root} or its lock is a symbolic link. Name the directory itself."
        raise StoreUnavailableError(msg)
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One thread opens the store, another one closes it.
        lock = FileLock(root / "lock", mode=0o600, thread_local=False)
        lock.acquire(timeout=0)
    except Timeout:
        msg = (
            f"{root} is in use by {_owner(root)}. Close that program, or give this one"
            " a directory of its own with HYBRID_SEARCH_DATA_DIR."
        )
        raise StoreUnavailableError(msg) from None
    except OSError as exc:
        msg = f"{root} cannot be used as data directory: {exc.strerror}."
        raise StoreUnavailableError(msg) from exc
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    # A full disk must not keep anyone from searching.
    with suppress(OSError):
        (root / "owner").write_text(f"process {os.getpid()}, since {started}")
    return lock


def _owner(root: Path) -> str:
    try:
        return (root / "owner").read_text()
    except OSError:
        return "another process"
