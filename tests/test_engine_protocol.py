"""What travels between a client and an engine arrives as it was."""

import inspect
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_hybrid_search import engine_protocol as protocol
from mcp_hybrid_search import errors
from mcp_hybrid_search.documents import (
    AuditEntry,
    CollectionInfo,
    Deletion,
    Document,
    DocumentPage,
    DocumentText,
    Hit,
    ListRequest,
    NewDocument,
    Origin,
    SearchRequest,
    SearchResult,
    Stored,
    TokenMatch,
)
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.engine_client import EngineClient
from mcp_hybrid_search.engine_protocol import OPERATIONS, Failure
from mcp_hybrid_search.errors import (
    BusyError,
    ForbiddenError,
    HybridSearchError,
    NotFoundError,
)
from mcp_hybrid_search.settings import load_settings

ALONE = {"start", "introduce", "engine", "aclose", "close"}
"""What opens, names and closes an engine does not travel."""
ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, HybridSearchError)
    # An engine knows neither places for calls nor tokens.
    if value not in {BusyError, ForbiddenError}
]
NASTY = [
    "\u2028\u2029\x85\x0b\x0c",
    "a\nb\r\nresult {}\n",
    "\0",
    "👩‍🔬 e\u0301",
    "\x7f",
]

texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(NASTY)
floats = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**63 - 1)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner),
    max_leaves=6,
)
metadata = st.dictionaries(texts, values, max_size=3)
optional = st.none() | texts
notices = st.lists(texts, max_size=2).map(tuple)
figures = st.dictionaries(texts, floats, max_size=2)
new_documents = st.builds(
    NewDocument,
    texts,
    texts,
    texts,
    document_id=optional,
    title=optional,
    source=optional,
    metadata=st.none() | metadata,
    if_exists=st.sampled_from(["replace", "skip", "error"]),
    times=st.none() | st.tuples(floats, floats),
)
documents = st.builds(
    Document, texts, texts, texts, optional, optional, metadata, floats, floats, counts
)
stored = st.builds(
    Stored,
    texts,
    texts,
    st.sampled_from(["created", "replaced", "unchanged", "skipped"]),
    counts,
    notices,
)
known_errors = st.builds(lambda kind, text: kind(text), st.sampled_from(ERRORS), texts)
matches = st.lists(st.builds(TokenMatch, texts, texts, floats), max_size=2).map(tuple)
hits = st.builds(
    Hit,
    documents,
    counts,
    texts,
    floats,
    st.dictionaries(texts, counts, max_size=2),
    figures,
    matches,
)
origins = st.builds(Origin, texts, texts, texts)
places = {"collection": texts, "namespace": texts, "document_id": texts}
ARGUMENTS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "store_many": st.fixed_dictionaries(
        {"documents": st.lists(new_documents, max_size=2), "origin": origins}
    ),
    "search": st.fixed_dictionaries(
        {
            "request": st.builds(
                SearchRequest,
                texts,
                texts,
                texts,
                limit=counts,
                filter=st.none() | metadata,
                per_document=st.booleans(),
                explain=st.booleans(),
            )
        }
    ),
    "document": st.fixed_dictionaries(
        {
            "collection": texts,
            "namespace": texts,
            "document_id": texts,
            "first_chunk": counts,
            "chunk_limit": st.none() | counts,
        }
    ),
    "documents": st.fixed_dictionaries(
        {
            "request": st.builds(
                ListRequest,
                texts,
                texts,
                filter=st.none() | metadata,
                order_by=st.sampled_from(["id", "-title", "updated_at"]),
                limit=counts,
                cursor=optional,
            )
        }
    ),
    "update_metadata": st.fixed_dictionaries(
        {**places, "patch": metadata, "origin": origins}
    ),
    "delete": st.fixed_dictionaries({**places, "origin": origins}),
    "delete_matching": st.fixed_dictionaries(
        {
            "collection": texts,
            "namespace": texts,
            "filter_": metadata,
            "expected_count": st.none() | counts,
            "origin": origins,
        }
    ),
    "collections": st.fixed_dictionaries({"namespace": optional}),
    "namespaces": st.fixed_dictionaries(
        {"collection": texts, "prefix": texts, "limit": counts}
    ),
    "document_ids": st.fixed_dictionaries(
        {"collection": texts, "namespace": texts, "prefix": texts, "limit": counts}
    ),
    "audit": st.fixed_dictionaries({"limit": counts, "namespace": optional}),
    "reindex": st.fixed_dictionaries({"name": texts, "origin": origins}),
}
RESULTS: dict[str, st.SearchStrategy[Any]] = {
    "store_many": st.lists(stored | known_errors, max_size=3),
    "search": st.builds(
        SearchResult, st.lists(hits, max_size=2).map(tuple), texts, notices, figures
    ),
    "document": st.builds(DocumentText, documents, texts, counts, counts),
    "documents": st.builds(
        DocumentPage,
        st.lists(documents, max_size=2).map(tuple),
        counts,
        texts,
        optional,
        notices,
    ),
    "update_metadata": documents,
    "delete": st.booleans(),
    "delete_matching": st.builds(
        Deletion, counts, st.lists(texts, max_size=2).map(tuple), st.booleans()
    ),
    "namespaces": st.lists(texts, max_size=2),
    "document_ids": st.lists(texts, max_size=2),
    "audit": st.lists(
        st.builds(AuditEntry, floats, texts, texts, texts, texts, texts, texts),
        max_size=2,
    ),
    "collections": st.lists(
        st.builds(CollectionInfo, texts, texts, counts, counts, counts, floats),
        max_size=2,
    ),
    "reindex": counts,
}


