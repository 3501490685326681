"""The engine as a process of its own, shared by every client of a data directory.

`python -m mcp_hybrid_search.engine_process FD` detaches itself, takes the directory's
lock, listens, and then writes one line to the descriptor FD: `ready`, `taken` if
another engine has the directory, or why it could not start. It leaves when its last
client has been gone for a while, when it is asked to, or when its directory or its
socket has gone.
"""

import faulthandler
import logging
import os
import signal
import sys
from contextlib import suppress

from mcp_hybrid_search.errors import HybridSearchError
from mcp_hybrid_search.logs import log_to_stderr
from mcp_hybrid_search.settings import Settings, load_settings

TAKEOVER_SECONDS = 30.0
"""How long a new engine waits for one that is leaving."""
DRAIN_SECONDS = 10
"""How long calls in flight may take when the engine is asked to leave."""

log = logging.getLogger("mcp_hybrid_search.engine_process")


def main() -> None:
    """Be the engine of the data directory that the settings name."""
    report = _Report(int(sys.argv[1]))
    _detach()
    try:
        settings = load_settings()
        _run(settings, report)
    except HybridSearchError as exc:
        report.tell(str(exc))
        sys.exit(1)


class _Report:
    """The pipe to whoever started this process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def tell(self, line: str) -> None:
        """Write one line and close; who started us may have gone."""
        with suppress(OSError):
            os.write(self._descriptor, line.encode())
        with suppress(OSError):
            os.close(self._descriptor)


def _detach() -> None:
    """Become nobody's child, so that what ends a client does not end the engine."""
    if os.fork():
        os._exit(0)
    # Before NumPy is imported; see `cli`.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.umask(0o077)
    os.chdir("/")
    # Until the server takes over there is nothing to bring to an end; after it,
    # only its clean-up, which ends by itself.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    faulthandler.enable()


def _run(settings: Settings, report: _Report) -> None:
    log_to_stderr(
        settings.log_level,
        form="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("mcp_hybrid_search").setLevel(logging.INFO)
    # Detached first: a thread that an import starts would not survive it.
    from mcp_hybrid_search import engine_socket  # noqa: PLC0415
    from mcp_hybrid_search.engine_protocol import READY, TAKEN  # noqa: PLC0415
    from mcp_hybrid_search.stores.directory import (  # noqa: PLC0415
        ENGINE,
        DataDirectory,
        DirectoryInUseError,
        owner,
    )

    def lock(wait_seconds: float) -> DataDirectory:
        return DataDirectory(
            settings.data_dir,
            min_free_bytes=settings.min_free_bytes,
            wait_seconds=wait_seconds,
            shared=True,
        )

    try:
        directory = lock(0)
    except DirectoryInUseError:
        if engine_socket.connected(settings.data_dir) is not None:
            report.tell(TAKEN)
            return
        if not owner(settings.data_dir).startswith(ENGINE):
            raise
        # It is about to leave, or its end is not over yet.
        directory = lock(TAKEOVER_SECONDS)
    try:
        listening = engine_socket.listen(directory.root)
        log.info("The engine of %s has started.", directory.root)
        report.tell(READY)
        from mcp_hybrid_search.engine_server import serve  # noqa: PLC0415

        serve(settings, directory, listening, drain_seconds=DRAIN_SECONDS)
        log.info("The engine of %s has left.", directory.root)
    finally:
        directory.release()


if __name__ == "__main__":
    main()
