"""An index is optimised in slices, and nothing is lost or hidden by it."""

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio.to_thread
import numpy as np
import pytest
import qdrant_edge

from mcp_hybrid_search.documents import DENSE, Document, NewDocument
from mcp_hybrid_search.embeddings import Encoded, SparseVector
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.errors import StoreUnavailableError
from mcp_hybrid_search.stores import edge, indexes, optimizing
from mcp_hybrid_search.stores.directory import DataDirectory
from mcp_hybrid_search.stores.edge import EdgeIndex, Point
from tests.conftest import OpenEngine
from tests.recovery import (
    PATIENCE_SECONDS,
    everything_is_found,
    fill,
    found,
    new,
    point_ids,
)

pytestmark = pytest.mark.anyio

DIMS = {"dense": 8, "colbert": 4}


def points(first: int, last: int) -> list[Point]:
    """Return points whose vectors are a function of their ids."""
    return [Point(i, encoded(i), document(i)) for i in range(first, last + 1)]


def encoded(seed: int) -> Encoded:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((4, 8)).astype(np.float32)
    dense = rows[0] / np.linalg.norm(rows[0])
    colbert = rows[1:, :4] / np.linalg.norm(rows[1:, :4], axis=1, keepdims=True)
    return Encoded(SparseVector([seed % 7, 100], [1.0, 0.5]), dense, colbert)


def document(number: int) -> Document:
    return Document(
        document_id=f"d{number}",
        collection="documents",
        namespace="default",
        title=None,
        source=None,
        metadata={"page": number},
        created_at=0.0,
        updated_at=0.0,
        chunk_count=1,
    )


def opened(path: Path) -> EdgeIndex:
    return EdgeIndex(path, dims=DIMS, storage="float32")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def index(path: Path) -> Iterator[EdgeIndex]:
    index = opened(path)
    yield index
    index.close()


def optimized(path: Path) -> set[Path]:
    """Return the segments that are optimised."""
    return {file.parent for file in path.glob("segments/*/id_tracker.mappings")}


def dense_ranking(index: EdgeIndex, seed: int) -> list[int]:
    rankings = index.rankings(encoded(seed), namespace="default", filter_=None, limit=9)
    return [point for point, _ in rankings[DENSE]]


def nearest(index: EdgeIndex) -> set[int]:
    """Return the points that are found by their own vectors."""
    return {i for i in index.point_ids() if dense_ranking(index, i)[0] == i}


# One index


def test_every_point_is_found_before_and_after_it_is_optimised(
    index: EdgeIndex,
) -> None:
    index.upsert(points(1, 200))
    index.optimize()
    assert index.unoptimized == 0
    index.upsert(points(201, 300))
    assert index.unoptimized == 100
    assert nearest(index) == {*range(1, 301)}


def test_what_came_since_becomes_one_more_segment_and_no_other_changes(
    index: EdgeIndex,
) -> None:
    before = set[Path]()
    for first in (1, 101, 201):
        index.upsert(points(first, first + 99))
        index.optimize()
        after = optimized(index.path)
        assert before < after
        assert len(after) == len(before) + 1
        before = after


def test_a_graph_finds_nearly_what_reading_every_vector_finds(
    index: EdgeIndex,
) -> None:
    index.upsert(points(1, 2_500))
    queries = range(10_000, 10_050)
    exact = [dense_ranking(index, query) for query in queries]

    index.optimize()

    found = [dense_ranking(index, query) for query in queries]
    shared = [len({*a} & {*b}) / 9 for a, b in zip(exact, found, strict=True)]
    assert sum(shared) / len(shared) > 0.98


def test_segments_whose_points_are_gone_are_not_made_anew(index: EdgeIndex) -> None:
    index.upsert(points(1, 3_000))
    index.optimize()
    before = optimized(index.path)
    index.delete([*range(1, 2_900)])
    index.optimize()
    assert optimized(index.path) == before


def test_optimised_points_are_deleted_and_replaced_and_reopen_equal(
    path: Path,
) -> None:
    index = opened(path)
    index.upsert(points(1, 20))
    index.optimize()
    index.delete([3, 4])
    index.upsert([Point(5, encoded(500), document(5))])
    index.upsert(points(21, 22))
    index.flush()
    index.close()

    index = opened(path)

    assert index.point_ids() == {*range(1, 23)} - {3, 4}
    assert dense_ranking(index, 500)[0] == 5
    assert nearest(index) == index.point_ids() - {5}
    assert index.unoptimized == 2
    index.close()


