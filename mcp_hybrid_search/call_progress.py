"""How far a call is, told to a client that asked for it: each time a little further."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

PATIENCE_SECONDS = 1.5
"""After so long without a word the client is told that the call goes on."""
LOOK_SECONDS = 0.5

Report = Callable[[float, float | None, str | None], Awaitable[None]]
"""Takes the progress, the total if it is known, and what is being done."""


class CallProgress:
    """The progress of one call, over all of its stages.

    The protocol wants every value to be above the one before; each stage of a call
    counts from 0.
    """

    def __init__(self, report: Report, what: str) -> None:
        self._report = report
        self._what = what
        self._before = 0.0
        """What had been told when the stage began."""
        self._told = 0.0
        self._total: float | None = None
        self._at = time.monotonic()

    async def __call__(self, done: float, total: float, what: str) -> None:
        """Tell how far a stage is; what is not further is not told."""
        if what != self._what:
            self._what, self._before = what, self._told
        self._total = self._before + total
        if self._before + done > self._told:
            await self._tell(self._before + done)

    async def tell_of_time(self) -> None:
        """Say every now and then that the call goes on; runs until cancelled."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            if time.monotonic() - self._at >= PATIENCE_SECONDS:
                # Where the end is known, a step that is not work must not reach it.
                step = 1.0 if self._total is None else 0.001
                await self._tell(self._told + step)

    async def _tell(self, value: float) -> None:
        self._told, self._at = value, time.monotonic()
        total = None if self._total is None else max(self._total, value)
        await self._report(value, total, self._what)


@asynccontextmanager
async def telling(report: Report, what: str) -> AsyncIterator[CallProgress]:
    """Tell a client how far a call is while it lasts.

    Args:
        report: Tells it; does nothing if the client did not ask.
        what: What is being done, until a stage says more.
    """
    progress = CallProgress(report, what)
    # Raised inside the group, it would arrive as one of a group.
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(progress.tell_of_time)
        try:
            yield progress
        except Exception as exc:  # noqa: BLE001 - raised again below
            failure = exc
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
