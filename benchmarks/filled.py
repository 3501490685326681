"""Closed stores of any size, each made once and copied for whoever needs one."""

from pathlib import Path
from unittest.mock import patch

import anyio

from benchmarks.engines import shared_settings
from benchmarks.filling import Filling
from benchmarks.passages import passage_documents, read_texts
from benchmarks.replay import NoisyEncoders, replaying
from benchmarks.report import say
from benchmarks.searching import copied
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stores.optimizing import Slices

BASE_CHUNKS = 400
"""Really encoded; what is beyond them are variations of these."""


class Filled:
    """Stores below one directory."""

    def __init__(self, work: Path, cache: Path | None, data: Path | None) -> None:
        """Make none yet.

        Args:
            work: Where they are made.
            cache: Directory that keeps encodings; None forgets them.
            data: BEIR directory, for its texts.
        """
        self._work = work
        self._cache = cache
        self._data = data

    def copy(self, chunks: int, name: str, *, optimized: bool = True) -> Settings:
        """Return the settings of a new store `name` with about so many chunks.

        Without any, it is yet to be made.
        """
        if not chunks:
            return shared_settings(self._work / name)
        kind = "filled" if optimized else "plain"
        settings = shared_settings(self._work / f"{kind}-{chunks}")
        if not settings.data_dir.exists():
            say(f"filling a store with {chunks:,} chunks")
            due = Slices.due if optimized else lambda _: False
            with patch.object(Slices, "due", due):
                self._fill(settings, chunks)
        return copied(settings, name)

    def _fill(self, settings: Settings, chunks: int) -> None:
        with replaying(settings, self._cache) as encoders_for:
            encoders = encoders_for(settings.token_pooling)
            if encoders.tokenizer is None:
                raise RuntimeError(encoders.problem)
            documents = passage_documents(
                read_texts(self._data),
                encoders.tokenizer,
                passages=min(BASE_CHUNKS, chunks),
            )
            filling = Filling(settings, NoisyEncoders(encoders), documents)
            anyio.run(filling.fill, chunks)
