"""Ranking quality on a BEIR collection, through the engine's own path."""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from benchmarks.beir import BeirCollection, BeirDocument, read_beir
from benchmarks.measures import Quality, quality
from benchmarks.replay import replaying
from benchmarks.report import Row, Section, as_json, progress, say, show, write
from benchmarks.stages import STAGES, staged
from mcp_hybrid_search.documents import NewDocument, SearchRequest, Stored
from mcp_hybrid_search.embeddings import Encoded, Encoders
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.settings import Settings, load_settings
from mcp_hybrid_search.stores.edge import size_bytes

FUSED = "fused (Engine.search)"
POOLINGS = (1, 2, 3)
STORAGES = ("float32", "float16", "turbo8")


@dataclass(frozen=True, slots=True)
class Answers:
    """What an engine answered to all queries of a collection."""

    by_stage: dict[str, Quality]
    search_ms: float
    """Median of `Engine.search` in process, the query's encoding included."""
    index_ms: float
    """Median of the index query alone."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One collection in one engine."""

    answers: Answers
    chunks: int
    bytes_per_chunk: float
    """On the disk, everything in the data directory."""
    note: str


async def measure(
    collection: BeirCollection,
    settings: Settings,
    encoders: Encoders,
    *,
    queries: Mapping[str, Encoded],
    limit: int,
) -> Measured:
    """Store a collection in a fresh data directory and ask all its queries.

    Args:
        collection: Documents the engine refuses are counted and told.
        settings: All but the data directory.
        encoders: Must survive being closed by an engine.
        queries: The encoded queries by id, for the single stages.
        limit: Documents that a search returns; MRR ends there.
    """
    with TemporaryDirectory(prefix="quality-") as directory:
        root = Path(directory)
        settings = settings.model_copy(update={"data_dir": root})
        with closing(Engine(settings, encoders)) as engine:
            outcomes = await engine.store_many(
                [
                    _new_document(document, settings)
                    for document in collection.documents
                ],
                progress=progress("store"),
            )
            answers = await _answers(engine, collection, settings, queries, limit)
        stored = [outcome for outcome in outcomes if isinstance(outcome, Stored)]
        refused = [outcome for outcome in outcomes if not isinstance(outcome, Stored)]
        chunks = sum(outcome.chunks for outcome in stored)
        note = f"{len(collection.queries)} queries, {len(stored)} documents"
        if refused:
            note += f"; {len(refused)} documents were refused, the first: {refused[0]}"
        return Measured(answers, chunks, size_bytes(root) / max(chunks, 1), note)


def _new_document(document: BeirDocument, settings: Settings) -> NewDocument:
    # Cranfield has documents that are nothing but a title.
    return NewDocument(
        text=document.text if document.text.strip() else document.title,
        title=document.title if document.text.strip() else None,
        collection=settings.collection,
        namespace=settings.namespace,
        document_id=document.document_id,
    )


async def _answers(
    engine: Engine,
    collection: BeirCollection,
    settings: Settings,
    queries: Mapping[str, Encoded],
    limit: int,
) -> Answers:
    rankings: dict[str, dict[str, list[str]]] = {
        stage: {} for stage in (*STAGES, FUSED)
    }
    search_ms, index_ms = [], []
    for query_id, text in collection.queries.items():
        request = SearchRequest(
            text, settings.collection, settings.namespace, limit=limit
        )
        found = await engine.search(request)
        search_ms.append(found.milliseconds["total"])
        rankings[FUSED][query_id] = [hit.document.document_id for hit in found.hits]
        stages = staged(
            engine,
            request,
            queries[query_id],
            prefetch_limit=settings.prefetch_limit,
        )
        index_ms.append(stages.index_ms)
        for stage, ranking in stages.rankings.items():
            rankings[stage][query_id] = ranking
    return Answers(
        {stage: quality(run, collection.qrels) for stage, run in rankings.items()},
        statistics.median(search_ms),
        statistics.median(index_ms),
    )


def _encoded_queries(
    collection: BeirCollection, encoders: Encoders
) -> dict[str, Encoded]:
    return {
        query_id: encoders.encode_query(text)
        for query_id, text in collection.queries.items()
    }


