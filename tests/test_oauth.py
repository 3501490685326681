"""Access tokens: only what the issuer signed, for us, now."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mcp_hybrid_search import oauth_keys
from mcp_hybrid_search.credentials import Credential
from mcp_hybrid_search.errors import BusyError, ForbiddenError, InvalidInputError
from mcp_hybrid_search.oauth import OAuth, configured
from mcp_hybrid_search.settings import load_settings

pytestmark = pytest.mark.anyio

AUDIENCE = "https://memory.example/mcp"
PATH = "/tenant"


class Issuer:
    """An identity provider on loopback that publishes keys."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.pages: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                status, body = issuer.pages.get(self.path, (404, b""))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.name = self.origin + PATH
        metadata = {"issuer": self.name, "jwks_uri": f"{self.origin}/keys"}
        self.tell(f"{PATH}/.well-known/openid-configuration", metadata)
        self.add_key("one")

    def tell(self, path: str, content: Any) -> None:
        self.pages[path] = (200, json.dumps(content).encode())

    def add_key(self, key_id: str) -> None:
        self.keys[key_id] = rsa.generate_private_key(65537, 2048)
        self.publish(*self.keys)

    def publish(self, *key_ids: str) -> None:
        public = []
        for key_id in key_ids:
            found = jwt.algorithms.RSAAlgorithm.to_jwk(
                self.keys[key_id].public_key(), as_dict=True
            )
            public.append({**found, "kid": key_id, "use": "sig", "alg": "RS256"})
        self.tell("/keys", {"keys": public})

    def claims(self, **more: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": self.name,
            "aud": AUDIENCE,
            "sub": "anna",
            "client_id": "editor",
            "iat": now,
            "exp": now + 300,
            "scope": "openid hybrid-search:write",
            **more,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, key_id: str | None = "one", **more: Any) -> str:
        headers = {} if key_id is None else {"kid": key_id}
        return jwt.encode(
            self.claims(**more),
            self.keys[key_id or "one"],
            algorithm="RS256",
            headers=headers,
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.close()


@pytest.fixture
def verifier(issuer: Issuer) -> OAuth:
    return OAuth(issuer.name, AUDIENCE, jwks_url=f"{issuer.origin}/keys")


async def test_a_good_token_stands_for_its_holder(
    issuer: Issuer, verifier: OAuth
) -> None:
    found = await verifier.find(issuer.token(namespace="team"))
    assert found is not None
    assert (found.name, found.writes, found.namespace) == ("editor/anna", True, "team")
    assert found.issuer == issuer.name


async def test_the_keys_are_found_by_the_issuers_metadata(issuer: Issuer) -> None:
    verifier = OAuth(issuer.name, AUDIENCE, jwks_url=None)
    assert await verifier.find(issuer.token()) is not None
    assert issuer.asked == [
        f"/.well-known/oauth-authorization-server{PATH}",
        f"{PATH}/.well-known/openid-configuration",
        "/keys",
    ]


class From(int):
    """Seconds from the time of the test."""


def at_test_time(claims: dict[str, Any]) -> dict[str, Any]:
    """Return claims with their moments: tests are collected long before they run."""
    now = int(time.time())
    return {k: now + v if isinstance(v, From) else v for k, v in claims.items()}


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://other.example"},
        {"aud": None},
        {"aud": AUDIENCE + "/more"},
        {"iss": "https://other.example"},
        {"iss": None},
        {"exp": 1},
        {"exp": None},
        {"exp": From(-31)},
        {"nbf": From(600)},
        {"iat": From(600)},
        {"namespace": "../other"},
        {"namespace": ["team"]},
        {"namespace": ""},
    ],
    ids=str,
)
async def test_a_token_with_other_claims_is_not_good(
    issuer: Issuer, verifier: OAuth, claims: dict[str, Any]
) -> None:
    assert await verifier.find(issuer.token(**at_test_time(claims))) is None


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": From(-5)},
        {"nbf": From(5)},
        {"aud": ["https://other.example", AUDIENCE]},
    ],
    ids=str,
)
async def test_clocks_may_differ_a_little(
    issuer: Issuer, verifier: OAuth, claims: dict[str, Any]
) -> None:
    assert await verifier.find(issuer.token(**at_test_time(claims))) is not None


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def unsigned(issuer: Issuer) -> str:
    return f"{part({'alg': 'none', 'kid': 'one'})}.{part(issuer.claims())}."


