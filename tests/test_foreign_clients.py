"""The TypeScript SDK, versions 1 and 2, over every transport and in both eras.

Version 2 still has a transport for SSE, and carries either era over it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mcp_hybrid_search import __version__
from tests.foreign import (
    STDIO_COMMAND,
    TypeScriptClient,
    http_server,
    server_environment,
    typescript_client,
)

LEGACY, STATELESS = "2025-11-25", "2026-07-28"
TOOLS = {
    "store-document",
    "store-documents",
    "hybrid-search",
    "get-document",
    "delete-document",
    "list-collections",
    "list-documents",
    "update-metadata",
    "delete-documents",
}
WHALES = [
    {"id": "ishmael", "text": "Call me Ishmael.", "metadata": {"of": "whales"}},
    {"id": "ahab", "text": "Ahab hunts the white whale.", "metadata": {"of": "whales"}},
    {"id": "queequeg", "text": "Queequeg carves a coffin.", "metadata": {"of": "wood"}},
]


class Leg:
    """One SDK, one era and one transport."""

    def __init__(self, name: str, base_url: str, environment: dict[str, str]) -> None:
        self.name = name
        sdk, self.version, transport = name.split("/")
        era = "legacy" if self.version == LEGACY else self.version
        target = {
            "stdio": STDIO_COMMAND,
            "streamable-http": [f"{base_url}/mcp"],
            "sse": [f"{base_url}/sse"],
        }[transport]
        self._arguments = [sdk, era, transport, *target]
        self._environment = environment

    @contextmanager
    def client(self, *, agrees: bool = False) -> Iterator[TypeScriptClient]:
        """Connect; with `agrees`, as a client that can ask its user."""
        environment = {**self._environment, "CLIENT_AGREES": str(int(agrees))}
        with typescript_client(*self._arguments, environment=environment) as client:
            yield client

    def stored(self, client: TypeScriptClient, purpose: str) -> str:
        """Store the whales in a collection of their own; return its name."""
        collection = f"{self.name.replace('/', '_')}-{purpose}"
        documents = [{**each, "collection": collection} for each in WHALES]
        result = client.tool("store-documents", documents=documents)
        assert [each["status"] for each in result["results"]] == ["created"] * 3
        return collection


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return server_environment(tmp_path_factory.mktemp("foreign") / "data")


@pytest.fixture(scope="module")
def base_url(environment: dict[str, str]) -> Iterator[str]:
    with http_server(environment) as url:
        yield url


@pytest.fixture(
    scope="module",
    params=[
        f"{sdk}/{transport}"
        for sdk in (f"v1/{LEGACY}", f"v2/{LEGACY}", f"v2/{STATELESS}")
        for transport in ("streamable-http", "sse", "stdio")
    ],
)
def leg(
    request: pytest.FixtureRequest, base_url: str, environment: dict[str, str]
) -> Leg:
    return Leg(request.param, base_url, environment)


@pytest.fixture(scope="module")
def client(leg: Leg) -> Iterator[TypeScriptClient]:
    with leg.client() as client:
        yield client


def test_the_client_agrees_on_the_version_and_reads_who_the_server_is(
    leg: Leg, client: TypeScriptClient
) -> None:
    assert client.agreed["version"] == leg.version
    assert client.agreed["server"]["name"] == "mcp-hybrid-search"
    assert client.agreed["server"]["version"] == __version__
    assert "call hybrid-search" in client.agreed["instructions"]


def test_every_tool_is_listed_with_schemas_that_the_client_accepts(
    client: TypeScriptClient,
) -> None:
    tools = client.result("listTools")["tools"]
    assert {tool["name"] for tool in tools} == TOOLS
    for tool in tools:
        assert tool["description"]
        assert tool["inputSchema"]["type"] == "object"
        assert tool["outputSchema"]["type"] == "object"


def test_what_is_stored_is_found_and_fits_the_output_schema(
    leg: Leg, client: TypeScriptClient
) -> None:
    """The SDK itself checks structured content against the tool's schema."""
    collection = leg.stored(client, "search")
    client.result("listTools")
    found = client.tool(
        "hybrid-search", query="white whale", collection=collection, explain=True
    )
    assert found["hits"][0]["document_id"] == "ahab"
    assert found["hits"][0]["ranks"] == {"dense": 1, "bm25": 1, "colbert": 1}
    only = client.tool(
        "hybrid-search", query="whale", collection=collection, filter={"of": "wood"}
    )
    assert [hit["document_id"] for hit in only["hits"]] == ["queequeg"]


def test_unicode_comes_back_as_it_was_sent(leg: Leg, client: TypeScriptClient) -> None:
    text = "Ünï\u2028cödé 🐳\n\ttab \u0000 \ufeff end "
    place = {"id": "ünï/🐳", "collection": leg.name.replace("/", "_")}
    client.tool("store-document", text=text, **place)
    assert client.tool("get-document", **place)["text"] == text


