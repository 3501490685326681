"""What slices of optimising cost, and what they save.

Run: python -m benchmarks.optimizing [--points 30000] [--json optimizing.json]

Two indexes are filled with the same points; one is optimised as the engine does
while it stores without a pause, the other never.
"""

import argparse
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.passages import passage_documents, read_texts, some_queries
from benchmarks.replay import NoisyEncoders
from benchmarks.report import Row, Section, as_json, figure, say, show, write
from mcp_hybrid_search.documents import DENSE, Document
from mcp_hybrid_search.embeddings import Encoded, Encoders, FastEmbedEncoders
from mcp_hybrid_search.models import model_set
from mcp_hybrid_search.settings import Settings, load_settings
from mcp_hybrid_search.stores.edge import EdgeIndex, Point, Ranking, size_bytes
from mcp_hybrid_search.stores.optimizing import SLICE_LIMIT

BATCH = 500
HEARTBEAT_SECONDS = 0.002
LOADS = 5
NOTE = (
    "Vectors: real encodings of {base} chunks; beyond those, the same ones with seeded"
    " noise (cosine 0.96). Both indexes hold the same points. Searches: every stage,"
    " {limit} candidates, each query once to warm up. Overlap: with the ranking that"
    " reads every vector."
)


class Twins:
    """Two indexes of the same points, one of them optimised."""

    def __init__(self, root: Path, settings: Settings, encoders: Encoders) -> None:
        self.paths = {"never": root / "never", "slices": root / "slices"}
        self._open = {
            name: EdgeIndex(
                path, dims=encoders.dims or {}, storage=settings.token_storage
            )
            for name, path in self.paths.items()
        }
        self.count = 0
        self.standstills: list[float] = []
        """Seconds during which no other thread ran, by slice."""
        self.cpu: list[float] = []
        """The same, in seconds of all processors: what else runs does not count."""
        self.slices: list[float] = []
        """Seconds of each slice, with bringing it to the disk and reading it."""

    def fill(self, encoded: Iterator[Encoded], count: int) -> None:
        """Write points to both until they have so many."""
        while self.count < count:
            points = [
                Point(self.count + 1 + i, vectors, _document(self.count + i))
                for i, vectors in enumerate(islice(encoded, BATCH))
            ]
            for index in self._open.values():
                index.upsert(points)
                index.flush()
            self.count += len(points)
            if self._open["slices"].unoptimized >= SLICE_LIMIT:
                self._optimize(self._open["slices"])
                say(f"{self.count:,} of {count:,} points")

    def _optimize(self, index: EdgeIndex) -> None:
        started, cpu = time.perf_counter(), time.process_time()
        with _standstill() as longest:
            index.optimize()
        self.cpu.append(time.process_time() - cpu)
        self.slices.append(time.perf_counter() - started)
        self.standstills.append(max(longest))

    def search_rows(self, queries: Sequence[Encoded], limit: int) -> list[Row]:
        """Return the milliseconds of searches of both, and their overlap."""
        times: dict[str, list[float]] = {}
        dense: dict[str, list[Ranking]] = {}
        for name, index in self._open.items():
            for query in queries:
                _rankings(index, query, limit)
            answers = [_timed(index, query, limit) for query in queries]
            times[name] = [milliseconds for milliseconds, _ in answers]
            dense[name] = [ranking for _, ranking in answers]
        overlaps = [
            len({i for i, _ in exact} & {i for i, _ in found}) / len(exact)
            for exact, found in zip(dense["never"], dense["slices"], strict=True)
        ]
        at = f"{self.count:,} points"
        return [
            *(
                figure(f"{at}, {name}, p{p}", times[name], "ms", percentile=p)
                for name in times
                for p in (50, 95)
            ),
            {
                **figure(f"{at}, overlap@{limit}", overlaps, "", target=">= 0.98"),
                "value": float(np.mean(overlaps)),
            },
        ]

    def slice_rows(self) -> list[Row]:
        """Return how long slices took."""
        what = f"slice of {SLICE_LIMIT:,} points, nothing else runs"
        return [
            figure(f"{what}, p50", self.standstills, "s", target="<= 1"),
            figure(
                f"{what}, max", self.standstills, "s", target="<= 2", percentile=100
            ),
            figure("slice, processor time of all threads, p50", self.cpu, "s"),
            figure("slice, with flush and reading it, p50", self.slices, "s"),
        ]

    def disk_rows(self, settings: Settings, encoders: Encoders) -> Iterator[Row]:
        """Close and load both; return what they take."""
        for name, index in self._open.items():
            segments = [*(self.paths[name] / "segments").iterdir()]
            yield figure(f"{name}: segments", [float(len(segments))], "")
            started = time.perf_counter()
            index.flush()
            seconds = time.perf_counter() - started
            yield figure(f"{name}: flush, nothing new", [seconds * 1000], "ms")
            index.close()
            yield figure(f"{name}: disk", [size_bytes(self.paths[name]) / 1e6], "MB")
            loads = []
            for _ in range(LOADS):
                started = time.perf_counter()
                again = EdgeIndex(
                    self.paths[name],
                    dims=encoders.dims or {},
                    storage=settings.token_storage,
                )
                loads.append(time.perf_counter() - started)
                again.close()
            yield figure(f"{name}: load", loads, "s")


