"""A tool's answer: structured content, and text for whoever reads no structure."""

from mcp.types import CallToolResult, TextContent
from pydantic import BaseModel


def answer(text: str, result: BaseModel) -> CallToolResult:
    """Return a result with the text beside it."""
    return CallToolResult(
        content=[TextContent(text=text)],
        structured_content=result.model_dump(mode="json"),
    )
