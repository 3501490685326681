"""Collections in the BEIR format: a corpus, queries and graded judgements."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Qrels = Mapping[str, Mapping[str, int]]
"""Grade by document id, by query id."""


@dataclass(frozen=True, slots=True)
class BeirDocument:
    """One line of corpus.jsonl."""

    document_id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class BeirCollection:
    """A collection whose every query has a relevant document."""

    documents: list[BeirDocument]
    queries: dict[str, str]
    """Text by id."""
    qrels: Qrels


def read_beir(directory: Path, *, limit_documents: int | None = None) -> BeirCollection:
    """Read a collection; queries without a relevant document are left out.

    Args:
        directory: Holds corpus.jsonl, queries.jsonl, and qrels.tsv or
            qrels/test.tsv.
        limit_documents: Keep the first so many documents, and of the judgements
            those about them.
    """
    documents = read_documents(directory)[:limit_documents]
    kept = {document.document_id for document in documents}
    qrels: dict[str, dict[str, int]] = {}
    for query_id, document_id, grade in _judgements(directory):
        if document_id in kept:
            qrels.setdefault(query_id, {})[document_id] = grade
    texts = read_queries(directory)
    judged = {
        query_id: grades
        for query_id, grades in qrels.items()
        if query_id in texts and max(grades.values()) > 0
    }
    return BeirCollection(documents, {key: texts[key] for key in judged}, judged)


def read_documents(directory: Path) -> list[BeirDocument]:
    """Read corpus.jsonl."""
    return [
        BeirDocument(line["_id"], line.get("title") or "", line.get("text") or "")
        for line in _lines(directory / "corpus.jsonl")
    ]


def read_queries(directory: Path) -> dict[str, str]:
    """Read queries.jsonl: text by id."""
    return {line["_id"]: line["text"] for line in _lines(directory / "queries.jsonl")}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def _judgements(directory: Path) -> Iterator[tuple[str, str, int]]:
    path = directory / "qrels.tsv"
    if not path.exists():
        path = directory / "qrels" / "test.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        for query_id, document_id, grade in rows:
            yield query_id, document_id, int(grade)
