"""The commands that give bearer tokens out, show them, and take them back."""

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from platformdirs import user_config_path

from mcp_hybrid_search import token_file, tokens
from mcp_hybrid_search.access import READ, WRITE
from mcp_hybrid_search.credentials import Credential
from mcp_hybrid_search.settings import PREFIX, load_settings
from mcp_hybrid_search.terminal import print_json, say, told

File = Annotated[
    Path | None,
    typer.Option("--file", help="Else HYBRID_SEARCH_TOKENS_FILE, else the user's own."),
]
TokenName = Annotated[str, typer.Argument(metavar="NAME", help="Who has the token.")]

app = typer.Typer(
    help="Bearer tokens for HTTP: give them out, list them, take them back.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def create(
    name: TokenName,
    *,
    scope: Annotated[
        Literal["read", "write"], typer.Option(help="write includes read.")
    ] = "write",
    namespace: Annotated[
        str | None, typer.Option(help="The only one that it opens.")
    ] = None,
    expires_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until it expires.")
    ] = None,
    file: File = None,
) -> None:
    """Make a token and print it once: only its SHA-256 is kept.

    Clients send it as `Authorization: Bearer …`.
    """
    with told():
        path = _path(file)
        made = token_file.create(
            path, name, scope=scope, namespace=namespace, expires_days=expires_days
        )
    typer.echo(made)
    say(f"Kept in {path}. Let the server read it: {PREFIX}TOKENS_FILE={path}")


@app.command("list")
def list_(
    *,
    file: File = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the tokens: their names and rights."""
    with told():
        found = [_shown(each.credential) for each in tokens.read(_path(file))]
    if as_json:
        print_json({"tokens": found})
        return
    for each in found:
        where = each["namespace"] or "every namespace"
        until = each["expires"] or "never"
        expired = " (expired)" if each["expired"] else ""
        typer.echo(
            f"{each['name']}: {each['scope']}, {where}, expires {until}{expired}"
        )


@app.command()
def revoke(name: TokenName, *, file: File = None) -> None:
    """Take a token back; a running server refuses it a second later."""
    with told():
        token_file.revoke(_path(file), name)
    typer.echo(f"revoked: {name}")


def _path(file: Path | None) -> Path:
    found = file or load_settings().tokens_file
    default = user_config_path("mcp-hybrid-search", appauthor=False) / "tokens.toml"
    return (found or default).expanduser().absolute()


def _shown(credential: Credential) -> dict[str, Any]:
    expires = credential.expires_at
    moment = None if expires is None else datetime.fromtimestamp(expires, timezone.utc)
    return {
        "name": credential.name,
        "scope": WRITE if credential.writes else READ,
        "namespace": credential.namespace,
        "expires": moment and moment.isoformat(timespec="seconds"),
        "expired": expires is not None and expires <= time.time(),
    }
