"""The real server over HTTP as a child process, and clients that connect to it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import httpx2
from mcp import Client
from mcp.client.sse import sse_client
from mcp.types import CallToolResult
from typing_extensions import Self

from benchmarks.engines import end_engine, engine_pid
from benchmarks.host import ROOT
from mcp_hybrid_search.settings import Settings

ARGUMENTS = ["-m", "mcp_hybrid_search", "serve", "--transport", "http", "--port", "0"]
HANDSHAKE, STATELESS = "2025-11-25", "2026-07-28"
MODES = {HANDSHAKE: "legacy", STATELESS: STATELESS}
"""How the SDK's client is told which era to speak."""
START_SECONDS = 120.0
LEAVE_SECONDS = 15.0
LOOK_SECONDS = 0.02


class HttpServer:
    """`mcp-hybrid-search serve --transport http` that says it is ready."""

    def __init__(self, settings: Settings) -> None:
        """Start a server on any free port, and wait until its engine answers.

        Raises:
            RuntimeError: If it leaves, or is not ready in time.
        """
        self._settings = settings
        self._said = settings.data_dir.with_name(f"{settings.data_dir.name}.log")
        with self._said.open("ab") as log:
            log.truncate(0)
            self._process = subprocess.Popen(
                [sys.executable, *ARGUMENTS],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), **settings.environment()},
            )
        try:
            self.url = self._announced()
            self._wait_until_ready()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        code = self.close()
        if error is None and code:
            msg = f"The server left with {code}: {self.said()}"
            raise RuntimeError(msg)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def engine_pid(self) -> int:
        """The process id of the engine behind it."""
        found = engine_pid(self._settings)
        if found is None:
            msg = "No engine is running."
            raise RuntimeError(msg)
        return found

    @property
    def sse_url(self) -> str:
        """Where the SSE transport begins."""
        return self.url.removesuffix("/mcp") + "/sse"

    def said(self) -> str:
        """Return the end of what it wrote to stderr."""
        return self._said.read_text("utf-8", "replace")[-2000:]

    def client(self, era: str) -> Client:
        """Return a client over streamable HTTP, not yet connected."""
        return Client(self.url, mode=MODES[era])

    def sse_client(self) -> Client:
        """Return a client over the SSE transport, not yet connected."""
        return Client(sse_client(self.sse_url), mode=MODES[HANDSHAKE])

    def close(self) -> int:
        """End the server as an operator does; returns its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _announced(self) -> str:
        pattern = re.compile(r"^Listening on (\S+)$", re.MULTILINE)
        deadline = time.monotonic() + START_SECONDS
        while not (found := pattern.search(self.said())):
            self._check_alive(deadline)
            time.sleep(LOOK_SECONDS)
        return found[1]

    def _wait_until_ready(self) -> None:
        probe = self.url.removesuffix("/mcp") + "/readyz"
        deadline = time.monotonic() + START_SECONDS
        with httpx2.Client(timeout=START_SECONDS) as client:
            while client.get(probe).is_error:
                self._check_alive(deadline)
                time.sleep(LOOK_SECONDS)

    def _check_alive(self, deadline: float) -> None:
        if self._process.poll() is not None or time.monotonic() > deadline:
            msg = f"The server did not become ready: {self.said()}"
            raise RuntimeError(msg)


@contextmanager
def http_servers(*settings: Settings) -> Iterator[list[HttpServer]]:
    """Start servers on one data directory; end them and their engine."""
    with ExitStack() as opened:
        opened.callback(end_engine, settings[0])
        yield [opened.enter_context(HttpServer(each)) for each in settings]


def answering_with_json(settings: Settings) -> Settings:
    """Return settings under which HTTP answers with JSON, not with streams."""
    return settings.model_copy(update={"json_responses": True})


def structured(result: CallToolResult) -> dict[str, Any]:
    """Return a tool's structured result.

    Raises:
        RuntimeError: If the tool answered with an error.
    """
    if result.is_error or result.structured_content is None:
        raise RuntimeError(result.content)
    content: dict[str, Any] = result.structured_content
    return content
