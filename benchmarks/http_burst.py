"""A thousand calls at once: who is answered, who is refused, who else suffers."""

import json
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

import anyio
import h11
import numpy as np
from anyio.abc import SocketStream
from mcp import Client

from benchmarks.host import ROOT, footprint
from benchmarks.http_pinging import Ping
from benchmarks.http_serving import (
    STATELESS,
    HttpServer,
    answering_with_json,
    http_servers,
    structured,
)
from benchmarks.report import Row, Section, figure, say
from mcp_hybrid_search.settings import Settings

PING_SECONDS = 0.02
USUAL_SEARCHES = 20
NORMAL = 2.0
"""A search is as usual again up to so many times the usual p50."""
PATIENCE_SECONDS = 120.0
ANSWERED, REFUSED = "answered", "refused"
RETRY = re.compile(r"retry in \d+ s")
NOTE = (
    "Searches of the stateless era over connections that are open already, all written"
    " at once, without an SDK. Refused: 429 with Retry-After, or an error that says"
    " `retry in N s`; everything else counts as neither. Pings go every {ping:.0f} ms,"
    " answered or not, from a client in a process of its own. Normal again: from the"
    " last answer of the burst to the end of the first search that takes at most"
    " {normal:.0f} times the p50 from before it. {bursts} bursts"
)


@dataclass(slots=True)
class Burst:
    """What became of one burst."""

    usual_ms: float
    began: float = 0.0
    ended: float = 0.0
    """Monotonic: when the first call went, and when the last answer was there."""
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    """By what became of the call."""
    neither: list[str] = field(default_factory=list)
    normal_seconds: float = 0.0

    def count(self, what: str) -> int:
        """Return how many calls were `answered` or `refused`."""
        return len(self.milliseconds.get(what, ()))


def burst_section(
    settings: Settings, queries: Sequence[str], *, calls: int, bursts: int, chunks: int
) -> tuple[Section, list[str]]:
    """Let bursts come; returns the figures, and what was neither answer nor refusal.

    Args:
        settings: Of a store; no engine runs on it.
        queries: At least one.
        calls: In one burst.
        bursts: One after the other, each when all is as usual.
        chunks: In the store, for the title.
    """
    with http_servers(answering_with_json(settings)) as (server,):
        before = footprint(server.pid).rss
        _allow_descriptors(calls + 100)
        with _pinging(server) as pings:
            found = anyio.run(_bursts, server, queries, calls, bursts)
        rows = [
            *_rows(found, pings, least=settings.max_calls + settings.max_waiting_calls),
            figure("server RSS before", [before / 1e6], "MB"),
            figure("server RSS after", [footprint(server.pid).rss / 1e6], "MB"),
        ]
    note = NOTE.format(ping=PING_SECONDS * 1000, normal=NORMAL, bursts=bursts)
    title = f"A burst of {calls:,} calls, {chunks:,} chunks"
    problems = Counter(f"call: {text}" for each in found for text in each.neither)
    problems.update(f"ping: {ping.problem}" for ping in pings if ping.problem)
    counted = [f"{count} times {text}" for text, count in problems.items()]
    return Section(title, rows, note), counted


