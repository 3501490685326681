"""Bearer tokens that an operator gave out: read from a file, which holds no token.

The file has one `[[tokens]]` table for each: `name`, `sha256` of the token, `scope`,
and if need be `namespace` and `expires`.
"""

import hashlib
import hmac
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mcp_hybrid_search.access import READ, WRITE
from mcp_hybrid_search.credentials import Credential
from mcp_hybrid_search.errors import InvalidInputError
from mcp_hybrid_search.settings import NAME_PATTERN, PREFIX

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHORTEST_TOKEN = 32
LOOK_SECONDS = 1.0
"""A change of the file takes effect after this time."""
MOST_BYTES = 4_000_000

KEYS = ("name", "sha256", "scope", "namespace", "expires")
_NAME = re.compile(NAME_PATTERN)
_SHA256 = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Token:
    """One entry of the file."""

    sha256: str
    credential: Credential


def digest(token: str) -> str:
    """Return what is stored of a token: SHA-256, which random bits need no salt for."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


class Tokens:
    """The tokens that are good now; the file is read again when it changes."""

    def __init__(self, path: Path | None, single: str | None = None) -> None:
        """Read the file.

        Args:
            path: Of the file, if there is one.
            single: A token with every right that is in no file.

        Raises:
            InvalidInputError: If the file or the token is not as it must be.
        """
        self._path = path
        self._always = [] if single is None else [_single(single)]
        self._looked = time.monotonic()
        self._seen = self._signature()
        self._listed = [] if path is None else read(path)
        self._broken = False

    def find(self, token: str) -> Credential | None:
        """Return what a token stands for; None if it is not known or has expired.

        Raises:
            InvalidInputError: If the file cannot be read any more.
        """
        found = None
        sha256 = digest(token)
        # Every entry is looked at, so that the time says nothing.
        for each in self._current():
            if hmac.compare_digest(each.sha256, sha256):
                found = each.credential
        return None if found is None or found.has_expired else found

    def has(self, credential: Credential) -> bool:
        """Return whether a credential that was found is still good."""
        try:
            known = any(each.credential == credential for each in self._current())
        except InvalidInputError:
            return False
        return known and not credential.has_expired

    def _current(self) -> Sequence[Token]:
        now = time.monotonic()
        if self._path is not None and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            signature = self._signature()
            # A file that was half written is looked at again.
            if signature != self._seen or self._broken:
                self._seen = signature
                self._read_again(self._path)
        if self._broken:
            msg = "The tokens cannot be read. The log of the server says why."
            raise InvalidInputError(msg)
        return [*self._listed, *self._always]

    def _read_again(self, path: Path) -> None:
        was_broken = self._broken
        try:
            self._listed, self._broken = read(path), False
        except InvalidInputError as exc:
            # Whoever was revoked must not go on because of a typo.
            self._listed, self._broken = [], True
            if not was_broken:
                log.error("%s Until then no token is good.", exc)  # noqa: TRY400

    def _signature(self) -> tuple[int, ...]:
        if self._path is None:
            return ()
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def _single(token: str) -> Token:
    name = f"{PREFIX}TOKEN"
    if len(token) < SHORTEST_TOKEN:
        msg = (
            f"{name} has {len(token)} characters; it needs {SHORTEST_TOKEN} or more."
            " Make one with: mcp-hybrid-search token create NAME"
        )
        raise InvalidInputError(msg)
    sha256 = digest(token)
    return Token(sha256, Credential(name, writes=True, subject=sha256))


def read(path: Path) -> list[Token]:
    """Read the tokens of a file that only its owner can read.

    Raises:
        InvalidInputError: If it is not such a file, naming the entry that is wrong.
    """
    return parsed(_private_text(path), path)


def parsed(text: str, path: Path) -> list[Token]:
    """Read the tokens in the text of the file at `path`.

    Raises:
        InvalidInputError: Naming the entry that is wrong.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        msg = f"{path} is not TOML: {exc}."
        raise InvalidInputError(msg) from None
    entries = content.pop("tokens", [])
    if content or not isinstance(entries, list):
        msg = f"{path} may hold [[tokens]] tables and nothing else."
        raise InvalidInputError(msg)
    tokens: list[Token] = []
    for place, entry in enumerate(entries, 1):
        tokens.append(_token(entry, f"{path}, token {place}"))
        _check_single(tokens, f"{path}, token {place}")
    return tokens


def _check_single(tokens: Sequence[Token], where: str) -> None:
    *others, last = tokens
    if last.credential.name in {each.credential.name for each in others}:
        msg = f"{where}: another one has the same name."
        raise InvalidInputError(msg)
    if last.sha256 in {each.sha256 for each in others}:
        msg = f"{where}: another one has the same sha256."
        raise InvalidInputError(msg)


def _token(entry: Any, where: str) -> Token:
    unknown = sorted(set(entry) - set(KEYS)) if isinstance(entry, dict) else [""]
    if unknown:
        msg = f"{where}: there are only the keys {', '.join(KEYS)}."
        raise InvalidInputError(msg)
    name = _matching(entry, "name", _NAME, where)
    where = f"{where} ({name})"
    sha256 = _matching(entry, "sha256", _SHA256, where)
    if entry.get("scope") not in {READ, WRITE}:
        msg = f'{where}: scope must be "{READ}" or "{WRITE}".'
        raise InvalidInputError(msg)
    namespace = None
    if "namespace" in entry:
        namespace = _matching(entry, "namespace", _NAME, where)
    return Token(
        sha256,
        Credential(
            name,
            writes=entry["scope"] == WRITE,
            namespace=namespace,
            expires_at=_expiry(entry, where),
            subject=sha256,
        ),
    )


def _matching(
    entry: dict[str, Any], key: str, pattern: re.Pattern[str], where: str
) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        msg = f"{where}: {key} must be a string that matches {pattern.pattern}."
        raise InvalidInputError(msg)
    return value


def _expiry(entry: dict[str, Any], where: str) -> float | None:
    expires = entry.get("expires")
    if expires is None:
        return None
    if not isinstance(expires, datetime) or expires.tzinfo is None:
        msg = f"{where}: expires must be a time such as 2030-01-31T00:00:00Z."
        raise InvalidInputError(msg)
    return expires.timestamp()


def _private_text(path: Path) -> str:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            _check_private(os.fstat(file.fileno()), path)
            data = file.read(MOST_BYTES)
    except OSError as exc:
        why = "it is a symbolic link" if path.is_symlink() else exc.strerror
        msg = f"The tokens in {path} cannot be read: {why}."
        raise InvalidInputError(msg) from None
    try:
        return data.decode()
    except UnicodeDecodeError:
        msg = f"{path} is not UTF-8."
        raise InvalidInputError(msg) from None


def _check_private(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        msg = f"{path} is not a file."
        raise InvalidInputError(msg)
    if sys.platform == "win32":
        return
    if found.st_uid != os.geteuid():
        msg = f"{path} belongs to another user. Make it yours: chown {os.geteuid()}"
        raise InvalidInputError(msg)
    if found.st_mode & 0o077:
        msg = f"Others can read {path}. Forbid it: chmod 600 {path}"
        raise InvalidInputError(msg)
