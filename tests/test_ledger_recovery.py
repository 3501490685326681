"""The ledger is opened whole, by one process, or refused and left as it is."""

import hashlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.errors import (
    ConflictError,
    HybridSearchError,
    StoreUnavailableError,
)
from tests.conftest import OpenEngine
from tests.recovery import everything_is_found, fill, found, new, search

pytestmark = pytest.mark.anyio


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def filled(open_engine: OpenEngine) -> None:
    """A data directory that was filled and closed in good order."""
    engine = open_engine()
    anyio.run(fill, engine)
    engine.close()


# The ledger


def garbage_header(ledger: Path) -> None:
    with ledger.open("r+b") as file:
        file.write(os.urandom(100))


def truncated(ledger: Path) -> None:
    os.truncate(ledger, ledger.stat().st_size // 2)


def emptied(ledger: Path) -> None:
    os.truncate(ledger, 0)


def digests(data: Path) -> dict[str, str]:
    """Digest every file but those that each start, or a look, leaves behind."""
    return {
        str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(data.rglob("*"))
        if path.is_file() and path.stat().st_size
        if not path.name.endswith(("owner", "lock", "-shm"))
    }


def leave_in_order(data: Path) -> None:
    """Leave everything as it was when it was closed."""
    assert not (data / "ledger.sqlite3-wal").exists()


def leave_log(data: Path) -> None:
    """Leave a write-ahead log behind, as a process that was killed does."""
    ledger = data / "ledger.sqlite3"
    copy = data / "copy"
    db = sqlite3.connect(ledger)
    db.execute("UPDATE documents SET title = 'in the log'")
    db.commit()
    shutil.copy(f"{ledger}-wal", copy)
    db.close()
    copy.rename(f"{ledger}-wal")


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("leave", [leave_in_order, leave_log])
@pytest.mark.parametrize("damage", [garbage_header, truncated, emptied])
def test_a_damaged_ledger_is_refused_with_the_way_back_and_left_as_it_is(
    open_engine: OpenEngine,
    data: Path,
    leave: Callable[[Path], None],
    damage: Callable[[Path], None],
) -> None:
    leave(data)
    damage(data / "ledger.sqlite3")
    before = digests(data)

    with pytest.raises(StoreUnavailableError, match=r"damaged.*\.recover"):
        open_engine()

    assert digests(data) == before


@pytest.mark.usefixtures("filled")
def test_a_log_without_its_ledger_is_not_thrown_away(
    open_engine: OpenEngine, data: Path
) -> None:
    leave_log(data)
    (data / "ledger.sqlite3").unlink()
    before = digests(data)
    with pytest.raises(StoreUnavailableError, match=r"ledger\.sqlite3-wal"):
        open_engine()
    assert digests(data) == before


@pytest.mark.usefixtures("filled")
def test_a_ledger_of_another_version_is_refused_by_name(
    open_engine: OpenEngine, data: Path
) -> None:
    db = sqlite3.connect(data / "ledger.sqlite3")
    db.execute("PRAGMA user_version = 7")
    db.close()
    before = digests(data)
    with pytest.raises(
        StoreUnavailableError, match=r"version 7; .* reads versions up to 2"
    ):
        open_engine()
    assert digests(data) == before


# One process, one directory


def test_an_engine_closed_by_another_thread_gives_its_directory_back(
    open_engine: OpenEngine,
) -> None:
    opened: list[Engine] = []
    thread = threading.Thread(target=lambda: opened.append(open_engine()))
    thread.start()
    thread.join()
    with pytest.raises(StoreUnavailableError, match=f"process {os.getpid()}"):
        open_engine()
    opened[0].close()
    open_engine()


def test_a_data_directory_that_is_a_symbolic_link_is_refused(
    open_engine: OpenEngine, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailableError, match="symbolic link"):
        open_engine()
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Disk space


@pytest.mark.usefixtures("filled")
async def test_too_little_free_space_refuses_stores_and_lets_searches_go_on(
    open_engine: OpenEngine,
) -> None:
    engine = open_engine(min_free_bytes=10**18)
    with pytest.raises(StoreUnavailableError, match=r"has [\d,]+ MB free"):
        await engine.store(new("No room.", "no-room"))
    assert await everything_is_found(engine)


# Other settings


async def test_reindexing_keeps_times_and_metadata(
    open_engine: OpenEngine, filled: None
) -> None:
    del filled
    engine = open_engine()
    await engine.store(new("Kites need wind.", "kite", metadata={"topic": "toys"}))
    await engine.store(new("Kites need more wind.", "kite", metadata={"topic": "sky"}))
    before = (await engine.document("documents", "default", "kite")).document
    engine.close()
    engine = open_engine(chunk_tokens=64)

    with pytest.raises(ConflictError, match="mcp-hybrid-search reindex documents"):
        await search(engine, "kites")
    with pytest.raises(ConflictError, match="mcp-hybrid-search reindex documents"):
        await engine.store(new("Kites.", "kite"))
    assert await engine.reindex("documents") == 4

    assert await everything_is_found(engine)
    assert (await engine.document("documents", "default", "kite")).document == before


async def test_a_document_stored_while_its_collection_is_reindexed_is_not_lost(
    engine: Engine,
) -> None:
    await fill(engine)

    async def interfere(done: float, total: float, _: str) -> None:
        if done == total:
            await engine.store(new("Kites need wind.", "kite"))

    with pytest.raises(ConflictError, match="written to while"):
        await engine.reindex("documents", progress=interfere)

    assert (await found(engine, "kites"))[0] == "kite"
    assert await everything_is_found(engine)


async def test_a_failure_is_one_of_ours(engine: Engine) -> None:
    await anyio.to_thread.run_sync(engine.close)
    with pytest.raises(HybridSearchError):
        await search(engine, "whale")
    with pytest.raises(HybridSearchError):
        await engine.store(new("Too late.", "late"))
