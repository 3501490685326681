"""Looks for what could be wrong, and says what to do about it."""

import importlib.metadata
import os
import platform
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import anyio
from filelock import FileLock, Timeout
from pydantic import BaseModel

from mcp_hybrid_search import __version__, models
from mcp_hybrid_search.documents import NewDocument, SearchRequest
from mcp_hybrid_search.elsewhere import elsewhere, model_cache
from mcp_hybrid_search.errors import HybridSearchError
from mcp_hybrid_search.settings import PREFIX, Settings
from mcp_hybrid_search.stores.directory import owner

if TYPE_CHECKING:
    from mcp_hybrid_search.engine import Engine

PACKAGES = ("mcp", "fastembed", "onnxruntime", "qdrant-edge-py")
INSTALL = "python -m pip install --force-reinstall mcp-hybrid-search"


class Check(BaseModel):
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    next_step: str | None = None


def examine(settings: Settings) -> list[Check]:
    """Check everything; the user's data is only looked at."""
    return [
        *_versions(),
        *_model_files(models.model_set(settings), settings),
        *_data_directory(settings),
        _round_trip(settings),
    ]


def _versions() -> Iterator[Check]:
    yield Check(
        name="python", ok=True, detail=f"{platform.python_version()}, {sys.executable}"
    )
    yield Check(name="mcp-hybrid-search", ok=True, detail=__version__)
    yield from map(_package, PACKAGES)
    yield Check(name="sqlite", ok=True, detail=sqlite3.sqlite_version)


def _package(name: str) -> Check:
    try:
        return Check(name=name, ok=True, detail=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return _wrong(name, "is not installed", f"Install it again: {INSTALL}")


def _model_files(model_set: models.ModelSet, settings: Settings) -> Iterator[Check]:
    for spec in (model_set.dense, model_set.sparse, model_set.colbert):
        name = f"model {spec.name}"
        files = models.check_files(spec)
        wrong = [file for file in files if file.status != "ok"]
        for file in wrong:
            step = f"Repair it with: {models.REPAIR}"
            yield _wrong(name, f"{file.path} is {file.status}", step)
        if files and not wrong:
            told = f"{len(files)} files match their SHA-256, in {spec.directory}"
            yield Check(name=name, ok=True, detail=told)
        if not files:
            yield Check(name=name, ok=True, detail=_origin(spec, settings))


def _origin(spec: models.ModelSpec, settings: Settings) -> str:
    if spec.directory is not None:
        return f"{spec.directory}; its files have no checksums"
    if settings.models == "bundled":
        return "needs no files"
    return f"downloaded by FastEmbed to {model_cache(settings)}"


def _data_directory(settings: Settings) -> Iterator[Check]:
    root = settings.data_dir
    yield _space(settings)
    if root.is_symlink():
        step = f"Name the directory itself with {PREFIX}DATA_DIR."
        yield _wrong("data directory", f"{root} is a symbolic link", step)
    elif not root.exists():
        yield Check(
            name="data directory", ok=True, detail=f"{root}, made when first used"
        )
    elif not root.is_dir():
        step = f"Remove it, or name a directory with {PREFIX}DATA_DIR."
        yield _wrong("data directory", f"{root} is not a directory", step)
    else:
        yield Check(name="data directory", ok=True, detail=str(root))
        yield _permissions(root)
        yield _owner(root)


def _wrong(name: str, detail: str, next_step: str) -> Check:
    return Check(name=name, ok=False, detail=detail, next_step=next_step)


def _space(settings: Settings) -> Check:
    root = settings.data_dir
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    free, kept = shutil.disk_usage(existing).free, settings.min_free_bytes
    detail = f"{free / 1e6:,.0f} MB ({kept / 1e6:,.0f} MB are kept free)"
    if free < kept:
        step = f"Free space, or lower {PREFIX}MIN_FREE_BYTES; nothing is stored before."
        return _wrong("free space", detail, step)
    return Check(name="free space", ok=True, detail=detail)


def _permissions(root: Path) -> Check:
    mode = stat.S_IMODE(root.stat().st_mode)
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        step = f"Give this user read and write permission on {root}."
        return _wrong("permissions", f"{mode:04o}, not ours to write", step)
    # Windows has no such bits: a user's own directories are private there.
    if os.name == "posix" and mode & 0o077:
        return _wrong("permissions", f"{mode:04o}, open to others", f"chmod 700 {root}")
    return Check(name="permissions", ok=True, detail=f"{mode:04o}")


def _owner(root: Path) -> Check:
    lock = root / "lock"
    if not lock.exists():
        return Check(name="in use", ok=True, detail="no")
    try:
        with FileLock(lock, mode=0o600, timeout=0):
            return Check(name="in use", ok=True, detail="no")
    except Timeout:
        return Check(name="in use", ok=True, detail=f"by {owner(root)}")
    except OSError as exc:
        step = f"Give this user read and write permission on {lock}."
        return _wrong("in use", f"{lock} cannot be opened: {exc.strerror}", step)


def _round_trip(settings: Settings) -> Check:
    name = "store, search, delete"
    try:
        # On Windows an index may be open a moment longer than its engine.
        with TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            trial = elsewhere(settings, Path(directory) / "data")
            anyio.run(_tried, trial)
    except (HybridSearchError, ImportError, OSError) as exc:
        step = "Do what the line says, then run doctor again."
        if isinstance(exc, ImportError):
            step = f"Install it again: {INSTALL}"
        return _wrong(name, str(exc), step)
    return Check(name=name, ok=True, detail="works, in a temporary directory")


async def _tried(settings: Settings) -> None:
    from mcp_hybrid_search.engine import Engine  # noqa: PLC0415 - may not import

    engine = Engine(settings)
    try:
        await _use(engine, settings.collection, settings.namespace)
    finally:
        engine.close()


async def _use(engine: "Engine", collection: str, namespace: str) -> None:
    place = (collection, namespace)
    document = NewDocument("The kettle stands on the stove.", *place, "doctor")
    request = SearchRequest("Where is the kettle?", *place)
    await engine.store(document)
    found = (await engine.search(request)).hits
    await engine.delete(*place, "doctor")
    left = (await engine.search(request)).hits
    for right, problem in (
        ([hit.text for hit in found] == [document.text], "stored was not found"),
        (not left, "deleted was found"),
    ):
        if not right:
            msg = f"A document that was {problem}. Report it: it is a bug."
            raise HybridSearchError(msg)
