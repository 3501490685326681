"""What every tool, resource and completion works with: the engine, and who asks."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mcp.server.mcpserver import Context

from mcp_hybrid_search.access import Access, caller
from mcp_hybrid_search.call_progress import CallProgress, telling
from mcp_hybrid_search.calls import Calls, Observer
from mcp_hybrid_search.changes import Changes
from mcp_hybrid_search.documents import Origin
from mcp_hybrid_search.settings import Settings

if TYPE_CHECKING:
    from mcp_hybrid_search.engine import Progress
    from mcp_hybrid_search.opening import AnyEngine


class Opener(Protocol):
    """What reaches the engine."""

    def introduce(self, name: str) -> None:
        """Say on whose behalf the calls are."""

    def start(self) -> object:
        """Begin to open the engine; returns at once."""

    async def engine(self, progress: "Progress | None" = None) -> "AnyEngine":
        """Wait for the engine."""


@dataclass(frozen=True, slots=True)
class Backend:
    """The engine, the settings, and who has to be told of what happens."""

    opening: Opener
    settings: Settings
    changes: Changes
    calls: Calls
    observer: Observer | None = None

    def access(self) -> Access:
        """Return the rights of whoever sent the message that is being handled."""
        return caller(read_only=self.settings.read_only)

    def collection(self, asked: str | None) -> str:
        """Return the collection that a call is about."""
        return asked or self.settings.collection

    def namespace(self, asked: str | None) -> str:
        """Return the namespace that a call is confined to.

        Raises:
            ForbiddenError: If the caller may not use the one it names.
        """
        return self.access().namespace_of(asked or "", self.settings.namespace)

    def origin(self, context: Context[None, Any], tool: str) -> Origin:
        """Return who asks for a change, for the audit."""
        return Origin(
            client=self.access().name or client_name(context),
            tool=tool,
            call=secrets.token_hex(8),
        )

    @asynccontextmanager
    async def engine(
        self, context: Context[None, Any] | None, what: str
    ) -> AsyncIterator[tuple["AnyEngine", CallProgress]]:
        """Hold a place for a call, wait for the engine, and tell how far the call is.

        Args:
            context: Of the call, if it can be told anything.
            what: What is being done, in the words of a progress notification.

        Raises:
            BusyError: If too many calls wait for a place.
        """
        report = context.report_progress if context else _untold
        async with (
            telling(report, what) as progress,
            self.calls.place(self.access().name),
        ):
            yield await self.opening.engine(progress), progress


def client_name(context: Context[None, Any]) -> str:
    """Return how the client calls itself; empty if it does not say."""
    params = context.session.client_params
    return "" if params is None else params.client_info.name


async def _untold(
    progress: float, total: float | None = None, message: str | None = None
) -> None:
    """Tell nobody."""
