"""Metadata changes by merge patch, at once and for good, and nothing is encoded."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_hybrid_search.documents import Document, Origin, SearchRequest
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StoreUnavailableError,
)
from mcp_hybrid_search.merging import merged
from mcp_hybrid_search.stores import indexes
from mcp_hybrid_search.stores.directory import DataDirectory
from mcp_hybrid_search.stores.edge import EdgeIndex
from mcp_hybrid_search.stores.ledger import Ledger
from tests.conftest import OpenEngine, SharedEncoders
from tests.recovery import PATIENCE_SECONDS, fill, found, new, point_ids, search

pytestmark = pytest.mark.anyio

PLACE = ("documents", "default", "whale")

# RFC 7396, appendix A.
EXAMPLES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]

values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(("target", "patch", "result"), EXAMPLES)
def test_a_merge_patch_does_what_its_standard_shows(
    target: Any, patch: Any, result: Any
) -> None:
    assert merged(target, patch) == result


@given(target=values, patch=values)
def test_a_patch_applied_twice_changes_nothing_more(target: Any, patch: Any) -> None:
    before = repr((target, patch))
    once = merged(target, patch)
    assert merged(once, patch) == once
    assert repr((target, patch)) == before


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "data" / "index" / "1"


@pytest.fixture
def counted(encoders: SharedEncoders, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of the encoders for documents had."""
    counts: list[int] = []
    encode = encoders.encode_documents

    def encode_and_count(texts: list[str], *, advance: Callable[[], None]) -> Any:
        counts.append(len(texts))
        return encode(texts, advance=advance)

    monkeypatch.setattr(encoders, "encode_documents", encode_and_count)
    return counts


async def matching(engine: Engine, **conditions: Any) -> list[str]:
    """Return the ids that a search with a filter finds, in order of id."""
    request = SearchRequest("whale", "documents", "default", filter=conditions)
    return sorted(
        hit.document.document_id for hit in (await engine.search(request)).hits
    )


async def test_new_metadata_is_found_and_the_old_is_not_without_encoding(
    engine: Engine, counted: list[int]
) -> None:
    old = {"topic": "sea", "year": 1851, "tags": ["a", "b"], "kept": {"x": 1, "y": 2}}
    await fill(engine)
    await engine.update_metadata(*PLACE, old)
    before = (await engine.document(*PLACE)).document
    points = point_ids(engine)
    counted.clear()

    patch = {"topic": None, "year": 1960, "tags": ["c"], "kept": {"x": None}, "n": 0.5}
    after = await engine.update_metadata(*PLACE, patch)

    assert after.metadata == {"year": 1960, "tags": ["c"], "kept": {"y": 2}, "n": 0.5}
    assert after == (await engine.document(*PLACE)).document
    assert after.updated_at > before.updated_at
    unchanged = replace(after, metadata=old, updated_at=before.updated_at)
    assert unchanged == before
    for fitting in (
        {"year": 1960},
        {"year": {"gt": 1900}},
        {"tags": "c"},
        {"kept.y": 2},
        {"n": {"lt": 1}},
        {"topic": None, "year": {"exists": True}},
        {"kept.x": None, "year": {"exists": True}},
        {"updated_at": {"gte": after.updated_at}},
    ):
        assert await matching(engine, **fitting) == ["whale"], fitting
    for stale in (
        {"topic": "sea"},
        {"year": {"lt": 1900}},
        {"tags": "a"},
        {"kept.x": {"exists": True}},
    ):
        assert await matching(engine, **stale) == [], stale
    (hit,) = (await search(engine, "white whale captain")).hits[:1]
    assert hit.document == after
    assert counted == []
    assert point_ids(engine) == points


async def test_every_chunk_of_a_long_document_has_the_new_metadata(
    open_engine: OpenEngine,
) -> None:
    engine = open_engine(chunk_tokens=64)
    stored = await engine.store(new("The whale swam on. " * 100, "whale"))
    assert stored.chunks > 3
    await engine.update_metadata(*PLACE, {"k": 1})
    request = SearchRequest(
        "whale", "documents", "default", 100, {"k": 1}, per_document=False
    )
    hits = (await engine.search(request)).hits
    request = replace(request, filter=None)
    assert hits == (await engine.search(request)).hits
    assert hits != ()


