"""Late-interaction token vectors, pooled into fewer. Pure."""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def pooled(tokens: Vectors, factor: int) -> Vectors:
    """Return one vector for every `factor` tokens, normalised."""
    if factor == 1 or len(tokens) <= 1:
        return tokens
    starts = np.arange(0, len(tokens), factor)
    sums: Vectors = np.add.reduceat(tokens, starts, axis=0)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    means: Vectors = sums / np.maximum(norms, 1e-12)
    return means
