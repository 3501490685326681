"""The commands that look after the engine and the installation."""

import sys
from dataclasses import asdict
from typing import Annotated

import anyio
import typer

from mcp_hybrid_search import engine_control
from mcp_hybrid_search.command_line import AsJson, app
from mcp_hybrid_search.settings import load_settings
from mcp_hybrid_search.tables import print_checks, print_status
from mcp_hybrid_search.terminal import print_json, print_text, told


@app.command()
def status(*, as_json: AsJson = False) -> None:
    """Show the engine and who is connected to it; exit code 1 if none runs."""
    with told():
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
    with told():
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
    with told():
        print_text(
            engine_control.log_end(load_settings(), lines),
            terminal=sys.stdout.isatty(),
        )


@app.command()
def doctor(*, as_json: AsJson = False) -> None:
    """Check versions, model files, the data directory, and a round trip.

    Nothing of yours is changed. Exit code 1 if anything is wrong.
    """
    from mcp_hybrid_search.doctor import examine  # noqa: PLC0415 - seldom needed

    with told():
        checks = examine(load_settings())
    healthy = all(check.ok for check in checks)
    if as_json:
        print_json({"ok": healthy, "checks": [c.model_dump() for c in checks]})
    else:
        print_checks(checks)
    if not healthy:
        raise typer.Exit(1)


@app.command()
def demo() -> None:
    """Show what reranking does, with the real server and a dozen documents.

    Everything happens in a temporary directory that is removed afterwards.
    """
    from mcp_hybrid_search.demo import run  # noqa: PLC0415 - seldom needed

    with told():
        anyio.run(run, load_settings())
