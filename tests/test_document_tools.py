"""Listing, changing metadata and deleting by filter, as a client does it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp.types import ElicitRequestParams, ElicitResult

from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.server import create_server
from mcp_hybrid_search.settings import Settings
from tests.tool_calls import Ready, call, error_of, text_of

pytestmark = pytest.mark.anyio

TEA, COFFEE, MATE = "Tea is made of leaves.", "Coffee is made of beans.", "Mate."


class User:
    """Whoever is asked before many documents are deleted."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.answers: list[ElicitResult] = []

    async def __call__(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult:
        del context
        self.questions.append(params.message)
        return self.answers.pop(0)


@pytest.fixture(params=["legacy", "auto"])
def era(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def client(engine: Engine, settings: Settings, era: Any) -> AsyncIterator[Client]:
    server = create_server(Ready(engine), settings)
    async with Client(server, mode=era) as client:
        yield client


@pytest.fixture
def user() -> User:
    return User()


@pytest.fixture
async def asking(
    engine: Engine, settings: Settings, era: Any, user: User
) -> AsyncIterator[Client]:
    """Return a client that can ask its user."""
    server = create_server(Ready(engine), settings)
    async with Client(server, mode=era, elicitation_callback=user) as client:
        yield client


async def store_three(client: Client) -> None:
    for name, text in (("tea", TEA), ("coffee", COFFEE), ("mate", MATE)):
        await call(
            client, "store-document", text=text, id=name, title=name.title(),
            metadata={"hot": True, "leaf": name != "coffee"},
        )  # fmt: skip


async def listed(client: Client, **arguments: Any) -> list[str]:
    page = await call(client, "list-documents", **arguments)
    return [document["id"] for document in page["documents"]]


async def test_documents_are_listed_page_by_page(client: Client) -> None:
    await store_three(client)
    seen: list[str] = []
    cursor = ""
    for left in (1, 0):
        page = await call(
            client, "list-documents", order_by="id", limit=2, cursor=cursor
        )
        seen += [document["id"] for document in page["documents"]]
        assert page["total"] == 3
        assert bool(page["next_cursor"]) == bool(left)
        cursor = page["next_cursor"] or ""
    assert seen == ["coffee", "mate", "tea"]


async def test_a_listed_document_has_everything_but_its_text(client: Client) -> None:
    await store_three(client)
    page = await call(client, "list-documents", filter={"leaf": False})
    (document,) = page["documents"]
    assert document.pop("created_at") == document.pop("updated_at")
    assert document == {
        "id": "coffee", "title": "Coffee", "source": None, "chunks": 1,
        "metadata": {"hot": True, "leaf": False},
    }  # fmt: skip


async def test_the_text_of_a_list_is_a_line_for_each_document(client: Client) -> None:
    await store_three(client)
    result = await client.call_tool("list-documents", {"order_by": "id", "limit": 2})
    head, first, second, more = text_of(result).splitlines()
    assert head == "2 of 3 documents in 'documents'."
    assert first.startswith("- Coffee · id: coffee · 1 chunk · ")
    assert second.startswith("- Mate · id: mate")
    assert more.startswith("More: call again with cursor=")


async def test_documents_are_listed_in_the_order_asked_for(client: Client) -> None:
    await store_three(client)
    assert await listed(client, order_by="-title") == ["tea", "mate", "coffee"]
    assert await listed(client, order_by="created_at") == ["tea", "coffee", "mate"]
    assert await listed(client, filter={"leaf": True}, order_by="id") == ["mate", "tea"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"order_by": "size"}, "order_by must be 'created_at'"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"limit": 1001}, "limit must be at most 1000"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"filter": {"year": {"like": 1}}}, "like"),
        ({"page": 2}, "There is no argument 'page'"),
    ],
)
async def test_bad_arguments_of_a_list_are_named(
    client: Client, arguments: dict[str, Any], told: str
) -> None:
    await store_three(client)
    assert told in await error_of(client, "list-documents", **arguments)


