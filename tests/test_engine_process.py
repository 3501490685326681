"""The engine as a real process: started once, outliving its clients, and again."""

import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from typer.testing import CliRunner

from mcp_hybrid_search import engine_control, engine_socket, engine_starting
from mcp_hybrid_search.commands import app
from mcp_hybrid_search.documents import NewDocument, SearchRequest
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.engine_client import REPEATED, EngineClient
from mcp_hybrid_search.engine_protocol import TAKEN, EngineStatus
from mcp_hybrid_search.errors import ConflictError, StoreUnavailableError
from mcp_hybrid_search.settings import Settings, load_settings

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets"),
]

PACKAGE = Path(engine_control.__file__).parent
PATIENCE_SECONDS = 120
PLACE = ("documents", "default")
WHALE = NewDocument("Moby Dick is the white whale.", *PLACE, document_id="whale")

Given = Callable[..., Settings]


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Given]:
    """Settings on the test's own directory, whose engine is stopped afterwards."""
    values = {"data_dir": tmp_path / "data", "min_free_bytes": 0}

    def given_(**more: object) -> Settings:
        return load_settings(**{**values, "engine_idle_seconds": 600, **more})

    yield given_
    if (tmp_path / "data").is_dir():
        engine_control.stop(given_())


@asynccontextmanager
async def client_of(settings: Settings) -> AsyncIterator[EngineClient]:
    client = EngineClient(settings)
    try:
        with anyio.fail_after(PATIENCE_SECONDS):
            yield client
    finally:
        await client.aclose()


async def status(settings: Settings) -> EngineStatus:
    found = await anyio.to_thread.run_sync(engine_control.status, settings)
    assert found is not None
    return found


async def until_gone(settings: Settings) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        free = partial(
            engine_control._is_free, settings, within_seconds=PATIENCE_SECONDS
        )
        assert await anyio.to_thread.run_sync(free)


async def text_of(client: EngineClient, document_id: str) -> str:
    return (await client.document(*PLACE, document_id)).text


def log_of(settings: Settings) -> str:
    return engine_starting.log_path(settings.data_dir).read_text()


def starts(settings: Settings) -> int:
    return log_of(settings).count("has started")


