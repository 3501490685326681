"""Three rankings into one, and chunks into documents. Pure."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mcp_hybrid_search.documents import BM25, COLBERT, DENSE

RRF_K = 5
"""0-based, as Qdrant counts. Small: with the usual 61, a passage that one ranking
puts first loses to mediocre ones that all three hold (docs/relevance.md)."""

WEIGHTS = {COLBERT: 2.0, DENSE: 1.0, BM25: 1.0}
"""See docs/relevance.md for the measurements behind them."""

EXACT_WEIGHT = 4.0
"""BM25's weight for a question of one word: more than the other two together."""

JOIN_LIMIT = 3
"""Chunks that may be joined to one hit."""

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Fused:
    """One point's place in the fused ranking."""

    point_id: int
    score: float
    ranks: dict[str, int]
    """1-based, by the stages that hold the point."""
    scores: dict[str, float]


def weights_for(terms: int) -> dict[str, float]:
    """Return the weights for a question of so many terms, stop words left out.

    Who asks for one word, a name or an error code, wants the texts that hold it;
    the more words, the less any one of them says.
    """
    return {**WEIGHTS, BM25: max(WEIGHTS[BM25], EXACT_WEIGHT / max(terms, 1))}


def fuse(
    rankings: Mapping[str, Sequence[tuple[int, float]]],
    *,
    weights: Mapping[str, float] = WEIGHTS,
    rrf_k: int = RRF_K,
) -> list[Fused]:
    """Fuse rankings by weighted reciprocal rank; ties go to the lower id.

    A point at 0-based rank r of a stage scores weight / (rrf_k + r), summed over
    the stages that hold it (Cormack et al., SIGIR 2009, with weights).

    Args:
        rankings: (point id, stage score) by stage, best first.
        weights: By stage; only their ratios matter.
        rrf_k: Larger values flatten the advantage of the first places.
    """
    ranks: dict[int, dict[str, int]] = {}
    scores: dict[int, dict[str, float]] = {}
    for stage, ranking in rankings.items():
        for rank, (point_id, score) in enumerate(ranking):
            ranks.setdefault(point_id, {})[stage] = rank + 1
            scores.setdefault(point_id, {})[stage] = score
    fused = [
        Fused(
            point_id,
            sum(weights[s] / (rrf_k + rank - 1) for s, rank in places.items()),
            places,
            scores[point_id],
        )
        for point_id, places in ranks.items()
    ]
    return sorted(fused, key=lambda point: (-point.score, point.point_id))


def grouped(
    points: Sequence[Fused],
    documents: Mapping[int, tuple[K, int]],
    *,
    per_document: bool,
    join_first: int,
) -> list[tuple[Fused, list[tuple[int, Fused]]]]:
    """Put the chunks of a document behind its best one.

    Args:
        points: Best first.
        documents: Document and chunk index by point id; other points are dropped.
        per_document: One group a document; otherwise one group a chunk.
        join_first: Only chunks this high in `points` are joined to a neighbour:
            further down nearly every chunk of a long document turns up.

    Returns:
        The best point of each group, in the order of `points`, with the run of
        neighbouring chunks around it that were found too: (chunk index, point),
        in the order of the text, at most `JOIN_LIMIT` of them.
    """
    groups: dict[Hashable, list[tuple[int, Fused]]] = {}
    known = [point for point in points if point.point_id in documents]
    for place, point in enumerate(known):
        document, index = documents[point.point_id]
        key = document if per_document else point.point_id
        members = groups.setdefault(key, [])
        if not members or place < join_first:
            members.append((index, point))
    return [(members[0][1], _run(members)) for members in groups.values()]


def _run(members: Sequence[tuple[int, Fused]]) -> list[tuple[int, Fused]]:
    found = dict(members)
    first = last = members[0][0]
    while last + 1 in found and last - first + 1 < JOIN_LIMIT:
        last += 1
    while first - 1 in found and last - first + 1 < JOIN_LIMIT:
        first -= 1
    return [(index, found[index]) for index in range(first, last + 1)]
