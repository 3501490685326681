"""A client stands in for the engine: it asks again, gives up, and sends nothing bad."""

import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from mcp_hybrid_search import engine_client, engine_socket, engine_starting
from mcp_hybrid_search import engine_protocol as protocol
from mcp_hybrid_search.documents import (
    AuditEntry,
    CollectionInfo,
    Deletion,
    Document,
    DocumentPage,
    DocumentText,
    ListRequest,
    NewDocument,
    Origin,
    SearchRequest,
    SearchResult,
    Stored,
)
from mcp_hybrid_search.engine_client import (
    CRASH_LIMIT,
    GONE_LIMIT,
    REPEATED,
    EngineClient,
)
from mcp_hybrid_search.errors import (
    ConflictError,
    HybridSearchError,
    InvalidInputError,
    NotFoundError,
    StoreUnavailableError,
)
from mcp_hybrid_search.settings import Settings
from tests.fake_engine import (
    Call,
    Engines,
    answers,
    answers_status,
    dies,
    fails,
    result,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not engine_socket.sockets_exist(), reason="no Unix sockets"),
]

CANARY = "tr0ub4dor"
STORED = Stored("it", "documents", "created", 2, ("Nice.",))
FOUND = SearchResult((), "documents", ("Nothing is stored.",), {"total": 1.5})
DOCUMENT = Document("it", "documents", "default", None, None, {"a": 1}, 1.0, 2.0, 3)
TEXT = DocumentText(DOCUMENT, "running text", 1, 2)
INFO = CollectionInfo("documents", "bundled", 1, 2, 3, 4.5)

Method = Callable[[EngineClient], Awaitable[Any]]


def new(text: str, **given: Any) -> NewDocument:
    return NewDocument(text, **{"collection": "c", "namespace": "n", **given})


def attempts(engines: Engines) -> list[int]:
    return [int(call.headers[protocol.ATTEMPT_HEADER]) for call in engines.calls]


MINE = Origin("me", "a tool", "a call")
ORIGIN = {"origin": {"client": "me", "tool": "a tool", "call": "a call"}}
ENTRY = AuditEntry(1.5, "me", "a tool", "deleted", "c", "n", "it")
PLACE = {"collection": "c", "namespace": "n", "document_id": "it"}
DONE: list[tuple[Method, str, dict[str, Any], Any]] = [
    (
        lambda client: client.document("c", "n", "it", first_chunk=1),
        "document",
        {**PLACE, "first_chunk": 1, "chunk_limit": None},
        TEXT,
    ),
    (
        lambda client: client.update_metadata("c", "n", "it", {"a": None}, origin=MINE),
        "update_metadata",
        {**PLACE, "patch": {"a": None}, **ORIGIN},
        DOCUMENT,
    ),
    (
        lambda client: client.delete("c", "n", "it", origin=MINE),
        "delete",
        {**PLACE, **ORIGIN},
        True,
    ),
    (
        lambda client: client.delete_matching(
            "c", "n", {"a": 1}, expected_count=1, origin=MINE
        ),
        "delete_matching",
        {
            "collection": "c",
            "namespace": "n",
            "filter_": {"a": 1},
            "expected_count": 1,
            **ORIGIN,
        },
        Deletion(1, ("it",), deleted=True),
    ),
    (
        lambda client: client.documents(ListRequest("c", "n", {"a": 1}, "title", 3)),
        "documents",
        {
            "request": {
                "collection": "c",
                "namespace": "n",
                "filter": {"a": 1},
                "order_by": "title",
                "limit": 3,
                "cursor": None,
            }
        },
        DocumentPage((DOCUMENT,), 1, "c"),
    ),
    (
        lambda client: client.collections("n"),
        "collections",
        {"namespace": "n"},
        [INFO],
    ),
    (
        lambda client: client.namespaces("c", "n", 3),
        "namespaces",
        {"collection": "c", "prefix": "n", "limit": 3},
        ["n"],
    ),
    (
        lambda client: client.document_ids("c", "n", "i", 3),
        "document_ids",
        {"collection": "c", "namespace": "n", "prefix": "i", "limit": 3},
        ["it"],
    ),
    (
        lambda client: client.audit(limit=3, namespace="n"),
        "audit",
        {"limit": 3, "namespace": "n"},
        [ENTRY],
    ),
    (
        lambda client: client.reindex("c", origin=MINE),
        "reindex",
        {"name": "c", **ORIGIN},
        7,
    ),
]


