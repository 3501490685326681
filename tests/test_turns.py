"""Calls that store at once share the encoders, in the order in which they came."""

import threading
from collections.abc import Callable, Iterator, Sequence

import anyio
import anyio.lowlevel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_hybrid_search import engine as engine_module
from mcp_hybrid_search import storing
from mcp_hybrid_search.embeddings import BATCH_SIZE, Encoded
from mcp_hybrid_search.engine import CONCURRENT_STORES, Engine
from mcp_hybrid_search.errors import NotFoundError
from mcp_hybrid_search.turns import Work
from tests.conftest import OpenEngine, SharedEncoders
from tests.recovery import PATIENCE_SECONDS, new

pytestmark = pytest.mark.anyio

LONG = "long " * 600
"""Some ten chunks, three turns of one batch each."""


class Recorder:
    """Encodes, remembers whose turn it was, and lets a turn wait for an event."""

    def __init__(self, encoders: SharedEncoders) -> None:
        self._encode = encoders.encode_documents
        self.turns: list[str] = []
        self.begun = threading.Event()
        self.holds: dict[int, threading.Event] = {}

    def encode_documents(
        self, texts: Sequence[str], *, advance: Callable[[], None]
    ) -> list[Encoded]:
        turn = len(self.turns)
        self.turns.append(texts[0].split()[0])
        self.begun.set()
        hold = self.holds.get(turn)
        assert hold is None or hold.wait(PATIENCE_SECONDS)
        return self._encode(texts, advance=advance)


@pytest.fixture
def recorder(
    encoders: SharedEncoders, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Recorder]:
    recorder = Recorder(encoders)
    monkeypatch.setattr(encoders, "encode_documents", recorder.encode_documents)
    monkeypatch.setattr(storing, "TURN_CHARACTERS", 1)
    yield recorder
    for hold in recorder.holds.values():
        hold.set()


@pytest.fixture
def engine(open_engine: OpenEngine) -> Engine:
    return open_engine(chunk_tokens=64, chunk_overlap_tokens=0)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        while not condition():
            await anyio.lowlevel.checkpoint()


def in_queue(engine: Engine) -> int:
    return len(engine._writer._turns._queue)


async def test_a_short_document_is_stored_while_a_long_one_is_being_encoded(
    engine: Engine, recorder: Recorder
) -> None:
    asked, answered = threading.Event(), threading.Event()
    recorder.holds = {0: asked, 2: answered}
    async with anyio.create_task_group() as group:
        group.start_soon(engine.store, new(LONG, "long"))
        await until(recorder.begun.is_set)

        async def store_short() -> None:
            await engine.store(new("short", "short"))
            answered.set()

        group.start_soon(store_short)
        await until(lambda: in_queue(engine) == 2)
        asked.set()
    assert recorder.turns[:3] == ["long", "short", "long"]
    assert (await engine.document("documents", "default", "long")).text == LONG


async def test_calls_are_answered_in_the_order_in_which_they_came(
    engine: Engine, recorder: Recorder
) -> None:
    recorder.holds = {0: (asked := threading.Event())}
    async with anyio.create_task_group() as group:
        for place, name in enumerate(["long", "first", "second", "third"], 1):
            text = LONG if name == "long" else name
            group.start_soon(engine.store, new(text, name))
            await until(lambda place=place: in_queue(engine) == place)  # type: ignore[misc]
        asked.set()
    assert recorder.turns[:5] == ["long", "first", "second", "third", "long"]


async def test_a_call_cancelled_while_it_waits_leaves_the_queue_at_once(
    engine: Engine, recorder: Recorder
) -> None:
    recorder.holds = {0: (asked := threading.Event())}
    scope = anyio.CancelScope()

    async def store_and_leave() -> None:
        with scope:
            await engine.store(new("short", "short"))

    async with anyio.create_task_group() as group:
        group.start_soon(engine.store, new(LONG, "long"))
        await until(recorder.begun.is_set)
        group.start_soon(store_and_leave)
        await until(lambda: in_queue(engine) == 2)
        scope.cancel()
        await until(lambda: in_queue(engine) == 1)
        asked.set()
    assert set(recorder.turns) == {"long"}
    with pytest.raises(NotFoundError):
        await engine.document("documents", "default", "short")


