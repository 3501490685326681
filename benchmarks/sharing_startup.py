"""How soon a server answers, with an engine that runs and without."""

import time
from pathlib import Path
from typing import Any

from benchmarks.engines import end_engine, front_end, front_ends, shared_settings
from benchmarks.report import Row, Section, figure
from benchmarks.serving import ARGUMENTS, environment
from benchmarks.startup import EMPTY_SERVER, initialize_ms
from mcp_hybrid_search.settings import Settings

RATIO_TARGET = "<= 1.2"


def startup_section(work: Path, *, runs: int) -> Section:
    """Time `initialize` of an empty server and of ours, in turn."""
    warm = shared_settings(work / "startup-warm")
    cold = shared_settings(work / "startup-cold")
    times: dict[str, list[float]] = {"empty": [], "warm": [], "cold": []}
    with front_ends(warm, 1) as (keeper,):
        keeper.call("list-collections")
        try:
            for _ in range(1 + runs):
                times["empty"].append(
                    initialize_ms([str(EMPTY_SERVER)], environment(warm))
                )
                times["warm"].append(initialize_ms(ARGUMENTS, environment(warm)))
                times["cold"].append(initialize_ms(ARGUMENTS, environment(cold)))
                end_engine(cold)
        finally:
            end_engine(cold)
    # The first of each is there to warm up.
    empty, *ours = (values[1:] for values in times.values())
    rows = [figure("empty MCPServer", empty, "ms")]
    for state, values in zip(
        ("engine running", "no engine running"), ours, strict=True
    ):
        ratios = [mine / floor for mine, floor in zip(values, empty, strict=True)]
        rows += [
            figure(f"{state}", values, "ms"),
            figure("  ratio, of each pair", ratios, "ratio", target=RATIO_TARGET),
            figure("  ratio, worst pair", ratios, "ratio", percentile=100),
        ]
    note = "process start to the answer to initialize, in turn, after one run of each"
    return Section("Answer to initialize, shared engine", rows, note)


def first_section(
    settings: Settings, queries: list[str], *, runs: int, chunks: int
) -> Section:
    """Time the first search of new servers.

    Args:
        settings: Of a store with documents in it; no engine runs on it.
        queries: At least one.
        runs: With a running engine, and without one.
        chunks: In the store, for the title.
    """
    cold = []
    try:
        for number in range(runs):
            cold.append(_first_search(settings, queries[number % len(queries)]))
            end_engine(settings)
    finally:
        end_engine(settings)
    with front_ends(settings, 1) as (keeper,):
        keeper.call("hybrid-search", query=queries[0])
        warm = [
            _first_search(settings, queries[number % len(queries)])
            for number in range(runs)
        ]
    rows = [
        *_first_rows("engine running", warm, targets=("<= 0.3", "")),
        *_first_rows("no engine running", cold, targets=("", "<= 2")),
    ]
    note = "hybrid-search sent as soon as initialize is answered; worst: of all runs"
    return Section(f"First search of a server, {chunks:,} chunks", rows, note)


def _first_search(settings: Settings, query: str) -> tuple[float, float]:
    """Return the seconds after `initialize`, and after process start."""
    with front_end(settings) as server:
        answer: dict[str, Any] = server.call("hybrid-search", query=query)
        answered = time.monotonic()
        if not answer["hits"]:
            raise RuntimeError(answer)
        return answered - server.initialized, answered - server.started


def _first_rows(
    state: str, found: list[tuple[float, float]], *, targets: tuple[str, str]
) -> list[Row]:
    since = ("after initialize", "after process start")
    return [
        figure(
            f"{state}, seconds {when}{', worst' if percentile == 100 else ''}",
            values,
            "s",
            target=target,
            percentile=percentile,
        )
        for when, values, target in zip(
            since, zip(*found, strict=True), targets, strict=True
        )
        for percentile in (50, 100)
    ]
