"""A call that takes its time: how far it is, and how it is called off."""

from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from mcp import Client

from mcp_hybrid_search.calls import Calls
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.server import create_server
from mcp_hybrid_search.settings import Settings
from tests.tool_calls import Ready, call, error_of

pytestmark = pytest.mark.anyio

LONG = "\n\n".join(
    f"Paragraph {i} tells of the whale that was seen on day {i}. " * 12
    for i in range(400)
)


@pytest.fixture
def calls() -> Calls:
    return Calls(at_once=1, waiting=1)


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_progress_rises_until_the_call_is_cancelled(
    engine: Engine, settings: Settings, calls: Calls, era: Any
) -> None:
    told: list[tuple[float, float | None, str | None]] = []
    server = create_server(Ready(engine), settings, calls=calls)

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async def store(scope: anyio.CancelScope) -> None:
        with scope:
            await client.call_tool(
                "store-document",
                {"text": LONG, "id": "long"},
                progress_callback=hear,
            )

    async with Client(server, mode=era) as client, anyio.create_task_group() as group:
        scope = anyio.CancelScope()
        group.start_soon(store, scope)
        with anyio.fail_after(60):
            while len(told) < 3:
                await checkpoint()
        assert (calls.active, calls.waiting) == (1, 0)
        scope.cancel()
        with anyio.fail_after(5):
            while calls.active:
                await checkpoint()
        assert "no document 'long'" in await error_of(client, "get-document", id="long")
        await call(client, "store-document", text="Short.", id="short")
    values = [value for value, _, _ in told]
    assert values == sorted(set(values))
    assert all(total is not None and value <= total for value, total, _ in told)
    assert "chunks encoded" in {what for _, _, what in told}


async def test_a_call_over_the_queue_is_told_when_to_try_again(
    engine: Engine, settings: Settings, calls: Calls
) -> None:
    server = create_server(Ready(engine), settings, calls=calls)
    async with Client(server) as client:
        await call(client, "store-document", text="A whale.")
        found: list[dict[str, Any]] = []

        async def search() -> None:
            found.append(await call(client, "hybrid-search", query="whale"))

        async with anyio.create_task_group() as group, calls.place():
            group.start_soon(search)
            with anyio.fail_after(5):
                while not calls.waiting:
                    await checkpoint()
            told = await error_of(client, "hybrid-search", query="whale")
            assert "Busy: retry in 1 s." in told
            assert (await client.list_tools()).tools
            assert found == []
        assert len(found[0]["hits"]) == 1
