"""The pipeline of Qdrant's tutorial "Reranking in Hybrid Search", in local mode.

qdrant.tech/documentation/search-precision/reranking-hybrid-search: 20 dense and
20 BM25 candidates, reranked by ColBERT, on `QdrantClient(path=...)`. Filling and
searching run in processes of their own, so that each has its own memory.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from qdrant_client import QdrantClient, models

from benchmarks.host import memory
from benchmarks.passages import (
    chunk_texts,
    passage_documents,
    read_texts,
    some_queries,
)
from benchmarks.replay import NoisyEncoders, replaying
from mcp_hybrid_search.documents import BM25, COLBERT, DENSE
from mcp_hybrid_search.embeddings import Encoded
from mcp_hybrid_search.settings import Settings, load_settings

COLLECTION = "hybrid-search"
CANDIDATES = 20
LIMIT = 10
UPSERT_BATCH = 16


@dataclass(frozen=True, slots=True)
class Task:
    """What the tutorial's pipeline is to hold and to answer."""

    path: str
    """Of the local-mode store."""
    cache: str
    """Directory of the encodings; real ones are made where it lacks them."""
    data: str | None
    models: str
    chunks: int
    base_chunks: int
    """Chunks with real encodings; the others vary them."""
    queries: int
    token_dim: int
    """Numbers of each token vector that are kept: the tutorial's model has 128."""

    def settings(self) -> Settings:
        """Return settings that name the models and do not pool."""
        return load_settings(
            data_dir=Path(self.cache), models=self.models, token_pooling=1
        )

    def data_directory(self) -> Path | None:
        """Return the BEIR directory, if there is one."""
        return Path(self.data) if self.data else None


@dataclass(frozen=True, slots=True)
class Searched:
    """What the searching process measured."""

    reopen_ms: float
    search_ms: list[float]
    """Encoding the query and querying the store, in process."""
    query_ms: list[float]
    """The store's part."""
    rss_bytes: int


def fill(task: Task) -> None:
    """Fill the store as the tutorial does: three vectors a point, text as payload."""
    settings = task.settings()
    with replaying(settings, Path(task.cache)) as encoders_for:
        encoders = NoisyEncoders(encoders_for(1))
        if encoders.tokenizer is None:
            raise RuntimeError(encoders.problem)
        documents = passage_documents(
            read_texts(task.data_directory()),
            encoders.tokenizer,
            passages=task.base_chunks,
        )
        texts = list(
            chain.from_iterable(chunk_texts(d, encoders, settings) for d in documents)
        )
        client = QdrantClient(path=task.path)
        _create(client, encoders.dims[DENSE], task.token_dim)
        for first in range(0, task.chunks, UPSERT_BATCH):
            numbers = range(first, min(first + UPSERT_BATCH, task.chunks))
            batch = [texts[number % len(texts)] for number in numbers]
            encoded = encoders.encode_documents(batch, advance=lambda: None)
            points = zip(numbers, batch, encoded, strict=True)
            client.upsert(
                COLLECTION, [_point(*parts, task.token_dim) for parts in points]
            )
        client.close()


def search(task: Task) -> Searched:
    """Open the store and search it."""
    with replaying(task.settings(), Path(task.cache)) as encoders_for:
        encoders = encoders_for(1)
        started = time.perf_counter()
        client = QdrantClient(path=task.path)
        reopen_ms = (time.perf_counter() - started) * 1000
        search_ms, query_ms = [], []
        for text in some_queries(task.data_directory(), task.queries):
            started = time.perf_counter()
            encoded = encoders.encode_query(text)
            encoded_at = time.perf_counter()
            _query(client, encoded, task.token_dim)
            ended = time.perf_counter()
            search_ms.append((ended - started) * 1000)
            query_ms.append((ended - encoded_at) * 1000)
        rss_bytes = memory([os.getpid()]).rss
        client.close()
    return Searched(reopen_ms, search_ms, query_ms, rss_bytes)


def measure_tutorial(task: Task, *, timeout_seconds: float) -> Searched:
    """Fill and search in child processes.

    Args:
        task: Its `path` must not exist.
        timeout_seconds: For each of the two; a child that is late is ended.

    Raises:
        subprocess.SubprocessError: If a child is late or fails, as for lack of
            memory.
    """
    _child("fill", task, timeout_seconds)
    return Searched(**json.loads(_child("search", task, timeout_seconds)))


def _child(step: str, task: Task, timeout_seconds: float) -> str:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.tutorial", step, json.dumps(asdict(task))],
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout_seconds,
        check=True,
    ).stdout


def _create(client: QdrantClient, dense_dim: int, token_dim: int) -> None:
    cosine = models.Distance.COSINE
    client.create_collection(
        COLLECTION,
        vectors_config={
            DENSE: models.VectorParams(size=dense_dim, distance=cosine),
            COLBERT: models.VectorParams(
                size=token_dim,
                distance=cosine,
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
                hnsw_config=models.HnswConfigDiff(m=0),
            ),
        },
        sparse_vectors_config={
            BM25: models.SparseVectorParams(modifier=models.Modifier.IDF)
        },
    )


def _point(
    number: int, text: str, encoded: Encoded, token_dim: int
) -> models.PointStruct:
    if encoded.dense is None or encoded.colbert is None:
        raise RuntimeError(text)
    return models.PointStruct(
        id=number,
        vector={
            DENSE: encoded.dense.tolist(),
            COLBERT: encoded.colbert[:, :token_dim].tolist(),
            BM25: _sparse(encoded),
        },
        payload={"document": text},
    )


def _query(client: QdrantClient, encoded: Encoded, token_dim: int) -> None:
    if encoded.dense is None or encoded.colbert is None:
        msg = "All three models are needed."
        raise RuntimeError(msg)
    client.query_points(
        COLLECTION,
        prefetch=[
            models.Prefetch(
                query=encoded.dense.tolist(), using=DENSE, limit=CANDIDATES
            ),
            models.Prefetch(query=_sparse(encoded), using=BM25, limit=CANDIDATES),
        ],
        query=encoded.colbert[:, :token_dim].tolist(),
        using=COLBERT,
        with_payload=True,
        limit=LIMIT,
    )


def _sparse(encoded: Encoded) -> models.SparseVector:
    return models.SparseVector(indices=encoded.bm25.indices, values=encoded.bm25.values)


def main() -> None:
    """Do one step of a task and print what it measured, as JSON."""
    step, task = sys.argv[1], Task(**json.loads(sys.argv[2]))
    if step == "fill":
        fill(task)
    else:
        print(json.dumps(asdict(search(task))))


if __name__ == "__main__":
    main()