def test_a_refusal_reads_as_the_server_words_it(client: TypeScriptClient) -> None:
    call: dict[str, Any] = {"name": "hybrid-search", "arguments": {"qury": "x"}}
    result = client.result("callTool", call)
    assert result["isError"]
    assert "qury" in result["content"][0]["text"]
    assert "query" in result["content"][0]["text"]


def test_pages_hold_every_document_once(leg: Leg, client: TypeScriptClient) -> None:
    collection = leg.stored(client, "pages")
    first = client.tool("list-documents", collection=collection, limit=2)
    assert first["total"] == 3
    cursor = first["next_cursor"]
    # What is stored between two pages neither doubles nor hides anything.
    client.tool("store-document", id="0", text="New.", collection=collection)
    second = client.tool(
        "list-documents", collection=collection, limit=2, cursor=cursor
    )
    ids = [document["id"] for page in (first, second) for document in page["documents"]]
    assert len(ids) == len(set(ids))
    assert {"ishmael", "ahab", "queequeg"} <= set(ids)


def test_metadata_is_merged(leg: Leg, client: TypeScriptClient) -> None:
    collection = leg.stored(client, "metadata")
    patch = {"of": None, "year": 1851}
    client.tool("update-metadata", id="ahab", metadata=patch, collection=collection)
    read = client.tool("get-document", id="ahab", collection=collection)
    assert read["metadata"] == {"year": 1851}


def test_a_document_is_deleted(leg: Leg, client: TypeScriptClient) -> None:
    collection = leg.stored(client, "delete")
    place = {"id": "ahab", "collection": collection}
    assert client.tool("delete-document", **place)["status"] == "deleted"
    assert client.tool("delete-document", **place)["status"] == "not-found"


def test_many_are_deleted_when_their_count_is_confirmed(
    leg: Leg, client: TypeScriptClient
) -> None:
    collection = leg.stored(client, "counted")
    call: dict[str, Any] = {"filter": {"of": "whales"}, "collection": collection}
    counted = client.tool("delete-documents", **call, dry_run=True)
    assert (counted["count"], counted["deleted"]) == (2, False)
    unconfirmed = client.result(
        "callTool", {"name": "delete-documents", "arguments": call}
    )
    assert unconfirmed["isError"]
    assert "confirm_count=2" in unconfirmed["content"][0]["text"]
    done = client.tool("delete-documents", **call, confirm_count=2)
    assert (done["count"], done["deleted"]) == (2, True)
    left = client.tool("hybrid-search", query="whale", collection=collection)
    assert [hit["document_id"] for hit in left["hits"]] == ["queequeg"]


def test_many_are_deleted_when_the_user_agrees(leg: Leg) -> None:
    with leg.client(agrees=True) as client:
        collection = leg.stored(client, "asked")
        done = client.tool(
            "delete-documents", filter={"of": "whales"}, collection=collection
        )
        assert (done["count"], done["deleted"]) == (2, True)


def test_a_document_is_read_by_its_uri(leg: Leg, client: TypeScriptClient) -> None:
    collection = leg.stored(client, "resources")
    templates = client.result("listResourceTemplates")["resourceTemplates"]
    assert [each["uriTemplate"] for each in templates] == [
        "document://{collection}/{id}"
    ]
    uri = f"document://{collection}/ahab"
    (content,) = client.result("readResource", {"uri": uri})["contents"]
    assert content["text"] == "Ahab hunts the white whale."
    (collections,) = client.result("readResource", {"uri": "collections://"})[
        "contents"
    ]
    assert collection in collections["text"]
    missing = client.call("readResource", {"uri": f"document://{collection}/nope"})
    assert missing["error"]["code"] in {-32002, -32602}


def test_a_prompt_carries_its_argument(client: TypeScriptClient) -> None:
    prompts = client.result("listPrompts")["prompts"]
    assert {"answer-from-documents", "remember"} == {each["name"] for each in prompts}
    asked = {
        "name": "answer-from-documents",
        "arguments": {"question": "Who hunts the whale?"},
    }
    (message,) = client.result("getPrompt", asked)["messages"]
    assert "Who hunts the whale?" in message["content"]["text"]


def test_collections_and_ids_are_completed(leg: Leg, client: TypeScriptClient) -> None:
    collection = leg.stored(client, "complete")
    ref = {"type": "ref/resource", "uri": "document://{collection}/{id}"}
    named = {"name": "collection", "value": collection[:-1]}
    completed = client.result("complete", {"ref": ref, "argument": named})
    assert completed["completion"]["values"] == [collection]
    identified = {
        "ref": ref,
        "argument": {"name": "id", "value": "a"},
        "context": {"arguments": {"collection": collection}},
    }
    completed = client.result("complete", identified)
    assert completed["completion"]["values"] == ["ahab"]
