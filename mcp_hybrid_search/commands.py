"""The command line beside the server; imported only when a command is named."""

import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import anyio
import typer

from mcp_hybrid_search import __version__, engine_control, results
from mcp_hybrid_search.adding import AddedFile, Adding
from mcp_hybrid_search.cli import serve_stdio
from mcp_hybrid_search.client_configs import ClientName
from mcp_hybrid_search.documents import SearchRequest
from mcp_hybrid_search.logs import log_to_stderr
from mcp_hybrid_search.opening import opener
from mcp_hybrid_search.settings import PREFIX, Settings, load_settings
from mcp_hybrid_search.tables import (
    print_added,
    print_checks,
    print_collections,
    print_hits,
    print_status,
)
from mcp_hybrid_search.terminal import (
    DISTRIBUTION,
    Bar,
    print_json,
    print_text,
    say,
    visible,
)
from mcp_hybrid_search.terminal import told as _told
from mcp_hybrid_search.token_commands import app as token_app

if TYPE_CHECKING:
    from mcp_hybrid_search.opening import AnyEngine

T = TypeVar("T")

Work = Callable[["AnyEngine", Settings], Awaitable[T]]

Collection = Annotated[
    str | None, typer.Option(help="Collection; else HYBRID_SEARCH_COLLECTION.")
]
Namespace = Annotated[
    str | None, typer.Option(help="Namespace; else HYBRID_SEARCH_NAMESPACE.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DocumentId = Annotated[str, typer.Argument(metavar="ID", help="As search shows it.")]

app = typer.Typer(
    name=DISTRIBUTION,
    help=(
        "Memory and document search for AI assistants.\n\nWithout a command it is the"
        " MCP server on standard input and output. The settings are the environment"
        " variables HYBRID_SEARCH_*; the README lists them."
    ),
    add_completion=False,
    no_args_is_help=True,
    # Its tracebacks would show stored text.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(token_app, name="token")


def _print_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"{DISTRIBUTION} {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            callback=lambda value: _print_version(wanted=value),
            is_eager=True,
        ),
    ] = False,
    in_process: Annotated[
        bool,
        typer.Option(
            "--in-process", help="Do it in this process, not in the shared engine."
        ),
    ] = False,
) -> None:
    """Read the options before the command."""
    if in_process:
        os.environ[f"{PREFIX}IN_PROCESS"] = "true"
    # Not every terminal can show every character.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


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
        )
        return await adding.add(files, progress=bar.advance)

    _tell_added(_run(work, bar), as_json=as_json)


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

    found = _run(work)
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

    found = _run(work)
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
        )

    deleted = _run(work)
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

    found = _run(work)
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
        return await engine.reindex(collection, progress=bar.advance)

    count = _run(work, bar)
    if as_json:
        print_json({"collection": collection, "documents": count})
    else:
        typer.echo(f"{count} documents of {collection!r} were encoded again.")


@app.command()
def status(*, as_json: AsJson = False) -> None:
    """Show the engine and who is connected to it; exit code 1 if none runs."""
    with _told():
        found = engine_control.status(load_settings())
    if as_json:
        print_json(found and asdict(found))
    elif found is None:
        typer.echo("No engine is running; the next call starts one.")
    else:
        print_status(found)
    if found is None:
        raise typer.Exit(1)


@app.command()
def stop(*, as_json: AsJson = False) -> None:
    """Let the engine finish its calls and leave; the next call starts another.

    What does not leave within 15 seconds is killed, which loses nothing.
    """
    with _told():
        how = engine_control.stop(load_settings())
    if as_json:
        print_json({"engine": how})
    else:
        typer.echo(f"Engine: {how}.")


@app.command()
def logs(
    *,
    lines: Annotated[int, typer.Option(min=1, help="Lines to print.")] = 50,
) -> None:
    """Print the end of the engine's log."""
    with _told():
        print_text(
            engine_control.log_end(load_settings(), lines),
            terminal=sys.stdout.isatty(),
        )


