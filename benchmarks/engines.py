"""Servers that share an engine process, which is gone when they are."""

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks.host import processes_of
from benchmarks.real_server import RealServer
from mcp_hybrid_search import engine_control
from mcp_hybrid_search.errors import StoreUnavailableError
from mcp_hybrid_search.settings import Settings, load_settings
from mcp_hybrid_search.stores.directory import owner

CHUNK_TOKENS = 240
"""So that each passage of 180 tokens is a chunk."""
IDLE_SECONDS = 5
LONGEST_SECONDS = 4 * 3600.0
"""A server that lives longer is killed, so that nobody waits for ever."""
LEAVE_SECONDS = 60.0


def shared_settings(data_dir: Path) -> Settings:
    """Return settings under which servers share an engine."""
    return load_settings(
        data_dir=data_dir,
        in_process=False,
        engine_idle_seconds=IDLE_SECONDS,
        chunk_tokens=CHUNK_TOKENS,
        min_free_bytes=0,
    )


def front_end(settings: Settings) -> RealServer:
    """Start one server; whoever does so ends the engine too."""
    return RealServer(
        settings.data_dir, settings.environment(), patience_seconds=LONGEST_SECONDS
    )


@contextmanager
def front_ends(settings: Settings, count: int) -> Iterator[list[RealServer]]:
    """Start servers, all at once; end them and their engine."""
    with ExitStack() as opened:
        opened.callback(end_engine, settings)
        with ThreadPoolExecutor(count) as pool:
            starting = [
                pool.submit(lambda: opened.enter_context(front_end(settings)))
                for _ in range(count)
            ]
        yield [each.result() for each in starting]


def end_engine(settings: Settings) -> None:
    """End the engine of a directory, also one that has only begun to start."""
    deadline = time.monotonic() + LEAVE_SECONDS
    while processes := processes_of(settings.data_dir):
        with suppress(StoreUnavailableError):
            engine_control.stop(settings)
        if time.monotonic() > deadline:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


def engine_pid(settings: Settings) -> int | None:
    """Return the process that says it is the engine; None if nobody does."""
    found = re.match(r"the engine \(process (\d+)\)", owner(settings.data_dir))
    return int(found[1]) if found else None
