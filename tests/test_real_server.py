"""The command itself, as a client starts it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

import mcp_hybrid_search

HANDSHAKE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}
COMMAND = [sys.executable, "-m", "mcp_hybrid_search"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(Path(mcp_hybrid_search.__file__).parents[1]),
        "HYBRID_SEARCH_DATA_DIR": str(tmp_path / "data"),
        "HYBRID_SEARCH_MIN_FREE_BYTES": "0",
    }


class Raw:
    """The server over bare pipes."""

    def __init__(self, environment: dict[str, str], *options: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *options],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.ask("initialize", HANDSHAKE)
        self.send({"method": "notifications/initialized"})

    def send(self, message: dict[str, Any]) -> None:
        self.line(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def line(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data + b"\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while True:
            message: dict[str, Any] = json.loads(self.process.stdout.readline())
            # Between the answers it tells that documents have come or gone.
            if message.get("method") != "notifications/resources/list_changed":
                return message

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.send({"id": 1, "method": method, "params": params})
        return self.answer()

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        params = {"name": tool, "arguments": arguments}
        result: dict[str, Any] = self.ask("tools/call", params)["result"]
        return result


@pytest.fixture
def raw(environment: dict[str, str]) -> Iterator[Raw]:
    server = Raw(environment)
    yield server
    server.process.kill()
    server.process.communicate()


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_both_protocol_eras_store_and_find(
    environment: dict[str, str], mode: str
) -> None:
    parameters = StdioServerParameters(
        command=COMMAND[0], args=COMMAND[1:], env=environment
    )
    told: list[str | None] = []

    async def on_progress(
        progress: float, total: float | None, message: str | None
    ) -> None:
        del progress, total
        told.append(message)

    async with Client(stdio_client(parameters), mode=mode) as client:
        stored = await client.call_tool(
            "store-document",
            {"text": "Call me Ishmael.", "id": "moby"},
            progress_callback=on_progress,
        )
        assert not stored.is_error
        found = await client.call_tool("hybrid-search", {"query": "Ishmael"})
    assert found.structured_content is not None
    assert [h["document_id"] for h in found.structured_content["hits"]] == ["moby"]
    assert set(told) <= {
        "starting the engine",
        "loading the models",
        "chunks encoded",
    }


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (b'{"n": 1e999}', "metadata.n is inf, which JSON does not have."),
        (b'{"n": 18446744073709551616}', "metadata.n is beyond 64 bit."),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "metadata is nested deeper than 16"),
    ],
)
def test_what_the_parser_lets_through_is_still_refused(
    raw: Raw, metadata: bytes, message: str
) -> None:
    raw.line(
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":'
        b'"store-document","arguments":{"text":"x","metadata":' + metadata + b"}}}"
    )
    result = raw.answer()["result"]
    assert result["isError"]
    assert message in result["content"][0]["text"]
    assert raw.call("list-collections")["structuredContent"] == {"collections": []}


def test_a_cancelled_store_is_whole_or_absent_and_gives_its_place_back(
    raw: Raw,
) -> None:
    text = " ".join(f"Sentence number {i} of the story." for i in range(4_000))
    raw.call("store-document", text="The first.", id="first")
    params = {"name": "store-document", "arguments": {"text": text, "id": "long"}}
    raw.send({"id": 7, "method": "tools/call", "params": params})
    raw.send({"method": "notifications/cancelled", "params": {"requestId": 7}})
    raw.call("store-document", text="The second.", id="second")
    missing = raw.call("get-document", id="long")
    assert missing["isError"]
    assert "There is no document 'long'" in missing["content"][0]["text"]
    assert raw.call("get-document", id="second")["structuredContent"]["chunks"] == 1


def test_a_second_server_shares_what_the_first_one_stores(
    raw: Raw, environment: dict[str, str]
) -> None:
    raw.call("store-document", text="Mine.", id="a")
    second = Raw(environment)
    found = second.call("get-document", id="a")
    assert found["structuredContent"]["text"] == "Mine."
    raw.process.terminate()
    assert raw.process.wait() == 0
    second.call("store-document", text="Ours.", id="a")
    found = second.call("get-document", id="a")
    assert found["structuredContent"]["text"] == "Ours."
    second.process.terminate()
    second.process.communicate()


def test_without_a_shared_engine_a_second_server_is_told_who_has_the_directory(
    environment: dict[str, str],
) -> None:
    first = Raw(environment, "--in-process")
    first.call("store-document", text="Mine.", id="a")
    second = Raw(environment)
    refused = second.call("list-collections")
    assert refused["isError"]
    assert f"process {first.process.pid}" in refused["content"][0]["text"]
    first.process.terminate()
    assert first.process.wait() == 0
    first.process.communicate()
    found = second.call("get-document", id="a")
    assert found["structuredContent"]["text"] == "Mine."
    second.process.terminate()
    second.process.communicate()


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "end of stdin"])
def test_the_server_leaves_with_zero_and_what_it_acknowledged_is_kept(
    raw: Raw, environment: dict[str, str], end: str
) -> None:
    raw.call("store-document", text="Kept.", id="a")
    assert raw.process.stdin is not None
    if end == "end of stdin":
        raw.process.stdin.close()
        raw.process.stdin = None
    else:
        raw.process.send_signal(getattr(signal, end))
    assert raw.process.wait() == 0
    again = Raw(environment)
    assert again.call("get-document", id="a")["structuredContent"]["text"] == "Kept."
    again.process.terminate()
    again.process.communicate()


def test_a_mistyped_variable_ends_the_server_with_one_plain_line(
    environment: dict[str, str],
) -> None:
    ended = subprocess.run(
        COMMAND,
        env={**environment, "HYBRID_SEARCH_DATADIR": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "mcp-hybrid-search: There is no setting HYBRID_SEARCH_DATADIR. Did you mean"
        " HYBRID_SEARCH_DATA_DIR? The README lists every setting.\n"
    )


def test_everything_in_the_data_directory_belongs_to_the_user_alone(
    raw: Raw, environment: dict[str, str]
) -> None:
    raw.call("store-document", text="Secret.")
    root = Path(environment["HYBRID_SEARCH_DATA_DIR"])
    assert root.stat().st_mode & 0o777 == 0o700
    for path in root.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_stored_text_and_queries_are_never_logged(environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        COMMAND,
        env={**environment, "HYBRID_SEARCH_LOG_LEVEL": "DEBUG"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    calls = [
        ("store-document", {"text": "canarytext", "title": "canarytitle"}),
        ("hybrid-search", {"query": "canaryquery", "filter": {"canarykey": 1}}),
        ("hybrid-search", {"query": "canaryquery", "canaryargument": 1}),
        ("store-document", {"text": 5, "metadata": "canarymetadata"}),
    ]
    messages: list[dict[str, Any]] = [
        {"id": 0, "method": "initialize", "params": HANDSHAKE},
        {"method": "notifications/initialized"},
    ]
    for number, (name, arguments) in enumerate(calls, 1):
        params = {"name": name, "arguments": arguments}
        messages.append({"id": number, "method": "tools/call", "params": params})
    lines = [json.dumps({"jsonrpc": "2.0", **message}) for message in messages]
    out, err = process.communicate("\n".join([*lines, '{"canaryline": "x"}', ""]))
    answers = [line for line in out.splitlines() if '"id":' in line[:30]]
    assert len(answers) == len(calls) + 2
    assert "canary" not in err.replace("canaryargument", "")