async def test_more_calls_than_are_prepared_at_once_all_succeed(
    engine: Engine, recorder: Recorder
) -> None:
    recorder.holds = {0: (asked := threading.Event())}
    names = [f"d{i}" for i in range(CONCURRENT_STORES + 1)]
    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(engine.store, new(name, name))
        await until(lambda: in_queue(engine) == CONCURRENT_STORES)
        assert engine._stores.statistics().tasks_waiting == 1
        asked.set()
    assert sorted(recorder.turns) == names
    assert recorder.turns[-1] == names[-1]
    for name in names:
        assert (await engine.document("documents", "default", name)).text == name


async def test_large_documents_are_encoded_one_after_another_and_short_ones_pass(
    engine: Engine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "LARGE_CHUNKS", BATCH_SIZE)
    recorder.holds = {0: (asked := threading.Event())}
    large = engine._writer._large
    async with anyio.create_task_group() as group:
        group.start_soon(engine.store, new(LONG, "long"))
        await until(recorder.begun.is_set)
        group.start_soon(engine.store, new(LONG.replace("long", "large"), "large"))
        await until(lambda: len(large._queue) == 2)
        group.start_soon(engine.store, new("short", "short"))
        await until(lambda: in_queue(engine) == 2)
        asked.set()
    each = recorder.turns.count("long")
    assert each == recorder.turns.count("large") > 1
    assert recorder.turns == [
        "long",
        "short",
        *["long"] * (each - 1),
        *["large"] * each,
    ]


async def test_a_large_document_cancelled_while_it_waits_leaves_the_queue_at_once(
    engine: Engine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "LARGE_CHUNKS", BATCH_SIZE)
    recorder.holds = {0: (asked := threading.Event())}
    large = engine._writer._large
    async with anyio.create_task_group() as group:
        group.start_soon(engine.store, new(LONG, "long"))
        await until(recorder.begun.is_set)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as leaving:
                other = new(LONG.replace("long", "large"), "large")
                leaving.start_soon(engine.store, other)
                await until(lambda: len(large._queue) == 2)
                scope.cancel()
        await until(lambda: len(large._queue) == 1)
        asked.set()
    assert set(recorder.turns) == {"long"}


async def test_progress_is_told_while_a_call_waits_for_its_turn(
    engine: Engine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "PROGRESS_SECONDS", 0.001)
    recorder.holds = {0: (told := threading.Event())}

    async def progress(done: float, total: float, _: str) -> None:
        if (done, total) == (0, 1):
            told.set()

    async with anyio.create_task_group() as group:
        group.start_soon(engine.store, new(LONG, "long"))
        await until(recorder.begun.is_set)
        await engine.store(new("short", "short"), progress=progress)
    assert told.is_set()


async def test_encoding_by_turns_changes_no_bit_and_no_place(
    engine: Engine, recorder: Recorder
) -> None:
    texts = [f"{i} " + "sand and palms " * (i * 7 % 11) for i in range(13)]
    whole = recorder._encode(texts, advance=lambda: None)
    by_turns = engine._writer._encoded_by_turns(texts, Work())
    assert len(recorder.turns) == 4
    for one, other in zip(whole, by_turns, strict=True):
        assert one.bm25 == other.bm25
        np.testing.assert_array_equal(one.dense, other.dense)
        np.testing.assert_array_equal(one.colbert, other.colbert)


@given(st.lists(st.integers(0, 9_000), max_size=60))
def test_turns_are_whole_batches_of_all_texts_by_length(lengths: list[int]) -> None:
    turns = list(storing._turns(["x" * length for length in lengths]))
    places = [place for turn in turns for place in turn]
    assert places == sorted(range(len(lengths)), key=lambda place: lengths[place])
    for turn in turns:
        batches = [turn[i : i + BATCH_SIZE] for i in range(0, len(turn), BATCH_SIZE)]
        before_the_last = sum(lengths[place] for b in batches[:-1] for place in b)
        assert before_the_last < storing.TURN_CHARACTERS
    assert all(len(turn) % BATCH_SIZE == 0 for turn in turns[:-1])
