"""Several servers write into one data directory, and read what they wrote."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import front_ends, shared_settings
from benchmarks.oracle import Oracle, Verdict, Version, new_version, wait_until_complete
from benchmarks.real_server import FailedError, GoneError, RealServer
from benchmarks.report import Row, Section, say

NOTE = (
    "Each write is followed by a read of that document and a search for a word that"
    " only it has, by the server that wrote it; at the end one server reads and finds"
    " everything. Stale: not found, or not as it was written. Aim: all counts 0"
)


@dataclass(slots=True)
class Writer:
    """One client: what it wrote, how long that took, and what went wrong."""

    server: RealServer
    name: str
    rng: random.Random
    written: dict[str, tuple[Version, int]] = field(default_factory=dict)
    """Version and chunks of every acknowledged document, by id."""
    store_ms: list[float] = field(default_factory=list)
    search_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    not_first: int = 0

    def write(self, count: int) -> None:
        """Write so many documents, and look for each at once."""
        for number in range(count):
            try:
                self._write(f"{self.name}-{number}")
            except FailedError as exc:  # noqa: PERF203 - the next one may succeed
                self.errors.append(str(exc))
            except GoneError as exc:
                self.errors.append(str(exc))
                return

    def _write(self, document_id: str) -> None:
        version = new_version(self.rng)
        stored = self._timed(
            self.store_ms, "store-document", id=document_id, text=version.text
        )
        self.written[document_id] = version, stored["chunks"]
        found = self.server.call("get-document", id=document_id)
        if found["text"] != version.text:
            self.stale.append(f"{document_id} was read as {found['text']!r:.80}")
        marker = version.markers[0]
        hits = self._timed(self.search_ms, "hybrid-search", query=marker)["hits"]
        if not any(marker in hit["text"].lower() for hit in hits):
            self.stale.append(f"{document_id} was not found by {marker}")
        elif hits[0]["document_id"] != document_id:
            self.not_first += 1

    def _timed(self, into: list[float], tool: str, **arguments: str) -> dict[str, Any]:
        started = time.perf_counter()
        answer = self.server.call(tool, **arguments)
        into.append((time.perf_counter() - started) * 1000)
        return answer


def clients_row(
    work: Path, *, servers: int, writes: int, seed: int
) -> tuple[Row, list[str]]:
    """Let so many servers write; returns the figures, and what went wrong."""
    say(f"clients: {servers} servers, {writes} writes each")
    settings = shared_settings(work / f"clients-{servers}")
    with front_ends(settings, servers) as started:
        writers = [
            Writer(server, f"writer-{number}", random.Random(seed + number))  # noqa: S311
            for number, server in enumerate(started)
        ]
        begun = time.perf_counter()
        with ThreadPoolExecutor(servers) as pool:
            for done in [pool.submit(writer.write, writes) for writer in writers]:
                done.result()
        seconds = time.perf_counter() - begun
        say("clients: reading everything back")
        verdict = _verdict(writers, seed)
    row = _row(writers, verdict, seconds)
    problems = [text for w in writers for text in (*w.errors, *w.stale)]
    kept = [*verdict.lost, *verdict.half, *verdict.resurrected, *verdict.duplicates]
    return row, [*problems, *kept]


def _verdict(writers: list[Writer], seed: int) -> Verdict:
    oracle = Oracle(random.Random(seed))  # noqa: S311
    for writer in writers:
        for document_id, (version, chunks) in writer.written.items():
            oracle.stored(document_id, version, chunks)
    wait_until_complete(writers[0].server)
    return oracle.verified(writers[0].server)


def _row(writers: list[Writer], verdict: Verdict, seconds: float) -> Row:
    written = sum(len(writer.written) for writer in writers)
    milliseconds = {
        "store": [ms for writer in writers for ms in writer.store_ms],
        "search": [ms for writer in writers for ms in writer.search_ms],
    }
    return {
        "servers": len(writers),
        "writes": written,
        "errors": sum(len(writer.errors) for writer in writers),
        "stale": sum(len(writer.stale) for writer in writers),
        "lost": len(verdict.lost),
        "half": len(verdict.half),
        "duplicates": len(verdict.duplicates) + len(verdict.resurrected),
        "not first": sum(w.not_first for w in writers) + verdict.not_first,
        "writes/s": written / seconds,
        **{
            f"{what} p{p} ms": float(np.percentile(values, p)) if values else None
            for what, values in milliseconds.items()
            for p in (50, 95)
        },
    }


def clients_section(rows: list[Row]) -> Section:
    """Return the figures by number of servers."""
    return Section("Servers that write into one directory at once", rows, NOTE)