async def test_metadata_is_merged_and_found_by_at_once(client: Client) -> None:
    await store_three(client)
    updated = await call(
        client, "update-metadata", id="tea", metadata={"hot": None, "year": 1912}
    )
    assert updated["metadata"] == {"leaf": True, "year": 1912}
    for filter_ in ({"year": {"lt": 1950}}, {"hot": {"exists": False}}):
        found = await call(client, "hybrid-search", query="drink", filter=filter_)
        assert [hit["document_id"] for hit in found["hits"]] == ["tea"]
    document = await call(client, "get-document", id="tea")
    assert document["text"] == TEA
    assert document["metadata"] == updated["metadata"]


async def test_what_cannot_be_metadata_is_refused(client: Client) -> None:
    await store_three(client)
    told = await error_of(client, "update-metadata", id="tea", metadata={"": 1})
    assert "empty key" in told
    told = await error_of(client, "update-metadata", id="milk", metadata={"a": 1})
    assert "no document 'milk'" in told
    told = await error_of(client, "update-metadata", id="tea", metadata=[1])
    assert "metadata must be an object" in told


async def test_a_dry_run_counts_and_deletes_nothing(client: Client) -> None:
    await store_three(client)
    result = await call(client, "delete-documents", filter={"leaf": True}, dry_run=True)
    assert result == {
        "count": 2, "first_ids": ["mate", "tea"], "deleted": False, "dry_run": True,
    }  # fmt: skip
    assert len(await listed(client)) == 3


async def test_where_the_user_cannot_be_asked_the_count_must_be_confirmed(
    client: Client,
) -> None:
    await store_three(client)
    leaves = {"leaf": True}
    told = await error_of(client, "delete-documents", filter=leaves)
    assert "2 documents match ('mate', 'tea')" in told
    assert "confirm_count=2" in told
    told = await error_of(client, "delete-documents", filter=leaves, confirm_count=3)
    assert "confirm_count is 3" in told
    assert len(await listed(client)) == 3
    result = await call(client, "delete-documents", filter=leaves, confirm_count=2)
    assert (result["count"], result["deleted"]) == (2, True)
    assert await listed(client) == ["coffee"]
    found = await call(client, "hybrid-search", query="leaves")
    assert [hit["document_id"] for hit in found["hits"]] == ["coffee"]


async def test_the_user_is_asked_and_agrees(asking: Client, user: User) -> None:
    await store_three(asking)
    user.answers = [ElicitResult(action="accept", content={"delete": True})]
    result = await call(asking, "delete-documents", filter={"leaf": True})
    assert (result["count"], result["deleted"]) == (2, True)
    assert user.questions == ["Delete 2 documents for good? 'mate', 'tea'"]
    assert await listed(asking) == ["coffee"]


@pytest.mark.parametrize(
    "answer",
    [
        ElicitResult(action="decline"),
        ElicitResult(action="cancel"),
        ElicitResult(action="accept", content={"delete": False}),
    ],
    ids=["decline", "cancel", "no"],
)
async def test_without_consent_nothing_is_deleted(
    asking: Client, user: User, answer: ElicitResult
) -> None:
    await store_three(asking)
    user.answers = [answer]
    # A count is no consent where there is somebody to ask.
    told = await error_of(
        asking, "delete-documents", filter={"leaf": True}, confirm_count=2
    )
    assert "did not agree" in told
    assert len(user.questions) == 1
    assert len(await listed(asking)) == 3


async def test_the_user_is_not_asked_about_nothing(asking: Client, user: User) -> None:
    await store_three(asking)
    nothing = await call(asking, "delete-documents", filter={"year": 1})
    assert (nothing["count"], nothing["deleted"]) == (0, False)
    counted = await call(
        asking, "delete-documents", filter={"leaf": True}, dry_run=True
    )
    assert counted["count"] == 2
    assert user.questions == []


async def test_a_question_names_ten_documents_at_most(
    asking: Client, user: User
) -> None:
    documents = [{"text": f"x{i}", "id": f"x{i:02}"} for i in range(12)]
    await call(asking, "store-documents", documents=documents)
    user.answers = [ElicitResult(action="decline")]
    await error_of(asking, "delete-documents", filter={"title": {"exists": False}})
    assert user.questions[0].endswith("'x09' and 2 more")


async def test_a_filter_that_names_nothing_is_refused(client: Client) -> None:
    await store_three(client)
    told = await error_of(client, "delete-documents", filter={}, confirm_count=3)
    assert "empty" in told or "name" in told
    assert "filter is required" in await error_of(client, "delete-documents")
    assert len(await listed(client)) == 3
