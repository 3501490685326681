"""What tests of recovery share: a few texts, and what must be found of them."""

from typing import Any

import anyio

from mcp_hybrid_search.documents import NewDocument, SearchRequest, SearchResult, Stored
from mcp_hybrid_search.engine import Engine

PATIENCE_SECONDS = 120
TEXTS = {
    "whale": "Moby Dick is the white whale that took the captain's leg.",
    "soup": "Leek soup wants butter, leeks, potatoes and a little patience.",
    "rust": "The borrow checker refuses two mutable references at a time.",
}


def new(text: str, document_id: str, **given: Any) -> NewDocument:
    return NewDocument(text, "documents", "default", document_id=document_id, **given)


async def fill(engine: Engine) -> None:
    outcomes = await engine.store_many(
        [new(text, name) for name, text in TEXTS.items()]
    )
    assert [type(outcome) for outcome in outcomes] == [Stored] * len(TEXTS)


async def search(engine: Engine, query: str) -> SearchResult:
    return await engine.search(SearchRequest(query, "documents", "default"))


async def found(engine: Engine, query: str) -> list[str]:
    """Search once the index is complete; return the hits' ids, best first."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            result = await search(engine, query)
            if not any("indexed again" in notice for notice in result.notices):
                return [hit.document.document_id for hit in result.hits]


async def everything_is_found(engine: Engine) -> bool:
    best = [(await found(engine, text))[:1] for text in TEXTS.values()]
    return best == [[name] for name in TEXTS]


def point_ids(engine: Engine) -> set[int]:
    """Return what the only open index holds."""
    (opened,) = engine._store._indexes._open.values()
    return opened.index.point_ids()
