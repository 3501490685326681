"""What an engine answers, as it is written; see `engine_protocol`."""

from collections.abc import Awaitable, Callable

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mcp_hybrid_search import engine_protocol as protocol

Tell = Callable[[bytes], Awaitable[None]]
"""Send a line that is not the last one."""


class LineByLine(Response):
    """Lines until the last one is known; the client's going away cancels it."""

    def __init__(self, last_line: Callable[[Tell], Awaitable[bytes]]) -> None:
        super().__init__()
        self._last_line = last_line

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        del scope
        begun = ended = False

        async def tell(line: bytes, *, last: bool = False) -> None:
            nonlocal begun, ended
            if ended:
                return
            ended = last
            if not begun:
                # With the first line, so that the client need not wake up twice.
                begun = True
                await send(
                    {"type": "http.response.start", "status": 200, "headers": []}
                )
            body = {"type": "http.response.body", "body": line, "more_body": not last}
            await send(body)

        async with anyio.create_task_group() as group:
            group.start_soon(_tell_alive, tell)
            group.start_soon(_cancel_when_gone, receive, group.cancel_scope)
            await tell(await self._last_line(tell), last=True)
            group.cancel_scope.cancel()


async def _tell_alive(tell: Tell) -> None:
    while True:
        await anyio.sleep(protocol.ALIVE_SECONDS)
        await tell(protocol.line(protocol.ALIVE))


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
