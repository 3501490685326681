"""How much of the bare encoders' speed is left when documents are stored."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import numpy as np

from benchmarks.passages import chunk_texts
from benchmarks.replay import BorrowedEncoders
from benchmarks.report import Section, figure, say
from mcp_hybrid_search import models
from mcp_hybrid_search.documents import NewDocument, Stored
from mcp_hybrid_search.embeddings import BATCH_SIZE, FastEmbedEncoders
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.settings import Settings

WARM_UP_TEXTS = 8


def bulk_section(
    settings: Settings, documents: Sequence[str], *, repetitions: int
) -> Section:
    """Time the bare encoders and the engine in turn, on the same chunks.

    Args:
        settings: All but the data directory.
        documents: Distinct.
        repetitions: Of both; at least two say something about the noise.
    """
    with closing(FastEmbedEncoders(models.model_set(settings), settings)) as encoders:
        texts = list(
            chain.from_iterable(chunk_texts(d, encoders, settings) for d in documents)
        )
        _bare_seconds(encoders, texts[:WARM_UP_TEXTS])
        bare, stored = [], []
        for repetition in range(repetitions):
            bare.append(len(texts) / _bare_seconds(encoders, texts))
            say(f"bulk {repetition + 1}: bare encoders {bare[-1]:.2f} chunks/s")
            stored.append(_stored_per_second(encoders, settings, documents))
            say(f"bulk {repetition + 1}: store_many {stored[-1]:.2f} chunks/s")
        tokens = _median_tokens(encoders, texts)
    ratios = [ours / theirs for ours, theirs in zip(stored, bare, strict=True)]
    rows = [
        figure("two bare encoders in parallel", bare, "chunks/s"),
        figure("Engine.store_many, committed", stored, "chunks/s"),
        figure("store_many / bare, of each pair", ratios, "ratio", target=">= 0.85"),
    ]
    note = f"{len(texts)} distinct chunks, median {tokens:.0f} tokens, interleaved"
    return Section("Bulk store", rows, note)


def _bare_seconds(encoders: FastEmbedEncoders, texts: Sequence[str]) -> float:
    ordered = sorted(texts, key=len)
    dense = encoders._dense  # noqa: SLF001 - exactly the models that the engine runs
    colbert = encoders._colbert  # noqa: SLF001
    with ThreadPoolExecutor(2) as pool:
        started = time.perf_counter()
        runs = [
            pool.submit(_drain, dense.passage_embed(ordered, batch_size=BATCH_SIZE)),
            pool.submit(_drain, colbert.embed(ordered, batch_size=BATCH_SIZE)),
        ]
        for run in runs:
            run.result()
        return time.perf_counter() - started


def _drain(vectors: Iterable[object]) -> None:
    deque(vectors, maxlen=0)


def _stored_per_second(
    encoders: FastEmbedEncoders, settings: Settings, documents: Sequence[str]
) -> float:
    with TemporaryDirectory(prefix="bulk-") as directory:
        settings = settings.model_copy(update={"data_dir": Path(directory)})
        new = [
            NewDocument(text, settings.collection, settings.namespace)
            for text in documents
        ]
        with closing(Engine(settings, BorrowedEncoders(encoders))) as engine:
            started = time.perf_counter()
            outcomes = anyio.run(engine.store_many, new)
            seconds = time.perf_counter() - started
    return sum(o.chunks for o in outcomes if isinstance(o, Stored)) / seconds


def _median_tokens(encoders: FastEmbedEncoders, texts: Sequence[str]) -> float:
    if encoders.tokenizer is None:
        raise RuntimeError(encoders.problem)
    encodings = encoders.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return float(np.median([len(encoding.ids) for encoding in encodings]))
