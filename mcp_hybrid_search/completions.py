"""Completes collections, namespaces and document ids as a user types them."""

from typing import TYPE_CHECKING

from mcp.server import MCPServer
from mcp.types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from mcp_hybrid_search.backend import Backend
from mcp_hybrid_search.errors import HybridSearchError

if TYPE_CHECKING:
    from mcp_hybrid_search.opening import AnyEngine

MOST = 100
"""Values of one completion; the protocol allows no more."""


def add_completions(server: MCPServer[None], backend: Backend) -> None:
    """Complete the arguments of the prompts and of the documents' URI."""

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator]
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        del ref  # An argument of one name means the same everywhere.
        given = {} if context is None else context.arguments or {}
        try:
            values = await _values(backend, argument, given)
        except HybridSearchError:
            # Whoever is typing gets no proposals; the call itself will say why.
            values = []
        return Completion(values=values[:MOST], has_more=len(values) > MOST)


async def _values(
    backend: Backend, argument: CompletionArgument, given: dict[str, str]
) -> list[str]:
    async with backend.engine(None, "completing") as (engine, _):
        return await _found(engine, backend, argument, given)


async def _found(
    engine: "AnyEngine",
    backend: Backend,
    argument: CompletionArgument,
    given: dict[str, str],
) -> list[str]:
    access, prefix = backend.access(), argument.value
    if argument.name == "collection":
        found = await engine.collections(access.namespace)
        names = sorted(each.name for each in found)
        return [name for name in names if name.startswith(prefix)]
    collection = backend.collection(given.get("collection"))
    if argument.name == "namespace":
        if access.namespace is not None:
            own = access.namespace
            return [own] if own.startswith(prefix) else []
        return await engine.namespaces(collection, prefix, MOST + 1)
    if argument.name == "id":
        namespace = backend.namespace(given.get("namespace"))
        return await engine.document_ids(collection, namespace, prefix, MOST + 1)
    return []
