"""The real command over stdio, driven by the SDK's client."""

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters
from mcp.client.stdio import get_default_environment, stdio_client

from benchmarks.engines import end_engine
from benchmarks.host import ROOT, processes_of
from mcp_hybrid_search.settings import PREFIX, Settings

ARGUMENTS = ["-m", "mcp_hybrid_search"]


def environment(settings: Settings) -> dict[str, str]:
    """Return variables under which the command reads the same settings.

    Without PYTHONDONTWRITEBYTECODE: an installed package is compiled once.
    """
    given = {
        PREFIX + name.upper(): str(value)
        for name, value in settings.model_dump(mode="json").items()
        if value != Settings.model_fields[name].default
    }
    return {**get_default_environment(), **given, "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and the client that is connected to it."""

    client: Client
    data_dir: Path
    started: float
    """`time.perf_counter()` when the process was started."""
    initialize_ms: float

    def processes(self) -> list[int]:
        """Return every process that serves the data directory."""
        return processes_of(self.data_dir)

    async def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Call a tool and return its structured content.

        Raises:
            RuntimeError: If the tool answers with an error.
        """
        result = await self.client.call_tool(tool, arguments)
        if result.is_error or result.structured_content is None:
            raise RuntimeError(result.content)
        answer: dict[str, Any] = result.structured_content
        return answer

    async def timed_search(self, query: str) -> "TimedSearch":
        """Search, then time the client's check of the answer once more, alone."""
        started = time.perf_counter()
        result = await self.client.call_tool("hybrid-search", {"query": query})
        answered = time.perf_counter()
        if result.is_error or result.structured_content is None:
            raise RuntimeError(result.content)
        checking = time.perf_counter()
        await self.client.session.validate_tool_result("hybrid-search", result)
        checked = time.perf_counter()
        return TimedSearch(
            end_to_end_ms=(answered - started) * 1000,
            took_ms=result.structured_content["took_ms"],
            check_ms=(checked - checking) * 1000,
        )


@dataclass(frozen=True, slots=True)
class TimedSearch:
    """One search as its client sees it."""

    end_to_end_ms: float
    took_ms: float
    """As the server tells it: all but the protocol."""
    check_ms: float
    """The SDK's client checks the answer against the output schema: in `end_to_end`."""


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[Server]:
    """Start the command on a data directory; hosts shake hands, so do we.

    Its engine, in whichever process, is gone at the end.
    """
    parameters = StdioServerParameters(
        command=sys.executable, args=ARGUMENTS, env=environment(settings)
    )
    started = time.perf_counter()
    try:
        async with Client(stdio_client(parameters), mode="legacy") as client:
            milliseconds = (time.perf_counter() - started) * 1000
            yield Server(client, settings.data_dir, started, milliseconds)
    finally:
        end_engine(settings)
