"""The commands that store, find, read and delete documents."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcp_hybrid_search import results
from mcp_hybrid_search.adding import AddedFile, Adding
from mcp_hybrid_search.command_line import AsJson, app, origin, run_with_engine
from mcp_hybrid_search.documents import AuditEntry, SearchRequest
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.tables import (
    print_added,
    print_audit,
    print_collections,
    print_hits,
)
from mcp_hybrid_search.terminal import Bar, print_json, print_text, say, visible

if TYPE_CHECKING:
    from mcp_hybrid_search.opening import AnyEngine

Collection = Annotated[
    str | None, typer.Option(help="Collection; else HYBRID_SEARCH_COLLECTION.")
]
Namespace = Annotated[
    str | None, typer.Option(help="Namespace; else HYBRID_SEARCH_NAMESPACE.")
]
DocumentId = Annotated[str, typer.Argument(metavar="ID", help="As search shows it.")]


@app.command()
def add(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Text files; - is stdin.")
    ],
    *,
    collection: Collection = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Store text files: Markdown, plain text, code.

    A file's id is its path as given: adding it again replaces it. A file over the
    size limit is split between paragraphs into ID#1, ID#2 and so on. Files that
    are not UTF-8 text are reported, the others stored, and the exit code is 1.
    """
    bar = Bar("Storing")

    async def work(engine: "AnyEngine", settings: Settings) -> list[AddedFile]:
        adding = Adding(
            engine,
            collection or settings.collection,
            namespace or settings.namespace,
            settings.max_text_bytes,
            origin=origin("add"),
        )
        return await adding.add(files, progress=bar.advance)

    _tell_added(run_with_engine(work, bar), as_json=as_json)


def _tell_added(added: list[AddedFile], *, as_json: bool) -> None:
    failed = [item for item in added if item.error]
    for item in failed:
        say(f"{item.file}: {item.error}")
    if as_json:
        print_json(
            {"files": [item.model_dump() for item in added], "failed": len(failed)}
        )
    else:
        print_added(added, len(failed))
    if failed:
        raise typer.Exit(1)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="A question, or words to find.")],
    *,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Hits to show.")] = 10,
    filter_: Annotated[
        str | None,
        typer.Option(
            "--filter", metavar="JSON", help='Such as {"year": {"gte": 1960}}.'
        ),
    ] = None,
    collection: Collection = None,
    namespace: Namespace = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add scores and matching words.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find stored passages by meaning and by exact words, best first."""
    conditions = _parsed_filter(filter_)

    async def work(engine: "AnyEngine", settings: Settings) -> results.SearchHits:
        request = SearchRequest(
            query=query,
            collection=collection or settings.collection,
            namespace=namespace or settings.namespace,
            limit=limit,
            filter=conditions,
            explain=explain,
        )
        return results.search_hits(await engine.search(request), explain=explain)

    found = run_with_engine(work)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for notice in found.notices:
        say(f"Note: {notice}")
    print_hits(found)


def _parsed_filter(text: str | None) -> dict[str, Any] | None:
    try:
        value = None if text is None else json.loads(text)
    except ValueError as exc:
        msg = f"is not JSON: {exc}"
        raise typer.BadParameter(msg, param_hint="--filter") from None
    if value is not None and not isinstance(value, dict):
        msg = 'must be a JSON object, such as {"topic": "physics"}.'
        raise typer.BadParameter(msg, param_hint="--filter")
    return value


@app.command()
def get(
    document_id: DocumentId,
    *,
    collection: Collection = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Print a stored document's text exactly as it was stored."""

    async def work(engine: "AnyEngine", settings: Settings) -> results.DocumentContent:
        found = await engine.document(
            collection or settings.collection,
            namespace or settings.namespace,
            document_id,
        )
        return results.document_content(found)

    found = run_with_engine(work)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_text(found.text, terminal=sys.stdout.isatty())


@app.command()
def delete(
    document_id: DocumentId,
    *,
    collection: Collection = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Delete a stored document for good; exit code 1 if there is none."""

    async def work(engine: "AnyEngine", settings: Settings) -> bool:
        return await engine.delete(
            collection or settings.collection,
            namespace or settings.namespace,
            document_id,
            origin=origin("delete"),
        )

    deleted = run_with_engine(work)
    status = "deleted" if deleted else "not-found"
    if as_json:
        print_json({"id": document_id, "status": status})
    else:
        typer.echo(f"{status}: {visible(document_id)}")
    if not deleted:
        raise typer.Exit(1)


@app.command()
def collections(*, as_json: AsJson = False) -> None:
    """List the collections with their sizes."""

    async def work(engine: "AnyEngine", _settings: Settings) -> results.Collections:
        return results.collections(await engine.collections())

    found = run_with_engine(work)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_collections(found)


@app.command()
def reindex(
    collection: Annotated[str, typer.Argument(help="Collection to encode again.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Encode a collection again, with the models that the settings name now."""
    bar = Bar("Encoding")

    async def work(engine: "AnyEngine", _settings: Settings) -> int:
        return await engine.reindex(
            collection, origin=origin("reindex"), progress=bar.advance
        )

    count = run_with_engine(work, bar)
    if as_json:
        print_json({"collection": collection, "documents": count})
    else:
        typer.echo(f"{count} documents of {collection!r} were encoded again.")


@app.command()
def audit(
    *,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="Changes to show.")
    ] = 100,
    namespace: Annotated[
        str | None, typer.Option(help="Only this namespace; else all of them.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List who changed what, newest first: stored, changed, deleted, reindexed.

    Texts, titles and metadata are not in it.
    """

    async def work(engine: "AnyEngine", _settings: Settings) -> list[AuditEntry]:
        return await engine.audit(limit=limit, namespace=namespace)

    found = run_with_engine(work)
    if as_json:
        print_json({"changes": [asdict(entry) for entry in found]})
    elif not found:
        typer.echo("Nothing was changed yet.")
    else:
        print_audit(found)