def program(
    code: str,
    *arguments: object,
    package: Path = PACKAGE,
    stdin: int = subprocess.PIPE,
) -> "subprocess.Popen[bytes]":
    """Start Python code with the package at hand."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=package.parent,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        stdin=stdin,
        stdout=subprocess.PIPE,
    )


START = """
import sys
from mcp_hybrid_search.engine_starting import running
from mcp_hybrid_search.settings import load_settings
running(load_settings(data_dir=sys.argv[1], min_free_bytes=0, engine_idle_seconds=600))
"""


# One engine


async def test_eight_first_starts_at_once_make_exactly_one_engine(given: Given) -> None:
    programs = [program(START, given().data_dir) for _ in range(8)]
    assert [p.communicate() and p.returncode for p in programs] == [0] * 8
    assert starts(given()) == 1


async def test_engines_that_are_started_side_by_side_leave_it_to_the_first(
    given: Given,
) -> None:
    await anyio.to_thread.run_sync(engine_starting.running, given())
    first = await status(given())
    assert engine_starting._spawned(given()) == TAKEN
    assert (await status(given())).pid == first.pid


async def test_each_client_reads_at_once_what_another_one_wrote(given: Given) -> None:
    async with client_of(given()) as first, client_of(given()) as second:
        await first.store(WHALE)
        assert await text_of(second, "whale") == WHALE.text
        await second.delete(*PLACE, "whale")
        found = await first.search(SearchRequest("white whale", *PLACE))
        assert found.hits == ()
        clients = (await status(given())).clients
    assert {client.pid for client in clients} == {os.getpid()}
    assert len(clients) == 2
    assert starts(given()) == 1


# Its end, and the next one


async def test_an_engine_leaves_after_its_last_client_with_everything_on_disk(
    given: Given, open_engine: Callable[..., Engine]
) -> None:
    async with client_of(given(engine_idle_seconds=0)) as client:
        await client.store(WHALE)
    await until_gone(given())
    assert "Leaving: nobody is connected." in log_of(given())
    engine = open_engine()
    assert engine._store._ledger.unindexed(engine._store._ledger.collections()[0]) == []
    found = await engine.search(SearchRequest("white whale", *PLACE))
    assert (found.hits[0].document.document_id, found.notices) == ("whale", ())
    assert not {"engine", "engine.sock"} & {p.name for p in given().data_dir.iterdir()}


async def test_a_silent_client_keeps_the_engine(given: Given) -> None:
    async with client_of(given(engine_idle_seconds=0)) as silent:
        await silent.store(WHALE)
        first = await status(given())
        async with client_of(given()) as other:
            await other.collections()
        # Two looks at who is there.
        await anyio.sleep(2.5)
        assert (await status(given())).pid == first.pid
    await until_gone(given())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS])
async def test_the_next_call_starts_the_engine_again(
    given: Given, number: signal.Signals
) -> None:
    async with client_of(given()) as client:
        await client.store(WHALE)
        first = await status(given())
        os.kill(first.pid, number)
        assert await text_of(client, "whale") == WHALE.text
        assert (await status(given())).pid != first.pid
        found = await client.search(SearchRequest("white whale", *PLACE))
        assert [hit.document.document_id for hit in found.hits] == ["whale"]


async def test_a_call_that_the_engine_died_of_is_repeated_and_says_so(
    given: Given,
) -> None:
    sentences = " ".join(f"Sentence {i} tells of the sea." for i in range(800))
    document = NewDocument(sentences, *PLACE, document_id="sea")
    killed: list[int] = []

    async def kill_once(done: float, total: float, what: str) -> None:
        del done, total
        if what == "chunks encoded" and not killed:
            killed.append((await status(given())).pid)
            os.kill(killed[0], signal.SIGKILL)

    async with client_of(given()) as client:
        stored = await client.store(document, progress=kill_once)
        assert (stored.status, stored.notices) == ("created", (REPEATED,))
        assert await text_of(client, "sea") == sentences
        assert [c.documents for c in await client.collections()] == [1]
    assert killed


async def test_an_engine_that_was_asleep_goes_on(given: Given) -> None:
    async with client_of(given()) as client:
        await client.store(WHALE)
        pid = (await status(given())).pid
        os.kill(pid, signal.SIGSTOP)
        async with anyio.create_task_group() as group:
            texts: list[str] = []

            async def read() -> None:
                texts.append(await text_of(client, "whale"))

            group.start_soon(read)
            await anyio.sleep(0.2)
            assert texts == []
            os.kill(pid, signal.SIGCONT)
        assert texts == [WHALE.text]
        assert (await status(given())).pid == pid


async def test_asked_to_leave_it_answers_what_it_is_busy_with(given: Given) -> None:
    text = " ".join(f"Sentence {i} tells of the sea." for i in range(120))
    asked = anyio.Event()

    async with client_of(given()) as client:
        await client.collections()
        first = await status(given())

        async def progress(done: float, total: float, what: str) -> None:
            del done, total, what
            asked.set()

        async with anyio.create_task_group() as group:

            async def store() -> None:
                sea = NewDocument(text, *PLACE, document_id="sea")
                assert (await client.store(sea, progress=progress)).status == "created"
                asked.set()

            group.start_soon(store)
            await asked.wait()
            os.kill(first.pid, signal.SIGTERM)
        assert await text_of(client, "sea") == text
        assert (await status(given())).pid != first.pid


async def test_a_call_right_after_the_signal_to_end_has_the_next_engine(
    given: Given,
) -> None:
    async with client_of(given()) as client:
        for _ in range(4):
            assert await client.collections() == []
            os.kill((await status(given())).pid, signal.SIGTERM)
            # Before, at and after the moment at which the signal is noticed.
            for _ in range(10):
                assert await client.collections() == []


# What becomes of those who started it


async def test_the_engine_outlives_the_client_that_started_it(
    given: Given,
) -> None:
    hold = START + "print('started', flush=True); input()"
    parent = program(hold, given().data_dir)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"started\n"
    first = await status(given())
    os.killpg(os.getpgid(parent.pid), 0)
    parent.kill()
    parent.communicate()
    assert (await status(given())).pid == first.pid


async def test_the_engine_outlives_the_terminal_that_it_was_started_from(
    given: Given,
) -> None:
    become_leader = """
import fcntl, os, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
"""
    outside, inside = pty.openpty()
    hold = become_leader + START + "print('started', flush=True); input()"
    shell = program(hold, given().data_dir, stdin=inside)
    assert shell.stdout is not None
    assert shell.stdout.readline() == b"started\n"
    first = await status(given())
    os.close(inside)
    os.close(outside)
    shell.communicate()
    assert shell.returncode == -signal.SIGHUP
    assert (await status(given())).pid == first.pid


async def test_files_in_the_clients_directory_are_not_taken_for_modules(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "anyio.py").write_text("raise SystemExit('taken for a module')")
    monkeypatch.chdir(tmp_path)
    async with client_of(given()) as client:
        assert await client.collections() == []


# Versions and settings


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The program as if it were an older version."""
    copy = tmp_path / "older" / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__init__.py").write_text('"""Older."""\n\n__version__ = "0.0.1"\n')
    return copy


async def test_a_newer_program_takes_over_and_an_older_one_goes_on_with_it(
    given: Given, older: Path
) -> None:
    use = """