@pytest.mark.parametrize("done", DONE, ids=lambda done: done[1])
async def test_a_call_is_done_by_the_engine(
    client: EngineClient,
    engines: Engines,
    done: tuple[Method, str, dict[str, Any], Any],
) -> None:
    method, operation, arguments, value = done
    engines.will_be(answers(operation, value))
    assert await method(client) == value
    (call,) = engines.calls
    assert (call.operation, call.arguments) == (operation, arguments)


async def test_a_search_is_done_by_the_engine(
    client: EngineClient, engines: Engines
) -> None:
    engines.will_be(answers("search", FOUND))
    request = SearchRequest("whale", "c", "n", limit=3, filter={"year": {"lt": 1970}})
    assert await client.search(request) == FOUND
    operation = protocol.OPERATIONS["search"]
    arguments = operation.arguments.validate_json(engines.calls[0].body)
    assert arguments == {"request": request}


@pytest.mark.parametrize(
    "error",
    [InvalidInputError("No."), NotFoundError("Gone."), ConflictError("Not so.")],
)
async def test_an_error_of_the_engine_is_raised_here(
    client: EngineClient, engines: Engines, error: HybridSearchError
) -> None:
    engines.will_be(fails(error))
    with pytest.raises(type(error), match=str(error)):
        await client.collections()
    assert len(engines.calls) == 1


async def test_a_bug_of_the_engine_is_a_bug_here(
    client: EngineClient, engines: Engines
) -> None:
    engines.will_be(fails(KeyError(CANARY)))
    with pytest.raises(RuntimeError, match="log") as caught:
        await client.collections()
    assert CANARY not in str(caught.value)


async def test_a_document_that_was_not_stored_is_an_error_of_store(
    client: EngineClient, engines: Engines
) -> None:
    refusal = ConflictError("It is there.")
    engines.will_be(answers("store_many", [refusal]))
    with pytest.raises(ConflictError, match="It is there"):
        await client.store(new("text"))
    (outcome,) = await client.store_many([new("text")])
    assert isinstance(outcome, ConflictError)


async def test_storing_is_repeated_when_the_engine_dies_and_says_so(
    client: EngineClient, engines: Engines
) -> None:
    refusal = ConflictError("It is there.")
    cut = result("store_many", [STORED])[:20]
    engines.will_be(
        dies(b"progress [1, 2, ", cut),
        answers("store_many", [STORED, refusal], b"started\n"),
    )
    stored, refused = await client.store_many([new("one"), new("two")])
    assert isinstance(stored, Stored)
    assert stored.notices == ("Nice.", REPEATED)
    assert isinstance(refused, ConflictError)
    first, second = engines.calls
    assert first.body == second.body
    assert attempts(engines) == [0, 1]


async def test_a_search_is_repeated_when_the_engine_dies_and_says_so(
    client: EngineClient, engines: Engines
) -> None:
    engines.will_be(dies(), answers("search", FOUND, b"started\n"))
    found = await client.search(SearchRequest("whale", "c", "n"))
    assert found.notices == (*FOUND.notices, REPEATED)


async def test_what_was_not_repeated_says_nothing_of_it(
    client: EngineClient, engines: Engines
) -> None:
    engines.will_be(answers("search", FOUND))
    assert (await client.search(SearchRequest("whale", "c", "n"))) == FOUND
    engines.started[0].behaviour = answers("store_many", [STORED])
    assert await client.store(new("text")) == STORED


async def test_an_engine_that_left_before_it_began_was_not_asked_again(
    client: EngineClient, engines: Engines
) -> None:
    engines.will_be(replaced_by_the_next, answers("store_many", [STORED]))
    assert await client.store(new("text")) == STORED
    assert attempts(engines) == [0, 0]


