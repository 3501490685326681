"""Pooled vectors are the means of Ward's clusters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_hybrid_search.pooling import Vectors, pooled
from tests.reference import ward


def unit_rows(seed: int, rows: int, dim: int = 8) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 14), st.sampled_from([2, 3]))
def test_pooled_vectors_are_normalised_means_of_wards_clusters(
    seed: int, rows: int, factor: int
) -> None:
    tokens = unit_rows(seed, rows)
    clusters = ward(tokens, max(1, rows // factor))
    sums = np.array([tokens[sorted(c)].sum(axis=0) for c in sorted(clusters, key=min)])
    expected = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    assert pooled(tokens, factor) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("rows", "factor", "left"), [(9, 2, 4), (9, 3, 3), (2, 3, 1)])
def test_a_vector_is_left_for_every_factor_tokens(
    rows: int, factor: int, left: int
) -> None:
    assert pooled(unit_rows(1, rows), factor).shape == (left, 8)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_factor_one_and_single_tokens_are_left_alone(rows: int) -> None:
    tokens = unit_rows(1, rows)
    assert pooled(tokens, 1) is tokens
    assert pooled(tokens[:1], 3) == pytest.approx(tokens[:1])


def test_equal_tokens_become_one() -> None:
    tokens = np.repeat(unit_rows(1, 2), 3, axis=0)
    assert pooled(tokens, 3) == pytest.approx(tokens[[0, 3]], abs=1e-6)
