"""The server over HTTP: what it adds, many clients, a burst, and what it holds on to.

Run: python -m benchmarks.http [--parts overhead,burst] [--quick] [--json FILE]
"""

import argparse
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import http_clients
from benchmarks.engines import shared_settings
from benchmarks.filled import Filled
from benchmarks.http_burst import burst_section
from benchmarks.http_clients import clients_section
from benchmarks.http_drift import drift_sections
from benchmarks.http_overhead import overhead_section
from benchmarks.passages import some_queries
from benchmarks.report import Section, as_json, say, show, write

PARTS = ("overhead", "clients", "burst", "drift")
FULL = {
    "chunks": 10_000,
    "queries": 300,
    "clients": 8,
    "seconds": 300,
    "burst_calls": 1_000,
    "bursts": 5,
    "drift_calls": 20_000,
    "drift_chunks": 1_000,
    "drift_rest": 5,
}
QUICK = {
    "chunks": 60,
    "queries": 10,
    "clients": 2,
    "seconds": 3,
    "burst_calls": 100,
    "bursts": 1,
    "drift_calls": 200,
    "drift_chunks": 0,
    "drift_rest": 1,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and how often."""

    parts: Sequence[str]
    store_percents: Sequence[int]
    chunks: int
    queries: int
    clients: int
    seconds: int
    burst_calls: int
    bursts: int
    drift_calls: int
    drift_chunks: int
    drift_rest: int
    seed: int
    data: Path | None


class HttpRun:
    """One run of everything that a plan names."""

    def __init__(self, plan: Plan, filled: Filled) -> None:
        self._plan = plan
        self._filled = filled
        self._queries = some_queries(plan.data, plan.queries)
        self.problems: list[str] = []
        """What must not be, for whoever looks into it."""

    def sections(self) -> Iterator[Section]:
        """Measure, part by part."""
        for part in PARTS:
            if part in self._plan.parts:
                say(part)
                sections: list[Section] = getattr(self, f"_{part}")()
                yield from sections

    def _overhead(self) -> list[Section]:
        chunks = self._plan.chunks
        settings = self._filled.copy(chunks, "overhead")
        return [overhead_section(settings, self._queries, chunks=chunks)]

    def _clients(self) -> list[Section]:
        plan = self._plan
        plans = [
            http_clients.Plan(
                plan.clients, plan.seconds, percent, self._queries, plan.seed
            )
            for percent in plan.store_percents
        ]
        settings = self._filled.copy(plan.chunks, "clients")
        section, errors = clients_section(settings, plans, chunks=plan.chunks)
        self.problems += errors
        return [section]

    def _burst(self) -> list[Section]:
        plan = self._plan
        section, problems = burst_section(
            self._filled.copy(plan.chunks, "burst"),
            self._queries,
            calls=plan.burst_calls,
            bursts=plan.bursts,
            chunks=plan.chunks,
        )
        self.problems += problems
        return [section]

    def _drift(self) -> list[Section]:
        plan = self._plan
        settings = self._filled.copy(plan.drift_chunks, "drift")
        sections, unexpected = drift_sections(
            settings,
            self._queries,
            calls=plan.drift_calls,
            rest_seconds=plan.drift_rest,
            seed=plan.seed,
        )
        self.problems += unexpected
        return sections


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    for part in parts:
        if part not in PARTS:
            msg = f"{part!r} is not one of {', '.join(PARTS)}"
            raise argparse.ArgumentTypeError(msg)
    return parts


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.http",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", type=_parts, default=[*PARTS], help=",".join(PARTS))
    parser.add_argument("--chunks", type=int, help="for all but drift")
    parser.add_argument("--queries", type=int, help="distinct ones")
    parser.add_argument("--clients", type=int)
    parser.add_argument("--seconds", type=int, help="for clients, for each mixture")
    parser.add_argument(
        "--store-percents",
        type=int,
        nargs="+",
        default=[0, 10],
        help="for clients: how many calls of a hundred store, one run for each",
    )
    parser.add_argument("--burst-calls", type=int)
    parser.add_argument("--bursts", type=int)
    parser.add_argument("--drift-calls", type=int)
    parser.add_argument("--drift-chunks", type=int)
    parser.add_argument("--drift-rest", type=int, help="seconds before each look")
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
        store_percents=options.store_percents,
        seed=options.seed,
        data=options.data,
        **counts,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print each part, and write the JSON if asked to.

    Exits with 1 if anything failed that must not.
    """
    options = _arguments(arguments)
    plan = _plan(options)
    sections: list[Section] = []
    with TemporaryDirectory(prefix="http-", dir=options.work) as directory:
        work = Path(directory)
        run = HttpRun(plan, Filled(work, options.cache, plan.data))
        for section in run.sections():
            show([section])
            sections.append(section)
            if options.json:
                # After each part: the next one may take long, and fail.
                contents = as_json("http", sections, shared_settings(work))
                say(f"written: {write(options.json, contents)}")
    for problem in run.problems:
        say(problem)
    if run.problems:
        raise SystemExit(1)


if __name__ == "__main__":
    # The servers would outlive a benchmark that is told to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
