"""The command `mcp-hybrid-search`: without arguments, the stdio server.

Commands live in `commands`, imported only when one is named: an assistant waits
for `initialize`, and needs none of what they import.
"""

import logging
import os
import sys

from mcp_hybrid_search.errors import HybridSearchError
from mcp_hybrid_search.settings import load_settings


def main() -> None:
    """Run the server, or the command that the arguments name."""
    # Whatever is written belongs to this user alone.
    os.umask(0o077)
    if len(sys.argv) > 1:
        from mcp_hybrid_search.commands import app  # noqa: PLC0415 - slow

        app()
        return
    try:
        _serve()
    except HybridSearchError as exc:
        sys.exit(f"mcp-hybrid-search: {exc}")


def _serve() -> None:
    settings = load_settings()
    logging.basicConfig(level=settings.log_level, stream=sys.stderr)

    import anyio  # noqa: PLC0415 - a typo in a setting is told before the slow part

    from mcp_hybrid_search.opening import Opening  # noqa: PLC0415
    from mcp_hybrid_search.server import create_server  # noqa: PLC0415
    from mcp_hybrid_search.stdio import leave_within, serve  # noqa: PLC0415

    opening = Opening(settings)
    try:
        anyio.run(_served, create_server(opening, settings), settings, serve)
    finally:
        leave_within(LEAVE_SECONDS)
        opening.close()
