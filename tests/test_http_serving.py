"""The HTTP server as its users start it, and as real clients meet it."""

import re
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mcp import Client, MCPError
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from mcp_hybrid_search import token_file
from tests.http_server import COMMAND, HttpServer, environment, http_server, received

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets"),
]

LONG = " ".join(f"Sentence number {i} of the long story." for i in range(1_500))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    root = tmp_path_factory.mktemp("served")
    variables = {"ALLOWED_ORIGINS": "https://app.example", "MAX_CALLS": "1"}
    with http_server(root, **variables) as server:
        server.wait_until_ready()
        yield server
        log = server.log()
    assert "Traceback" not in log
    assert " 500 " not in log


@asynccontextmanager
async def streamable(
    server: HttpServer, mode: str, token: str | None = None
) -> AsyncIterator[Client]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        create_mcp_http_client(headers=headers) as http,
        Client(
            streamable_http_client(f"{server.url}/mcp", http_client=http), mode=mode
        ) as client,
    ):
        yield client


@asynccontextmanager
async def over_sse(
    server: HttpServer, mode: str = "legacy", token: str | None = None
) -> AsyncIterator[Client]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with Client(sse_client(f"{server.url}/sse", headers), mode=mode) as client:
        yield client


WAYS = [
    pytest.param(streamable, "legacy", id="streamable HTTP, handshake"),
    pytest.param(streamable, "2026-07-28", id="streamable HTTP, stateless"),
    pytest.param(over_sse, "legacy", id="SSE"),
]


@pytest.mark.parametrize(("connect", "mode"), WAYS)
async def test_real_clients_store_and_find(
    server: HttpServer, connect: Any, mode: str
) -> None:
    async with connect(server, mode) as client:
        stored = await client.call_tool(
            "store-document", {"text": f"Ishmael sails by {mode}.", "id": mode}
        )
        assert not stored.is_error
        found = await client.call_tool("hybrid-search", {"query": f"sails by {mode}"})
    hits = found.structured_content["hits"]
    assert mode in [hit["document_id"] for hit in hits]


@pytest.mark.parametrize(("connect", "mode"), WAYS)
async def test_progress_arrives_during_a_call(
    server: HttpServer, connect: Any, mode: str
) -> None:
    told: list[str | None] = []

    async def on_progress(
        progress: float, total: float | None, message: str | None
    ) -> None:
        del progress, total
        told.append(message)

    async with connect(server, mode) as client:
        await client.call_tool(
            "store-document",
            {"text": LONG[:12_000] + mode, "id": "long"},
            progress_callback=on_progress,
        )
    assert told


@pytest.mark.parametrize(("connect", "mode"), WAYS)
async def test_cancelling_a_call_gives_its_place_back(
    server: HttpServer, connect: Any, mode: str
) -> None:
    """The server has one place: the second call waits until the first is gone."""
    async with connect(server, mode) as client:
        begun = anyio.Event()

        async def on_progress(
            progress: float, total: float | None, message: str | None
        ) -> None:
            del progress, total, message
            begun.set()

        async with anyio.create_task_group() as group:

            async def store() -> None:
                await client.call_tool(
                    "store-document",
                    {"text": f"{LONG} {mode}", "id": f"cancelled-{mode}"},
                    progress_callback=on_progress,
                )

            group.start_soon(store)
            await begun.wait()
            group.cancel_scope.cancel()
        found = await client.call_tool("list-collections", {})
        assert not found.is_error
        missing = await client.call_tool("get-document", {"id": f"cancelled-{mode}"})
        assert missing.is_error


async def test_both_transports_share_one_engine(server: HttpServer) -> None:
    async with over_sse(server) as first, streamable(server, "legacy") as second:
        await first.call_tool("store-document", {"text": "Shared.", "id": "shared"})
        found = await second.call_tool("get-document", {"id": "shared"})
    assert found.structured_content["text"] == "Shared."
    status = await anyio.run_process(
        [*COMMAND, "status", "--json"], env=server.environment
    )
    assert status.stdout.count(b'"pid"') == 2  # The engine, and one client.


