"""Starts the engine of a data directory, unless somebody has. Blocks.

The only module that starts a process.
"""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mcp_hybrid_search import engine_socket
from mcp_hybrid_search.engine_protocol import READY, TAKEN
from mcp_hybrid_search.errors import StoreUnavailableError
from mcp_hybrid_search.settings import PREFIX, Settings

START_SECONDS = 60.0
TRIES = 5
"""Engines that may end while they start, before it is given up."""
LOG_BYTES = 1_000_000
"""A log that is larger is put aside, in place of the one before."""
_APPEND = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW


def log_path(root: Path) -> Path:
    """Return where the engine of a data directory logs."""
    return root / "engine.log"


def running(settings: Settings) -> Path:
    """Return the socket of the engine, which is started if need be.

    Raises:
        StoreUnavailableError: If it cannot be started.
    """
    root = settings.data_dir
    told = ""
    for _ in range(TRIES):
        path = engine_socket.connected(root)
        if path is not None:
            return path
        told = _started(settings)
        # One that says nothing was killed while it started; the next one may live.
        if told not in {READY, TAKEN, ""}:
            raise StoreUnavailableError(told)
    ended = "cannot be reached" if told else "ends while it starts"
    msg = f"The engine of {root} {ended}. Its log: `mcp-hybrid-search logs`."
    raise StoreUnavailableError(msg)


def _started(settings: Settings) -> str:
    root = settings.data_dir
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        return f"{root} cannot be used as data directory: {exc.strerror or exc}."
    with _one_at_a_time(root):
        # Somebody else may have been quicker.
        if engine_socket.connected(root) is not None:
            return READY
        return _spawned(settings)


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Keep others from starting one more; it would only find the lock taken."""
    lock = FileLock(root / "starting", mode=0o600)
    # If whoever has it is stuck, or the disk is full, the engine's own lock still
    # leaves one engine.
    with suppress(Timeout, OSError):
        lock.acquire(timeout=START_SECONDS / 2, poll_interval=0.02)
    try:
        yield
    finally:
        lock.release()


def _spawned(settings: Settings) -> str:
    """Start an engine; returns what it tells, or nothing if it ends before that."""
    reading, writing = os.pipe()
    log = _opened_log(log_path(settings.data_dir))
    try:
        subprocess.Popen(  # noqa: S603 - our own module, with our own interpreter
            [sys.executable, "-m", f"{__package__}.engine_process", str(writing)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(settings),
            # A client may run anywhere, beside files that are named like modules.
            cwd=Path(__file__).parents[1],
            pass_fds=[writing],
            start_new_session=True,
        ).wait()
    finally:
        os.close(log)
        os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as report:
        said, _, _ = select.select([report], [], [], START_SECONDS)
        if not said:
            return (
                f"The engine of {settings.data_dir} said nothing for"
                f" {START_SECONDS:.0f} s while it started. Stop it with"
                " `mcp-hybrid-search stop`, then retry."
            )
        return report.read()


def _opened_log(path: Path) -> int:
    """Return a descriptor of the log; on a disk that takes none, of nothing."""
    try:
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return os.open(path, _APPEND, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def _environment(settings: Settings) -> dict[str, str]:
    others = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    return {**others, **settings.environment()}