@contextmanager
def _standstill() -> Iterator[list[float]]:
    """Yield the seconds between the turns that another thread got."""
    gaps = [0.0]
    over = threading.Event()

    def beat() -> None:
        last = time.perf_counter()
        while not over.wait(HEARTBEAT_SECONDS):
            now = time.perf_counter()
            gaps.append(now - last)
            last = now
        gaps.append(time.perf_counter() - last)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield gaps
    finally:
        over.set()
        thread.join()


def _rankings(index: EdgeIndex, query: Encoded, limit: int) -> dict[str, Ranking]:
    return index.rankings(query, namespace="default", filter_=None, limit=limit)


def _timed(index: EdgeIndex, query: Encoded, limit: int) -> tuple[float, Ranking]:
    started = time.perf_counter()
    rankings = _rankings(index, query, limit)
    return (time.perf_counter() - started) * 1000, rankings[DENSE]


def _document(number: int) -> Document:
    return Document(
        document_id=f"filler-{number // 5}",
        collection="documents",
        namespace="default",
        title=None,
        source=None,
        metadata={"number": number},
        created_at=float(number),
        updated_at=float(number),
        chunk_count=5,
    )


def _endless(encoders: NoisyEncoders, texts: Sequence[str]) -> Iterator[Encoded]:
    while True:
        for first in range(0, len(texts), 32):
            yield from encoders.encode_documents(
                texts[first : first + 32], advance=lambda: None
            )


def measure(arguments: argparse.Namespace, settings: Settings) -> list[Section]:
    """Fill and ask both, at a third of the points and at all of them."""
    with (
        closing(FastEmbedEncoders(model_set(settings), settings)) as inner,
        TemporaryDirectory(prefix="optimizing-") as root,
    ):
        if inner.tokenizer is None:
            msg = "The models are needed."
            raise RuntimeError(msg)
        texts = passage_documents(
            read_texts(None), inner.tokenizer, passages=5 * arguments.base_chunks
        )
        chunks = [piece for text in texts for piece in text.split("\n\n")]
        chunks = chunks[: arguments.base_chunks]
        queries = [
            inner.encode_query(text) for text in some_queries(None, arguments.queries)
        ]
        twins = Twins(Path(root), settings, inner)
        encoded = _endless(NoisyEncoders(inner), chunks)
        rows = []
        for count in (arguments.points // 3, arguments.points):
            twins.fill(encoded, count)
            rows += twins.search_rows(queries, settings.prefetch_limit)
        note = NOTE.format(base=len(chunks), limit=settings.prefetch_limit)
        return [
            Section("Slices", twins.slice_rows()),
            Section("Search in the index", rows, note),
            Section("On the disk", [*twins.disk_rows(settings, inner)]),
        ]


def main() -> None:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=30_000)
    parser.add_argument("--base-chunks", type=int, default=600)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--json", type=Path, default=Path("optimizing.json"))
    arguments = parser.parse_args()
    settings = load_settings()
    sections = measure(arguments, settings)
    show(sections)
    say(f"Written: {write(arguments.json, as_json('optimizing', sections, settings))}")


if __name__ == "__main__":
    main()
