"""What a caller may do: read or write, everywhere or in one namespace.

Over HTTP the caller is who its token says; on stdio it is the user.
"""

from dataclasses import dataclass

from mcp.server.auth.middleware.auth_context import get_access_token

from mcp_hybrid_search.errors import ForbiddenError

READ, WRITE = "read", "write"
"""Scopes of a token; `write` includes `read`."""

NAMESPACE_CLAIM = "namespace"
"""The claim of a token that binds it to a namespace."""


@dataclass(frozen=True, slots=True)
class Access:
    """The rights of one caller."""

    name: str = ""
    """Of the token; empty where there are no tokens."""
    writes: bool = True
    namespace: str | None = None
    """The only one there is for this caller; None: it may name any."""

    def namespace_of(self, asked: str, default: str) -> str:
        """Return the namespace that a call is confined to.

        Args:
            asked: As the call names it; empty if it does not.
            default: Where it names none and the caller may name any.

        Raises:
            ForbiddenError: If it names another than the caller's own.
        """
        if self.namespace is None:
            return asked or default
        if asked not in {"", self.namespace}:
            msg = "This token is bound to one namespace. Leave `namespace` out."
            raise ForbiddenError(msg)
        return self.namespace


def caller(*, read_only: bool = False) -> Access:
    """Return the rights of whoever sent the message that is being handled."""
    token = get_access_token()
    if token is None:
        return Access(writes=not read_only)
    namespace = (token.claims or {}).get(NAMESPACE_CLAIM)
    return Access(
        name=token.client_id,
        writes=WRITE in token.scopes and not read_only,
        namespace=None if namespace is None else str(namespace),
    )
