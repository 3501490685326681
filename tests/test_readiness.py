"""Ready means that the engine answers, and nobody waits long to hear otherwise."""

from typing import Any, cast

import anyio
import pytest

from mcp_hybrid_search import readiness as module
from mcp_hybrid_search.documents import CollectionInfo
from mcp_hybrid_search.errors import StoreUnavailableError
from mcp_hybrid_search.readiness import Readiness

pytestmark = pytest.mark.anyio

NOTES = CollectionInfo("notes", "bundled", 2, 3, 400, 0.0)


class Engine:
    """Answers as the test wants; its opener, too."""

    def __init__(self) -> None:
        self.asked = 0
        self.broken = False
        self.stuck = False

    async def engine(self) -> Any:
        return self

    async def collections(self) -> list[CollectionInfo]:
        self.asked += 1
        if self.stuck:
            await anyio.sleep_forever()
        if self.broken:
            msg = "canary"
            raise StoreUnavailableError(msg)
        return [NOTES]


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def readiness(engine: Engine) -> Readiness:
    return Readiness(cast("Any", engine))


async def test_an_engine_that_answers_is_ready_and_not_asked_again(
    readiness: Readiness, engine: Engine
) -> None:
    assert [await readiness.state() for _ in range(5)] == ["ready"] * 5
    assert engine.asked == 1
    assert readiness.collections == [NOTES]


async def test_an_engine_that_fails_is_asked_again(
    readiness: Readiness, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.broken = True
    assert await readiness.state() == "failed"
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    engine.broken = False
    assert await readiness.state() == "ready"


async def test_an_engine_that_does_not_answer_yet_is_loading(
    readiness: Readiness, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)
    engine.stuck = True
    assert await readiness.state() == "loading"
    engine.stuck = False
    assert await readiness.state() == "ready"


async def test_an_engine_that_is_busy_stays_ready_for_a_while(
    readiness: Readiness, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await readiness.state() == "ready"
    engine.stuck = True
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)
    readiness._asked -= module.FRESH_SECONDS
    assert await readiness.state() == "ready"
    readiness._asked -= 3 * module.FRESH_SECONDS
    assert await readiness.state() == "loading"


async def test_a_server_that_stops_is_not_ready(
    readiness: Readiness, engine: Engine
) -> None:
    readiness.stopping = True
    assert await readiness.state() == "stopping"
    assert engine.asked == 0
