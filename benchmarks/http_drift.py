"""What a server and its engine hold on to after thousands of mixed calls."""

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp import Client, MCPError
from mcp.types import CallToolResult

from benchmarks.host import descriptors, footprint, threads
from benchmarks.http_serving import (
    HANDSHAKE,
    STATELESS,
    HttpServer,
    answering_with_json,
    http_servers,
)
from benchmarks.oracle import new_version
from benchmarks.report import Row, Section, figure, say
from mcp_hybrid_search.settings import Settings

CLIENTS = 4
CALLS_PER_CONNECTION = 50
DOCUMENTS = 200
"""That are stored, replaced and deleted."""
WEIGHTS = {
    "search": 40,
    "store": 20,
    "get": 10,
    "delete": 5,
    "list collections": 5,
    "list documents": 5,
    "list tools": 5,
    "resource": 5,
    "bad arguments": 5,
}
BAD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("hybrid-search", {"query": ""}),
    ("hybrid-search", {"query": "x", "limit": 0}),
    ("hybrid-search", {"query": "x", "filter": {"a": {"near": 1}}}),
    ("hybrid-search", {"quest": "x"}),
    ("store-document", {"text": "  "}),
    ("store-document", {"text": "x", "collection": "../x"}),
    ("get-document", {"id": ""}),
    ("no-such-tool", {}),
)
NOTE = (
    "{clients} clients at once; each speaks the stateless era, the handshake era or the"
    " SSE transport, by turns, and leaves after {calls} calls. Stores replace one of"
    " {documents} documents. Measured when everybody had left for {rest:.0f} s; growth"
    " since the first line. Unexpected: an error where none was due, or none where one"
    " was"
)


@dataclass(slots=True)
class Done:
    """What was done so far."""

    calls: Counter[str] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)


class MixedClient:
    """Does a bit of everything over one connection after another."""

    def __init__(
        self, server: HttpServer, queries: Sequence[str], done: Done, *, seed: str
    ) -> None:
        self._server = server
        self._queries = queries
        self._done = done
        self._rng = random.Random(seed)  # noqa: S311
        self._kinds: dict[str, Callable[[], Client]] = {
            STATELESS: lambda: server.client(STATELESS),
            HANDSHAKE: lambda: server.client(HANDSHAKE),
            "SSE": server.sse_client,
        }

    async def work(self, calls: int) -> None:
        """Make so many calls."""
        while calls > 0:
            kind = self._rng.choice([*self._kinds])
            self._done.connections[kind] += 1
            try:
                async with self._kinds[kind]() as client:
                    operations = await self._operations(client)
                    for _ in range(min(calls, CALLS_PER_CONNECTION)):
                        await self._operate(operations)
            except Exception as exc:
                if not _only_unread(exc):
                    raise
            calls -= CALLS_PER_CONNECTION

    async def _operations(
        self, client: Client
    ) -> dict[str, Callable[[], Awaitable[object]]]:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        templates = await client.list_resource_templates()
        operations: dict[str, Callable[[], Awaitable[object]]] = {
            "search": lambda: self._search(client),
            "store": lambda: self._store(client),
            "get": lambda: self._of_document(client, "get-document"),
            "delete": lambda: self._of_document(client, "delete-document"),
            "list collections": lambda: self._good(client, "list-collections"),
            "list tools": lambda: client.list_tools(cache_mode="refresh"),
            "bad arguments": lambda: self._bad(client),
        }
        if "list-documents" in tools:
            operations["list documents"] = lambda: self._good(client, "list-documents")
        if templates.resource_templates:
            operations["resource"] = lambda: client.read_resource("collections://")
        return operations

    async def _operate(
        self, operations: dict[str, Callable[[], Awaitable[object]]]
    ) -> None:
        weights = [WEIGHTS[kind] for kind in operations]
        kind = self._rng.choices([*operations], weights)[0]
        self._done.calls[kind] += 1
        try:
            await operations[kind]()
        except MCPError as exc:
            self._done.unexpected.append(f"{kind}: {exc}")

    async def _search(self, client: Client) -> None:
        query = self._rng.choice(self._queries)
        await self._good(client, "hybrid-search", query=query)

    async def _store(self, client: Client) -> None:
        text = new_version(self._rng).text
        await self._good(client, "store-document", id=self._document(), text=text)

    async def _of_document(self, client: Client, tool: str) -> None:
        """Call a tool with a document that may not be there."""
        result = await client.call_tool(tool, {"id": self._document()})
        if result.is_error and "There is no document" not in _text(result):
            self._done.unexpected.append(f"{tool}: {_text(result)}")

    async def _bad(self, client: Client) -> None:
        tool, arguments = self._rng.choice(BAD)
        result = await client.call_tool(tool, arguments)
        if not result.is_error:
            self._done.unexpected.append(f"{tool} took {arguments}")

    async def _good(self, client: Client, tool: str, **arguments: str) -> None:
        result = await client.call_tool(tool, arguments)
        if result.is_error:
            self._done.unexpected.append(f"{tool}: {_text(result)}")

    def _document(self) -> str:
        return f"drift-{self._rng.randrange(DOCUMENTS)}"