def signed_with_the_public_key(issuer: Issuer) -> str:
    """The classic: the public key taken as the secret of HS256."""
    public = issuer.keys["one"].public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    text = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(issuer.claims())}"
    signature = hmac.new(pem, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def signed_by_another(issuer: Issuer) -> str:
    key = rsa.generate_private_key(65537, 2048)
    headers = {"kid": "one"}
    return jwt.encode(issuer.claims(), key, algorithm="RS256", headers=headers)


def signed_with_a_key_it_brings(issuer: Issuer) -> str:
    key = rsa.generate_private_key(65537, 2048)
    public = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    headers = {"kid": "one", "jwk": public, "jku": f"{issuer.origin}/evil"}
    return jwt.encode(issuer.claims(), key, algorithm="RS256", headers=headers)


def signed_in_another_way(issuer: Issuer) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    headers = {"kid": "one"}
    return jwt.encode(issuer.claims(), key, algorithm="ES256", headers=headers)


def altered(issuer: Issuer) -> str:
    head, _, signature = issuer.token().split(".")
    return f"{head}.{part(issuer.claims(sub='eve'))}.{signature}"


@pytest.mark.parametrize(
    "forged",
    [
        unsigned,
        signed_with_the_public_key,
        signed_by_another,
        signed_with_a_key_it_brings,
        signed_in_another_way,
        altered,
        lambda _: "",
        lambda _: "a.b.c",
        lambda _: "hs_" + "x" * 43,
        lambda issuer: issuer.token()[:-10],
        lambda issuer: issuer.token() + ".x",
    ],
)
async def test_a_forged_token_is_not_good(
    issuer: Issuer, verifier: OAuth, forged: Callable[[Issuer], str]
) -> None:
    assert await verifier.find(forged(issuer)) is None
    assert "/evil" not in issuer.asked


@pytest.mark.parametrize(
    ("claims", "writes"),
    [
        ({"scope": "hybrid-search:read"}, False),
        ({"scope": "hybrid-search:read hybrid-search:write"}, True),
        ({"scope": None, "scp": ["hybrid-search:write"]}, True),
        ({"scope": None, "scp": "hybrid-search:read"}, False),
    ],
)
async def test_scopes_are_read_as_issuers_write_them(
    issuer: Issuer, verifier: OAuth, claims: dict[str, Any], *, writes: bool
) -> None:
    found = await verifier.find(issuer.token(**at_test_time(claims)))
    assert found is not None
    assert found.writes is writes


@pytest.mark.parametrize("scope", [None, "", "openid", "write", "hybrid-search:writer"])
async def test_a_token_without_our_scopes_is_told_so(
    issuer: Issuer, verifier: OAuth, scope: str | None
) -> None:
    with pytest.raises(ForbiddenError, match="hybrid-search:read"):
        await verifier.find(issuer.token(scope=scope))


async def test_a_token_without_a_key_id_fits_the_only_key(
    issuer: Issuer, verifier: OAuth
) -> None:
    assert await verifier.find(issuer.token(None)) is not None
    issuer.add_key("two")
    verifier = OAuth(issuer.name, AUDIENCE, jwks_url=f"{issuer.origin}/keys")
    assert await verifier.find(issuer.token(None)) is None


async def test_a_new_key_is_fetched_and_unknown_ones_are_not_asked_for_again(
    issuer: Issuer, verifier: OAuth, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await verifier.find(issuer.token()) is not None
    issuer.add_key("two")
    for _ in range(5):
        assert await verifier.find(issuer.token("two")) is None
    assert issuer.asked == ["/keys"]
    monkeypatch.setattr(oauth_keys, "UNKNOWN_SECONDS", 0.0)
    assert await verifier.find(issuer.token("two")) is not None
    assert issuer.asked == ["/keys"] * 2


async def test_a_withdrawn_key_is_trusted_no_longer(
    issuer: Issuer, verifier: OAuth, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await verifier.find(issuer.token()) is not None
    issuer.add_key("two")
    issuer.publish("two")
    monkeypatch.setattr(oauth_keys, "FRESH_SECONDS", 0.0)
    assert await verifier.find(issuer.token()) is None


@pytest.mark.parametrize(
    "answer",
    [
        (500, b""),
        (302, b""),
        (200, b"no JSON"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"keys": 1}'),
        (200, b'{"keys": [{"kty": "oct", "k": "AAAA"}]}'),
        (200, b"[" * 100_000),
        (200, b" " * 1_000_001),
    ],
    ids=lambda answer: str(answer)[:30],
)
async def test_without_keys_callers_are_told_when_to_try_again(
    issuer: Issuer, verifier: OAuth, answer: tuple[int, bytes]
) -> None:
    issuer.pages["/keys"] = answer
    for _ in range(3):
        with pytest.raises(BusyError, match="retry in 10 s") as caught:
            await verifier.find(issuer.token())
        assert caught.value.retry_seconds == 10
    assert issuer.asked == ["/keys"]


async def test_keys_stay_good_for_a_while_if_the_issuer_is_away(
    issuer: Issuer, verifier: OAuth, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await verifier.find(issuer.token()) is not None
    issuer.pages["/keys"] = (500, b"")
    monkeypatch.setattr(oauth_keys, "FRESH_SECONDS", 0.0)
    assert await verifier.find(issuer.token()) is not None
    monkeypatch.setattr(oauth_keys, "STALE_SECONDS", 0.0)
    with pytest.raises(BusyError):
        await verifier.find(issuer.token())


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://other.example", "jwks_uri": "{}/keys"},
        {"jwks_uri": "{}/keys"},
        {"issuer": "{}" + PATH, "jwks_uri": "http://other.example/keys"},
        {"issuer": "{}" + PATH, "jwks_uri": "file:///etc/passwd"},
        {"issuer": "{}" + PATH},
    ],
)
async def test_metadata_cannot_lead_elsewhere(
    issuer: Issuer, metadata: dict[str, str]
) -> None:
    told = {name: value.format(issuer.origin) for name, value in metadata.items()}
    issuer.tell(f"{PATH}/.well-known/openid-configuration", told)
    with pytest.raises(BusyError):
        await OAuth(issuer.name, AUDIENCE, jwks_url=None).find(issuer.token())
    assert "/keys" not in issuer.asked


async def test_a_refreshed_token_keeps_its_sessions_and_another_user_has_others(
    issuer: Issuer, verifier: OAuth
) -> None:
    async def owner(**claims: Any) -> tuple[str, str | None]:
        found = await verifier.find(issuer.token(**at_test_time(claims)))
        assert isinstance(found, Credential)
        token = found.access_token()
        return token.client_id, token.subject

    now = await owner()
    assert await owner(exp=int(time.time()) + 900) == now
    for other in (
        {"sub": "eve"},
        {"client_id": "other"},
        {"namespace": "team"},
        {"scope": "hybrid-search:read"},
    ):
        assert await owner(**other) != now


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"oauth_issuer": "https://a.example"}, "need each other"),
        ({"oauth_audience": "x"}, "need each other"),
        ({"oauth_jwks_url": "https://a.example"}, "need each other"),
        (
            {"oauth_issuer": "http://a.example", "oauth_audience": "x"},
            "OAUTH_ISSUER must be an https",
        ),
        ({"oauth_issuer": "a.example", "oauth_audience": "x"}, "OAUTH_ISSUER must"),
        (
            {
                "oauth_issuer": "https://a.example",
                "oauth_audience": "x",
                "oauth_jwks_url": "http://a.example/keys",
            },
            "OAUTH_JWKS_URL must be an https",
        ),
    ],
)
def test_half_a_configuration_is_refused(
    settings: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        configured(load_settings(**settings))


def test_without_an_issuer_there_is_no_oauth() -> None:
    assert configured(load_settings()) is None
