"""The real models, loaded once, and engines on directories of their own."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from mcp_hybrid_search import engine_starting
from mcp_hybrid_search.embeddings import FastEmbedEncoders
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.engine_client import EngineClient
from mcp_hybrid_search.models import model_set
from mcp_hybrid_search.settings import Settings, load_settings
from tests.fake_engine import Engines


class SharedEncoders(FastEmbedEncoders):
    """The bundled encoders; an engine that is closed leaves them open."""

    def close(self) -> None:
        """Stay open: other tests use them."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _short_lived_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an engine that a test starts leave when its last client has gone."""
    monkeypatch.setenv("HYBRID_SEARCH_ENGINE_IDLE_SECONDS", "0")


@pytest.fixture(scope="session")
def encoders() -> SharedEncoders:
    settings = load_settings()
    return SharedEncoders(model_set(settings), settings)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data", min_free_bytes=0)


OpenEngine = Callable[..., Engine]


@pytest.fixture
def open_engine(encoders: SharedEncoders, tmp_path: Path) -> Iterator[OpenEngine]:
    """Open engines on the test's directory; whatever is still open is closed."""
    opened: list[Engine] = []

    def open_(**given: object) -> Engine:
        values = {"data_dir": tmp_path / "data", "min_free_bytes": 0, **given}
        engine = Engine(load_settings(**values), encoders)
        opened.append(engine)
        return engine

    yield open_
    for engine in opened:
        engine.close()


@pytest.fixture
def engine(open_engine: OpenEngine) -> Engine:
    return open_engine()


@pytest.fixture
async def engines(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Engines]:
    """Start the engines that a test describes where a client would start real ones."""
    engines = Engines(settings)
    monkeypatch.setattr(engine_starting, "running", engines.running)
    yield engines
    for engine in engines.started:
        await engine.wait_for_end()


@pytest.fixture
async def client(settings: Settings, engines: Engines) -> AsyncIterator[EngineClient]:
    del engines  # Ends after its client.
    client = EngineClient(settings)
    yield client
    await client.aclose()
