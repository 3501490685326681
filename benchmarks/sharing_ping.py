"""Whether a server still answers while its engine is busy."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from benchmarks.engines import engine_pid, front_ends
from benchmarks.host import cpu_seconds
from benchmarks.oracle import new_version
from benchmarks.real_server import ROOT, GoneError, RealServer
from benchmarks.report import Row, Section, figure, say
from mcp_hybrid_search.engine_protocol import READY
from mcp_hybrid_search.settings import Settings

PING_SECONDS = 0.01
SEARCH_SECONDS = 0.5
"""Between an answer and the next question: few enough to leave the engine idle."""
WINDOW_SECONDS = 1.0
BUSY_CORES = 0.4
"""An engine that takes more of the processor than its searches do is busy."""
ANSWER_SECONDS = 120.0
STORED_AT_ONCE = 5
ENGINE = """
from mcp_hybrid_search import engine_process
from mcp_hybrid_search.stores import optimizing

optimizing.LONG_IDLE_SECONDS = 0.0
engine_process.main()
"""
STATES = (QUIET, BUSY, STORING) = (
    "quiet",
    "engine busy by itself",
    "another client stores",
)
NOTE = (
    "One server gets a ping every {ping:.0f} ms and, between them, a search"
    " {search} s after the answer to the one before. Busy by itself: in that second"
    " the engine took more than {cores} of a core though nobody stored. The index was"
    " filled without optimising; the engine then does all of it in one native call"
)


@dataclass(slots=True)
class Sent:
    """A request on its way: when it went, and what is known when it is back."""

    at: float
    kind: str
    milliseconds: float | None = None
    failed: bool = False


@dataclass(slots=True)
class Window:
    """A second or so, and how busy the engine was in it."""

    start: float
    end: float
    cores: float
    storing: bool

    def state(self) -> str:
        """Return one of `STATES`."""
        if self.storing:
            return STORING
        return BUSY if self.cores > BUSY_CORES else QUIET


@dataclass(slots=True)
class Watch:
    """Everything that was sent, and what the engine did meanwhile."""

    sent: dict[int, Sent] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)

    def rows(self) -> Iterator[Row]:
        """Yield the figures by state."""
        for state in STATES:
            windows = [window for window in self.windows if window.state() == state]
            seconds = [window.end - window.start for window in windows]
            yield figure(f"{state}, seconds", [sum(seconds)], "s")
            cores = [window.cores for window in windows]
            yield figure(f"  processor of the engine, {state}", cores, "cores")
            for kind, target in (("ping", "<= 200"), ("search", "")):
                times = self._milliseconds(kind, windows)
                yield figure(f"  {kind} p50, {state}", times, "ms")
                yield figure(
                    f"  {kind} p99, {state}", times, "ms", percentile=99, target=target
                )
                yield figure(f"  {kind} worst, {state}", times, "ms", percentile=100)
        # One whose answer never came is an error too.
        errors = sum(each.failed or each.milliseconds is None for each in self._all())
        yield figure("errors", [errors], "", target="0")

    def _all(self) -> list[Sent]:
        return [*self.sent.values()]

    def _milliseconds(self, kind: str, windows: list[Window]) -> list[float]:
        return [
            each.milliseconds
            for each in self._all()
            if each.kind == kind
            and each.milliseconds is not None
            and any(window.start <= each.at < window.end for window in windows)
        ]


class Watcher:
    """Sends pings and searches to one server."""

    def __init__(
        self, settings: Settings, server: RealServer, queries: list[str]
    ) -> None:
        self.watch = Watch()
        self._settings = settings
        self._server = server
        self._queries = cycle(queries)
        self._searching: Sent | None = None
        self._lock = threading.Lock()

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Take the answers while the caller sends; ends the server."""
        receiver = threading.Thread(target=self._receive, daemon=True)
        receiver.start()
        try:
            yield
            self._wait_for_answers()
        finally:
            self._server.kill()
            receiver.join()

    def _receive(self) -> None:
        with suppress(GoneError):
            while True:
                request_id, result = self._server.receive()
                received = time.perf_counter()
                with self._lock:
                    sent = self.watch.sent[request_id]
                sent.milliseconds = (received - sent.at) * 1000
                sent.failed = bool(result.get("isError") or "error" in result)

    def _wait_for_answers(self) -> None:
        deadline = time.perf_counter() + ANSWER_SECONDS
        while time.perf_counter() < deadline and any(
            each.milliseconds is None for each in self.watch.sent.values()
        ):
            time.sleep(PING_SECONDS)

    def observe(self, seconds: float, *, storing: bool = False) -> None:
        """Send for so long, and note how busy the engine is."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start, cpu = time.perf_counter(), self._cpu_seconds()
            while time.perf_counter() < min(start + WINDOW_SECONDS, end):
                self._send_due()
                time.sleep(PING_SECONDS)
            length = time.perf_counter() - start
            cores = max(0.0, self._cpu_seconds() - cpu) / length
            self.watch.windows.append(Window(start, start + length, cores, storing))

    def _cpu_seconds(self) -> float:
        pid = engine_pid(self._settings)
        return 0.0 if pid is None else cpu_seconds(pid)

    def _send_due(self) -> None:
        self._send("ping", "ping", {})
        last = self._searching
        if last is None or (
            last.milliseconds is not None
            and time.perf_counter()
            >= last.at + last.milliseconds / 1000 + SEARCH_SECONDS
        ):
            arguments = {"query": next(self._queries)}
            params = {"name": "hybrid-search", "arguments": arguments}
            self._searching = self._send("search", "tools/call", params)

    def _send(self, kind: str, method: str, params: dict[str, Any]) -> Sent:
        # The answer may be quicker than the note of what it answers.
        with self._lock:
            sent = Sent(time.perf_counter(), kind)
            self.watch.sent[self._server.request(method, params)] = sent
        return sent


def ping_section(
    settings: Settings, queries: list[str], *, seconds: float, chunks: int
) -> Section:
    """Watch one server while its engine works, and while another client stores.

    Args:
        settings: Of a store; no engine runs on it.
        queries: At least one.
        seconds: To look on, before the other client stores and after it did; half
            as long while it does.
        chunks: In the store, for the title.
    """
    _start_optimizing_engine(settings)
    with front_ends(settings, 2) as (watched, other):
        watcher = Watcher(settings, watched, queries)
        with watcher.receiving():
            say(f"ping: {seconds:.0f} s as it is")
            watcher.observe(seconds)
            say(f"ping: {seconds / 2:.0f} s while another client stores")
            with _storing(other):
                watcher.observe(seconds / 2, storing=True)
            say(f"ping: {seconds:.0f} s after it")
            watcher.observe(seconds)
    note = NOTE.format(
        ping=PING_SECONDS * 1000, search=SEARCH_SECONDS, cores=BUSY_CORES
    )
    title = f"Answers while the engine is busy, {chunks:,} chunks"
    return Section(title, [*watcher.watch.rows()], note)


def _start_optimizing_engine(settings: Settings) -> None:
    """Start an engine that optimises everything in one native call, at once.

    It would wait for some minutes in which nobody searches.
    """
    reading, writing = os.pipe()
    subprocess.run(
        [sys.executable, "-c", ENGINE, str(writing)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings.environment()},
        pass_fds=[writing],
        check=True,
    )
    os.close(writing)
    with os.fdopen(reading) as report:
        told = report.read()
    if told != READY:
        raise RuntimeError(told)


@contextmanager
def _storing(server: RealServer) -> Iterator[None]:
    """Store new documents, a few at a time, until the block ends."""
    stop = threading.Event()
    rng = random.Random(0)  # noqa: S311

    def store() -> None:
        while not stop.is_set():
            texts = [new_version(rng).text for _ in range(STORED_AT_ONCE)]
            server.call("store-documents", documents=[{"text": t} for t in texts])

    with ThreadPoolExecutor(1) as pool:
        storing = pool.submit(store)
        try:
            yield
        finally:
            stop.set()
        storing.result()
