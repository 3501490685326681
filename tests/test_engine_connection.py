"""A client finds the engine again, agrees with it, and gives up in words."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from mcp_hybrid_search import engine_connection, engine_socket, engine_starting
from mcp_hybrid_search import engine_protocol as protocol
from mcp_hybrid_search.engine_client import EngineClient
from mcp_hybrid_search.engine_connection import CONNECT_LIMIT, EngineConnection
from mcp_hybrid_search.engine_protocol import OPERATIONS, Hello
from mcp_hybrid_search.errors import ConflictError, StoreUnavailableError
from mcp_hybrid_search.settings import Settings
from tests.fake_engine import (
    Call,
    Engines,
    FakeEngine,
    answers,
    answers_status,
    dies,
    result,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not engine_socket.sockets_exist(), reason="no Unix sockets"),
]

PATIENCE_SECONDS = 60
CANARY = "tr0ub4dor"
works = answers("collections", [])


async def test_an_engine_is_started_greeted_once_and_used(
    client: EngineClient, engines: Engines
) -> None:
    engines.will_be(works)
    client.introduce("an assistant")
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(client.collections)
    (engine,) = engines.started
    (introduced,) = engine.introduced
    told = protocol.CLIENT.validate_json(introduced)
    assert (told.name, told.pid) == ("an assistant", os.getpid())
    assert [call.operation for call in engine.calls] == ["collections"] * 5
    for call in engine.calls:
        assert call.headers[protocol.INSTANCE_HEADER] == engine.instance
        assert call.headers[protocol.CLIENT_HEADER] == introduced


async def test_an_engine_that_runs_already_is_used(
    client: EngineClient, engines: Engines
) -> None:
    engines.will_be(works)
    await engines.start_next()
    assert await client.collections() == []
    assert len(engines.started) == 1


@pytest.mark.parametrize("name", ["", "é\u2028\x7f\n\r\0 😀", "\ud800", "x" * 10_000])
async def test_any_name_can_be_introduced(
    client: EngineClient, engines: Engines, name: str
) -> None:
    engines.will_be(works)
    client.introduce(name)
    await client.collections()
    told = protocol.CLIENT.validate_json(engines.started[0].introduced[0])
    assert told.name == name[:100].replace("\ud800", "?")


async def test_a_client_that_closes_is_seen_to_go(
    client: EngineClient, engines: Engines
) -> None:
    await client.aclose()
    engines.will_be(works)
    await client.collections()
    await client.aclose()
    with anyio.fail_after(PATIENCE_SECONDS):
        while engines.started[0].connection_count:
            await anyio.lowlevel.checkpoint()


async def test_that_an_engine_cannot_be_started_is_told(
    client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def running(_settings: Settings) -> None:
        msg = "No disk."
        raise StoreUnavailableError(msg)

    monkeypatch.setattr(engine_starting, "running", running)
    with pytest.raises(StoreUnavailableError, match="No disk"):
        await client.collections()


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_progress_is_told_however_its_lines_are_cut(
    client: EngineClient, engines: Engines, size: int
) -> None:
    whole = (
        b'alive\nprogress [1, 4.5, "\\u2028 encoded"]\nalive\nmood "fine"\n'
        b'progress [4, 4.5, "done"]\n'
    ) + result("reindex", 7)

    async def answer(call: Call) -> None:
        await call.tell(*(whole[i : i + size] for i in range(0, len(whole), size)))
        call.writer.write(b"0\r\n\r\n")

    engines.will_be(answer)
    told: list[tuple[float, float, str]] = []

    async def progress(done: float, total: float, what: str) -> None:
        told.append((done, total, what))

    assert await client.reindex("documents", progress=progress) == 7
    assert await client.reindex("documents") == 7
    assert told == [
        (0, 1, "starting the engine"),
        (1, 4.5, "\u2028 encoded"),
        (4, 4.5, "done"),
    ]


async def test_another_instance_in_the_same_place_is_greeted_anew(
    client: EngineClient, engines: Engines
) -> None:
    async def answer(call: Call) -> None:
        if call.headers[protocol.INSTANCE_HEADER] == "second":
            await works(call)
        else:
            call.engine.instance = "second"
            call.answer(b"", 409)

    engines.will_be(answer)
    assert await client.collections() == []
    (engine,) = engines.started
    assert len(engine.introduced) == 2
    assert [c.headers[protocol.ATTEMPT_HEADER] for c in engine.calls] == ["0", "0"]


async def test_a_leaving_engine_finishes_the_calls_that_it_has(
    client: EngineClient, engines: Engines
) -> None:
    has_first, has_second = anyio.Event(), anyio.Event()

    async def leaves(call: Call) -> None:
        if call.operation == "reindex":
            has_first.set()
            await has_second.wait()
            call.answer(result("reindex", 7))
        else:
            call.engine.listening.retire()
            call.answer(b"", 409)

    async def last(call: Call) -> None:
        has_second.set()
        await works(call)

    engines.will_be(leaves, last)
    counts = []

    async def reindex() -> None:
        counts.append(await client.reindex("documents"))

    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(reindex)
            await has_first.wait()
            assert await client.collections() == []
    assert counts == [7]
    assert [call.operation for call in engines.started[0].calls] == [
        "reindex",
        "collections",
    ]
    assert [call.operation for call in engines.started[1].calls] == ["collections"]


async def test_an_engine_that_hangs_up_after_its_greeting_is_used(
    client: EngineClient, engines: Engines
) -> None:
    engines.will_be(FakeEngine(works, ends_connections=True))
    assert await client.collections() == []


async def says_nothing(_call: Call) -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(FakeEngine(works, greets=False), id="when greeted"),
        pytest.param(FakeEngine(says_nothing), id="when called"),
        pytest.param(FakeEngine(works, reads_calls=False), id="when sent to"),
    ],
)
async def test_silence_ends_with_the_way_out(
    settings: Settings,
    engines: Engines,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "SILENCE_SECONDS", 0.3)
    engines.will_be(engine)
    connection = EngineConnection(settings)
    body = b" " * 10_000_000
    with pytest.raises(StoreUnavailableError, match="mcp-hybrid-search stop"):
        await connection.call(OPERATIONS["collections"], body, attempt=0, progress=None)
    await connection.aclose()


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_a_refusal_without_words_is_told(
    client: EngineClient, engines: Engines, status: int
) -> None:
    engines.will_be(answers_status(status))
    with pytest.raises(StoreUnavailableError, match=f"HTTP {status}.* logs"):
        await client.collections()
    assert len(engines.calls) == 1


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\n\n",
        b"tr0ub4dor\n",
        b"\xff\xfe\xfa\n",
        b"result\n",
        b"result tr0ub4dor\n",
        b'result {"tr0ub4dor": 1}\n',
        b"failed tr0ub4dor\n",
        b'failed "tr0ub4dor"\n',
        b"progress\nresult 1\n",
        b"progress tr0ub4dor\nresult 1\n",
        b"progress 3\nresult 1\n",
        b"progress [1, 2]\nresult 1\n",
        b'progress ["tr0ub4dor", 2, 3]\nresult 1\n',
        b"result 1",
    ],
)
async def test_an_answer_that_makes_no_sense_is_an_error_without_its_text(
    client: EngineClient, engines: Engines, said: bytes
) -> None:
    async def answer(call: Call) -> None:
        call.answer(said)

    async def progress(_done: float, _total: float, _what: str) -> None:
        pass

    engines.will_be(answer)
    with pytest.raises(StoreUnavailableError, match="not understand") as caught:
        await client.reindex("documents", progress=progress)
    assert CANARY not in str(caught.value)
    assert len(engines.calls) == 1


@pytest.mark.parametrize(
    "engine",
    [
        FakeEngine(works, greeting=b"tr0ub4dor"),
        FakeEngine(works, greeting=b'{"pid": "tr0ub4dor"}'),
        FakeEngine(works, change=lambda hello: with_terms(hello, version=CANARY)),
    ],
)
async def test_a_greeting_that_makes_no_sense_is_an_error_without_its_text(
    client: EngineClient, engines: Engines, engine: FakeEngine
) -> None:
    engines.will_be(engine)
    with pytest.raises(StoreUnavailableError, match="not understand") as caught:
        await client.collections()
    assert CANARY not in str(caught.value)
    assert engines.calls == []


def with_terms(hello: Hello, **terms: Any) -> Hello:
    return replace(hello, terms=replace(hello.terms, **terms))


def other_settings(hello: Hello, **given: Any) -> Hello:
    return with_terms(hello, settings={**hello.terms.settings, **given})


def changed(change: Callable[[Hello], Hello]) -> FakeEngine:
    return FakeEngine(works, change=change)


async def test_an_engine_of_a_newer_protocol_is_left_alone(
    client: EngineClient, engines: Engines
) -> None:
    newer = protocol.PROTOCOL + 1
    engines.will_be(
        changed(lambda hello: with_terms(hello, protocol=newer, version="99.1"))
    )
    with pytest.raises(ConflictError, match=r"version 99\.1.*Update") as caught:
        await client.collections()
    assert protocol.terms(engines.settings).version in str(caught.value)
    assert not engines.started[0].was_asked_to_finish


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda h: with_terms(h, version="99.1"), id="newer version"),
        pytest.param(lambda h: replace(h, clients=9), id="others are there"),
        pytest.param(
            lambda h: other_settings(h, no_setting_here=1), id="a setting more"
        ),
        pytest.param(
            lambda h: with_terms(h, settings={"chunk_tokens": 480}), id="settings less"
        ),
    ],
)
async def test_an_engine_that_fits_is_used(
    client: EngineClient, engines: Engines, change: Callable[[Hello], Hello]
) -> None:
    engines.will_be(changed(change))
    assert await client.collections() == []
    assert len(engines.started) == 1
    assert not engines.started[0].was_asked_to_finish


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda h: replace(with_terms(h, version="0.0.9"), clients=3),
            id="older version, others there",
        ),
        pytest.param(lambda h: with_terms(h, version="0.1.0rc1"), id="a candidate"),
        pytest.param(lambda h: with_terms(h, protocol=0), id="older protocol"),
        pytest.param(
            lambda h: other_settings(h, chunk_tokens=99), id="other settings, alone"
        ),
    ],
)
async def test_an_engine_that_does_not_fit_makes_room(
    client: EngineClient, engines: Engines, change: Callable[[Hello], Hello]
) -> None:
    engines.will_be(changed(change), works)
    assert await client.collections() == []
    old, new = engines.started
    assert old.was_asked_to_finish
    assert old.calls == []
    assert len(new.calls) == 1


async def test_an_engine_that_others_need_as_it_is_stays(
    client: EngineClient, engines: Engines
) -> None:
    engines.will_be(
        changed(
            lambda hello: replace(
                other_settings(hello, chunk_tokens=99, models="tutorial"), clients=1
            )
        )
    )
    with pytest.raises(ConflictError) as caught:
        await client.collections()
    told = str(caught.value)
    assert "HYBRID_SEARCH_CHUNK_TOKENS is 99 there and 480 here" in told
    assert "HYBRID_SEARCH_MODELS is 'tutorial' there and 'bundled' here" in told
    assert "HYBRID_SEARCH_DATA_DIR" in told
    assert "PREFETCH_LIMIT" not in told
    assert not engines.started[0].was_asked_to_finish


leaves_at_once = FakeEngine(works, leaves_when_greeted=True)


async def test_engines_that_all_leave_are_given_up(
    client: EngineClient, engines: Engines
) -> None:
    engines.will_be(leaves_at_once)
    with pytest.raises(StoreUnavailableError, match=r"leaves at once.* logs"):
        await client.collections()
    assert len(engines.started) == CONNECT_LIMIT


async def test_the_last_engine_that_is_tried_is_used(
    client: EngineClient, engines: Engines
) -> None:
    engines.will_be(*[leaves_at_once] * (CONNECT_LIMIT - 1), FakeEngine(works))
    assert await client.collections() == []
    assert len(engines.started) == CONNECT_LIMIT


async def test_an_engine_that_ended_between_two_calls_is_replaced(
    client: EngineClient, engines: Engines
) -> None:
    engines.will_be(works)
    await client.collections()
    engines.started[0].end()
    assert await client.collections() == []
    assert [len(engine.calls) for engine in engines.started] == [1, 1]


async def test_a_cancelled_call_closes_its_connection(
    client: EngineClient, engines: Engines
) -> None:
    begun, gone = anyio.Event(), anyio.Event()

    async def works_long(call: Call) -> None:
        if call.operation == "collections":
            await works(call)
            return
        await call.tell(b'progress [1, 2, "encoded"]\n')
        await call.gone()
        gone.set()

    async def progress(_done: float, _total: float, what: str) -> None:
        if what == "encoded":
            begun.set()

    async def reindex() -> None:
        await client.reindex("documents", progress=progress)

    engines.will_be(works_long)
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(reindex)
            await begun.wait()
            group.cancel_scope.cancel()
        await gone.wait()
    assert await client.collections() == []
    (engine,) = engines.started
    assert len(engine.introduced) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who it is")
async def test_another_users_engine_is_told_nothing(
    client: EngineClient, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines.will_be(works)
    await engines.start_next()
    # As if it had taken the place of ours after we looked.
    monkeypatch.setattr(engine_socket, "connected", engine_socket._in_directory)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StoreUnavailableError, match="another user"):
        await client.collections()
    assert engines.calls == []


async def test_a_call_that_ends_its_engine_is_told_apart_from_one_that_waited(
    settings: Settings, engines: Engines
) -> None:
    engines.will_be(dies(), dies(), dies(), dies(b"started\n"))
    connection = EngineConnection(settings)
    blamed = []
    for attempt in (0, 1, 2, 2):
        with pytest.raises(engine_connection.EngineGoneError) as caught:
            await connection.call(
                OPERATIONS["collections"], b"{}", attempt=attempt, progress=None
            )
        blamed.append(caught.value.died_of_it)
    assert blamed == [True, True, False, True]
    await connection.aclose()