def test_probes_answer_without_a_token_and_say_little(server: HttpServer) -> None:
    assert server.ask("GET", "/healthz").body == b"ok\n"
    assert server.ask("GET", "/readyz").body == b"ready\n"
    assert server.ask("HEAD", "/readyz").body == b""


def test_metrics_count_without_naming_anything_stored(server: HttpServer) -> None:
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "canary-tool", "arguments": {"text": "canary"}},
    }
    session = {"Mcp-Session-Id": server.initialize()}
    assert server.ask("POST", "/mcp", call, session).status == 200
    text = server.ask("GET", "/metrics").body.decode()
    assert "canary" not in text
    assert 'hybrid_search_calls_total{outcome="ok",tool="hybrid-search"}' in text
    for stage in ("encode", "index", "read", "total"):
        assert f'stage_seconds_count{{stage="{stage}"}}' in text
    values = dict(re.findall(r"^hybrid_search_(\w+) (\S+)$", text, re.MULTILINE))
    assert float(values["ready"]) == 1
    assert float(values["documents"]) > 0
    assert float(values["chunks"]) >= float(values["documents"])
    assert float(values["bytes"]) > 0
    assert float(values["sessions"]) >= 1
    labels = set(re.findall(r'(\w+)="', text))
    assert labels <= {"tool", "outcome", "stage", "reason", "le"}


def test_refusals_are_counted_by_reason(server: HttpServer) -> None:
    def count(reason: str) -> float:
        text = server.ask("GET", "/metrics").body.decode()
        pattern = rf'refusals_total{{reason="{reason}"}} (\S+)'
        return float(re.findall(pattern, text)[0])

    before = count("host")
    server.ask("GET", "/healthz", headers={"Host": "evil.example"})
    assert count("host") == before + 1


def test_pages_of_an_allowed_origin_may_call_and_read(server: HttpServer) -> None:
    origin = {"Origin": "https://app.example"}
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, mcp-session-id, x-evil",
    }
    preflight = server.ask("OPTIONS", "/mcp", headers={**origin, **asked})
    assert preflight.status == 204
    told = preflight.headers
    assert told["access-control-allow-origin"] == "https://app.example"
    assert told["access-control-allow-headers"] == "content-type, mcp-session-id"
    assert "access-control-allow-credentials" not in told
    answer = server.ask("GET", "/healthz", headers=origin)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "Mcp-Session-Id" in answer.headers["access-control-expose-headers"]
    assert answer.headers["vary"] == "Origin"


def test_own_pages_may_call_and_others_learn_nothing(server: HttpServer) -> None:
    own = server.ask("GET", "/healthz", headers={"Origin": server.url})
    assert own.status == 200
    other = server.ask("GET", "/healthz", headers={"Origin": "https://evil.example"})
    assert other.status == 403
    assert "access-control-allow-origin" not in other.headers


def test_forwarded_headers_are_not_believed(server: HttpServer) -> None:
    headers = {
        "Host": "app.example",
        "X-Forwarded-Host": server.address,
        "Forwarded": f"host={server.address}",
        "X-Forwarded-For": "127.0.0.1",
    }
    assert server.ask("GET", "/healthz", headers=headers).status == 421


