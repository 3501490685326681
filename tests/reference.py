"""Slow, obvious definitions that the real code is checked against."""

import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def weighted_rrf(
    rankings: dict[str, list[int]], weights: dict[str, float], k: int
) -> dict[int, float]:
    """Weighted reciprocal rank fusion with 0-based ranks (Cormack et al., 2009)."""
    scores: dict[int, float] = {}
    for stage, ranking in rankings.items():
        for rank, point in enumerate(ranking):
            scores[point] = scores.get(point, 0.0) + weights[stage] / (k + rank)
    return scores


def maxsim(query: Vectors, document: Vectors) -> float:
    """Sum over query tokens of the best dot product with any document token.

    Args:
        query: Shape (query_tokens, dim).
        document: Shape (document_tokens, dim).
    """
    return float((query @ document.T).max(axis=1).sum())


def bm25(
    query: set[str], documents: list[list[str]], *, k1: float, b: float, avg: float
) -> list[float]:
    """BM25 with Qdrant's IDF, ln(1 + (N - n + 0.5) / (n + 0.5))."""
    count = len(documents)
    scores = []
    for words in documents:
        frequencies = Counter(words)
        score = 0.0
        for term in query & set(words):
            n = sum(term in other for other in documents)
            idf = math.log(1 + (count - n + 0.5) / (n + 0.5))
            tf = frequencies[term]
            score += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(words) / avg))
        scores.append(score)
    return scores


def ward(tokens: Vectors, count: int) -> list[set[int]]:
    """Ward clusters on 1 - cosine: merge what raises the sum of squares least.

    The cost of merging A and B is derived from the squared dissimilarities of the
    single tokens by the Lance-Williams recurrence, recomputed from its definition
    |A||B| / (|A|+|B|) * (2 mean(A,B) - mean(A,A) - mean(B,B)).
    """
    squared = np.square(np.maximum(1 - tokens @ tokens.T, 0)).astype(np.float64)
    np.fill_diagonal(squared, 0)
    clusters = [{i} for i in range(len(tokens))]

    def mean(a: set[int], b: set[int]) -> float:
        return float(squared[np.ix_(sorted(a), sorted(b))].mean())

    def cost(a: set[int], b: set[int]) -> float:
        weight = len(a) * len(b) / (len(a) + len(b))
        return weight * (2 * mean(a, b) - mean(a, a) - mean(b, b))

    while len(clusters) > count:
        pairs = [(i, j) for j in range(len(clusters)) for i in range(j)]
        i, j = min(pairs, key=lambda p: cost(clusters[p[0]], clusters[p[1]]))
        clusters[i] |= clusters.pop(j)
    return clusters
