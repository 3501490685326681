"""What reranking changes, shown with the real server as a client sees it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import CallToolResult, TextContent

from mcp_hybrid_search.demo_documents import DOCUMENTS, QUESTIONS
from mcp_hybrid_search.documents import BM25, DENSE
from mcp_hybrid_search.elsewhere import elsewhere
from mcp_hybrid_search.errors import HybridSearchError, StoreUnavailableError
from mcp_hybrid_search.ranking import fuse
from mcp_hybrid_search.results import SearchHit, SearchHits, StoredDocuments
from mcp_hybrid_search.settings import PREFIX, Settings
from mcp_hybrid_search.tables import print_table

SHOWN = 5


async def run(settings: Settings) -> None:
    """Store a dozen documents, ask three questions, and print the rankings.

    Args:
        settings: For the server, except for its data directory.

    Raises:
        HybridSearchError: If the server cannot do it.
    """
    # On Windows a file may be open a moment longer than the server.
    with TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        server = stdio_client(_server(settings, Path(directory) / "data"))
        async with Client(server) as client:
            problem = await _shown(client)
    if problem is not None:
        raise problem


async def _shown(client: Client) -> HybridSearchError | None:
    """Return what went wrong: raised, it would leave the client in a group."""
    try:
        await _store(client)
        for question in QUESTIONS:
            await _ask(client, question)
    except HybridSearchError as exc:
        return exc
    except MCPError as exc:
        return StoreUnavailableError(f"The server of the demo failed: {exc}")
    return None


def _server(settings: Settings, data_dir: Path) -> StdioServerParameters:
    values = elsewhere(settings, data_dir).model_dump(mode="json", exclude_unset=True)
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_hybrid_search"],
        env={PREFIX + name.upper(): str(value) for name, value in values.items()},
        # Finds the package in a checkout that is not installed, too.
        cwd=Path(__file__).parents[1],
    )


async def _store(client: Client) -> None:
    documents = [
        {"id": name, "title": title, "text": text}
        for name, (title, text) in DOCUMENTS.items()
    ]
    answer = await client.call_tool("store-documents", {"documents": documents})
    stored = StoredDocuments.model_validate(_structured(answer))
    if stored.failed:
        raise HybridSearchError(
            next(item.error for item in stored.results if item.error)
        )
    typer.echo(f"{len(stored.results)} documents are stored.")


async def _ask(client: Client, question: str) -> None:
    arguments = {"query": question, "limit": len(DOCUMENTS)}
    answer = await client.call_tool("hybrid-search", arguments)
    hits = SearchHits.model_validate(_structured(answer)).hits
    before = ranks_before_reranking(hits)
    rows = []
    for rank, hit in enumerate(hits[:SHOWN], 1):
        earlier = before.get(hit.document_id)
        rows.append(
            (
                hit.document_id,
                hit.ranks.dense,
                hit.ranks.bm25,
                earlier,
                rank,
                "" if earlier is None else change(earlier, rank),
            )
        )
    columns = ["document", "dense>", "BM25>", "both fused>", "reranked>", "change"]
    print_table(question, columns, rows)


def _structured(answer: CallToolResult) -> Any:
    if answer.is_error:
        texts = [c.text for c in answer.content if isinstance(c, TextContent)]
        raise HybridSearchError(" ".join(texts))
    return answer.structured_content


def ranks_before_reranking(hits: Sequence[SearchHit]) -> dict[str, int]:
    """Return each document's place by the first two rankings alone, from 1.

    Args:
        hits: All that was found, one hit a document.
    """
    rankings = {DENSE: _ranking(hits, DENSE), BM25: _ranking(hits, BM25)}
    fused = fuse(rankings)
    return {hits[p.point_id].document_id: place for place, p in enumerate(fused, 1)}


def _ranking(hits: Sequence[SearchHit], stage: str) -> list[tuple[int, float]]:
    ranks = [(getattr(hit.ranks, stage), place) for place, hit in enumerate(hits)]
    return [(place, -rank) for rank, place in sorted(r for r in ranks if r[0])]


def change(before: int, after: int) -> str:
    """Return how far a rank moved: up, down or not at all."""
    if before == after:
        return "="
    return f"▲{before - after}" if after < before else f"▼{after - before}"
