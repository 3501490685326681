"""Searches over stdio at one size of the store, and where their time goes."""

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle, islice

import numpy as np

from benchmarks.host import Memory, memory, reset_peak
from benchmarks.replay import BorrowedEncoders
from benchmarks.report import Row, figure
from benchmarks.serving import Server, TimedSearch, served
from benchmarks.stages import staged
from mcp_hybrid_search.documents import SearchRequest
from mcp_hybrid_search.embeddings import Encoders
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.settings import Settings

BLOCK = 20
"""Queries in a row to the server, then the same ones to the local engine."""
WARM_UP = 20


@dataclass(slots=True)
class Searches:
    """Milliseconds of every search of one store, by part."""

    timed: list[TimedSearch] = field(default_factory=list)
    in_process: list[TimedSearch] = field(default_factory=list)
    """The same by a server that has the engine in its process."""
    encode: list[float] = field(default_factory=list)
    index: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    initialize_ms: float = 0.0
    first_search_ms: float = 0.0
    """From process start to the answer: models and store are loaded meanwhile."""
    reopen_ms: float = 0.0
    """Engine made and first search answered, models loaded before."""
    idle: Memory | None = None
    storing: Memory | None = None

    def end_to_end(self) -> list[float]:
        """Return the milliseconds of every search as its client sees it."""
        return [search.end_to_end_ms for search in self.timed]

    def rows(self) -> list[Row]:
        """Return the figures."""
        whole = self.end_to_end()
        check = [search.check_ms for search in self.timed]
        protocol = [s.end_to_end_ms - s.took_ms - s.check_ms for s in self.timed]
        floor = float(np.median(self.encode) + np.median(self.index))
        unchecked = [s.end_to_end_ms - s.check_ms for s in self.timed]
        times = [
            figure(f"search p{p}, end to end", whole, "ms", percentile=p)
            for p in (50, 95, 99)
        ]
        in_process = [search.end_to_end_ms for search in self.in_process]
        ratio = [float(np.median(whole)) / floor]
        unchecked_ratio = [float(np.median(unchecked)) / floor]
        return [
            *times,
            figure("search p50, end to end, --in-process", in_process, "ms"),
            figure("  encoding the query, alone", self.encode, "ms"),
            figure("  index query, alone", self.index, "ms"),
            figure("  fusion and ledger", self.read, "ms"),
            figure("  pipes and JSON", protocol, "ms"),
            figure("  the SDK client's schema check", check, "ms"),
            figure("end to end / (encoding + index)", ratio, "", target="<= 1.6"),
            figure("  the same without the client's check", unchecked_ratio, ""),
            figure("initialize, over the SDK's client", [self.initialize_ms], "ms"),
            figure("first search, from start", [self.first_search_ms], "ms"),
            figure("reopen, to the first answer", [self.reopen_ms], "ms"),
            *_memory_rows("searching", self.idle),
            *_memory_rows("storing 20 passages", self.storing),
        ]


def _memory_rows(when: str, found: Memory | None) -> Iterator[Row]:
    if found is not None:
        yield figure(f"RSS, {when}", [found.rss / 1e6], "MB")
        yield figure(f"  not mapped from files, {when}", [found.anonymous / 1e6], "MB")
        yield figure(f"  peak RSS, {when}", [found.peak_rss / 1e6], "MB")


def copied(settings: Settings, name: str) -> Settings:
    """Return the settings of a copy of a closed store, made beside it."""
    target = settings.data_dir.with_name(name)
    copy = shutil.which("cp")
    if copy is None:
        msg = "cp is needed: it keeps holes in files."
        raise RuntimeError(msg)
    options = ("-a", "--reflink=auto", "--sparse=always")
    subprocess.run([copy, *options, str(settings.data_dir), str(target)], check=True)
    return settings.model_copy(update={"data_dir": target})


async def measure_searches(
    settings: Settings,
    encoders: Encoders,
    queries: Sequence[str],
    *,
    count: int,
    document: str,
) -> Searches:
    """Ask the command and a local engine the same, in turn.

    Args:
        settings: Of a closed store; the command gets copies of it, one for each way
            to run the engine.
        encoders: For the local engine.
        queries: Repeated if there are fewer than `count`.
        count: Searches.
        document: Stored at the end, to see what that takes of memory.
    """
    found = Searches()
    texts = list(islice(cycle(queries), count))
    copy = copied(settings, "served")
    alone = copied(settings, "alone").model_copy(update={"in_process": True})
    started = time.perf_counter()
    try:
        with closing(Engine(settings, BorrowedEncoders(encoders))) as engine:
            await engine.search(_request(texts[0], settings))
            found.reopen_ms = (time.perf_counter() - started) * 1000
            async with served(copy) as server:
                await _begin(server, texts, found)
                async with served(alone) as other:
                    await _warm_up(other, texts)
                    for first in range(0, count, BLOCK):
                        block = texts[first : first + BLOCK]
                        await _ask_server(server, block, found.timed)
                        await _ask_server(other, block, found.in_process)
                        await _ask_engine(engine, encoders, settings, block, found)
                found.idle = memory(server.processes())
                found.storing = await peak_while_storing(server, document)
    finally:
        shutil.rmtree(copy.data_dir)
        shutil.rmtree(alone.data_dir)
    return found


def _request(text: str, settings: Settings) -> SearchRequest:
    return SearchRequest(text, settings.collection, settings.namespace)


async def _begin(server: Server, texts: Sequence[str], found: Searches) -> None:
    found.initialize_ms = server.initialize_ms
    await server.call("hybrid-search", query=texts[0])
    found.first_search_ms = (time.perf_counter() - server.started) * 1000
    await _warm_up(server, texts)


async def _warm_up(server: Server, texts: Sequence[str]) -> None:
    for text in texts[:WARM_UP]:
        await server.call("hybrid-search", query=text)


async def _ask_server(
    server: Server, texts: Sequence[str], timed: list[TimedSearch]
) -> None:
    timed += [await server.timed_search(text) for text in texts]


async def _ask_engine(
    engine: Engine,
    encoders: Encoders,
    settings: Settings,
    texts: Sequence[str],
    found: Searches,
) -> None:
    for text in texts:
        request = _request(text, settings)
        started = time.perf_counter()
        query = encoders.encode_query(text)
        found.encode.append((time.perf_counter() - started) * 1000)
        stages = staged(engine, request, query, prefetch_limit=settings.prefetch_limit)
        found.index.append(stages.index_ms)
        result = await engine.search(request)
        found.read.append(result.milliseconds["read"])


async def peak_while_storing(server: Server, text: str) -> Memory:
    """Store a document and return the memory after it, and its peak."""
    processes = server.processes()
    reset_peak(processes)
    await server.call("store-document", text=text)
    return memory(processes)
