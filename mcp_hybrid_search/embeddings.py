"""FastEmbed's three encoders behind two methods.

This and `loading` are the only modules that import it, and only when the encoders
are made: their files are hashed meanwhile.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, normalizers

from mcp_hybrid_search.chunking import INVISIBLE, searchable
from mcp_hybrid_search.documents import TokenMatch
from mcp_hybrid_search.errors import ModelUnavailableError
from mcp_hybrid_search.models import ModelSet, check
from mcp_hybrid_search.pooling import pooled
from mcp_hybrid_search.settings import Settings

if TYPE_CHECKING:
    from fastembed.late_interaction.colbert import Colbert

Vectors = NDArray[np.float32]

LINUX = sys.platform == "linux"
M_ARENA_MAX = -8
"""From glibc's malloc.h."""
HEAPS = 2

BATCH_SIZE = 4
"""Texts per run of a model: larger batches lose more to padding and to caches
than they gain on a CPU, and a cancelled call waits for at most one."""


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Term weights of one text, for Qdrant's IDF to multiply."""

    indices: list[int]
    values: list[float]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the three encoders see it; a query without its models has None."""

    bm25: SparseVector
    dense: Vectors | None
    """Shape (dim,), float32, normalised."""
    colbert: NDArray[np.floating[Any]] | None
    """Shape (tokens, dim), normalised; float16 for documents."""


class Encoders(Protocol):
    """What the engine needs of a model set."""

    dims: dict[str, int]
    """Vector lengths, measured, by `dense` and `colbert`; empty if not loaded."""
    tokenizer: Tokenizer | None
    """The one that cuts first, without truncation; None if not loaded."""
    token_limit: int
    """Tokens that the narrowest model takes, special ones excluded."""
    problem: str | None
    """Why only BM25 can be used; None if all three encoders are loaded."""

    def encode_documents(
        self, texts: Sequence[str], *, advance: Callable[[], None]
    ) -> list[Encoded]:
        """Encode texts that fit the models; `advance` is called twice for each."""

    def encode_query(self, text: str) -> Encoded:
        """Encode one query."""

    def query_excess(self, text: str) -> int:
        """Return how many of a query's tokens the models cut off."""

    def token_matches(self, query: str, text: str) -> tuple[TokenMatch, ...]:
        """Return the token of `text` that each token of `query` matches best."""

    def close(self) -> None:
        """Release the worker threads."""


