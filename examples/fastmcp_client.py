# /// script
# requires-python = ">=3.10"
# dependencies = ["fastmcp-slim[client]==4.1.6"]
# ///
"""Store two texts and search them with FastMCP's client.

python fastmcp_client.py                                  # starts mcp-hybrid-search
python fastmcp_client.py --url http://127.0.0.1:8000/mcp  # a server that runs already
"""

import argparse
import asyncio
import os

from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport

COLLECTION = "example-recipes"
TEXTS = {
    "sourdough": "Feed the starter eight hours before the dough is mixed.",
    "espresso": "Grind finer when the shot runs through in under twenty seconds.",
}
QUESTION = "My coffee comes out too fast. What should I change?"


async def store_and_search(transport: StdioTransport | StreamableHttpTransport) -> None:
    """Store every text, then print what answers the question, best first."""
    async with Client(transport) as client:
        print(f"MCP {client.protocol_version}")
        for name, text in TEXTS.items():
            stored = await client.call_tool(
                "store-document", {"id": name, "text": text, "collection": COLLECTION}
            )
            print(f"{stored.structured_content['status']}: {name}")

        print(QUESTION)
        found = await client.call_tool(
            "hybrid-search", {"query": QUESTION, "collection": COLLECTION}
        )
        for place, hit in enumerate(found.structured_content["hits"], 1):
            print(f"{place}. {hit['document_id']}: {hit['text']}")


def main() -> None:
    """Reach the server that the command line names."""
    parser = argparse.ArgumentParser(description="Store two texts and search them.")
    parser.add_argument("--url", help="a server that runs already, over HTTP")
    parser.add_argument("command", nargs="*", default=["mcp-hybrid-search"])
    given = parser.parse_args()
    if given.url:
        transport = StreamableHttpTransport(given.url)
    else:
        command, *arguments = given.command
        transport = StdioTransport(command, arguments, env=dict(os.environ))
    asyncio.run(store_and_search(transport))


if __name__ == "__main__":
    main()
