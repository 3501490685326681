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
