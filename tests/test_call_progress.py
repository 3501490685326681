"""What a client hears of a call that takes its time."""

import anyio
import pytest
from anyio.lowlevel import checkpoint

from mcp_hybrid_search import call_progress
from mcp_hybrid_search.call_progress import CallProgress, telling
from mcp_hybrid_search.errors import InvalidInputError

pytestmark = pytest.mark.anyio


class Told(list[tuple[float, float | None, str | None]]):
    """What a client was told."""

    async def __call__(
        self, value: float, total: float | None, what: str | None
    ) -> None:
        self.append((value, total, what))

    def values(self) -> list[float]:
        return [value for value, _, _ in self]


async def test_the_next_stage_goes_on_where_the_last_one_was() -> None:
    told = Told()
    progress = CallProgress(told, "storing")
    await progress(2, 3, "loading the models")
    await progress(0, 10, "chunks encoded")
    await progress(4, 10, "chunks encoded")
    assert told == [(2, 3, "loading the models"), (6, 12, "chunks encoded")]


async def test_what_is_no_further_is_not_told_again() -> None:
    told = Told()
    progress = CallProgress(told, "storing")
    for done in (1, 1, 0.5, 2):
        await progress(done, 4, "chunks encoded")
    assert told.values() == [1, 2]


async def test_a_call_that_says_nothing_is_told_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call_progress, "LOOK_SECONDS", 0)
    monkeypatch.setattr(call_progress, "PATIENCE_SECONDS", 0)
    told = Told()
    async with telling(told, "searching") as progress:
        with anyio.fail_after(5):
            while len(told) < 3:
                await checkpoint()
        assert told[:3] == [(1, None, "searching"), (2, None, "searching"),
                            (3, None, "searching")]  # fmt: skip
        await progress(1, 2, "chunks encoded")
        before = len(told)
        with anyio.fail_after(5):
            while len(told) < before + 2:
                await checkpoint()
    values = told.values()
    assert values == sorted(set(values))
    # A step that is no work does not reach the end.
    assert all(total is None or value < total for value, total, _ in told)


async def test_a_call_that_is_quick_says_nothing() -> None:
    told = Told()
    async with telling(told, "searching"):
        pass
    assert told == []


async def test_a_failure_arrives_as_it_was_raised() -> None:
    with pytest.raises(InvalidInputError, match="no good"):
        async with telling(Told(), "searching"):
            raise InvalidInputError("no good")  # noqa: EM101, TRY003
