"""Where the HTTP server listens, under which names it answers, and to whom it may."""

import contextlib
import errno
import ipaddress
import socket
import ssl
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

from mcp_hybrid_search.errors import InvalidInputError, StoreUnavailableError
from mcp_hybrid_search.http_address import (
    DEFAULT_PORTS,
    Addresses,
    Host,
    configured_host,
    configured_url,
    is_loopback,
    is_wildcard,
)
from mcp_hybrid_search.settings import PREFIX, Settings

BACKLOG = 1024
MOST_CONNECTIONS = 4_000
OTHER_FILES = 200
"""Descriptors that are not connections."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def scheme(settings: Settings) -> str:
    """Return the scheme that the server itself speaks."""
    return "http" if settings.tls_cert_file is None else "https"


def check_exposure(settings: Settings) -> None:
    """Refuse to listen to other machines without tokens.

    Raises:
        InvalidInputError: Saying what to do.
    """
    if is_loopback(settings.host.lower()):
        return
    if not (settings.tokens_file or settings.token or settings.oauth_issuer):
        msg = (
            f"{settings.host} can be reached from other machines, so callers need"
            f" tokens. Make one with: mcp-hybrid-search token create NAME, and name its"
            f" file in {PREFIX}TOKENS_FILE. Or listen on 127.0.0.1."
        )
        raise InvalidInputError(msg)


def addresses(settings: Settings, port: int) -> Addresses:
    """Return the hosts and origins that are served.

    Raises:
        InvalidInputError: If a setting names what is no host or URL.
    """
    names = {settings.host.lower()}
    if is_loopback(settings.host.lower()) or is_wildcard(settings.host):
        names |= set(LOCAL_NAMES)
    found = Addresses(
        scheme=scheme(settings), listens_on=[Host(name, port) for name in sorted(names)]
    )
    if settings.public_url:
        url = configured_url(settings.public_url, variable=f"{PREFIX}PUBLIC_URL")
        host = configured_host(url.netloc, variable=f"{PREFIX}PUBLIC_URL")
        found.allow_host(host, (url.scheme,))
    for text in listed(settings.allowed_hosts):
        host = configured_host(text, variable=f"{PREFIX}ALLOWED_HOSTS")
        found.allow_host(host, DEFAULT_PORTS)
    for text in listed(settings.allowed_origins):
        found.allow_origin(text)
    return found


def listed(text: str) -> list[str]:
    """Return what stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def trusted_proxies(settings: Settings) -> list[str]:
    """Return the addresses whose forwarded headers are believed.

    Raises:
        InvalidInputError: If one is no address.
    """
    found = listed(settings.trusted_proxies)
    try:
        return [str(ipaddress.ip_network(text)) for text in found]
    except ValueError as exc:
        msg = f"{PREFIX}TRUSTED_PROXIES: {exc}."
        raise InvalidInputError(msg) from None


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """Listen where the settings say.

    Raises:
        InvalidInputError: If the host is not one of this machine.
        StoreUnavailableError: If the port is taken.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Without the protocol asyncio does not switch Nagle off: 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as exc:
            raise _unlistenable(settings, exc) from exc
        listener.listen(BACKLOG)
        yield listener
    finally:
        listener.close()


def _unlistenable(settings: Settings, error: OSError) -> Exception:
    if error.errno == errno.EADDRINUSE:
        msg = (
            f"Port {settings.port} of {settings.host} is in use. Choose another with"
            f" --port, 0 for any free one."
        )
        return StoreUnavailableError(msg)
    msg = f"Cannot listen on {settings.host}, port {settings.port}: {error.strerror}."
    return InvalidInputError(msg)


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return what HTTPS is served with, if the settings name a certificate.

    Raises:
        InvalidInputError: If the certificate or its key cannot be used.
    """
    certificate, key = settings.tls_cert_file, settings.tls_key_file
    if certificate is None:
        if key is not None:
            msg = f"{PREFIX}TLS_KEY_FILE needs {PREFIX}TLS_CERT_FILE."
            raise InvalidInputError(msg)
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except OSError as exc:
        msg = (
            f"The certificate {certificate} and its key cannot be used:"
            f" {exc.strerror or exc}."
        )
        raise InvalidInputError(msg) from None
    return context


def base_url(settings: Settings, port: int) -> str:
    """Return the URL under which clients see this server, without a last slash."""
    url = settings.public_url or f"{scheme(settings)}://{Host(settings.host, port)}"
    return url.rstrip("/")


def url_path(url: str) -> str:
    """Return the path of a URL, without a last slash."""
    return urlsplit(url).path.rstrip("/")


def most_connections() -> int:
    """Return how many connections there may be, after asking for room for them."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    import resource  # noqa: PLC0415 - POSIX only

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(soft - OTHER_FILES, soft // 2)
    return MOST_CONNECTIONS
