"""Nobody's texts, queries, ids or keys are logged, at any level."""

import logging
import os
import sys
from pathlib import Path

import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client

import mcp_hybrid_search
from mcp_hybrid_search.logs import WithoutMessages

CANARY = "Xylophagous"
TOKEN = "hs_" + "Xylophagous" * 4


def formatted(error: Exception) -> str:
    try:
        raise error
    except type(error):
        record = logging.LogRecord(
            "x", logging.ERROR, "x", 1, "It failed.", None, sys.exc_info()
        )
    return WithoutMessages("%(message)s").format(record)


def test_what_was_raised_is_logged_by_its_kind_and_place() -> None:
    shown = formatted(KeyError(CANARY))
    assert CANARY not in shown
    assert shown.startswith("It failed.\n")
    assert "in formatted" in shown
    assert shown.endswith("KeyError")


@pytest.mark.anyio
@pytest.mark.parametrize("in_process", ["true", "false"])
async def test_no_text_is_logged_over_stdio(tmp_path: Path, in_process: str) -> None:
    data_dir = tmp_path / "data"
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_hybrid_search"],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(mcp_hybrid_search.__file__).parents[1]),
            "HYBRID_SEARCH_DATA_DIR": str(data_dir),
            "HYBRID_SEARCH_MIN_FREE_BYTES": "0",
            "HYBRID_SEARCH_IN_PROCESS": in_process,
            "HYBRID_SEARCH_LOG_LEVEL": "DEBUG",
            "HYBRID_SEARCH_TOKEN": TOKEN,
        },
    )
    with (tmp_path / "stderr").open("w+") as stderr:
        async with Client(stdio_client(server, errlog=stderr)) as client:
            await use(client)
        stderr.seek(0)
        logged = stderr.read()
    for log in data_dir.glob("*.log"):
        logged += log.read_text()
    assert "mcp_hybrid_search" in logged
    assert CANARY.lower() not in logged.lower()


async def use(client: Client) -> None:
    """Let the canary pass through everything that can be called."""
    place: dict[str, object] = {"id": CANARY, "collection": CANARY, "namespace": CANARY}
    metadata = {CANARY: CANARY}
    calls: list[tuple[str, dict[str, object]]] = [
        ("store-document", {**place, "text": CANARY, "title": CANARY,
                            "source": CANARY, "metadata": metadata}),
        ("store-documents", {"documents": [{**place, "text": f"{CANARY} 2"}]}),
        ("update-metadata", {**place, "metadata": metadata}),
        ("hybrid-search", {"query": CANARY, "collection": CANARY,
                           "namespace": CANARY, "filter": metadata, "explain": True}),
        ("get-document", place),
        ("list-documents", {"collection": CANARY, "namespace": CANARY,
                            "filter": metadata}),
        ("list-documents", {"cursor": CANARY}),
        ("delete-documents", {"collection": CANARY, "namespace": CANARY,
                              "filter": metadata, "confirm_count": 9}),
        ("delete-document", place),
        ("get-document", {"id": CANARY}),
        ("hybrid-search", {"query": CANARY, "limit": CANARY}),
        ("hybrid-search", {CANARY: CANARY}),
        ("hybrid-search", {"query": "x", "filter": {CANARY: {CANARY: 1}}}),
        (CANARY, {CANARY: CANARY}),
    ]  # fmt: skip
    for tool, arguments in calls:
        await client.call_tool(tool, arguments)
    for uri in (f"document://{CANARY}/{CANARY}", f"file:///{CANARY}"):
        with pytest.raises(MCPError):
            await client.read_resource(uri)
    with pytest.raises(MCPError):
        await client.get_prompt(CANARY, {CANARY: CANARY})
    with pytest.raises(MCPError):
        await client.list_resources(cursor=CANARY)
