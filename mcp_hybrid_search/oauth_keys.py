"""The public keys of an OAuth issuer: fetched when they are needed, and kept."""

import json
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import jwt

from mcp_hybrid_search.errors import BusyError, InvalidInputError
from mcp_hybrid_search.http_address import is_loopback

if TYPE_CHECKING:
    import httpx2

FRESH_SECONDS = 600.0
"""Keys older than this are fetched again: a withdrawn one is trusted no longer."""
STALE_SECONDS = 3600.0
"""So old they may become if the issuer cannot be reached."""
UNKNOWN_SECONDS = 60.0
"""For a key that is not there, they are fetched again once in this time."""
RETRY_SECONDS = 10
FETCH_SECONDS = 5.0
MOST_BYTES = 1_000_000

log = logging.getLogger(__name__)


class _NotFetchedError(Exception):
    """The issuer did not answer with what was expected."""


def check_url(url: str, *, variable: str) -> None:
    """Refuse what others on the network could alter.

    Raises:
        InvalidInputError: If the URL is not https, other than on this machine.
    """
    parts = urlsplit(url)
    local = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if not (parts.scheme == "https" and parts.hostname) and not local:
        msg = f"{variable} must be an https:// URL; http:// only on this machine."
        raise InvalidInputError(msg)


class IssuerKeys:
    """Keys by their id. For one event loop."""

    def __init__(self, issuer: str, url: str | None) -> None:
        """Fetch nothing yet.

        Args:
            issuer: Whose metadata name the URL of the keys, if it is not given.
            url: Of the keys.
        """
        self._issuer = issuer
        self._url = url
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetching = anyio.Lock()
        self._fetched = float("-inf")
        self._failed = float("-inf")

    async def key(self, key_id: str | None) -> jwt.PyJWK | None:
        """Return a key; None if the issuer has no such key.

        Args:
            key_id: None is answered only if there is no choice.

        Raises:
            BusyError: If the keys cannot be had now.
        """
        async with self._fetching:
            if self._is_due(key_id):
                await self._fetch_again()
        if time.monotonic() - self._fetched > STALE_SECONDS:
            msg = "The keys of the token's issuer cannot be fetched."
            raise BusyError(msg, RETRY_SECONDS)
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _is_due(self, key_id: str | None) -> bool:
        now = time.monotonic()
        if now - self._failed < RETRY_SECONDS:
            return False
        age = now - self._fetched
        unknown = key_id is not None and key_id not in self._keys
        return age > FRESH_SECONDS or (unknown and age > UNKNOWN_SECONDS)

    async def _fetch_again(self) -> None:
        try:
            self._keys = await self._all()
        except _NotFetchedError as exc:
            self._failed = time.monotonic()
            log.warning("The keys of %s cannot be fetched: %s", self._issuer, exc)
        else:
            self._fetched = time.monotonic()

    async def _all(self) -> dict[str | None, jwt.PyJWK]:
        import httpx2  # noqa: PLC0415 - slow

        # A redirect could lead to another server, or away from https.
        async with httpx2.AsyncClient(
            timeout=FETCH_SECONDS, follow_redirects=False
        ) as client:
            self._url = self._url or await self._discovered(client)
            content = await _json(client, self._url)
        try:
            found = jwt.PyJWKSet.from_dict(content).keys
        except (jwt.PyJWTError, AttributeError, TypeError, ValueError):
            found = []
        keys = {key.key_id: key for key in found if _verifies(key)}
        if not keys:
            msg = "it answers with no keys that can be used."
            raise _NotFetchedError(msg)
        return keys

    async def _discovered(self, client: "httpx2.AsyncClient") -> str:
        """Return the URL of the keys, as the issuer's metadata name it."""
        for url in _metadata_urls(self._issuer):
            with suppress(_NotFetchedError):
                metadata = await _json(client, url)
                # RFC 8414, 3.3: else one issuer could speak for another.
                if metadata.get("issuer") == self._issuer:
                    found = str(metadata.get("jwks_uri"))
                    _check_discovered(found)
                    return found
        msg = "its metadata cannot be read."
        raise _NotFetchedError(msg)


def _verifies(key: jwt.PyJWK) -> bool:
    return key.key_type != "oct" and key.public_key_use in {None, "sig"}


def _check_discovered(url: str) -> None:
    try:
        check_url(url, variable="jwks_uri")
    except InvalidInputError as exc:
        raise _NotFetchedError(str(exc)) from None


def _metadata_urls(issuer: str) -> list[str]:
    """Return where RFC 8414 and OpenID Connect put the metadata of an issuer."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    return [
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    ]


async def _json(client: "httpx2.AsyncClient", url: str) -> dict[str, Any]:
    import httpx2  # noqa: PLC0415 - slow

    data = bytearray()
    try:
        with anyio.fail_after(FETCH_SECONDS):
            async with client.stream("GET", url) as response:
                if response.status_code != httpx2.codes.OK:
                    msg = f"it answers with {response.status_code}."
                    raise _NotFetchedError(msg)
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > MOST_BYTES:
                        msg = "it answers with too much."
                        raise _NotFetchedError(msg)
        content = json.loads(data)
    except (httpx2.HTTPError, TimeoutError) as exc:
        msg = f"it does not answer ({type(exc).__name__})."
        raise _NotFetchedError(msg) from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        msg = "it does not answer with a JSON object."
        raise _NotFetchedError(msg)
    return content
