"""The MCP Inspector's command line: one process for each request, over all transports.

It has no method for completions.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.foreign import (
    DEADLINE_SECONDS,
    STDIO_COMMAND,
    http_server,
    node,
    server_environment,
)

INSPECTOR = "node_modules/@modelcontextprotocol/inspector/clients/launcher/build"
TOOL_IS_ERROR = 5

Inspect = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return server_environment(tmp_path_factory.mktemp("inspector") / "data")


@pytest.fixture(scope="module")
def base_url(environment: dict[str, str]) -> Iterator[str]:
    with http_server(environment) as url:
        yield url


@pytest.fixture(params=["legacy/stdio", "legacy/http", "legacy/sse", "modern/http"])
def inspect(
    request: pytest.FixtureRequest,
    base_url: str,
    environment: dict[str, str],
    tmp_path: Path,
) -> Inspect:
    era, transport = request.param.split("/")
    path = {"http": "mcp"}.get(transport, transport)
    target = [f"{base_url}/{path}", "--transport", transport]
    if transport == "stdio":
        # The Inspector gives a server none of its own environment.
        names = [name for name in environment if name.startswith(("PYTHON", "HYBRID"))]
        given = [f"{name}={environment[name]}" for name in names]
        target = [*STDIO_COMMAND, *(part for each in given for part in ("-e", each))]

    def run(method: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        options = ["--protocol-era", era, "--format", "json", "-q"]
        return subprocess.run(
            [
                *node(f"{INSPECTOR}/index.js", "--cli", *target, *options),
                *("--method", method, *arguments),
            ],
            env={**environment, "HOME": str(tmp_path)},
            capture_output=True,
            encoding="utf-8",
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    return run


def result(ran: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    answer: dict[str, Any] = json.loads(ran.stdout)["result"]
    return answer


def call(inspect: Inspect, tool: str, **arguments: Any) -> dict[str, Any]:
    given = json.dumps(arguments)
    ran = inspect("tools/call", "--tool-name", tool, "--tool-args-json", given)
    content: dict[str, Any] = result(ran)["structuredContent"]
    return content


def test_no_tool_has_a_schema_that_a_client_would_refuse(inspect: Inspect) -> None:
    listed = inspect("tools/list", "--strict")
    assert "hybrid-search" in {tool["name"] for tool in result(listed)["tools"]}
    assert "\n0 errors," in listed.stderr


def stored(inspect: Inspect, collection: str) -> None:
    known = {"ahab": "whales", "starbuck": "whales", "queequeg": "wood"}
    documents = [
        {
            "id": name,
            "text": f"{name} knows {subject}.",
            "metadata": {"of": subject},
            "collection": collection,
        }
        for name, subject in known.items()
    ]
    assert call(inspect, "store-documents", documents=documents)["failed"] == 0


def test_what_is_stored_is_found_paged_and_deleted(
    inspect: Inspect, request: pytest.FixtureRequest
) -> None:
    collection = request.node.callspec.id.replace("/", "-")
    stored(inspect, collection)
    found = call(inspect, "hybrid-search", query="wood", collection=collection)
    assert found["hits"][0]["document_id"] == "queequeg"

    page: dict[str, Any] = {"collection": collection, "limit": 2}
    first = call(inspect, "list-documents", **page)
    second = call(inspect, "list-documents", **page, cursor=first["next_cursor"])
    ids = [each["id"] for each in first["documents"] + second["documents"]]
    assert sorted(ids) == ["ahab", "queequeg", "starbuck"]
    assert second["next_cursor"] is None

    whales: dict[str, Any] = {"filter": {"of": "whales"}, "collection": collection}
    assert call(inspect, "delete-documents", **whales, dry_run=True)["count"] == 2
    assert call(inspect, "delete-documents", **whales, confirm_count=2)["deleted"]
    assert call(inspect, "list-documents", **page)["total"] == 1


def test_resources_and_prompts_are_read(
    inspect: Inspect, request: pytest.FixtureRequest
) -> None:
    collection = request.node.callspec.id.replace("/", "-") + "-read"
    stored(inspect, collection)
    read = inspect("resources/read", "--uri", f"document://{collection}/ahab")
    (content,) = result(read)["contents"]
    assert content["text"] == "ahab knows whales."
    asked = ("--prompt-name", "remember", "--prompt-args", "what=the whale")
    (message,) = result(inspect("prompts/get", *asked))["messages"]
    assert message["content"]["text"].endswith("To remember: the whale")


def test_a_refused_call_ends_with_the_code_for_it(inspect: Inspect) -> None:
    ran = inspect(
        "tools/call", "--tool-name", "hybrid-search", "--tool-arg", "qury=wood"
    )
    assert ran.returncode == TOOL_IS_ERROR
    assert "Did you mean 'query'?" in ran.stdout
