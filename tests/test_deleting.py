"""A deletion by filter deletes exactly what was counted, all of it or nothing."""

from typing import Any

import pytest

from mcp_hybrid_search.documents import (
    Deletion,
    ListRequest,
    NewDocument,
    SearchRequest,
)
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StoreUnavailableError,
)
from mcp_hybrid_search.stores.edge import EdgeIndex
from tests.conftest import OpenEngine
from tests.recovery import new, point_ids

pytestmark = pytest.mark.anyio

PLACE = ("documents", "default")


async def fill(engine: Engine) -> None:
    await engine.store_many(
        [
            new(f"Note {number} on whales.", f"d{number:02}", metadata={"k": number})
            for number in range(14)
        ]
    )


async def ids(engine: Engine) -> list[str]:
    found = await engine.search(SearchRequest("whales", *PLACE, 100))
    listed = await engine.document_ids(*PLACE)
    assert sorted(hit.document.document_id for hit in found.hits) == listed
    return listed


async def test_a_dry_run_counts_and_deletes_nothing(engine: Engine) -> None:
    await fill(engine)
    before = await ids(engine)
    seen = await engine.delete_matching(*PLACE, {"k": {"gte": 2}}, expected_count=None)
    assert seen == Deletion(12, tuple(f"d{n:02}" for n in range(2, 12)), deleted=False)
    assert await ids(engine) == before


async def test_what_was_counted_is_deleted_everywhere(
    open_engine: OpenEngine,
) -> None:
    engine = open_engine()
    await fill(engine)
    done = await engine.delete_matching(*PLACE, {"k": {"gte": 2}}, expected_count=12)
    assert (done.count, done.deleted) == (12, True)
    assert await ids(engine) == ["d00", "d01"]
    assert len(point_ids(engine)) == 2
    for name in ("d02", "d13"):
        with pytest.raises(NotFoundError):
            await engine.document(*PLACE, name)
    engine.close()
    assert await ids(open_engine()) == ["d00", "d01"]


@pytest.mark.parametrize("expected", [0, 11, 13])
async def test_another_number_than_expected_deletes_nothing_and_is_told(
    engine: Engine, expected: int
) -> None:
    await fill(engine)
    with pytest.raises(
        ConflictError, match=f"matches 12 documents now, not {expected}"
    ):
        await engine.delete_matching(*PLACE, {"k": {"gte": 2}}, expected_count=expected)
    assert len(await ids(engine)) == 14


async def test_nothing_that_was_expected_is_nothing_that_is_deleted(
    engine: Engine,
) -> None:
    await fill(engine)
    done = await engine.delete_matching(*PLACE, {"k": 99}, expected_count=0)
    assert done == Deletion(0, (), deleted=True)


@pytest.mark.parametrize(
    ("filter_", "expected", "told"),
    [
        ({}, None, "Name what to delete"),
        ({}, 14, "Name what to delete"),
        ({"not": {}}, 14, "is empty"),
        ({"and": []}, 14, "must be a list of filters"),
        ({"or": [{}]}, 14, "is empty"),
        ({"k": {}}, 14, "no operator"),
        ({"k": 1}, -1, "0 or more"),
    ],
)
async def test_a_filter_that_names_nothing_is_refused(
    engine: Engine, filter_: dict[str, Any], expected: int | None, told: str
) -> None:
    await fill(engine)
    with pytest.raises(InvalidInputError, match=told):
        await engine.delete_matching(*PLACE, filter_, expected_count=expected)
    assert len(await ids(engine)) == 14


async def test_before_anything_is_stored_nothing_matches(engine: Engine) -> None:
    nothing = await engine.delete_matching(*PLACE, {"k": 1}, expected_count=None)
    assert nothing == Deletion(0, (), deleted=False)
    with pytest.raises(ConflictError, match="matches 0 documents now, not 2"):
        await engine.delete_matching(*PLACE, {"k": 1}, expected_count=2)
    await engine.store(NewDocument("x", "documents", "default"))
    with pytest.raises(NotFoundError, match="There are: 'documents'"):
        await engine.delete_matching("nope", "default", {"k": 1}, expected_count=None)


async def test_points_that_stay_in_the_index_are_no_hits(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(engine)

    def refuse(*_: object) -> None:
        msg = "The index failed."
        raise StoreUnavailableError(msg)

    monkeypatch.setattr(EdgeIndex, "delete", refuse)
    await engine.delete_matching(*PLACE, {"k": {"gte": 2}}, expected_count=12)
    assert await ids(engine) == ["d00", "d01"]
    assert len(point_ids(engine)) == 14


async def test_a_collection_whose_last_document_is_deleted_is_empty(
    engine: Engine,
) -> None:
    await engine.store(NewDocument("A whale.", "elsewhere", "default"))
    await engine.store(new("A whale.", "last"))
    assert await engine.delete(*PLACE, "last")
    assert not await engine.delete(*PLACE, "last")
    found = await engine.search(SearchRequest("whale", *PLACE))
    assert found.hits == ()
    page = await engine.documents(ListRequest(*PLACE))
    assert (page.documents, page.total) == ((), 0)
    for notices in (found.notices, page.notices):
        assert notices == ("Nothing is stored in collection 'documents' any more.",)
    counted = await engine.delete_matching(*PLACE, {"k": 1}, expected_count=None)
    assert counted.count == 0
    # For who never wrote there, there is none.
    await engine.store(NewDocument("A whale.", "elsewhere", "another"))
    with pytest.raises(NotFoundError, match="There are: 'elsewhere'"):
        await engine.search(SearchRequest("whale", "documents", "another"))
