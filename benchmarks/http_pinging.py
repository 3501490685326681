"""A client that only pings, in a process of its own.

Run: python -m benchmarks.http_pinging URL SECONDS

Prints a line when the first ping was answered. At the end of its input it prints, as
JSON, when each ping went (monotonic) and how many milliseconds its answer took.
"""

import json
import sys
import time

import anyio
from anyio.to_thread import run_sync
from mcp import Client


async def ping(url: str, seconds: float) -> list[tuple[float, float]]:
    """Ping every so many seconds, whether the last one was answered or not."""
    sent: list[tuple[float, float]] = []

    async def one(client: Client) -> None:
        started = time.monotonic()
        await client.session.send_ping()
        sent.append((started, (time.monotonic() - started) * 1000))

    async def until_told(scope: anyio.CancelScope) -> None:
        await run_sync(sys.stdin.read)
        scope.cancel()

    async with Client(url, mode="legacy") as client, anyio.create_task_group() as pings:
        await one(client)
        print("pinging", flush=True)
        async with anyio.create_task_group() as group:
            group.start_soon(until_told, group.cancel_scope)
            while True:
                pings.start_soon(one, client)
                await anyio.sleep(seconds)
    return sent


if __name__ == "__main__":
    print(json.dumps(anyio.run(ping, sys.argv[1], float(sys.argv[2]))), flush=True)