def test_a_shard_made_before_is_loaded_searched_and_optimised(path: Path) -> None:
    # As version 0.1.0 made it: neither a graph nor optimisers in its configuration.
    edge._create(path, edge._config(DIMS, "float32"))
    shard = qdrant_edge.EdgeShard.load(str(path))
    for point in points(1, 2_100):
        vectors, payload = edge._vectors(point.encoded), edge._payload(point.document)
        upsert = qdrant_edge.UpdateOperation.upsert_points
        shard.update(upsert([qdrant_edge.Point(point.point_id, vectors, payload)]))
    shard.flush()
    shard.close()

    index = opened(path)
    assert index.unoptimized == 2_100
    assert dense_ranking(index, 7)[0] == 7
    index.optimize()
    index.close()
    index = opened(path)

    assert index.unoptimized == 0
    assert index.point_ids() == {*range(1, 2_101)}
    assert dense_ranking(index, 7)[0] == 7
    index.close()


KILLED = """
import sys
from pathlib import Path
from tests.test_optimizing import opened, points
index = opened(Path(sys.argv[1]))
print(flush=True)
index.optimize()
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("moment", ["begun", "writing", "ended"])
def test_a_process_that_is_killed_while_it_optimises_loses_nothing(
    path: Path, moment: str
) -> None:
    index = opened(path)
    index.upsert(points(1, 3_000))
    index.delete([7])
    index.flush()
    index.close()

    command = [sys.executable, "-c", KILLED, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        process.stdout.readline()
        if moment == "ended":
            process.stdout.readline()
        while moment == "writing" and not [*path.glob("temp_segments/*/*")]:
            assert process.poll() is None
        process.kill()
    assert process.returncode == -signal.SIGKILL

    index = opened(path)
    assert not [*path.glob("temp_segments/*")]
    assert index.point_ids() == {*range(1, 3_001)} - {7}
    index.optimize()
    assert index.point_ids() == {*range(1, 3_001)} - {7}
    assert dense_ranking(index, 3_000)[0] == 3_000
    index.close()


# When


@pytest.fixture
def slices(index: EdgeIndex, tmp_path: Path) -> Iterator[optimizing.Slices]:
    directory = DataDirectory(tmp_path / "data", min_free_bytes=0)
    yield optimizing.Slices(index, directory)
    directory.release()


@pytest.mark.parametrize(
    ("unoptimized", "idle_seconds", "due"),
    [
        pytest.param(3_999, 3600, False, id="few points"),
        pytest.param(4_000, 0, False, id="in use"),
        pytest.param(4_000, 1, True, id="idle"),
        pytest.param(5_000, 0, True, id="many points"),
        pytest.param(10_000, 1, False, id="too many points"),
        pytest.param(10_000, 300, True, id="too many points, idle for long"),
    ],
)
def test_a_slice_is_due_when_nothing_else_is_to_do_or_it_would_become_too_long(
    index: EdgeIndex,
    slices: optimizing.Slices,
    *,
    unoptimized: int,
    idle_seconds: float,
    due: bool,
) -> None:
    index.unoptimized = unoptimized
    index.used_at -= idle_seconds
    assert slices.due() is due


def test_searches_and_writes_are_taken_note_of(index: EdgeIndex) -> None:
    index.used_at = 0.0
    index.rankings(encoded(1), namespace="default", filter_=None, limit=1)
    assert index.used_at > 0
    index.used_at = 0.0
    index.upsert(points(1, 1))
    assert index.used_at > 0


def test_nothing_is_optimised_while_space_is_short(
    index: EdgeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizing, "SLICE_POINTS", 2)
    directory = DataDirectory(tmp_path / "data", min_free_bytes=10**18)
    slices = optimizing.Slices(index, directory)
    index.upsert(points(1, 2))
    assert slices.wanted()

    slices.run()

    assert index.unoptimized == 2
    assert not optimized(index.path)
    assert not slices.wanted()
    directory.release()


# In an engine


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that optimise whatever there is soon after it came."""
    monkeypatch.setattr(optimizing, "SLICE_POINTS", 1)
    monkeypatch.setattr(optimizing, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(indexes, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(indexes, "CHECKPOINT_IDLE_SECONDS", 0.0)


async def until(condition: Callable[[], bool]) -> None:
    """Let other threads go on until a condition holds."""

    def wait() -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    await anyio.to_thread.run_sync(wait)


async def optimised(engine: Engine) -> None:
    """Wait until nothing of the only open index is left to optimise."""
    (opened,) = engine._store._indexes._open.values()
    await until(lambda: not opened.index.unoptimized)


@pytest.mark.usefixtures("hasty")
async def test_slices_come_when_idle_and_hide_nothing(open_engine: OpenEngine) -> None:
    engine = open_engine()
    await fill(engine)
    await optimised(engine)
    assert await everything_is_found(engine)
    await engine.store(new("Kites need wind.", "kite"))
    assert (await found(engine, "kites"))[0] == "kite"
    await optimised(engine)
    await engine.store(new("Kites want a breeze.", "kite"))
    await engine.delete("documents", "default", "whale")
    await optimised(engine)
    engine.close()

    engine = open_engine()

    assert sorted(await found(engine, "breeze")) == ["kite", "rust", "soup"]
    assert len(point_ids(engine)) == 3
    collection = engine._store.collection("documents", "default")
    assert collection
    assert not engine._store._ledger.unindexed(collection)


async def test_a_slice_that_was_left_over_comes_without_a_write(
    open_engine: OpenEngine, request: pytest.FixtureRequest
) -> None:
    engine = open_engine()
    await fill(engine)
    engine.close()
    request.getfixturevalue("hasty")
    engine = open_engine()
    assert await everything_is_found(engine)
    await optimised(engine)


@pytest.mark.usefixtures("hasty")
async def test_a_failure_is_told_in_the_log_and_not_repeated(
    open_engine: OpenEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[None] = []

    def fail(self: EdgeIndex) -> None:
        calls.append(None)
        with edge._edge_errors(self.path):
            raise Exception("thin ice")  # noqa: EM101, TRY002, TRY003

    monkeypatch.setattr(EdgeIndex, "optimize", fail)
    engine = open_engine()
    await fill(engine)
    (opened,) = engine._store._indexes._open.values()
    await until(lambda: bool(calls) and not opened.slices.wanted())
    await engine.store(new("Kites need wind.", "kite"))
    assert await everything_is_found(engine)
    engine.close()

    assert len(calls) == 1
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.getMessage() == "An index could not be optimised."
    assert "thin ice" in (record.exc_text or "")


@pytest.mark.usefixtures("hasty")
async def test_nothing_is_optimised_that_could_not_be_brought_to_the_disk(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine()
    await fill(engine)
    await optimised(engine)
    failed = threading.Event()
    optimised_again: list[None] = []

    def fail(_: EdgeIndex) -> None:
        failed.set()
        msg = "The index failed."
        raise StoreUnavailableError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(EdgeIndex, "flush", fail)
        patch.setattr(EdgeIndex, "optimize", lambda _: optimised_again.append(None))
        patch.setattr(optimizing, "SLICE_LIMIT", 1)
        patch.setattr(indexes, "RETRY_SECONDS", 0.0)
        await engine.store(new("Kites need wind.", "kite"))
        for _ in range(3):
            assert await anyio.to_thread.run_sync(failed.wait, PATIENCE_SECONDS)
            failed.clear()
    assert not optimised_again


async def test_no_slice_begins_when_the_store_is_being_closed(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine()
    await fill(engine)
    begun: list[None] = []
    indexes_ = engine._store._indexes
    indexes_._closing = True
    monkeypatch.setattr(EdgeIndex, "optimize", lambda _: begun.append(None))
    monkeypatch.setattr(optimizing, "SLICE_POINTS", 1)
    monkeypatch.setattr(optimizing, "SLICE_LIMIT", 1)

    indexes_._optimize()

    assert not begun
    (opened,) = indexes_._open.values()
    assert opened.slices.due()


async def test_closing_waits_for_one_slice_only(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine()
    begun, closing = threading.Event(), threading.Event()
    slices: list[EdgeIndex] = []

    def wait(self: EdgeIndex) -> None:
        slices.append(self)
        begun.set()
        assert closing.wait(PATIENCE_SECONDS)

    for name in ("first", "second"):
        await engine.store(NewDocument("Kites need wind.", name, "default"))
    monkeypatch.setattr(EdgeIndex, "optimize", wait)
    monkeypatch.setattr(optimizing, "SLICE_POINTS", 1)
    monkeypatch.setattr(optimizing, "SLICE_LIMIT", 1)
    engine._store._indexes._work.set()
    assert await anyio.to_thread.run_sync(begun.wait, PATIENCE_SECONDS)
    maintenance = engine._store._indexes._maintenance
    assert maintenance
    join = maintenance.join

    def join_after_the_slice() -> None:
        closing.set()
        join()

    monkeypatch.setattr(maintenance, "join", join_after_the_slice)
    await anyio.to_thread.run_sync(engine.close)

    assert len(slices) == 1
