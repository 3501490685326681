"""Over a limit, callers are told when to come back; what is cheap is answered."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_hybrid_search import token_file
from tests.http_server import Answer, HttpServer, http_server
from tests.test_http_ending import calling, sse_stream

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="the engine has no socket"
)

LIST = {
    "jsonrpc": "2.0",
    "id": "mine",
    "method": "tools/call",
    "params": {"name": "list-collections", "arguments": {}},
}


def rpc(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """A server whose only place is taken for long."""
    root = tmp_path_factory.mktemp("busy")
    variables = {"MAX_CALLS": "1", "MAX_WAITING_CALLS": "0", "MAX_SESSIONS": "6"}
    with http_server(root, **variables) as server:
        server.wait_until_ready()
        stream = calling(server, 20_000)
        yield server
        stream.close()
        server.process.terminate()


def refused(answer: Answer, request_id: object) -> None:
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert told["id"] == request_id
    assert (
        f"Busy: retry in {answer.headers['retry-after']} s."
        in (told["error"]["message"])
    )


def test_a_call_too_many_is_refused_before_it_is_begun(busy: HttpServer) -> None:
    session = {"Mcp-Session-Id": busy.initialize()}
    refused(busy.ask("POST", "/mcp", LIST, session), "mine")
    refused(busy.ask("POST", "/mcp", rpc("resources/list"), session), 1)


def test_a_call_too_many_is_refused_by_its_header(busy: HttpServer) -> None:
    headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call"}
    refused(busy.ask("POST", "/mcp", LIST, headers), "mine")


def test_a_call_too_many_over_sse_is_refused_too(busy: HttpServer) -> None:
    stream, path = sse_stream(busy)
    refused(busy.ask("POST", path, LIST), "mine")
    stream.close()


def test_a_busy_server_answers_what_needs_no_engine(busy: HttpServer) -> None:
    session = {"Mcp-Session-Id": busy.initialize()}
    for method in ("ping", "tools/list", "prompts/list"):
        answer = busy.ask("POST", "/mcp", rpc(method), session)
        assert "result" in answer.json()
    assert busy.ask("GET", "/healthz").status == 200
    metrics = busy.ask("GET", "/metrics").body.decode()
    assert "hybrid_search_calls_active 1.0" in metrics
    assert 'refusals_total{reason="busy"} 0.0' not in metrics


def test_a_session_too_many_is_refused_until_one_ends(busy: HttpServer) -> None:
    sessions = []
    while True:
        answer = busy.ask("POST", "/mcp", rpc("initialize", **_CLIENT))
        if answer.status != 200:
            break
        sessions.append(answer.headers["mcp-session-id"])
        assert len(sessions) <= 6
    assert answer.status == 503
    assert answer.headers["retry-after"] == "30"
    assert "6 sessions are open" in answer.json()["error"]["message"]
    assert busy.ask("GET", "/sse").status == 503
    gone = busy.ask("DELETE", "/mcp", headers={"Mcp-Session-Id": sessions[0]})
    assert gone.status == 200
    again = busy.ask("POST", "/mcp", rpc("initialize", **_CLIENT))
    assert again.status == 200
    for session in [*sessions[1:], again.headers["mcp-session-id"]]:
        busy.ask("DELETE", "/mcp", headers={"Mcp-Session-Id": session})


_CLIENT = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


def test_each_token_has_its_own_rate(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    bearers = [
        {"Authorization": f"Bearer {token_file.create(file, name, scope='read')}"}
        for name in ("a", "b")
    ]
    variables = {"TOKENS_FILE": str(file), "MAX_CALLS_PER_MINUTE": "2"}
    with http_server(tmp_path, **variables) as server:
        server.wait_until_ready()
        for bearer in bearers:
            headers = {**bearer, "Mcp-Session-Id": server.initialize(bearer)}
            for _ in range(2):
                answer = server.ask("POST", "/mcp", LIST, headers)
                assert answer.json()["result"]["structuredContent"] is not None
            refused(server.ask("POST", "/mcp", LIST, headers), "mine")
            assert server.ask("POST", "/mcp", rpc("ping"), headers).status == 200
