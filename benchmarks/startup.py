"""From process start to the answer to `initialize`, against an empty server."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.engines import end_engine
from benchmarks.report import Section, figure
from benchmarks.serving import ARGUMENTS, environment
from mcp_hybrid_search.settings import Settings

EMPTY_SERVER = Path(__file__).with_name("empty_server.py")
_INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "benchmark", "version": "1"},
    },
}


def startup_section(settings: Settings, *, repetitions: int) -> Section:
    """Time both servers in turn, with a raw pipe and after one run to warm up."""
    empty, ours = [], []
    with TemporaryDirectory(prefix="startup-") as directory:
        settings = settings.model_copy(update={"data_dir": Path(directory)})
        variables = environment(settings)
        try:
            for _ in range(1 + repetitions):
                empty.append(initialize_ms([str(EMPTY_SERVER)], variables))
                ours.append(initialize_ms(ARGUMENTS, variables))
        finally:
            end_engine(settings)
    del empty[0], ours[0]
    ratios = [mine / floor for mine, floor in zip(ours, empty, strict=True)]
    rows = [
        figure("empty MCPServer", empty, "ms"),
        figure("mcp_hybrid_search", ours, "ms"),
        figure("ratio, of each pair", ratios, "ratio", target="<= 1.5"),
    ]
    note = (
        "process start to the answer to initialize, empty data directory; the first"
        " run started the engine"
    )
    return Section("Start-up", rows, note)


def initialize_ms(arguments: Sequence[str], variables: Mapping[str, str]) -> float:
    """Start a server by Python's arguments; returns how long its answer took.

    The server is gone then; an engine that it started may not be.
    """
    line = json.dumps(_INITIALIZE).encode() + b"\n"
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=variables,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError(arguments)
        process.stdin.write(line)
        process.stdin.flush()
        answer = process.stdout.readline()
        milliseconds = (time.perf_counter() - started) * 1000
        process.stdin.close()
        process.wait(timeout=60)
    if b'"serverInfo"' not in answer:
        raise RuntimeError(answer)
    return milliseconds
