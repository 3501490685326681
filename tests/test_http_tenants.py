"""What a token of one namespace can reach over HTTP, and whose a session is."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mcp_hybrid_search import token_file
from tests.http_server import Answer, HttpServer, http_server
from tests.test_oauth import Issuer

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="there are no Unix sockets"
)

CANARY = "canary-of-beta"


@dataclass(frozen=True)
class Caller:
    """A token, and the session that it opened."""

    server: HttpServer
    bearer: dict[str, str]
    session: str

    def ask(self, method: str, params: dict[str, Any] | None = None) -> Answer:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
        headers = {**self.bearer, "Mcp-Session-Id": self.session}
        return self.server.ask("POST", "/mcp", message, headers)

    def call(self, tool: str, **arguments: Any) -> Any:
        answer = self.ask("tools/call", {"name": tool, "arguments": arguments})
        return answer.json()["result"]


def caller(server: HttpServer, token: str) -> Caller:
    bearer = {"Authorization": f"Bearer {token}"}
    return Caller(server, bearer, server.initialize(bearer))


@dataclass(frozen=True)
class Place:
    """A server that two tenants share, and its operator."""

    alpha: Caller
    beta: Caller
    everybody: Caller
    issuer: Issuer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("shared")
    file = root / "tokens.toml"
    tokens = [
        token_file.create(file, "alpha", scope="write", namespace="alpha"),
        token_file.create(file, "beta", scope="write", namespace="beta"),
        token_file.create(file, "operator", scope="write"),
    ]
    issuer = Issuer()
    variables = {
        "TOKENS_FILE": str(file),
        "OAUTH_ISSUER": issuer.name,
        "OAUTH_AUDIENCE": "https://memory.example/mcp",
    }
    with http_server(root, **variables) as server:
        server.wait_until_ready()
        callers = [caller(server, token) for token in tokens]
        callers[0].call("store-document", text="The own text.", id="own")
        callers[1].call(
            "store-document", text=CANARY, id=CANARY, metadata={CANARY: CANARY}
        )
        yield Place(*callers, issuer)
        assert "Traceback" not in server.log()
    issuer.close()


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("hybrid-search", {"query": "canary"}),
    ("hybrid-search", {"query": "canary", "explain": True, "per_document": False}),
    ("hybrid-search", {"query": "canary", "namespace": "beta"}),
    ("hybrid-search", {"query": "canary", "namespace": "BETA"}),
    ("hybrid-search", {"query": "canary", "namespace": "default"}),
    ("hybrid-search", {"query": "x", "filter": {"namespace": "beta"}}),
    (
        "hybrid-search",
        {"query": "x", "filter": {"or": [{"source": {"exists": False}}]}},
    ),
    ("hybrid-search", {"query": "x", "filter": {"not": {"title": "x"}}}),
    ("get-document", {"id": CANARY}),
    ("get-document", {"id": CANARY, "namespace": "beta"}),
    ("list-documents", {}),
    ("list-documents", {"namespace": "beta"}),
    ("list-documents", {"filter": {"not": {"title": "x"}}}),
    ("list-collections", {}),
    ("update-metadata", {"id": CANARY, "metadata": {"a": 1}}),
    ("update-metadata", {"id": CANARY, "metadata": {"a": 1}, "namespace": "beta"}),
    ("delete-document", {"id": CANARY}),
    ("delete-document", {"id": CANARY, "namespace": "beta"}),
    ("delete-documents", {"filter": {"not": {"title": "x"}}, "dry_run": True}),
    ("delete-documents", {"filter": {"not": {"title": "x"}}, "namespace": "beta"}),
    ("store-document", {"text": "x", "id": "y", "namespace": "beta"}),
    ("store-documents", {"documents": [{"text": "x", "namespace": "beta"}]}),
]


@pytest.mark.parametrize(("tool", "arguments"), CALLS, ids=lambda each: str(each)[:60])
def test_no_argument_leads_out_of_a_namespace(
    place: Place, tool: str, arguments: dict[str, Any]
) -> None:
    result = place.alpha.call(tool, **arguments)
    asked = json.dumps(arguments)
    if CANARY in asked and not arguments.get("namespace"):
        # The id that was asked for is repeated.
        gone = result.get("structuredContent") == {"id": CANARY, "status": "not-found"}
        assert gone or "There is no document" in result["content"][0]["text"]
    else:
        assert CANARY not in json.dumps(result)
    if arguments.get("namespace"):
        assert result["isError"]
    kept = place.beta.call("get-document", id=CANARY)["structuredContent"]
    assert (kept["text"], kept["metadata"]) == (CANARY, {CANARY: CANARY})


def test_collections_are_counted_by_the_namespace(place: Place) -> None:
    def documents(who: Caller) -> int:
        found = who.call("list-collections")["structuredContent"]["collections"]
        return sum(each["documents"] for each in found)

    own = place.alpha.call("list-documents")["structuredContent"]
    assert documents(place.alpha) == own["total"]
    assert documents(place.everybody) > documents(place.alpha)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("resources/list", {}),
        ("resources/read", {"uri": f"document://documents/{CANARY}"}),
        ("resources/read", {"uri": "collections://"}),
        (
            "completion/complete",
            {
                "ref": {
                    "type": "ref/resource",
                    "uri": "document://{collection}/{id}",
                },
                "argument": {"name": "id", "value": "canary"},
                "context": {"arguments": {"collection": "documents"}},
            },
        ),
        ("prompts/list", {}),
        ("resources/templates/list", {}),
    ],
)
def test_no_resource_leads_out_of_a_namespace(
    place: Place, method: str, params: dict[str, Any]
) -> None:
    answer = place.alpha.ask(method, params).json()
    if CANARY in json.dumps(params):
        assert "There is no document" in answer["error"]["message"]
    else:
        assert CANARY not in json.dumps(answer)


def test_a_page_of_another_namespace_cannot_be_gone_on_with(place: Place) -> None:
    for number in range(3):
        place.beta.call("store-document", text=f"{CANARY} {number}", id=f"b{number}")
    page = place.beta.call("list-documents", limit=1)["structuredContent"]
    stolen = place.alpha.call("list-documents", limit=10, cursor=page["next_cursor"])
    assert CANARY not in json.dumps(stolen)


def test_a_session_is_of_the_token_that_opened_it(place: Place) -> None:
    for thief in (place.alpha, place.everybody):
        stolen = Caller(thief.server, thief.bearer, place.beta.session)
        assert stolen.ask("tools/list").status == 404
    assert place.beta.ask("tools/list").status == 200


def test_access_tokens_work_beside_the_operators(place: Place) -> None:
    server, issuer = place.alpha.server, place.issuer
    tenant = caller(server, issuer.token(namespace="beta"))
    assert CANARY in json.dumps(tenant.call("get-document", id=CANARY))
    fresh = {"Authorization": f"Bearer {issuer.token(namespace='beta', jti='2')}"}
    refreshed = Caller(server, fresh, tenant.session)
    assert refreshed.ask("tools/list").status == 200
    for claims in ({"namespace": "alpha"}, {"sub": "eve", "namespace": "beta"}, {}):
        other = {"Authorization": f"Bearer {issuer.token(**claims)}"}
        assert Caller(server, other, tenant.session).ask("tools/list").status == 404


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
def test_who_has_no_token_is_told_where_to_get_one(place: Place, path: str) -> None:
    server = place.alpha.server
    refused = server.ask("GET", path)
    assert refused.status == 401
    known = f"/.well-known/oauth-protected-resource{path}"
    challenge = refused.headers["www-authenticate"]
    assert f'resource_metadata="{server.url}{known}"' in challenge
    assert server.ask("GET", known).json() == {
        "resource": server.url + path,
        "authorization_servers": [place.issuer.name],
        "scopes_supported": ["hybrid-search:read", "hybrid-search:write"],
        "bearer_methods_supported": ["header"],
    }


def test_a_token_without_the_scope_is_told_which_one(place: Place) -> None:
    server, issuer = place.alpha.server, place.issuer

    def refusal(**claims: Any) -> Answer:
        bearer = {"Authorization": f"Bearer {issuer.token(**claims)}"}
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "store-document", "arguments": {"text": "x"}},
        }
        return server.ask("POST", "/mcp", message, bearer)

    for claims in ({"scope": "openid"}, {"scope": "hybrid-search:read"}):
        answer = refusal(**claims)
        assert answer.status == 403
        challenge = answer.headers["www-authenticate"]
        assert 'error="insufficient_scope"' in challenge
        assert "hybrid-search:read" in challenge
    assert refusal(exp=1).status == 401


def test_an_issuer_that_is_away_is_told_apart_from_a_bad_token(tmp_path: Path) -> None:
    issuer = Issuer()
    token = issuer.token()
    issuer.close()
    variables = {
        "OAUTH_ISSUER": issuer.name,
        "OAUTH_AUDIENCE": "https://memory.example/mcp",
        "OAUTH_JWKS_URL": f"{issuer.origin}/keys",
    }
    with http_server(tmp_path, **variables) as server:
        bearer = {"Authorization": f"Bearer {token}"}
        answer = server.ask("GET", "/metrics", headers=bearer)
        assert answer.status == 503
        assert answer.headers["retry-after"] == "10"
        assert token not in server.log()
