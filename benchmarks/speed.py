"""Speed, start-up, memory and disk of the real server, and of the tutorial's."""

import argparse
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from benchmarks.bulk import bulk_section
from benchmarks.comparison import tutorial_section
from benchmarks.document_memory import memory_section
from benchmarks.filling import NOTE, Filling
from benchmarks.passages import (
    PASSAGES_PER_DOCUMENT,
    passage_documents,
    read_texts,
    some_queries,
    text_of_size,
)
from benchmarks.replay import NoisyEncoders, ReplayEncoders, replaying
from benchmarks.report import Section, as_json, figure, say, show, write
from benchmarks.searching import (
    Searches,
    measure_searches,
)
from benchmarks.startup import startup_section
from benchmarks.tutorial import Task, measure_tutorial
from mcp_hybrid_search.settings import Settings, load_settings
from mcp_hybrid_search.stores.edge import size_bytes

PARTS = ("startup", "bulk", "search", "tutorial")
STORED_PASSAGES = 20
STORED_DOCUMENTS = STORED_PASSAGES // PASSAGES_PER_DOCUMENT
COMPARED_CHUNKS = 10_000
"""The size at which memory is measured and the tutorial is compared, at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and how often."""

    parts: Sequence[str]
    sizes: Sequence[int]
    data: Path | None
    cache: Path
    work: Path
    queries: int
    base_chunks: int
    bulk_chunks: int
    repetitions: int
    startups: int
    tutorial_queries: int
    tutorial_models: str
    tutorial_token_dim: int
    tutorial_seconds: float
    memory: bool
    memory_bytes: int
    """Of the document that is stored."""

    def compared_chunks(self) -> int:
        """Return the size that stands beside the tutorial's pipeline."""
        fitting = [size for size in self.sizes if size <= COMPARED_CHUNKS]
        return max(fitting or self.sizes)


class SpeedRun:
    """One run of everything that a plan names."""

    def __init__(
        self, plan: Plan, settings: Settings, encoders: ReplayEncoders
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._encoders = encoders
        self._texts = read_texts(plan.data)
        self._compared: Searches | None = None

    def sections(self) -> Iterator[Section]:
        """Measure, part by part."""
        plan = self._plan
        if "startup" in plan.parts:
            say("start-up")
            yield startup_section(self._settings, repetitions=plan.startups)
        if "bulk" in plan.parts:
            documents = self._documents(plan.bulk_chunks)
            yield bulk_section(self._settings, documents, repetitions=plan.repetitions)
        if "search" in plan.parts:
            yield from self._searches()
        if "tutorial" in plan.parts:
            yield self._tutorial()

    def _documents(self, passages: int) -> list[str]:
        if self._encoders.tokenizer is None:
            raise RuntimeError(self._encoders.problem)
        return passage_documents(
            self._texts, self._encoders.tokenizer, passages=passages
        )

    def _searches(self) -> Iterator[Section]:
        plan = self._plan
        settings = self._settings.model_copy(update={"data_dir": plan.work / "store"})
        documents = self._documents(plan.base_chunks + STORED_PASSAGES)
        base, new = documents[:-STORED_DOCUMENTS], documents[-STORED_DOCUMENTS:]
        filling = Filling(settings, NoisyEncoders(self._encoders), base)
        for size in sorted(plan.sizes):
            anyio.run(filling.fill, size)
            bytes_per_chunk = size_bytes(settings.data_dir) / filling.chunks
            run = partial(
                measure_searches,
                queries=some_queries(plan.data, plan.queries),
                count=plan.queries,
                document="\n\n".join(new),
            )
            found = anyio.run(run, settings, self._encoders)
            rows = [
                *found.rows(),
                figure("disk, everything", [bytes_per_chunk], "bytes/chunk"),
            ]
            note = NOTE.format(chunks=plan.base_chunks)
            yield Section(f"Search over stdio, {filling.chunks:,} chunks", rows, note)
            if size == plan.compared_chunks():
                self._compared = found
                if plan.memory:
                    text = text_of_size(self._texts, plan.memory_bytes)
                    yield anyio.run(memory_section, settings, text, filling.chunks)

    def _tutorial(self) -> Section:
        plan = self._plan
        chunks = plan.compared_chunks()
        title = f"Tutorial's pipeline, qdrant-client local mode, {chunks:,} chunks"
        task = Task(
            path=str(plan.work / "tutorial"),
            cache=str(plan.cache),
            data=str(plan.data) if plan.data else None,
            models=plan.tutorial_models,
            chunks=chunks,
            base_chunks=plan.base_chunks,
            queries=plan.tutorial_queries,
            token_dim=plan.tutorial_token_dim,
        )
        say(f"tutorial: filling local mode with {chunks:,} chunks")
        try:
            found = measure_tutorial(task, timeout_seconds=plan.tutorial_seconds)
        except subprocess.SubprocessError as exc:
            return Section(title, [], f"Not measured: {exc}")
        return tutorial_section(title, found, self._compared, task)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--data", type=Path, help="BEIR directory, for its texts")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--cache", type=Path, help="directory that keeps encodings")
    parser.add_argument("--work", type=Path, help="where the stores are made")
    parser.add_argument("--quick", action="store_true", help="small, to try it out")
    parser.add_argument("--memory", action="store_true", help="store 1 MB, slow")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--queries", type=int)
    parser.add_argument(
        "--chunk-tokens",
        type=int,
        default=240,
        help="under 360, so that each passage of 180 tokens is a chunk (default: 240)",
    )
    parser.add_argument("--tutorial-models", default="bundled")
    parser.add_argument("--tutorial-token-dim", type=int, default=128)
    parser.add_argument("--tutorial-seconds", type=float, default=3600.0)
    return parser.parse_args(arguments)


def _plan(options: argparse.Namespace, work: Path) -> Plan:
    quick = options.quick
    return Plan(
        parts=options.parts,
        sizes=options.sizes or ([200] if quick else [1_000, 10_000, 50_000]),
        data=options.data,
        cache=options.cache or work / "cache",
        work=work,
        queries=options.queries or (20 if quick else 200),
        base_chunks=20 if quick else 400,
        bulk_chunks=20 if quick else 200,
        repetitions=2 if quick else 3,
        startups=3 if quick else 9,
        tutorial_queries=5 if quick else 10,
        tutorial_models=options.tutorial_models,
        tutorial_token_dim=options.tutorial_token_dim,
        tutorial_seconds=options.tutorial_seconds,
        memory=options.memory,
        memory_bytes=20_000 if quick else 1_000_000,
    )


@contextmanager
def _work_directory(parent: Path | None) -> Iterator[Path]:
    with TemporaryDirectory(prefix="speed-", dir=parent) as directory:
        yield Path(directory)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print each section as it is ready, and write the JSON if asked to."""
    options = _arguments(arguments)
    with _work_directory(options.work) as work:
        plan = _plan(options, work)
        settings = load_settings(
            data_dir=work / "unused", chunk_tokens=options.chunk_tokens
        )
        sections = []
        with replaying(settings, plan.cache) as encoders_for:
            run = SpeedRun(plan, settings, encoders_for(settings.token_pooling))
            for section in run.sections():
                show([section])
                sections.append(section)
    if options.json:
        contents = as_json("speed", sections, settings)
        say(f"written: {write(options.json, contents)}")


if __name__ == "__main__":
    main()
