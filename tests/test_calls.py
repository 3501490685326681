"""How many calls are worked on, how many wait, and what the others are told."""

from collections.abc import Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint

from mcp_hybrid_search import calls as calls_module
from mcp_hybrid_search.calls import Calls
from mcp_hybrid_search.errors import BusyError

pytestmark = pytest.mark.anyio


class Held:
    """Calls that hold their places until they are let go."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.begun: list[str] = []
        self.let_go = anyio.Event()

    async def call(self, name: str) -> None:
        async with self._calls.place():
            self.begun.append(name)
            await self.let_go.wait()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not condition():
            await checkpoint()


async def test_calls_wait_in_the_order_in_which_they_came() -> None:
    calls = Calls(at_once=1, waiting=3)
    held = Held(calls)
    async with anyio.create_task_group() as group:
        for name in ("first", "second", "third"):
            group.start_soon(held.call, name)
            await until(lambda: calls.active == 1)
        await until(lambda: calls.waiting == 2)
        assert held.begun == ["first"]
        held.let_go.set()
    assert held.begun == ["first", "second", "third"]
    assert (calls.active, calls.waiting) == (0, 0)


async def test_what_is_over_the_queue_is_refused_with_a_time_to_try_again() -> None:
    calls = Calls(at_once=2, waiting=1)
    held = Held(calls)
    async with anyio.create_task_group() as group:
        for name in "abc":
            group.start_soon(held.call, name)
        await until(lambda: calls.waiting == 1)
        with pytest.raises(BusyError, match=r"retry in \d+ s") as refused:
            calls.check()
        assert refused.value.retry_seconds >= 1
        with pytest.raises(BusyError):
            await held.call("d")
        held.let_go.set()
    assert sorted(held.begun) == ["a", "b", "c"]
    calls.check()


async def test_a_cancelled_call_gives_its_place_back() -> None:
    calls = Calls(at_once=1, waiting=1)
    held = Held(calls)
    async with anyio.create_task_group() as group:
        group.start_soon(held.call, "works")
        await until(lambda: calls.active == 1)
        group.start_soon(held.call, "waits")
        await until(lambda: calls.waiting == 1)
        group.cancel_scope.cancel()
    assert (calls.active, calls.waiting) == (0, 0)
    async with calls.place():
        assert calls.active == 1


async def test_a_failed_call_gives_its_place_back() -> None:
    calls = Calls(at_once=1, waiting=0)
    with pytest.raises(ZeroDivisionError):
        async with calls.place():
            raise ZeroDivisionError
    async with calls.place():
        assert calls.active == 1


async def test_each_caller_has_a_rate_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    calls = Calls(at_once=8, waiting=8, per_minute=2)

    async def once(caller: str) -> None:
        async with calls.place(caller):
            pass

    await once("one")
    await once("one")
    with pytest.raises(BusyError, match="More than 2 calls") as refused:
        await once("one")
    assert refused.value.retry_seconds == 30
    await once("another")
    now += 30
    await once("one")
    with pytest.raises(BusyError):
        await once("one")


async def test_callers_that_were_not_seen_for_longest_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls_module, "MOST_CALLERS", 3)
    calls = Calls(at_once=8, waiting=8, per_minute=1)
    for caller in "abcd":
        async with calls.place(caller):
            pass
    with pytest.raises(BusyError):
        async with calls.place("d"):
            pass
    async with calls.place("a"):
        assert len(calls._budgets) == 3


async def test_a_server_that_stops_refuses_calls_and_ends_those_it_let_in() -> None:
    calls = Calls(at_once=1, waiting=1)
    held = Held(calls)
    async with anyio.create_task_group() as group:
        group.start_soon(held.call, "works")
        await until(lambda: calls.active == 1)
        group.start_soon(held.call, "waits")
        await until(lambda: calls.waiting == 1)
        calls.close()
        with pytest.raises(BusyError, match="about to stop"):
            await held.call("late")
        held.let_go.set()
        with anyio.fail_after(5):
            await calls.drained()
        assert held.begun == ["works", "waits"]


async def test_without_calls_there_is_nothing_to_wait_for() -> None:
    with anyio.fail_after(5):
        await Calls(at_once=1, waiting=1).drained()