@app.command()
def serve(
    *,
    transport: Annotated[
        Literal["stdio", "streamable-http", "sse", "http"],
        typer.Option(help="http: streamable HTTP and SSE at the same port."),
    ] = "stdio",
    host: Annotated[
        str | None, typer.Option(help="Address; else HYBRID_SEARCH_HOST.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="0: a free one; else HYBRID_SEARCH_PORT.")
    ] = None,
    json_responses: Annotated[
        bool, typer.Option("--json-responses", help="Answer with JSON, not streams.")
    ] = False,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Only tools that change nothing.")
    ] = False,
) -> None:
    """Serve MCP on standard input and output, or over HTTP.

    HTTP listens on 127.0.0.1 unless callers need tokens; docs/http.md says more.
    """
    given = {
        "host": host,
        "port": port,
        "json_responses": json_responses or None,
        "read_only": read_only or None,
    }
    with _told():
        settings = load_settings(
            **{name: value for name, value in given.items() if value is not None}
        )
        log_to_stderr(settings.log_level)
        if transport == "stdio":
            serve_stdio(settings)
        else:
            from mcp_hybrid_search import http_serving  # noqa: PLC0415 - seldom needed

            anyio.run(http_serving.serve, settings, transport)


@app.command()
def doctor(*, as_json: AsJson = False) -> None:
    """Check versions, model files, the data directory, and a round trip.

    Nothing of yours is changed. Exit code 1 if anything is wrong.
    """
    from mcp_hybrid_search.doctor import examine  # noqa: PLC0415 - seldom needed

    with _told():
        checks = examine(load_settings())
    healthy = all(check.ok for check in checks)
    if as_json:
        print_json({"ok": healthy, "checks": [c.model_dump() for c in checks]})
    else:
        print_checks(checks)
    if not healthy:
        raise typer.Exit(1)


@app.command()
def setup(
    client_name: Annotated[ClientName, typer.Argument(metavar="CLIENT")],
    *,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A setting; may be repeated."),
    ] = None,
    name: Annotated[
        str, typer.Option(help="The server's name in the client.")
    ] = "hybrid-search",
    project: Annotated[
        bool, typer.Option("--project", help="For the project in this directory.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take the server out again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the change, write nothing.")
    ] = False,
    print_: Annotated[
        bool, typer.Option("--print", help="Print what to paste, write nothing.")
    ] = False,
) -> None:
    """Add this server to a client's configuration; CLIENT is one of these.

    claude-desktop, claude-code, cursor, vscode, windsurf, zed. Everything else in
    the file stays as it is, and a copy of the old file is kept beside it.
    """
    from mcp_hybrid_search import setup as client  # noqa: PLC0415 - seldom needed

    with _told():
        if print_:
            client.print_snippet(client_name, name, env or [])
        elif remove:
            client.take_out(client_name, name, project=project, dry_run=dry_run)
        else:
            client.set_up(
                client_name, name, env or [], project=project, dry_run=dry_run
            )


@app.command()
def demo() -> None:
    """Show what reranking does, with the real server and a dozen documents.

    Everything happens in a temporary directory that is removed afterwards.
    """
    from mcp_hybrid_search.demo import run  # noqa: PLC0415 - seldom needed

    with _told():
        anyio.run(run, load_settings())


def _run(work: Work[T], bar: Bar | None = None) -> T:
    """Do `work` with the engine, which is started if need be."""
    with _told():
        settings = load_settings()
        log_to_stderr(settings.log_level)
        try:
            return anyio.run(_worked, work, settings)
        finally:
            if bar is not None:
                bar.close()


async def _worked(work: Work[T], settings: Settings) -> T:
    opening = opener(settings)
    try:
        return await work(await opening.engine(), settings)
    finally:
        await opening.aclose()
