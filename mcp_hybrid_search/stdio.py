"""The stdio transport: one JSON-RPC message a line, and an answer to every line.

From `serve` on, stdin and stdout belong to the protocol until the process ends:
what anything else prints goes to stderr, even when it is flushed at exit.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import anyio
from mcp.os.win32.utilities import rebind_std_handle_to_fd
from mcp.server import MCPServer
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp.types import (
    JSONRPCError,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)

from mcp_hybrid_search.jsonrpc import Line, Lines, RefusedError, encoded, parsed

MAX_LINE_BYTES = 8 * 1024 * 1024
CHUNK_BYTES = 64 * 1024

DRAIN_SECONDS = 6.0
FLUSH_SECONDS = 1.0
LEAVE_SECONDS = 9.5

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


async def serve(
    server: MCPServer,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    drain_seconds: float = DRAIN_SECONDS,
    leave_seconds: float = LEAVE_SECONDS,
) -> None:
    """Serve one client on stdin and stdout until it, or a signal, ends it.

    Runs on the main thread, once per process. On return the caller may clean up.

    Args:
        server: Served in whichever protocol era the client opens with.
        max_line_bytes: Longest line that is read; a longer one is refused.
        drain_seconds: Time for calls in flight once the end has begun; a (second)
            signal ends them at once.
        leave_seconds: Time from the beginning of the end, the caller's clean-up
            included, until the process exits with 0 whether or not it is done.
    """
    wire = _claim_standard_streams()
    client = _Client(*wire, lines=Lines(max_line_bytes))
    # run_stdio_async() does the same, but brings its own streams.
    lowlevel = server._lowlevel_server  # noqa: SLF001
    options = lowlevel.create_initialization_options()
    with signals_call(client.leave):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.read, drain_seconds, leave_seconds)
            tasks.start_soon(client.write)
            await lowlevel.run(client.incoming, client.outgoing, options)
            tasks.cancel_scope.deadline = anyio.current_time() + FLUSH_SECONDS


def leave_within(seconds: float) -> None:
    """Exit with 0 after `seconds`, whatever thread is still stuck by then."""
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()


class _Client:
    """The client behind two descriptors, as the streams that the SDK serves."""

    def __init__(self, stdin: int, stdout: int, *, lines: Lines) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._lines = lines
        self._to_server, self.incoming = anyio.create_memory_object_stream[
            SessionMessage | Exception
        ]()
        self.outgoing, self._from_server = anyio.create_memory_object_stream[
            SessionMessage
        ]()
        self._refusals = self.outgoing.clone()
        self._reading = anyio.CancelScope()
        self._draining = anyio.CancelScope()
        self._unanswered_ids: set[RequestId] = set()
        self._answered = anyio.Event()

    def leave(self) -> None:
        """Stop reading; asked again, stop waiting for the calls in flight."""
        if self._reading.cancel_called:
            self._draining.cancel()
        self._reading.cancel()

    async def read(self, drain_seconds: float, leave_seconds: float) -> None:
        """Hand on each line until the end, then wait for the answers due."""
        # The SDK takes a closed stream as the end and cancels what is in flight.
        async with self._to_server, self._refusals:
            try:
                with self._reading, suppress(anyio.BrokenResourceError):
                    await self._read_lines()
                    self._reading.cancel()
            finally:
                leave_within(leave_seconds)
            _logger.info("leaving; calls in flight: %d", len(self._unanswered_ids))
            self._draining.deadline = anyio.current_time() + drain_seconds
            with self._draining:
                while self._unanswered_ids:
                    self._answered = anyio.Event()
                    await self._answered.wait()

    async def write(self) -> None:
        """Write what the server sends until it, or the client, is gone."""
        thread = _DaemonThread()
        async with self._from_server:
            async for item in self._from_server:
                line = encoded(item.message)
                try:
                    await thread.run(partial(_write_all, self._stdout, line))
                except OSError:
                    self._reading.cancel()
                    self._draining.cancel()
                    return
                if isinstance(item.message, JSONRPCResponse | JSONRPCError):
                    await self._settle(item.message.id)

    async def _read_lines(self) -> None:
        thread = _DaemonThread()
        read = partial(os.read, self._stdin, CHUNK_BYTES)
        with suppress(OSError):
            while chunk := await thread.run(read):
                for line in self._lines.feed(chunk):
                    await self._take(line)
        for line in self._lines.feed(b"\n"):
            await self._take(line)

    async def _take(self, line: Line) -> None:
        try:
            message = parsed(line)
        except RefusedError as refused:
            await self._refusals.send(SessionMessage(refused.answer))
            return
        metadata = None
        if isinstance(message, JSONRPCRequest):
            # A subscription is open for as long as the client is.
            if message.method != "subscriptions/listen":
                self._unanswered_ids.add(message.id)
            settle = partial(self._settle, message.id)
            metadata = ServerMessageMetadata(on_request_unanswered=settle)
        await self._to_server.send(SessionMessage(message, metadata))

    async def _settle(self, request_id: RequestId | None) -> None:
        self._unanswered_ids -= {request_id}
        self._answered.set()


@contextmanager
def signals_call(leave: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call `leave`; afterwards nothing cuts the end short."""
    # Windows' event loops take no handlers; there Ctrl+C is a KeyboardInterrupt.
    signals = () if sys.platform == "win32" else (signal.SIGTERM, signal.SIGINT)
    loop = asyncio.get_running_loop()
    for each in signals:
        loop.add_signal_handler(each, leave)
    try:
        yield
    finally:
        # The end is near and certain; one more would only cut the clean-up short.
        for each in signals:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_IGN)


def _claim_standard_streams() -> tuple[int, int]:
    """Move stdin and stdout out of everyone else's reach."""
    devnull = os.open(os.devnull, os.O_RDWR)
    stdin, stdout = os.dup(0), os.dup(1)
    os.dup2(devnull, 0)
    # Where the launcher closed stderr, 2 is by now the event loop's own.
    os.dup2(devnull if sys.stderr is None else 2, 1)
    with suppress(OSError):
        rebind_std_handle_to_fd(0)
        rebind_std_handle_to_fd(1)
    return stdin, stdout


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class _DaemonThread:
    """Runs blocking calls one after another and never keeps the process alive."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    async def run(self, call: Callable[[], _T]) -> _T:
        """Await `call`; cancelled, leave it to itself."""
        future: Future[_T] = Future()
        # A running future cannot be cancelled, so the thread can always set it.
        future.set_running_or_notify_cancel()
        self._calls.put((call, future))
        return await asyncio.wrap_future(future)

    def _run(self) -> None:
        while True:
            call, future = self._calls.get()
            try:
                future.set_result(call())
            except OSError as error:
                future.set_exception(error)
