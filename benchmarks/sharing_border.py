"""What the border between a server and its engine adds to a search."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

import numpy as np

from benchmarks.engines import end_engine, front_end
from benchmarks.report import Row, Section, figure
from mcp_hybrid_search.documents import SearchRequest
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.engine_client import EngineClient
from mcp_hybrid_search.settings import Settings

BLOCK = 20
"""Questions in a row to the one, then the same ones to the other."""
TARGET = "<= 3"
NOTE = (
    "The same questions in turn, in blocks of {block}, to two copies of one store."
    " Beside the search: all but what the engine itself says that it took. Added: the"
    " median of the differences, question by question"
)


class Pair:
    """Milliseconds of the same searches on both sides of a border."""

    def __init__(self) -> None:
        self.near: list[tuple[float, float]] = []
        """End to end, and the engine's own, with the engine in process."""
        self.far: list[tuple[float, float]] = []

    def rows(self, what: str) -> Iterator[Row]:
        """Yield the figures."""
        sides = (("in process", self.near), ("engine process", self.far))
        for name, times in sides:
            whole = [end_to_end for end_to_end, _ in times]
            beside = [end_to_end - own for end_to_end, own in times]
            yield figure(f"{what}, {name}, p50", whole, "ms")
            yield figure(f"{what}, {name}, p95", whole, "ms", percentile=95)
            yield figure("  beside the search", beside, "ms")
        added = [
            far[0] - near[0] for near, far in zip(self.near, self.far, strict=True)
        ]
        medians = [float(np.median([t for t, _ in side])) for _, side in sides]
        yield figure("  added by the border", added, "ms", target=TARGET)
        yield figure(
            "  difference of the two p50",
            [medians[1] - medians[0]],
            "ms",
            target=TARGET,
        )


async def engine_pair(near: Settings, far: Settings, queries: Sequence[str]) -> Pair:
    """Search through `Engine` and through `EngineClient`.

    Args:
        near: Of a store for the engine in this process.
        far: Of a copy of it, for the engine process.
        queries: The first block is asked once more, to warm up.
    """
    pair = Pair()
    client = EngineClient(far)
    try:
        with closing(Engine(near)) as engine:
            sides = ((engine, pair.near), (client, pair.far))
            for number, block in enumerate(_blocks(queries)):
                for searcher, times in sides:
                    for query in block:
                        request = SearchRequest(query, near.collection, near.namespace)
                        started = time.perf_counter()
                        result = await searcher.search(request)
                        milliseconds = (time.perf_counter() - started) * 1000
                        if number:
                            times.append((milliseconds, result.milliseconds["total"]))
    finally:
        await client.aclose()
        end_engine(far)
    return pair


def stdio_pair(near: Settings, far: Settings, queries: Sequence[str]) -> Pair:
    """Search over stdio by `--in-process` and by the default; as `engine_pair`."""
    pair = Pair()
    near = near.model_copy(update={"in_process": True})
    with ExitStack() as opened:
        opened.callback(end_engine, far)
        sides = (
            (opened.enter_context(front_end(near)), pair.near),
            (opened.enter_context(front_end(far)), pair.far),
        )
        for number, block in enumerate(_blocks(queries)):
            for server, times in sides:
                for query in block:
                    started = time.perf_counter()
                    answer = server.call("hybrid-search", query=query)
                    milliseconds = (time.perf_counter() - started) * 1000
                    if number:
                        times.append((milliseconds, answer["took_ms"]))
    return pair


def _blocks(queries: Sequence[str]) -> Iterator[Sequence[str]]:
    yield queries[:BLOCK]
    for first in range(0, len(queries), BLOCK):
        yield queries[first : first + BLOCK]


def border_section(engines: Pair, servers: Pair, *, chunks: int) -> Section:
    """Return the figures of both pairs."""
    rows = [*engines.rows("Engine.search"), *servers.rows("hybrid-search over stdio")]
    title = f"What the process border adds to a search, {chunks:,} chunks"
    return Section(title, rows, NOTE.format(block=BLOCK))
