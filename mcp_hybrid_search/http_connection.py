"""One connection as a server on a network must treat it: with little patience.

h11 reads it, not httptools: it is strict about framing (one Host, one length, no
space before a colon), there is nothing lenient to switch on, and it is installed.
"""

import asyncio
from collections import OrderedDict
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mcp_hybrid_search.http_pacing import Pacing, holds_call

HEAD_SECONDS = 10.0
"""How long the head of a request may take, and a new connection to begin one."""


class Waiting:
    """Connections that wait for a request; of too many, the oldest is closed."""

    def __init__(self, most_connections: int) -> None:
        self._most = most_connections
        self._waiting: OrderedDict[Connection, None] = OrderedDict()

    def add(self, connection: "Connection") -> None:
        """Take note that `connection` waits from now on."""
        self._waiting[connection] = None

    def discard(self, connection: "Connection") -> None:
        """Take note that `connection` waits no more."""
        self._waiting.pop(connection, None)

    def make_room(self, open_connections: int) -> None:
        """Close what has waited longest if there are too many connections."""
        if open_connections > self._most and self._waiting:
            self._waiting.popitem(last=False)[0].transport.abort()


class Connection(H11Protocol):
    """A connection whose requests begin in time or not at all."""

    waiting: Waiting
    pacing: Pacing
    """Shared by all; set by `connection_class`."""
    _calls = True
    _unread: bytes = b""
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Take a connection; it must begin a request soon."""
        super().connection_made(transport)
        self.waiting.add(self)
        self.waiting.make_room(len(self.connections))
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Read what came, or let it wait for its turn."""
        self._calls = holds_call(data, before=self._calls)
        if self._calls and not self.pacing.has_turn():
            self._stop_timer()
            self._unread = data
            self.transport.pause_reading()
            self.pacing.wait(self)
            return
        self._read(data)

    def read_waiting(self) -> None:
        """Read what has been waiting."""
        if not self.transport.is_closing():
            # First: reading may stop it again.
            self.transport.resume_reading()
            self._read(self._unread)
        self._unread = b""

    def _read(self, data: bytes) -> None:
        super().data_received(data)
        if self._serves():
            self._stop_timer()
            self.waiting.discard(self)
        elif not self.transport.is_closing():
            self._expect_head()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self._serves() and not self.transport.is_closing():
            self.waiting.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        self.waiting.discard(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; amid an answer, only close."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _serves(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        # A few bytes now and then do not buy more time.
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def connection_class(most_connections: int) -> type[Connection]:
    """Return the protocol of one server, with a limit of its own."""
    shared = {"waiting": Waiting(most_connections), "pacing": Pacing()}
    return type("Connection", (Connection,), shared)