def _allow_descriptors(count: int) -> None:
    """Let this process open so many; the server was started without."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


@contextmanager
def _pinging(server: HttpServer) -> Iterator[list[Ping]]:
    """Ping until the block ends; only then the list has what was found."""
    found: list[Ping] = []
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "benchmarks.http_pinging",
            server.url,
            f"{PING_SECONDS}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "pinging\n":
                msg = "The client that pings did not start."
                raise RuntimeError(msg)
            yield found
            said, _ = process.communicate(timeout=PATIENCE_SECONDS)
            found += [Ping(*values) for values in json.loads(said)]
        finally:
            process.kill()


async def _bursts(
    server: HttpServer, queries: Sequence[str], calls: int, bursts: int
) -> list[Burst]:
    found = []
    texts = cycle(queries)
    async with server.client(STATELESS) as client:
        for number in range(bursts):
            say(f"burst: {number + 1} of {bursts}")
            usual = [await _search(client, next(texts)) for _ in range(USUAL_SEARCHES)]
            burst = Burst(float(np.median(usual)))
            requests = [_request(server.url, next(texts)) for _ in range(calls)]
            await _sent(server.url, requests, burst)
            await _wait_until_normal(client, texts, burst)
            found.append(burst)
    return found


async def _search(client: Client, query: str) -> float:
    started = time.perf_counter()
    structured(await client.call_tool("hybrid-search", {"query": query}))
    return (time.perf_counter() - started) * 1000


async def _wait_until_normal(
    client: Client, texts: Iterator[str], burst: Burst
) -> None:
    while await _search(client, next(texts)) > NORMAL * burst.usual_ms:
        if time.monotonic() > burst.ended + PATIENCE_SECONDS:
            break
    burst.normal_seconds = time.monotonic() - burst.ended


def _request(url: str, query: str) -> bytes:
    """Return one call as it goes over the wire."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": STATELESS,
        "io.modelcontextprotocol/clientInfo": {"name": "burst", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    arguments = {"query": query}
    params = {"name": "hybrid-search", "arguments": arguments, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    body = json.dumps(message).encode()
    parts = urlsplit(url)
    writer = h11.Connection(h11.CLIENT)
    request = h11.Request(
        method="POST",
        target=parts.path,
        headers=[
            ("Host", parts.netloc),
            ("Connection", "close"),
            ("Accept", "application/json, text/event-stream"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("MCP-Protocol-Version", STATELESS),
            ("Mcp-Method", "tools/call"),
            ("Mcp-Name", "hybrid-search"),
        ],
    )
    pieces = [
        writer.send(event) for event in (request, h11.Data(body), h11.EndOfMessage())
    ]
    return b"".join(piece or b"" for piece in pieces)


async def _sent(url: str, requests: Sequence[bytes], burst: Burst) -> None:
    """Send requests all at once, and wait for every answer."""
    parts = urlsplit(url)
    streams = [
        await anyio.connect_tcp(parts.hostname or "", parts.port or 0) for _ in requests
    ]
    answers: list[tuple[float, bytes]] = []
    burst.began = time.monotonic()
    async with anyio.create_task_group() as group:
        for stream, request in zip(streams, requests, strict=True):
            group.start_soon(_one, stream, request, answers)
    burst.ended = time.monotonic()
    # Only now: reading them takes the processor from the server.
    _sorted_in(burst, answers)


async def _one(
    stream: SocketStream, request: bytes, answers: list[tuple[float, bytes]]
) -> None:
    started = time.monotonic()
    answer = bytearray()
    async with stream:
        with anyio.move_on_after(PATIENCE_SECONDS):
            await stream.send(request)
            # What was cut off is seen when the answer is read.
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    answer += await stream.receive()
    answers.append(((time.monotonic() - started) * 1000, bytes(answer)))


def _sorted_in(burst: Burst, answers: Sequence[tuple[float, bytes]]) -> None:
    for milliseconds, answer in answers:
        outcome = became(answer)
        if outcome in {ANSWERED, REFUSED}:
            burst.milliseconds.setdefault(outcome, []).append(milliseconds)
        else:
            burst.neither.append(outcome)


def _read(answer: bytes) -> tuple[h11.Response, bytes]:
    reader = h11.Connection(h11.CLIENT)
    # It reads answers only to what it believes to have sent.
    reader.send(h11.Request(method="POST", target="/", headers=[("Host", "-")]))
    reader.send(h11.EndOfMessage())
    for data in (answer, b""):
        reader.receive_data(data)
    body = bytearray()
    response: h11.Response | None = None
    while True:
        event = reader.next_event()
        if isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif response is not None and isinstance(event, h11.EndOfMessage):
            return response, bytes(body)
        else:
            msg = "The answer has no head."
            raise h11.RemoteProtocolError(msg)


def became(answer: bytes) -> str:
    """Return `answered`, `refused` (with the time to try again), or what came else."""
    try:
        response, body = _read(answer)
    except h11.RemoteProtocolError as exc:
        return f"{len(answer)} bytes: {exc}"
    text = body.decode("utf-8", "replace")
    if response.status_code == 429:
        names = {name for name, _ in response.headers}
        return REFUSED if b"retry-after" in names else "429 without Retry-After"
    try:
        message: dict[str, Any] = json.loads(text)
    except ValueError:
        return f"{response.status_code} {text[:80]}"
    result = message.get("result", {"isError": True})
    if not result.get("isError"):
        return ANSWERED
    return REFUSED if RETRY.search(text) else f"{response.status_code} {text[:200]}"


def _rows(found: list[Burst], pings: list[Ping], *, least: int) -> Iterator[Row]:
    answered = [each.count(ANSWERED) for each in found]
    yield figure("answered, fewest", answered, "", percentile=0, target=f">= {least}")
    yield figure("answered", answered, "")
    yield figure("refused", [each.count(REFUSED) for each in found], "")
    neither = [len(each.neither) for each in found]
    yield figure("neither, most", neither, "", percentile=100, target="0")
    for what in (ANSWERED, REFUSED):
        times = [ms for each in found for ms in each.milliseconds.get(what, ())]
        yield figure(f"  until {what}, p50", times, "ms")
        yield figure(f"  until {what}, last", times, "ms", percentile=100)
    yield figure("seconds to the last answer", [e.ended - e.began for e in found], "s")
    inside, outside = _apart(found, pings)
    for when, times, target in (
        ("meanwhile", inside, "<= 200"),
        ("otherwise", outside, ""),
    ):
        yield figure(f"ping p50, {when}", times, "ms")
        yield figure(f"ping p99, {when}", times, "ms", percentile=99, target=target)
        yield figure(f"ping worst, {when}", times, "ms", percentile=100)
    failed = sum(bool(ping.problem) for ping in pings)
    yield figure("pings without an answer", [failed], "", target="0")
    yield figure("search p50 before", [each.usual_ms for each in found], "ms")
    normal = [each.normal_seconds for each in found]
    yield figure("normal again, worst", normal, "s", percentile=100, target="<= 2")


def _apart(found: list[Burst], pings: list[Ping]) -> tuple[list[float], list[float]]:
    """Return milliseconds of pings that were on their way in a burst, and others."""
    inside: list[float] = []
    outside: list[float] = []
    for ping in pings:
        end = ping.at + ping.milliseconds / 1000
        during = any(end >= b.began and ping.at <= b.ended for b in found)
        (inside if during else outside).append(ping.milliseconds)
    return inside, outside