import anyio, sys
from mcp_hybrid_search.documents import NewDocument
from mcp_hybrid_search.engine_client import EngineClient
from mcp_hybrid_search.settings import load_settings

async def use():
    client = EngineClient(load_settings(data_dir=sys.argv[1], min_free_bytes=0))
    await client.store(NewDocument("Old whale.", "documents", "default", "old"))
    print("stored", flush=True)
    sys.stdin.readline()
    await client.store(NewDocument("New whale.", "documents", "default", "new"))
    await client.aclose()

anyio.run(use)
"""
    old = program(use, given().data_dir, package=older)
    assert old.stdout is not None
    assert old.stdout.readline() == b"stored\n"
    assert (await status(given())).version == "0.0.1"
    async with client_of(given()) as client:
        assert await text_of(client, "old") == "Old whale."
        assert (await status(given())).version != "0.0.1"
        old.communicate(b"\n")
        assert old.returncode == 0
        assert await text_of(client, "new") == "New whale."
    assert starts(given()) == 2


async def test_other_settings_wait_until_nobody_else_uses_the_engine(
    given: Given,
) -> None:
    other = given(prefetch_limit=80)
    async with client_of(given()) as first:
        await first.store(WHALE)
        async with client_of(other) as second:
            with pytest.raises(ConflictError) as refused:
                await second.collections()
    assert "HYBRID_SEARCH_PREFETCH_LIMIT is 40 there and 80 here" in str(refused.value)
    async with client_of(other) as second:
        assert await text_of(second, "whale") == WHALE.text
    assert "Leaving: asked to." in log_of(given())


# What happens to its files


async def test_a_removed_data_directory_is_told_and_a_new_one_begun(
    given: Given,
) -> None:
    async with client_of(given()) as client:
        await client.store(WHALE)
        shutil.rmtree(given().data_dir)
        with pytest.raises(StoreUnavailableError, match="was removed or replaced"):
            await client.store(WHALE)
        assert (await client.store(WHALE)).status == "created"
        assert await text_of(client, "whale") == WHALE.text


async def test_a_replaced_data_directory_is_told_and_then_used(
    given: Given, tmp_path: Path
) -> None:
    async with client_of(given()) as client:
        await client.store(WHALE)
        given().data_dir.rename(tmp_path / "before")
        with pytest.raises(StoreUnavailableError, match="was removed or replaced"):
            await text_of(client, "whale")
        assert await client.collections() == []
        engine_control.stop(given())
        shutil.rmtree(given().data_dir)
        (tmp_path / "before").rename(given().data_dir)
        assert await text_of(client, "whale") == WHALE.text


async def test_without_its_socket_an_engine_leaves_and_another_one_is_started(
    given: Given,
) -> None:
    async with client_of(given()) as client:
        await client.store(WHALE)
        first = await status(given())
        path = engine_socket.connected(given().data_dir)
        assert path is not None
        path.unlink()
        async with client_of(given()) as other:
            assert await text_of(other, "whale") == WHALE.text
        assert await text_of(client, "whale") == WHALE.text
        assert (await status(given())).pid != first.pid
    assert "Leaving: the socket was removed or replaced." in log_of(given())


async def test_what_a_killed_engine_left_behind_stops_nobody(given: Given) -> None:
    async with client_of(given()) as client:
        await client.store(WHALE)
    os.kill((await status(given())).pid, signal.SIGKILL)
    left = {path.name for path in given().data_dir.iterdir()}
    assert {"lock", "owner", "starting"} <= left
    async with client_of(given()) as client:
        assert await text_of(client, "whale") == WHALE.text


def test_telling_who_has_the_directory_writes_through_no_link(
    given: Given, tmp_path: Path, open_engine: Callable[..., Engine]
) -> None:
    (tmp_path / "precious").write_text("mine")
    given().data_dir.mkdir(mode=0o700)
    (given().data_dir / "owner").symlink_to(tmp_path / "precious")
    open_engine().close()
    assert (tmp_path / "precious").read_text() == "mine"


async def test_another_users_directory_is_refused(given: Given) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a directory away takes root")
    given().data_dir.mkdir()
    os.chown(given().data_dir, 65534, 65534)
    async with client_of(given()) as client:
        with pytest.raises(StoreUnavailableError, match="belongs to another user"):
            await client.collections()
    os.chown(given().data_dir, 0, 0)


async def test_a_directory_that_cannot_be_used_is_told_by_every_call(
    given: Given,
) -> None:
    given().data_dir.write_text("a file")
    async with client_of(given()) as client:
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="as data directory"):
                await client.collections()


async def test_a_damaged_ledger_is_told_through_the_engine(given: Given) -> None:
    given().data_dir.mkdir(mode=0o700)
    (given().data_dir / "ledger.sqlite3").write_bytes(b"garbage" * 1000)
    async with client_of(given()) as client:
        with pytest.raises(StoreUnavailableError, match=r"ledger\.sqlite3"):
            await client.collections()
        assert (await status(given())).state != "ready"


async def test_an_engine_that_ends_while_it_starts_is_told_with_its_log(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    async with client_of(given()) as client:
        with pytest.raises(StoreUnavailableError, match="ends while it starts"):
            await client.collections()


async def test_an_engine_that_is_killed_while_it_starts_is_started_again(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = subprocess.Popen
    killed: list[int] = []

    def popen(*args: Any, **more: Any) -> "subprocess.Popen[bytes]":
        process = spawn(*args, **more)
        if len(killed) < 2:
            # Before it has detached itself.
            process.kill()
            killed.append(process.pid)
        return process

    monkeypatch.setattr(subprocess, "Popen", popen)
    async with client_of(given()) as client:
        assert await client.collections() == []
    assert len(killed) == 2


async def test_an_engine_that_is_stuck_while_it_starts_is_not_waited_for(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    class Stuck:
        """A process that keeps the pipe and says nothing."""

        def __init__(self, *_: object, pass_fds: list[int], **_more: object) -> None:
            held.extend(map(os.dup, pass_fds))

        def wait(self) -> None:
            """Be detached already."""

    monkeypatch.setattr(subprocess, "Popen", Stuck)
    monkeypatch.setattr(engine_starting, "START_SECONDS", 0.1)
    async with client_of(given()) as client:
        with pytest.raises(StoreUnavailableError, match="said nothing for"):
            await client.collections()
    for descriptor in held:
        os.close(descriptor)


async def test_the_log_has_no_stored_text_and_does_not_grow_for_ever(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(given(log_level="DEBUG")) as client:
        await client.store(
            NewDocument("canarytext", *PLACE, "canaryid", title="canarytitle")
        )
        await client.search(SearchRequest("canaryquery", *PLACE))
        await client.delete(*PLACE, "canaryid")
    assert "canary" not in log_of(given())
    engine_control.stop(given())
    monkeypatch.setattr(engine_starting, "LOG_BYTES", 10)
    async with client_of(given()) as client:
        await client.collections()
    assert starts(given()) == 1
    assert (given().data_dir / "engine.log.1").stat().st_mode & 0o777 == 0o600


def test_time_is_measured_by_a_clock_that_nobody_sets() -> None:
    for path in PACKAGE.glob("engine*.py"):
        assert "time.time(" not in path.read_text(), path


# Looking after it


def run(settings: Settings, *arguments: str) -> tuple[int, str]:
    environment = settings.environment()
    result = CliRunner().invoke(app, arguments, env=environment)
    return result.exit_code, result.output


def test_status_stop_and_logs_are_commands(given: Given) -> None:
    assert run(given(), "status") == (
        1,
        "No engine is running; the next call starts one.\n",
    )
    assert run(given(), "stop") == (0, "Engine: not running.\n")
    code, told = run(given(), "logs")
    assert (code, "no engine was started" in told) == (1, True)

    async def store_and_look() -> None:
        async with client_of(given()) as client:
            client.introduce("the test")
            await client.store(WHALE)
            code, told = await anyio.to_thread.run_sync(run, given(), "status")
            assert code == 0
            for expected in ("ready", "1 in 1 chunks", "the test", str(os.getpid())):
                assert expected in told

    anyio.run(store_and_look)
    code, told = run(given(), "status", "--json")
    assert (code, '"documents": 1' in told, '"clients": []' in told) == (0, True, True)
    assert run(given(), "stop") == (0, "Engine: stopped.\n")
    code, told = run(given(), "logs", "--lines", "1")
    assert (code, told.count("\n"), "has left" in told) == (0, 1, True)


async def test_an_engine_that_is_stuck_is_killed(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_control, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(engine_control, "LEAVE_SECONDS", 0.5)
    async with client_of(given()) as client:
        await client.store(WHALE)
        os.kill((await status(given())).pid, signal.SIGSTOP)
        stop = partial(anyio.to_thread.run_sync, engine_control.stop, given())
        with pytest.raises(StoreUnavailableError, match="does not answer"):
            await status(given())
        assert await stop() == "killed"
        assert await text_of(client, "whale") == WHALE.text
        assert await stop() in {"stopped", "killed"}


def test_a_program_that_shares_nothing_is_not_stopped(
    given: Given, open_engine: Callable[..., Engine]
) -> None:
    open_engine()
    with pytest.raises(StoreUnavailableError, match=f"process {os.getpid()}, since"):
        engine_control.stop(given())


def test_what_is_done_in_process_names_the_engine_in_the_way(
    given: Given, open_engine: Callable[..., Engine]
) -> None:
    engine_starting.running(given())
    with pytest.raises(StoreUnavailableError, match="Leave out --in-process"):
        open_engine()
