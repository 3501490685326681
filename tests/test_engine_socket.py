"""Clients find the engine's socket, and nobody else's."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mcp_hybrid_search import engine_socket
from mcp_hybrid_search.engine_socket import connected, listen
from mcp_hybrid_search.errors import StoreUnavailableError

pytestmark = pytest.mark.skipif(
    not engine_socket.sockets_exist(), reason="this system knows no Unix sockets"
)
linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells whose a socket is"
)

OWN = f"mcp-hybrid-search-{os.geteuid()}" if sys.platform != "win32" else ""


@pytest.fixture
def short() -> Iterator[Path]:
    """Make a directory whose sockets' paths are short enough."""
    with tempfile.TemporaryDirectory(prefix="s") as directory:
        yield Path(directory).resolve()


@pytest.fixture
def root(short: Path) -> Path:
    root = short / "data"
    root.mkdir(mode=0o700)
    return root


@pytest.fixture
def deep(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a data directory whose path is too long for a socket."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(short / "tmp"))
    deep = short / ("d" * engine_socket.PATH_BYTES)
    deep.mkdir(mode=0o700)
    return deep


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def bound(path: Path) -> socket.socket:
    """Listen at a path as some other program would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen()
    return listening


def test_a_client_finds_who_listens_in_the_directory(root: Path) -> None:
    with listen(root) as listening:
        assert connected(root) == listening.path == root / "engine.sock"
        assert mode(root / "engine.sock") == 0o600
    assert connected(root) is None


def test_nobody_is_there_before_the_first_engine(root: Path) -> None:
    assert connected(root) is None
    assert connected(root / "missing") is None


def test_a_socket_that_an_engine_left_behind_is_replaced(root: Path) -> None:
    listen(root).socket.close()
    assert (root / "engine.sock").is_socket()
    with listen(root):
        assert connected(root) == root / "engine.sock"


def test_an_engine_that_retires_is_not_found_though_it_listens(root: Path) -> None:
    with listen(root) as listening:
        listening.retire()
        assert connected(root) is None
        listening.retire()
    assert list(root.iterdir()) == []


def test_every_name_of_a_directory_leads_to_its_engine(root: Path) -> None:
    (root.parent / "link").symlink_to(root.parent)
    other = root.parent / "link" / root.name
    with listen(other):
        assert connected(root) == connected(other) == root / "engine.sock"
    with listen(root):
        assert connected(other) == root / "engine.sock"


def test_a_directory_whose_name_is_no_text_has_an_engine(short: Path) -> None:
    root = short / os.fsdecode(b"\xff")
    try:
        root.mkdir()
    except OSError:
        pytest.skip("this file system has only names that are text")
    with listen(root):
        assert connected(root) == root / "engine.sock"


@pytest.mark.parametrize("runtime", ["", "run", "elsewhere"])
def test_where_the_path_is_too_long_the_runtime_directory_is_used(
    deep: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep.parent / runtime))
    with listen(deep) as listening:
        path = listening.path
        assert path.parent == deep.parent / (runtime or "tmp") / OWN
        assert mode(path) == 0o600
        assert mode(path.parent) == 0o700
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep.parent / "another"))
        assert connected(deep) == path


def test_two_directories_with_long_paths_have_two_sockets(deep: Path) -> None:
    other = deep.with_name("o" * engine_socket.PATH_BYTES)
    other.mkdir()
    with listen(deep) as first, listen(other) as second:
        assert first.path != second.path
        assert (connected(deep), connected(other)) == (first.path, second.path)


def test_a_runtime_directory_that_is_relative_is_not_used(
    deep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(deep.parent)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    with listen(deep) as listening:
        path = listening.path
    assert path.parent == deep.parent / "tmp" / OWN


@pytest.mark.parametrize("kind", ["symlink", "file", "foreign"])
def test_a_runtime_directory_that_is_not_ours_is_passed_over(
    deep: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, target = deep.parent / "run", deep.parent / "target"
    target.mkdir()
    runtime.mkdir()
    if kind == "symlink":
        (runtime / OWN).symlink_to(target)
    elif kind == "file":
        (runtime / OWN).touch()
    else:
        (runtime / OWN).mkdir()
        belongs_to_another(runtime / OWN, monkeypatch)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with listen(deep) as listening:
        path = listening.path
    assert path.parent == deep.parent / "tmp" / OWN
    assert list(target.iterdir()) == []


def belongs_to_another(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a directory look as if another user had made it."""
    real = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        found = real(path)
        if path != directory:
            return found
        return os.stat_result((*found[:4], found.st_uid + 1, *found[5:10]))

    monkeypatch.setattr(Path, "lstat", lstat)


def test_a_disk_that_knows_no_sockets_is_passed_over(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.chmod

    def chmod(path: Path, mode: int) -> None:
        if path.parent == root:
            raise OSError(95, "Operation not supported")
        real(path, mode)

    monkeypatch.setattr(Path, "chmod", chmod)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(root.parent / "run"))
    with listen(root):
        path = connected(root)
    assert path is not None
    assert path.parent == root.parent / "run" / OWN


def test_with_nowhere_to_listen_the_way_out_is_told(deep: Path) -> None:
    (deep.parent / "tmp").mkdir()
    (deep.parent / "tmp" / OWN).symlink_to(deep)
    with pytest.raises(StoreUnavailableError, match="--in-process") as caught:
        listen(deep)
    assert f"{deep.parent / 'tmp' / OWN}" in str(caught.value)
    assert list(deep.iterdir()) == []


def test_a_listener_that_cannot_be_told_of_is_given_up(deep: Path) -> None:
    (deep / "engine").mkdir()
    with pytest.raises(StoreUnavailableError, match=r"engine: .*--in-process"):
        listen(deep)


@pytest.mark.parametrize("long", [False, True])
def test_telling_where_we_listen_writes_through_no_link(
    root: Path, deep: Path, *, long: bool
) -> None:
    precious = root.parent / "precious"
    precious.write_text("mine")
    directory = deep if long else root
    (directory / "engine.new").symlink_to(precious)
    (directory / "engine").symlink_to(precious)
    with listen(directory) as listening:
        assert connected(directory) == listening.path
    assert precious.read_text() == "mine"


def test_what_an_earlier_engine_told_does_not_hide_a_later_one(
    deep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(deep).socket.close()
    monkeypatch.setattr(engine_socket, "PATH_BYTES", 107)
    here = bound(deep.parent / "s")
    monkeypatch.setattr(engine_socket, "_in_directory", lambda _: deep.parent / "s")
    with here:
        assert connected(deep) == deep.parent / "s"


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"garbage",
        b"\xff\xfe\x00",
        b"engine.sock",
        b"/dev/null",
        b"{short}/other.sock",
        b"{short}/other/engine.sock",
        b"{short}/\x00/{name}",
        b"{name}",
        b"{short}/missing/{name}",
        b"{short}/" + b"x" * 200 + b"/{name}",
    ],
)
def test_a_file_that_names_no_socket_of_ours_is_not_followed(
    root: Path, told: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    name = engine_socket._name(root)
    told = told.replace(b"{short}", os.fsencode(root.parent))
    (root / "engine").write_bytes(told.replace(b"{name}", name.encode()))
    with ExitStack() as listeners:
        for path in ("engine.sock", "other.sock", "other/engine.sock", name):
            listeners.enter_context(bound(root.parent / path))
        assert connected(root) is None


@pytest.mark.parametrize("kind", ["file", "symlink", "directory"])
def test_what_is_no_socket_is_not_connected_to(root: Path, kind: str) -> None:
    listen(root).socket.close()
    path = root / "engine.sock"
    path.unlink()
    with bound(root.parent / "other.sock"):
        if kind == "symlink":
            path.symlink_to(root.parent / "other.sock")
        elif kind == "file":
            path.touch()
        else:
            path.mkdir()
        assert connected(root) is None


def test_a_socket_that_took_the_place_of_another_is_another(root: Path) -> None:
    with listen(root) as first:
        assert first.is_found()
        first.path.rename(root / "aside")
        assert not first.is_found()
        with listen(root) as second:
            assert (first.is_found(), second.is_found()) == (False, True)
            first.retire()
            assert connected(root) == second.path


def test_a_listener_that_is_told_of_no_more_is_not_found(deep: Path) -> None:
    with listen(deep) as listening:
        assert listening.is_found()
        (deep / "engine").unlink()
        assert not listening.is_found()


@linux_only
def test_a_socket_of_another_user_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listen(root):
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(StoreUnavailableError, match="another user"):
            connected(root)


@linux_only
@pytest.mark.skipif(OWN != "mcp-hybrid-search-0", reason="only root is another user")
def test_a_process_of_another_user_that_listens_is_refused(root: Path) -> None:
    """The system tells who called `listen`, not whose the file is."""
    script = (
        "import os, socket, sys; os.setuid(65534);"
        "s = socket.socket(fileno=int(sys.argv[1])); s.listen();"
        "print('listening', flush=True); sys.stdin.read()"
    )
    with (
        listen(root) as listening,
        subprocess.Popen(
            [sys.executable, "-c", script, str(listening.socket.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[listening.socket.fileno()],
        ) as process,
    ):
        assert process.stdout
        assert process.stdout.readline() == b"listening\n"
        with pytest.raises(StoreUnavailableError, match="another user"):
            connected(root)


def test_both_ends_know_their_own_user(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair()
    with one, other:
        assert engine_socket.is_own(one)
        assert engine_socket.is_own(other)
        # Where the system does not tell, the modes of the files keep others out.
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert engine_socket.is_own(one)