def _only_unread(error: Exception) -> bool:
    """Return whether the SDK's client only fails to hand over a notice as it leaves."""
    inner = getattr(error, "exceptions", None)
    if inner is not None:
        return all(_only_unread(each) for each in inner)
    return isinstance(error, anyio.BrokenResourceError)


def _text(result: CallToolResult) -> str:
    return " ".join(getattr(part, "text", "") for part in result.content)


def drift_sections(
    settings: Settings,
    queries: Sequence[str],
    *,
    calls: int,
    rest_seconds: float,
    seed: int,
) -> tuple[list[Section], list[str]]:
    """Make calls, and look ten times how large the processes are.

    Args:
        settings: Of a store; no engine runs on it.
        queries: At least one.
        calls: In all.
        rest_seconds: Nobody calls for so long before each look.
        seed: Chooses what is done.
    """
    done = Done()
    rows = []
    step = max(1, calls // 10)
    with http_servers(answering_with_json(settings)) as (server,):
        clients = [
            MixedClient(server, queries, done, seed=f"{seed} {number}")
            for number in range(CLIENTS)
        ]
        for number in range(1, 11):
            anyio.run(_worked, clients, step)
            time.sleep(rest_seconds)
            rows.append(_row(server, done))
            say(f"drift: {number * step:,} of {calls:,} calls, {rows[-1]}")
    note = NOTE.format(
        clients=CLIENTS,
        calls=CALLS_PER_CONNECTION,
        documents=DOCUMENTS,
        rest=rest_seconds,
    )
    return [
        Section("Memory over many mixed calls", rows, note),
        Section(
            "Growth from the first of these lines to the last", [*_growth(rows, done)]
        ),
    ], done.unexpected


async def _worked(clients: Sequence[MixedClient], calls: int) -> None:
    share, rest = divmod(calls, len(clients))
    async with anyio.create_task_group() as group:
        for number, client in enumerate(clients):
            group.start_soon(client.work, share + (number < rest))


def _row(server: HttpServer, done: Done) -> Row:
    row: dict[str, str | int | float | None] = {"calls": done.calls.total()}
    for name, pid in (("server", server.pid), ("engine", server.engine_pid)):
        found = footprint(pid)
        row[f"{name} RSS MB"] = found.rss / 1e6
        row[f"{name} PSS MB"] = found.pss / 1e6
        row[f"{name} threads"] = threads(pid)
        row[f"{name} descriptors"] = descriptors(pid)
    return row


def _growth(rows: Sequence[Row], done: Done) -> Iterator[Row]:
    def of(row: Row, *names: str) -> float:
        return sum(float(row[name] or 0) for name in names)

    first, last = rows[0], rows[-1]
    for what in ("RSS", "PSS"):
        server, engine = f"server {what} MB", f"engine {what} MB"
        for who, names in (
            ("server", [server]),
            ("engine", [engine]),
            ("together", [server, engine]),
        ):
            percent = 100 * (of(last, *names) / of(first, *names) - 1)
            target = "<= 5" if what == "RSS" else ""
            yield figure(f"{who}, {what}", [percent], "%", target=target)
    yield figure("unexpected answers", [len(done.unexpected)], "", target="0")
    for name, count in sorted({**done.calls, **done.connections}.items()):
        what = "connections, " if name in done.connections else "calls, "
        yield figure(what + name, [count], "")
