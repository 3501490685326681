"""Nothing of a namespace shows in another: neither texts, nor names, nor counts."""

import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_hybrid_search.documents import (
    ListRequest,
    NewDocument,
    SearchRequest,
    Stored,
)
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.errors import (
    ConflictError,
    HybridSearchError,
    InvalidInputError,
    NotFoundError,
)
from mcp_hybrid_search.settings import load_settings
from mcp_hybrid_search.stores import indexes
from tests.conftest import OpenEngine, SharedEncoders

pytestmark = pytest.mark.anyio

Ask = Callable[[Engine, str], Awaitable[Any]]


def new(namespace: str, document_id: str, **given: Any) -> NewDocument:
    values = {"text": f"The word is {document_id}.", "collection": "documents", **given}
    return NewDocument(namespace=namespace, document_id=document_id, **values)


def search(engine: Engine, namespace: str, **given: Any) -> Awaitable[Any]:
    values = {"query": "word", "collection": "documents", "limit": 100, **given}
    return engine.search(SearchRequest(namespace=namespace, **values))


def listing(engine: Engine, namespace: str, **given: Any) -> Awaitable[Any]:
    return engine.documents(
        ListRequest(**{"collection": "documents", "namespace": namespace, **given})
    )


# Whatever bob asks, and whoever else there is

ASKED: dict[str, Ask] = {
    "search": lambda e, c: search(e, "bob", collection=c),
    "search with a filter": lambda e, c: search(
        e, "bob", collection=c, filter={"k": 1}
    ),
    "list": lambda e, c: listing(e, "bob", collection=c),
    "list with a filter": lambda e, c: listing(e, "bob", collection=c, filter={"k": 1}),
    "read": lambda e, c: e.document(c, "bob", "a"),
    "update": lambda e, c: e.update_metadata(c, "bob", "a", {"k": 2}),
    "delete": lambda e, c: e.delete(c, "bob", "a"),
    "count": lambda e, c: e.delete_matching(c, "bob", {"k": 1}, expected_count=None),
    "delete by filter": lambda e, c: e.delete_matching(
        c, "bob", {"k": 1}, expected_count=1
    ),
    "ids": lambda e, c: e.document_ids(c, "bob"),
    "collections": lambda e, _: e.collections("bob"),
    "audit": lambda e, _: e.audit(namespace="bob"),
}


async def answer(asked: Awaitable[Any]) -> tuple[str, str]:
    """Return what a call said, but for how long it took."""
    try:
        result = await asked
    except HybridSearchError as exc:
        return type(exc).__name__, str(exc)
    if hasattr(result, "milliseconds"):
        result = (result.hits, result.collection, result.notices)
    return "", repr(result)


OF_BOB = {
    "nothing at all": [],
    "documents elsewhere": [new("bob", "mine", collection="bobs")],
}


@pytest.mark.parametrize("own", OF_BOB)
@pytest.mark.parametrize("asked", ASKED)
async def test_a_collection_of_others_is_as_if_it_did_not_exist(
    engine: Engine, asked: str, own: str
) -> None:
    await engine.store_many(OF_BOB[own])
    alone = await answer(ASKED[asked](engine, "alices"))
    await engine.store(new("alice", "a", collection="alices", metadata={"k": 1}))
    await engine.store(new("alice", "b", collection="Secret"))

    told = await answer(ASKED[asked](engine, "alices"))

    assert told == alone
    assert "alice" not in told[1].replace("'alices'", "")
    assert "Secret" not in told[1]


async def test_only_the_collections_of_the_namespace_are_named(engine: Engine) -> None:
    await engine.store(new("alice", "a", collection="secret"))
    await engine.store(new("bob", "a", collection="bobs"))
    for asked in ("search", "list", "read", "update", "delete", "count"):
        with pytest.raises(NotFoundError) as caught:
            await ASKED[asked](engine, "secret")
        told = "There is no collection 'secret'. There are: 'bobs'."
        assert str(caught.value) == told, asked


async def test_before_a_namespace_holds_anything_it_is_told_the_same(
    engine: Engine,
) -> None:
    alone = await answer(search(engine, "bob"))
    await engine.store(new("alice", "a"))
    assert await answer(search(engine, "bob")) == alone
    assert "Nothing is stored yet in namespace 'bob'" in alone[1]


async def test_a_name_that_differs_in_case_tells_nothing_of_others(
    engine: Engine,
) -> None:
    await engine.store(new("alice", "a", collection="SecRet"))
    (outcome,) = await engine.store_many([new("bob", "a", collection="secret")])
    assert isinstance(outcome, ConflictError)
    assert "SecRet" not in str(outcome)
    assert "alice" not in str(outcome)
    found = await answer(search(engine, "bob", collection="secret"))
    assert "Nothing is stored yet" in found[1]
    with pytest.raises(ConflictError, match="Use 'SecRet'"):
        await search(engine, "alice", collection="secret")


