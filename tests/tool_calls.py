"""Calling tools as a client does."""

from typing import Any

from mcp import Client
from mcp.types import CallToolResult, TextContent

from mcp_hybrid_search.engine import Engine, Progress
from mcp_hybrid_search.errors import StoreUnavailableError


class Ready:
    """An engine that needs no opening."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def introduce(self, name: str) -> None:
        """Nobody to tell."""

    def start(self) -> None:
        """Nothing to do."""

    async def engine(self, progress: Progress | None = None) -> Engine:
        del progress
        return self._engine


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    content: dict[str, Any] | None = result.structured_content
    assert content is not None
    return content


async def error_of(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    text = text_of(result)
    assert "pydantic" not in text
    assert "Error executing" not in text
    return text


class Unopened:
    """An engine that cannot be opened."""

    def introduce(self, name: str) -> None:
        """Nobody to tell."""

    def start(self) -> None:
        """Nothing to do."""

    async def engine(self, progress: Progress | None = None) -> Engine:
        del progress
        msg = "The disk is gone."
        raise StoreUnavailableError(msg)