def single(
    collection: BeirCollection, settings: Settings, cache: Path | None, limit: int
) -> list[Section]:
    """Measure every stage with one group of settings."""
    with replaying(settings, cache) as encoders_for:
        encoders = encoders_for(settings.token_pooling)
        queries = _encoded_queries(collection, encoders)
        run = partial(measure, queries=queries, limit=limit)
        measured = anyio.run(run, collection, settings, encoders)
    answers = measured.answers
    stages: list[Row] = [
        {
            "ranking": stage,
            "nDCG@10": found.ndcg_at_10,
            "recall@10": found.recall_at_10,
            f"MRR@{limit}": found.mrr,
        }
        for stage, found in answers.by_stage.items()
    ]
    engine: Row = {
        "chunks": measured.chunks,
        "bytes per chunk on disk": measured.bytes_per_chunk,
        "search ms (median, in process)": answers.search_ms,
        "index query ms (median)": answers.index_ms,
    }
    return [
        Section("Quality by stage", stages, measured.note),
        Section("Engine", [engine]),
    ]


def sweep(
    collection: BeirCollection, settings: Settings, cache: Path | None, limit: int
) -> list[Section]:
    """Measure every pooling with every storage type, encoding once."""
    rows: list[Row] = []
    note = ""
    first: Measured | None = None
    with replaying(settings, cache) as encoders_for:
        queries = _encoded_queries(collection, encoders_for(1))
        run = partial(measure, queries=queries, limit=limit)
        for pooling in POOLINGS:
            for storage in STORAGES:
                say(f"token pooling {pooling}, storage {storage}")
                changed = settings.model_copy(
                    update={"token_pooling": pooling, "token_storage": storage}
                )
                encoders = encoders_for(pooling)
                measured = anyio.run(run, collection, changed, encoders)
                first, note = first or measured, measured.note
                rows.append(_sweep_row(pooling, storage, measured, first))
    note += "; percentages are of token pooling 1, float32"
    return [Section("Storage of late-interaction vectors", rows, note)]


def _sweep_row(pooling: int, storage: str, measured: Measured, base: Measured) -> Row:
    fused, first = (m.answers.by_stage[FUSED].ndcg_at_10 for m in (measured, base))
    rerank, first_rerank = (
        m.answers.by_stage["bare rerank"].ndcg_at_10 for m in (measured, base)
    )
    return {
        "pooling": pooling,
        "storage": storage,
        "fused nDCG@10": fused,
        "fused %": 100 * fused / first if first else None,
        "rerank nDCG@10": rerank,
        "rerank %": 100 * rerank / first_rerank if first_rerank else None,
        "bytes per chunk": measured.bytes_per_chunk,
        "bytes %": 100 * measured.bytes_per_chunk / base.bytes_per_chunk,
        "search ms": measured.answers.search_ms,
        "index ms": measured.answers.index_ms,
    }


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.quality", description=__doc__
    )
    parser.add_argument("--data", type=Path, required=True, help="BEIR directory")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--cache", type=Path, help="directory that keeps encodings")
    parser.add_argument("--sweep", action="store_true", help="pooling by storage")
    parser.add_argument("--limit", type=int, default=10, help="hits a search returns")
    parser.add_argument("--limit-documents", type=int, help="the first so many only")
    for name in ("token_pooling", "chunk_tokens", "prefetch_limit", "encoder_threads"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    parser.add_argument("--chunk-overlap-tokens", type=int)
    parser.add_argument("--token-storage", choices=STORAGES)
    parser.add_argument("--models", choices=("bundled", "tutorial"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the JSON if asked to."""
    options = _arguments(arguments)
    given = {
        name: value
        for name, value in vars(options).items()
        if name in Settings.model_fields and value is not None
    }
    settings = load_settings(**given)
    collection = read_beir(options.data, limit_documents=options.limit_documents)
    run = sweep if options.sweep else single
    sections = run(collection, settings, options.cache, options.limit)
    show(sections)
    if options.json:
        contents = as_json("quality", sections, settings)
        say(f"written: {write(options.json, contents)}")


if __name__ == "__main__":
    main()
