"""Engines that fail as a test tells them to, where a client looks for the engine."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio.from_thread

from mcp_hybrid_search import engine_protocol as protocol
from mcp_hybrid_search import engine_socket
from mcp_hybrid_search.engine_protocol import Hello
from mcp_hybrid_search.engine_socket import Listening
from mcp_hybrid_search.settings import Settings


@dataclass
class Call:
    """One call as it came in, and the way back."""

    engine: "FakeEngine"
    operation: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def arguments(self) -> Any:
        return json.loads(self.body)

    def answer(self, content: bytes, status: int = 200) -> None:
        """Give a whole answer at once."""
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(content)}\r\n\r\n"
        self.writer.write(head.encode() + content)

    async def tell(self, *pieces: bytes) -> None:
        """Begin an answer that has no end yet; every piece arrives by itself."""
        self.writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            self.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the client closes the connection."""
        with suppress(ConnectionError):
            assert await self.reader.read() == b""


Behaviour = Callable[[Call], Awaitable[None]]


@dataclass
class FakeEngine:
    """What an engine says of itself, and what it does with a call."""

    behaviour: Behaviour
    change: Callable[[Hello], Hello] = lambda hello: hello
    greeting: bytes | None = None
    """Told in place of an introduction."""
    ends_connections: bool = False
    leaves_when_greeted: bool = False
    greets: bool = True
    reads_calls: bool = True
    calls: list[Call] = field(default_factory=list)
    introduced: list[str] = field(default_factory=list)
    was_asked_to_finish: bool = False
    instance: str = ""
    listening: Listening = field(init=False)
    _server: asyncio.Server | None = None
    _connections: dict[asyncio.StreamWriter, Any] = field(default_factory=dict)

    async def start(self, settings: Settings, instance: str) -> Path:
        self._settings, self.instance = settings, instance
        root = settings.data_dir
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.listening = engine_socket.listen(root)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=self.listening.socket
        )
        return self.listening.path

    def end(self) -> None:
        """End like a process that is killed: the socket's file stays."""
        if self._server is not None:
            self._server.close()
        for writer in self._connections:
            writer.transport.abort()

    async def wait_for_end(self) -> None:
        self.end()
        tasks = list(self._connections.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._connections[writer] = asyncio.current_task()
        try:
            # The client leaves, or the test ends this engine.
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    await self._answer(reader, writer)
                    await writer.drain()
        finally:
            del self._connections[writer]
            writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        _method, path, _version = head[0].split()
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        if not (self.greets if path == "/hello" else self.reads_calls):
            await asyncio.Event().wait()
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        call = Call(self, path.rpartition("/")[2], headers, body, reader, writer)
        if path == "/hello":
            self._greet(call)
        elif path == "/finish":
            self.was_asked_to_finish = True
            call.answer(b"", 204)
            await writer.drain()
            self.listening.retire()
            self.end()
        else:
            self.calls.append(call)
            await self.behaviour(call)

    def _greet(self, call: Call) -> None:
        self.introduced.append(call.headers[protocol.CLIENT_HEADER])
        if self.leaves_when_greeted:
            self.end()
            return
        hello = self.change(
            Hello(os.getpid(), self.instance, protocol.terms(self._settings), clients=0)
        )
        said = self.greeting or protocol.HELLO.dump_json(hello)
        closing = b"connection: close\r\n" if self.ends_connections else b""
        call.writer.write(
            b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b"
            % (closing, len(said), said)
        )
        if self.ends_connections:
            call.writer.close()


@dataclass
class Engines:
    """One engine after the other; the next one starts when the client asks."""

    settings: Settings
    waiting: list[FakeEngine] = field(default_factory=list)
    started: list[FakeEngine] = field(default_factory=list)

    def will_be(self, *engines: "FakeEngine | Behaviour") -> None:
        """Say which engines there will be; the last one is started for ever."""
        self.waiting = [
            each if isinstance(each, FakeEngine) else FakeEngine(each)
            for each in engines
        ]

    async def start_next(self) -> Path:
        following = self.waiting.pop(0) if len(self.waiting) > 1 else self.waiting[0]
        engine = replace(following, calls=[], introduced=[], _connections={})
        self.started.append(engine)
        return await engine.start(self.settings, f"instance-{len(self.started)}")

    def running(self, settings: Settings) -> Path:
        """Stand in for `engine_starting.running`."""
        assert settings == self.settings
        return anyio.from_thread.run(self.start_next)

    @property
    def calls(self) -> list[Call]:
        return [call for engine in self.started for call in engine.calls]


def result(operation: str, value: Any) -> bytes:
    return protocol.result_line(protocol.OPERATIONS[operation], value)


def answers(operation: str, value: Any, *before: bytes) -> Behaviour:
    """Return the behaviour of an engine that does what it is asked."""

    async def answer(call: Call) -> None:
        call.answer(b"".join(before) + result(operation, value))

    return answer


def fails(error: Exception) -> Behaviour:
    async def answer(call: Call) -> None:
        failed = asdict(protocol.failure(error))
        call.answer(protocol.line(protocol.FAILED, failed))

    return answer


def dies(*pieces: bytes) -> Behaviour:
    """Return the behaviour of an engine that is killed by a call."""

    async def die(call: Call) -> None:
        await call.tell(b"alive\n", *pieces)
        call.engine.end()

    return die


def answers_status(status: int) -> Behaviour:
    async def answer(call: Call) -> None:
        call.answer(b"", status)

    return answer
