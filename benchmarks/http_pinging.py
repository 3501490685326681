"""A client that only pings, in a process of its own.

Run: python -m benchmarks.http_pinging URL SECONDS

Prints a line when it has shaken hands. At the end of its input it prints every `Ping`
as JSON.
"""

import json
import sys
import time
from itertools import count
from typing import NamedTuple

import anyio
import httpx2
from anyio.to_thread import run_sync

PATIENCE_SECONDS = 60.0
VERSION = "2025-11-25"
"""The newest era that has a ping."""


class Ping(NamedTuple):
    """One ping, and what became of it."""

    at: float
    """When it went, monotonic."""
    milliseconds: float
    problem: str
    """Why there was no answer; empty if there was."""


async def ping(url: str, seconds: float) -> list[Ping]:
    """Ping every so many seconds, whether the last one was answered or not."""
    sent: list[Ping] = []
    numbers = count(2)

    async def one(client: httpx2.AsyncClient) -> None:
        started = time.monotonic()
        problem = ""
        try:
            answer = await client.post(url, json=_message("ping", next(numbers)))
            if "result" not in answer.json():
                problem = f"{answer.status_code} {answer.text[:80]}"
        except (httpx2.TransportError, ValueError) as exc:
            problem = repr(exc)
        sent.append(Ping(started, (time.monotonic() - started) * 1000, problem))

    async def until_told(scope: anyio.CancelScope) -> None:
        await run_sync(sys.stdin.read)
        scope.cancel()

    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS, limits=limits) as client:
        await _shake_hands(client, url)
        print("pinging", flush=True)
        async with (
            anyio.create_task_group() as pings,
            anyio.create_task_group() as all_,
        ):
            all_.start_soon(until_told, all_.cancel_scope)
            while True:
                pings.start_soon(one, client)
                await anyio.sleep(seconds)
    return sent


async def _shake_hands(client: httpx2.AsyncClient, url: str) -> None:
    client.headers["Accept"] = "application/json, text/event-stream"
    information = {"name": "pinging", "version": "1"}
    params: dict[str, object] = {
        "protocolVersion": VERSION,
        "capabilities": {},
        "clientInfo": information,
    }
    answer = await client.post(url, json=_message("initialize", 1, params))
    client.headers["Mcp-Session-Id"] = answer.headers["Mcp-Session-Id"]
    client.headers["MCP-Protocol-Version"] = VERSION
    await client.post(url, json=_message("notifications/initialized"))


def _message(
    method: str, request_id: int | None = None, params: dict[str, object] | None = None
) -> dict[str, object]:
    given = {"id": request_id, "params": params}
    present = {name: value for name, value in given.items() if value is not None}
    return {"jsonrpc": "2.0", "method": method, **present}


if __name__ == "__main__":
    print(json.dumps(anyio.run(ping, sys.argv[1], float(sys.argv[2]))), flush=True)
