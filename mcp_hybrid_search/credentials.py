"""Who a bearer token stands for, and what it may do. Pure but for the SDK's type."""

import hashlib
import json
import time
from dataclasses import dataclass

from mcp.server.auth.provider import AccessToken

from mcp_hybrid_search.access import NAMESPACE_CLAIM, READ, WRITE


@dataclass(frozen=True, slots=True)
class Credential:
    """A token that was found good."""

    name: str
    """Of the token, or of the client that it was given to."""
    writes: bool
    namespace: str | None = None
    """The only one that it opens; None: all."""
    expires_at: float | None = None
    """Seconds since the epoch."""
    issuer: str | None = None
    """OAuth only."""
    subject: str = ""
    """What else tells holders apart: never the token itself."""

    @property
    def has_expired(self) -> bool:
        """Return whether it was good once."""
        return self.expires_at is not None and self.expires_at <= time.time()

    def access_token(self) -> AccessToken:
        """Return it as the SDK hands it on, without the token.

        A session belongs to its client, issuer and subject. The rights are part of
        the subject here, so a token with others does not inherit a session.
        """
        owner = [self.subject, self.writes, self.namespace]
        claims = {"iss": self.issuer, NAMESPACE_CLAIM: self.namespace}
        return AccessToken(
            token="",
            client_id=self.name,
            scopes=[READ, WRITE] if self.writes else [READ],
            expires_at=None if self.expires_at is None else int(self.expires_at),
            subject=hashlib.sha256(json.dumps(owner).encode()).hexdigest(),
            claims={key: value for key, value in claims.items() if value is not None},
        )
