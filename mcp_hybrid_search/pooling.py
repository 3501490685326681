"""Late-interaction token vectors, pooled into fewer. Pure NumPy.

Hierarchical token pooling (Clavié et al., 2024, arXiv 2409.14683): tokens are
clustered by Ward's method on 1 - cosine, and each cluster becomes its mean.
"""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def pooled(tokens: Vectors, factor: int) -> Vectors:
    """Return one vector for about every `factor` tokens.

    Args:
        tokens: Shape (tokens, dim), float32, normalised.
        factor: 1 returns the tokens as they are.

    Returns:
        Shape (max(1, tokens // factor), dim), float32, normalised.
    """
    count = max(1, len(tokens) // factor)
    if count >= len(tokens):
        return tokens
    labels = _ward_labels(tokens, count)
    order = labels.argsort(kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    sums: Vectors = np.add.reduceat(tokens[order], starts, axis=0)
    means: Vectors = sums / np.maximum(
        np.linalg.norm(sums, axis=1, keepdims=True), 1e-12
    )
    return means


def _ward_labels(tokens: Vectors, count: int) -> NDArray[np.intp]:
    """Merge the closest two clusters until `count` are left; a label each token.

    Every row remembers its nearest neighbour. A merged cluster is never closer to a
    third than its nearer part was, so only rows whose nearest was merged look again.
    """
    # Ward's update needs squared dissimilarities; own and dead cells are infinite.
    similarity = tokens @ tokens.T
    distance = np.square(np.maximum(1.0 - similarity, 0.0, dtype=np.float64))
    np.fill_diagonal(distance, np.inf)
    size = np.ones(len(tokens))
    label = np.arange(len(tokens))
    nearest = distance.argmin(axis=1)
    best = distance[label, nearest]
    for _ in range(len(tokens) - count):
        i, j = sorted((int(best.argmin()), int(nearest[best.argmin()])))
        merged = _lance_williams(distance, size, i, j)
        size[i] += size[j]
        label[label == j] = i
        distance[i] = distance[:, i] = merged
        distance[j] = distance[:, j] = best[j] = np.inf
        nearest[i] = i  # So that the merged row looks again, too.
        for row in np.flatnonzero((nearest == i) | (nearest == j)).tolist():
            nearest[row] = distance[row].argmin()
            best[row] = distance[row, nearest[row]]
    return label


def _lance_williams(
    distance: NDArray[np.float64], size: NDArray[np.float64], i: int, j: int
) -> NDArray[np.float64]:
    """Return the distance of every cluster to the union of i and j, by Ward."""
    merged: NDArray[np.float64] = (
        (size[i] + size) * distance[i]
        + (size[j] + size) * distance[j]
        - size * distance[i, j]
    ) / (size[i] + size[j] + size)
    merged[i] = merged[j] = np.inf
    return merged
