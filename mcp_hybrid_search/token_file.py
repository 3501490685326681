"""Gives tokens out and takes them back: writes the file that `tokens` reads."""

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

from filelock import FileLock

from mcp_hybrid_search.errors import ConflictError, InvalidInputError, NotFoundError
from mcp_hybrid_search.tokens import Token, digest, parsed, read

TOKEN_PREFIX = "hs_"  # noqa: S105
"""By which a token that was leaked is recognised for what it is."""
TOKEN_BYTES = 32

HEADER = "# Tokens of mcp-hybrid-search: their SHA-256, never they themselves.\n"
LOCK_SECONDS = 10.0

_TABLE = re.compile(r"^\[\[tokens\]\]", re.MULTILINE)
_AFTER_ENTRY = re.compile(r"(?:\n[ \t]*(?:#[^\n]*)?)+\Z")
"""Blank lines and comments: they may belong to what follows."""


def create(
    path: Path,
    name: str,
    *,
    scope: str,
    namespace: str | None = None,
    expires_days: int | None = None,
) -> str:
    """Add a token to the file and return it; it can be seen only now.

    Raises:
        InvalidInputError: If the name, the namespace or the file is not as it must be.
        ConflictError: If there is a token of that name.
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    lines = ["[[tokens]]", f'name = "{name}"', f'sha256 = "{digest(token)}"']
    lines.append(f'scope = "{scope}"')
    if namespace is not None:
        lines.append(f'namespace = "{namespace}"')
    if expires_days is not None:
        expires = datetime.now(timezone.utc) + timedelta(days=expires_days)
        lines.append(f"expires = {expires:%Y-%m-%dT%H:%M:%SZ}")
    entry = "\n".join(lines) + "\n"
    # On its own first: nothing in it may be more than a value.
    _check_one(entry, path)
    with _locked(path):
        before = read(path) if path.exists() else []
        if name in {each.credential.name for each in before}:
            msg = f"There is a token named {name!r}. Revoke it, or take another name."
            raise ConflictError(msg)
        text = path.read_text(encoding="utf-8") if path.exists() else HEADER
        _write(path, f"{text.rstrip()}\n\n{entry}")
    return token


def revoke(path: Path, name: str) -> None:
    """Take a token out of the file; comments stay.

    Raises:
        InvalidInputError: If the file is not as it must be.
        NotFoundError: If there is no token of that name.
        ConflictError: If the file is written in a way that is not understood.
    """
    with _locked(path):
        before = read(path)
        left = [each for each in before if each.credential.name != name]
        if left == before:
            names = ", ".join(each.credential.name for each in before) or "none"
            msg = f"There is no token named {name!r}. Tokens: {names}."
            raise NotFoundError(msg)
        text = _without(path.read_text(encoding="utf-8"), name, path)
        if text is None or parsed(text, path) != left:
            msg = f"{path} is written in an unusual way. Remove {name!r} by hand."
            raise ConflictError(msg)
        _write(path, text)


def _check_one(entry: str, path: Path) -> Token:
    (token,) = parsed(entry, path)
    return token


def _without(text: str, name: str, path: Path) -> str | None:
    """Return the text without one entry; None if its entries cannot be told apart."""
    starts = [found.start() for found in _TABLE.finditer(text)]
    for start, end in pairwise([*starts, len(text)]):
        block = text[start:end]
        try:
            (token,) = parsed(block, path)
        except (InvalidInputError, ValueError):
            return None
        if token.credential.name == name:
            after = _AFTER_ENTRY.search(block)
            rest = after[0] if after else ""
            return f"{text[:start].rstrip()}\n{rest}{text[end:]}"
    return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", mode=0o600, timeout=LOCK_SECONDS):
            yield
    except OSError as exc:
        msg = f"{path} cannot be written: {exc.strerror or exc}."
        raise InvalidInputError(msg) from exc


def _write(path: Path, text: str) -> None:
    """Replace the file: whoever reads it meanwhile sees the old or the new one."""
    # Only for its owner, as mkstemp makes it.
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise
