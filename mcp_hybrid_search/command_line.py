"""What all commands share: the command's own options, and the way to the engine."""

import os
import sys
from collections.abc import Awaitable, Callable
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, TypeVar

import anyio
import typer

from mcp_hybrid_search import __version__
from mcp_hybrid_search.documents import Origin
from mcp_hybrid_search.logs import log_to_stderr
from mcp_hybrid_search.opening import opener
from mcp_hybrid_search.settings import PREFIX, Settings, load_settings
from mcp_hybrid_search.terminal import DISTRIBUTION, Bar, told

if TYPE_CHECKING:
    from mcp_hybrid_search.opening import AnyEngine

T = TypeVar("T")

Work = Callable[["AnyEngine", Settings], Awaitable[T]]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

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


def origin(command: str) -> Origin:
    """Return who asks for a change, for the audit."""
    return Origin("command line", f"command {command}")


def run_with_engine(work: Work[T], bar: Bar | None = None) -> T:
    """Do `work` with the engine, which is started if need be."""
    with told():
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
