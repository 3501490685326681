"""The index is kept equal to the ledger, whatever becomes of it or of the caller."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.errors import NotFoundError, StoreUnavailableError
from mcp_hybrid_search.stores import indexes
from mcp_hybrid_search.stores.edge import EdgeIndex, Point
from mcp_hybrid_search.stores.ledger import Ledger
from tests.conftest import OpenEngine, SharedEncoders
from tests.recovery import (
    PATIENCE_SECONDS,
    TEXTS,
    everything_is_found,
    fill,
    found,
    new,
    point_ids,
    search,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def index(data: Path) -> Path:
    """The directory of the first collection's index."""
    return data / "index" / "1"


@pytest.fixture
def filled(open_engine: OpenEngine) -> None:
    """A data directory that was filled and closed in good order."""
    engine = open_engine()
    anyio.run(fill, engine)
    engine.close()


# The index is rebuilt from the ledger


@pytest.mark.usefixtures("filled")
async def test_everything_is_found_again_after_the_index_is_gone(
    open_engine: OpenEngine, index: Path
) -> None:
    shutil.rmtree(index.parent)
    assert await everything_is_found(open_engine())


@pytest.mark.usefixtures("filled")
async def test_a_stale_index_loses_what_was_replaced_and_gains_what_came_after(
    open_engine: OpenEngine, index: Path, tmp_path: Path
) -> None:
    stale = shutil.copytree(index, tmp_path / "stale")
    engine = open_engine()
    await engine.store(new("Tomato soup wants basil.", "soup"))
    await engine.store(new("Kites need wind.", "kite"))
    await engine.delete("documents", "default", "rust")
    engine.close()
    shutil.rmtree(index)
    stale.rename(index)

    engine = open_engine()

    assert (await found(engine, "kites"))[0] == "kite"
    texts = [hit.text for hit in (await search(engine, "soup leeks borrow")).hits]
    assert sorted(texts) == sorted(
        ["Kites need wind.", "Tomato soup wants basil.", TEXTS["whale"]]
    )


@pytest.mark.usefixtures("filled")
async def test_points_changed_behind_the_ledgers_back_are_put_right(
    open_engine: OpenEngine, encoders: SharedEncoders
) -> None:
    engine = open_engine()
    await found(engine, "whale")
    (opened,) = engine._store._indexes._open.values()
    row = engine._store._ledger.document(1)
    assert row is not None
    (encoded,) = encoders.encode_documents(["A ghost."], advance=lambda: None)
    opened.index.delete([2])
    opened.index.upsert([Point(99, encoded, row.document)])
    opened.touch()
    engine.close()

    engine = open_engine()

    assert await everything_is_found(engine)
    assert point_ids(engine) == {1, 2, 3}


def garbage_config(index: Path) -> None:
    (index / "edge_config.json").write_bytes(b"\x00garbage")


def garbage_segment(index: Path) -> None:
    (mappings,) = index.rglob("mutable_id_tracker.mappings")
    mappings.write_bytes(os.urandom(mappings.stat().st_size))


