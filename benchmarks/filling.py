"""Stores of any size, written through the engine with varied real encodings."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count

from benchmarks.passages import PASSAGES_PER_DOCUMENT
from benchmarks.replay import NoisyEncoders
from benchmarks.report import say
from mcp_hybrid_search.documents import NewDocument, Stored
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.settings import Settings

DOCUMENTS_PER_CALL = 20

NOTE = (
    "Vectors: real encodings of {chunks} chunks; beyond those, the same ones with"
    " seeded noise (cosine 0.96 to the real one), normalised, written by the engine"
)


class Filling:
    """Fills one data directory, in steps."""

    def __init__(
        self, settings: Settings, encoders: NoisyEncoders, documents: Sequence[str]
    ) -> None:
        """Fill from documents that repeat under new ids.

        Args:
            settings: Of the store.
            encoders: Vary the vectors of what repeats.
            documents: Real text.
        """
        self._settings = settings
        self._encoders = encoders
        self._documents = self._endless(documents)
        self.chunks = 0
        """Stored so far."""

    def _endless(self, documents: Sequence[str]) -> Iterator[NewDocument]:
        for number in count():
            yield NewDocument(
                documents[number % len(documents)],
                self._settings.collection,
                self._settings.namespace,
                document_id=f"filler-{number}",
            )

    async def fill(self, chunks: int) -> None:
        """Store until there are about so many chunks, then close the store."""
        told = self.chunks
        with closing(Engine(self._settings, self._encoders)) as engine:
            while self.chunks < chunks:
                missing = -(-(chunks - self.chunks) // PASSAGES_PER_DOCUMENT)
                wanted = range(min(DOCUMENTS_PER_CALL, missing))
                batch = [next(self._documents) for _ in wanted]
                for outcome in await engine.store_many(batch):
                    if not isinstance(outcome, Stored):
                        raise outcome
                    self.chunks += outcome.chunks
                if self.chunks - told >= chunks / 10:
                    told = self.chunks
                    say(f"fill: {told:,} of {chunks:,} chunks")