def _keep_few_heaps() -> None:
    """Let the C library share what threads free.

    glibc gives each thread a heap, up to eight a core, and a heap keeps what the
    encoders once needed: memory would grow for thousands of calls.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if LINUX else None
    if mallopt is not None:
        mallopt(M_ARENA_MAX, HEAPS)


class FastEmbedEncoders:
    """The encoders of one model set, loaded once and shared by all threads."""

    def __init__(self, models: ModelSet, settings: Settings) -> None:
        """Load the models; blocks for about a second, longer to download.

        Raises:
            ModelUnavailableError: If the sparse model cannot be loaded. A failure
                of the other two leaves keyword search and is told in `problem`.
        """
        _keep_few_heaps()
        self._settings = settings
        self._query_worker = ThreadPoolExecutor(2, "query-encoder")
        self.problem: str | None = None
        self.dims: dict[str, int] = {}
        self.tokenizer: Tokenizer | None = None
        self.token_limit = 512
        loaders = ThreadPoolExecutor(2, "loader")
        dense_checked = loaders.submit(check, models.dense)
        colbert_checked = loaders.submit(check, models.colbert)
        from mcp_hybrid_search import loading  # noqa: PLC0415 - hashing goes on

        self._sparse = loading.load_sparse(models.sparse, settings)
        threads = settings.encoder_threads or max(1, (os.cpu_count() or 2) // 2)
        load = partial(loading.load, settings=settings, threads=threads)
        dense = loaders.submit(
            load, loading.load_dense, models.dense, checked=dense_checked
        )
        loaders.shutdown(wait=False)
        try:
            self._colbert: Colbert = load(
                loading.load_colbert, models.colbert, checked=colbert_checked
            )
            self._dense = dense.result()
        except ModelUnavailableError as exc:
            self.problem = str(exc)
        else:
            self._measure()

    def encode_documents(
        self, texts: Sequence[str], *, advance: Callable[[], None]
    ) -> list[Encoded]:
        """Encode texts that fit the models; `advance` is called twice for each.

        Args:
            texts: As `chunking.encoded_text` makes them.
            advance: Called from worker threads, for every text once by the dense
                and once by the late-interaction encoder; it may block, and
                raising ends the work.

        Raises:
            ModelUnavailableError: If a model could not be loaded.
        """
        if self.problem is not None:
            raise ModelUnavailableError(self.problem)
        # Batches of like length waste the least on padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        ordered = [texts[i] for i in order]
        # Two encode, a third one pools what came out of the slower. They are this
        # call's own: `advance` may let another call pass.
        with ThreadPoolExecutor(3, "encoder") as workers:
            dense = workers.submit(self._encode_dense, ordered, advance)
            colbert = workers.submit(self._encode_colbert, ordered, advance, workers)
            bm25 = [_sparse(v) for v in self._sparse.embed(ordered)]
            encoded = [
                Encoded(sparse, vector, tokens.result())
                for sparse, vector, tokens in zip(
                    bm25, dense.result(), colbert.result(), strict=True
                )
            ]
        return [
            item
            for _, item in sorted(zip(order, encoded, strict=True), key=itemgetter(0))
        ]

    def _encode_dense(
        self, texts: list[str], advance: Callable[[], None]
    ) -> list[Vectors]:
        vectors: list[Vectors] = []
        for vector in self._dense.passage_embed(texts, batch_size=BATCH_SIZE):
            advance()
            vectors.append(_normalised(np.asarray(vector, np.float32)))
        return vectors

    def _encode_colbert(
        self,
        texts: list[str],
        advance: Callable[[], None],
        workers: ThreadPoolExecutor,
    ) -> list[Future[NDArray[np.float16]]]:
        pooling = []
        for tokens in self._colbert.embed(texts, batch_size=BATCH_SIZE):
            advance()
            pooling.append(workers.submit(self._pooled, tokens))
        return pooling

    def _pooled(self, tokens: NDArray[Any]) -> NDArray[np.float16]:
        vectors = np.asarray(tokens, np.float32)
        return pooled(vectors, self._settings.token_pooling).astype(np.float16)

    def encode_query(self, text: str) -> Encoded:
        """Encode one query, dense and late interaction at the same time."""
        text = searchable(text)
        bm25 = _sparse(next(iter(self._sparse.query_embed(text))))
        if self.problem is not None:
            return Encoded(bm25, None, None)
        colbert = self._query_worker.submit(self._colbert_query, text)
        dense = next(iter(self._dense.query_embed(text)))
        return Encoded(
            bm25, _normalised(np.asarray(dense, np.float32)), colbert.result()
        )

    def _colbert_query(self, text: str) -> Vectors:
        tokens = next(iter(self._colbert.query_embed(text)))
        return _normalised(np.asarray(tokens, np.float32))

    def query_excess(self, text: str) -> int:
        """Return how many of a query's tokens the models cut off."""
        if self.tokenizer is None:
            return 0
        tokens = self.tokenizer.encode(searchable(text), add_special_tokens=False)
        return max(0, len(tokens.ids) - self.token_limit)

    def token_matches(self, query: str, text: str) -> tuple[TokenMatch, ...]:
        """Return the token of `text` that each token of `query` matches best.

        Encodes `text` again without pooling, so it costs as much as storing it.
        """
        from fastembed.late_interaction.colbert import Colbert  # noqa: PLC0415 - slow

        if self.problem is not None or not isinstance(self._colbert, Colbert):
            return ()
        model = self._colbert
        query_tokens, query_vectors = _query_tokens(model, searchable(query))
        tokens, vectors = _document_tokens(model, text)
        similarity = query_vectors @ vectors.T
        best = similarity.argmax(axis=1)
        return tuple(
            TokenMatch(token, tokens[j], float(similarity[i, j]))
            for i, (token, j) in enumerate(zip(query_tokens, best, strict=True))
        )

    def close(self) -> None:
        """Release the worker threads."""
        self._query_worker.shutdown()

    def _measure(self) -> None:
        tokenizers = [self._dense.model.tokenizer, self._colbert.tokenizer]
        limits = [t.truncation["max_length"] for t in tokenizers]
        narrowest = tokenizers[limits.index(min(limits))]
        special = narrowest.num_special_tokens_to_add(is_pair=False)
        self.token_limit = min(limits) - special
        self.tokenizer = _counting(narrowest)
        vectors = self.encode_query("dimension")
        if vectors.dense is None or vectors.colbert is None:
            msg = "A loaded model gave no vector."
            raise AssertionError(msg)
        self.dims = {"dense": len(vectors.dense), "colbert": vectors.colbert.shape[1]}


def _counting(tokenizer: Tokenizer) -> Tokenizer:
    """Copy a tokenizer so that it counts a chunk's tokens as they are encoded."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    steps = [normalizers.Replace(Regex(INVISIBLE.pattern), ""), normalizers.NFC()]
    if copy.normalizer is not None:
        steps.append(copy.normalizer)
    copy.normalizer = normalizers.Sequence(steps)
    return copy


def _query_tokens(model: "Colbert", query: str) -> tuple[list[str], Vectors]:
    encoding = model.tokenize([query], is_doc=False)[0]
    vectors = _normalised(np.asarray(next(iter(model.query_embed(query))), np.float32))
    # The marker stands at 1; special and padding tokens tell a reader nothing.
    special = [encoding.special_tokens_mask[0], 1, *encoding.special_tokens_mask[1:]]
    tokens = [encoding.tokens[0], "", *encoding.tokens[1:]]
    kept = [i for i, s in enumerate(special[: len(vectors)]) if not s]
    kept = [i for i in kept if tokens[i] != model.MASK_TOKEN]
    return [tokens[i] for i in kept], vectors[kept]


def _document_tokens(model: "Colbert", text: str) -> tuple[list[str], Vectors]:
    encoding = model.tokenize([text], is_doc=True)[0]
    vectors = np.asarray(next(iter(model.embed([text]))), np.float32)
    ids = [encoding.ids[0], model.DOCUMENT_MARKER_TOKEN_ID, *encoding.ids[1:]]
    tokens = [encoding.tokens[0], "[D]", *encoding.tokens[1:]]
    kept = [t for i, t in zip(ids, tokens, strict=True) if i not in model.skip_list]
    return kept, vectors


def _sparse(embedding: Any) -> SparseVector:
    return SparseVector(embedding.indices.tolist(), embedding.values.tolist())


def _normalised(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normalised: Vectors = vectors / np.maximum(norms, 1e-12)
    return normalised
