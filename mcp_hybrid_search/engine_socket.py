"""Where an engine listens, and whether who is there is this user.

The engine of a data directory listens on a Unix socket in it; where that path is too
long, or its disk knows no sockets, in the user's runtime directory. Which of the two
is written in the file `engine` in the data directory.
"""

import hashlib
import os
import socket
import stat
import struct
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mcp_hybrid_search.errors import StoreUnavailableError

PATH_BYTES = 100
"""A socket's path may be 103 bytes long on macOS, 107 on Linux."""
BACKLOG = 128

_ADDRESS = "engine"
_SOCKET = "engine.sock"


def sockets_exist() -> bool:
    """Return whether this system, and its event loops, know Unix sockets."""
    return sys.platform != "win32" and hasattr(socket, "AF_UNIX")


@dataclass(frozen=True, slots=True)
class Listening:
    """A socket that clients of a data directory find."""

    root: Path
    path: Path
    socket: socket.socket
    identity: tuple[int, int]
    """Of the socket's file: another one may take its place."""

    def is_found(self) -> bool:
        """Return whether clients still find this socket, and no other."""
        return address(self.root) == self.path and _identity(self.path) == self.identity

    def retire(self) -> None:
        """Let clients look for another engine; what is another's stays."""
        if self.is_found():
            for path in (self.root / _ADDRESS, self.path):
                with suppress(OSError):
                    path.unlink()


def listen(root: Path) -> Listening:
    """Listen for the clients of a data directory, whose lock the caller holds.

    Raises:
        StoreUnavailableError: If no place can be found.
    """
    problems = []
    for path in _places(root):
        try:
            listening = _bound(path)
        except OSError as exc:
            problems.append(f"{path}: {exc.strerror or exc}")
            continue
        draft = root / f"{_ADDRESS}.new"
        draft.write_text(str(path), encoding="utf-8")
        draft.replace(root / _ADDRESS)
        return Listening(root, path, listening, _identity(path) or (0, 0))
    msg = (
        f"The engine can listen nowhere ({'; '.join(problems)}). Use --in-process, or"
        " HYBRID_SEARCH_IN_PROCESS=true, to do without it."
    )
    raise StoreUnavailableError(msg)


def address(root: Path) -> Path | None:
    """Return where the engine of a data directory says that it listens."""
    try:
        path = Path((root / _ADDRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    # A directory that came from elsewhere must not name some other program's socket.
    ours = path == root / _SOCKET or path.name == _name(root)
    return path if ours else None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def connected(root: Path) -> Path | None:
    """Return the socket of a data directory if somebody listens on it.

    Raises:
        StoreUnavailableError: If that is another user.
    """
    path = address(root)
    if path is None:
        return None
    with suppress(OSError):
        found = path.lstat()
        if not stat.S_ISSOCK(found.st_mode):
            return None
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
            trial.settimeout(5)
            trial.connect(str(path))
            check_peer(trial)
        return path
    return None


def check_peer(peer: socket.socket) -> None:
    """Refuse to talk to another user's process.

    Only Linux tells who it is; elsewhere the modes of socket and directory do.

    Raises:
        StoreUnavailableError: If it is another user's.
    """
    if not is_own(peer):
        msg = "The engine's socket belongs to another user; nothing was sent to it."
        raise StoreUnavailableError(msg)


def is_own(peer: socket.socket) -> bool:
    """Return whether the process at the other end belongs to this user."""
    if sys.platform != "linux":
        return True
    size = struct.calcsize("3i")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _pid, uid, _gid = struct.unpack("3i", credentials)
    return bool(uid == os.geteuid())


def _name(root: Path) -> str:
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16] + ".sock"


def _places(root: Path) -> list[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    own = f"mcp-hybrid-search-{os.geteuid()}"
    places = [
        root / _SOCKET,
        *([Path(runtime) / own / _name(root)] if runtime else []),
        Path(tempfile.gettempdir()) / own / _name(root),
    ]
    return [path for path in places if len(os.fsencode(path)) <= PATH_BYTES]


def _bound(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    parent = path.parent.lstat()
    if parent.st_uid != os.geteuid() or stat.S_ISLNK(parent.st_mode):
        raise PermissionError(0, "its directory belongs to another user")
    # The lock is ours, so whatever is there is left over.
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
