"""The configuration of an MCP client with this server in it, or without it."""

import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mcp_hybrid_search.client_configs import Client
from mcp_hybrid_search.config_file import Change, opened
from mcp_hybrid_search.errors import ConflictError, InvalidInputError
from mcp_hybrid_search.json_editing import drop, put, value_at
from mcp_hybrid_search.settings import PREFIX, check_variable, settings_from

SCRIPT = "mcp-hybrid-search"

_REMOTE = {"url", "serverUrl", "httpUrl"}
_TEMPORARY = re.compile(
    r"/(?:archive|environments|builds)-v\d+/|/\.cache/(?:pipx|[0-9a-f]{15})/"
)
"""Caches of uv and of `pipx run`, which may be emptied at any time."""


def server_command(started_as: str, scripts: Path, python: str) -> list[str]:
    """Return the absolute command that starts this server.

    The links that pipx and `uv tool` make are kept: they outlive an upgrade.

    Args:
        started_as: The running program, `sys.argv[0]`.
        scripts: Where this Python's commands are.
        python: This Python.

    Raises:
        ConflictError: If it runs in an environment that does not last.
    """
    if _TEMPORARY.search(Path(python).as_posix()):
        msg = (
            f"{python} is in an environment that may be removed at any time. Install"
            f" it first, with `uv tool install {SCRIPT}` or `pipx install {SCRIPT}`,"
            f" and run `{SCRIPT} setup` then."
        )
        raise ConflictError(msg)
    for path in (Path(started_as), scripts / SCRIPT):
        # Launchers on Windows leave their own .exe out.
        for candidate in (path.with_name(f"{path.name}.exe"), path):
            if path.stem == SCRIPT and candidate.is_file():
                return [str(candidate.absolute())]
    return [python, "-m", "mcp_hybrid_search"]


def this_command() -> list[str]:
    """Return the absolute command that starts this installation's server."""
    return server_command(
        sys.argv[0], Path(sysconfig.get_path("scripts")), sys.executable
    )


def variables(
    given: Iterable[str], *, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return NAME=VALUE options as variables, checked, with absolute paths.

    Args:
        given: The options.
        known: Variables that are set already.

    Raises:
        InvalidInputError: If one is no setting of ours, or does not fit.
    """
    environment = {}
    for item in given:
        name, _, value = item.partition("=")
        check_variable(name)
        if not value:
            msg = f"--env {name} needs a value: --env {name}=VALUE."
            raise InvalidInputError(msg)
        environment[name] = value
    settings = settings_from({**(known or {}), **environment})
    for name, value in environment.items():
        read = getattr(settings, name.removeprefix(PREFIX).lower())
        # The client starts the server in a directory of its own.
        environment[name] = str(read) if isinstance(read, Path | str) else value
    return environment


def known_variables(client: Client, path: Path, name: str) -> dict[str, str]:
    """Return the settings that the server `name` of the client has already.

    Raises:
        HybridSearchError: If the file cannot be edited with certainty.
    """
    with opened(path) as file:
        entry = value_at(file.text, (client.key, name), comments=client.comments)
        members = dict(_pairs(entry))
        if _REMOTE & set(members):
            msg = (
                f'holds a remote server named "{name}". Choose another --name, or'
                " take it out with --remove first."
            )
            raise ConflictError(msg)
        environment = _pairs(members.get("env"))
        return {
            key: value
            for key, value in environment
            if key.startswith(PREFIX) and isinstance(value, str)
        }


def added(client: Client, path: Path, name: str, entry: Mapping[str, Any]) -> Change:
    """Return what makes `entry` the server `name` of the client.

    Of an entry that is there, other keys and other variables stay.

    Raises:
        HybridSearchError: If the file cannot be edited with certainty.
    """
    place = (client.key, name)
    with opened(path) as file:
        text = file.text
        known = value_at(text, place, comments=client.comments)
        for steps, value in [((), entry)] if known is None else _steps(entry):
            text = put(text, (*place, *steps), value, comments=client.comments)
        return file.to(text)


def removed(client: Client, path: Path, name: str) -> Change:
    """Return what takes the server `name` out of the client's configuration.

    Raises:
        HybridSearchError: If the file cannot be edited with certainty.
    """
    with opened(path) as file:
        text = drop(file.text, (client.key, name), comments=client.comments)
        return file if file.before is None else file.to(text)


def _pairs(value: Any) -> tuple[tuple[str, Any], ...]:
    """Return the members of an object; of anything else, none."""
    return value if isinstance(value, tuple) and value[:1] != ("number",) else ()


def _steps(entry: Mapping[str, Any]) -> Iterable[tuple[tuple[str, ...], Any]]:
    """Return what is set, each by itself: comments between them stay."""
    for key, value in entry.items():
        if key == "env":
            yield from (((key, variable), each) for variable, each in value.items())
        else:
            yield (key,), value
