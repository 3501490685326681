"""Files into a running engine: in batches, each file whole, none left over."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from mcp_hybrid_search import results
from mcp_hybrid_search.documents import NOBODY, NewDocument, Origin, Stored
from mcp_hybrid_search.errors import (
    HybridSearchError,
    InvalidInputError,
    NotFoundError,
)
from mcp_hybrid_search.files import STDIN, TextFile, parts, read

if TYPE_CHECKING:
    from mcp_hybrid_search.engine import Progress
    from mcp_hybrid_search.opening import AnyEngine

BATCH_BYTES = 4_000_000
"""Files read and stored together: enough to encode side by side, few to hold."""


class AddedFile(BaseModel):
    """What became of one file."""

    file: str
    documents: list[results.StoredDocument] = Field(
        default=[], description="More than one if the file was split."
    )
    deleted: list[str] = Field(
        default=[], description="Parts from before that the file no longer has."
    )
    error: str | None = Field(default=None, description="Why it failed.")


@dataclass(frozen=True, slots=True)
class Adding:
    """Where files go, and what takes them there."""

    engine: "AnyEngine"
    collection: str
    namespace: str
    max_text_bytes: int
    origin: Origin = NOBODY
    """Who adds them."""

    async def add(
        self, names: Sequence[str], *, progress: "Progress"
    ) -> list[AddedFile]:
        """Store files; one that fails never loses the others.

        Args:
            names: Paths, or `-` for standard input; a repeated one counts once.
            progress: Told how many bytes of files are done.

        Returns:
            What became of each, in order.
        """
        names = list(dict.fromkeys(names))
        total, done = sum(map(_size_bytes, names)), 0
        added: list[AddedFile] = []
        for batch in _batches(names):
            size, before = sum(map(_size_bytes, batch)), done

            async def share(
                chunks: float, of: float, what: str, *, b: int = before, s: int = size
            ) -> None:
                await progress(b + s * chunks / max(of, 1), total, what)

            added += await self._add_batch(batch, share)
            done += size
            await progress(done, total, "files")
        return added

    async def _add_batch(
        self, names: Sequence[str], progress: "Progress"
    ) -> list[AddedFile]:
        read_files: dict[str, TextFile | HybridSearchError] = {}
        documents: list[NewDocument] = []
        spans: dict[str, slice] = {}
        for name in names:
            try:
                file = read(name, namespace=self.namespace)
            except InvalidInputError as exc:
                read_files[name] = exc
                continue
            read_files[name] = file
            start = len(documents)
            documents += self._documents(file)
            spans[name] = slice(start, len(documents))
        outcomes = await self.engine.store_many(
            documents, origin=self.origin, progress=progress
        )
        return [
            await self._added(file, outcomes[spans[name]])
            if isinstance(file, TextFile)
            else AddedFile(file=name, error=str(file))
            for name, file in read_files.items()
        ]

    def _documents(self, file: TextFile) -> list[NewDocument]:
        texts = parts(file.text, max_bytes=self.max_text_bytes)
        ids = (
            [file.document_id]
            if len(texts) == 1
            else [f"{file.document_id}#{n}" for n in range(1, len(texts) + 1)]
        )
        return [
            NewDocument(
                text=text,
                collection=self.collection,
                namespace=self.namespace,
                document_id=document_id,
                title=file.title,
                source=file.source,
            )
            for document_id, text in zip(ids, texts, strict=True)
        ]

    async def _added(
        self, file: TextFile, outcomes: Sequence[Stored | HybridSearchError]
    ) -> AddedFile:
        stored = [results.stored(o) for o in outcomes if isinstance(o, Stored)]
        errors = [str(o) for o in outcomes if isinstance(o, HybridSearchError)]
        # What was found before stays until all of the new is there.
        deleted = [] if errors else await self._delete_surplus(file, len(outcomes))
        return AddedFile(
            file=file.name,
            documents=stored,
            deleted=deleted,
            error=errors[0] if errors else None,
        )

    async def _delete_surplus(self, file: TextFile, kept: int) -> list[str]:
        """Delete what an earlier, longer or shorter, version of the file left.

        The last part goes first: what an interruption leaves has no gap, and the
        next time is found again.
        """
        first, surplus = (1, []) if kept == 1 else (kept + 1, [file.document_id])
        number = first
        while await self._came_from(file, f"{file.document_id}#{number}"):
            surplus.append(f"{file.document_id}#{number}")
            number += 1
        return [
            document_id
            for document_id in reversed(surplus)
            if await self._came_from(file, document_id)
            and await self.engine.delete(
                self.collection, self.namespace, document_id, origin=self.origin
            )
        ]

    async def _came_from(self, file: TextFile, document_id: str) -> bool:
        """Say whether a document is this file's, and not one that was named so."""
        try:
            found = await self.engine.document(
                self.collection, self.namespace, document_id, chunk_limit=1
            )
        except (NotFoundError, InvalidInputError):
            return False
        return found.document.source == file.source


def _batches(names: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for name in names:
        if batch and size + _size_bytes(name) > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += _size_bytes(name)
    if batch:
        yield batch


def _size_bytes(name: str) -> int:
    try:
        return 1 if name == STDIN else max(1, Path(name).stat().st_size)
    except OSError:
        return 1
