"""A ledger of version 1 becomes one of version 2, whole or not at all."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from mcp_hybrid_search.documents import ListRequest, Origin
from mcp_hybrid_search.errors import StoreUnavailableError
from mcp_hybrid_search.stores import ledger_file
from mcp_hybrid_search.stores.ledger import Ledger
from tests.conftest import OpenEngine
from tests.recovery import everything_is_found, fill, new

pytestmark = pytest.mark.anyio

VERSION_1 = """
CREATE TABLE collections (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    folded_name TEXT NOT NULL UNIQUE,
    models TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    created_at REAL NOT NULL
) STRICT;
CREATE TABLE documents (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    collection_key INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE,
    namespace TEXT NOT NULL,
    document_id TEXT NOT NULL,
    title TEXT,
    source TEXT,
    metadata TEXT NOT NULL,
    content_hash BLOB NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    chunk_count INTEGER NOT NULL,
    indexed INTEGER NOT NULL DEFAULT 0,
    UNIQUE (collection_key, namespace, document_id)
) STRICT;
CREATE INDEX documents_not_indexed ON documents (collection_key) WHERE NOT indexed;
CREATE TABLE chunks (
    point_id INTEGER PRIMARY KEY AUTOINCREMENT,
    document_key INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    chunk_index INTEGER NOT NULL,
    start INTEGER NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (document_key, chunk_index)
) STRICT;
PRAGMA user_version = 1;
"""
"""As the first release made it."""

TABLES = ("collections", "documents", "chunks")


@pytest.fixture
def old(open_engine: OpenEngine, tmp_path: Path) -> Path:
    """A data directory that was filled, with its ledger as version 1 made it."""
    engine = open_engine()
    anyio.run(fill, engine)
    engine.close()
    path = tmp_path / "data" / "ledger.sqlite3"
    made = tmp_path / "version-1"
    with closing(sqlite3.connect(made)) as db:
        db.executescript(VERSION_1)
        db.execute("ATTACH ? AS new", (str(path),))
        for table in TABLES:
            db.execute(f"INSERT INTO {table} SELECT * FROM new.{table}")  # noqa: S608 - our own names
        db.execute("DELETE FROM sqlite_sequence")
        db.execute("INSERT INTO sqlite_sequence SELECT * FROM new.sqlite_sequence")
        db.execute("DELETE FROM sqlite_sequence WHERE name = 'audit'")
        db.commit()
        db.execute("PRAGMA journal_mode = WAL")
    made.replace(path)
    return path


def rows(path: Path) -> dict[str, list[object]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return {
            table: db.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - our own names
            for table in TABLES
        }


def version(path: Path) -> int:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        (found,) = db.execute("PRAGMA user_version").fetchone()
        return int(found)


def schema(path: Path) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as db:
        return set(db.execute("SELECT name, sql FROM sqlite_master"))


async def test_an_older_ledger_keeps_its_rows_and_gets_all_that_is_new(
    old: Path, open_engine: OpenEngine, tmp_path: Path
) -> None:
    before = rows(old)
    assert version(old) == 1

    engine = open_engine()

    assert await everything_is_found(engine)
    page = await engine.documents(ListRequest("documents", "default"))
    assert page.total == 3
    assert await engine.audit() == []
    await engine.store(new("Tea at four.", "tea"), origin=Origin("me", "a test"))
    assert [entry.document_id for entry in await engine.audit()] == ["tea"]
    assert await engine.delete("documents", "default", "tea")
    engine.close()
    assert version(old) == 2
    assert rows(old) == before
    Ledger(tmp_path / "fresh").close()
    assert schema(old) == schema(tmp_path / "fresh")


async def test_an_older_ledger_with_a_log_of_a_crash_keeps_what_is_in_the_log(
    old: Path, open_engine: OpenEngine
) -> None:
    """What a process that was killed leaves: committed, but in the log alone."""
    kept = old.with_name("kept")
    db = sqlite3.connect(old)
    db.execute("UPDATE documents SET title = 'in the log'")
    db.commit()
    shutil.copy(f"{old}-wal", kept)
    shutil.copy(old, old.with_name("alone"))
    db.close()
    old.with_name("alone").replace(old)
    kept.rename(f"{old}-wal")

    engine = open_engine()

    page = await engine.documents(ListRequest("documents", "default"))
    assert [document.title for document in page.documents] == ["in the log"] * 3
    engine.close()
    assert version(old) == 2


STATEMENTS = len(ledger_file._VERSION_2.split(";\n"))

KILLED = """
import os, signal, sqlite3, sys
from mcp_hybrid_search.stores import ledger_file

path, count = sys.argv[1], int(sys.argv[2])
steps = ledger_file._VERSION_2.split(";\\n")
real = sqlite3.connect

class Killed(sqlite3.Connection):
    def execute(self, sql, *rest):
        global count
        if sql in steps or sql == "COMMIT":
            if not count:
                os.kill(os.getpid(), signal.SIGKILL)
            count -= 1
        return super().execute(sql, *rest)

def connect(*given, **named):
    return real(*given, **named, factory=Killed)

sqlite3.connect = connect
from pathlib import Path
ledger_file.connect(Path(path))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
@pytest.mark.parametrize("statement", [0, 3, STATEMENTS])
def test_a_kill_in_the_middle_leaves_the_older_ledger_and_the_next_start_ends_it(
    old: Path, statement: int
) -> None:
    before = rows(old)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(old), str(statement)],
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert killed.returncode == -signal.SIGKILL
    assert version(old) == 1
    assert rows(old) == before

    Ledger(old).close()

    assert version(old) == 2
    assert rows(old) == before


def test_a_step_that_fails_changes_nothing_and_says_why(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(old)
    with monkeypatch.context() as patch:
        broken = (ledger_file._VERSION_1, f"{ledger_file._VERSION_2}NONSENSE;\n")
        patch.setattr(ledger_file, "_STEPS", broken)
        with pytest.raises(StoreUnavailableError, match="NONSENSE"):
            Ledger(old)
    assert version(old) == 1
    assert rows(old) == before
    Ledger(old).close()
    assert version(old) == 2
