"""Results as tables on stdout."""

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mcp_hybrid_search import results
from mcp_hybrid_search.adding import AddedFile
from mcp_hybrid_search.engine_protocol import EngineStatus
from mcp_hybrid_search.terminal import one_line, say, visible

if TYPE_CHECKING:
    from mcp_hybrid_search.doctor import Check
    from mcp_hybrid_search.documents import AuditEntry

EXCERPT_CHARACTERS = 200


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Print a table to stdout; columns whose name ends with `>` are numbers."""
    if title:
        typer.echo(f"\n{visible(title)}")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        right = name.endswith(">")
        table.add_column(
            name.rstrip(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
        )
    for row in rows:
        table.add_row(*(Text(visible(_shown(cell))) for cell in row))
    Console(file=sys.stdout, highlight=False).print(table)


def _shown(cell: Any) -> str:
    return "-" if cell is None else str(cell)


def print_added(added: list[AddedFile], failed: int) -> None:
    """Print what became of files, and how many failed."""
    documents = [document for item in added for document in item.documents]
    if documents:
        rows = [
            (document.id, document.status, document.chunks) for document in documents
        ]
        print_table("", ["document", "status", "chunks>"], rows)
    for item in added:
        if len(item.documents) > 1:
            typer.echo(
                f"{visible(item.file)} was split into {len(item.documents)} documents."
            )
        for document_id in item.deleted:
            typer.echo(
                f"{visible(document_id)} was deleted: it was of an older version."
            )
    for document in documents:
        for notice in document.notices:
            say(f"{document.id}: {notice}")
    stored = len(added) - failed
    typer.echo(f"{stored} of {len(added)} files are stored; {failed} failed.")


def print_hits(found: results.SearchHits) -> None:
    """Print hits with their places, and why if that was asked."""
    if not found.hits:
        typer.echo(f"No hits in {found.searched_collection!r}.")
        return
    rows = [
        (
            place,
            hit.document_id,
            hit.ranks.dense,
            hit.ranks.bm25,
            hit.ranks.colbert,
            one_line(hit.text, characters=EXCERPT_CHARACTERS),
        )
        for place, hit in enumerate(found.hits, 1)
    ]
    print_table("", ["#>", "document", "dense>", "bm25>", "colbert>", "text"], rows)
    for place, hit in enumerate(found.hits, 1):
        if hit.explanation is not None:
            _print_explanation(place, hit, hit.explanation)


def _print_explanation(
    place: int, hit: results.SearchHit, explanation: results.Explanation
) -> None:
    scores = explanation.model_dump(exclude={"token_matches"}, exclude_none=True)
    told = ", ".join(f"{stage} {score:.3f}" for stage, score in scores.items())
    rows = [
        (match.query_token, match.document_token, f"{match.similarity:.3f}")
        for match in explanation.token_matches
    ]
    heading = f"{place}. {hit.document_id}: {told}"
    print_table(heading, ["query", "best match", "cosine>"], rows)


def print_collections(found: results.Collections) -> None:
    """Print collections with their sizes."""
    rows = [
        (c.name, c.documents, c.chunks, f"{c.bytes:,}", c.model_set)
        for c in found.collections
    ]
    columns = ["collection", "documents>", "chunks>", "bytes>", "models"]
    print_table("", columns, rows)


def print_audit(found: "Sequence[AuditEntry]") -> None:
    """Print changes with their times, here."""
    rows = [
        (
            datetime.fromtimestamp(e.time, timezone.utc)
            .astimezone()
            .isoformat(" ", "seconds"),
            e.action,
            e.collection,
            e.namespace or None,
            e.document_id or None,
            e.client or None,
            e.tool or None,
        )
        for e in found
    ]
    columns = ["time", "action", "collection", "namespace", "id", "client", "tool"]
    print_table("", columns, rows)


def print_status(found: EngineStatus) -> None:
    """Print what the engine is, and who is connected to it."""
    uptime = timedelta(seconds=int(found.uptime_seconds))
    rows: list[tuple[object, ...]] = [
        ("engine", f"process {found.pid}, version {found.version}, up {uptime}"),
        ("state", found.state),
        ("memory", f"{found.memory_bytes / 1e6:,.0f} MB"),
        ("documents", f"{found.documents:,} in {found.chunks:,} chunks"),
        ("clients", len(found.clients)),
    ]
    print_table("", ["", "now"], rows)
    if found.clients:
        clients = [
            (client.pid, client.name, client.version) for client in found.clients
        ]
        print_table("", ["process>", "client", "version"], clients)


def print_checks(checks: "Sequence[Check]") -> None:
    """Print what doctor found, and what to do next."""
    rows = [("ok" if c.ok else "WRONG", c.name, c.detail) for c in checks]
    print_table("", ["", "check", "found"], rows)
    for check in checks:
        if check.next_step:
            typer.echo(f"{check.name}: {visible(check.next_step)}")
    healthy = all(check.ok for check in checks)
    typer.echo("Everything is fine." if healthy else "Something is wrong; see above.")
