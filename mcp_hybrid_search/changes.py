"""Tells clients that the documents they can list have changed.

Each client hears of the namespaces that it may read, and of no others.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
)

from mcp_hybrid_search.access import caller

if TYPE_CHECKING:
    from mcp.server.connection import Connection
    from mcp.server.session import ServerSession


class Changes:
    """The connections and subscriptions, each with the namespace that it may read."""

    def __init__(self) -> None:
        self._connections: WeakKeyDictionary[Connection, str | None] = (
            WeakKeyDictionary()
        )
        self._everything = InMemorySubscriptionBus()
        self._buses: dict[str, InMemorySubscriptionBus] = {}

    def met(self, session: "ServerSession") -> None:
        """Remember a client that has shaken hands."""
        # A session stands for one message, the connection for the client.
        connection = session._connection  # noqa: SLF001
        self._connections[connection] = caller().namespace

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Register a listener of the client whose message is being handled."""
        namespace = caller().namespace
        if namespace is None:
            return self._everything.subscribe(listener)
        bus = self._buses.setdefault(namespace, InMemorySubscriptionBus())
        return bus.subscribe(listener)

    async def publish(self, event: ServerEvent) -> None:
        """Deliver an event that is about no namespace."""
        for bus in (self._everything, *self._buses.values()):
            await bus.publish(event)

    async def listed(self, namespace: str) -> None:
        """Tell that documents of a namespace have come or gone."""
        for connection, own in list(self._connections.items()):
            if own in {None, namespace}:
                await connection.send_resource_list_changed()
        await self._published(namespace, ResourcesListChanged())

    async def updated(self, namespace: str, uri: str) -> None:
        """Tell that a document of a namespace has another text."""
        await self._published(namespace, ResourceUpdated(uri=uri))

    async def _published(self, namespace: str, event: ServerEvent) -> None:
        await self._everything.publish(event)
        if namespace in self._buses:
            await self._buses[namespace].publish(event)
