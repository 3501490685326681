"""The commands that serve, and that tell clients how."""

from typing import Annotated, Literal

import anyio
import typer

from mcp_hybrid_search.cli import serve_stdio
from mcp_hybrid_search.client_configs import ClientName
from mcp_hybrid_search.command_line import app
from mcp_hybrid_search.logs import log_to_stderr
from mcp_hybrid_search.settings import load_settings
from mcp_hybrid_search.terminal import told


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
    with told():
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

    with told():
        if print_:
            client.print_snippet(client_name, name, env or [])
        elif remove:
            client.take_out(client_name, name, project=project, dry_run=dry_run)
        else:
            client.set_up(
                client_name, name, env or [], project=project, dry_run=dry_run
            )
