"""The engine is opened once, in the background, and again after a failure."""

from pathlib import Path

import anyio
import pytest

from mcp_hybrid_search import engine_socket
from mcp_hybrid_search.documents import NewDocument, SearchRequest
from mcp_hybrid_search.engine_client import EngineClient
from mcp_hybrid_search.errors import StoreUnavailableError
from mcp_hybrid_search.opening import NO_SOCKETS, Opening, opener
from mcp_hybrid_search.settings import load_settings

pytestmark = pytest.mark.anyio


async def test_simultaneous_first_calls_open_one_engine(tmp_path: Path) -> None:
    opening = Opening(load_settings(data_dir=tmp_path / "data"))
    engines = []

    async def wait() -> None:
        engines.append(await opening.engine())

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(wait)
    assert len({id(engine) for engine in engines}) == 1
    opening.close()


async def test_after_a_failure_the_next_call_tries_again(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    link = tmp_path / "data"
    link.symlink_to(target)
    opening = Opening(load_settings(data_dir=link))
    with pytest.raises(StoreUnavailableError, match="symbolic link"):
        await opening.engine()
    link.unlink()
    assert await (await opening.engine()).collections() == []
    opening.close()


async def test_waiting_tells_that_the_models_are_loading(tmp_path: Path) -> None:
    opening = Opening(load_settings(data_dir=tmp_path / "data"))
    told = []

    async def progress(done: float, total: float, message: str) -> None:
        assert done < total
        told.append(message)

    await opening.engine(progress)
    assert set(told) <= {"loading the models"}
    opening.close()


def test_closing_what_was_never_opened_does_nothing(tmp_path: Path) -> None:
    Opening(load_settings(data_dir=tmp_path / "data")).close()
    assert not (tmp_path / "data").exists()


async def test_without_sockets_the_engine_is_opened_here_and_the_first_search_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_socket, "sockets_exist", lambda: False)
    opening = opener(load_settings(data_dir=tmp_path / "data", min_free_bytes=0))
    assert isinstance(opening, Opening)
    engine = await opening.engine()
    await engine.store(NewDocument("A whale.", "documents", "default"))
    request = SearchRequest("whale", "documents", "default")
    assert (await engine.search(request)).notices == (NO_SOCKETS,)
    assert (await engine.search(request)).notices == ()
    await opening.aclose()


def test_the_engine_is_shared_unless_somebody_wants_it_here(tmp_path: Path) -> None:
    if engine_socket.sockets_exist():
        assert isinstance(opener(load_settings(data_dir=tmp_path)), EngineClient)
    alone = opener(load_settings(data_dir=tmp_path, in_process=True))
    assert isinstance(alone, Opening)
    assert alone.state() == "loading"