async def replaced_by_the_next(call: Call) -> None:
    call.answer(b"", 409)
    await call.writer.drain()
    call.engine.end()


DEADLY: list[Any] = [
    pytest.param(
        lambda client: client.store_many(
            [new(CANARY, document_id=name) for name in ("one", "two", "three", "four")]
        ),
        "storing 4 documents ('one', 'two', 'three')",
        id="store",
    ),
    pytest.param(
        lambda client: client.store(new(CANARY)), "no ids given", id="store without id"
    ),
    pytest.param(
        lambda client: client.search(SearchRequest(CANARY, "c", "n")),
        "search",
        id="search",
    ),
    pytest.param(
        lambda client: client.document("c", "n", "it"), "reading 'it'", id="document"
    ),
    pytest.param(
        lambda client: client.delete("c", "n", "it"), "deleting 'it'", id="delete"
    ),
    pytest.param(
        lambda client: client.reindex("books"), "reindexing 'books'", id="reindex"
    ),
]


@pytest.mark.parametrize(("method", "named"), DEADLY)
async def test_a_call_that_kills_every_engine_is_refused_by_name(
    client: EngineClient,
    engines: Engines,
    method: Method,
    named: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    engines.will_be(*[dies(b"started\n")] * CRASH_LIMIT, answers("collections", []))
    for _ in range(2):
        with pytest.raises(StoreUnavailableError) as caught:
            await method(client)
        assert named in str(caught.value)
        assert f"{CRASH_LIMIT} times within a minute" in str(caught.value)
        assert CANARY not in str(caught.value)
    assert attempts(engines) == [0, 1, 2]
    assert await client.collections() == []
    assert CANARY not in caplog.text


async def test_a_deadly_call_is_tried_again_when_a_minute_has_passed(
    client: EngineClient, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines.will_be(*[dies(b"started\n")] * CRASH_LIMIT, answers("reindex", 7))
    with pytest.raises(StoreUnavailableError, match="books"):
        await client.reindex("books")
    monkeypatch.setattr(engine_client, "CRASH_SECONDS", 0.0)
    assert await client.reindex("books") == 7
    assert attempts(engines) == [0, 1, 2, 0]


async def test_a_call_that_succeeds_has_a_clean_record(
    client: EngineClient, engines: Engines
) -> None:
    dying = [dies(b"started\n")] * (CRASH_LIMIT - 1)
    engines.will_be(*dying, dies_after_one_answer, *dying, answers("reindex", 8))
    assert await client.reindex("books") == 7
    assert await client.reindex("books") == 8
    assert attempts(engines) == [0, 1, 2, 0, 1, 2]


async def dies_after_one_answer(call: Call) -> None:
    call.answer(b"started\n" + result("reindex", 7))
    await call.writer.drain()
    call.engine.end()


async def test_a_call_that_waited_while_another_killed_the_engine_is_not_blamed(
    client: EngineClient, engines: Engines
) -> None:
    """The engine runs suspects one by one; only a line tells which one it was."""
    engines.will_be(
        dies(), dies(), *[dies(b"alive\n")] * (CRASH_LIMIT + 2), answers("reindex", 7)
    )
    assert await client.reindex("books") == 7
    assert attempts(engines) == [0, 1] + [2] * (CRASH_LIMIT + 3)


async def test_engines_that_always_leave_are_given_up(
    client: EngineClient, engines: Engines
) -> None:
    engines.will_be(answers_status(409))
    with pytest.raises(StoreUnavailableError, match=r"20 engines left.*books"):
        await client.reindex("books")
    assert len(engines.calls) == GONE_LIMIT


async def test_every_document_has_its_outcome_and_bad_ones_stay_here(
    client: EngineClient, engines: Engines
) -> None:
    async def answer(call: Call) -> None:
        texts = [document["text"] for document in call.arguments["documents"]]
        stored = [Stored(text, "c", "created", 1) for text in texts]
        call.answer(result("store_many", stored))

    engines.will_be(answer)
    bad = ["lone \ud800", "", "x" * 2_000_000]
    texts = [bad[0], "one", bad[1], "two", "three", bad[2]]
    outcomes = await client.store_many([new(text) for text in texts])
    told = [o.document_id if isinstance(o, Stored) else type(o) for o in outcomes]
    assert told == [
        InvalidInputError,
        "one",
        InvalidInputError,
        "two",
        "three",
        InvalidInputError,
    ]


BAD_DOCUMENTS: list[Any] = [
    pytest.param(new("t", metadata={"a": float("nan")}), "metadata.a", id="nan"),
    pytest.param(new("t", metadata={"a": [-float("inf")]}), "JSON", id="inf"),
    pytest.param(new("t", metadata={"a": 2**63}), "64 bit", id="integer"),
    pytest.param(new("t", metadata={"\udc80": 1}), "surrogate", id="key"),
    pytest.param(new("t", metadata={"a": "\ud800"}), "surrogate", id="value"),
    pytest.param(new("\ud800"), "surrogate", id="text"),
    pytest.param(new("t", title="\ud800"), "surrogate", id="title"),
    pytest.param(new("t", source="\ud800"), "surrogate", id="source"),
    pytest.param(new("t", document_id="\ud800"), "surrogate", id="id"),
    pytest.param(new("t", collection="../c"), "collection", id="collection"),
    pytest.param(new("t", namespace="\ud800"), "namespace", id="namespace"),
    pytest.param(new(" "), "empty", id="empty"),
]


@pytest.mark.parametrize(("document", "told"), BAD_DOCUMENTS)
async def test_no_engine_is_started_for_a_bad_document(
    client: EngineClient, engines: Engines, document: NewDocument, told: str
) -> None:
    with pytest.raises(InvalidInputError, match=told):
        await client.store(document)
    (outcome,) = await client.store_many([document])
    assert isinstance(outcome, InvalidInputError)
    assert await client.store_many([]) == []
    assert engines.started == []


def nested(depth: int) -> dict[str, Any]:
    return {"not": nested(depth - 1)} if depth else {"a": 1}


@pytest.mark.parametrize(
    "method",
    [
        lambda client: client.search(SearchRequest("\ud800", "c", "n")),
        lambda client: client.search(SearchRequest(" ", "c", "n")),
        lambda client: client.search(SearchRequest("q", "c", "n", limit=0)),
        lambda client: client.search(SearchRequest("q", "..", "n")),
        lambda client: client.search(SearchRequest("q", "c", "n", filter=nested(9))),
        lambda client: client.search(
            SearchRequest("q", "c", "n", filter={"a": float("nan")})
        ),
        lambda client: client.search(
            SearchRequest("q", "c", "n", filter={"a": "\ud800"})
        ),
        lambda client: client.document("c", "n", "\ud800"),
        lambda client: client.document("../c", "n", "it"),
        lambda client: client.delete("c", "n", ""),
        lambda client: client.delete("c", "n/", "it"),
        lambda client: client.reindex("\ud800"),
    ],
)
async def test_no_engine_is_started_for_a_bad_call(
    client: EngineClient, engines: Engines, method: Method
) -> None:
    with pytest.raises(InvalidInputError):
        await method(client)
    assert engines.started == []


async def test_whoever_waits_for_the_engine_waits_in_its_call(
    client: EngineClient, engines: Engines
) -> None:
    assert await client.engine() is client
    assert engines.started == []


@pytest.mark.parametrize("fault", [None, StoreUnavailableError("No disk.")])
async def test_starting_starts_the_engine_and_leaves_errors_to_calls(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, fault: Exception | None
) -> None:
    launched = threading.Event()

    def running(given: Settings) -> None:
        assert given is settings
        launched.set()
        if fault is not None:
            raise fault

    monkeypatch.setattr(engine_starting, "running", running)
    EngineClient(settings).start()
    await anyio.to_thread.run_sync(launched.wait, 60)
    for thread in threading.enumerate():
        if thread.name == "start":
            thread.join()
    assert launched.is_set()


async def test_starting_imports_what_calls_need_only_once(settings: Settings) -> None:
    client = EngineClient(settings)
    for _ in range(2):
        client.start()
    importing = [t for t in threading.enumerate() if t.name == "import"]
    assert len(importing) <= 1
    for thread in importing:
        thread.join()