async def test_a_patch_that_changes_nothing_leaves_the_time_of_change(
    engine: Engine,
) -> None:
    await engine.store(new("Call me Ishmael.", "whale", metadata={"a": 1, "b": True}))
    before = (await engine.document(*PLACE)).document
    same: list[dict[str, Any]] = [{}, {"a": 1}, {"gone": None}, {"b": True}]
    for patch in same:
        assert await engine.update_metadata(*PLACE, patch) == before
    # Equal in Python, but another value in JSON.
    assert (await engine.update_metadata(*PLACE, {"b": 1})) != before
    assert await matching(engine, b=True) == []


async def test_a_store_after_a_change_knows_the_change(engine: Engine) -> None:
    text = "Call me Ishmael."
    await engine.store(new(text, "whale", metadata={"a": 1}))
    await engine.update_metadata(*PLACE, {"a": 2})
    same = await engine.store(new(text, "whale", metadata={"a": 2}))
    other = await engine.store(new(text, "whale", metadata={"a": 1}))
    assert (same.status, other.status) == ("unchanged", "replaced")
    assert await matching(engine, a=1) == ["whale"]


async def test_changes_follow_each_other_in_time_whatever_the_clock_says(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_hybrid_search.storing.time.time", lambda: 1.7e9)
    await engine.store(new("one", "whale"))
    times = [(await engine.document(*PLACE)).document.updated_at]
    for number in range(3):
        after = await engine.update_metadata(*PLACE, {"k": number})
        times.append(after.updated_at)
    await engine.store(new("two", "whale"))
    times.append((await engine.document(*PLACE)).document.updated_at)
    assert times == [1.7e9, 1700000000.001, 1700000000.002, 1700000000.003, times[-1]]
    assert times[-1] == 1700000000.004


# What is refused


async def test_a_document_that_is_not_there_is_named(engine: Engine) -> None:
    with pytest.raises(NotFoundError) as read:
        await engine.document(*PLACE)
    with pytest.raises(NotFoundError) as changed:
        await engine.update_metadata(*PLACE, {"a": 1})
    assert str(read.value) == str(changed.value)
    await fill(engine)
    with pytest.raises(NotFoundError, match="no document 'boat'"):
        await engine.update_metadata("documents", "default", "boat", {"a": 1})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"b": "x" * 70_000}, "metadata is 70"),
    ({"b": "x" * 40_000}, "metadata is 8"),
    ({"b": {str(n): "n" for n in range(200)}}, "metadata has 402 keys"),
    ({"": 1}, "empty key"),
    ({"a": float("nan")}, "nan"),
    ({"a": 2**63}, "64 bit"),
    ({"a": "\ud800"}, "surrogate"),
]


@pytest.mark.parametrize(("patch", "told"), REFUSED, ids=lambda value: str(value)[:20])
async def test_what_would_be_over_a_limit_changes_nothing(
    engine: Engine, patch: dict[str, Any], told: str
) -> None:
    old = {"a": "y" * 40_000, "c": {str(n): "n" for n in range(199)}}
    await engine.store(new("Call me Ishmael.", "whale", metadata=old))
    before = (await engine.document(*PLACE)).document
    with pytest.raises(InvalidInputError, match=told):
        await engine.update_metadata(*PLACE, patch)
    assert (await engine.document(*PLACE)).document == before


async def test_too_little_free_space_changes_nothing(open_engine: OpenEngine) -> None:
    engine = open_engine()
    await fill(engine)
    engine.close()
    engine = open_engine(min_free_bytes=10**18)
    with pytest.raises(StoreUnavailableError, match="MB free"):
        await engine.update_metadata(*PLACE, {"a": 1})
    assert (await engine.document(*PLACE)).document.metadata == {}


async def test_what_the_ledger_refuses_is_changed_nowhere(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(engine)
    await engine.update_metadata(*PLACE, {"a": 1})

    def full(*_: object, **__: object) -> None:
        msg = "The disk is full."
        raise StoreUnavailableError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "update_metadata", full)
        with pytest.raises(StoreUnavailableError, match="full"):
            await engine.update_metadata(*PLACE, {"a": 2})
    assert await matching(engine, a=1) == ["whale"]
    assert await matching(engine, a=2) == []