def exactly(value: Any) -> Any:
    """Tell apart what `==` takes for the same: errors, and 1, 1.0 and True."""
    if isinstance(value, list):
        return [exactly(item) for item in value]
    if isinstance(value, dict):
        return {key: exactly(item) for key, item in value.items()}
    if isinstance(value, HybridSearchError):
        return type(value), str(value)
    return type(value), repr(value)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_arguments_arrive_as_they_were(name: str, data: st.DataObject) -> None:
    arguments = data.draw(ARGUMENTS[name])
    travelled = OPERATIONS[name].arguments.dump_json(arguments)
    assert exactly(OPERATIONS[name].arguments.validate_json(travelled)) == exactly(
        arguments
    )


@pytest.mark.parametrize("name", OPERATIONS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_a_result_arrives_as_it_was_and_on_one_line(
    name: str, data: st.DataObject
) -> None:
    result = data.draw(RESULTS[name])
    line = protocol.result_line(OPERATIONS[name], result)
    assert line.count(b"\n") == 1
    word, _, value = line.decode().rstrip("\n").partition(" ")
    assert word == protocol.RESULT
    arrived = protocol.parsed_result(OPERATIONS[name], value)
    assert exactly(arrived) == exactly(result)


@settings(deadline=None, max_examples=50)
@given(word=st.just("progress"), value=st.lists(floats | texts, min_size=1))
def test_a_line_is_a_word_and_json(word: str, value: list[Any]) -> None:
    line = protocol.line(word, value)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    told, _, rest = line.decode("ascii").partition(" ")
    assert (told, json.loads(rest)) == (word, value)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_travels_as_itself(kind: type[HybridSearchError]) -> None:
    travelled = protocol.FAILURE.dump_json(protocol.failure(kind("Say \u2028 this.")))
    arrived = protocol.error(protocol.FAILURE.validate_json(travelled))
    assert exactly(arrived) == (kind, "Say \u2028 this.")


def test_an_error_of_a_newer_engine_keeps_its_text() -> None:
    arrived = protocol.error(Failure("QuotaError", "Wait."))
    assert exactly(arrived) == (HybridSearchError, "Wait.")


def test_an_error_of_an_error_keeps_its_text() -> None:
    class _MissingError(NotFoundError):
        """Known to the engine only."""

    arrived = protocol.error(protocol.failure(_MissingError("Gone.")))
    assert isinstance(arrived, HybridSearchError)
    assert str(arrived) == "Gone."


@pytest.mark.parametrize("kind", [ValueError, KeyError, OSError, RuntimeError])
def test_what_nobody_foresaw_tells_nothing_of_its_text(kind: type[Exception]) -> None:
    failed = protocol.failure(kind("tr0ub4dor"))
    assert failed == Failure(protocol.BUG, "")
    told = protocol.error(failed)
    assert not isinstance(told, HybridSearchError)
    assert "log" in str(told)


def test_every_method_of_an_engine_travels() -> None:
    """`store` travels as `store_many` of one."""
    methods = {
        name
        for name, value in vars(Engine).items()
        if inspect.iscoroutinefunction(value) and not name.startswith("_")
    }
    assert methods - ALONE - {"store"} == set(OPERATIONS) == set(ARGUMENTS)


def shape(method: Any) -> list[tuple[str, Any, Any]]:
    parameters = inspect.signature(method).parameters.values()
    return [(each.name, each.kind, each.default) for each in parameters]


@pytest.mark.parametrize("name", [*OPERATIONS, "store"])
def test_a_client_is_called_like_an_engine(name: str) -> None:
    assert shape(getattr(EngineClient, name)) == shape(getattr(Engine, name))


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_travels_are_the_methods_arguments(name: str) -> None:
    taken = {parameter for parameter, _, _ in shape(getattr(Engine, name))}
    schema = OPERATIONS[name].arguments.json_schema()
    assert set(schema["properties"]) == taken - {"self", "progress"}
    assert OPERATIONS[name].tells_progress == ("progress" in taken)


def test_a_call_is_named_by_all_that_it_asks_for() -> None:
    document, delete = OPERATIONS["document"], OPERATIONS["delete"]
    named = {
        protocol.digest(operation, body)
        for operation in (document, delete)
        for body in (b"{}", b'{"a": 1}')
    }
    assert len(named) == 4
    assert protocol.digest(delete, b"{}") in named


def test_an_introduction_of_a_newer_engine_can_be_read() -> None:
    mine = protocol.terms(load_settings())
    hello = protocol.Hello(1, "i", mine, clients=0)
    newer = {**json.loads(protocol.HELLO.dump_json(hello)), "mood": "fine"}
    assert protocol.HELLO.validate_json(json.dumps(newer)) == hello


def test_the_terms_name_no_setting_of_one_client_alone() -> None:
    agreed = protocol.terms(load_settings()).settings
    assert "chunk_tokens" in agreed
    assert not {"data_dir", "namespace", "engine_idle_seconds"} & agreed.keys()
