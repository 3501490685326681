"""FastEmbed's three encoders behind two methods. The only module that imports it.

Imported late: FastEmbed and ONNX Runtime cost about a second, which `initialize`
must not wait for.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from fastembed import (
    LateInteractionTextEmbedding,
    SparseTextEmbedding,
    TextEmbedding,
)
from fastembed.common.model_description import ModelSource, PoolingType
from fastembed.late_interaction.colbert import Colbert
from fastembed.sparse.bm25 import Bm25
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, normalizers

from mcp_hybrid_search.chunking import INVISIBLE, searchable
from mcp_hybrid_search.documents import TokenMatch
from mcp_hybrid_search.errors import ModelUnavailableError
from mcp_hybrid_search.models import ModelSet, ModelSpec, checked_directory
from mcp_hybrid_search.pooling import pooled
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stopwords import ENGLISH

Vectors = NDArray[np.float32]

BATCH_SIZE = 4
"""Texts per run of a model: larger batches lose more to padding and to caches
than they gain on a CPU, and a cancelled call waits for at most one."""


BM25_AVERAGE_LENGTH = 100
"""Stemmed words of a chunk that BM25 takes for ordinary (docs/relevance.md)."""


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


class FastEmbedEncoders:
    """The encoders of one model set, loaded once and shared by all threads."""

    def __init__(self, models: ModelSet, settings: Settings) -> None:
        """Load the models; blocks for one to three seconds, longer to download.

        Raises:
            ModelUnavailableError: If the sparse model cannot be loaded. A failure
                of the other two leaves keyword search and is told in `problem`.
        """
        self._settings = settings
        self._threads = settings.encoder_threads or max(1, (os.cpu_count() or 2) // 2)
        # Two encode, a third one pools what came out of the slower.
        self._workers = ThreadPoolExecutor(3, "encoder")
        self._query_worker = ThreadPoolExecutor(2, "query-encoder")
        self.problem: str | None = None
        self.dims: dict[str, int] = {}
        self.tokenizer: Tokenizer | None = None
        self.token_limit = 512
        self._sparse = _load_sparse(models.sparse, settings)
        try:
            dense = self._workers.submit(self._load, models.dense, _load_dense)
            self._colbert: Colbert = self._load(models.colbert, _load_colbert)
            self._dense: TextEmbedding = dense.result()
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
                and once by the late-interaction encoder; raising ends the work.

        Raises:
            ModelUnavailableError: If a model could not be loaded.
        """
        if self.problem is not None:
            raise ModelUnavailableError(self.problem)
        # Batches of like length waste the least on padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        ordered = [texts[i] for i in order]
        dense = self._workers.submit(self._encode_dense, ordered, advance)
        colbert = self._workers.submit(self._encode_colbert, ordered, advance)
        try:
            bm25 = [_sparse(v) for v in self._sparse.embed(ordered)]
            encoded = [
                Encoded(sparse, vector, tokens.result())
                for sparse, vector, tokens in zip(
                    bm25, dense.result(), colbert.result(), strict=True
                )
            ]
        finally:
            # If one encoder failed or was stopped, the other stops too.
            _settle(dense, colbert)
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
        self, texts: list[str], advance: Callable[[], None]
    ) -> "list[Future[NDArray[np.float16]]]":
        pooling = []
        for tokens in self._colbert.embed(texts, batch_size=BATCH_SIZE):
            advance()
            pooling.append(self._workers.submit(self._pooled, tokens))
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
        self._workers.shutdown()
        self._query_worker.shutdown()

    def _load(self, spec: ModelSpec, load: "_Loader") -> Any:
        options = _options(self._settings, self._threads)
        with _model_errors(spec), checked_directory(spec) as directory:
            if spec.files:
                # FastEmbed makes its cache directory, wanted or not.
                options["cache_dir"] = str(directory)
            return load(spec, directory, options)

    def _measure(self) -> None:
        # TextEmbedding's base class does not declare the tokenizer it has.
        dense: Any = self._dense.model
        tokenizers = [dense.tokenizer, self._colbert.tokenizer]
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


_COLBERTS = ("answerdotai/answerai-colbert-small-v1", "colbert-ir/colbertv2.0")
"""The catalogue's models of FastEmbed's class `Colbert`."""

_Loader = Callable[[ModelSpec, Path | None, dict[str, Any]], Any]


class _Colbert(Colbert):
    """FastEmbed's ColBERT, also for exports that ask for `token_type_ids`.

    FastEmbed inserts its marker token into the other two inputs only.
    """

    def _preprocess_onnx_input(
        self,
        onnx_input: dict[str, Any],
        is_doc: bool = True,  # noqa: FBT001, FBT002 - the parent's signature
        **kwargs: Any,
    ) -> dict[str, Any]:
        inputs = super()._preprocess_onnx_input(onnx_input, is_doc=is_doc, **kwargs)
        if "token_type_ids" in inputs:
            inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
        return inputs


