"""Calls that store at once share the encoders, in the order in which they came."""

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import anyio
import anyio.lowlevel
import pytest

from mcp_hybrid_search import engine as engine_module
from mcp_hybrid_search import storing, turns
from mcp_hybrid_search.embeddings import Encoded
from mcp_hybrid_search.engine import CONCURRENT_STORES, Engine
from mcp_hybrid_search.errors import NotFoundError
from mcp_hybrid_search.turns import Turns
from tests.conftest import OpenEngine, SharedEncoders
from tests.recovery import PATIENCE_SECONDS, new

pytestmark = pytest.mark.anyio

LONG = "long " * 600
"""Some ten chunks."""
LARGE = LONG.replace("long", "large")


class Recorder:
    """Remembers who encodes, by a text's first word, and keeps encoders waiting."""

    def __init__(self, encoders: SharedEncoders) -> None:
        self._encode = encoders.encode_documents
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.holds: defaultdict[str, threading.Event] = defaultdict(_open)
        """Waited for before every step of a call."""
        self.last_holds: defaultdict[str, threading.Event] = defaultdict(_open)
        """Waited for after the last step, while the call has its turn."""

    def encode_documents(
        self, texts: Sequence[str], *, advance: Callable[[], None]
    ) -> list[Encoded]:
        name = texts[0].split()[0]
        self.begun.append(name)

        def hold_and_advance() -> None:
            assert self.holds[name].wait(PATIENCE_SECONDS)
            advance()

        encoded = self._encode(texts, advance=hold_and_advance)
        assert self.last_holds[name].wait(PATIENCE_SECONDS)
        self.ended.append(name)
        return encoded

    def hold(self, name: str) -> threading.Event:
        self.holds[name] = threading.Event()
        return self.holds[name]


def _open() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@pytest.fixture
def recorder(
    encoders: SharedEncoders, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Recorder]:
    recorder = Recorder(encoders)
    monkeypatch.setattr(encoders, "encode_documents", recorder.encode_documents)
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
    yield recorder
    for event in (*recorder.holds.values(), *recorder.last_holds.values()):
        event.set()


@pytest.fixture
def engine(open_engine: OpenEngine) -> Engine:
    return open_engine(chunk_tokens=64, chunk_overlap_tokens=0)


