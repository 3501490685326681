"""Hosts and origins, parsed and compared whole: never by how they begin.

Pure. What a browser sends in `Host` and `Origin` is how a server on this machine
tells its own pages from a stranger's (DNS rebinding), so nothing is guessed here.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from mcp_hybrid_search.errors import InvalidInputError

DEFAULT_PORTS = {"http": 80, "https": 443}

_NAME = r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.-])?"
_PORT = r"0|[1-9][0-9]{0,4}"
_HOST = re.compile(rf"(\[[0-9a-f:.]+\]|{_NAME})(?::({_PORT}))?")
_ORIGIN = re.compile(rf"(https?)://(\[[0-9a-f:.]+\]|{_NAME})(?::({_PORT}))?")
_LAST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Host:
    """A name or address, and the port if one was given."""

    name: str
    """Lower case; an IPv6 address in its shortest form, without brackets."""
    port: int | None = None

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a web page comes from; the port is always known."""

    scheme: str
    name: str
    port: int


def parsed_host(text: str) -> Host | None:
    """Read a `Host` header; None if it is not one host and at most one port."""
    found = _HOST.fullmatch(text.lower()) if text.isascii() else None
    return None if found is None else _host(*found.groups())


def parsed_origin(text: str) -> Origin | None:
    """Read the `Origin` of a page; None for `null` and for what is not HTTP."""
    found = _ORIGIN.fullmatch(text.lower()) if text.isascii() else None
    if found is None:
        return None
    scheme, name, port = found.groups()
    host = _host(name, port)
    if host is None:
        return None
    return Origin(scheme, host.name, _port(host, scheme))


def is_loopback(name: str) -> bool:
    """Return whether an address, or `localhost`, is of this machine alone."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def is_wildcard(name: str) -> bool:
    """Return whether listening on `name` is listening on every address."""
    try:
        return ipaddress.ip_address(name).is_unspecified
    except ValueError:
        return False


def configured_host(text: str, *, variable: str) -> Host:
    """Read a host that the operator names; IDNA names are encoded.

    Raises:
        InvalidInputError: If it is none.
    """
    try:
        host = parsed_host(text if text.isascii() else text.encode("idna").decode())
    except UnicodeError:
        host = None
    if host is None:
        msg = f"{variable}: {text!r} is not a host, such as example.com or [::1]:8000."
        raise InvalidInputError(msg)
    return host


def configured_url(text: str, *, variable: str) -> SplitResult:
    """Read a URL of this server that the operator names.

    Raises:
        InvalidInputError: If it is none, or has more than a host and a path.
    """
    url = urlsplit(text)
    fits = url.scheme in DEFAULT_PORTS and not (url.query or url.fragment)
    if not fits or parsed_host(url.netloc) is None:
        msg = f"{variable}: {text!r} is not a URL such as https://example.com/memory."
        raise InvalidInputError(msg)
    return url


def _host(name: str, port: str | None) -> Host | None:
    if port is not None and int(port) > _LAST_PORT:
        return None
    if name.startswith("["):
        try:
            name = str(ipaddress.IPv6Address(name[1:-1]))
        except ValueError:
            return None
    return Host(name, None if port is None else int(port))


def _port(host: Host, scheme: str) -> int:
    return DEFAULT_PORTS[scheme] if host.port is None else host.port


class Addresses:
    """The hosts and origins under which this server may be called."""

    def __init__(self, *, scheme: str, listens_on: Iterable[Host]) -> None:
        """Begin with where the server listens.

        Args:
            scheme: `http` or `https`, as the server speaks it.
            listens_on: Each with its port.
        """
        self._hosts: set[Host] = set()
        self._origins: set[Origin] = set()
        self._other_origins: set[str] = set()
        for host in listens_on:
            self.allow_host(host, (scheme,))

    def allow_host(self, host: Host, schemes: Iterable[str]) -> None:
        """Accept `host`, and pages that come from it."""
        defaults = {DEFAULT_PORTS[scheme] for scheme in schemes}
        self._hosts.add(host)
        if host.port is None:
            self._hosts |= {Host(host.name, port) for port in defaults}
        elif host.port in defaults:
            self._hosts.add(Host(host.name))
        self._origins |= {Origin(s, host.name, _port(host, s)) for s in schemes}

    def allow_origin(self, text: str) -> None:
        """Accept pages from elsewhere, and those of an extension's own scheme."""
        origin = parsed_origin(text)
        if origin is None:
            self._other_origins.add(text)
        else:
            self._origins.add(origin)

    def has_host(self, host: Host) -> bool:
        """Return whether the server answers under `host`."""
        return host in self._hosts

    def has_origin(self, text: str) -> bool:
        """Return whether pages of this origin may call the server."""
        return parsed_origin(text) in self._origins or text in self._other_origins
