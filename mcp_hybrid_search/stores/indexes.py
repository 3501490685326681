"""The indexes of a data directory, kept equal to the ledger.

Opening one compares it with the ledger point by point. A thread brings what was
written to the disk, encodes again what an index lacks, and optimises in between.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from mcp_hybrid_search.documents import Chunk, Document
from mcp_hybrid_search.embeddings import Encoded
from mcp_hybrid_search.errors import (
    HybridSearchError,
    ModelUnavailableError,
    NotFoundError,
    StoreUnavailableError,
)
from mcp_hybrid_search.stores.directory import DataDirectory
from mcp_hybrid_search.stores.edge import EdgeIndex, Point
from mcp_hybrid_search.stores.ledger import ABSENT, OLD_PAYLOAD, Ledger
from mcp_hybrid_search.stores.lists import Lists
from mcp_hybrid_search.stores.optimizing import IDLE_SECONDS, Slices
from mcp_hybrid_search.stores.rows import Collection

log = logging.getLogger(__name__)

CHECKPOINT_IDLE_SECONDS = 1.0
CHECKPOINT_SECONDS = 10.0
RETRY_SECONDS = 10.0
"""How long the background rests after a failure, unless there is a write."""
HALF_A_MILLISECOND = 0.0005
REPAIR_CHUNKS = 32
"""Chunks that are encoded again before the next look at what else is due."""
REPAIR_GRACE_SECONDS = 2.0
"""How long a search waits for the index to be complete before it says it is not."""

Encode = Callable[[str | None, Sequence[Chunk]], list[Encoded]]
"""Encode chunks under a title, as they were when they were stored."""


@dataclass(slots=True)
class OpenIndex:
    """An open index and what it still lacks."""

    index: EdgeIndex
    slices: Slices
    pending: list[int]
    """Documents to encode again, by key, last first."""
    unflushed: list[int]
    """Documents written since the checkpoint, by key."""
    updated: set[int] = field(default_factory=set)
    """Documents whose metadata was changed since the checkpoint, by key."""
    stale: set[int] = field(default_factory=set)
    """Documents whose metadata could not be brought into the index yet, by key."""
    dirty_since: float | None = None
    """When the first change after the checkpoint was made, monotonic."""
    notice: str | None = None
    problem: str | None = None
    """Why the last attempt to encode a document again failed."""

    def touch(self) -> None:
        """Take note of a change that no checkpoint has."""
        if self.dirty_since is None:
            self.dirty_since = time.monotonic()


class Indexes:
    """The open indexes and the thread that keeps them."""

    def __init__(
        self,
        directory: DataDirectory,
        ledger: Ledger,
        lists: Lists,
        *,
        dims: Mapping[str, int],
        storage: str,
    ) -> None:
        """Open nothing yet.

        Args:
            directory: Locked by this process.
            ledger: What every index must equal.
            lists: Of that ledger.
            dims: Vector lengths; empty if the models could not be loaded.
            storage: How late-interaction vectors are kept.
        """
        self._directory = directory
        self._ledger = ledger
        self._lists = lists
        self._dims = dims
        self._storage = storage
        self._open: dict[int, OpenIndex] = {}
        self.write_lock = threading.RLock()
        """Held by whoever changes the ledger or an index."""
        self._work = threading.Event()
        self._complete = threading.Event()
        self._complete.set()
        self._closing = False
        self._pause_seconds = CHECKPOINT_IDLE_SECONDS
        self._maintenance: threading.Thread | None = None
        self._remove_orphans()

    def maintain(self, encode: Encode) -> None:
        """Start checkpointing and repairing in the background."""
        self._maintenance = threading.Thread(
            target=self._maintain, args=(encode,), name="maintenance", daemon=True
        )
        self._maintenance.start()

    def close(self) -> None:
        """Bring the indexes to the disk and close them, whatever fails."""
        self._closing = True
        self._work.set()
        if self._maintenance is not None:
            self._maintenance.join()
        with self.write_lock, ExitStack() as last:
            self._checkpoint_or_log()
            for opened in self._open.values():
                last.callback(opened.index.close)
            self._open.clear()

    def opened(self, collection: Collection) -> OpenIndex:
        """Return an index, opened and compared with the ledger if need be.

        Raises:
            HybridSearchError: If it cannot be opened now.
        """
        # A search must not wait for a long write to give the lock back.
        opened = self._open.get(collection.key)
        if opened is not None:
            return opened
        with self.write_lock:
            opened = self._open.get(collection.key)
            if opened is None:
                self._check_current(collection)
                opened = self._reconciled(collection)
                self._open[collection.key] = opened
                if opened.pending:
                    self._complete.clear()
                # There may be something to repair, to optimise, to bring to the disk.
                self._work.set()
            return opened

    def changed(self, opened: OpenIndex) -> None:
        """Take note of a change that no checkpoint has."""
        opened.touch()
        self._work.set()

    def exists(self, collection: Collection) -> bool:
        """Return whether a collection can be searched, or made searchable."""
        path = self._directory.index_path(collection.key)
        return bool(self._dims) or path.exists()

    def wait_until_complete(self, opened: OpenIndex, namespace: str) -> None:
        """Wait a moment for what an index still lacks of a namespace."""
        if opened.pending and self._lists.count_of(opened.pending, namespace):
            self._complete.wait(REPAIR_GRACE_SECONDS)

    def checkpoint(self) -> None:
        """Bring every change to the disk."""
        with self.write_lock:
            self._checkpoint()

    def if_open(self, collection: Collection) -> OpenIndex | None:
        """Return an index only if it is open already."""
        return self._open.get(collection.key)

    def notices(self, collection: Collection, namespace: str) -> list[str]:
        """Say what a search of this collection cannot find of a namespace now."""
        opened = self._open.get(collection.key)
        if opened is None:
            return []
        notices = [opened.notice] if opened.notice else []
        count, problem = self._count_of(opened.pending, namespace), opened.problem
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
        if stale := self._count_of(opened.stale, namespace):
            notices.append(
                f"The index does not have the new metadata of {stale} documents yet:"
                " filters see the old. Search again in a minute."
            )
        return notices

    def _count_of(self, keys: Iterable[int], namespace: str) -> int:
        return self._lists.count_of([*keys], namespace) if keys else 0

    def update(self, opened: OpenIndex, key: int, document: Document) -> None:
        """Bring a document's new metadata into the index, now or by and by."""
        opened.stale.add(key)
        try:
            if not self._directory.is_full():
                opened.index.overwrite(self._ledger.document_point_ids(key), document)
                opened.touch()
                opened.stale.discard(key)
                opened.updated.add(key)
        except StoreUnavailableError as exc:
            log.warning("The index has old metadata of a document: %s", exc)

    def forget(self, index: EdgeIndex, point_ids: Sequence[int]) -> None:
        """Remove points whose rows are gone; until it succeeds they are no hits."""
        try:
            if not self._directory.is_full():
                index.delete(point_ids)
        except StoreUnavailableError as exc:
            log.warning("Deleted chunks are still in the index: %s", exc)

    def drop(self, collection: Collection) -> None:
        """Remove the index of a collection that is no more."""
        opened = self._open.pop(collection.key, None)
        if opened is not None:
            opened.index.close()
        shutil.rmtree(self._directory.index_path(collection.key), ignore_errors=True)

    def _check_current(self, collection: Collection) -> None:
        if self._closing:
            msg = "The store is being closed."
            raise StoreUnavailableError(msg)
        if collection.key not in {each.key for each in self._ledger.collections()}:
            msg = f"The collection {collection.name!r} was replaced; call again."
            raise NotFoundError(msg)

    def _reconciled(self, collection: Collection) -> OpenIndex:
        """Open an index and compare it with the ledger, point by point."""
        index, notice = self._loaded_or_new(collection)
        expected = self._ledger.point_ids(collection)
        present = index.point_ids()
        missing = {key for point, key in expected.items() if point not in present}
        if missing:
            self._ledger.mark_indexed(missing, ABSENT)
        index.delete(
            [p for p in present if p not in expected or expected[p] in missing]
        )
        pending = self._ledger.unindexed(collection)[::-1]
        slices = Slices(index, self._directory)
        opened = OpenIndex(index, slices, pending, [], notice=notice)
        opened.touch()
        for key in {
            *self._ledger.with_old_payload(collection),
            *self._outdated(index, collection),
        }:
            self._update_again(opened, key)
        return opened

    def _outdated(self, index: EdgeIndex, collection: Collection) -> set[int]:
        """Return the documents whose metadata in the index is older than it should be.

        It is not, unless somebody put an older index in the place of the newest.
        """
        expected = self._ledger.changed_points(collection)
        told = index.updated_at(expected) if expected else {}
        return {
            key
            for point, (key, moment) in expected.items()
            if abs(told.get(point, 0.0) - moment) > HALF_A_MILLISECOND
        }

    def _update_again(self, opened: OpenIndex, key: int) -> None:
        row = self._ledger.document(key)
        if row is None:
            opened.stale.discard(key)
        else:
            self.update(opened, key, row.document)

    def _loaded_or_new(self, collection: Collection) -> tuple[EdgeIndex, str | None]:
        """Load an index; a damaged one is moved aside, and told in a notice."""
        path = self._directory.index_path(collection.key)
        try:
            return self._load(path), None
        except StoreUnavailableError as exc:
            full = self._directory.is_full()
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
        if self._directory.is_full():
            msg = (
                f"The disk that holds {self._directory.root} is full, so that the index"
                " cannot be opened for searching. No document is lost. Free space, then"
                " retry."
            )
            raise StoreUnavailableError(msg)
        return EdgeIndex(path, dims=self._dims, storage=self._storage)

    def _remove_orphans(self) -> None:
        """Remove indexes of collections that are no more: a crash came between."""
        known = {str(collection.key) for collection in self._ledger.collections()}
        for path in (self._directory.root / "index").glob("*"):
            if path.name.isdigit() and path.name not in known:
                shutil.rmtree(path, ignore_errors=True)

    def _maintain(self, encode: Encode) -> None:
        while not self._closing:
            self._update_stale()
            idle = not self._repair(encode) and not self._woken()
            if idle or self._checkpoint_due():
                self._checkpoint_or_log()
            self._optimize()

    def _woken(self) -> bool:
        """Wait for the next write; False if something else is due before it."""
        self._complete.set()
        opened = [*self._open.copy().values()]
        seconds = None
        if any(each.dirty_since is not None for each in opened):
            seconds = self._pause_seconds
        elif any(each.pending or each.stale for each in opened):
            seconds = RETRY_SECONDS
        elif any(each.slices.wanted() for each in opened):
            seconds = IDLE_SECONDS
        woken = self._work.wait(seconds)
        self._work.clear()
        return woken

    def _checkpoint_due(self) -> bool:
        since = [each.dirty_since for each in self._open.copy().values()]
        overdue = time.monotonic() - CHECKPOINT_SECONDS
        return any(moment is not None and moment < overdue for moment in since)

    def _checkpoint_or_log(self) -> None:
        with self.write_lock:
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
                if self._directory.is_full():
                    msg = f"The disk that holds {self._directory.root} is full."
                    raise StoreUnavailableError(msg)
                opened.index.flush()
                self._mark(opened)
                opened.dirty_since = None

    def _mark(self, opened: OpenIndex) -> None:
        """Note in the ledger what the index has on the disk now."""
        stale = opened.stale.intersection(opened.unflushed)
        self._ledger.mark_indexed([k for k in opened.unflushed if k not in stale])
        if stale:
            self._ledger.mark_indexed(stale, OLD_PAYLOAD)
        if opened.updated:
            self._ledger.mark_payloads(opened.updated - opened.stale)
        opened.unflushed.clear()
        opened.updated.clear()

    def _optimize(self) -> None:
        """Run a slice of an index that is due."""
        due = any(each.slices.due() for each in self._open.copy().values())
        if self._closing or not due:
            return
        with self.write_lock:
            self._checkpoint_or_log()
            for opened in self._open.values():
                # Nothing is optimised that could not be brought to the disk.
                clean = opened.dirty_since is None
                if clean and opened.slices.due():
                    opened.touch()
                    opened.slices.run()
                    return

    def _update_stale(self) -> None:
        """Try again to bring new metadata into the indexes."""
        for opened in self._open.copy().values():
            if opened.stale:
                try:
                    with self.write_lock:
                        for key in [*opened.stale]:
                            self._update_again(opened, key)
                except Exception:
                    # Whatever it is, it must not end the thread: searches tell it.
                    log.exception("Metadata could not be brought into the index.")

    def _repair(self, encode: Encode) -> bool:
        """Encode some of what an index lacks; False if nothing is left to do."""
        for opened in self._open.copy().values():
            if opened.pending:
                return self._repair_next(opened, encode)
        return False

    def _repair_next(self, opened: OpenIndex, encode: Encode) -> bool:
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

    def _repair_document(self, opened: OpenIndex, key: int, encode: Encode) -> bool:
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
            with self.write_lock:
                # Replaced meanwhile: its points must not come back. Its metadata may
                # have changed, too.
                row = self._ledger.document(key)
                if row is None:
                    return True
                self._directory.check_writable()
                opened.touch()
                opened.index.upsert(
                    Point(point_id, vectors, row.document)
                    for point_id, vectors in zip(ids[first:], encoded, strict=False)
                )
                if first + REPAIR_CHUNKS >= len(ids):
                    opened.unflushed.append(key)
        return True
