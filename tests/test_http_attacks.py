"""Bytes that no good client sends: each is refused, and the server goes on."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from mcp.types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
)

from mcp_hybrid_search import token_file
from tests.http_server import (
    INITIALIZE,
    Answer,
    HttpServer,
    http_server,
    parsed_answer,
    received,
)

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="the engine has no socket"
)

LIMIT = 100_000
CANARY = "canary-in-a-body"
MODERN = "2026-07-28"

META = {
    PROTOCOL_VERSION_META_KEY: MODERN,
    CLIENT_INFO_META_KEY: {"name": "test", "version": "1"},
    CLIENT_CAPABILITIES_META_KEY: {},
}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
LIST_BODY = json.dumps(LIST).encode()

TOKEN = b"Authorization: Bearer %WRITE%"
TYPE = b"Content-Type: application/json"
ACCEPT = b"Accept: application/json, text/event-stream"
VERSION = b"MCP-Protocol-Version: 2026-07-28"
METHOD = b"Mcp-Method: tools/list"
HOST = b"Host: %HOST%"
CLOSE = b"Connection: close"


def http(first: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([first, *headers, b"", body])


def get(path: bytes, *headers: bytes) -> bytes:
    return http(b"GET " + path + b" HTTP/1.1", *headers, CLOSE)


def post(
    body: bytes = LIST_BODY,
    *headers: bytes,
    path: bytes = b"/mcp",
    host: bytes = HOST,
    token: bytes = TOKEN,
    kind: bytes = TYPE,
    accept: bytes = ACCEPT,
    version: bytes = VERSION,
    method: bytes = METHOD,
    length: bytes | None = None,
) -> bytes:
    """A good request but for what is given; an empty header is left out."""
    size = b"Content-Length: %d" % len(body) if length is None else length
    given = (host, token, kind, accept, version, method, size, CLOSE, *headers)
    kept = [header for header in given if header]
    return http(b"POST " + path + b" HTTP/1.1", *kept, body=body)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end
    return post(body, length=b"Transfer-Encoding: chunked")


def rpc(method: str, **more: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, **more}).encode()


def handshake(body: bytes, *headers: bytes, **more: bytes) -> bytes:
    """A request of the era of sessions."""
    return post(body, *headers, version=b"", method=b"", **more)


STORE = rpc(
    "tools/call",
    params={
        "name": "store-document",
        "arguments": {"text": CANARY},
        "_meta": META,
    },
)
CALL = (b"Mcp-Method: tools/call", b"Mcp-Name: store-document")


def host(value: bytes) -> bytes:
    return get(b"/healthz", b"Host: " + value)


def origin(value: bytes) -> bytes:
    return get(b"/healthz", HOST, b"Origin: " + value)


ATTACKS: dict[str, tuple[bytes, int]] = {
    # Host
    "host of another name": (host(b"evil.example"), 421),
    "host of another name at our port": (host(b"evil.example:%PORT%"), 421),
    "host that begins like ours": (host(b"localhost:80.evil.example"), 400),
    "host that has ours as a label": (host(b"localhost.evil.example:%PORT%"), 421),
    "host that ends like ours": (host(b"evil-localhost:%PORT%"), 421),
    "host with a user": (host(b"localhost:%PORT%@evil.example"), 400),
    "host with ours as a user": (host(b"%HOST%@evil.example:%PORT%"), 400),
    "host at another port": (host(b"localhost:1"), 421),
    "host without its port": (host(b"localhost"), 421),
    "host with an empty port": (host(b"localhost:"), 400),
    "host with a port too large": (host(b"localhost:99999999"), 400),
    "host with a port of zeros": (host(b"localhost:0%PORT%"), 400),
    "host with a last dot": (host(b"localhost.:%PORT%"), 421),
    "host as a number": (host(b"2130706433:%PORT%"), 421),
    "host in octal": (host(b"0177.0.0.1:%PORT%"), 421),
    "host in short": (host(b"127.1:%PORT%"), 421),
    "host of another loopback address": (host(b"127.0.0.2:%PORT%"), 421),
    "host as mapped IPv6": (host(b"[::ffff:127.0.0.1]:%PORT%"), 421),
    "host of IPv6 with a zone": (host(b"[::1%25lo]:%PORT%"), 400),
    "host of IPv6 without its end": (host(b"[::1"), 400),
    "host as everything": (host(b"0.0.0.0:%PORT%"), 421),
    "host as a star": (host(b"*"), 400),
    "host with a path": (host(b"%HOST%/mcp"), 400),
    "host percent-encoded": (host(b"%6cocalhost:%PORT%"), 400),
    "host that is not ASCII": (host("lôcalhost:%PORT%".encode()), 400),
    "host list": (host(b"%HOST%, evil.example"), 400),
    "host left empty": (host(b""), 400),
    "no host": (get(b"/healthz"), 400),
    "two hosts": (get(b"/healthz", HOST, b"Host: evil.example"), 400),
    "the same host twice": (get(b"/healthz", HOST, HOST), 400),
    "no host in HTTP/1.0": (http(b"GET /healthz HTTP/1.0"), 400),
    "host on the MCP route": (post(host=b"Host: evil.example"), 421),
    "host on the SSE route": (get(b"/sse", b"Host: evil.example", TOKEN), 421),
    "host on the metrics": (get(b"/metrics", b"Host: evil.example", TOKEN), 421),
    "host on no route": (get(b"/none", b"Host: evil.example", TOKEN), 421),
    "forwarded host": (
        get(b"/healthz", b"Host: evil.example", b"X-Forwarded-Host: %HOST%"),
        421,
    ),
    # Origin
    "origin of another name": (origin(b"http://evil.example"), 403),
    "origin that begins like ours": (origin(b"http://localhost:1@evil.example"), 403),
    "origin with ours as a label": (
        origin(b"http://localhost:%PORT%.evil.example"),
        403,
    ),
    "origin null": (origin(b"null"), 403),
    "origin left empty": (origin(b""), 403),
    "origin of another scheme": (origin(b"https://localhost:%PORT%"), 403),
    "origin of a file": (origin(b"file://"), 403),
    "origin at another port": (origin(b"http://localhost:1"), 403),
    "origin without its port": (origin(b"http://localhost"), 403),
    "origin with a path": (origin(b"http://%HOST%/"), 403),
    "origin list": (origin(b"http://%HOST% http://evil.example"), 403),
    "two origins": (
        get(b"/healthz", HOST, b"Origin: http://%HOST%", b"Origin: http://a"),
        400,
    ),
    "origin of an extension": (origin(b"chrome-extension://abc"), 403),
    "origin on the MCP route": (post(LIST_BODY, b"Origin: http://evil.example"), 403),
    "preflight of a stranger": (
        http(
            b"OPTIONS /mcp HTTP/1.1",
            HOST,
            b"Origin: http://evil.example",
            b"Access-Control-Request-Method: POST",
            CLOSE,
        ),
        403,
    ),
    # Size
    "length over the limit": (
        post(b"", length=b"Content-Length: %d" % (LIMIT + 1)),
        413,
    ),
    "length beyond belief": (
        post(b"", length=b"Content-Length: 99999999999999999999"),
        413,
    ),
    "body over the limit": (post(b" " * (LIMIT + 1)), 413),
    "chunks over the limit": (chunked(*[b" " * 10_000] * 11), 413),
    "tiny chunks over the limit": (chunked(*[b"  "] * (LIMIT // 2 + 1)), 413),
    "body over the limit for SSE": (
        post(b" " * (LIMIT + 1), path=b"/messages/?session_id=" + b"0" * 32),
        413,
    ),
    "head over the limit": (get(b"/healthz", HOST, b"X: " + b"a" * 70_000), 431),
    "target over the limit": (get(b"/" + b"a" * 70_000, HOST), 431),
    "headers without number": (get(b"/healthz", HOST, *[b"X-A: b"] * 20_000), 431),
    # Framing
    "length and chunks": (
        post(b"0\r\n\r\n", b"Transfer-Encoding: chunked"),
        400,
    ),
    "two lengths": (post(LIST_BODY, b"Content-Length: 1"), 400),
    "length list": (post(length=b"Content-Length: 5, 6"), 400),
    "length below zero": (post(length=b"Content-Length: -1"), 400),
    "length with a sign": (post(length=b"Content-Length: +5"), 400),
    "length in hex": (post(length=b"Content-Length: 0x10"), 400),
    "length left empty": (post(length=b"Content-Length:"), 400),
    "chunk size that is none": (
        post(b"zz\r\n{}\r\n0\r\n\r\n", length=b"Transfer-Encoding: chunked"),
        400,
    ),
    "chunk size below zero": (
        post(b"-1\r\n{}\r\n0\r\n\r\n", length=b"Transfer-Encoding: chunked"),
        400,
    ),
    "chunk size beyond belief": (
        post(b"f" * 40 + b"\r\n{}", length=b"Transfer-Encoding: chunked"),
        400,
    ),
    "chunk longer than its size": (
        post(b"1\r\n{}\r\n0\r\n\r\n", length=b"Transfer-Encoding: chunked"),
        400,
    ),
    "gzip, then chunks": (
        post(LIST_BODY, length=b"Transfer-Encoding: gzip, chunked"),
        400,
    ),
    "chunks in disguise": (
        post(LIST_BODY, length=b"Transfer-Encoding: xchunked"),
        400,
    ),
    "two encodings": (
        post(
            b"0\r\n\r\n",
            b"Transfer-Encoding: chunked",
            length=b"Transfer-Encoding: chunked",
        ),
        400,
    ),
    "space before the colon": (
        post(length=b"Content-Length : %d" % len(LIST_BODY)),
        400,
    ),
    "NUL in a header": (get(b"/healthz", HOST, b"X-A: a\0b"), 400),
    "carriage return in a header": (get(b"/healthz", HOST, b"X-A: a\rb"), 400),
    "control character in a name": (get(b"/healthz", HOST, b"X\x01A: b"), 400),
    "header without a colon": (get(b"/healthz", HOST, b"X-A"), 400),
    "header without a name": (get(b"/healthz", HOST, b": a"), 400),
    "a body for GET": (
        http(b"GET /healthz HTTP/1.1", HOST, CLOSE, b"Content-Length: 2", body=b"{}"),
        400,
    ),
    "a request in the body of GET": (
        http(
            b"GET /healthz HTTP/1.1",
            HOST,
            b"Content-Length: 40",
            body=b"GET /metrics HTTP/1.1\r\nHost: %HOST%\r\n\r\n",
        ),
        400,
    ),
    # Request line
    "no HTTP": (b"hello\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32, 400),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/9.9": (http(b"GET /healthz HTTP/9.9", HOST), 505),
    "two spaces": (http(b"GET  /healthz HTTP/1.1", HOST, CLOSE), 400),
    "space in the target": (http(b"GET /healthz x HTTP/1.1", HOST, CLOSE), 400),
    "NUL in the target": (http(b"GET /healthz\0 HTTP/1.1", HOST, CLOSE), 400),
    "bytes in the target": (http(b"GET /\xff\xfe HTTP/1.1", HOST, CLOSE), 400),
    "absolute target": (get(b"http://%HOST%/healthz", HOST), 400),
    "absolute target of another": (get(b"http://evil.example/healthz", HOST), 400),
    "target star": (http(b"OPTIONS * HTTP/1.1", HOST, CLOSE), 400),
    "CONNECT": (http(b"CONNECT evil.example:443 HTTP/1.1", HOST, CLOSE), 400),
    "TRACE": (http(b"TRACE /mcp HTTP/1.1", HOST, TOKEN, CLOSE), 405),
    "PUT": (http(b"PUT /mcp HTTP/1.1", HOST, TOKEN, CLOSE), 405),
    "PATCH for SSE": (http(b"PATCH /sse HTTP/1.1", HOST, TOKEN, CLOSE), 405),
    "DELETE of the metrics": (
        http(b"DELETE /metrics HTTP/1.1", HOST, TOKEN, CLOSE),
        405,
    ),
    "POST to SSE": (post(path=b"/sse"), 405),
    "GET of messages": (get(b"/messages/", HOST, TOKEN), 405),
    "OPTIONS without an origin": (
        http(b"OPTIONS /mcp HTTP/1.1", HOST, TOKEN, CLOSE),
        405,
    ),
    "a method that overrides": (
        post(LIST_BODY, b"X-HTTP-Method-Override: DELETE", path=b"/sse"),
        405,
    ),
    # Paths
    "two slashes": (get(b"//mcp", HOST, TOKEN), 404),
    "a last slash": (get(b"/mcp/", HOST, TOKEN), 404),
    "no last slash": (get(b"/messages", HOST, TOKEN), 404),
    "up and down": (get(b"/mcp/../metrics", HOST), 404),
    "up and down, encoded": (get(b"/mcp/%2e%2e/metrics", HOST), 404),
    "a letter encoded": (get(b"/%6detrics", HOST), 404),
    "a slash encoded": (get(b"/mcp%2f", HOST, TOKEN), 404),
    "NUL encoded": (get(b"/healthz%00", HOST), 404),
    "a semicolon": (get(b"/healthz;x", HOST), 404),
    "capitals": (get(b"/MCP", HOST, TOKEN), 404),
    "files": (get(b"/../../etc/passwd", HOST), 404),
    "backslash": (get(b"\\metrics", HOST), 400),
    # Tokens
    "no token": (post(token=b""), 401),
    "no token for SSE": (get(b"/sse", HOST), 401),
    "no token for messages": (
        post(path=b"/messages/?session_id=" + b"0" * 32, token=b""),
        401,
    ),
    "no token for the metrics": (get(b"/metrics", HOST), 401),
    "a token left empty": (post(token=b"Authorization: Bearer "), 401),
    "an unknown token": (post(token=b"Authorization: Bearer hs_" + b"x" * 43), 401),
    "half a token": (post(token=b"Authorization: Bearer %HALF%"), 401),
    "a token and more": (post(token=b"Authorization: Bearer %WRITE%x"), 401),
    "two tokens in one": (post(token=b"Authorization: Bearer %WRITE%, %READ%"), 401),
    "two tokens": (post(LIST_BODY, b"Authorization: Bearer %READ%"), 400),
    "the hash of a token": (post(token=b"Authorization: Bearer %SHA256%"), 401),
    "an expired token": (post(token=b"Authorization: Bearer %EXPIRED%"), 401),
    "a token as Basic": (post(token=b"Authorization: Basic %WRITE%"), 401),
    "a token without its kind": (post(token=b"Authorization: %WRITE%"), 401),
    "a token in another header": (post(token=b"X-Api-Key: %WRITE%"), 401),
    "a token in the query": (post(path=b"/mcp?access_token=%WRITE%", token=b""), 401),
    "a token of bytes": (post(token=b"Authorization: Bearer \xff\xfe\x80"), 401),
    "a token without end": (
        post(token=b"Authorization: Bearer " + b"a" * 20_000),
        401,
    ),
    "a token that is unsigned": (
        post(token=b"Authorization: Bearer eyJhbGciOiJub25lIn0.e30."),
        401,
    ),
    "metrics for a tenant": (
        get(b"/metrics", HOST, b"Authorization: Bearer %TENANT%"),
        403,
    ),
    "a write with a token that reads": (
        post(STORE, *CALL[1:], token=b"Authorization: Bearer %READ%", method=CALL[0]),
        403,
    ),
    "a write with a token that reads, in a session": (
        handshake(
            STORE,
            b"Mcp-Session-Id: %READ-SESSION%",
            token=b"Authorization: Bearer %READ%",
        ),
        403,
    ),
    # Sessions
    "somebody else's session": (
        handshake(
            LIST_BODY,
            b"Mcp-Session-Id: %SESSION%",
            token=b"Authorization: Bearer %READ%",
        ),
        404,
    ),
    "somebody else's session as a tenant": (
        handshake(
            LIST_BODY,
            b"Mcp-Session-Id: %SESSION%",
            token=b"Authorization: Bearer %TENANT%",
        ),
        404,
    ),
    "listening to somebody else's session": (
        get(
            b"/mcp",
            HOST,
            ACCEPT,
            b"Mcp-Session-Id: %SESSION%",
            b"Authorization: Bearer %READ%",
        ),
        404,
    ),
    "ending somebody else's session": (
        http(
            b"DELETE /mcp HTTP/1.1",
            HOST,
            b"Mcp-Session-Id: %SESSION%",
            b"Authorization: Bearer %READ%",
            CLOSE,
        ),
        404,
    ),
    "an unknown session": (
        handshake(LIST_BODY, b"Mcp-Session-Id: " + b"0" * 32),
        404,
    ),
    "two sessions": (
        handshake(LIST_BODY, b"Mcp-Session-Id: %SESSION%", b"Mcp-Session-Id: a"),
        400,
    ),
    "no session": (handshake(LIST_BODY), 400),
    "somebody else's SSE session": (
        post(
            path=b"/messages/?session_id=%SSE%", token=b"Authorization: Bearer %READ%"
        ),
        404,
    ),
    "an SSE session that is none": (post(path=b"/messages/?session_id=0"), 404),
    "an SSE session with a line break": (
        post(path=b"/messages/?session_id=0%0aERROR:forged"),
        404,
    ),
    "no SSE session": (post(path=b"/messages/"), 404),
    "two SSE sessions": (
        post(path=b"/messages/?session_id=%SSE%&session_id=%SSE%"),
        404,
    ),
    # Messages
    "bytes that are not UTF-8": (post(b'{"a":"\xff\xfe"}'), 400),
    "UTF-16": (post(json.dumps(LIST).encode("utf-16")), 400),
    "half a surrogate pair": (
        post(rb'{"jsonrpc":"2.0","id":1,"method":"\ud800"}'),
        400,
    ),
    "NUL bytes": (post(b"\0" * 100), 400),
    "no body": (post(b""), 400),
    "no JSON": (post(b"hello " + CANARY.encode()), 400),
    "JSON cut short": (post(LIST_BODY[:-5]), 400),
    "JSON and more": (post(LIST_BODY + b"{}"), 400),
    "JSON with NaN": (post(rpc("tools/list", params={"a": float("nan")})), 400),
    "a batch": (post(b"[" + LIST_BODY + b"]"), 400),
    "an empty batch": (post(b"[]"), 400),
    "a string": (post(b'"tools/list"'), 400),
    "a number": (post(b"1"), 400),
    "null": (post(b"null"), 400),
    "deep arrays": (post(b"[" * 50_000), 400),
    "deep objects": (post(b'{"a":' * 15_000), 400),
    "deep parameters": (
        post(rpc("tools/list").replace(b"}", b',"params":{"a":') + b"[" * 5_000),
        400,
    ),
    "a huge number": (post(b'{"jsonrpc":"2.0","id":' + b"9" * 50_000 + b"}"), 400),
    "an id that is huge": (
        post(b'{"jsonrpc":"2.0","method":"ping","id":' + b"9" * 5_000 + b"}"),
        400,
    ),
    "an id that is a list": (post(rpc("tools/list", id=[1])), 400),
    "an id that is null": (post(rpc("tools/list", id=None)), 400),
    "an id that is true": (post(rpc("tools/list", id=True)), 400),
    "an id that is a fraction": (post(rpc("tools/list", id=1.5)), 400),
    "no version of JSON-RPC": (post(b'{"id":1,"method":"ping"}'), 400),
    "JSON-RPC 1.0": (post(rpc("tools/list", jsonrpc="1.0")), 400),
    "no method": (post(b'{"jsonrpc":"2.0","id":1}'), 400),
    "a method that is a number": (post(b'{"jsonrpc":"2.0","id":1,"method":1}'), 400),
    "parameters that are a list": (post(rpc("tools/list", params=[1])), 400),
    "an unknown method": (
        post(rpc("evil", params={"_meta": META}), method=b"Mcp-Method: evil"),
        404,
    ),
    "a method that the header denies": (
        post(STORE, method=b"Mcp-Method: tools/list"),
        400,
    ),
    "two methods in headers": (post(LIST_BODY, b"Mcp-Method: ping"), 400),
    "no method in a header": (post(method=b""), 400),
    "an unknown version": (post(version=b"MCP-Protocol-Version: 2099-01-01"), 400),
    "a version that is none": (post(version=b"MCP-Protocol-Version: ../evil"), 400),
    "two versions": (post(LIST_BODY, b"MCP-Protocol-Version: 2025-11-25"), 400),
    "text": (post(kind=b"Content-Type: text/plain"), 415),
    "a form": (post(kind=b"Content-Type: application/x-www-form-urlencoded"), 415),
    "JSON in disguise": (post(kind=b"Content-Type: application/jsonx"), 415),
    "no type": (post(kind=b""), 415),
    "compressed": (post(LIST_BODY, b"Content-Encoding: gzip"), 415),
    "an answer in HTML": (post(accept=b"Accept: text/html"), 406),
}


@dataclass(frozen=True)
class Target:
    """The server under attack, and what its users have."""

    server: HttpServer
    secrets: dict[bytes, bytes]
    sse: socket.socket

    def filled(self, data: bytes) -> bytes:
        for name, value in self.secrets.items():
            data = data.replace(b"%" + name + b"%", value)
        return data

    def send(self, data: bytes) -> Answer:
        return self.server.send(self.filled(data))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    root = tmp_path_factory.mktemp("attacked")
    file = root / "tokens.toml"
    secrets = {
        "WRITE": token_file.create(file, "writer", scope="write"),
        "READ": token_file.create(file, "reader", scope="read"),
        "TENANT": token_file.create(file, "alpha", scope="write", namespace="alpha"),
        "EXPIRED": token_file.create(file, "late", scope="write", expires_days=1),
    }
    text = file.read_text()
    file.write_text(
        text.replace(text.rsplit("expires = ", 1)[1], "2020-01-01T00:00:00Z")
    )
    secrets["HALF"] = secrets["WRITE"][:20]
    secrets["SHA256"] = text.split('sha256 = "')[1][:64]
    variables = {
        "TOKENS_FILE": str(file),
        "MAX_BODY_BYTES": str(LIMIT),
        "LOG_LEVEL": "DEBUG",
    }
    with http_server(root, **variables) as server:
        bearer = {"Authorization": f"Bearer {secrets['WRITE']}"}
        secrets["HOST"] = server.address
        secrets["PORT"] = str(server.port)
        secrets["SESSION"] = server.initialize(bearer)
        reader = {"Authorization": f"Bearer {secrets['READ']}"}
        secrets["READ-SESSION"] = server.initialize(reader)
        sse = server.connected()
        sse.sendall(server.request("GET", "/sse", headers=bearer))
        begun = b""
        while b"session_id=" not in begun:
            begun += sse.recv(65536)
        secrets["SSE"] = begun.split(b"session_id=")[1][:32].decode()
        yield Target(server, {k.encode(): v.encode() for k, v in secrets.items()}, sse)
        sse.close()
        log = server.log()
    assert "Traceback" not in log
    assert CANARY not in log
    for name in ("WRITE", "READ", "TENANT", "EXPIRED", "HALF", "SESSION", "SSE"):
        assert secrets[name] not in log, name


SLOW = {
    "nothing": b"",
    "half a line": b"GET /heal",
    "half a head": b"GET /healthz HTTP/1.1\r\nHost: %HOST%\r\n",
    "half a body": post(LIST_BODY)[:-10],
    "half a chunk": chunked(LIST_BODY)[:-20],
}


@pytest.fixture(scope="module")
def slow(target: Target) -> Iterator[dict[str, socket.socket]]:
    """Clients that begin and do not go on."""
    clients = {}
    for name, begun in SLOW.items():
        clients[name] = target.server.connected()
        clients[name].sendall(target.filled(begun))
    yield clients
    for client in clients.values():
        client.close()


def test_a_good_request_is_answered(target: Target) -> None:
    answer = target.send(post())
    assert answer.status == 200
    assert answer.json()["result"]["tools"]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_the_server_goes_on(
    target: Target, slow: dict[str, socket.socket], name: str
) -> None:
    assert slow
    data, status = ATTACKS[name]
    answer = target.send(data)
    # The parser refuses a large head itself if it does not come all at once.
    assert answer.status in {status, 400 if status == 431 else status}, answer
    assert CANARY.encode() not in answer.body
    assert b"pydantic" not in answer.body
    assert target.send(post()).status == 200


def test_there_are_at_least_sixty_attacks() -> None:
    assert len(ATTACKS) + len(SLOW) >= 60
    assert len({data for data, _ in ATTACKS.values()}) == len(ATTACKS)


@pytest.mark.parametrize("name", SLOW)
def test_who_begins_and_does_not_go_on_is_sent_away(
    target: Target, slow: dict[str, socket.socket], name: str
) -> None:
    answer = parsed_answer(received(slow[name]))
    assert answer.status == (408 if "body" in name or "chunk" in name else 0), answer
    assert target.send(post()).status == 200


def test_a_stream_that_was_attacked_still_belongs_to_its_owner(target: Target) -> None:
    message = json.dumps(INITIALIZE).encode()
    sent = target.send(handshake(message, path=b"/messages/?session_id=%SSE%"))
    assert sent.status == 202
    begun = b""
    while b"serverInfo" not in begun:
        begun += target.sse.recv(65536)


def test_a_thousand_idle_connections_starve_nobody(target: Target) -> None:
    idle = [target.server.connected() for _ in range(1_000)]
    try:
        assert target.send(post()).status == 200
    finally:
        for each in idle:
            each.close()


def test_a_second_request_behind_a_refused_one_is_not_read(target: Target) -> None:
    hidden = get(b"/healthz", HOST)
    refused = post(hidden, token=b"", length=b"Content-Length: 1").replace(
        b"Connection: close\r\n", b""
    )
    answer = target.send(refused)
    assert answer.status == 401
    assert b"HTTP/1.1" not in answer.body
