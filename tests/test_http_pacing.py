"""A burst of calls is read one a turn, and what is light does not wait for it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from anyio.lowlevel import checkpoint
from starlette.types import Receive, Scope, Send

from mcp_hybrid_search.http_connection import connection_class
from mcp_hybrid_search.http_pacing import holds_call

pytestmark = pytest.mark.anyio

BURST = 100


class Served:
    """An application that remembers in which order it was asked for what."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["method"] == "POST"
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        method = json.loads(body)["method"]
        self.methods.append(method)
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


class Unsignalled(uvicorn.Server):
    """Leaves the signals alone: the test has its own end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Sender:
    """One connection of a client that writes without waiting."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        # As HTTP clients do: else a body waits until its head was acknowledged.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)  # noqa: FBT003 - positional there

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self._socket.sendall(part)

    async def answer(self) -> bytes:
        loop, answer = asyncio.get_running_loop(), b""
        while not answer.endswith(b"ok"):
            answer += await asyncio.wait_for(loop.sock_recv(self._socket, 4096), 10)
        return answer

    def close(self) -> None:
        self._socket.close()


def parts(method: str, padding: int = 0) -> tuple[bytes, bytes]:
    """Return the head and the body of a request."""
    body = json.dumps({"method": method, "x": "x" * padding}).encode()
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode(), body


@pytest.fixture
async def served() -> AsyncIterator[tuple[Served, int]]:
    app = Served()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=connection_class(1_000),
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = Unsignalled(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await checkpoint()
    yield app, listener.getsockname()[1]
    server.should_exit = True
    await running


async def connected(port: int, count: int) -> list[Sender]:
    """Connect, and let the server take note of it."""
    senders = [Sender(port) for _ in range(count)]
    for sender in senders:
        sender.send(*parts("ping"))
        await sender.answer()
    return senders


@pytest.mark.parametrize("together", [True, False])
async def test_a_ping_does_not_wait_for_the_burst_before_it(
    served: tuple[Served, int], *, together: bool
) -> None:
    app, port = served
    senders = await connected(port, BURST + 1)
    app.methods.clear()
    *burst, pinging = senders
    for sender in burst:
        head, body = parts("tools/call")
        sender.send(head + body) if together else sender.send(head, body)
    pinging.send(*parts("ping"))

    for sender in senders:
        assert b"200 OK" in await sender.answer()
        sender.close()

    assert app.methods.count("tools/call") == BURST
    assert app.methods.index("ping") < BURST / 4


async def test_what_is_sent_in_pieces_arrives_whole_and_in_order(
    served: tuple[Served, int],
) -> None:
    app, port = served
    senders = await connected(port, BURST)
    app.methods.clear()
    for sender in senders:
        head, body = parts("tools/call", padding=20_000)
        sender.send(head, body[:9_000])
        await checkpoint()
        sender.send(body[9_000:])
    for sender in senders:
        assert b"200 OK" in await sender.answer()
    assert app.methods == ["tools/call"] * BURST
    for sender in senders:
        sender.close()


async def test_a_client_that_leaves_while_it_waits_stops_nobody(
    served: tuple[Served, int],
) -> None:
    app, port = served
    senders = await connected(port, BURST)
    app.methods.clear()
    for sender in senders:
        sender.send(*parts("tools/call"))
    for sender in senders[::2]:
        sender.close()
    for sender in senders[1::2]:
        assert b"200 OK" in await sender.answer()
        sender.close()


@pytest.mark.parametrize(
    ("data", "before", "expected"),
    [
        (b"POST /mcp HTTP/1.1\r\n\r\n", True, True),
        (b"POST /mcp HTTP/1.1\r\n\r\n", False, False),
        (b'{"method":"ping"}', True, False),
        (b'{"method":"tools/call"}', False, True),
        (b"the rest of a long text", True, True),
        (b"GET /healthz HTTP/1.1\r\n\r\n", True, False),
    ],
)
async def test_a_call_is_told_from_what_is_light(
    data: bytes, expected: Any, *, before: bool
) -> None:
    assert holds_call(data, before=before) is expected
