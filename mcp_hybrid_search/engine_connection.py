"""A client's connection to the engine: found or started, agreed with, and talked to."""

import json
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from packaging.version import Version

from mcp_hybrid_search import __version__, engine_socket
from mcp_hybrid_search import engine_protocol as protocol
from mcp_hybrid_search.engine_protocol import Hello, Operation, Terms
from mcp_hybrid_search.errors import ConflictError, StoreUnavailableError
from mcp_hybrid_search.settings import PREFIX, Settings

if TYPE_CHECKING:
    import httpx2

Progress = Callable[[float, float, str], Awaitable[None]]
"""Called about every second with (done, total, what is being done)."""

CONNECT_LIMIT = 5
"""Engines that may leave while they are greeted, before it is given up."""


class EngineGoneError(Exception):
    """The engine left or died, or another one took its place."""

    def __init__(self, *, died_of_it: bool) -> None:
        super().__init__()
        self.died_of_it = died_of_it
        """Whether it was doing this call."""


class EngineConnection:
    """Finds the engine again after each end of it. For one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = protocol.ClientInfo(
            os.getpid(), secrets.token_hex(8), "mcp-hybrid-search", __version__
        )
        self._http: httpx2.AsyncClient | None = None
        self._instance = ""
        self._connecting = anyio.Lock()

    def introduce(self, name: str) -> None:
        """Say on whose behalf the calls from now on are."""
        self._client = protocol.ClientInfo(
            self._client.pid, self._client.key, name[:100], self._client.version
        )

    async def aclose(self) -> None:
        """Let the engine know that this client has gone."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

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

        http = await self._connected(progress)
        answer = _Answer(progress)
        headers = {
            protocol.INSTANCE_HEADER: self._instance,
            protocol.ATTEMPT_HEADER: str(attempt),
            protocol.CLIENT_HEADER: self._introduction(),
        }
        path = f"/call/{operation.name}"
        try:
            async with http.stream(
                "POST", path, content=body, headers=headers
            ) as response:
                if response.status_code == httpx2.codes.OK:
                    # A repeated call waits for its turn, and says when it has it.
                    answer.started = attempt == 0
                    async for chunk in response.aiter_raw():
                        await answer.feed(chunk)
                elif response.status_code != httpx2.codes.CONFLICT:
                    raise self._misunderstood(response.status_code)
        except httpx2.ReadTimeout:
            raise self._stuck() from None
        except httpx2.TransportError:
            pass
        if answer.last is None:
            await self._forget(http)
            raise EngineGoneError(died_of_it=answer.started)
        word, value = answer.last
        if word == protocol.FAILED:
            raise protocol.error(protocol.FAILURE.validate_json(value))
        return protocol.parsed_result(operation, value)

    def _introduction(self) -> str:
        return protocol.CLIENT.dump_json(self._client, ensure_ascii=True).decode()

    async def _forget(self, http: "httpx2.AsyncClient") -> None:
        if self._http is http:
            self._http = None
        await http.aclose()

    async def _connected(self, progress: Progress | None) -> "httpx2.AsyncClient":
        async with self._connecting:
            for _ in range(CONNECT_LIMIT):
                if self._http is not None:
                    return self._http
                await self._connect(progress)
        msg = f"Every engine of {self._settings.data_dir} leaves at once. {self._log()}"
        raise StoreUnavailableError(msg)

    async def _connect(self, progress: Progress | None) -> None:
        """Greet the engine; what ends before it answers leaves us unconnected."""
        import httpx2  # noqa: PLC0415 - slow

        path = await self._running(progress)
        http = _http_client(path)
        try:
            response = await http.get(
                "/hello", headers={protocol.CLIENT_HEADER: self._introduction()}
            )
            _check_peer(response)
            hello = protocol.HELLO.validate_json(response.content)
            if fits(protocol.terms(self._settings), hello, self._settings.data_dir):
                self._http, self._instance = http, hello.instance
            else:
                await http.post("/finish")
        except httpx2.ReadTimeout:
            raise self._stuck() from None
        except httpx2.TransportError:
            pass
        finally:
            if self._http is not http:
                await http.aclose()

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


class _Answer:
    """The lines of one answer as they come in."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._rest = b""
        self.started = False
        self.last: tuple[str, str] | None = None

    async def feed(self, chunk: bytes) -> None:
        """Take in some bytes; progress is told at once."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            word, _, value = line.decode().partition(" ")
            if word in {protocol.RESULT, protocol.FAILED}:
                self.last = (word, value)
            elif word == protocol.STARTED:
                self.started = True
            elif word == protocol.PROGRESS and self._progress is not None:
                await self._progress(*json.loads(value))


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
    if Version(theirs.version) < Version(mine.version):
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


def _http_client(path: Path) -> "httpx2.AsyncClient":
    import httpx2  # noqa: PLC0415 - slow

    return httpx2.AsyncClient(
        # Nothing is encrypted, so no certificates need to be loaded.
        transport=httpx2.AsyncHTTPTransport(
            uds=str(path),
            verify=False,
            # An open connection tells the engine that this client lives.
            limits=httpx2.Limits(
                max_connections=None, max_keepalive_connections=8, keepalive_expiry=None
            ),
        ),
        base_url="http://engine",
        timeout=httpx2.Timeout(None, connect=5, read=protocol.SILENCE_SECONDS),
        trust_env=False,
    )


def _check_peer(response: "httpx2.Response") -> None:
    stream = response.extensions["network_stream"]
    engine_socket.check_peer(stream.get_extra_info("socket"))
