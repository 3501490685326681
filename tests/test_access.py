"""What a token allows, whatever the arguments say; and who hears of a change."""

from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from mcp import Client, MCPError
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp.types import ResourceTemplateReference, ServerNotification

from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.server import HybridSearchServer, create_server
from mcp_hybrid_search.settings import Settings
from tests.tool_calls import Ready, call, error_of

pytestmark = pytest.mark.anyio

READING = {"hybrid-search", "get-document", "list-documents", "list-collections"}
SECRET = "Zanzibar"  # noqa: S105 - stored by a neighbour, and never to be seen


@contextmanager
def token(
    name: str, scope: str = "write", namespace: str | None = None
) -> Iterator[None]:
    """Let the messages that are sent meanwhile come with a token."""
    scopes = ["read"] if scope == "read" else ["read", "write"]
    claims = None if namespace is None else {"namespace": namespace}
    access = AccessToken(token="", client_id=name, scopes=scopes, claims=claims)
    reset = auth_context_var.set(AuthenticatedUser(access))
    try:
        yield
    finally:
        auth_context_var.reset(reset)


def as_user(name: str) -> AbstractContextManager[None]:
    """Return the token of a user: bound to the namespace of that name, or to none."""
    return token(name, namespace=None if name == "all" else name)


@asynccontextmanager
async def client_of(
    server: HybridSearchServer, era: Any = "auto", **given: Any
) -> AsyncIterator[Client]:
    with token(**given) if given else token("everyone"):
        async with Client(server, mode=era) as client:
            yield client


@pytest.fixture
def server(engine: Engine, settings: Settings) -> HybridSearchServer:
    return create_server(Ready(engine), settings)


@pytest.fixture(params=["legacy", "auto"])
def era(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def ann(server: HybridSearchServer, era: Any) -> AsyncIterator[Client]:
    """A client whose token is bound to the namespace `ann`, with bob's beside it."""
    with token("bob", namespace="bob"):
        async with Client(server, mode=era) as bob:
            await call(
                bob,
                "store-document",
                text=f"{SECRET} one.",
                id="same",
                metadata={"k": SECRET},
                title=SECRET,
                source=SECRET,
            )
            await call(bob, "store-document", text=f"{SECRET} two.", id=SECRET,
                       collection=SECRET)  # fmt: skip
    with token("ann", namespace="ann"):
        async with Client(server, mode=era) as client:
            await call(client, "store-document", text="Mine.", id="same",
                       metadata={"k": "mine"})  # fmt: skip
            yield client


async def test_a_token_that_may_read_is_offered_nothing_that_writes(
    server: HybridSearchServer, era: Any
) -> None:
    async with client_of(server, era, name="reader", scope="read") as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == READING
        for name, arguments in (
            ("store-document", {"text": "x"}),
            ("store-documents", {"documents": [{"text": "x"}]}),
            ("update-metadata", {"id": "x", "metadata": {}}),
            ("delete-document", {"id": "x"}),
            ("delete-documents", {"filter": {"a": 1}}),
        ):
            told = await error_of(client, name, **arguments)
            assert "You may only read here" in told
            assert name in told
        found = await call(client, "hybrid-search", query="x")
        assert found["hits"] == []


async def test_a_read_only_server_refuses_everyone(
    engine: Engine, settings: Settings
) -> None:
    read_only = settings.model_copy(update={"read_only": True})
    async with Client(create_server(Ready(engine), read_only)) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == READING
        assert "only read" in await error_of(client, "store-document", text="x")


async def test_a_bound_token_needs_not_name_its_namespace(ann: Client) -> None:
    document = await call(ann, "get-document", id="same")
    assert (document["text"], document["namespace"]) == ("Mine.", "ann")
    document = await call(ann, "get-document", id="same", namespace="ann")
    assert document["text"] == "Mine."


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("store-document", {"text": "x"}),
        ("hybrid-search", {"query": "x"}),
        ("get-document", {"id": "same"}),
        ("list-documents", {}),
        ("update-metadata", {"id": "same", "metadata": {"k": 1}}),
        ("delete-document", {"id": "same"}),
        ("delete-documents", {"filter": {"k": SECRET}, "confirm_count": 1}),
    ],
)
@pytest.mark.parametrize("named", ["bob", "default", "BOB", "../bob", "*"])
async def test_a_bound_token_cannot_name_another_namespace(
    ann: Client, tool: str, arguments: dict[str, Any], named: str
) -> None:
    told = await error_of(ann, tool, **arguments, namespace=named)
    assert "bound to one namespace" in told
    assert SECRET not in told


async def test_in_a_list_only_the_items_of_another_namespace_are_refused(
    ann: Client,
) -> None:
    documents = [{"text": "a"}, {"text": "b", "namespace": "bob"}, {"text": "c"}]
    result = await call(ann, "store-documents", documents=documents)
    assert [item["status"] for item in result["results"]] == [
        "created", "failed", "created",
    ]  # fmt: skip
    assert "bound to one namespace" in result["results"][1]["error"]