async def waiting(queue: Turns, count: int) -> None:
    """Wait until so many calls have or await a turn."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while len(queue._queue) != count:
            await anyio.lowlevel.checkpoint()


async def test_a_short_document_is_stored_while_a_long_one_is_being_encoded(
    engine: Engine, recorder: Recorder
) -> None:
    let_go = recorder.hold("long")
    recorder.last_holds["long"] = (answered := threading.Event())

    async def store_short() -> None:
        await engine.store(new("short", "short"))
        answered.set()

    async with anyio.create_task_group() as group:
        group.start_soon(engine.store, new(LONG, "long"))
        await waiting(engine._writer._turns, 1)
        group.start_soon(store_short)
        await waiting(engine._writer._turns, 2)
        let_go.set()
    assert recorder.ended == ["short", "long"]
    assert (await engine.document("documents", "default", "long")).text == LONG


async def test_calls_have_their_turns_in_the_order_in_which_they_came(
    engine: Engine, recorder: Recorder
) -> None:
    let_go = recorder.hold("long")
    names = ["long", "first", "second", "third"]
    async with anyio.create_task_group() as group:
        for count, name in enumerate(names, 1):
            text = LONG if name == "long" else name
            group.start_soon(engine.store, new(text, name))
            await waiting(engine._writer._turns, count)
        let_go.set()
    assert recorder.begun == names
    assert recorder.ended[-1] == "long"


async def test_a_turn_is_not_passed_on_before_its_time(
    engine: Engine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", math.inf)
    let_go = recorder.hold("long")
    async with anyio.create_task_group() as group:
        group.start_soon(engine.store, new(LONG, "long"))
        await waiting(engine._writer._turns, 1)
        group.start_soon(engine.store, new("short", "short"))
        await waiting(engine._writer._turns, 2)
        let_go.set()
    assert recorder.ended == ["long", "short"]


async def test_others_pass_between_two_windows_of_a_batch(
    engine: Engine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", math.inf)
    monkeypatch.setattr(storing, "WINDOW_CHUNKS", 1)
    let_go = recorder.hold("one")
    async with anyio.create_task_group() as group:
        group.start_soon(engine.store_many, [new("one", "1"), new("two", "2")])
        await waiting(engine._writer._turns, 1)
        group.start_soon(engine.store, new("short", "short"))
        await waiting(engine._writer._turns, 2)
        let_go.set()
    assert recorder.ended == ["one", "short", "two"]


@pytest.mark.parametrize("cancelled", ["long", "short"])
async def test_a_call_cancelled_out_of_its_turn_leaves_the_queue_at_once(
    engine: Engine, recorder: Recorder, cancelled: str
) -> None:
    let_go = {name: recorder.hold(name) for name in ("long", "short")}
    scopes = {name: anyio.CancelScope() for name in let_go}

    async def store(text: str, name: str) -> None:
        with scopes[name]:
            await engine.store(new(text, name))

    async with anyio.create_task_group() as group:
        group.start_soon(store, LONG, "long")
        await waiting(engine._writer._turns, 1)
        group.start_soon(store, "short", "short")
        await waiting(engine._writer._turns, 2)
        if cancelled == "long":
            let_go["long"].set()
            with anyio.fail_after(PATIENCE_SECONDS):
                while "short" not in recorder.begun:
                    await anyio.lowlevel.checkpoint()
        scopes[cancelled].cancel()
        await waiting(engine._writer._turns, 1)
        for event in let_go.values():
            event.set()
    (kept,) = recorder.ended
    assert {kept, cancelled} == {"long", "short"}
    await engine.document("documents", "default", kept)
    with pytest.raises(NotFoundError):
        await engine.document("documents", "default", cancelled)


async def test_more_calls_than_are_prepared_at_once_all_succeed(
    engine: Engine, recorder: Recorder
) -> None:
    names = [f"d{i}" for i in range(CONCURRENT_STORES + 1)]
    let_go = [recorder.hold(name) for name in names]
    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(engine.store, new(name, name))
        await waiting(engine._writer._turns, CONCURRENT_STORES)
        assert engine._stores.statistics().tasks_waiting == 1
        for event in let_go:
            event.set()
    assert sorted(recorder.ended) == names
    assert recorder.begun[-1] == names[-1]
    for name in names:
        assert (await engine.document("documents", "default", name)).text == name


async def test_large_documents_are_encoded_one_after_another_and_short_ones_pass(
    engine: Engine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "LARGE_CHUNKS", 4)
    let_go = recorder.hold("long")
    async with anyio.create_task_group() as group:
        group.start_soon(engine.store, new(LONG, "long"))
        await waiting(engine._writer._turns, 1)
        group.start_soon(engine.store, new(LARGE, "large"))
        await waiting(engine._writer._large, 2)
        group.start_soon(engine.store, new("short", "short"))
        await waiting(engine._writer._turns, 2)
        let_go.set()
    assert recorder.begun == ["long", "short", "large"]
    assert recorder.ended == ["short", "long", "large"]


async def test_a_large_document_cancelled_while_it_waits_leaves_the_queue_at_once(
    engine: Engine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "LARGE_CHUNKS", 4)
    let_go = recorder.hold("long")
    async with anyio.create_task_group() as group:
        group.start_soon(engine.store, new(LONG, "long"))
        await waiting(engine._writer._turns, 1)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(engine.store, new(LARGE, "large"))
                await waiting(engine._writer._large, 2)
                scope.cancel()
        await waiting(engine._writer._large, 1)
        let_go.set()
    assert recorder.begun == ["long"]


async def test_progress_is_told_while_a_call_waits_for_its_turn(
    engine: Engine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "PROGRESS_SECONDS", 0.001)
    told = recorder.hold("long")

    async def progress(done: float, total: float, _: str) -> None:
        if (done, total) == (0, 1):
            told.set()

    async with anyio.create_task_group() as group:
        group.start_soon(engine.store, new(LONG, "long"))
        await waiting(engine._writer._turns, 1)
        await engine.store(new("short", "short"), progress=progress)
    assert told.is_set()