def truncated_segment(index: Path) -> None:
    (config,) = index.rglob("segment.json")
    os.truncate(config, config.stat().st_size // 2)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("damage", [garbage_config, garbage_segment, truncated_segment])
async def test_a_damaged_index_is_moved_aside_named_and_made_again(
    open_engine: OpenEngine, index: Path, damage: Callable[[Path], None]
) -> None:
    damage(index)
    engine = open_engine()

    assert await everything_is_found(engine)

    (aside,) = index.parent.glob("1.damaged-*")
    (notice,) = (await search(engine, "whale")).notices
    assert str(aside) in notice
    assert "no document is lost" in notice


def files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


@pytest.mark.usefixtures("filled")
async def test_an_index_that_cannot_be_made_again_now_stays_where_it_is(
    open_engine: OpenEngine, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(index)

    def refuse(*_: object, **__: object) -> None:
        msg = "too many open files"
        raise StoreUnavailableError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(indexes, "EdgeIndex", refuse)
        engine = open_engine()
        with pytest.raises(StoreUnavailableError, match="too many open files"):
            await search(engine, "whale")

    assert files(index.parent) == [index, *before]
    assert await everything_is_found(engine)


@pytest.mark.usefixtures("filled")
async def test_the_index_of_no_collection_is_removed(
    open_engine: OpenEngine, index: Path
) -> None:
    orphan = shutil.copytree(index, index.with_name("77"))
    assert await everything_is_found(open_engine())
    assert not orphan.exists()


# Encoding again in the background


async def test_a_document_that_cannot_be_encoded_again_does_not_stop_the_others(
    open_engine: OpenEngine,
    encoders: SharedEncoders,
    index: Path,
    filled: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del filled
    shutil.rmtree(index)
    encode = encoders.encode_documents

    def encode_or_fail(texts: list[str], *, advance: Callable[[], None]) -> Any:
        if TEXTS["whale"] in texts[0]:
            msg = "out of memory"
            raise RuntimeError(msg)
        return encode(texts, advance=advance)

    monkeypatch.setattr(indexes, "RETRY_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(encoders, "encode_documents", encode_or_fail)
        engine = open_engine()
        with anyio.fail_after(PATIENCE_SECONDS):
            while len((await search(engine, "soup")).hits) < 2:
                pass
        (notice,) = (await search(engine, "whale")).notices
        assert notice.startswith("1 documents cannot be found until")

    assert await everything_is_found(engine)


async def test_what_is_indexed_again_during_a_search_was_told_as_missing(
    open_engine: OpenEngine,
    encoders: SharedEncoders,
    index: Path,
    filled: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del filled
    shutil.rmtree(index)
    ranked = threading.Event()
    encode, rank = encoders.encode_documents, EdgeIndex.rankings

    def encode_after_ranking(texts: list[str], *, advance: Callable[[], None]) -> Any:
        assert ranked.wait(PATIENCE_SECONDS)
        return encode(texts, advance=advance)

    def rank_then_let_repair(self: EdgeIndex, *args: Any, **given: Any) -> Any:
        rankings = rank(self, *args, **given)
        ranked.set()
        (opened,) = engine._store._indexes._open.values()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while opened.pending and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not opened.pending
        return rankings

    monkeypatch.setattr(indexes, "REPAIR_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(encoders, "encode_documents", encode_after_ranking)
    monkeypatch.setattr(EdgeIndex, "rankings", rank_then_let_repair)
    engine = open_engine()

    result = await search(engine, "whale")

    assert result.hits == ()
    assert "3 documents are being indexed again" in result.notices[0]


async def test_closing_waits_for_one_batch_of_encoding_and_not_for_the_document(
    open_engine: OpenEngine,
    encoders: SharedEncoders,
    index: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = open_engine(chunk_tokens=64)
    text = "whale and wave " * 100
    assert (await engine.store(new(text, "long"))).chunks > 3
    engine.close()
    shutil.rmtree(index)
    monkeypatch.setattr(indexes, "REPAIR_CHUNKS", 1)
    encode = encoders.encode_documents
    batches: list[int] = []
    encoding, closing = threading.Event(), threading.Event()

    def encode_slowly(texts: list[str], *, advance: Callable[[], None]) -> Any:
        batches.append(len(texts))
        encoding.set()
        assert closing.wait(PATIENCE_SECONDS)
        return encode(texts, advance=advance)

    with monkeypatch.context() as patch:
        patch.setattr(encoders, "encode_documents", encode_slowly)
        patch.setattr(indexes, "REPAIR_GRACE_SECONDS", 0.0)
        engine = open_engine(chunk_tokens=64)
        await search(engine, "whale")
        assert await anyio.to_thread.run_sync(encoding.wait, PATIENCE_SECONDS)
        maintenance = engine._store._indexes._maintenance
        assert maintenance
        join = maintenance.join

        def join_after_the_batch() -> None:
            closing.set()
            join()

        patch.setattr(maintenance, "join", join_after_the_batch)
        await anyio.to_thread.run_sync(engine.close)

    assert batches == [1]
    engine = open_engine(chunk_tokens=64)
    assert await found(engine, "whale") == ["long"]
    assert len(point_ids(engine)) > 3


async def test_checkpoints_are_made_while_writes_never_pause(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(indexes, "CHECKPOINT_IDLE_SECONDS", 3600.0)
    engine = open_engine()
    collection = engine._store.collection_for_writing("documents", "default")
    with anyio.fail_after(PATIENCE_SECONDS):
        for i in range(1_000):
            await engine.store(new(f"Note {i}.", "note"))
            if not engine._store._ledger.unindexed(collection):
                break
    assert not engine._store._ledger.unindexed(collection)


async def test_checkpoints_are_made_while_much_is_encoded_again(
    open_engine: OpenEngine,
    encoders: SharedEncoders,
    index: Path,
    filled: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del filled
    shutil.rmtree(index)
    monkeypatch.setattr(indexes, "CHECKPOINT_SECONDS", 0.0)
    encode = encoders.encode_documents
    unindexed: list[int] = []

    def encode_and_count(texts: list[str], *, advance: Callable[[], None]) -> Any:
        (opened,) = engine._store._indexes._open.values()
        unindexed.append(len(opened.unflushed))
        return encode(texts, advance=advance)

    with monkeypatch.context() as patch:
        patch.setattr(encoders, "encode_documents", encode_and_count)
        engine = open_engine()
        await found(engine, "whale")

    assert unindexed == [0, 0, 0]


# Writes that fail half-way, and callers that leave


async def test_a_write_that_the_ledger_refuses_leaves_no_trace(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(engine)
    points = point_ids(engine)

    def full(*_: object, **__: object) -> None:
        msg = "The disk is full."
        raise StoreUnavailableError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", full)
        with pytest.raises(StoreUnavailableError, match="full"):
            await engine.store(new("Leek soup with ghosts.", "soup"))
        with pytest.raises(StoreUnavailableError, match="full"):
            await engine.store(new("A new ghost.", "ghost"))

    assert point_ids(engine) == points
    hits = (await search(engine, "ghost ghosts soup")).hits
    assert sorted(hit.text for hit in hits) == sorted(TEXTS.values())
    assert await everything_is_found(engine)


async def test_a_point_that_could_not_be_removed_is_no_hit(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(engine)

    def refuse(*_: object) -> None:
        msg = "The index failed."
        raise StoreUnavailableError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(EdgeIndex, "delete", refuse)
        await engine.store(new("Tomato soup.", "soup"))
        assert await engine.delete("documents", "default", "rust")

    hits = (await search(engine, "leek borrow checker soup")).hits
    assert sorted(h.text for h in hits) == sorted(["Tomato soup.", TEXTS["whale"]])


async def test_a_cancelled_store_keeps_whole_documents_and_gives_its_place_back(
    open_engine: OpenEngine,
    encoders: SharedEncoders,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = open_engine(chunk_tokens=32, chunk_overlap_tokens=0)
    # Each is long enough to be encoded, and written, before the next.
    texts = {f"d{i}": f"Island {i}. " + "sand and palms " * 700 for i in range(3)}
    encode = encoders.encode_documents
    calls: list[int] = []
    scope = anyio.CancelScope()

    def encode_and_cancel(texts: list[str], *, advance: Callable[[], None]) -> Any:
        calls.append(len(texts))
        if len(calls) == 2:
            anyio.from_thread.run_sync(scope.cancel)
        return encode(texts, advance=advance)

    with monkeypatch.context() as patch:
        patch.setattr(encoders, "encode_documents", encode_and_cancel)
        with scope:
            await engine.store_many([new(text, name) for name, text in texts.items()])
    assert scope.cancelled_caught

    with anyio.fail_after(PATIENCE_SECONDS):
        await engine.store(new(TEXTS["whale"], "whale"))
    assert (await found(engine, "Moby Dick"))[0] == "whale"
    assert (await engine.document("documents", "default", "d0")).text == texts["d0"]
    for name in ("d1", "d2"):
        with pytest.raises(NotFoundError):
            await engine.document("documents", "default", name)
    (info,) = await engine.collections()
    assert info.chunks == len(point_ids(engine)) == calls[0] + 1
