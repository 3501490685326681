"""The command `mcp-hybrid-search`: without arguments, the stdio server.

Commands live in `commands`, imported only when one is named: an assistant waits
for `initialize`, and needs none of what they import.
"""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from mcp_hybrid_search.errors import HybridSearchError
from mcp_hybrid_search.logs import log_to_stderr
from mcp_hybrid_search.settings import Settings, load_settings

IN_PROCESS = "--in-process"


def main() -> None:
    """Run the server, or the command that the arguments name."""
    # Before NumPy is imported: its threads spin on the cores that the encoders use,
    # and pooling a chunk's tokens takes three times as long.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Whatever is written belongs to this user alone.
    os.umask(0o077)
    if sys.argv[1:] not in ([], [IN_PROCESS]):
        from mcp_hybrid_search.commands import app  # noqa: PLC0415 - slow

        app()
        return
    try:
        _serve()
    except HybridSearchError as exc:
        sys.exit(f"mcp-hybrid-search: {exc}")


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(0)


def _serve() -> None:
    settings = load_settings(**{"in_process": True} if sys.argv[1:] else {})
    log_to_stderr(settings.log_level)
    serve_stdio(settings)


def serve_stdio(settings: Settings) -> None:
    """Serve MCP on standard input and output until the client, or a signal, ends it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until the transport takes over there is nothing to bring to an end.
        signal.signal(number, _leave)

    # A typo in a setting is told before the second that the rest takes.
    import anyio  # noqa: PLC0415

    from mcp_hybrid_search.opening import opener  # noqa: PLC0415
    from mcp_hybrid_search.server import create_server  # noqa: PLC0415
    from mcp_hybrid_search.stdio import serve  # noqa: PLC0415

    opening = opener(settings)

    async def serve_and_close() -> None:
        try:
            server = create_server(opening, settings)
            await serve(server, max_line_bytes=settings.max_line_bytes)
        finally:
            await opening.aclose()

    anyio.run(serve_and_close)


if __name__ == "__main__":
    main()
