"""The index: one Qdrant Edge shard a collection. The only door to `qdrant_edge`.

A shard holds vectors and what filters read; texts stay in the ledger, from which
a shard can be made again. Its own write-ahead log is off: `flush` is the
checkpoint, and the ledger knows what came after it.
"""

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from mcp_hybrid_search.documents import BM25, COLBERT, DENSE, Document
from mcp_hybrid_search.embeddings import Encoded
from mcp_hybrid_search.errors import HybridSearchError, StoreUnavailableError
from mcp_hybrid_search.filter_values import METADATA_KEY, filterable
from mcp_hybrid_search.filters import KEYWORDS_KEY, Filter
from mcp_hybrid_search.stores.edge_filters import to_edge

NAMESPACE = "namespace"
UPSERT_BATCH = 16
"""Points per call: Edge holds the GIL while it takes them, some 20 ms a batch."""

INDEXED_FIELDS = 64
"""Payload fields that are indexed at most; further ones are filtered by reading."""

SEARCH_EF = 80
"""Candidates a search keeps in each graph: with fewer, it misses some neighbours."""

_GRAPH = edge.HnswIndexConfig(
    m=16,
    ef_construct=64,
    # In KB, 2,000 dense vectors: when fewer match a filter, all are read, which is
    # as quick; the graph would miss some.
    full_scan_threshold=3_000,
    payload_m=0,
)
"""Of dense vectors. If it is changed, one call of `optimize` makes every segment
anew, for minutes: Edge looks for segments that were made otherwise."""

_OPTIMIZERS = edge.EdgeOptimizersConfig(
    # Whatever is not optimised yet, however little, becomes a segment: the caller
    # decides when.
    indexing_threshold=1,
    # Segments are never merged or made anew, for one call would do all of them.
    default_segment_number=1_000_000,
    max_segment_size=1_000_000_000,
    deleted_threshold=1.0,
)

_SPARSE = {BM25: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)}

_LOADING = edge.EdgeConfig(
    # The other vectors are not named: they stay as the shard was made.
    sparse_vectors=_SPARSE,
    hnsw_config=_GRAPH,
    optimizers=_OPTIMIZERS,
)

OPTIMIZED = "optimized"
"""A file of ours in the shard's directory: the highest point id that is optimised."""

READ_BYTES = 1 << 20

Ranking = list[tuple[int, float]]
"""(point id, score), best first."""

_STORAGE = {
    "float32": edge.VectorStorageDatatype.Float32,
    "float16": edge.VectorStorageDatatype.Float16,
    "turbo8": edge.VectorStorageDatatype.Turbo8,
}


@dataclass(frozen=True, slots=True)
class Point:
    """One chunk as the index takes it."""

    point_id: int
    encoded: Encoded
    document: Document


