"""Every change leaves one line that says who made it, and nothing of what it was."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_hybrid_search.documents import AuditEntry, NewDocument, Origin, Stored
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.errors import (
    ConflictError,
    InvalidInputError,
    StoreUnavailableError,
)
from mcp_hybrid_search.stores import audit
from tests.conftest import OpenEngine
from tests.recovery import fill, found, new

pytestmark = pytest.mark.anyio

ME = Origin("me", "a tool", "call-1")
CANARY = "tr0ub4dor"


def told(entries: list[AuditEntry]) -> list[tuple[str, str]]:
    return [(entry.action, entry.document_id) for entry in entries]


async def test_every_change_is_noted_with_who_made_it_newest_first(
    engine: Engine,
) -> None:
    await engine.store(new("one", "a"), origin=ME)
    await engine.store(new("two", "a"), origin=Origin("you", "another tool"))
    await engine.update_metadata("documents", "default", "a", {"k": 1}, origin=ME)
    await engine.delete("documents", "default", "a", origin=ME)

    entries = await engine.audit()

    assert told(entries) == [
        ("deleted", "a"),
        ("metadata", "a"),
        ("replaced", "a"),
        ("created", "a"),
    ]
    assert [(e.client, e.tool) for e in entries] == [
        ("me", "a tool"),
        ("me", "a tool"),
        ("you", "another tool"),
        ("me", "a tool"),
    ]
    assert {(e.collection, e.namespace) for e in entries} == {("documents", "default")}
    times = [e.time for e in entries]
    assert times == sorted(times, reverse=True)
    assert told(await engine.audit(limit=1)) == [("deleted", "a")]


async def test_what_changes_nothing_is_not_noted(engine: Engine) -> None:
    await engine.store(new("one", "a", metadata={"k": 1}))
    before = await engine.audit()
    await engine.store(new("one", "a", metadata={"k": 1}), origin=ME)
    await engine.store(new("two", "a", if_exists="skip"), origin=ME)
    with pytest.raises(ConflictError):
        await engine.store(new("two", "a", if_exists="error"), origin=ME)
    await engine.update_metadata("documents", "default", "a", {"k": 1}, origin=ME)
    assert not await engine.delete("documents", "default", "b", origin=ME)
    await engine.delete_matching("documents", "default", {"k": 1}, expected_count=None)
    with pytest.raises(ConflictError):
        await engine.delete_matching(
            "documents", "default", {"k": 1}, expected_count=2, origin=ME
        )
    assert await engine.audit() == before


async def test_a_deletion_by_filter_notes_every_document(engine: Engine) -> None:
    for name in "ab":
        await engine.store(new(name, name, metadata={"k": 1}))
    await engine.delete_matching(
        "documents", "default", {"k": 1}, expected_count=2, origin=ME
    )
    entries = (await engine.audit())[:2]
    assert sorted(told(entries)) == [("deleted", "a"), ("deleted", "b")]
    assert {entry.client for entry in entries} == {"me"}


async def test_reindexing_is_one_line_and_loses_none(engine: Engine) -> None:
    await fill(engine)
    before = await engine.audit()
    await engine.reindex("documents", origin=ME)
    first, *rest = await engine.audit()
    assert (first.action, first.collection, first.client) == (
        "reindexed",
        "documents",
        "me",
    )
    assert (first.namespace, first.document_id) == ("", "")
    assert rest == before


async def test_a_change_that_fails_is_not_noted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.store(new("one", "a", metadata={"k": 1}))
    before = await engine.audit()
    append = audit.append

    def append_and_fail(*given: Any, **named: Any) -> None:
        append(*given, **named)
        msg = "The disk is full."
        raise StoreUnavailableError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(audit, "append", append_and_fail)
        (outcome,) = await engine.store_many([new("two", "a")])
        assert isinstance(outcome, StoreUnavailableError)
        for change in (
            engine.delete("documents", "default", "a"),
            engine.update_metadata("documents", "default", "a", {"k": 2}),
            engine.delete_matching("documents", "default", {"k": 1}, expected_count=1),
        ):
            with pytest.raises(StoreUnavailableError, match="full"):
                await change

    assert await engine.audit() == before
    kept = await engine.document("documents", "default", "a")
    assert (kept.text, kept.document.metadata) == ("one", {"k": 1})
    assert await found(engine, "one") == ["a"]


async def test_the_audit_of_a_namespace_holds_its_own_changes_alone(
    engine: Engine,
) -> None:
    for namespace in ("alice", "bob"):
        await engine.store(
            NewDocument("x", "documents", namespace, document_id=f"of-{namespace}")
        )
    await engine.reindex("documents")
    assert told(await engine.audit(namespace="bob")) == [("created", "of-bob")]


async def test_nothing_of_a_document_but_its_place_is_noted(
    open_engine: OpenEngine, tmp_path: Path
) -> None:
    engine = open_engine()
    document = new(CANARY, "a", title=CANARY, source=CANARY, metadata={CANARY: CANARY})
    await engine.store(document, origin=ME)
    await engine.update_metadata("documents", "default", "a", {"k": CANARY})
    await engine.delete("documents", "default", "a")
    engine.close()
    with closing(sqlite3.connect(tmp_path / "data" / "ledger.sqlite3")) as db:
        rows = db.execute("SELECT * FROM audit").fetchall()
    assert len(rows) == 3
    assert CANARY not in str(rows)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit SET client = 'nobody'",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit",
    ],
)
async def test_the_audit_can_only_grow(
    open_engine: OpenEngine, tmp_path: Path, sql: str
) -> None:
    engine = open_engine()
    await engine.store(new("one", "a"), origin=ME)
    engine.close()
    with closing(sqlite3.connect(tmp_path / "data" / "ledger.sqlite3")) as db:
        before = db.execute("SELECT * FROM audit").fetchall()
        with pytest.raises(sqlite3.IntegrityError, match="only grow"):
            db.execute(sql)
        assert db.execute("SELECT * FROM audit").fetchall() == before != []


# A call that is repeated after the engine died


async def test_a_store_that_is_repeated_says_what_it_did(engine: Engine) -> None:
    await engine.store(new("old", "b"))
    documents = [new("one", "a"), new("two", "b")]

    async def statuses(origin: Origin) -> list[str]:
        outcomes = await engine.store_many(documents, origin=origin)
        return [o.status for o in outcomes if isinstance(o, Stored)]

    assert await statuses(ME) == ["created", "replaced"]
    assert await statuses(ME) == ["created", "replaced"]
    assert await statuses(Origin("me", "a tool", "call-2")) == ["unchanged"] * 2
    assert await statuses(Origin("me", "a tool")) == ["unchanged"] * 2


async def test_the_same_text_twice_in_one_call_is_stored_once(engine: Engine) -> None:
    outcomes = await engine.store_many([new("one", "a")] * 2, origin=ME)
    assert [o.status for o in outcomes if isinstance(o, Stored)] == [
        "created",
        "unchanged",
    ]


async def test_a_deletion_that_is_repeated_says_that_it_deleted(engine: Engine) -> None:
    await engine.store(new("one", "a"))
    delete = ("documents", "default", "a")
    assert await engine.delete(*delete, origin=ME)
    # The same call never deletes what was stored after it.
    await engine.store(new("two", "a"))
    assert await engine.delete(*delete, origin=ME)
    assert (await engine.document(*delete)).text == "two"
    assert await engine.delete(*delete, origin=Origin(call="call-2"))
    assert not await engine.delete(*delete, origin=Origin(call="call-3"))


async def test_a_deletion_by_filter_that_is_repeated_says_how_many(
    engine: Engine,
) -> None:
    for number in range(12):
        await engine.store(new(f"text {number}", f"d{number:02}", metadata={"k": 1}))

    async def delete() -> Any:
        return await engine.delete_matching(
            "documents", "default", {"k": 1}, expected_count=12, origin=ME
        )

    first = await delete()
    assert (first.count, first.deleted) == (12, True)
    assert first.first_ids == tuple(f"d{number:02}" for number in range(10))
    assert await delete() == first


# Who asks


@given(text=st.text())
def test_an_origin_is_short_and_printable(text: str) -> None:
    origin = Origin(text, text, text)
    for part in (origin.client, origin.tool, origin.call):
        assert part.isprintable()
        assert len(part) <= 100
    assert Origin(origin.client, origin.tool, origin.call) == origin


def test_two_long_calls_are_not_one() -> None:
    assert Origin(call="x" * 200).call != Origin(call="x" * 201).call


@pytest.mark.parametrize(
    "ask",
    [
        lambda engine: engine.audit(limit=0),
        lambda engine: engine.audit(limit=10_001),
        lambda engine: engine.audit(namespace="../x"),
    ],
)
async def test_a_bad_question_about_the_audit_is_refused(
    engine: Engine, ask: Callable[[Engine], Any]
) -> None:
    with pytest.raises(InvalidInputError):
        await ask(engine)
