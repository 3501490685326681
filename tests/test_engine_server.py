"""An engine's server: what clients get, whatever the engine behind it does."""

import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest

from mcp_hybrid_search import engine as engine_module
from mcp_hybrid_search import engine_protocol as protocol
from mcp_hybrid_search import engine_socket, engine_starting
from mcp_hybrid_search.documents import CollectionInfo, NewDocument, Origin, Stored
from mcp_hybrid_search.engine import Progress
from mcp_hybrid_search.engine_client import EngineClient
from mcp_hybrid_search.engine_connection import EngineConnection
from mcp_hybrid_search.errors import ConflictError, StoreUnavailableError
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stores.directory import DataDirectory

if not engine_socket.sockets_exist():
    pytest.skip("this system knows no Unix sockets", allow_module_level=True)

from mcp_hybrid_search import engine_server

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 60
CANARY = "tr0ub4dor"
REINDEX = {"name": "c", "origin": {"client": "", "tool": "", "call": "1"}}
INFO = CollectionInfo("documents", "bundled", 2, 3, 4, 5.5)


class StubEngine:
    """Waits where a test wants it to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.cancelled = threading.Event()
        self.closed = threading.Event()

    async def collections(self, namespace: str | None = None) -> list[CollectionInfo]:
        assert namespace is None
        return [INFO]

    async def store_many(
        self,
        documents: list[NewDocument],
        *,
        origin: Origin,
        progress: Progress | None = None,
    ) -> list[Any]:
        assert origin.call
        assert progress is not None
        await progress(1, 2, "chunks encoded")
        return [
            ConflictError("It is there.")
            if document.document_id
            else Stored(document.text, document.collection, "created", 1)
            for document in documents
        ]

    async def reindex(
        self, name: str, *, origin: Origin, progress: Progress | None = None
    ) -> int:
        del name, origin, progress
        self.begun.set()
        try:
            await anyio.to_thread.run_sync(
                self.may_end.wait, PATIENCE_SECONDS, abandon_on_cancel=True
            )
        except anyio.get_cancelled_exc_class():
            self.cancelled.set()
            raise
        return 7

    async def delete(self, **_arguments: object) -> bool:
        raise KeyError(CANARY)

    def close(self) -> None:
        self.closed.set()


class Opener:
    """Stands in for the class `Engine`."""

    def __init__(self) -> None:
        self.engine = StubEngine()
        self.may_open = threading.Event()
        self.may_open.set()
        self.fault: Exception | None = None
        self.opened = 0

    def __call__(
        self, _settings: Settings, *, directory: DataDirectory, **_more: object
    ) -> StubEngine:
        assert directory.root
        self.may_open.wait(PATIENCE_SECONDS)
        self.opened += 1
        if self.fault is not None:
            raise self.fault
        return self.engine


@pytest.fixture
def settings(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Settings:
    """Let the engine stay without clients, and no other one be started."""

    def running(_settings: Settings) -> Path:
        pytest.fail("another engine was to be started")

    monkeypatch.setattr(engine_starting, "running", running)
    idle_seconds = getattr(request, "param", 600)
    return settings.model_copy(update={"engine_idle_seconds": idle_seconds})


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch) -> Opener:
    opener = Opener()
    monkeypatch.setattr(engine_module, "Engine", opener)
    monkeypatch.setattr(engine_server, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(protocol, "ALIVE_SECONDS", 0.01)
    # Only the main thread of a process may; here, it runs the tests.
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return opener


@pytest.fixture
def serving(settings: Settings, opener: Opener) -> Iterator[threading.Thread]:
    """Serve in a thread, which ends when the engine has left."""
    directory = DataDirectory(settings.data_dir, min_free_bytes=0, shared=True)
    listening = engine_socket.listen(directory.root)
    path = listening.path
    thread = threading.Thread(
        target=engine_server.serve,
        args=(settings, directory, listening),
        kwargs={"drain_seconds": PATIENCE_SECONDS},
    )
    thread.start()
    yield thread
    opener.may_open.set()
    opener.engine.may_end.set()
    if thread.is_alive():
        transport = httpx2.HTTPTransport(uds=str(path), verify=False)
        with (
            suppress(httpx2.TransportError),
            httpx2.Client(transport=transport, base_url="http://engine") as http,
        ):
            http.post("/finish")
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert opener.engine.closed.is_set() or opener.fault is not None
    directory.release()


@pytest.fixture
async def client(
    settings: Settings, serving: threading.Thread
) -> AsyncIterator[EngineClient]:
    del serving
    client = EngineClient(settings)
    yield client
    await client.aclose()


@pytest.fixture
async def http(
    settings: Settings, serving: threading.Thread
) -> AsyncIterator[httpx2.AsyncClient]:
    del serving
    path = engine_socket.connected(settings.data_dir)
    assert path is not None
    async with client_at(path) as http:
        yield http


def client_at(path: Path) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        transport=httpx2.AsyncHTTPTransport(uds=str(path), verify=False),
        base_url="http://engine",
        timeout=PATIENCE_SECONDS,
    )


async def happened(event: threading.Event) -> None:
    assert await anyio.to_thread.run_sync(event.wait, PATIENCE_SECONDS)


async def hello(http: httpx2.AsyncClient) -> protocol.Hello:
    return protocol.HELLO.validate_json((await http.get("/hello")).content)


async def status(http: httpx2.AsyncClient) -> protocol.EngineStatus:
    return protocol.STATUS.validate_json((await http.get("/status")).content)


@asynccontextmanager
async def calling(
    http: httpx2.AsyncClient, operation: str, arguments: Any, *, attempt: int = 0
) -> AsyncIterator[Callable[[], Any]]:
    """Call, and give a function that returns the next line."""
    headers = {
        protocol.INSTANCE_HEADER: (await hello(http)).instance,
        protocol.ATTEMPT_HEADER: str(attempt),
    }
    path = f"/call/{operation}"
    async with http.stream("POST", path, json=arguments, headers=headers) as response:
        assert response.status_code == httpx2.codes.OK
        lines = response.aiter_lines()
        yield lines.__anext__
        async for _ in lines:
            pass


async def test_a_call_is_done_and_tells_how_far_it_is(client: EngineClient) -> None:
    told = []

    async def progress(*given: Any) -> None:
        told.append(given)

    documents = [
        NewDocument("\u2028\0 text", "c", "n"),
        NewDocument("other", "c", "n", document_id="it"),
    ]
    stored, refused = await client.store_many(documents, progress=progress)
    assert stored == Stored("\u2028\0 text", "c", "created", 1)
    assert isinstance(refused, ConflictError)
    assert (1.0, 2.0, "chunks encoded") in told
    assert await client.collections() == [INFO]


async def test_a_client_that_goes_away_cancels_its_work(
    client: EngineClient, opener: Opener
) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(client.reindex, "documents")
        await happened(opener.engine.begun)
        group.cancel_scope.cancel()
    await happened(opener.engine.cancelled)
    assert await client.collections() == [INFO]


async def test_signs_of_life_come_while_work_goes_on(
    http: httpx2.AsyncClient, opener: Opener
) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        async with calling(http, "reindex", REINDEX) as next_line:
            assert [await next_line() for _ in range(3)] == ["alive"] * 3
            opener.engine.may_end.set()
            line = "alive"
            while line == "alive":
                line = await next_line()
            assert line == "result 7"


async def test_a_bug_is_in_the_log_without_its_text_and_not_in_the_answer(
    client: EngineClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError, match="log") as caught:
        await client.delete("c", "n", "it")
    assert CANARY not in str(caught.value)
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.name == "mcp_hybrid_search.engine_server"
    told = record.getMessage()
    assert told.startswith("A call of delete met ")
    assert "in delete" in told
    assert CANARY not in told
    assert record.exc_info is None
    assert await client.collections() == [INFO]


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/call/close", b"{}", 404),
        ("/call/", b"{}", 404),
        ("/elsewhere", b"{}", 404),
        ("/hello", b"{}", 405),
        ("/call/reindex", b"", 400),
        ("/call/reindex", b"{", 400),
        ("/call/reindex", b"\xff\xfe", 400),
        ("/call/reindex", b"{}", 400),
        ("/call/reindex", b'{"name": 1}', 400),
        ("/call/reindex", b'{"name": "\\ud800"}', 400),
        ("/call/store_many", b'{"documents": [{}]}', 400),
    ],
)
async def test_what_is_no_call_is_refused(
    http: httpx2.AsyncClient, opener: Opener, path: str, body: bytes, code: int
) -> None:
    headers = {protocol.INSTANCE_HEADER: (await hello(http)).instance}
    response = await http.post(path, content=body, headers=headers)
    assert response.status_code == code
    assert not opener.engine.begun.is_set()


@pytest.mark.parametrize("headers", [{}, {protocol.INSTANCE_HEADER: "another"}])
async def test_a_call_for_another_instance_is_refused(
    http: httpx2.AsyncClient, opener: Opener, headers: dict[str, str]
) -> None:
    response = await http.post("/call/reindex", json=REINDEX, headers=headers)
    assert response.status_code == 409
    assert not opener.engine.begun.is_set()


async def test_the_state_is_told_from_loading_over_failing_to_ready(
    settings: Settings, opener: Opener, request: pytest.FixtureRequest
) -> None:
    opener.may_open.clear()
    opener.fault = StoreUnavailableError("No disk.")
    request.getfixturevalue("serving")
    path = engine_socket.connected(settings.data_dir)
    assert path is not None
    client = EngineClient(settings)
    async with client_at(path) as http:
        loading = await status(http)
        assert (loading.state, loading.documents, loading.chunks) == ("loading", 0, 0)
        opener.may_open.set()
        with anyio.fail_after(PATIENCE_SECONDS):
            while (await status(http)).state == "loading":
                await anyio.lowlevel.checkpoint()
        assert (await status(http)).state == "No disk."
        with pytest.raises(StoreUnavailableError, match="No disk"):
            await client.collections()
        opener.fault = None
        assert await client.collections() == [INFO]
        ready = await status(http)
    await client.aclose()
    assert (ready.state, ready.documents, ready.chunks) == ("ready", 2, 3)
    assert ready.pid == os.getpid()
    assert ready.memory_bytes > 1_000_000
    assert opener.opened == 3


async def test_calls_that_an_engine_may_have_died_of_run_one_by_one(
    http: httpx2.AsyncClient, opener: Opener
) -> None:
    name = REINDEX
    with anyio.fail_after(PATIENCE_SECONDS):
        async with (
            calling(http, "reindex", name, attempt=2) as first,
            calling(http, "collections", {"namespace": None}, attempt=3) as second,
            calling(http, "collections", {"namespace": None}, attempt=1) as innocent,
        ):
            assert await next_word(first) == "started"
            assert (await innocent()).startswith("result ")
            assert [await second() for _ in range(3)] == ["alive"] * 3
            opener.engine.may_end.set()
            assert await next_word(first) == "result 7"
            assert await next_word(second) == "started"
            assert (await next_word(second)).startswith("result ")


async def next_word(next_line: Callable[[], Any]) -> str:
    line = "alive"
    while line == "alive":
        line = await next_line()
    return line


async def test_clients_are_told_apart_and_counted(
    settings: Settings, client: EngineClient, http: httpx2.AsyncClient
) -> None:
    assert (await hello(http)).clients == 0
    client.introduce("an assistant")
    await client.collections()
    assert (await hello(http)).clients == 1
    other = EngineConnection(settings)
    other.introduce("another")
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(client.collections)
    greeted = await http.get("/hello", headers=other._introduction())
    assert protocol.HELLO.validate_json(greeted.content).clients == 1
    names = [each.name for each in (await status(http)).clients]
    assert sorted(names) == ["an assistant", "another"]
    await client.aclose()
    with anyio.fail_after(PATIENCE_SECONDS):
        while len((await status(http)).clients) > 1:
            await anyio.lowlevel.checkpoint()


async def test_a_client_of_garbage_is_refused_and_others_go_on(
    http: httpx2.AsyncClient, client: EngineClient
) -> None:
    headers = {protocol.CLIENT_HEADER: CANARY}
    with suppress(httpx2.TransportError):
        response = await http.get("/hello", headers=headers)
        assert response.status_code >= 400
    assert await client.collections() == [INFO]


async def ended(thread: threading.Thread) -> None:
    await anyio.to_thread.run_sync(thread.join, PATIENCE_SECONDS)
    assert not thread.is_alive()


async def test_an_engine_that_is_asked_to_leave_finishes_what_it_does(
    settings: Settings,
    http: httpx2.AsyncClient,
    serving: threading.Thread,
    opener: Opener,
) -> None:
    async with calling(http, "reindex", REINDEX) as next_line:
        await happened(opener.engine.begun)
        assert (await http.post("/finish")).status_code == 204
        assert engine_socket.connected(settings.data_dir) is None
        opener.engine.may_end.set()
        assert await next_word(next_line) == "result 7"
    await ended(serving)
    assert not (settings.data_dir / "engine.sock").exists()


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("settings", [0], indirect=True)
async def test_an_engine_that_nobody_comes_to_leaves(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(engine_server, "STARTING_SECONDS", 0.0)
    await ended(request.getfixturevalue("serving"))


@pytest.mark.parametrize("name", ["lock", "engine.sock"])
async def test_an_engine_whose_place_was_taken_leaves(
    settings: Settings, client: EngineClient, serving: threading.Thread, name: str
) -> None:
    await client.collections()
    path = engine_socket.connected(settings.data_dir)
    assert path is not None
    (path if name == "engine.sock" else settings.data_dir / name).unlink()
    await ended(serving)


async def test_a_call_in_a_directory_that_is_gone_is_refused(
    settings: Settings,
    client: EngineClient,
    serving: threading.Thread,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await client.collections()

    def gone(_server: object, *_: object) -> str | None:
        return None

    monkeypatch.setattr(engine_server.EngineServer, "_reason_to_leave", gone)
    (settings.data_dir / "lock").rename(settings.data_dir / "aside")
    with pytest.raises(StoreUnavailableError, match="removed or replaced"):
        await client.collections()
    await ended(serving)


async def test_another_users_connection_is_dropped(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine_socket, "is_own", lambda _socket: False)
        with pytest.raises(httpx2.TransportError):
            await http.get("/hello")
    assert (await hello(http)).pid == os.getpid()


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_memory_is_known_where_there_is_no_proc(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    def read_text(_path: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(sys, "platform", platform)
    assert engine_server.memory_bytes() > 10_000
