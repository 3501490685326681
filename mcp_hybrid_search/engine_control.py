"""Looks after an engine from outside: how it is, its end, its log. Blocks."""

import os
import re
import signal
from collections import deque
from contextlib import suppress

import httpx2
from filelock import FileLock, Timeout

from mcp_hybrid_search import engine_protocol as protocol
from mcp_hybrid_search import engine_socket
from mcp_hybrid_search.engine_starting import log_path
from mcp_hybrid_search.errors import StoreUnavailableError
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stores.directory import ENGINE, owner

ANSWER_SECONDS = 5.0
LEAVE_SECONDS = 15.0
"""How long an engine that is asked to leave may take before it is killed."""


def status(settings: Settings) -> protocol.EngineStatus | None:
    """Return how the engine is; None if none is running.

    Raises:
        StoreUnavailableError: If it does not answer, or is another user's.
    """
    try:
        answer = _asked(settings, "GET", "/status")
    except httpx2.TimeoutException:
        msg = (
            f"The engine of {settings.data_dir} does not answer. End it with:"
            " mcp-hybrid-search stop"
        )
        raise StoreUnavailableError(msg) from None
    return None if answer is None else protocol.STATUS.validate_json(answer)


def stop(settings: Settings) -> str:
    """End the engine; returns `stopped`, `killed` or `not running`.

    Raises:
        StoreUnavailableError: If another program has the directory.
    """
    if _is_free(settings, within_seconds=0):
        return "not running"
    if not owner(settings.data_dir).startswith(ENGINE):
        msg = (
            f"{settings.data_dir} is in use by {owner(settings.data_dir)}, which is no"
            " engine. Close that program."
        )
        raise StoreUnavailableError(msg)
    with suppress(httpx2.TimeoutException):
        _asked(settings, "POST", "/finish")
    if _is_free(settings, within_seconds=LEAVE_SECONDS):
        return "stopped"
    return _killed(settings)


def log_end(settings: Settings, lines: int) -> str:
    """Return the last lines of the engine's log.

    Raises:
        StoreUnavailableError: If there is none.
    """
    path = log_path(settings.data_dir)
    try:
        with path.open(encoding="utf-8", errors="replace") as log:
            return "".join(deque(log, lines))
    except FileNotFoundError:
        msg = f"There is no log at {path}: no engine was started there yet."
        raise StoreUnavailableError(msg) from None


def _asked(settings: Settings, method: str, path: str) -> bytes | None:
    """Return what the engine answers; None if none is running."""
    found = engine_socket.connected(settings.data_dir)
    if found is None:
        return None
    transport = httpx2.HTTPTransport(uds=str(found), verify=False)
    with httpx2.Client(
        transport=transport,
        base_url="http://engine",
        timeout=ANSWER_SECONDS,
        trust_env=False,
    ) as client:
        try:
            return client.request(method, path).content
        except httpx2.TimeoutException:
            raise
        except httpx2.TransportError:
            return None


def _is_free(settings: Settings, *, within_seconds: float) -> bool:
    lock = settings.data_dir / "lock"
    if not lock.exists():
        return True
    try:
        with FileLock(lock, mode=0o600, timeout=within_seconds):
            return True
    except Timeout:
        return False


def _killed(settings: Settings) -> str:
    """Kill the process that has the lock; only its holder writes the owner's file."""
    found = re.search(r"process (\d+)", owner(settings.data_dir))
    if found is not None:
        with suppress(ProcessLookupError):
            os.kill(int(found[1]), signal.SIGKILL)
    if not _is_free(settings, within_seconds=LEAVE_SECONDS):
        msg = f"{settings.data_dir} is still in use by {owner(settings.data_dir)}."
        raise StoreUnavailableError(msg)
    return "killed"
