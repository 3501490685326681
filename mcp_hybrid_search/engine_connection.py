"""A client's connection to the engine: found or started, agreed with, and talked to."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from packaging.version import Version

from mcp_hybrid_search import __version__, engine_socket
from mcp_hybrid_search import engine_protocol as protocol
from mcp_hybrid_search.engine_answer import Answer, Progress, outcome, understood
from mcp_hybrid_search.engine_protocol import Hello, Operation, Terms
from mcp_hybrid_search.errors import ConflictError, StoreUnavailableError
from mcp_hybrid_search.settings import PREFIX, Settings

if TYPE_CHECKING:
    import httpx2

CONNECT_LIMIT = 5
"""Engines that may leave while they are greeted, before it is given up."""


class EngineGoneError(Exception):
    """The engine left or died, or another one took its place."""

    def __init__(self, *, died_of_it: bool) -> None:
        super().__init__()
        self.died_of_it = died_of_it
        """Whether it was doing this call."""


@dataclass(eq=False)
class _Session:
    """What was agreed with one engine, and the calls that it is busy with."""

    http: "httpx2.AsyncHTTPTransport"
    instance: str
    calls: int = 0


class EngineConnection:
    """Finds the engine again after each end of it. For one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = protocol.ClientInfo(
            os.getpid(), secrets.token_hex(8), "mcp-hybrid-search", __version__
        )
        self._session: _Session | None = None
        self._connecting = anyio.Lock()

    def introduce(self, name: str) -> None:
        """Say on whose behalf the calls from now on are."""
        # Whatever somebody calls itself must not keep it from being served.
        name = name[:100].encode(errors="replace").decode()
        self._client = replace(self._client, name=name)

    async def aclose(self) -> None:
        """Let the engine know that this client has gone."""
        session, self._session = self._session, None
        if session is not None:
            await session.http.aclose()

    async def call(
        self,
        operation: Operation,
        body: bytes,
        *,
        attempt: int,
        progress: Progress | None,
    ) -> Any:
        """Let the engine do something.

        Args:
            operation: What.
            body: Its arguments.
            attempt: How often the engine died of this call before.
            progress: Told how far it is.

        Raises:
            EngineGoneError: If the engine ended before it was done.
            HybridSearchError: If it could not be done, or no engine can be had.
        """
        import httpx2  # noqa: PLC0415 - slow

        # A suspect waits for its turn, and says when it has it.
        answer = Answer(progress, waits=attempt >= protocol.SUSPECT_ATTEMPTS)
        headers = {protocol.ATTEMPT_HEADER: str(attempt), **self._introduction()}
        path = f"/call/{operation.name}"
        async with self._connected(progress) as session:
            headers[protocol.INSTANCE_HEADER] = session.instance
            try:
                async with _asked(
                    session.http, "POST", path, headers, body
                ) as response:
                    if response.status_code == httpx2.codes.OK:
                        await answer.read(_chunks(response))
                    elif response.status_code != httpx2.codes.CONFLICT:
                        raise self._misunderstood(response.status_code)
            except (httpx2.ReadTimeout, httpx2.WriteTimeout):
                raise self._stuck() from None
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.WriteError):
                pass
            except httpx2.TransportError:
                answer.break_off()
            if answer.last is None:
                self._forget(session)
                raise EngineGoneError(died_of_it=answer.started)
        return outcome(operation, *answer.last)

    def _introduction(self) -> dict[str, str]:
        told = protocol.CLIENT.dump_json(self._client, ensure_ascii=True)
        return {protocol.CLIENT_HEADER: told.decode()}

    def _forget(self, session: _Session) -> None:
        if self._session is session:
            self._session = None

    @asynccontextmanager
    async def _connected(self, progress: Progress | None) -> AsyncIterator[_Session]:
        session = await self._agreed(progress)
        session.calls += 1
        try:
            yield session
        finally:
            session.calls -= 1
            # An engine that is leaving may still finish other calls.
            if session is not self._session and not session.calls:
                await _close(session.http)

    async def _agreed(self, progress: Progress | None) -> _Session:
        if self._session is not None:
            return self._session
        async with self._connecting:
            for _ in range(CONNECT_LIMIT):
                self._session = self._session or await self._connect(progress)
                if self._session is not None:
                    return self._session
        msg = f"Every engine of {self._settings.data_dir} leaves at once. {self._log()}"
        raise StoreUnavailableError(msg)

    async def _connect(self, progress: Progress | None) -> _Session | None:
        """Greet the engine; None if it ends before it answers, or has to."""
        import httpx2  # noqa: PLC0415 - slow

        http = _transport(await self._running(progress))
        session = None
        try:
            hello = await self._greeted(http)
            with understood():
                fit = fits(
                    protocol.terms(self._settings), hello, self._settings.data_dir
                )
            if fit:
                session = _Session(http, hello.instance)
            else:
                async with _asked(http, "POST", "/finish", {}):
                    pass
        except httpx2.ReadTimeout:
            raise self._stuck() from None
        except httpx2.TransportError:
            pass
        finally:
            if session is None:
                await _close(http)
        return session

    async def _greeted(self, http: "httpx2.AsyncHTTPTransport") -> Hello:
        async with _asked(http, "GET", "/hello", self._introduction()) as response:
            # Whoever answers may close the connection after its answer.
            _check_peer(response)
            told = b"".join([chunk async for chunk in _chunks(response)])
            with understood():
                return protocol.HELLO.validate_json(told)

    async def _running(self, progress: Progress | None) -> Path:
        path = await anyio.to_thread.run_sync(
            engine_socket.connected, self._settings.data_dir
        )
        if path is not None:
            return path
        if progress is not None:
            await progress(0, 1, "starting the engine")
        from mcp_hybrid_search.engine_starting import running  # noqa: PLC0415 - slow

        return await anyio.to_thread.run_sync(
            running, self._settings, abandon_on_cancel=True
        )

    def _stuck(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"The engine of {self._settings.data_dir} has said nothing for"
            f" {protocol.SILENCE_SECONDS:.0f} s. Stop it with `mcp-hybrid-search stop`;"
            f" the next call starts it again. {self._log()}"
        )

    def _misunderstood(self, status: int) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"The engine of {self._settings.data_dir} refused a call (HTTP {status})."
            f" {self._log()}"
        )

    def _log(self) -> str:
        return "Its log: `mcp-hybrid-search logs`."


