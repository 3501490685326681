"""Write `tools.json` again: `python -m tests.contract`."""

import json
from pathlib import Path
from typing import Any

import anyio
from mcp import Client

from mcp_hybrid_search.opening import Opening
from mcp_hybrid_search.server import create_server
from mcp_hybrid_search.settings import load_settings

CONTRACT = Path(__file__).with_name("tools.json")


async def tools(client: Client) -> list[dict[str, Any]]:
    """Return the tools as they go over the wire."""
    return [
        tool.model_dump(mode="json", by_alias=True, exclude_none=True)
        for tool in (await client.list_tools()).tools
    ]


async def write() -> None:
    settings = load_settings()
    async with Client(create_server(Opening(settings), settings)) as client:
        text = json.dumps(await tools(client), indent=2, ensure_ascii=False)
    CONTRACT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    anyio.run(write)
