"""The command `setup`: puts this server into a client's configuration."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from mcp_hybrid_search.client_configs import CLIENTS, Client, ClientName, System
from mcp_hybrid_search.config_file import Change, write
from mcp_hybrid_search.errors import HybridSearchError, InvalidInputError
from mcp_hybrid_search.server_entry import (
    added,
    known_variables,
    removed,
    this_command,
    variables,
)
from mcp_hybrid_search.settings import PREFIX
from mcp_hybrid_search.terminal import print_text, say


def print_snippet(client_name: ClientName, name: str, given: Sequence[str]) -> None:
    """Print what to paste into the client's configuration.

    Raises:
        HybridSearchError: If a variable does not fit.
    """
    client = CLIENTS[client_name]
    _print(client.snippet(name, client.entry(this_command(), variables(given))))


def set_up(
    client_name: ClientName,
    name: str,
    given: Sequence[str],
    *,
    project: bool,
    dry_run: bool,
) -> None:
    """Put the server into the client's configuration and tell what was done.

    Raises:
        HybridSearchError: If the file stays as it is; what to paste is printed.
    """
    client = CLIENTS[client_name]
    path = _configuration(client, project=project)
    with _pasting(client_name, name, given):
        known = known_variables(client, path, name)
    entry = client.entry(this_command(), variables(given, known=known))
    with _pasting(client_name, name, given):
        change = added(client, path, name, entry)
        if not change.needed:
            _print(f"{client.title} is already set up: {change.path}")
            return
        _apply(change, dry_run=dry_run)
    if not dry_run:
        _print(client.next_step)
        _tell_what_is_not_passed(client, entry)


def take_out(
    client_name: ClientName, name: str, *, project: bool, dry_run: bool
) -> None:
    """Take the server out of the client's configuration.

    Raises:
        HybridSearchError: If the file stays as it is.
    """
    client = CLIENTS[client_name]
    change = removed(client, _configuration(client, project=project), name)
    if not change.needed:
        _print(f"{client.title} has no server {name}: {change.path}")
        return
    _apply(change, dry_run=dry_run)
    if not dry_run:
        _print(f"Restart {client.title}.")


def _configuration(client: Client, *, project: bool) -> Path:
    if not project:
        return client.file(System(sys.platform, Path.home(), os.environ))
    if client.project_file is None:
        msg = f"{client.title} reads no file of a project. Leave --project out."
        raise InvalidInputError(msg)
    return Path(client.project_file).absolute()


@contextmanager
def _pasting(
    client_name: ClientName, name: str, given: Sequence[str]
) -> Iterator[None]:
    """Print what to paste if the file cannot be changed."""
    try:
        yield
    except HybridSearchError as exc:
        print_snippet(client_name, name, given)
        msg = f"{exc} Nothing was changed; the lines above are what belongs into it."
        raise type(exc)(msg) from exc


def _apply(change: Change, *, dry_run: bool) -> None:
    _print(change.diff())
    if dry_run:
        return
    if not change.path.parent.exists():
        say(f"Note: {change.path.parent} did not exist. Is the client installed?")
    backup = write(change, now=datetime.now().astimezone())
    if backup is not None:
        _print(f"The old file is kept as {backup}")


def _tell_what_is_not_passed(client: Client, entry: Mapping[str, Any]) -> None:
    here = {name for name in os.environ if name.startswith(PREFIX)}
    for name in sorted(here - set(entry.get("env", ()))):
        say(f"Note: {client.title} will not see {name}; pass it on with --env.")


def _print(text: str) -> None:
    print_text(f"{text}\n", terminal=sys.stdout.isatty())
