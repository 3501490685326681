"""Documents and collections as resources, in both eras."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.types import TextResourceContents

from mcp_hybrid_search import resources
from mcp_hybrid_search.calls import Calls
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.resources import document_uri
from mcp_hybrid_search.server import create_server
from mcp_hybrid_search.settings import Settings
from tests.tool_calls import Ready, Unopened, call

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["legacy", "auto"])
async def client(
    engine: Engine, settings: Settings, request: pytest.FixtureRequest
) -> AsyncIterator[Client]:
    server = create_server(Ready(engine), settings)
    async with Client(server, mode=request.param) as client:
        yield client


async def text_at(client: Client, uri: str) -> str:
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return content.text


async def every_uri(client: Client) -> list[str]:
    """Return every resource, page by page."""
    uris: list[str] = []
    cursor = None
    while True:
        page = await client.list_resources(cursor=cursor)
        uris += [str(each.uri) for each in page.resources]
        cursor = page.next_cursor
        if cursor is None:
            return uris


IDS = ["plain", "../../etc/passwd", "a/b c#d?e%f", "ünï ☃", "C:\\x", "{id}", "x&y=z"]


@pytest.mark.parametrize("identity", IDS)
async def test_a_document_is_read_by_its_uri(client: Client, identity: str) -> None:
    await call(client, "store-document", text="The text.", id=identity)
    uri = document_uri("documents", identity)
    assert await text_at(client, uri) == "The text."
    assert uri in await every_uri(client)


async def test_the_collections_are_read_as_json(client: Client) -> None:
    await call(client, "store-document", text="The text.")
    listed = json.loads(await text_at(client, "collections://"))
    assert [each["name"] for each in listed["collections"]] == ["documents"]
    assert listed == await call(client, "list-collections")


async def test_resources_name_the_documents_and_their_sources(client: Client) -> None:
    await call(
        client, "store-document", text="One.", id="one", title="First", source="a file"
    )
    found = {str(r.uri): r for r in (await client.list_resources()).resources}
    document = found["document://documents/one"]
    assert (document.title, document.description) == ("First", "a file")
    assert document.mime_type == "text/plain"
    assert found["collections://"].mime_type == "application/json"


async def test_the_list_of_resources_goes_on_page_by_page(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "PAGE", 2)
    expected = ["collections://"]
    for collection in ("a", "b", "c"):
        for name in ("x", "y", "z")[: 1 if collection == "b" else 3]:
            await call(
                client, "store-document", text=name, id=name, collection=collection
            )
            expected.append(document_uri(collection, name))
    assert sorted(await every_uri(client)) == sorted(expected)


@pytest.mark.parametrize(
    "cursor", ["nonsense", "WzFd", "e30=", "WzEsMl0=", "\ud83d\ude00"]
)
async def test_a_cursor_that_is_none_of_ours_is_refused(
    client: Client, cursor: str
) -> None:
    with pytest.raises(MCPError, match="cursor"):
        await client.list_resources(cursor=cursor)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("document://documents/none", "no document 'none'"),
        ("document://nowhere/one", "nowhere"),
        ("document://.bad/one", "collection must match"),
        ("file:///etc/passwd", "Unknown resource"),
        ("document://documents/a/b", "Unknown resource"),
    ],
)
async def test_what_is_not_there_is_told(client: Client, uri: str, told: str) -> None:
    await call(client, "store-document", text="One.", id="one")
    with pytest.raises(MCPError, match=told) as refused:
        await client.read_resource(uri)
    assert refused.value.error.code == -32602


async def test_an_engine_that_cannot_be_opened_is_told(settings: Settings) -> None:
    async with Client(create_server(Unopened(), settings)) as client:
        for uri in ("collections://", "document://documents/one"):
            with pytest.raises(MCPError, match="The disk is gone"):
                await client.read_resource(uri)
        with pytest.raises(MCPError, match="The disk is gone"):
            await client.list_resources()


async def test_a_list_that_finds_no_place_says_when_to_try_again(
    engine: Engine, settings: Settings
) -> None:
    calls = Calls(at_once=1, waiting=0)
    async with (
        Client(create_server(Ready(engine), settings, calls=calls)) as client,
        calls.place(),
    ):
        with pytest.raises(MCPError, match="retry in") as refused:
            await client.list_resources()
        assert refused.value.error.code == -32000
        data: Any = refused.value.error.data
        assert data["retryAfterSeconds"] >= 1
