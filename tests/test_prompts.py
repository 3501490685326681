"""Prompts and completions, as a client offers them to its user."""

import re
from collections.abc import AsyncIterator

import pytest
from mcp import Client, MCPError
from mcp.types import (
    PromptReference,
    ResourceTemplateReference,
    TextContent,
)

from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.prompts import ANSWER, REMEMBER
from mcp_hybrid_search.server import create_server
from mcp_hybrid_search.settings import Settings
from tests.tool_calls import Ready, Unopened, call

pytestmark = pytest.mark.anyio

DOCUMENT = ResourceTemplateReference(
    type="ref/resource", uri="document://{collection}/{id}"
)
PROMPT = PromptReference(type="ref/prompt", name=ANSWER)


@pytest.fixture(params=["legacy", "auto"])
async def client(
    engine: Engine, settings: Settings, request: pytest.FixtureRequest
) -> AsyncIterator[Client]:
    server = create_server(Ready(engine), settings)
    async with Client(server, mode=request.param) as client:
        yield client


async def prompt(client: Client, name: str, **arguments: str) -> str:
    (message,) = (await client.get_prompt(name, arguments)).messages
    assert message.role == "user"
    assert isinstance(message.content, TextContent)
    return message.content.text


async def completed(
    client: Client,
    ref: PromptReference | ResourceTemplateReference,
    name: str,
    value: str,
    **given: str,
) -> list[str]:
    result = await client.complete(
        ref, {"name": name, "value": value}, context_arguments=given or None
    )
    return list(result.completion.values)


async def test_the_prompts_explain_themselves(client: Client) -> None:
    prompts = (await client.list_prompts()).prompts
    assert {each.name for each in prompts} == {ANSWER, REMEMBER}
    for each in prompts:
        assert each.title
        assert each.description
        assert all(argument.description for argument in each.arguments or [])


async def test_the_prompt_to_answer_asks_for_a_search_and_citations(
    client: Client,
) -> None:
    text = await prompt(client, ANSWER, question="Why {tea}?", collection="drinks")
    assert text.endswith("Question: Why {tea}?")
    assert "`hybrid-search` (collection 'drinks')" in text
    assert "cite" in text


async def test_the_prompt_to_remember_asks_for_one_document_in_its_newest_form(
    client: Client,
) -> None:
    text = await prompt(client, REMEMBER, what="Ann likes tea.", namespace="ann")
    assert text.endswith("To remember: Ann likes tea.")
    assert "`store-document` (namespace 'ann')" in text


async def test_the_prompts_name_only_tools_that_there_are(client: Client) -> None:
    tools = {tool.name for tool in (await client.list_tools()).tools}
    for name, argument in ((ANSWER, "question"), (REMEMBER, "what")):
        text = await prompt(client, name, **{argument: "x"})
        named = set(re.findall(r"`([a-z]+-[a-z]+)`", text))
        assert "hybrid-search" in named
        assert named <= tools


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        (ANSWER, {}, "question is required"),
        (ANSWER, {"question": "x", "colection": "y"}, "Did you mean 'collection'?"),
        ("answer", {"question": "x"}, f"Prompts: {ANSWER}, {REMEMBER}"),
    ],
)
async def test_a_prompt_that_cannot_be_filled_in_is_refused(
    client: Client, name: str, arguments: dict[str, str], told: str
) -> None:
    with pytest.raises(MCPError, match=re.escape(told)) as refused:
        await client.get_prompt(name, arguments)
    assert refused.value.error.code == -32602


async def test_what_is_stored_completes_what_is_typed(client: Client) -> None:
    for collection, namespace, identity in (
        ("notes", "ann", "tea-1"),
        ("notes", "ann", "tea-2"),
        ("notes", "bob", "tea-3"),
        ("names", "ann", "coffee"),
        ("documents", "default", "tea_%"),
        ("documents", "default", "teapot"),
    ):
        await call(client, "store-document", text=identity, id=identity,
                   collection=collection, namespace=namespace)  # fmt: skip
    for ref in (DOCUMENT, PROMPT):
        assert await completed(client, ref, "collection", "n") == ["names", "notes"]
    assert await completed(client, PROMPT, "namespace", "", collection="notes") == [
        "ann", "bob",
    ]  # fmt: skip
    assert await completed(client, DOCUMENT, "id", "te") == ["tea_%", "teapot"]
    assert await completed(client, DOCUMENT, "id", "tea_") == ["tea_%"]
    assert await completed(
        client, DOCUMENT, "id", "tea", collection="notes", namespace="ann"
    ) == ["tea-1", "tea-2"]
    assert await completed(client, PROMPT, "question", "te") == []


async def test_more_than_can_be_shown_is_told(client: Client) -> None:
    documents = [{"text": f"x{i}", "id": f"x{i:03}"} for i in range(101)]
    await call(client, "store-documents", documents=documents)
    result = await client.complete(DOCUMENT, {"name": "id", "value": "x"})
    assert len(result.completion.values) == 100
    assert result.completion.has_more


async def test_nothing_is_proposed_where_nothing_can_be_looked_up(
    settings: Settings,
) -> None:
    async with Client(create_server(Unopened(), settings)) as client:
        assert await completed(client, DOCUMENT, "id", "x") == []
