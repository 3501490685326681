"""The ledger's file: made whole, checked before it is trusted. The door to SQLite."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mcp_hybrid_search.errors import HybridSearchError, StoreUnavailableError

Connection = sqlite3.Connection

SCHEMA_VERSION = 2

_VERSION_1 = """
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
"""

_VERSION_2 = """
CREATE INDEX documents_payload_not_indexed ON documents (collection_key)
    WHERE indexed = 2;
CREATE INDEX documents_created
    ON documents (collection_key, namespace, created_at, document_id);
CREATE INDEX documents_updated
    ON documents (collection_key, namespace, updated_at, document_id);
CREATE INDEX documents_titles
    ON documents (collection_key, namespace, title, document_id);
CREATE TABLE audit (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    client TEXT NOT NULL,
    tool TEXT NOT NULL,
    call TEXT NOT NULL,
    action TEXT NOT NULL,
    collection TEXT NOT NULL,
    namespace TEXT NOT NULL,
    document_id TEXT NOT NULL
) STRICT;
CREATE INDEX audit_calls ON audit (call) WHERE call <> '';
CREATE INDEX audit_namespaces ON audit (namespace);
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit can only grow'); END;
CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit can only grow'); END;
CREATE TRIGGER audit_is_never_replaced BEFORE INSERT ON audit
    WHEN EXISTS (SELECT 1 FROM audit WHERE key = NEW.key)
    BEGIN SELECT RAISE(ABORT, 'the audit can only grow'); END;
"""

_STEPS = (_VERSION_1, _VERSION_2)
"""What makes each version of the one before it; the first makes an empty file one."""


def connect(path: Path) -> sqlite3.Connection:
    """Open or create the ledger; one of an older version becomes one of this.

    Raises:
        sqlite3.Error: If the file is damaged or cannot be opened.
        StoreUnavailableError: If it is of a version that is not known.
    """
    if path.exists():
        _check(path)
    else:
        _create(path)
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # FULL syncs the log at every commit: what is acknowledged is on the disk.
        for pragma in (
            "trusted_schema = OFF",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            db.execute(f"PRAGMA {pragma}")
        _migrate(db)
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection) -> None:
    """Bring the file to this version in one transaction, if it is older."""
    if _version(db) == SCHEMA_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        _apply_steps(db)
        db.execute("COMMIT")
    except BaseException:
        # A full disk makes SQLite roll back by itself.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _apply_steps(db: sqlite3.Connection) -> None:
    for step in _STEPS[_version(db) :]:
        for statement in step.split(";\n"):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _version(db: sqlite3.Connection) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def _create(path: Path) -> None:
    """Make the file whole or not at all: an empty one is always a damaged one."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        msg = "not a database: it is gone, and its -wal file is not"
        raise sqlite3.DatabaseError(msg)
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with closing(sqlite3.connect(draft, isolation_level=None)) as db:
        db.execute("BEGIN")
        _apply_steps(db)
        db.execute("COMMIT")
    draft.rename(path)


def _check(path: Path) -> None:
    """Refuse a damaged file, or one of another version, as it is."""
    if not path.stat().st_size:
        # SQLite would take it for a new one, and delete its log.
        msg = "not a database: it is empty"
        raise sqlite3.DatabaseError(msg)
    # A connection that may write moves the log into the file when it closes.
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as db:
        db.execute("PRAGMA trusted_schema = OFF")
        version = _version(db)
        if version == 0:
            msg = "not a database of this program"
            raise sqlite3.DatabaseError(msg)
        if not 0 < version <= SCHEMA_VERSION:
            msg = (
                f"The ledger {path} has version {version}; this program reads"
                f" versions up to {SCHEMA_VERSION}. Use the program that wrote it, or"
                " name another directory in HYBRID_SEARCH_DATA_DIR."
            )
            raise StoreUnavailableError(msg)
        (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state)


@contextmanager
def ledger_errors(path: Path) -> Iterator[None]:
    """Let SQLite's failures arrive as ours, with what to do about them."""
    try:
        yield
    except HybridSearchError:
        raise
    except sqlite3.Error as exc:
        raise StoreUnavailableError(_explained(exc, path)) from exc


def _explained(error: sqlite3.Error, path: Path) -> str:
    text = " ".join(str(error).split())
    if "full" in text:
        return f"The disk that holds {path.parent} is full. Free space, then retry."
    if "readonly" in text or "unable to open" in text:
        return (
            f"{path.parent} cannot be written. Give this user write permission, or"
            " name another directory in HYBRID_SEARCH_DATA_DIR."
        )
    if "malformed" in text or "not a database" in text or "Page " in text:
        return (
            f"The ledger {path} is damaged ({text}). Nothing was changed. Put back a"
            " copy of it, or save what can be read with"
            f" `sqlite3 {path.name} .recover`, or move it and {path.name}-wal away to"
            " start empty."
        )
    return f"The ledger {path} failed: {text}."