def fits(mine: Terms, engine: Hello, data_dir: Path) -> bool:
    """Return whether an engine can be used; False if another one should be started.

    Raises:
        ConflictError: If it cannot be used, and others need it as it is.
    """
    theirs = engine.terms
    if theirs.protocol > mine.protocol:
        msg = (
            f"The engine of {data_dir} is of version {theirs.version}, which version"
            f" {mine.version} cannot talk to. Update this program and restart it."
        )
        raise ConflictError(msg)
    older = Version(theirs.version) < Version(mine.version)
    if older or theirs.protocol < mine.protocol:
        return False
    different = [
        f"{PREFIX}{name.upper()} is {theirs.settings[name]!r} there and {value!r} here"
        for name, value in mine.settings.items()
        if name in theirs.settings and theirs.settings[name] != value
    ]
    if different and engine.clients:
        msg = (
            f"The engine of {data_dir} serves other programs with other settings:"
            f" {'; '.join(different)}. Use the same settings everywhere, another"
            f" {PREFIX}DATA_DIR, or end the other programs first."
        )
        raise ConflictError(msg)
    return not different


def _transport(path: Path) -> "httpx2.AsyncHTTPTransport":
    import httpx2  # noqa: PLC0415 - slow

    # A client's cookies, redirects and so on would take a third of a call's time.
    return httpx2.AsyncHTTPTransport(
        uds=str(path),
        # Nothing is encrypted, so no certificates need to be loaded.
        verify=False,
        # An open connection tells the engine that this client lives.
        limits=httpx2.Limits(
            max_connections=None, max_keepalive_connections=8, keepalive_expiry=None
        ),
    )


@asynccontextmanager
async def _asked(
    http: "httpx2.AsyncHTTPTransport",
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes = b"",
) -> "AsyncIterator[httpx2.Response]":
    import httpx2  # noqa: PLC0415 - slow

    timeout = httpx2.Timeout(protocol.SILENCE_SECONDS, connect=5, pool=None)
    request = httpx2.Request(
        method,
        f"http://engine{path}",
        headers=headers,
        content=body,
        extensions={"timeout": timeout.as_dict()},
    )
    response = await http.handle_async_request(request)
    try:
        yield response
    finally:
        await response.aclose()


def _chunks(response: "httpx2.Response") -> "httpx2.AsyncByteStream":
    import httpx2  # noqa: PLC0415 - slow

    if not isinstance(response.stream, httpx2.AsyncByteStream):
        msg = "An asynchronous transport answers asynchronously."
        raise TypeError(msg)
    return response.stream


async def _close(http: "httpx2.AsyncHTTPTransport") -> None:
    with anyio.CancelScope(shield=True):
        await http.aclose()


def _check_peer(response: "httpx2.Response") -> None:
    stream = response.extensions["network_stream"]
    engine_socket.check_peer(stream.get_extra_info("socket"))
