"""The data directory: one process at a time has it, and its disk is watched."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mcp_hybrid_search.errors import StoreUnavailableError

FULL_BYTES = 4 * 1024 * 1024
"""Free space below which an index is not opened or changed. Edge maps its files: a
full disk would kill the process (SIGBUS)."""


class DataDirectory:
    """A directory that this process has to itself until it is released."""

    def __init__(self, root: Path, *, min_free_bytes: int) -> None:
        """Create the directory and take its lock.

        Raises:
            StoreUnavailableError: If another process has it, naming that process,
                or it cannot be used.
        """
        self.root = root
        self._min_free_bytes = min_free_bytes
        if root.is_symlink() or (root / "lock").is_symlink():
            msg = f"{root} or its lock is a symbolic link. Name the directory itself."
            raise StoreUnavailableError(msg)
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            # One thread opens the store, another one closes it.
            self._lock = FileLock(root / "lock", mode=0o600, thread_local=False)
            self._lock.acquire(timeout=0)
        except Timeout:
            msg = (
                f"{root} is in use by {owner(root)}. Close that program, or give this"
                " one a directory of its own with HYBRID_SEARCH_DATA_DIR."
            )
            raise StoreUnavailableError(msg) from None
        except OSError as exc:
            msg = f"{root} cannot be used as data directory: {exc.strerror}."
            raise StoreUnavailableError(msg) from exc
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        # A full disk must not keep anyone from searching.
        with suppress(OSError):
            (root / "owner").write_text(f"process {os.getpid()}, since {started}")

    def release(self) -> None:
        """Give the directory back."""
        self._lock.release()

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


def owner(root: Path) -> str:
    """Name the process that has, or last had, a directory."""
    try:
        return (root / "owner").read_text()
    except OSError:
        return "another process"
