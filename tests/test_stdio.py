"""What a client sees of the stdio transport, over the pipes of a real process."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR, TextContent

import mcp_hybrid_search

FIXTURE = Path(__file__).with_name("stdio_fixture_server.py")
ENVIRONMENT = {"PYTHONPATH": str(Path(mcp_hybrid_search.__file__).parents[1])}
PATIENCE_SECONDS = 120
PATIENTLY = {"drain_seconds": 3600.0, "leave_seconds": 3600.0}
CANARY = "tr0ub4dor"
INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}

Message = dict[str, Any]


class Server:
    """The fixture server as a child process that has shaken hands."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        self.process = process
        self.stdin, self.stdout = process.stdin, process.stdout
        self.stderr = process.stderr

    def write(self, data: bytes) -> None:
        self.stdin.write(data)
        self.stdin.flush()

    def send(self, **message: object) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def call(self, tool: str, **arguments: object) -> None:
        params = {"name": tool, "arguments": arguments}
        self.send(id="call", method="tools/call", params=params)

    def receive(self) -> Message:
        line = self.stdout.readline()
        assert line, "the server left without an answer"
        message: Message = json.loads(line)
        assert message["jsonrpc"] == "2.0"
        return message

    def request(self, method: str, params: object = None) -> Message:
        self.send(id="r", method=method, params=params or {})
        answer = self.receive()
        assert answer["id"] == "r"
        assert "result" in answer
        return answer

    def reports(self, text: str) -> bool:
        """Read stderr up to a line with `text`; whether there was one."""
        return any(text.encode() in line for line in self.stderr)

    def exit_code(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def started(*launcher: str, **serve_arguments: float) -> Iterator[Server]:
    """Start a server; a read that waits too long for it ends with its death."""
    with subprocess.Popen(
        [*launcher, sys.executable, str(FIXTURE), json.dumps(serve_arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | ENVIRONMENT,
    ) as process:
        watchdog = threading.Timer(PATIENCE_SECONDS, process.kill)
        watchdog.start()
        try:
            yield Server(process)
        finally:
            watchdog.cancel()
            process.kill()


@contextmanager
def running(*launcher: str, **serve_arguments: float) -> Iterator[Server]:
    with started(*launcher, **serve_arguments) as server:
        server.request("initialize", INITIALIZE)
        server.send(method="notifications/initialized")
        yield server


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def patient() -> Iterator[Server]:
    """Start a server that only leaves because it is done."""
    with running(**PATIENTLY) as server:
        yield server


def call_with(value: str | bytes) -> bytes:
    """Return a ping, id 7, whose params hold `value` as it is."""
    raw = value.encode() if isinstance(value, str) else value
    head = b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":'
    return head + raw + b',"id":8,"b":"' + CANARY.encode() + b'"}}'


BAD_LINES = [
    pytest.param(CANARY.encode(), PARSE_ERROR, None, "JSON", id="no-json"),
    pytest.param(call_with('"')[:-9], PARSE_ERROR, 7, "complete", id="cut-short"),
    pytest.param(b"\0" + call_with("1"), PARSE_ERROR, 7, "JSON", id="nul-before"),
    pytest.param(call_with('"\0"'), PARSE_ERROR, 7, "control", id="nul-inside"),
    pytest.param(call_with(b'"\xff"'), PARSE_ERROR, 7, "UTF-8", id="not-utf8"),
    pytest.param(
        call_with(b'"\xed\xa0\x80"'), PARSE_ERROR, 7, "UTF-8", id="raw-surrogate"
    ),
    pytest.param(call_with(r'"\ud800"'), PARSE_ERROR, 7, "surrogate", id="high"),
    pytest.param(call_with(r'"\udc00x"'), PARSE_ERROR, 7, "surrogate", id="low"),
    pytest.param(
        call_with(r'{"\ud800": 1}'), PARSE_ERROR, 7, "surrogate", id="surrogate-key"
    ),
    pytest.param(
        call_with("[" * 1000 + "]" * 1000), PARSE_ERROR, 7, "nested", id="deep"
    ),
    pytest.param(call_with("[" * 90_000), PARSE_ERROR, 7, "nested", id="bottomless"),
    pytest.param(call_with("9" * 5000), PARSE_ERROR, 7, "digits", id="huge-integer"),
    pytest.param(call_with("NaN"), PARSE_ERROR, 7, "NaN", id="nan"),
    pytest.param(call_with("-Infinity"), PARSE_ERROR, 7, "Infinity", id="infinity"),
    pytest.param(
        b'{"method":"ping","params":{"id":8,"a":NaN},"jsonrpc":"2.0","id":"x y"}',
        PARSE_ERROR,
        "x y",
        "NaN",
        id="id-at-the-end",
    ),
    pytest.param(
        b'{"method":"ping","params":{"a":NaN,"id":8}}',
        PARSE_ERROR,
        None,
        "NaN",
        id="id-only-in-params",
    ),
    pytest.param(
        b'{"jsonrpc":"2.0","id":7,"result":{"a":NaN}}',
        PARSE_ERROR,
        None,
        "NaN",
        id="unparseable-response",
    ),
    pytest.param(
        b'[{"jsonrpc":"2.0","id":7,"method":"ping"}]',
        INVALID_REQUEST,
        None,
        "batches",
        id="batch",
    ),
    pytest.param(b'"tr0ub4dor"', INVALID_REQUEST, None, "object", id="string"),
    pytest.param(b"{}", INVALID_REQUEST, None, "jsonrpc", id="empty-object"),
    pytest.param(
        b'{"id":7,"method":"ping"}', INVALID_REQUEST, 7, "jsonrpc", id="no-version"
    ),
    pytest.param(
        b'{"jsonrpc":"1.0","id":7,"method":"ping"}',
        INVALID_REQUEST,
        7,
        "jsonrpc",
        id="other-version",
    ),
    pytest.param(
        b'{"jsonrpc":"2.0","id":7}', INVALID_REQUEST, 7, "method", id="no-method"
    ),
    pytest.param(
        b'{"jsonrpc":"2.0","id":"a","method":["tr0ub4dor"]}',
        INVALID_REQUEST,
        "a",
        "method",
        id="method-no-string",
    ),
    pytest.param(
        b'{"jsonrpc":"2.0","id":7,"method":"ping","params":["tr0ub4dor"]}',
        INVALID_REQUEST,
        7,
        "params",
        id="params-no-object",
    ),
    pytest.param(
        b'{"jsonrpc":"2.0","id":null,"method":"ping"}',
        INVALID_REQUEST,
        None,
        '"id"',
        id="null-id",
    ),
    pytest.param(
        b'{"jsonrpc":"2.0","id":true,"method":"ping"}',
        INVALID_REQUEST,
        None,
        '"id"',
        id="boolean-id",
    ),
    pytest.param(
        b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}',
        INVALID_REQUEST,
        None,
        '"id"',
        id="fractional-id",
    ),
    pytest.param(
        b'{"jsonrpc":"2.0","method":7}',
        INVALID_REQUEST,
        None,
        "method",
        id="bad-notification",
    ),
    pytest.param(
        b'{"jsonrpc":"2.0","id":7,"result":"tr0ub4dor"}',
        INVALID_REQUEST,
        None,
        "result",
        id="bad-response",
    ),
    pytest.param(
        b'{"jsonrpc":"2.0","id":7,"error":{"code":"tr0ub4dor"}}',
        INVALID_REQUEST,
        None,
        "error",
        id="bad-error",
    ),
]


@pytest.mark.parametrize(("line", "code", "request_id", "word"), BAD_LINES)
def test_a_bad_line_gets_one_plain_error_and_serving_goes_on(
    shared: Server, line: bytes, code: int, request_id: int | str | None, word: str
) -> None:
    shared.write(line + b"\n")
    raw = shared.stdout.readline()
    answer = json.loads(raw)

    assert answer.keys() == {"jsonrpc", "id", "error"}
    assert answer["id"] == request_id
    assert answer["error"].keys() == {"code", "message"}
    assert answer["error"]["code"] == code
    assert word in answer["error"]["message"]
    assert not any(text in raw for text in (CANARY.encode(), b"http", b"pydantic"))
    assert raw.startswith(b'{"jsonrpc":"2.0","id":')
    assert shared.request("ping")["result"] == {}


@pytest.mark.parametrize(
    "line", [b"\n", b"\r\n", b"  \t \n"], ids=["empty", "crlf", "blank"]
)
def test_a_blank_line_is_ignored(shared: Server, line: bytes) -> None:
    shared.write(line)
    assert shared.request("ping")["result"] == {}


def test_a_line_may_come_in_pieces_and_end_in_crlf(shared: Server) -> None:
    for piece in (b'{"jsonrpc":"2.0",', b'"id":5,"meth', b'od":"ping"}\r', b"\n"):
        shared.write(piece)
    assert shared.receive() == {"jsonrpc": "2.0", "id": 5, "result": {}}


@pytest.mark.parametrize(
    "text",
    ["Wal 🐋 \u202e\u200b e\u0301", "a\0b", "literal \\ud800", "x" * 3_000_000],
    ids=["unicode", "escaped-nul", "escaped-backslash", "three-megabytes"],
)
def test_text_comes_back_as_it_went(shared: Server, text: str) -> None:
    shared.call("echo", text=text)
    assert shared.receive()["result"]["content"][0]["text"] == text


@pytest.mark.parametrize("size", [8 * 1024 * 1024 + 1, 9_000_000])
def test_a_line_over_the_limit_is_refused_with_both_sizes(
    shared: Server, size: int
) -> None:
    line = call_with('"%s"' % ("x" * size))[:size]
    shared.write(line + b"\n")

    answer = shared.receive()

    assert answer["id"] == 7
    assert answer["error"]["code"] == INVALID_REQUEST
    assert str(size) in answer["error"]["message"]
    assert "8388608" in answer["error"]["message"]
    assert shared.request("ping")["result"] == {}


def test_a_line_at_the_limit_is_read(shared: Server) -> None:
    line = b'{"jsonrpc":"2.0","id":7,"method":"ping"}'
    shared.write(line.ljust(8 * 1024 * 1024) + b"\n")
    assert shared.receive() == {"jsonrpc": "2.0", "id": 7, "result": {}}


def test_the_id_at_the_end_of_a_line_over_the_limit_is_found(shared: Server) -> None:
    head = b'{"method":"ping","params":{"id":8,"a":"'
    shared.write(head + b"x" * 9_000_000 + b'"},"jsonrpc":"2.0","id":7}\n')
    assert shared.receive()["id"] == 7


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_huge_line_is_not_held_in_memory(server: Server) -> None:
    before = peak_bytes(server.process.pid)

    for _ in range(60):
        server.write(b"x" * 1_000_000)
    server.write(b"\n")

    assert "60000000" in server.receive()["error"]["message"]
    assert peak_bytes(server.process.pid) - before < 30_000_000


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (kilobytes,) = (
        line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")
    )
    return int(kilobytes) * 1024


def test_an_answer_that_json_cannot_carry_is_an_error(shared: Server) -> None:
    shared.call("surrogate")

    answer = shared.receive()

    assert answer["id"] == "call"
    assert answer["error"]["code"] == INTERNAL_ERROR
    assert "Unicode" in answer["error"]["message"]
    assert shared.request("ping")["result"] == {}


def test_what_a_tool_prints_never_reaches_stdout(server: Server) -> None:
    server.call("printing")
    assert server.receive()["result"]["content"][0]["text"] == ""

    server.stdin.close()

    assert server.stdout.read() == b""
    errors = server.stderr.read()
    assert b"stray text on the descriptor" in errors
    assert b"stray text, left in the buffer" in errors


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_a_closed_stderr_does_no_harm() -> None:
    with running("sh", "-c", 'exec "$@" 2>&-', "sh", **PATIENTLY) as server:
        server.call("printing")
        assert server.receive()["result"]["content"][0]["text"] == ""

        server.stdin.close()

        assert server.stdout.read() == b""
        assert server.exit_code() == 0


@pytest.mark.parametrize(
    ("mode", "version"), [("legacy", "2025-11-25"), ("2026-07-28", "2026-07-28")]
)
def test_the_sdk_client_is_served_in_both_eras(mode: str, version: str) -> None:
    parameters = StdioServerParameters(
        command=sys.executable, args=[str(FIXTURE), "{}"], env=ENVIRONMENT
    )

    async def converse(errlog: TextIO) -> tuple[str, object]:
        transport = stdio_client(parameters, errlog=errlog)
        async with Client(transport, mode=mode) as client:
            result = await client.call_tool("echo", {"text": "whale"})
            return client.protocol_version, result.content

    with Path(os.devnull).open("w", encoding="utf-8") as errlog:
        spoken, content = anyio.run(converse, errlog)

    assert spoken == version
    assert content == [TextContent(type="text", text="whale")]


def end(server: Server, way: str) -> None:
    if way == "eof":
        server.stdin.close()
    else:
        server.process.send_signal(getattr(signal, way))


posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
WAYS = [
    "eof",
    pytest.param("SIGTERM", marks=posix),
    pytest.param("SIGINT", marks=posix),
]


@pytest.mark.parametrize("way", WAYS)
def test_an_idle_server_cleans_up_and_exits_with_zero(
    patient: Server, way: str
) -> None:
    # Once it is answered, the next read waits for a line that never comes.
    patient.request("ping")

    end(patient, way)

    assert patient.reports("cleaned up")
    assert patient.exit_code() == 0
    assert patient.stdout.read() == b""


@pytest.mark.parametrize("way", WAYS)
def test_a_call_in_flight_is_answered_before_the_exit(
    patient: Server, way: str
) -> None:
    patient.call("slow", seconds=0.5)
    assert patient.reports("slow began")

    end(patient, way)

    assert patient.receive()["result"]["content"][0]["text"] == "slept"
    assert patient.reports("cleaned up")
    assert patient.exit_code() == 0


@pytest.mark.parametrize("way", WAYS)
def test_an_endless_call_does_not_keep_the_process(way: str) -> None:
    with running(drain_seconds=0.1, leave_seconds=3600) as server:
        server.call("slow", seconds=3600)
        assert server.reports("slow began")

        end(server, way)

        answer = server.receive()
        assert answer["id"] == "call"
        assert "closed" in answer["error"]["message"]
        assert server.reports("cleaned up")
        assert server.exit_code() == 0


def test_a_stuck_thread_does_not_keep_the_process() -> None:
    with running(drain_seconds=0.1, leave_seconds=0.5) as server:
        server.call("stuck")
        assert server.reports("stuck began")

        server.stdin.close()

        assert server.exit_code() == 0


@posix
@pytest.mark.parametrize("way", ["eof", "SIGTERM"])
def test_a_further_signal_ends_the_wait_for_calls(patient: Server, way: str) -> None:
    patient.call("slow", seconds=3600)
    assert patient.reports("slow began")

    end(patient, way)
    assert patient.reports("leaving; calls in flight: 1")
    patient.process.send_signal(signal.SIGTERM)

    assert patient.receive()["id"] == "call"
    assert patient.reports("cleaned up")
    assert patient.exit_code() == 0


def test_a_cancelled_call_is_not_waited_for(patient: Server) -> None:
    patient.call("slow", seconds=3600)
    assert patient.reports("slow began")
    patient.send(method="notifications/cancelled", params={"requestId": "call"})

    patient.stdin.close()

    assert patient.exit_code() == 0
    assert patient.stdout.read() == b""


def test_the_last_line_needs_no_newline(patient: Server) -> None:
    patient.write(b'{"jsonrpc":"2.0","id":7,"method":"ping"}')
    patient.stdin.close()
    assert patient.receive()["id"] == 7
    assert patient.exit_code() == 0


def test_a_bad_last_line_is_answered_before_the_exit(patient: Server) -> None:
    patient.write(b"[]")
    patient.stdin.close()
    assert patient.receive()["error"]["code"] == INVALID_REQUEST
    assert patient.exit_code() == 0


def test_an_open_subscription_is_not_waited_for() -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": INITIALIZE["clientInfo"],
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"notifications": {"toolsListChanged": True}, "_meta": meta}
    with started(**PATIENTLY) as server:
        server.send(id=1, method="subscriptions/listen", params=params)
        assert b"notifications/subscriptions" in server.stdout.readline()

        server.stdin.close()

        assert server.exit_code() == 0


def test_a_client_that_does_not_read_blocks_only_its_answers() -> None:
    with running(drain_seconds=0.1, leave_seconds=3600) as server:
        server.call("big", characters=3_000_000)
        server.call("slow", seconds=3600)
        assert server.reports("slow began")

        server.stdin.close()

        assert server.reports("cleaned up")
        assert server.exit_code() == 0


def test_a_closed_stdout_ends_the_server_quietly(patient: Server) -> None:
    patient.stdout.close()
    patient.send(id=1, method="ping")

    assert patient.reports("cleaned up")
    assert patient.exit_code() == 0