class _BundledColbert(_Colbert):
    """The bundled encoder: its queries are not padded with [MASK] tokens.

    Padding costs it two thirds of a short query's time and finds nothing more
    (docs/relevance.md).
    """

    MIN_QUERY_LENGTH = None


def _options(settings: Settings, threads: int) -> dict[str, Any]:
    cache = settings.model_cache_dir or settings.data_dir / "models"
    return {
        "threads": threads,
        "cache_dir": str(cache),
        "local_files_only": settings.offline,
        "enable_cpu_mem_arena": False,
    }


def _load_dense(
    spec: ModelSpec, directory: Path | None, options: dict[str, Any]
) -> TextEmbedding:
    if directory is None:
        return TextEmbedding(spec.name, **options)
    if spec.files:
        return TextEmbedding(spec.name, specific_model_path=str(directory), **options)
    name = f"directory/{directory}"
    known = {model["model"] for model in TextEmbedding.list_supported_models()}
    if name not in known:
        TextEmbedding.add_custom_model(
            model=name,
            pooling=_pooling_type(directory),
            normalization=True,
            sources=ModelSource(url="file://"),
            dim=json.loads((directory / "config.json").read_text())["hidden_size"],
            model_file=_onnx_file(directory),
        )
    return TextEmbedding(name, specific_model_path=str(directory), **options)


def _pooling_type(directory: Path) -> PoolingType:
    """Return what sentence-transformers' own file says; mean if it is absent."""
    path = directory / "1_Pooling" / "config.json"
    if path.exists() and json.loads(path.read_text()).get("pooling_mode_cls_token"):
        return PoolingType.CLS
    return PoolingType.MEAN


def _onnx_file(directory: Path) -> str:
    for candidate in ("model.onnx", "onnx/model.onnx", "model_optimized.onnx"):
        if (directory / candidate).exists():
            return candidate
    msg = f"There is no model.onnx in {directory}."
    raise ModelUnavailableError(msg)


def _load_colbert(
    spec: ModelSpec, directory: Path | None, options: dict[str, Any]
) -> Any:
    if directory is None and spec.name not in _COLBERTS:
        return LateInteractionTextEmbedding(spec.name, **options).model
    if directory is None:
        return _Colbert(spec.name, **options)
    if spec.files:
        return _BundledColbert(spec.name, specific_model_path=str(directory), **options)
    # A directory is laid out as the catalogue's ColBERT: model.onnx at its top.
    name = "colbert-ir/colbertv2.0"
    return _Colbert(name, specific_model_path=str(directory), **options)


def _load_sparse(spec: ModelSpec, settings: Settings) -> Any:
    with _model_errors(spec):
        if settings.models == "bundled":
            # No file is needed with the stop words given; the path only keeps
            # FastEmbed from looking for one on the hub.
            return Bm25(
                spec.name,
                specific_model_path=".",
                stopwords=set(ENGLISH),
                avg_len=BM25_AVERAGE_LENGTH,
            )
        options = _options(settings, 1)
        del options["enable_cpu_mem_arena"]
        if spec.directory is not None:
            return Bm25("Qdrant/bm25", specific_model_path=str(spec.directory))
        return SparseTextEmbedding(spec.name, **options)


@contextmanager
def _model_errors(spec: ModelSpec) -> Iterator[None]:
    # FastEmbed says ValueError for unknown names and failed downloads alike, and
    # ONNX Runtime's own exceptions derive from RuntimeError.
    try:
        yield
    except (ValueError, RuntimeError, OSError, KeyError) as exc:
        where = f"in {spec.directory}" if spec.directory else "from the model hub"
        msg = (
            f"The model {spec.name!r} could not be loaded {where}: {exc}."
            " Check its name, the network or HYBRID_SEARCH_OFFLINE, or use"
            " HYBRID_SEARCH_MODELS=bundled, which needs no download."
        )
        raise ModelUnavailableError(msg) from exc


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


def _query_tokens(model: Colbert, query: str) -> tuple[list[str], Vectors]:
    encoding = model.tokenize([query], is_doc=False)[0]
    vectors = _normalised(np.asarray(next(iter(model.query_embed(query))), np.float32))
    # The marker stands at 1; special and padding tokens tell a reader nothing.
    special = [encoding.special_tokens_mask[0], 1, *encoding.special_tokens_mask[1:]]
    tokens = [encoding.tokens[0], "", *encoding.tokens[1:]]
    kept = [i for i, s in enumerate(special[: len(vectors)]) if not s]
    kept = [i for i in kept if tokens[i] != model.MASK_TOKEN]
    return [tokens[i] for i in kept], vectors[kept]


def _document_tokens(model: Colbert, text: str) -> tuple[list[str], Vectors]:
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


def _settle(*futures: Future[Any]) -> None:
    for future in futures:
        future.exception()
