"""Where an engine listens, and whether who is there is this user.

The engine of a data directory listens on the Unix socket `engine.sock` in it. Where
that path is too long, or its disk knows no sockets, it listens in the user's runtime
directory, and the file `engine` in the data directory says where.
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

from typing_extensions import Self

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
    """A socket that clients of a data directory find; closed by `with`."""

    root: Path
    path: Path
    socket: socket.socket
    identity: tuple[int, int] | None
    """Of the socket's file: another one may take its place."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def is_found(self) -> bool:
        """Return whether clients still find this socket, and no other."""
        there = _identity(self.path) == self.identity
        return there and self.path in _candidates(self.root)

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
        try:
            _tell(root, path)
        except OSError as exc:
            listening.close()
            problems.append(f"{root / _ADDRESS}: {exc.strerror or exc}")
            continue
        return Listening(root, path, listening, _identity(path))
    msg = (
        f"The engine can listen nowhere ({'; '.join(problems)}). Use --in-process, or"
        " HYBRID_SEARCH_IN_PROCESS=true, to do without it."
    )
    raise StoreUnavailableError(msg)


def _candidates(root: Path) -> list[Path]:
    """Return where an engine may listen, for whoever looks for it."""
    here = _in_directory(root)
    try:
        told = (root / _ADDRESS).read_bytes()
    except OSError:
        return [here]
    path = Path(os.fsdecode(told))
    # A directory that came from elsewhere must not name some other program's socket.
    ours = path.name == _name(root) and path.is_absolute() and b"\0" not in told
    return [path, here] if ours else [here]


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a socket from one that took its place; None if gone."""
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
    return next((path for path in _candidates(root) if _answers(path)), None)


def _answers(path: Path) -> bool:
    with suppress(OSError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
                trial.settimeout(5)
                trial.connect(str(path))
                check_peer(trial)
                return True
    return False


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


def _in_directory(root: Path) -> Path:
    # One directory may have several names, and every client must find the same.
    return root.resolve() / _SOCKET


def _name(root: Path) -> str:
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16] + ".sock"


def _places(root: Path) -> list[Path]:
    own = f"mcp-hybrid-search-{os.geteuid()}"
    directories = (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir())
    places = [
        _in_directory(root),
        *(Path(each) / own / _name(root) for each in directories),
    ]
    # A relative path would name another place in every process.
    return [
        path
        for path in places
        if path.is_absolute() and len(os.fsencode(path)) <= PATH_BYTES
    ]


def _tell(root: Path, path: Path) -> None:
    """Write down where the socket is, unless that is where it is looked for."""
    # A directory that came from elsewhere must not lead to some other file.
    for name in (_ADDRESS, f"{_ADDRESS}.new"):
        with suppress(FileNotFoundError):
            (root / name).unlink()
    if path == _in_directory(root):
        return
    draft = root / f"{_ADDRESS}.new"
    with draft.open("xb") as file:
        file.write(os.fsencode(path))
    draft.replace(root / _ADDRESS)


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
