"""What people see: tables, progress, and stored text made safe for a terminal."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mcp_hybrid_search.errors import HybridSearchError

DISTRIBUTION = "mcp-hybrid-search"

BAR_AFTER_SECONDS = 2.0


def say(text: str) -> None:
    """Print a line to stderr, which is for notices and errors."""
    typer.echo(visible(text), err=True)


@contextmanager
def told() -> Iterator[None]:
    """Let a foreseen failure end the command as one line."""
    try:
        yield
    except HybridSearchError as exc:
        say(f"{DISTRIBUTION}: {' '.join(str(exc).split())}")
        raise typer.Exit(1) from None


def print_json(value: Any) -> None:
    """Print one JSON document to stdout, in UTF-8 whatever the locale is."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    # A file name that is not UTF-8 holds surrogates; \udcXX is their JSON.
    typer.echo(text.encode(errors="backslashreplace"))


def print_text(text: str, *, terminal: bool) -> None:
    """Print a text to stdout: for a program exactly, for a terminal safely."""
    if terminal:
        typer.echo(visible(text))
    else:
        typer.echo(text.encode(), nl=False)


def visible(text: str) -> str:
    """Replace what a terminal would obey, or not show, by a mark."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def one_line(text: str, *, characters: int) -> str:
    """Return the beginning of a text as one line."""
    line = " ".join(text[: 2 * characters].split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


class Bar:
    """A progress bar on stderr, shown only if the work takes long."""

    def __init__(
        self,
        description: str,
        *,
        console: Console | None = None,
        after_seconds: float = BAR_AFTER_SECONDS,
    ) -> None:
        console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(description, total=None)
        self._shown_from = time.monotonic() + after_seconds

    async def advance(self, done: float, total: float, _what: str = "") -> None:
        """Show that `done` of `total` is done; an engine's `Progress`."""
        self._progress.update(self._task, completed=done, total=total)
        if time.monotonic() >= self._shown_from:
            self._progress.start()

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()
