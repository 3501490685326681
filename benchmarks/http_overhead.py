"""What HTTP adds to a search, against the same call in memory."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import anyio
import numpy as np
from mcp import Client

from benchmarks.http_serving import (
    HANDSHAKE,
    MODES,
    HttpServer,
    answering_with_json,
    http_servers,
    structured,
)
from benchmarks.report import Row, Section, figure, say
from mcp_hybrid_search.engine_client import EngineClient
from mcp_hybrid_search.server import create_server
from mcp_hybrid_search.settings import Settings

MEMORY, JSON, STREAMS, SSE = "in memory", "HTTP, JSON", "HTTP, streams", "SSE"
WARM_UP = 20
TARGET = "<= 4"
NO_OP = {"query": "none", "limit": 0}
"""Refused by the tool's schema: all of a call but the engine."""
NOTE = (
    "Each question to every side in turn, the first to be asked changes each time; all"
    " sides share one engine. In memory: the server's tools in the client's process."
    " Added: the median of the differences, question by question. The SDK's client"
    " checks each answer, in memory too. No-op: a search whose `limit` is refused"
)


@dataclass(slots=True)
class Side:
    """One way to the tools, and the milliseconds of everything asked over it."""

    client: Client
    search: list[float] = field(default_factory=list)
    no_op: list[float] = field(default_factory=list)
    ping: list[float] = field(default_factory=list)

    async def ask(self, query: str, *, pings: bool) -> None:
        """Search, and do nothing, once each."""
        started = time.perf_counter()
        structured(await self.client.call_tool("hybrid-search", {"query": query}))
        self.search.append(_milliseconds(started))
        started = time.perf_counter()
        refused = await self.client.call_tool("hybrid-search", NO_OP)
        self.no_op.append(_milliseconds(started))
        if not refused.is_error:
            raise RuntimeError(refused)
        if pings:
            started = time.perf_counter()
            await self.client.session.send_ping()
            self.ping.append(_milliseconds(started))

    def forget(self) -> None:
        """Drop what was measured so far."""
        for times in (self.search, self.no_op, self.ping):
            times.clear()


def _milliseconds(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def overhead_section(
    settings: Settings, queries: Sequence[str], *, chunks: int
) -> Section:
    """Ask the same over every side.

    Args:
        settings: Of a store; no engine runs on it.
        queries: Each is asked once of every side, in both eras.
        chunks: In the store, for the title.
    """
    rows: list[Row] = []
    with http_servers(answering_with_json(settings), settings) as servers:
        for era in MODES:
            say(f"overhead: {era}, {len(queries)} questions")
            sides = anyio.run(_asked, settings, servers, era, queries)
            rows += _rows(era, sides)
    return Section(f"What HTTP adds to a search, {chunks:,} chunks", rows, NOTE)


async def _asked(
    settings: Settings, servers: list[HttpServer], era: str, queries: Sequence[str]
) -> dict[str, Side]:
    async with _sides(settings, servers, era) as sides:
        names = [*sides]
        for number in range(min(WARM_UP, len(queries))):
            for side in sides.values():
                await side.ask(queries[number % len(queries)], pings=False)
        for side in sides.values():
            side.forget()
        for number, query in enumerate(queries):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                await sides[name].ask(query, pings=era == HANDSHAKE)
        return sides


@asynccontextmanager
async def _sides(
    settings: Settings, servers: list[HttpServer], era: str
) -> AsyncIterator[dict[str, Side]]:
    engine = EngineClient(settings)
    with_json, with_streams = servers
    clients = {
        MEMORY: Client(create_server(engine, settings), mode=MODES[era]),
        JSON: with_json.client(era),
        STREAMS: with_streams.client(era),
    }
    if era == HANDSHAKE:
        clients[SSE] = with_json.sse_client()
    async with AsyncExitStack() as opened:
        opened.push_async_callback(engine.aclose)
        yield {
            name: Side(await opened.enter_async_context(client))
            for name, client in clients.items()
        }


def _rows(era: str, sides: dict[str, Side]) -> Iterator[Row]:
    near = sides[MEMORY]
    for name, side in sides.items():
        yield figure(f"{era}: search, {name}, p50", side.search, "ms")
        yield figure("  p95", side.search, "ms", percentile=95)
        if side is not near:
            target = TARGET if name == JSON else ""
            added = [b - a for a, b in zip(near.search, side.search, strict=True)]
            yield figure("  added, of each pair", added, "ms", target=target)
            apart = float(np.median(side.search) - np.median(near.search))
            yield figure("  difference of the p50", [apart], "ms", target=target)
        yield figure("  no-op call", side.no_op, "ms")
        if side.ping:
            yield figure("  ping", side.ping, "ms")