# Kept, whatever happens to the index


def refuse(*_: object) -> None:
    msg = "The index failed."
    raise StoreUnavailableError(msg)


async def test_an_index_that_fails_is_told_and_tried_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(engine)
    monkeypatch.setattr(indexes, "RETRY_SECONDS", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(EdgeIndex, "overwrite", refuse)
        after = await engine.update_metadata(*PLACE, {"a": 1})
        assert (await engine.document(*PLACE)).document == after
        assert await matching(engine, a=1) == []
        (notice,) = (await search(engine, "whale")).notices
        assert "new metadata of 1 documents" in notice
        other = SearchRequest("whale", "documents", "nobody")
        assert "metadata" not in str(await engine.search(other))

    with anyio.fail_after(PATIENCE_SECONDS):
        while (await search(engine, "whale")).notices:
            pass
    assert await matching(engine, a=1) == ["whale"]


def states(engine: Engine) -> dict[str, int]:
    """What the ledger says that the index has on the disk."""
    rows = engine._store._ledger.rows("SELECT document_id, indexed FROM documents")
    return dict(rows)


async def checkpointed(engine: Engine) -> None:
    await anyio.to_thread.run_sync(engine._store._indexes.checkpoint)


async def test_what_was_not_on_the_disk_is_set_again_and_not_encoded_again(
    open_engine: OpenEngine,
    index: Path,
    counted: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The index is put back to what a power cut would leave of it."""
    monkeypatch.setattr(indexes, "CHECKPOINT_IDLE_SECONDS", 3600.0)
    engine = open_engine()
    await fill(engine)
    await engine.update_metadata(*PLACE, {"old": 1, "n": 1})
    await checkpointed(engine)
    assert states(engine) == {"whale": 1, "soup": 1, "rust": 1}
    flushed = shutil.copytree(index, tmp_path / "flushed")
    await engine.update_metadata(*PLACE, {"old": None, "n": 7})
    assert states(engine) == {"whale": 2, "soup": 1, "rust": 1}
    with monkeypatch.context() as patch:
        patch.setattr(EdgeIndex, "flush", lambda _: None)
        patch.setattr(Ledger, "mark_payloads", lambda *_: None)
        engine.close()
    shutil.rmtree(index)
    flushed.rename(index)
    counted.clear()

    engine = open_engine()

    assert await matching(engine, n=7) == ["whale"]
    assert await matching(engine, n={"gt": 6}) == ["whale"]
    assert await matching(engine, old=1) == []
    assert (await search(engine, "whale")).notices == ()
    assert counted == []
    await checkpointed(engine)
    assert states(engine) == {"whale": 1, "soup": 1, "rust": 1}


async def test_an_index_older_than_its_last_checkpoint_gets_the_newest_metadata(
    open_engine: OpenEngine, index: Path, counted: list[int], tmp_path: Path
) -> None:
    engine = open_engine()
    await fill(engine)
    await engine.update_metadata(*PLACE, {"a": 1})
    engine.close()
    older = shutil.copytree(index, tmp_path / "older")
    engine = open_engine()
    await engine.update_metadata(*PLACE, {"a": 2})
    await checkpointed(engine)
    engine.close()
    shutil.rmtree(index)
    older.rename(index)
    counted.clear()

    engine = open_engine()

    assert await matching(engine, a=2) == ["whale"]
    assert await matching(engine, a=1) == []
    assert counted == []


async def test_a_checkpoint_never_takes_old_metadata_for_new(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of a new document nor of one that was changed before."""
    monkeypatch.setattr(indexes, "CHECKPOINT_IDLE_SECONDS", 3600.0)
    monkeypatch.setattr(indexes, "RETRY_SECONDS", 3600.0)
    await fill(engine)
    await checkpointed(engine)
    await engine.store(new("Kites need wind.", "kite"))
    await engine.update_metadata(*PLACE, {"a": 1})
    kite = ("documents", "default", "kite")
    with monkeypatch.context() as patch:
        patch.setattr(EdgeIndex, "overwrite", refuse)
        await engine.update_metadata(*PLACE, {"a": 2})
        await engine.update_metadata(*kite, {"a": 2})
        await checkpointed(engine)
        assert states(engine) == {"whale": 2, "soup": 1, "rust": 1, "kite": 2}


async def test_a_document_that_is_being_encoded_again_gets_its_new_metadata(
    open_engine: OpenEngine,
    encoders: SharedEncoders,
    index: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = open_engine(chunk_tokens=64)
    await engine.store(new("The whale swam on. " * 60, "whale", metadata={"a": 1}))
    engine.close()
    shutil.rmtree(index)
    monkeypatch.setattr(indexes, "REPAIR_CHUNKS", 1)
    monkeypatch.setattr(indexes, "REPAIR_GRACE_SECONDS", 0.0)
    encode = encoders.encode_documents
    second, changed = threading.Event(), threading.Event()
    batches: list[int] = []

    def encode_in_between(texts: list[str], *, advance: Callable[[], None]) -> Any:
        batches.append(len(texts))
        if len(batches) == 2:
            second.set()
            assert changed.wait(PATIENCE_SECONDS)
        return encode(texts, advance=advance)

    with monkeypatch.context() as patch:
        patch.setattr(encoders, "encode_documents", encode_in_between)
        engine = open_engine(chunk_tokens=64)
        await search(engine, "whale")
        assert await anyio.to_thread.run_sync(second.wait, PATIENCE_SECONDS)
        await engine.update_metadata(*PLACE, {"a": 2})
        changed.set()
        assert await found(engine, "whale") == ["whale"]

    assert len(batches) > 2
    request = SearchRequest(
        "whale", "documents", "default", 100, {"a": 2}, per_document=False
    )
    new_hits = (await engine.search(request)).hits
    all_hits = (await engine.search(replace(request, filter=None))).hits
    assert new_hits == all_hits != ()
    assert await matching(engine, a=1) == []
    await checkpointed(engine)
    assert states(engine) == {"whale": 1}


async def test_metadata_changed_while_a_collection_is_reindexed_is_not_lost(
    engine: Engine,
) -> None:
    await fill(engine)

    async def interfere(done: float, total: float, _: str) -> None:
        if done == total:
            await engine.update_metadata(*PLACE, {"a": 1})

    with pytest.raises(ConflictError, match="written to while"):
        await engine.reindex("documents", progress=interfere)
    assert await matching(engine, a=1) == ["whale"]
    await engine.reindex("documents")
    assert await matching(engine, a=1) == ["whale"]


async def test_points_that_leave_their_graph_are_counted_once(
    engine: Engine,
) -> None:
    await fill(engine)
    (opened,) = engine._store._indexes._open.values()
    with engine._store.writing():
        engine._store._indexes.checkpoint()
        opened.index.optimize()
    assert opened.index.unoptimized == 0
    for number in range(3):
        await engine.update_metadata(*PLACE, {"k": number})
    assert opened.index.unoptimized == 1
    assert await matching(engine, k=2) == ["whale"]


async def test_many_changes_at_once_are_all_kept(engine: Engine) -> None:
    await fill(engine)

    async def change(number: int) -> None:
        await engine.update_metadata(
            *PLACE, {f"k{number}": number}, origin=Origin(call=str(number))
        )

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(change, number)
    after: Document = (await engine.document(*PLACE)).document
    assert after.metadata == {f"k{number}": number for number in range(20)}
    for number in range(20):
        assert await matching(engine, **{f"k{number}": number}) == ["whale"]


async def test_a_full_disk_leaves_the_index_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edge maps its files: to write one on a full disk would kill the process."""
    await fill(engine)
    monkeypatch.setattr(indexes, "RETRY_SECONDS", 3600.0)
    overwritten: list[int] = []
    monkeypatch.setattr(EdgeIndex, "overwrite", lambda *_: overwritten.append(1))
    monkeypatch.setattr(DataDirectory, "is_full", lambda _: True)
    await engine.update_metadata(*PLACE, {"a": 1})
    assert overwritten == []
    assert (await engine.document(*PLACE)).document.metadata == {"a": 1}
