"""Who calls over HTTP: the bearer token in the Authorization header, and no other."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_hybrid_search.credentials import Credential
from mcp_hybrid_search.errors import BusyError, ForbiddenError, InvalidInputError
from mcp_hybrid_search.http_guard import Reply
from mcp_hybrid_search.http_refusal import RefusedError
from mcp_hybrid_search.http_streams import Streams
from mcp_hybrid_search.oauth import READ_SCOPE, WRITE_SCOPE
from mcp_hybrid_search.tokens import Tokens

LONGEST_TOKEN = 16_384
REALM = "mcp-hybrid-search"


class Issuer(Protocol):
    """Who knows the tokens of somebody else: OAuth."""

    async def find(self, token: str) -> Credential | None:
        """Return what a token stands for; None if it is not good."""


class Gatekeeper:
    """Knows every token that opens this server."""

    def __init__(
        self,
        tokens: Tokens | None,
        issuer: Issuer | None = None,
        *,
        challenge: Mapping[str, str] | None = None,
    ) -> None:
        """Accept what either of them knows; with neither, everybody.

        Args:
            tokens: Of the operator.
            issuer: Of access tokens.
            challenge: Further parameters of `WWW-Authenticate`.
        """
        self._tokens = tokens
        self._issuer = issuer
        self._challenge = dict(challenge or {})

    async def credential(self, scope: Scope) -> Credential | None:
        """Return who sends a request; None: nobody needs a token here.

        Raises:
            RefusedError: If it has none that is good.
        """
        if self._tokens is None and self._issuer is None:
            return None
        header = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        kind, _, token = header.partition(" ")
        token = token.strip(" ")
        if kind.lower() != "bearer" or not token:
            message = "Send a token: Authorization: Bearer …"
            raise self.refusal(HTTPStatus.UNAUTHORIZED, message)
        found = await self._found(token) if len(token) <= LONGEST_TOKEN else None
        if found is None:
            message = "The token is unknown, revoked, expired or not meant for us."
            raise self.refusal(HTTPStatus.UNAUTHORIZED, message, error="invalid_token")
        return found

    async def _found(self, token: str) -> Credential | None:
        found = None
        if self._tokens is not None:
            try:
                found = self._tokens.find(token)
            except InvalidInputError as exc:
                status = HTTPStatus.SERVICE_UNAVAILABLE
                raise RefusedError(status, str(exc), "token") from None
        if found is None and self._issuer is not None:
            found = await self._issued(self._issuer, token)
        return found

    async def _issued(self, issuer: Issuer, token: str) -> Credential | None:
        try:
            return await issuer.find(token)
        except ForbiddenError as exc:
            raise self.refusal(
                HTTPStatus.FORBIDDEN,
                str(exc),
                error="insufficient_scope",
                scope=f"{READ_SCOPE} {WRITE_SCOPE}",
            ) from None
        except BusyError as exc:
            headers = {"Retry-After": str(exc.retry_seconds)}
            status = HTTPStatus.SERVICE_UNAVAILABLE
            raise RefusedError(status, str(exc), "token", headers) from None

    def still_trusts(self, credential: Credential | None) -> bool:
        """Return whether who was let in may stay."""
        if credential is None:
            return True
        if credential.issuer is not None or self._tokens is None:
            return not credential.has_expired
        return self._tokens.has(credential)

    def refusal(
        self, status: HTTPStatus, message: str, **parameters: str
    ) -> RefusedError:
        """Return a refusal that says which token is wanted."""
        challenge = {"realm": REALM, **parameters, **self._challenge}
        told = ", ".join(f'{key}="{value}"' for key, value in challenge.items())
        headers = {"WWW-Authenticate": f"Bearer {told}"}
        return RefusedError(status, message, "token", headers)


class Authenticated:
    """Serves only whom the gatekeeper lets in, and says who it is."""

    def __init__(
        self,
        app: ASGIApp,
        gatekeeper: Gatekeeper,
        streams: Streams,
        *,
        of_everything: bool = False,
    ) -> None:
        """Put the gatekeeper before `app`.

        Args:
            app: Finds the caller where the SDK keeps it.
            gatekeeper: Decides.
            streams: Can end what was begun.
            of_everything: Whether it is not for tokens of one namespace.
        """
        self._app = app
        self._gatekeeper = gatekeeper
        self._streams = streams
        self._of_everything = of_everything

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        credential = await self._gatekeeper.credential(scope)
        reply = send if isinstance(send, Reply) else Reply(send, {})
        if credential is None:
            await self._streams.run(None, self._app, scope, receive, reply)
            return
        if self._of_everything and credential.namespace is not None:
            message = "This is not for tokens that are bound to a namespace."
            raise self._gatekeeper.refusal(
                HTTPStatus.FORBIDDEN, message, error="insufficient_scope"
            )
        user = AuthenticatedUser(credential.access_token())
        scope["user"] = user
        before = auth_context_var.set(user)
        try:
            await self._streams.run(credential, self._app, scope, receive, reply)
        finally:
            auth_context_var.reset(before)