class EdgeIndex:
    """One open shard. Calls are serialised by the GIL, which Edge holds."""

    def __init__(self, path: Path, *, dims: Mapping[str, int], storage: str) -> None:
        """Open the shard at `path`, or create it.

        Args:
            path: The shard's own directory.
            dims: Vector lengths by `dense` and `colbert`.
            storage: How late-interaction vectors are kept on disk.

        Raises:
            StoreUnavailableError: If the shard cannot be loaded.
        """
        self.path = path
        """The shard's own directory."""
        with _edge_errors(path):
            if not path.exists():
                _create(path, _config(dims, storage))
            # Left by a process that was killed while it optimised.
            shutil.rmtree(path / "temp_segments", ignore_errors=True)
            self._shard = edge.EdgeShard.load(str(path), _LOADING)
            self._indexed = set(self._shard.info().payload_schema)
        optimized = self._optimized()
        self.unoptimized = sum(point > optimized for point in self.point_ids())
        """Points that came since the last `optimize`: each is read by a search."""
        self._moved: set[int] = set()
        """Points among them that were there before, and left their graph."""
        self.used_at = time.monotonic()
        """When it was last searched or written to, monotonic."""

    def close(self) -> None:
        """Close the shard without a checkpoint."""
        with _edge_errors(self.path):
            self._shard.close()

    def flush(self) -> None:
        """Bring everything that was written to the disk."""
        with _edge_errors(self.path):
            self._shard.flush()

    def optimize(self) -> None:
        """Make a graph of the points that came since the last time.

        One native call, during which no thread of the process runs: some 0.4 s
        and 0.25 ms a point. What it made is on the disk when it returns.
        """
        before = {*self._segments()}
        points = self.point_ids()
        with _edge_errors(self.path):
            self._shard.optimize()
        self.flush()
        self.unoptimized = 0
        self._moved.clear()
        draft = self.path / f"{OPTIMIZED}.new"
        draft.write_text(str(max(points, default=0)))
        draft.replace(self.path / OPTIMIZED)
        # Edge drops what it wrote from the page cache; searches would wait for the
        # disk page by page.
        for segment in {*self._segments()} - before:
            _read_through(segment)

    def _optimized(self) -> int:
        """Return the highest point id at the last `optimize`: ids only ascend."""
        try:
            return int((self.path / OPTIMIZED).read_text())
        except (OSError, ValueError):
            return 0

    def _segments(self) -> Iterator[Path]:
        return (self.path / "segments").iterdir()

    def upsert(self, points: Iterable[Point]) -> None:
        """Write points, a batch at a time so that other threads get their turn."""
        rest = iter(points)
        while batch := list(islice(rest, UPSERT_BATCH)):
            payloads = [_payload(point.document) for point in batch]
            with _edge_errors(self.path):
                self._index_numbers(payloads)
                self._shard.update(
                    edge.UpdateOperation.upsert_points(
                        [
                            edge.Point(point.point_id, _vectors(point.encoded), payload)
                            for point, payload in zip(batch, payloads, strict=True)
                        ]
                    )
                )
            self.unoptimized += len(batch)
            self.used_at = time.monotonic()

    def overwrite(self, point_ids: Iterable[int], document: Document) -> None:
        """Give points the payload of a document; those that are not there do no harm.

        Vectors stay. A point that was in a graph leaves it until the next `optimize`.
        """
        payload, ids = _payload(document), set(point_ids)
        with _edge_errors(self.path):
            self._index_numbers([payload])
            self._shard.update(
                edge.UpdateOperation.overwrite_payload_by_filter(
                    edge.Filter(must=[edge.HasIdCondition({*ids})]), payload
                )
            )
        optimized = self._optimized()
        moved = {point for point in ids - self._moved if point <= optimized}
        self._moved |= moved
        self.unoptimized += len(moved)
        self.used_at = time.monotonic()

    def _index_numbers(self, payloads: Iterable[dict[str, Any]]) -> None:
        """Index the numbers and dates of a metadata key when it is first seen.

        A range is then found at once; later, Edge would hold the GIL for half a
        second to read every payload there is.
        """
        for name in {name for payload in payloads for name in payload[METADATA_KEY]}:
            field = f"{METADATA_KEY}.{name}"
            new = field != KEYWORDS_KEY and field not in self._indexed
            if new and len(self._indexed) < INDEXED_FIELDS:
                _index_field(self._shard, field, edge.FloatIndexParams())
                self._indexed.add(field)

    def delete(self, point_ids: Sequence[int]) -> None:
        """Remove points; unknown ids do no harm."""
        if point_ids:
            with _edge_errors(self.path):
                self._shard.update(edge.UpdateOperation.delete_points(list(point_ids)))

    def point_ids(self) -> set[int]:
        """Return the id of every point."""
        with _edge_errors(self.path):
            count = self._shard.count(edge.CountRequest(exact=True))
            records, _ = self._shard.scroll(
                edge.ScrollRequest(
                    limit=count + 1, with_payload=False, with_vector=False
                )
            )
        return {int(record.id) for record in records}

    def updated_at(self, point_ids: Iterable[int]) -> dict[int, float]:
        """Return when the documents of points were changed, as the payloads say."""
        with _edge_errors(self.path):
            records = self._shard.retrieve([*point_ids], ["updated_at"], False)  # noqa: FBT003 - positional there
        return {
            int(record.id): (record.payload or {}).get("updated_at", 0.0)
            for record in records
        }

    def rankings(
        self, query: Encoded, *, namespace: str, filter_: Filter | None, limit: int
    ) -> dict[str, Ranking]:
        """Rank the points by each stage.

        Late interaction ranks the union of what the other two found. Without
        dense vectors only BM25 ranks.

        Args:
            query: As the encoders give it.
            namespace: Only its points are seen.
            filter_: Applied inside each first ranking.
            limit: Points taken from each first ranking.
        """
        self.used_at = time.monotonic()
        seen = _filter(namespace, filter_)
        params = edge.SearchParams(hnsw_ef=SEARCH_EF)
        first = [
            (stage, edge.QueryRequest(limit, query=nearest, filter=seen, params=params))
            for stage, nearest in _nearest(query).items()
        ]
        with _edge_errors(self.path):
            answers = self._shard.query_batch(
                edge.QueryBatchRequest([request for _, request in first])
            )
            rankings = {
                stage: _ranking(points)
                for (stage, _), points in zip(first, answers, strict=True)
            }
            if query.colbert is not None:
                # Nested prefetches would run both first rankings a second time.
                union = {point for ranking in rankings.values() for point, _ in ranking}
                rankings[COLBERT] = self._reranked(query.colbert.tolist(), union)
        return rankings

    def _reranked(self, tokens: list[list[float]], point_ids: set[int]) -> Ranking:
        request = edge.QueryRequest(
            len(point_ids),
            query=edge.Query.Nearest(tokens, using=COLBERT),
            filter=edge.Filter(must=[edge.HasIdCondition({*point_ids})]),
        )
        return _ranking(self._shard.query(request)) if point_ids else []


