"""Clients that search back to back over HTTP, each on a connection of its own."""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import anyio
from mcp import Client, MCPError

from benchmarks.host import cpu_seconds, footprint
from benchmarks.http_serving import MODES, HttpServer, answering_with_json, http_servers
from benchmarks.report import Row, Section, figure, say
from mcp_hybrid_search.settings import Settings

DOCUMENTS = 20
"""Of one client: its stores replace them, so that the store keeps its size."""
NOTE = (
    "Real clients in one process beside the server, every other one in the stateless"
    " era, JSON answers; each sends its next call as soon as it has the answer. A store"
    " replaces one of {documents} short documents of its client. Cores: processor time"
    " by time; what the clients take, the server and its engine do not get"
)


@dataclass(slots=True)
class Load:
    """What clients did together."""

    search: list[float] = field(default_factory=list)
    """Milliseconds of each search."""
    store: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """How many clients do what, and for how long."""

    clients: int
    seconds: float
    store_percent: int
    queries: Sequence[str]
    seed: int


class BusyClient:
    """One client that never rests."""

    def __init__(self, name: str, plan: Plan, load: Load) -> None:
        self._name = name
        self._plan = plan
        self._load = load
        self._rng = random.Random(f"{plan.seed} {name}")  # noqa: S311

    async def work(self, client: Client) -> None:
        """Send one call after the other until the time is over."""
        async with client:
            end = time.monotonic() + self._plan.seconds
            while time.monotonic() < end:
                await self._call(client)

    async def _call(self, client: Client) -> None:
        query = self._rng.choice(self._plan.queries)
        if self._rng.randrange(100) < self._plan.store_percent:
            times, tool = self._load.store, "store-document"
            document_id = f"{self._name}-{self._rng.randrange(DOCUMENTS)}"
            text = f"{query} {self._rng.random()}"
            arguments = {"id": document_id, "text": text}
        else:
            times, tool = self._load.search, "hybrid-search"
            arguments = {"query": query}
        started = time.perf_counter()
        try:
            result = await client.call_tool(tool, arguments)
        except MCPError as exc:
            self._load.errors.append(f"{tool}: {exc}")
            return
        times.append((time.perf_counter() - started) * 1000)
        if result.is_error:
            self._load.errors.append(f"{tool}: {result.content}")


def clients_section(
    settings: Settings, plans: Sequence[Plan], *, chunks: int
) -> tuple[Section, list[str]]:
    """Let clients work; returns the figures, and the errors they got.

    Args:
        settings: Of a store; no engine runs on it.
        plans: One after the other, with the same server.
        chunks: In the store, for the title.
    """
    rows: list[Row] = []
    errors: list[str] = []
    with http_servers(answering_with_json(settings)) as (server,):
        for plan in plans:
            say(f"clients: {plan.seconds:.0f} s, {plan.store_percent} % stores")
            load = Load()
            begun = _Times(server)
            anyio.run(_worked, server, plan, load)
            rows += _rows(server, plan, load, begun.passed())
            errors += load.errors
    title = f"{plans[0].clients} clients at once over HTTP, {chunks:,} chunks"
    return Section(title, rows, NOTE.format(documents=DOCUMENTS)), errors


async def _worked(server: HttpServer, plan: Plan, load: Load) -> None:
    eras = [*MODES]
    async with anyio.create_task_group() as group:
        for number in range(plan.clients):
            busy = BusyClient(f"client-{number}", plan, load)
            group.start_soon(busy.work, server.client(eras[number % len(eras)]))


class _Times:
    """The clock and the processor times when this was made."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._begun = self._now()

    def _now(self) -> dict[str, float]:
        return {
            "clock": time.perf_counter(),
            "server": cpu_seconds(self._server.pid),
            "engine": cpu_seconds(self._server.engine_pid),
            "clients": time.process_time(),
        }

    def passed(self) -> dict[str, float]:
        """Return how much of each has passed, in seconds."""
        return {name: value - self._begun[name] for name, value in self._now().items()}


def _rows(
    server: HttpServer, plan: Plan, load: Load, passed: dict[str, float]
) -> Iterator[Row]:
    seconds = passed.pop("clock")
    kind = f"{plan.store_percent} % stores" if plan.store_percent else "searches only"
    yield figure(f"{kind}: seconds", [seconds], "s")
    yield figure("  errors", [len(load.errors)], "", target="0")
    for what, times, target in (
        ("search", load.search, "<= 500"),
        ("store", load.store, ""),
    ):
        if times:
            for percentile in (50, 95, 99, 100):
                yield figure(
                    f"  {what} p{percentile}",
                    times,
                    "ms",
                    target=target if percentile == 99 else "",
                    percentile=percentile,
                )
    yield figure("  calls", [(len(load.search) + len(load.store)) / seconds], "/s")
    for name, taken in passed.items():
        yield figure(f"  processor of the {name}", [taken / seconds], "cores")
    for name, pid in (("server", server.pid), ("engine", server.engine_pid)):
        yield figure(f"  RSS of the {name}", [footprint(pid).rss / 1e6], "MB")
