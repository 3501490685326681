"""Encoders that give again what the real ones gave, for an engine to store."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.encoding_cache import EncodingCache, model_identity
from mcp_hybrid_search import models
from mcp_hybrid_search.documents import TokenMatch
from mcp_hybrid_search.embeddings import (
    Encoded,
    Encoders,
    FastEmbedEncoders,
    SparseVector,
)
from mcp_hybrid_search.pooling import pooled
from mcp_hybrid_search.settings import Settings

NOISE = 0.3
"""Length of the noise added to a unit vector: the cosine with it becomes 0.96."""


class BorrowedEncoders:
    """Real encoders that outlive the engine they are lent to."""

    def __init__(self, inner: Encoders) -> None:
        self.inner = inner
        self.dims = inner.dims
        self.tokenizer = inner.tokenizer
        self.token_limit = inner.token_limit
        self.problem = inner.problem

    def encode_documents(
        self, texts: Sequence[str], *, advance: Callable[[], None]
    ) -> list[Encoded]:
        """Encode texts that fit the models."""
        return self.inner.encode_documents(texts, advance=advance)

    def encode_query(self, text: str) -> Encoded:
        """Encode one query, by the models."""
        return self.inner.encode_query(text)

    def query_excess(self, text: str) -> int:
        """Return how many of a query's tokens the models cut off."""
        return self.inner.query_excess(text)

    def token_matches(self, query: str, text: str) -> tuple[TokenMatch, ...]:
        """Return the token of `text` that each token of `query` matches best."""
        return self.inner.token_matches(query, text)

    def close(self) -> None:
        """Do nothing: the lender closes them."""


class ReplayEncoders(BorrowedEncoders):
    """Encodes each text once, without pooling, and pools what it kept.

    Kept as float16, so that pooled vectors may differ in the last float16 digit
    from those pooled before rounding.
    """

    def __init__(self, inner: Encoders, cache: EncodingCache, *, pooling: int) -> None:
        """Wrap encoders.

        Args:
            inner: Must not pool.
            cache: Of the same models.
            pooling: Token vectors to pool into one.
        """
        super().__init__(inner)
        self._cache = cache
        self._pooling = pooling

    def encode_documents(
        self, texts: Sequence[str], *, advance: Callable[[], None]
    ) -> list[Encoded]:
        """Encode texts that fit the models, or give what they were encoded to."""
        cached = {text: self._cache.find(text) for text in texts}
        missing = [text for text, encoded in cached.items() if encoded is None]
        new = self.inner.encode_documents(missing, advance=advance) if missing else []
        found = {text: encoded for text, encoded in cached.items() if encoded}
        for text, encoded in zip(missing, new, strict=True):
            self._cache.add(text, encoded)
            found[text] = encoded
        for _ in range(2 * (len(texts) - len(missing))):
            advance()
        return [self._pooled(found[text]) for text in texts]

    def _pooled(self, encoded: Encoded) -> Encoded:
        if encoded.colbert is None:
            return encoded
        tokens = pooled(encoded.colbert.astype(np.float32), self._pooling)
        return Encoded(encoded.bm25, encoded.dense, tokens.astype(np.float16))


class NoisyEncoders(BorrowedEncoders):
    """Gives a text's encoding the first time, and variations of it after that.

    Fills an index with as many distinct and realistic vectors as are wanted, in
    a fraction of the time that encoding takes.
    """

    def __init__(self, inner: Encoders, *, seed: int = 0) -> None:
        super().__init__(inner)
        self._known: dict[str, Encoded] = {}
        self._random = np.random.default_rng(seed)

    def encode_documents(
        self, texts: Sequence[str], *, advance: Callable[[], None]
    ) -> list[Encoded]:
        """Encode what is new; vary what is known."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        encoded = self.inner.encode_documents(new, advance=advance) if new else []
        fresh = dict(zip(new, encoded, strict=True))
        self._known.update(fresh)
        for _ in range(2 * (len(texts) - len(new))):
            advance()
        return [
            fresh.pop(text) if text in fresh else self._varied(self._known[text])
            for text in texts
        ]

    def _varied(self, encoded: Encoded) -> Encoded:
        if encoded.dense is None or encoded.colbert is None:
            return encoded
        weights = np.array(encoded.bm25.values)
        weights *= self._random.uniform(0.9, 1.1, len(weights))
        return Encoded(
            SparseVector(encoded.bm25.indices, weights.tolist()),
            self._near(encoded.dense),
            self._near(encoded.colbert.astype(np.float32)).astype(np.float16),
        )

    def _near(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        noise = self._random.standard_normal(vectors.shape, np.float32)
        moved = vectors + noise * np.float32(NOISE / vectors.shape[-1] ** 0.5)
        near: NDArray[np.float32] = moved / np.linalg.norm(
            moved, axis=-1, keepdims=True
        )
        return near


@contextmanager
def replaying(
    settings: Settings, cache_directory: Path | None
) -> Iterator[Callable[[int], ReplayEncoders]]:
    """Load the models and yield encoders for any pooling factor.

    Args:
        settings: Name the models; pooling is left to the yielded function.
        cache_directory: Where encodings are kept; None forgets them at the end.
    """
    plain = settings.model_copy(update={"token_pooling": 1})
    inner = FastEmbedEncoders(models.model_set(plain), plain)
    with TemporaryDirectory(prefix="encodings-") as temporary:
        path = (cache_directory or Path(temporary)) / "encodings.sqlite3"
        cache = EncodingCache(path, identity=model_identity(settings))
        try:
            yield lambda pooling: ReplayEncoders(inner, cache, pooling=pooling)
        finally:
            cache.close()
            inner.close()
