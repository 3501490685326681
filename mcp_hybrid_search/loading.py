"""Models from names, directories and checked files, as FastEmbed's classes.

Imported late: FastEmbed alone takes half a second.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastembed import (
    LateInteractionTextEmbedding,
    SparseTextEmbedding,
    TextEmbedding,
)
from fastembed.common.model_description import ModelSource, PoolingType
from fastembed.late_interaction.colbert import Colbert
from fastembed.sparse import bm25
from fastembed.sparse.bm25 import Bm25
from fastembed.sparse.sparse_embedding_base import SparseTextEmbeddingBase
from fastembed.sparse.utils.tokenizer import SimpleTokenizer

from mcp_hybrid_search.errors import ModelUnavailableError
from mcp_hybrid_search.models import ModelSpec, laid_out
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stopwords import ENGLISH

BM25_AVERAGE_LENGTH = 100
"""Stemmed words of a chunk that BM25 takes for ordinary (docs/relevance.md)."""

_COLBERTS = ("answerdotai/answerai-colbert-small-v1", "colbert-ir/colbertv2.0")
"""The catalogue's models of FastEmbed's class `Colbert`."""

Loader = Callable[[ModelSpec, Path | None, dict[str, Any]], Any]


def load(
    loader: Loader,
    spec: ModelSpec,
    settings: Settings,
    *,
    threads: int,
    checked: Future[None],
) -> Any:
    """Load a model by `load_dense` or `load_colbert` once its files are `checked`.

    Args:
        loader: One of the two.
        spec: The model.
        settings: Whether and where to download.
        threads: Of ONNX Runtime.
        checked: `models.check` of the same model; awaited before a file is loaded.

    Raises:
        ModelUnavailableError: If it cannot be loaded.
    """
    options = _options(settings, threads)
    checked.result()
    with _model_errors(spec), laid_out(spec) as directory:
        if spec.files:
            # FastEmbed makes its cache directory, wanted or not.
            options["cache_dir"] = str(directory)
        return loader(spec, directory, options)


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


class _BundledBm25(Bm25):
    """FastEmbed's English BM25, made without a walk through all of Unicode.

    To drop tokens that are punctuation, `Bm25` collects all of it when it is made,
    which takes longer than loading a model. A token consists of word characters,
    and the underscore is the only one of them that is punctuation.
    """

    def __init__(self, name: str) -> None:
        SparseTextEmbeddingBase.__init__(self, name)
        self._specific_model_path = None
        self.k = 1.2
        self.b = 0.75
        self.avg_len = BM25_AVERAGE_LENGTH
        self.token_max_length = 40
        self.punctuation = {"_"}
        self.stopwords = set(ENGLISH)
        self.stemmer = bm25.SnowballStemmer("english")  # type: ignore[attr-defined]
        self.tokenizer = SimpleTokenizer


def _options(settings: Settings, threads: int) -> dict[str, Any]:
    cache = settings.model_cache_dir or settings.data_dir / "models"
    return {
        "threads": threads,
        "cache_dir": str(cache),
        "local_files_only": settings.offline,
        "enable_cpu_mem_arena": False,
    }


def load_dense(
    spec: ModelSpec, directory: Path | None, options: dict[str, Any]
) -> TextEmbedding:
    """Load a dense model by its name, or from a directory."""
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


def load_colbert(
    spec: ModelSpec, directory: Path | None, options: dict[str, Any]
) -> Any:
    """Load a late-interaction model by its name, or from a directory."""
    if directory is None and spec.name not in _COLBERTS:
        return LateInteractionTextEmbedding(spec.name, **options).model
    if directory is None:
        return _Colbert(spec.name, **options)
    if spec.files:
        return _BundledColbert(spec.name, specific_model_path=str(directory), **options)
    # A directory is laid out as the catalogue's ColBERT: model.onnx at its top.
    name = "colbert-ir/colbertv2.0"
    return _Colbert(name, specific_model_path=str(directory), **options)


def load_sparse(spec: ModelSpec, settings: Settings) -> Any:
    """Load a sparse model by its name, or from a directory.

    Raises:
        ModelUnavailableError: If it cannot be loaded.
    """
    with _model_errors(spec):
        if settings.models == "bundled":
            return _BundledBm25(spec.name)
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