def run(*arguments: str, **variables: str) -> tuple[int, str]:
    """Run a server that must not start; returns its code and what it says."""
    ended = subprocess.run(
        [*COMMAND, "serve", "--transport", "http", *arguments],
        env=environment(Path("/nonexistent"), **variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.stdout == ""
    return ended.returncode, ended.stderr


def test_a_port_in_use_is_one_plain_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, told = run("--port", str(port))
    assert code == 1
    assert told == (
        f"mcp-hybrid-search: Port {port} of 127.0.0.1 is in use. Choose another with"
        " --port, 0 for any free one.\n"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])  # noqa: S104
def test_other_machines_are_not_served_without_tokens(host: str) -> None:
    code, told = run("--host", host)
    assert code == 1
    assert "mcp-hybrid-search token create" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TOKENS_FILE": "/nonexistent/t"}, "/nonexistent/t cannot be read: No such"),
        ({"TOKEN": "short"}, "HYBRID_SEARCH_TOKEN has 5 characters"),
        ({"OAUTH_ISSUER": "https://a.example"}, "need each other"),
        ({"ALLOWED_HOSTS": "http://a"}, "HYBRID_SEARCH_ALLOWED_HOSTS: 'http://a'"),
        ({"PUBLIC_URL": "a.example"}, "HYBRID_SEARCH_PUBLIC_URL: 'a.example'"),
        ({"TLS_CERT_FILE": "/nonexistent/c"}, "/nonexistent/c and its key cannot"),
        ({"TLS_KEY_FILE": "/nonexistent/k"}, "needs HYBRID_SEARCH_TLS_CERT_FILE"),
        ({"TRUSTED_PROXIES": "everybody"}, "HYBRID_SEARCH_TRUSTED_PROXIES"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    variables: dict[str, str], message: str
) -> None:
    code, told = run(**variables)
    assert code == 1
    assert message in told
    assert told.count("\n") == 1
    assert "short" not in told.replace("5 characters", "")


@pytest.mark.parametrize(
    ("transport", "served", "missing"),
    [
        ("streamable-http", {"/mcp": 400}, ["/sse", "/messages/"]),
        ("sse", {"/messages/": 405}, ["/mcp"]),
    ],
)
def test_each_transport_can_be_served_alone(
    tmp_path: Path, transport: str, served: dict[str, int], missing: list[str]
) -> None:
    with http_server(tmp_path, "--transport", transport) as server:
        assert server.path == {"sse": "/sse"}.get(transport, "/mcp")
        for path, status in served.items():
            headers = {"Accept": "text/event-stream"}
            assert server.ask("GET", path, headers=headers).status == status
        for path in missing:
            assert server.ask("GET", path).status == 404


async def test_flags_win_over_variables(tmp_path: Path) -> None:
    arguments = ["--host", "::1", "--json-responses", "--read-only"]
    with http_server(tmp_path, *arguments, HOST="127.0.0.1") as server:
        assert server.host == "::1"
        session = server.initialize()
        listed = server.ask(
            "POST",
            "/mcp",
            {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
            {"Mcp-Session-Id": session},
        )
    assert listed.headers["content-type"] == "application/json"
    names = {tool["name"] for tool in listed.json()["result"]["tools"]}
    assert "hybrid-search" in names
    assert "store-document" not in names


async def test_everywhere_means_by_the_address_that_was_called(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tokens.toml"
    token = token_file.create(file, "a", scope="read")
    bearer = {"Authorization": f"Bearer {token}"}
    arguments = ["--host", "0.0.0.0"]  # noqa: S104
    variables = {"TOKENS_FILE": str(file), "PUBLIC_URL": "https://memory.example/x"}
    with http_server(tmp_path, *arguments, **variables) as server:
        server.host = "127.0.0.1"
        assert "Tokens travel in plain text" in server.log()

        def status(host: str) -> int:
            headers = {**bearer, "Host": host}
            return server.ask("GET", "/metrics", headers=headers).status

        assert status(f"127.0.0.1:{server.port}") == 200
        assert status(f"localhost:{server.port}") == 200
        assert status("memory.example") == 200
        assert status("memory.example:443") == 200
        assert status("memory.example:80") == 421
        assert status(f"192.0.2.1:{server.port}") == 421
        assert status(f"127.0.0.2:{server.port}") == 421
        with server.connected() as stream:
            headers = {**bearer, "Host": "memory.example"}
            stream.sendall(server.request("GET", "/sse", headers=headers))
            begun = b""
            while b"session_id=" not in begun:
                begun += stream.recv(65536)
        assert b"data: /x/messages/?session_id=" in begun


def certificate(directory: Path) -> Path:
    """Make a certificate of 127.0.0.1 that nobody signed but itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(timezone.utc)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(pem) + private)
    return path


async def test_https_is_served_with_a_certificate(tmp_path: Path) -> None:
    path = certificate(tmp_path)
    with http_server(tmp_path, TLS_CERT_FILE=str(path)) as server:
        assert server.scheme == "https"
        trusting = ssl.create_default_context(cafile=path)
        async with (
            httpx2.AsyncClient(verify=trusting) as http,
            Client(
                streamable_http_client(f"{server.url}/mcp", http_client=http)
            ) as client,
        ):
            assert (await client.list_tools()).tools
        old = ssl.create_default_context(cafile=path)
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            server.connected() as plain,
            old.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
        ):
            assert wrapped.version() == "TLSv1.2"
        with server.connected() as plain:
            plain.sendall(server.request("GET", "/healthz"))
            assert b"200" not in received(plain)


async def test_a_token_opens_every_transport_and_is_told_its_limits(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tokens.toml"
    reads = token_file.create(file, "reader", scope="read")
    writes = token_file.create(file, "writer", scope="write")
    with http_server(tmp_path, TOKENS_FILE=str(file)) as server:
        for connect, mode in (
            (streamable, "legacy"),
            (streamable, "2026-07-28"),
            (over_sse, "legacy"),
        ):
            async with connect(server, mode, writes) as client:
                stored = await client.call_tool("store-document", {"text": "Mine."})
                assert not stored.is_error
            async with connect(server, mode, reads) as client:
                names = {tool.name for tool in (await client.list_tools()).tools}
                assert "store-document" not in names
                found = await client.call_tool("hybrid-search", {"query": "mine"})
                assert len(found.structured_content["hits"]) == 1
        async with streamable(server, "2026-07-28", reads) as client:
            with pytest.raises(MCPError, match="This token only reads"):
                await client.call_tool("store-document", {"text": "Not mine."})


def test_a_revoked_token_is_cut_off_from_streams_that_are_open(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tokens.toml"
    revoked = token_file.create(file, "revoked", scope="read")
    kept = token_file.create(file, "kept", scope="read")
    with http_server(tmp_path, TOKENS_FILE=str(file)) as server:
        streams = []
        for token in (revoked, kept):
            bearer = {"Authorization": f"Bearer {token}"}
            session = server.initialize(bearer)
            for path, more in (
                ("/sse", {}),
                ("/mcp", {"Mcp-Session-Id": session, "Accept": "text/event-stream"}),
            ):
                stream = server.connected()
                headers = {**bearer, **more}
                stream.sendall(server.request("GET", path, headers=headers))
                assert stream.recv(65536).startswith(b"HTTP/1.1 200")
                streams.append(stream)
        token_file.revoke(file, "revoked")
        for stream in streams[:2]:
            assert received(stream).endswith(b"0\r\n\r\n")
        for stream in streams[2:]:
            stream.settimeout(0.1)
            with pytest.raises(TimeoutError):
                received(stream)
        for stream in streams:
            stream.close()
        bearer = {"Authorization": f"Bearer {revoked}"}
        assert server.ask("GET", "/metrics", headers=bearer).status == 401
        assert "Traceback" not in server.log()


async def test_texts_tokens_and_sessions_are_in_no_log(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    token = token_file.create(file, "canary-name", scope="write")
    single = "canary-" * 8
    variables = {"TOKENS_FILE": str(file), "LOG_LEVEL": "DEBUG", "TOKEN": single}
    with http_server(tmp_path, **variables) as server:
        for secret in (token, single):
            for connect, mode in (
                (streamable, "legacy"),
                (streamable, "2026-07-28"),
                (over_sse, "legacy"),
            ):
                async with connect(server, mode, secret) as client:
                    await client.call_tool(
                        "store-document",
                        {"text": "canarytext", "title": "canarytitle"},
                    )
                    await client.call_tool(
                        "hybrid-search",
                        {"query": "canaryquery", "filter": {"canarykey": 1}},
                    )
                    await client.call_tool("hybrid-search", {"query": 5, "canary": 1})
        headers = {"Authorization": f"Bearer {token}"}
        server.ask("POST", "/mcp", b'{"canary": "x"', headers)
        server.ask("POST", "/mcp?canary=1", {"canary": 1}, headers)
        server.ask("GET", "/canary?canary", headers={"Authorization": "Bearer canary"})
        metrics = server.ask("GET", "/metrics", headers=headers).body.decode()
        assert server.stop() == 0
        log = server.log()
    assert "canary" not in metrics
    assert "canary" not in log
    assert token not in log
