"""The tools' results as text, for readers and models that see no structure. Pure.

Stored text never begins a line: it cannot pass for a result.
"""

from collections.abc import Sequence

from mcp_hybrid_search.results import (
    Collections,
    DeletedDocuments,
    DocumentList,
    SearchHits,
    StoredDocument,
    StoredDocuments,
    UpdatedMetadata,
)


def stored(result: StoredDocument) -> str:
    """Return the text of `store-document`."""
    notices = "".join(f" Note: {notice}" for notice in result.notices)
    return f"{result.status}: {result.id!r} ({chunks(result.chunks)}).{notices}"


def batch(result: StoredDocuments) -> str:
    """Return the text of `store-documents`."""
    lines = [f"{len(result.results)} documents, {result.failed} failed."]
    lines += [
        f"{place}. {item.status}: {item.error or repr(item.id)}"
        for place, item in enumerate(result.results, 1)
    ]
    return "\n".join(lines)


def hits(result: SearchHits) -> str:
    """Return hits for a reader: a headline each, then the text, indented.

    Only headlines start a line with `[`: a stored text cannot pass for a hit.
    """
    lines = [f"Note: {notice}" for notice in result.notices]
    if not result.hits:
        lines.append(f"No hits in {result.searched_collection!r}.")
    for rank, hit in enumerate(result.hits, 1):
        name = _one_line(hit.title or hit.document_id)
        source = f" · source: {_one_line(hit.source)}" if hit.source else ""
        lines.append(
            f"[{rank}] {name} · id: {_one_line(hit.document_id)}{source}"
            f" · chunk {hit.chunk_index + 1} of {hit.chunks_in_document}"
        )
        lines += [f"    {line}" for line in hit.text.splitlines()]
    return "\n".join(lines)


def document_list(result: DocumentList) -> str:
    """Return the text of `list-documents`: a line for each document."""
    shown = len(result.documents)
    lines = [f"Note: {notice}" for notice in result.notices]
    lines.append(f"{shown} of {result.total} documents in {result.collection!r}.")
    for document in result.documents:
        name = _one_line(document.title or document.id)
        source = f" · source: {_one_line(document.source)}" if document.source else ""
        lines.append(
            f"- {name} · id: {_one_line(document.id)}{source}"
            f" · {chunks(document.chunks)} · {document.updated_at}"
        )
    if result.next_cursor is not None:
        lines.append(f"More: call again with cursor={result.next_cursor}")
    return "\n".join(lines)


def updated_metadata(result: UpdatedMetadata) -> str:
    """Return the text of `update-metadata`."""
    keys = ", ".join(repr(key) for key in result.metadata) or "none"
    return f"{result.id!r} has these metadata keys now: {keys}."


def deleted_documents(result: DeletedDocuments) -> str:
    """Return the text of `delete-documents`."""
    if not result.count:
        return "No document matches. Nothing was deleted."
    named = f"{result.count} documents: {ids(result.first_ids)}"
    if result.deleted:
        return f"Deleted {named}."
    return f"Would delete {named}. Nothing was deleted."


def chunks(count: int) -> str:
    """Return a number of chunks for a sentence."""
    return "1 chunk" if count == 1 else f"{count} chunks"


def ids(first_ids: Sequence[str]) -> str:
    """Return ids for a sentence."""
    return ", ".join(repr(each) for each in first_ids)


def collections(result: Collections) -> str:
    """Return the text of `list-collections`."""
    lines = [
        f"{c.name}: {c.documents} documents, {c.chunks} chunks, {c.bytes:,} bytes,"
        f" {c.model_set}"
        for c in result.collections
    ]
    return "\n".join(lines) or "Nothing is stored yet."


def _one_line(text: str) -> str:
    return " ".join(text.split())