async def test_a_cursor_of_one_namespace_is_refused_in_another(engine: Engine) -> None:
    for namespace in ("alice", "bob"):
        await engine.store_many([new(namespace, name) for name in "abc"])
    page = await listing(engine, "alice", limit=1)
    with pytest.raises(InvalidInputError, match="Start again without cursor"):
        await listing(engine, "bob", limit=1, cursor=page.next_cursor)


async def test_sizes_are_those_of_the_namespace(engine: Engine) -> None:
    await engine.store_many([new("alice", name * 100) for name in "abcdef"])
    await engine.store(new("bob", "a", text="Sì."))
    (info,) = await engine.collections("bob")
    mine = (await engine.document("documents", "bob", "a")).document
    assert (info.documents, info.chunks, info.size_bytes) == (1, 1, 4)
    assert info.created_at == mine.created_at
    (everything,) = await engine.collections()
    assert everything.documents == 7


async def test_what_is_indexed_again_is_told_to_whom_it_belongs(
    open_engine: OpenEngine,
    encoders: SharedEncoders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = open_engine()
    await engine.store_many([new("alice", name) for name in "abc"])
    await engine.store(new("bob", "a"))
    engine.close()
    shutil.rmtree(tmp_path / "data" / "index")

    def refuse(*_: object, **__: object) -> None:
        msg = "out of memory"
        raise RuntimeError(msg)

    monkeypatch.setattr(indexes, "REPAIR_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(encoders, "encode_documents", refuse)
    engine = open_engine()
    for namespace, count in (("alice", 3), ("bob", 1)):
        (notice,) = (await search(engine, namespace)).notices
        assert notice.startswith(f"{count} documents")


# Two tenants with the same ids and the same texts

steps = st.lists(
    st.tuples(
        st.sampled_from(["alice", "bob"]),
        st.sampled_from(["store", "update", "delete", "delete matching"]),
        st.sampled_from("abc"),
        st.integers(0, 2),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, encoders: SharedEncoders
) -> Iterator[Engine]:
    """An engine that examples share; each empties it first."""
    root = tmp_path_factory.mktemp("tenants")
    engine = Engine(load_settings(data_dir=root / "data", min_free_bytes=0), encoders)
    yield engine
    engine.close()


async def seen(engine: Engine, namespace: str) -> dict[str, Any]:
    """Return everything that a namespace shows, as metadata by id; all must agree."""
    page = await listing(engine, namespace)
    by_list = {d.document_id: d.metadata for d in page.documents}
    found = await search(engine, namespace)
    by_search = {h.document.document_id: h.document.metadata for h in found.hits}
    assert by_search == by_list
    assert {d.namespace for d in page.documents} <= {namespace}
    assert page.total == len(by_list)
    assert await engine.document_ids("documents", namespace) == sorted(by_list)
    counts = [info.documents for info in await engine.collections(namespace)]
    assert counts == ([len(by_list)] if by_list else [])
    for number in range(3):
        matching = await search(engine, namespace, filter={"k": number})
        ids = {hit.document.document_id for hit in matching.hits}
        assert ids == {name for name, k in by_list.items() if k == {"k": number}}
    return by_list


@settings(deadline=None, max_examples=25)
@given(steps=steps)
def test_what_one_tenant_does_is_seen_by_that_tenant_alone(
    shared: Engine, steps: list[Any]
) -> None:
    async def check() -> None:
        await empty(shared)
        expected: dict[str, dict[str, Any]] = {"alice": {}, "bob": {}}
        for namespace, *change in steps:
            await step(
                shared,
                expected[namespace],
                namespace,
                (change[0], change[1], change[2]),
            )
        for namespace, documents in expected.items():
            assert await seen(shared, namespace) == documents

    anyio.run(check)


async def empty(engine: Engine) -> None:
    for namespace in ("alice", "bob"):
        for name in await engine.document_ids("documents", namespace):
            await engine.delete("documents", namespace, name)


async def step(
    engine: Engine,
    documents: dict[str, Any],
    namespace: str,
    change: tuple[str, str, int],
) -> None:
    kind, name, number = change
    place = ("documents", namespace)
    metadata = {"k": number}
    if kind == "store":
        outcome = await engine.store(new(namespace, name, metadata=metadata))
        assert isinstance(outcome, Stored)
        documents[name] = metadata
    elif kind == "update" and name in documents:
        await engine.update_metadata(*place, name, metadata)
        documents[name] = metadata
    elif kind == "delete":
        deleted = await engine.delete(*place, name)
        assert deleted == (documents.pop(name, None) is not None)
    elif kind == "delete matching":
        matching = [key for key, value in documents.items() if value == metadata]
        done = await engine.delete_matching(
            *place, metadata, expected_count=len(matching)
        )
        assert list(done.first_ids) == sorted(matching)
        for key in matching:
            del documents[key]
