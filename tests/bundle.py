"""Start what an .mcpb bundle holds, as its manifest says, and use it.

`python -m tests.bundle BUNDLE` needs the command that the manifest names.
"""

import json
import os
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from mcp import Client, StdioServerParameters

from mcp_hybrid_search.settings import PREFIX


def filled(value: Any, variables: dict[str, str]) -> Any:
    """Replace `${name}` as hosts do; what they know nothing of stays."""
    if isinstance(value, str):
        for name, text in variables.items():
            value = value.replace(f"${{{name}}}", text)
        return value
    if isinstance(value, list):
        return [filled(item, variables) for item in value]
    return {key: filled(item, variables) for key, item in value.items()}


def parameters(directory: Path, **chosen: str) -> StdioServerParameters:
    """Return how a host starts the bundle in `directory`.

    Args:
        directory: Where the bundle was unpacked.
        chosen: What the user filled in; else the defaults are taken.
    """
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    values = {name: item["default"] for name, item in manifest["user_config"].items()}
    variables = {
        f"user_config.{name}": str(value).lower() if value in (True, False) else value
        for name, value in {**values, **chosen}.items()
    }
    variables = {name: str(value) for name, value in variables.items()}
    config = filled(
        manifest["server"]["mcp_config"], {**variables, "__dirname": str(directory)}
    )
    others = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    config["env"] = {**others, **config["env"]}
    return StdioServerParameters(**config)


async def used(server: StdioServerParameters) -> list[str]:
    """Store and search with the server; returns the names of its tools."""
    # The first start installs everything.
    async with Client(server, read_timeout_seconds=600) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        await client.call_tool("store-document", {"text": "A kettle.", "id": "k"})
        found = await client.call_tool("hybrid-search", {"query": "What boils water?"})
    content = found.structured_content or {}
    if [hit["document_id"] for hit in content.get("hits", [])] != ["k"]:
        msg = f"What was stored was not found: {content}"
        raise SystemExit(msg)
    return tools


async def tried(bundle: Path, directory: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(directory / "bundle")
    manifest = json.loads((directory / "bundle" / "manifest.json").read_text("utf-8"))
    server = parameters(
        directory / "bundle",
        data_dir=str(directory / "data"),
        engine_idle_seconds="0",
    )
    tools = await used(server)
    if tools != [tool["name"] for tool in manifest["tools"]]:
        msg = f"The manifest names other tools than the server: {tools}"
        raise SystemExit(msg)
    sys.stdout.write(f"{bundle}: {len(tools)} tools, stored and found.\n")


if __name__ == "__main__":
    with TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        anyio.run(tried, Path(sys.argv[1]), Path(directory).resolve())
