"""How the server ends: with what was begun, and with nothing new."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.http_server import (
    INITIALIZE,
    PATIENCE_SECONDS,
    HttpServer,
    http_server,
    received,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no signals")


def store(sentences: int) -> dict[str, Any]:
    text = " ".join(f"Sentence number {i} of the story." for i in range(sentences))
    params = {
        "name": "store-document",
        "arguments": {"text": text, "id": "story"},
        "_meta": {"progressToken": 1},
    }
    return {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}


def until(stream: socket.socket, wanted: bytes) -> bytes:
    """Read until something was sent."""
    data = b""
    while wanted not in data:
        chunk = stream.recv(65536)
        assert chunk, data
        data += chunk
    return data


def sse_stream(server: HttpServer) -> tuple[socket.socket, str]:
    """Open an SSE session; returns its stream and where its messages go."""
    stream = server.connected()
    stream.sendall(server.request("GET", "/sse"))
    begun = until(stream, b"session_id=")
    path = begun.split(b"data: ")[1].split(b"\r\n")[0].decode()
    return stream, path


def get_stream(server: HttpServer) -> socket.socket:
    """Open the stream of a session."""
    headers = {"Mcp-Session-Id": server.initialize(), "Accept": "text/event-stream"}
    stream = server.connected()
    stream.sendall(server.request("GET", "/mcp", headers=headers))
    until(stream, b"200 OK")
    return stream


def calling(server: HttpServer, sentences: int) -> socket.socket:
    """Begin a call over streamable HTTP; returns when it is being worked on."""
    stream = server.connected()
    headers = {"Mcp-Session-Id": server.initialize()}
    stream.sendall(server.request("POST", "/mcp", store(sentences), headers))
    _until(lambda: is_working(server))
    return stream


def is_working(server: HttpServer) -> bool:
    """Return whether a call has its place; it may be too quick to tell progress."""
    return b"hybrid_search_calls_active 1.0" in server.ask("GET", "/metrics").body


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_its_streams_and_leaves_with_zero(
    tmp_path: Path, number: signal.Signals
) -> None:
    with http_server(tmp_path) as server:
        server.wait_until_ready()
        streams = [sse_stream(server)[0], get_stream(server), server.connected()]
        server.process.send_signal(number)
        assert server.process.wait(PATIENCE_SECONDS) == 0
        assert [received(s)[-5:] for s in streams] == [b"0\r\n\r\n"] * 2 + [b""]
        for stream in streams:
            stream.close()
        log = server.log()
    assert "Traceback" not in log
    assert "Cancel" not in log


def test_a_call_in_flight_is_answered_before_the_end(tmp_path: Path) -> None:
    with http_server(tmp_path) as server:
        server.wait_until_ready()
        stream = calling(server, 150)
        server.process.send_signal(signal.SIGTERM)
        rest = received(stream)
        assert b'"status":"created"' in rest
        assert rest.endswith(b"0\r\n\r\n")
        assert server.process.wait(PATIENCE_SECONDS) == 0
        stream.close()
        assert "Traceback" not in server.log()


def test_a_call_in_flight_over_sse_is_answered_before_the_end(tmp_path: Path) -> None:
    with http_server(tmp_path) as server:
        server.wait_until_ready()
        stream, path = sse_stream(server)
        assert server.ask("POST", path, INITIALIZE).status == 202
        until(stream, b"serverInfo")
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert server.ask("POST", path, initialized).status == 202
        assert server.ask("POST", path, store(150)).status == 202
        _until(lambda: is_working(server))
        server.process.send_signal(signal.SIGTERM)
        rest = received(stream)
        assert b'"status":"created"' in rest
        assert rest.endswith(b"0\r\n\r\n")
        assert server.process.wait(PATIENCE_SECONDS) == 0
        stream.close()
        assert "Traceback" not in server.log()


def test_while_it_ends_it_takes_nothing_new_and_a_second_signal_ends_it(
    tmp_path: Path,
) -> None:
    with http_server(tmp_path) as server:
        server.wait_until_ready()
        session = {"Mcp-Session-Id": server.initialize()}
        stream = calling(server, 20_000)
        server.process.send_signal(signal.SIGTERM)
        _until(lambda: server.ask("GET", "/readyz").body == b"stopping\n")
        assert server.ask("GET", "/readyz").status == 503
        assert server.ask("GET", "/healthz").status == 200
        refused = server.ask("POST", "/mcp", store(1), session)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "5"
        assert refused.json()["id"] == 7
        assert "about to stop" in refused.json()["error"]["message"]
        server.process.send_signal(signal.SIGTERM)
        assert b'"status"' not in received(stream)
        assert server.process.wait(PATIENCE_SECONDS) == 0
        stream.close()


def _until(happens: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if happens():
            return
    pytest.fail("It never happened.")


def test_what_was_acknowledged_is_kept(tmp_path: Path) -> None:
    session: dict[str, str] = {}
    with http_server(tmp_path) as server:
        server.wait_until_ready()
        session["Mcp-Session-Id"] = server.initialize()
        assert server.ask("POST", "/mcp", store(3), session).status == 200
        assert server.stop() == 0
    kept = subprocess.run(
        [sys.executable, "-m", "mcp_hybrid_search", "get", "story", "--json"],
        env=server.environment,
        capture_output=True,
        check=True,
    )
    assert json.loads(kept.stdout)["text"].startswith("Sentence number 0")
