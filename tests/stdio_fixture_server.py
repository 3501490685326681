"""A server for test_stdio to start, speak to and end.

Its argument is JSON: the keyword arguments of `serve`.
"""

import json
import sys
import time

import anyio
from mcp.server import MCPServer

from mcp_hybrid_search import stdio

server = MCPServer("fixture")


def report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


@server.tool()
async def echo(text: str) -> str:
    """Return the text."""
    return text


@server.tool()
async def slow(seconds: float) -> str:
    """Answer later."""
    report("slow began")
    await anyio.sleep(seconds)
    return "slept"


@server.tool()
def stuck() -> str:
    """Hold a thread that nothing can interrupt."""
    report("stuck began")
    time.sleep(3600)
    return "never"


@server.tool()
async def big(characters: int) -> str:
    """Return a long text."""
    return "x" * characters


@server.tool()
async def printing() -> str:
    """Print as careless code does, and as a child process would."""
    print("stray text, left in the buffer")  # noqa: T201 - the fault under test
    with open(1, "w", closefd=False) as descriptor:  # noqa: ASYNC230
        descriptor.write("stray text on the descriptor\n")
    return sys.stdin.read()


@server.tool()
async def surrogate() -> str:
    """Return what no JSON can carry."""
    return "\ud800"


async def main() -> None:
    try:
        await stdio.serve(server, **json.loads(sys.argv[1]))
    finally:
        await anyio.lowlevel.checkpoint()
        report("cleaned up")


if __name__ == "__main__":
    anyio.run(main)
