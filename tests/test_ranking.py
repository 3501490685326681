"""Fusion and grouping against their definitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_hybrid_search.documents import BM25, COLBERT, DENSE
from mcp_hybrid_search.ranking import (
    JOIN_LIMIT,
    RRF_K,
    WEIGHTS,
    fuse,
    grouped,
    weights_for,
)
from tests.reference import weighted_rrf

Rankings = dict[str, list[tuple[int, float]]]


@st.composite
def rankings(draw: st.DrawFn) -> Rankings:
    result: Rankings = {}
    for stage in (DENSE, BM25, COLBERT):
        ids = draw(st.lists(st.integers(1, 15), unique=True, max_size=12))
        scores = draw(st.lists(st.floats(0, 9), min_size=len(ids), max_size=len(ids)))
        result[stage] = list(zip(ids, sorted(scores, reverse=True), strict=True))
    return result


@given(rankings())
def test_fused_scores_are_weighted_reciprocal_ranks(given_rankings: Rankings) -> None:
    ids = {stage: [i for i, _ in r] for stage, r in given_rankings.items()}
    expected = weighted_rrf(ids, dict(WEIGHTS), RRF_K)
    actual = {point.point_id: point.score for point in fuse(given_rankings)}
    assert actual == pytest.approx(expected)


@given(rankings())
def test_fusion_keeps_the_order_of_scores_and_then_of_ids(
    given_rankings: Rankings,
) -> None:
    order = [(-point.score, point.point_id) for point in fuse(given_rankings)]
    assert order == sorted(order)


@given(rankings(), st.floats(0.1, 10))
def test_fusion_ignores_the_scale_of_scores(
    given_rankings: Rankings, factor: float
) -> None:
    scaled = {s: [(i, v * factor) for i, v in r] for s, r in given_rankings.items()}
    assert [p.point_id for p in fuse(scaled)] == [
        p.point_id for p in fuse(given_rankings)
    ]


def test_ranks_are_counted_from_one_and_only_where_a_stage_holds_the_point() -> None:
    (first, second) = fuse({DENSE: [(7, 0.9), (8, 0.5)], BM25: [(7, 2.0)]})
    assert (first.ranks, first.scores) == ({DENSE: 1, BM25: 1}, {DENSE: 0.9, BM25: 2.0})
    assert second.ranks == {DENSE: 2}


def test_ties_go_to_the_lower_id() -> None:
    points = fuse({DENSE: [(9, 1.0)], BM25: [(3, 1.0)]}, weights={DENSE: 1, BM25: 1})
    assert [point.point_id for point in points] == [3, 9]


@pytest.mark.parametrize(("terms", "bm25"), [(0, 4), (1, 4), (2, 2), (4, 1), (9, 1)])
def test_the_fewer_words_are_asked_for_the_more_exact_matches_count(
    terms: int, bm25: float
) -> None:
    assert weights_for(terms) == {**WEIGHTS, BM25: bm25}
    first_alone = weights_for(1)[BM25] / RRF_K
    assert first_alone > (WEIGHTS[COLBERT] + WEIGHTS[DENSE]) / RRF_K


def runs(
    ids: list[int], *, per_document: bool = True, join: int = 10
) -> list[tuple[int, list[int]]]:
    """Group points whose tens digit is the document and ones digit the chunk."""
    points = fuse({DENSE: [(i, 1.0) for i in ids]})
    documents = {i: (i // 10, i % 10) for i in ids if i < 90}
    groups = grouped(points, documents, per_document=per_document, join_first=join)
    return [(best.point_id, [index for index, _ in run]) for best, run in groups]


def test_a_document_is_one_hit_with_its_neighbouring_chunks_joined() -> None:
    assert runs([12, 25, 13, 19, 11]) == [(12, [1, 2, 3]), (25, [5])]


def test_chunks_are_hits_of_their_own_when_documents_are_not_grouped() -> None:
    assert runs([12, 13], per_document=False) == [(12, [2]), (13, [3])]


def test_chunks_far_down_are_not_joined() -> None:
    assert runs([12, 25, 13], join=2) == [(12, [2]), (25, [5])]


def test_no_more_than_the_limit_is_joined() -> None:
    ((_, run),) = runs([12, 11, 13, 14, 15, 16])
    assert len(run) == JOIN_LIMIT
    assert 2 in run


def test_points_without_a_document_are_dropped() -> None:
    assert runs([95, 12]) == [(12, [2])]


@given(given_rankings=rankings(), per_document=st.booleans())
def test_grouping_neither_loses_nor_doubles_a_document(
    *, given_rankings: Rankings, per_document: bool
) -> None:
    points = fuse(given_rankings)
    documents = {
        point.point_id: (point.point_id % 4, point.point_id) for point in points
    }
    groups = grouped(points, documents, per_document=per_document, join_first=5)
    keys = [
        documents[best.point_id][0] if per_document else best.point_id
        for best, _ in groups
    ]
    everything = {
        documents[p.point_id][0] if per_document else p.point_id for p in points
    }
    assert len(keys) == len(set(keys))
    assert set(keys) == everything
