"""Servers that share one engine: safety, memory, start-up, and the border's price.

Run: python -m benchmarks.sharing [--parts clients,kills] [--quick] [--json FILE]
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from benchmarks.engines import shared_settings
from benchmarks.filled import Filled
from benchmarks.passages import some_queries
from benchmarks.report import Section, as_json, say, show, write
from benchmarks.sharing_border import border_section, engine_pair, stdio_pair
from benchmarks.sharing_clients import clients_row, clients_section
from benchmarks.sharing_kills import kills_section
from benchmarks.sharing_memory import memory_section
from benchmarks.sharing_ping import ping_section
from benchmarks.sharing_startup import first_section, startup_section

PARTS = ("clients", "memory", "startup", "first", "border", "kills", "ping")
FULL = {
    "writes": 200,
    "runs": 15,
    "queries": 200,
    "kills": 50,
    "chunks": 1_000,
    "ping_chunks": 30_000,
    "ping_seconds": 60,
}
QUICK = {
    "writes": 5,
    "runs": 2,
    "queries": 20,
    "kills": 3,
    "chunks": 60,
    "ping_chunks": 60,
    "ping_seconds": 5,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and how often."""

    parts: Sequence[str]
    servers: Sequence[int]
    writes: int
    runs: int
    queries: int
    kills: int
    chunks: int
    ping_chunks: int
    ping_seconds: int
    seed: int
    data: Path | None


class SharingRun:
    """One run of everything that a plan names."""

    def __init__(self, plan: Plan, work: Path, filled: Filled) -> None:
        self._plan = plan
        self._work = work
        self._filled = filled
        self._queries = some_queries(plan.data, plan.queries)
        self.problems: list[str] = []
        """What must not be, for whoever looks into it."""

    def sections(self) -> Iterator[Section]:
        """Measure, part by part."""
        plan = self._plan
        for part in PARTS:
            if part in plan.parts:
                say(part)
                section: Section = getattr(self, f"_{part}")()
                yield section

    def _clients(self) -> Section:
        rows = []
        for servers in self._plan.servers:
            row, problems = clients_row(
                self._work,
                servers=servers,
                writes=self._plan.writes,
                seed=self._plan.seed,
            )
            rows.append(row)
            self.problems += problems
        return clients_section(rows)

    def _memory(self) -> Section:
        return memory_section(self._work, clients=max(2, *self._plan.servers))

    def _startup(self) -> Section:
        return startup_section(self._work, runs=self._plan.runs)

    def _first(self) -> Section:
        plan = self._plan
        settings = self._filled.copy(plan.chunks, "first")
        return first_section(
            settings, self._queries, runs=plan.runs, chunks=plan.chunks
        )

    def _border(self) -> Section:
        chunks = self._plan.chunks
        near = self._filled.copy(chunks, "near")
        far = self._filled.copy(chunks, "far")
        engines = anyio.run(engine_pair, near, far, self._queries)
        servers = stdio_pair(near, far, self._queries)
        return border_section(engines, servers, chunks=chunks)

    def _kills(self) -> Section:
        plan = self._plan
        settings = self._filled.copy(plan.chunks, "killed")
        section, problems = kills_section(
            settings, kills=plan.kills, chunks=plan.chunks, seed=plan.seed
        )
        self.problems += problems
        return section

    def _ping(self) -> Section:
        plan = self._plan
        settings = self._filled.copy(plan.ping_chunks, "pinged", optimized=False)
        return ping_section(
            settings, self._queries, seconds=plan.ping_seconds, chunks=plan.ping_chunks
        )


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    for part in parts:
        if part not in PARTS:
            msg = f"{part!r} is not one of {', '.join(PARTS)}"
            raise argparse.ArgumentTypeError(msg)
    return parts


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.sharing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", type=_parts, default=[*PARTS], help=",".join(PARTS))
    parser.add_argument("--servers", type=int, nargs="+")
    parser.add_argument("--writes", type=int, help="by each server")
    parser.add_argument("--kills", type=int)
    parser.add_argument("--chunks", type=int, help="for first, border, kills")
    parser.add_argument("--runs", type=int, help="for startup and first")
    parser.add_argument("--queries", type=int, help="for border")
    parser.add_argument("--ping-chunks", type=int)
    parser.add_argument("--ping-seconds", type=int)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--quick", action="store_true", help="small, to try it out")
    parser.add_argument("--data", type=Path, help="BEIR directory, for its texts")
    parser.add_argument("--cache", type=Path, help="directory that keeps encodings")
    parser.add_argument("--work", type=Path, help="where the stores are made")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args(arguments)


def _plan(options: argparse.Namespace) -> Plan:
    defaults = QUICK if options.quick else FULL
    given = {name: getattr(options, name) for name in defaults}
    counts = {
        name: defaults[name] if value is None else value
        for name, value in given.items()
    }
    return Plan(
        parts=options.parts,
        servers=options.servers or ([2] if options.quick else [2, 4, 8]),
        seed=options.seed,
        data=options.data,
        **counts,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print each part, and write the JSON if asked to.

    Exits with 1 if anything was lost, stale or refused.
    """
    options = _arguments(arguments)
    plan = _plan(options)
    sections: list[Section] = []
    with TemporaryDirectory(prefix="sharing-", dir=options.work) as directory:
        work = Path(directory)
        run = SharingRun(plan, work, Filled(work, options.cache, plan.data))
        for section in run.sections():
            show([section])
            sections.append(section)
            if options.json:
                # After each part: the next one may take an hour, and fail.
                contents = as_json("sharing", sections, shared_settings(work))
                say(f"written: {write(options.json, contents)}")
    for problem in run.problems:
        say(problem)
    if run.problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