def _ranking(points: Iterable[edge.ScoredPoint]) -> Ranking:
    """Return points best first; ties go to the lower id."""
    ranking = ((int(point.id), point.score) for point in points)
    return sorted(ranking, key=lambda scored: (-scored[1], scored[0]))


def _create(path: Path, config: edge.EdgeConfig) -> None:
    """Make an empty shard, whole or not at all."""
    draft = path.with_name(f"{path.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700, parents=True)
    shard = edge.EdgeShard.create(str(draft), config)
    tenant, keyword = edge.KeywordIndexParams(is_tenant=True), edge.KeywordIndexParams()
    _index_field(shard, NAMESPACE, tenant)
    _index_field(shard, KEYWORDS_KEY, keyword)
    for name in ("created_at", "updated_at"):
        _index_field(shard, name, edge.FloatIndexParams())
    shard.flush()
    shard.close()
    draft.rename(path)


def _index_field(
    shard: edge.EdgeShard,
    name: str,
    params: edge.KeywordIndexParams | edge.FloatIndexParams,
) -> None:
    shard.update(edge.UpdateOperation.create_field_index(name, params))


def _config(dims: Mapping[str, int], storage: str) -> edge.EdgeConfig:
    return edge.EdgeConfig(
        vectors={
            DENSE: edge.EdgeVectorParams(
                size=dims[DENSE], distance=edge.Distance.Cosine
            ),
            COLBERT: edge.EdgeVectorParams(
                size=dims[COLBERT],
                distance=edge.Distance.Cosine,
                multivector_config=edge.MultiVectorConfig(
                    edge.MultiVectorComparator.MaxSim
                ),
                # Only candidates of the other two are ranked: no graph is needed.
                hnsw_config=edge.HnswIndexConfig(
                    m=0, ef_construct=100, full_scan_threshold=10_000
                ),
                datatype=_STORAGE[storage],
                memory=edge.Memory.Cold,
            ),
        },
        sparse_vectors=_SPARSE,
        wal_enabled=False,
    )


def _vectors(encoded: Encoded) -> dict[str, Any]:
    if encoded.dense is None or encoded.colbert is None:
        msg = "A document is encoded by all three models or not at all."
        raise AssertionError(msg)
    return {
        DENSE: encoded.dense.tolist(),
        BM25: edge.SparseVector(encoded.bm25.indices, encoded.bm25.values),
        # Twice as quick as from float16.
        COLBERT: encoded.colbert.astype("float32").tolist(),
    }


def _payload(document: Document) -> dict[str, Any]:
    return {
        NAMESPACE: document.namespace,
        "title": document.title,
        "source": document.source,
        "created_at": document.created_at,
        "updated_at": document.updated_at,
        METADATA_KEY: filterable(document.metadata),
    }


def _filter(namespace: str, filter_: Filter | None) -> edge.Filter:
    tenant = edge.FieldCondition(NAMESPACE, match=edge.MatchValue(namespace))
    return edge.Filter(must=[tenant, *([to_edge(filter_)] if filter_ else [])])


def _nearest(query: Encoded) -> dict[str, edge.Query]:
    bm25 = edge.SparseVector(query.bm25.indices, query.bm25.values)
    nearest = {BM25: edge.Query.Nearest(bm25, using=BM25)}
    if query.dense is not None:
        nearest[DENSE] = edge.Query.Nearest(query.dense.tolist(), using=DENSE)
    return nearest


@contextmanager
def _edge_errors(path: Path) -> Iterator[None]:
    # Edge raises bare Exception, and for a bug of its own pyo3's PanicException,
    # which derives from BaseException and cannot be imported.
    try:
        yield
    except HybridSearchError:
        raise
    except BaseException as exc:
        foreign = type(exc) is Exception or type(exc).__name__ == "PanicException"
        if not foreign:
            raise
        msg = (
            f"The index in {path} failed: {exc}. No document is lost. If it fails again"
            " after a restart, remove that directory while the server is stopped; it is"
            " made again from the ledger."
        )
        raise StoreUnavailableError(msg) from exc


def _read_through(path: Path) -> None:
    for file in path.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                while opened.read(READ_BYTES):
                    pass


def size_bytes(path: Path) -> int:
    """Return what a directory's files take on the disk, holes not counted."""
    total = 0
    for file in path.rglob("*"):
        stat: Any = file.lstat()
        # Windows has no st_blocks.
        total += getattr(stat, "st_blocks", stat.st_size / 512) * 512
    return int(total)