async def test_nothing_of_a_neighbour_is_seen_by_any_tool(ann: Client) -> None:
    seen = [
        await call(ann, "hybrid-search", query=SECRET),
        await call(ann, "hybrid-search", query=SECRET, explain=True),
        await call(ann, "list-documents"),
        await call(ann, "list-collections"),
        await call(ann, "list-documents", filter={"k": "mine"}),
        await call(ann, "delete-documents", filter={"title": SECRET}, dry_run=True),
        (await ann.list_resources()).model_dump(mode="json"),
        await error_of(ann, "hybrid-search", query="x", collection="nowhere"),
        await error_of(ann, "get-document", id="nothing"),
    ]
    assert SECRET not in str(seen)
    assert "bob" not in str(seen)
    collections = await call(ann, "list-collections")
    assert [(c["name"], c["documents"]) for c in collections["collections"]] == [
        ("documents", 1)
    ]
    assert (await call(ann, "list-documents"))["total"] == 1


async def test_a_collection_of_a_neighbour_is_none(ann: Client) -> None:
    """It is told in the same words as one that does not exist."""
    for tool, arguments in (
        ("hybrid-search", {"query": "x"}),
        ("list-documents", {}),
        ("get-document", {"id": "same"}),
        ("update-metadata", {"id": "same", "metadata": {"k": 1}}),
    ):
        secret = await error_of(ann, tool, **arguments, collection=SECRET)
        nowhere = await error_of(ann, tool, **arguments, collection="nowhere")
        assert secret.replace(SECRET, "nowhere") == nowhere


async def test_a_neighbour_keeps_what_a_bound_token_deletes(
    ann: Client, server: HybridSearchServer
) -> None:
    deleted = await call(ann, "delete-document", id="same")
    assert deleted["status"] == "deleted"
    assert (await call(ann, "delete-document", id=SECRET))["status"] == "not-found"
    async with client_of(server, name="bob", namespace="bob") as bob:
        document = await call(bob, "get-document", id="same")
        assert SECRET in document["text"]


async def test_resources_and_completions_stay_in_the_namespace(ann: Client) -> None:
    (content,) = (await ann.read_resource("document://documents/same")).contents
    assert content.text == "Mine."  # type: ignore[union-attr]
    with pytest.raises(MCPError):
        await ann.read_resource(f"document://{SECRET}/{SECRET}")
    ref = ResourceTemplateReference(
        type="ref/resource", uri="document://{collection}/{id}"
    )
    for name, given, expected in (
        ("collection", {}, ["documents"]),
        ("id", {}, ["same"]),
        ("namespace", {}, ["ann"]),
        ("id", {"collection": SECRET}, []),
        ("id", {"namespace": "bob"}, []),
    ):
        result = await ann.complete(
            ref, {"name": name, "value": ""}, context_arguments=given
        )
        assert list(result.completion.values) == expected


async def test_a_cursor_of_a_neighbour_is_refused(
    ann: Client, server: HybridSearchServer
) -> None:
    async with client_of(server, name="bob", namespace="bob") as bob:
        await call(bob, "store-document", text="More.", id="more")
        page = await call(bob, "list-documents", limit=1)
    told = await error_of(ann, "list-documents", limit=1, cursor=page["next_cursor"])
    assert "cursor" in told


class Heard(list[str]):
    """The changes that a client was told."""

    async def __call__(self, message: Any) -> None:
        if isinstance(message, ServerNotification):
            self.append(message.method)

    async def wait_for(self, count: int) -> None:
        with anyio.fail_after(5):
            while len(self) < count:
                await checkpoint()


async def test_each_client_hears_of_the_documents_that_it_may_read(
    server: HybridSearchServer,
) -> None:
    heard = {name: Heard() for name in ("ann", "bob", "all")}
    async with AsyncExitStack() as opened:
        clients = {}
        for name, told in heard.items():
            with as_user(name):
                client = Client(server, mode="legacy", message_handler=told)
                clients[name] = await opened.enter_async_context(client)

        async def did(name: str, tool: str, **arguments: Any) -> None:
            with as_user(name):
                await call(clients[name], tool, **arguments)

        await did("ann", "store-document", text="One.", id="one")
        await did("ann", "store-document", text="One.", id="one")
        await did("ann", "delete-document", id="one")
        await did("ann", "delete-document", id="one")
        await did("bob", "store-document", text="Two.", id="two")
        for name, count in (("ann", 2), ("bob", 1), ("all", 3)):
            await heard[name].wait_for(count)
            assert heard[name] == ["notifications/resources/list_changed"] * count


async def test_a_client_is_told_that_changes_will_be_told(
    server: HybridSearchServer, era: Any
) -> None:
    async with client_of(server, era) as client:
        resources = client.server_capabilities.resources
        assert resources
        assert resources.list_changed


async def test_a_subscriber_hears_of_its_own_namespace_only(
    server: HybridSearchServer,
) -> None:
    uri = "document://documents/same"
    async with AsyncExitStack() as opened:
        with as_user("bob"):
            bob = await opened.enter_async_context(Client(server))
            await call(bob, "store-document", text="His.", id="same")
        with as_user("ann"):
            ann = await opened.enter_async_context(Client(server))
            told = await opened.enter_async_context(
                ann.listen(resources_list_changed=True, resource_subscriptions=[uri])
            )
        with as_user("bob"):
            await call(bob, "store-document", text="His new one.", id="same")
        with as_user("ann"), anyio.fail_after(5):
            await call(ann, "store-document", text="Hers.", id="same")
            # An event of bob's document would come before this one.
            assert isinstance(await anext(told), ResourcesListChanged)
            await call(ann, "store-document", text="Her new one.", id="same")
            assert await anext(told) == ResourceUpdated(uri=uri)
