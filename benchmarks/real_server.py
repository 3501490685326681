"""The real server over stdio, for whoever wants to speak to it and to kill it."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 900.0
"""After this a server that says nothing is killed, so that nobody waits for ever."""
_INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "crash", "version": "1"},
}

Json = dict[str, Any]


class GoneError(Exception):
    """The server's end of the pipe is closed."""


class FailedError(Exception):
    """A tool answered with an error; its text is the message."""


class RealServer:
    """`python -m mcp_hybrid_search` as a child process that has shaken hands."""

    def __init__(
        self,
        data_dir: Path,
        environment: Mapping[str, str] = {},
        *,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Start a server on `data_dir`, with the engine in it unless told otherwise.

        Args:
            data_dir: Its data directory.
            environment: Variables beside, or in place of, those that are set here.
            patience_seconds: How long it may live at most.

        Raises:
            GoneError: If it leaves before it answers.
        """
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mcp_hybrid_search"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "HYBRID_SEARCH_DATA_DIR": str(data_dir),
                # Who kills the server means the engine too.
                "HYBRID_SEARCH_IN_PROCESS": "true",
                **environment,
            },
        )
        self._watchdog = threading.Timer(patience_seconds, self._process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        self._sent = 0
        try:
            self._write("initialize", _INITIALIZE, 0)
            self.receive()
            self.initialized = time.monotonic()
            self._write("notifications/initialized", {}, None)
        except GoneError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL the server; whoever waits for its answer gets a `GoneError`."""
        self._process.kill()

    def close(self) -> int:
        """End the input, as a client that leaves; returns the exit code."""
        if self._process.stdin:
            # What a killed server never read cannot be written any more.
            with suppress(OSError):
                self._process.stdin.close()
        code = self._process.wait(PATIENCE_SECONDS)
        self._watchdog.cancel()
        if self._process.stdout:
            self._process.stdout.close()
        return code

    def send(self, tool: str, arguments: Json) -> int:
        """Call a tool without waiting; returns the id of the request."""
        return self.request("tools/call", {"name": tool, "arguments": arguments})

    def request(self, method: str, params: Json) -> int:
        """Send a request without waiting; returns its id."""
        self._sent += 1
        self._write(method, params, self._sent)
        return self._sent

    def receive(self) -> tuple[int, Json]:
        """Wait for the next answer; returns the request's id and the result."""
        while True:
            line = self._process.stdout.readline() if self._process.stdout else b""
            if not line.endswith(b"\n"):
                raise self._gone()
            message = json.loads(line)
            if "id" in message and "method" not in message:
                return message["id"], message.get("result", message)

    def call(self, tool: str, **arguments: object) -> Json:
        """Call a tool and wait for its structured result.

        Raises:
            FailedError: If the tool answered with an error.
            GoneError: If the server left.
        """
        sent = self.send(tool, arguments)
        answered, result = self.receive()
        if answered != sent:
            msg = "Two callers read from one server."
            raise AssertionError(msg)
        return structured(result)

    def _write(self, method: str, params: Json, request_id: int | None) -> None:
        message: Json = {"jsonrpc": "2.0", "method": method, "params": params}
        if request_id is not None:
            message["id"] = request_id
        try:
            if self._process.stdin:
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                self._process.stdin.flush()
        except OSError as exc:
            raise self._gone() from exc

    def _gone(self) -> GoneError:
        return GoneError(f"The server left, exit code {self._process.wait()}.")


def structured(result: Json) -> Json:
    """Return a tool's structured result, or raise its error."""
    if result.get("isError") or "structuredContent" not in result:
        text = " ".join(c.get("text", "") for c in result.get("content", []))
        raise FailedError(text or json.dumps(result))
    content: Json = result["structuredContent"]
    return content
