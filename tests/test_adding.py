"""Files into an engine, and what earlier versions of them leave."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_hybrid_search.adding import AddedFile, Adding, _batches
from mcp_hybrid_search.documents import NewDocument, SearchRequest
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.engine_client import EngineClient
from mcp_hybrid_search.errors import NotFoundError

pytestmark = pytest.mark.anyio

LIMIT = 1000
PLACE = ("documents", "default")


@pytest.fixture
def engine(open_engine: Callable[..., Engine]) -> Engine:
    return open_engine(max_text_bytes=LIMIT)


@pytest.fixture
def adding(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Adding:
    monkeypatch.chdir(tmp_path)
    return Adding(engine, *PLACE, LIMIT)


async def _ignore(_done: float, _total: float, _what: str) -> None:
    pass


async def add(adding: Adding, *names: str) -> list[AddedFile]:
    return await adding.add(names, progress=_ignore)


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


async def text_of(engine: Engine | EngineClient, document_id: str) -> str | None:
    try:
        return (await engine.document(*PLACE, document_id)).text
    except NotFoundError:
        return None


def paragraphs(count: int) -> str:
    """Return a text of which two paragraphs fill a part."""
    return "".join(f"Paragraph {n}. {'word ' * 80}\n\n" for n in range(count))


async def test_files_are_found_and_added_again_are_unchanged(adding: Adding) -> None:
    write("kettle.md", "# Kettle\n\nIt stands on the stove.\n")
    write("cat.txt", "It sleeps on the sofa.")
    first = await add(adding, "kettle.md", "cat.txt", "./kettle.md", "cat.txt")
    assert [d.status for item in first for d in item.documents] == [
        "created",
        "created",
        "unchanged",
    ]
    found = await adding.engine.search(SearchRequest("Where is the kettle?", *PLACE))
    assert found.hits[0].document.document_id == "kettle.md"
    assert found.hits[0].document.title == "Kettle"


async def test_a_bad_file_never_loses_the_others(adding: Adding) -> None:
    write("good.txt", "Good.")
    write("bad.txt", "\0")
    added = await add(adding, "bad.txt", "good.txt", "missing.txt")
    assert [item.file for item in added] == ["bad.txt", "good.txt", "missing.txt"]
    assert [item.error is None for item in added] == [False, True, False]
    assert await text_of(adding.engine, "good.txt") == "Good."


async def test_a_file_over_the_limit_becomes_several_documents(adding: Adding) -> None:
    text = paragraphs(6)
    write("long.txt", text)
    (added,) = await add(adding, "long.txt")
    ids = [document.id for document in added.documents]
    assert ids == ["long.txt#1", "long.txt#2", "long.txt#3"]
    stored = [await text_of(adding.engine, document_id) for document_id in ids]
    assert "".join(part or "" for part in stored) == text
    assert await text_of(adding.engine, "long.txt") is None


async def test_a_file_that_shrinks_leaves_no_parts(adding: Adding) -> None:
    write("file.txt", paragraphs(8))
    await add(adding, "file.txt")
    write("file.txt", paragraphs(4))
    (fewer,) = await add(adding, "file.txt")
    assert [d.status for d in fewer.documents] == ["unchanged", "unchanged"]
    assert fewer.deleted == ["file.txt#4", "file.txt#3"]
    write("file.txt", "Short.")
    (one,) = await add(adding, "file.txt")
    assert one.deleted == ["file.txt#2", "file.txt#1"]
    (info,) = await adding.engine.collections()
    assert info.documents == 1


async def test_a_file_that_grows_leaves_no_whole(adding: Adding) -> None:
    write("file.txt", "Short.")
    await add(adding, "file.txt")
    write("file.txt", paragraphs(4))
    (added,) = await add(adding, "file.txt")
    assert added.deleted == ["file.txt"]
    assert await text_of(adding.engine, "file.txt") is None


async def test_another_file_named_like_a_part_is_kept(adding: Adding) -> None:
    write("file.txt", "One.")
    write("file.txt#1", "Not a part of the other.")
    await add(adding, "file.txt#1")
    (added,) = await add(adding, "file.txt")
    assert added.deleted == []
    assert await text_of(adding.engine, "file.txt#1") == "Not a part of the other."


async def test_what_was_there_stays_until_all_of_the_new_is(adding: Adding) -> None:
    write("file.txt", paragraphs(4))
    await add(adding, "file.txt")
    write("file.txt", "x" * (LIMIT + 1))
    too_much = Adding(adding.engine, *PLACE, LIMIT * 2)
    (added,) = await add(too_much, "file.txt")
    assert added.error is not None
    assert "limit" in added.error
    assert added.deleted == []
    assert await text_of(adding.engine, "file.txt#2") is not None


async def test_an_id_without_room_for_a_part_number_is_no_problem(
    adding: Adding,
) -> None:
    name = "/".join(["d" * 250, "e" * 250, "f" * 10])
    assert len(name) == 512
    write(name, "Deep down.")
    (added,) = await add(adding, name)
    assert added.error is None


async def test_progress_ends_at_all_bytes(adding: Adding) -> None:
    write("a.txt", "A text.")
    write("b.txt", "Another text.")
    told: list[tuple[float, float]] = []

    async def tell(done: float, total: float, _what: str) -> None:
        told.append((done, total))

    await adding.add(["a.txt", "b.txt", "missing"], progress=tell)
    assert told[-1] == (7 + 13 + 1, 7 + 13 + 1)


async def test_documents_of_the_tools_are_not_touched(adding: Adding) -> None:
    await adding.engine.store(NewDocument("Mine.", *PLACE, "file.txt#1"))
    write("file.txt", "One.")
    await add(adding, "file.txt")
    assert await text_of(adding.engine, "file.txt#1") == "Mine."
    await adding.engine.store(NewDocument("Mine.", *PLACE, "long.txt"))
    write("long.txt", paragraphs(4))
    await add(adding, "long.txt")
    assert await text_of(adding.engine, "long.txt") == "Mine."


def test_files_are_read_a_few_megabytes_at_a_time(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in "abcd"]
    for name, size in zip(
        names, (3_000_000, 500_000, 3_000_000, 9_000_000), strict=True
    ):
        with Path(name).open("wb") as file:
            file.truncate(size)
    assert list(_batches(names)) == [names[:2], names[2:3], names[3:]]
    assert list(_batches([])) == []
