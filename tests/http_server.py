"""The HTTP server as a real process, and requests to it byte by byte."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mcp_hybrid_search

COMMAND = [sys.executable, "-m", "mcp_hybrid_search"]
PATIENCE_SECONDS = 60.0

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
JSON_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
}


def environment(data_dir: Path, **variables: str) -> dict[str, str]:
    """Return the variables of a server of a test's own."""
    return {
        **os.environ,
        "PYTHONPATH": str(Path(mcp_hybrid_search.__file__).parents[1]),
        "HYBRID_SEARCH_DATA_DIR": str(data_dir),
        "HYBRID_SEARCH_MIN_FREE_BYTES": "0",
        "HYBRID_SEARCH_PORT": "0",
        "HYBRID_SEARCH_ENGINE_IDLE_SECONDS": "0",
        **{f"HYBRID_SEARCH_{name}": value for name, value in variables.items()},
    }


@dataclass(frozen=True)
class Answer:
    """What came back; status 0: the connection was closed without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON; of a stream, its first message."""
        text = self.body.decode()
        found = re.search(r"^data: (\{.*)$", text, re.MULTILINE)
        return json.loads(found[1] if found else text)


def parsed_answer(data: bytes) -> Answer:
    """Read an answer off the bytes that came."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    if not first.startswith("HTTP/"):
        return Answer(0, {}, data)
    headers = dict(line.split(": ", 1) for line in lines)
    headers = {name.lower(): value for name, value in headers.items()}
    if headers.get("transfer-encoding") == "chunked":
        body = re.sub(rb"(?:\r\n|^)[0-9a-f]+\r\n", b"", body)
    return Answer(int(first.split()[1]), headers, body)


class HttpServer:
    """A server that runs, with the arguments and variables of a test."""

    def __init__(self, root: Path, *arguments: str, **variables: str) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.log_path = root / "stderr"
        self.environment = environment(root / "data", **variables)
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "serve", "--transport", "http", *arguments],
                env=self.environment,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def wait_until_listening(self) -> None:
        """Wait until the server says where it listens."""
        found = self._told(r"Listening on (\w+)://(\S+):(\d+)(/\w+)")
        self.scheme, self.host, self.path = found[1], found[2].strip("[]"), found[4]
        self.port = int(found[3])

    def wait_until_ready(self) -> None:
        """Wait until the engine answers."""
        until = time.monotonic() + PATIENCE_SECONDS
        while self.ask("GET", "/readyz").status != 200:
            assert time.monotonic() < until, self.log()
            time.sleep(0.05)

    def _told(self, pattern: str) -> re.Match[str]:
        until = time.monotonic() + PATIENCE_SECONDS
        while (found := re.search(pattern, self.log())) is None:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < until, self.log()
            time.sleep(0.02)
        return found

    def log(self) -> str:
        """Return what was written to stderr."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def address(self) -> str:
        """The host and port as a client names them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"

    def connected(self) -> socket.socket:
        """Return a bare connection."""
        return socket.create_connection((self.host, self.port), PATIENCE_SECONDS)

    def send(self, data: bytes) -> Answer:
        """Send bytes and read until the connection is closed."""
        with self.connected() as connection:
            # Whatever it answered before it closed can still be read.
            with suppress(ConnectionError):
                connection.sendall(data)
            return parsed_answer(received(connection))

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request and read the answer."""
        return self.send(self.request(method, path, body, headers))

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        """Return the bytes of a good request, with headers of the test's own."""
        given = {"Host": self.address, "Connection": "close", **(headers or {})}
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            given = {"Content-Length": str(len(data)), **JSON_HEADERS, **given}
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in given.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + data

    def initialize(self, headers: dict[str, str] | None = None) -> str:
        """Open a session and return its id."""
        answer = self.ask("POST", "/mcp", INITIALIZE, headers)
        assert answer.status == 200, answer
        return answer.headers["mcp-session-id"]

    def stop(self) -> int:
        """End the server by a signal and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)


def received(connection: socket.socket) -> bytes:
    """Return everything until the connection is closed."""
    data = bytearray()
    try:
        while chunk := connection.recv(65536):
            data += chunk
    except ConnectionError:
        # A reset after an answer is an end like any other.
        pass
    return bytes(data)


@contextmanager
def http_server(root: Path, *arguments: str, **variables: str) -> Iterator[HttpServer]:
    """Run a server for as long as a test needs it."""
    server = HttpServer(root, *arguments, **variables)
    try:
        server.wait_until_listening()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.terminate()
        try:
            server.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()
