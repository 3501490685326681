"""OAuth 2.1: access tokens that an issuer signed for this server (RFC 9068)."""

import re
from typing import Any

import jwt

from mcp_hybrid_search.credentials import Credential
from mcp_hybrid_search.errors import ForbiddenError, InvalidInputError
from mcp_hybrid_search.oauth_keys import IssuerKeys, check_url
from mcp_hybrid_search.settings import NAME_PATTERN, PREFIX, Settings

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Only those whose verifying key cannot sign."""
LEEWAY_SECONDS = 30

READ_SCOPE, WRITE_SCOPE = "hybrid-search:read", "hybrid-search:write"

_NAME = re.compile(NAME_PATTERN)
_LONGEST_NAME = 200


class OAuth:
    """Verifies access tokens of one issuer. Never asks it about a single token."""

    def __init__(self, issuer: str, audience: str, *, jwks_url: str | None) -> None:
        """Fetch nothing yet.

        Args:
            issuer: Exactly as `iss` has it.
            audience: Exactly as `aud` has it.
            jwks_url: Where the keys are, if not where the issuer's metadata say.
        """
        self.name = issuer
        """Of the issuer."""
        self._audience = audience
        self._keys = IssuerKeys(issuer, jwks_url)

    async def find(self, token: str) -> Credential | None:
        """Return what an access token stands for; None if it is not good.

        Raises:
            BusyError: If the keys of the issuer cannot be had now.
            ForbiddenError: If it is good, and not for anything here.
        """
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                return None
            key = await self._keys.key(header.get("kid"))
            return None if key is None else self._credential(self._claims(token, key))
        except jwt.InvalidTokenError:
            return None

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            audience=self._audience,
            issuer=self.name,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud"]},
        )

    def _credential(self, claims: dict[str, Any]) -> Credential | None:
        namespace = claims.get("namespace")
        if namespace is not None and not (
            isinstance(namespace, str) and _NAME.fullmatch(namespace)
        ):
            return None
        scopes = _scopes(claims)
        if not scopes & {READ_SCOPE, WRITE_SCOPE}:
            msg = f"The token has neither the scope {READ_SCOPE} nor {WRITE_SCOPE}."
            raise ForbiddenError(msg)
        client = str(claims.get("client_id") or claims.get("azp") or "")
        subject = str(claims.get("sub") or "")
        return Credential(
            f"{client}/{subject}"[:_LONGEST_NAME],
            writes=WRITE_SCOPE in scopes,
            namespace=namespace,
            expires_at=float(claims["exp"]) + LEEWAY_SECONDS,
            issuer=self.name,
            subject=f"{client}\n{subject}",
        )


def _scopes(claims: dict[str, Any]) -> set[str]:
    """Return the scopes, as RFC 9068 writes them and as others do."""
    found: set[str] = set()
    for claim in (claims.get("scope"), claims.get("scp")):
        if isinstance(claim, str):
            found |= set(claim.split())
        elif isinstance(claim, list):
            found |= {each for each in claim if isinstance(each, str)}
    return found


def configured(settings: Settings) -> OAuth | None:
    """Return what verifies access tokens, if the settings name an issuer.

    Raises:
        InvalidInputError: If they name half of what is needed.
    """
    issuer, audience = settings.oauth_issuer, settings.oauth_audience
    if issuer is None or audience is None:
        if issuer or audience or settings.oauth_jwks_url:
            msg = f"{PREFIX}OAUTH_ISSUER and {PREFIX}OAUTH_AUDIENCE need each other."
            raise InvalidInputError(msg)
        return None
    check_url(issuer, variable=f"{PREFIX}OAUTH_ISSUER")
    if settings.oauth_jwks_url:
        check_url(settings.oauth_jwks_url, variable=f"{PREFIX}OAUTH_JWKS_URL")
    return OAuth(issuer, audience, jwks_url=settings.oauth_jwks_url)
