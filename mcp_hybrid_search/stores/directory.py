"""The data directory: one process at a time has it, and its disk is watched."""

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from filelock import FileLock, Timeout

from mcp_hybrid_search.errors import StoreUnavailableError

FULL_BYTES = 4 * 1024 * 1024
"""Free space below which an index is not opened or changed. Edge maps its files: a
full disk would kill the process (SIGBUS)."""


ENGINE = "the engine"
"""How an owner begins whom other programs can share."""


class DirectoryInUseError(StoreUnavailableError):
    """Another process has the directory."""


class DataDirectory:
    """A directory that this process has to itself until it is released."""

    def __init__(
        self,
        root: Path,
        *,
        min_free_bytes: int,
        wait_seconds: float = 0,
        shared: bool = False,
    ) -> None:
        """Create the directory and take its lock.

        Args:
            root: Absolute path.
            min_free_bytes: See `check_writable`.
            wait_seconds: How long to wait for a process that has it.
            shared: Whether other programs can use it through this process.

        Raises:
            DirectoryInUseError: If another process has it, naming that process.
            StoreUnavailableError: If it cannot be used.
        """
        self.root = root
        self._min_free_bytes = min_free_bytes
        if root.is_symlink() or (root / "lock").is_symlink():
            msg = f"{root} or its lock is a symbolic link. Name the directory itself."
            raise StoreUnavailableError(msg)
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_user(root)
            # One thread opens the store, another one closes it.
            self._lock = FileLock(root / "lock", mode=0o600, thread_local=False)
            self._lock.acquire(timeout=wait_seconds, poll_interval=0.02)
            self._identity = _identity(root / "lock")
        except Timeout:
            raise DirectoryInUseError(_in_use(root)) from None
        except OSError as exc:
            msg = f"{root} cannot be used as data directory: {exc.strerror}."
            raise StoreUnavailableError(msg) from exc
        who = (
            f"{ENGINE} (process {os.getpid()})" if shared else f"process {os.getpid()}"
        )
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        # A full disk must not keep anyone from searching.
        with suppress(OSError), _own_file(root / "owner") as file:
            file.write(f"{who}, since {started}")

    def release(self) -> None:
        """Give the directory back."""
        self._lock.release()

    def check_same(self) -> None:
        """Refuse to go on in a directory that is not there any more.

        Raises:
            StoreUnavailableError: If it was removed, moved or replaced.
        """
        try:
            same = _identity(self.root / "lock") == self._identity
        except OSError:
            same = False
        if not same:
            msg = (
                f"{self.root} was removed or replaced while it was in use; nothing was"
                " done. Call again to use what is there now; if that does not help,"
                " restart this program."
            )
            raise StoreUnavailableError(msg)

    def index_path(self, key: int) -> Path:
        """Return where the index of a collection is, by the collection's key."""
        return self.root / "index" / str(key)

    def is_full(self) -> bool:
        """Return whether an index cannot be opened or changed without danger."""
        return self._free_bytes() < FULL_BYTES

    def has_free(self, size_bytes: int) -> bool:
        """Return whether there is space for so much, beyond what is kept free."""
        return self._free_bytes() >= self._min_free_bytes + size_bytes

    def check_writable(self) -> None:
        """Refuse to store anything while space is short.

        Raises:
            StoreUnavailableError: Naming the free space, or the permission.
        """
        self.check_same()
        free = self._free_bytes()
        if free < self._min_free_bytes:
            msg = (
                f"The disk that holds {self.root} has {free / 1e6:,.0f} MB free; at"
                f" least {self._min_free_bytes / 1e6:,.0f} MB are kept free"
                " (HYBRID_SEARCH_MIN_FREE_BYTES). Nothing was stored. Free space, then"
                " retry; searching goes on."
            )
            raise StoreUnavailableError(msg)
        if not os.access(self.root, os.W_OK):
            msg = f"{self.root} cannot be written. Give this user write permission."
            raise StoreUnavailableError(msg)

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self.root).free
        except OSError as exc:
            msg = f"{self.root} cannot be used: {exc.strerror}."
            raise StoreUnavailableError(msg) from exc


def _own_file(path: Path) -> TextIO:
    """Open a file for writing, but not what a link in its place leads to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8")


def _in_use(root: Path) -> str:
    who = owner(root)
    if who.startswith(ENGINE):
        return (
            f"{root} is in use by {who}. Leave out --in-process to share it, or end it"
            " with: mcp-hybrid-search stop"
        )
    return (
        f"{root} is in use by {who}. Close that program, or give this one a directory"
        " of its own with HYBRID_SEARCH_DATA_DIR."
    )


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _check_user(root: Path) -> None:
    # What one user writes into another's directory, that one cannot read.
    if sys.platform != "win32" and root.stat().st_uid != os.geteuid():
        msg = (
            f"{root} belongs to another user (uid {root.stat().st_uid}; this program"
            f" runs as {os.geteuid()}). Run it as that user, or name a directory of"
            " your own with HYBRID_SEARCH_DATA_DIR."
        )
        raise StoreUnavailableError(msg)


def owner(root: Path) -> str:
    """Name the process that has, or last had, a directory."""
    try:
        return (root / "owner").read_text()
    except OSError:
        return "another process"
