"""A configuration file: read as it is, shown as a diff, written at once."""

import difflib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from mcp_hybrid_search.errors import (
    ConflictError,
    HybridSearchError,
    InvalidInputError,
    StoreUnavailableError,
)
from mcp_hybrid_search.settings import PREFIX, secret_variables

_BOM = b"\xef\xbb\xbf"

_OURS = "|".join(map(re.escape, sorted(secret_variables())))
_SECRET = re.compile(
    rf'("(?:{_OURS}|(?!{PREFIX})[^"]*(?:token|key|secret|password|auth)[^"]*)"\s*:\s*)'
    r'"(?:[^"\\]|\\.)*"',
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Change:
    """A file before and after; the same if there is nothing to do."""

    path: Path
    before: bytes | None
    """None if there is no such file yet."""
    after: bytes

    @property
    def text(self) -> str:
        """Return what the file holds now, without a byte order mark."""
        return (self.before or b"").removeprefix(_BOM).decode()

    def to(self, text: str) -> "Change":
        """Return the change that makes this the text."""
        mark = _BOM if (self.before or b"").startswith(_BOM) else b""
        return replace(self, after=mark + text.encode())

    @property
    def needed(self) -> bool:
        """Whether anything is to be written."""
        return (self.before or b"") != self.after

    def diff(self) -> str:
        """Return a unified diff that shows no keys and tokens."""
        before, after = (
            _SECRET.sub(r'\1"********"', data.decode(errors="replace")).splitlines()
            for data in (self.before or b"", self.after)
        )
        old = "nothing" if self.before is None else str(self.path)
        lines = difflib.unified_diff(
            before, after, old, str(self.path), n=1, lineterm=""
        )
        return "\n".join(lines)


@contextmanager
def opened(path: Path) -> Iterator[Change]:
    """Read a file that may not be there; errors inside begin with its name.

    Raises:
        HybridSearchError: If it cannot be read or is not UTF-8.
    """
    # Where a link leads is written; the link stays.
    path = path.resolve()
    try:
        before = _bytes(path)
        yield Change(path, before, before or b"")
    except OSError as exc:
        msg = f"{path} cannot be read: {exc.strerror or exc}."
        raise StoreUnavailableError(msg) from exc
    except UnicodeDecodeError as exc:
        msg = f"{path} is not UTF-8 at byte {exc.start}."
        raise InvalidInputError(msg) from None
    except HybridSearchError as exc:
        msg = f"{path} {exc}"
        raise type(exc)(msg) from None


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def write(change: Change, *, now: datetime) -> Path | None:
    """Write a change at once, and return where the old file is kept.

    Raises:
        ConflictError: If the file was changed since it was read.
        StoreUnavailableError: If it cannot be written; nothing is changed then.
    """
    temporary = None
    try:
        change.path.parent.mkdir(parents=True, exist_ok=True)
        mode = None if change.before is None else change.path.stat().st_mode & 0o777
        handle, temporary = tempfile.mkstemp(
            dir=change.path.parent, prefix=f".{change.path.name}."
        )
        _fill(handle, change.after)
        if mode is not None:
            Path(temporary).chmod(mode)
        backup = _backed_up(change, now)
        if _bytes(change.path) != change.before:
            msg = f"{change.path} was changed meanwhile. Run the command again."
            raise ConflictError(msg)
        Path(temporary).replace(change.path)
    except OSError as exc:
        msg = f"{change.path} cannot be written: {exc.strerror or exc}."
        raise StoreUnavailableError(msg) from exc
    finally:
        if temporary is not None:
            with suppress(FileNotFoundError):
                Path(temporary).unlink()
    return backup


def _backed_up(change: Change, now: datetime) -> Path | None:
    if change.before is None:
        return None
    name = f"{change.path.name}.backup-{now:%Y%m%d-%H%M%S}"
    mode = change.path.stat().st_mode & 0o777
    for number in range(1, 1000):
        backup = change.path.with_name(name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            # Never over another one.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            _fill(os.open(backup, flags, mode), change.before)
            return backup
    msg = f"{change.path.parent} holds too many backups of this second."
    raise StoreUnavailableError(msg)


def _fill(handle: int, data: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
