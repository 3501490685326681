"""What each stage of the engine ranks by itself, for comparison with their fusion.

The only module here that looks inside the engine.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from mcp_hybrid_search.documents import BM25, COLBERT, DENSE, SearchRequest
from mcp_hybrid_search.embeddings import Encoded
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.ranking import fuse

RRF = "RRF (dense + BM25)"
STAGES = ("dense", "BM25", RRF, "bare rerank")


@dataclass(frozen=True, slots=True)
class Staged:
    """Document ids by stage, best first, and how long the index took."""

    rankings: dict[str, list[str]]
    index_ms: float


def staged(
    engine: Engine, request: SearchRequest, query: Encoded, *, prefetch_limit: int
) -> Staged:
    """Rank documents by each stage, with the candidates that a search begins with."""
    store = engine._store  # noqa: SLF001 - no public way to one stage alone
    collection = store.collection(request.collection, request.namespace)
    if collection is None:
        return Staged({stage: [] for stage in STAGES}, 0.0)
    started = time.perf_counter()
    ranked = store.rankings(
        collection,
        query,
        namespace=request.namespace,
        filter_=None,
        limit=max(prefetch_limit, request.limit),
    )
    index_ms = (time.perf_counter() - started) * 1000
    first = {stage: ranked[stage] for stage in (DENSE, BM25)}
    points = {
        "dense": [point for point, _ in ranked[DENSE]],
        "BM25": [point for point, _ in ranked[BM25]],
        RRF: [p.point_id for p in fuse(first, weights={DENSE: 1.0, BM25: 1.0})],
        "bare rerank": [point for point, _ in ranked[COLBERT]],
    }
    found = store.hits([point for ranking in points.values() for point in ranking])
    documents = {point: hit[0].document_id for point, hit in found.items()}
    return Staged(
        {
            stage: _distinct([documents[p] for p in ranking if p in documents])[
                : request.limit
            ]
            for stage, ranking in points.items()
        },
        index_ms,
    )


def _distinct(documents: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(documents))
