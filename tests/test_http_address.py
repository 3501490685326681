"""Hosts and origins are compared whole, however they are written."""

import pytest

from mcp_hybrid_search.errors import InvalidInputError
from mcp_hybrid_search.http_address import (
    Addresses,
    Host,
    configured_host,
    configured_url,
    is_loopback,
    is_wildcard,
    parsed_host,
    parsed_origin,
)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("localhost:8000", Host("localhost", 8000)),
        ("LocalHost", Host("localhost")),
        ("127.0.0.1:0", Host("127.0.0.1", 0)),
        ("[::1]:8000", Host("::1", 8000)),
        ("[0:0:0:0:0:0:0:1]", Host("::1")),
        ("localhost.:8000", Host("localhost.", 8000)),
    ],
)
def test_a_host_is_read_whole(text: str, host: Host) -> None:
    assert parsed_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "localhost:", "localhost:80.evil.com", "localhost:80:80", "a@b",
        "localhost:1@evil.com", "localhost:08000", "localhost:65536", "localhost:-1",
        "[::1", "::1", "[::1]8000", "[localhost]", "[fe80::1%eth0]", "a/b", "a?b",
        "a#b", "a\\b", "a b", "a,b", "%6cocalhost", "bücher.example", ".localhost",
        "localhost:٨٠", "localhost\n", "http://localhost",
    ],
)  # fmt: skip
def test_what_is_not_one_host_is_none(text: str) -> None:
    assert parsed_host(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "null", "", "localhost", "http://", "http://a/", "http://a/b", "http://a?b",
        "http://u@a", "http://localhost:1@evil.com", "ftp://a", "http://a:80:80",
        "http:a", "http:///a", "https://a b", "file://", "http://bücher.example",
    ],
)  # fmt: skip
def test_what_is_not_one_web_origin_is_none(text: str) -> None:
    assert parsed_origin(text) is None


def test_an_origin_without_a_port_has_its_schemes_port() -> None:
    assert parsed_origin("HTTPS://A.example") == parsed_origin("https://a.example:443")
    assert parsed_origin("http://a.example") != parsed_origin("https://a.example")


@pytest.fixture
def addresses() -> Addresses:
    return Addresses(
        scheme="http",
        listens_on=[Host("localhost", 8000), Host("127.0.0.1", 8000)],
    )


@pytest.mark.parametrize(
    ("host", "has"),
    [
        (Host("localhost", 8000), True),
        (Host("localhost", 8001), False),
        (Host("localhost"), False),
        (Host("localhost.", 8000), False),
        (Host("127.0.0.2", 8000), False),
        (Host("evil.example", 8000), False),
    ],
)
def test_a_host_is_served_only_with_its_port(
    addresses: Addresses, host: Host, *, has: bool
) -> None:
    assert addresses.has_host(host) is has


@pytest.mark.parametrize(
    ("origin", "has"),
    [
        ("http://localhost:8000", True),
        ("HTTP://LOCALHOST:8000", True),
        ("https://localhost:8000", False),
        ("http://localhost", False),
        ("http://localhost:8000.evil.example", False),
        ("http://evil.example", False),
        ("null", False),
    ],
)
def test_an_origin_is_served_only_with_its_scheme_and_port(
    addresses: Addresses, origin: str, *, has: bool
) -> None:
    assert addresses.has_origin(origin) is has


def test_a_default_port_may_be_left_out_and_no_other(addresses: Addresses) -> None:
    addresses.allow_host(Host("a.example"), ("https",))
    addresses.allow_host(Host("b.example", 443), ("https",))
    for name in ("a.example", "b.example"):
        assert addresses.has_host(Host(name))
        assert addresses.has_host(Host(name, 443))
        assert not addresses.has_host(Host(name, 80))
        assert addresses.has_origin(f"https://{name}")
        assert not addresses.has_origin(f"http://{name}")


def test_an_extensions_origin_is_compared_letter_by_letter(
    addresses: Addresses,
) -> None:
    addresses.allow_origin("chrome-extension://abc")
    assert addresses.has_origin("chrome-extension://abc")
    assert not addresses.has_origin("chrome-extension://abcd")
    assert not addresses.has_origin("null")


def test_an_operators_unicode_name_is_what_browsers_send() -> None:
    host = configured_host("bücher.example", variable="X")
    assert host == parsed_host("xn--bcher-kva.example")


@pytest.mark.parametrize("text", ["", "http://a", "a b", "a:b", "ü" * 99])
def test_an_operators_mistake_names_the_variable(text: str) -> None:
    with pytest.raises(InvalidInputError, match="ALLOWED_HOSTS"):
        configured_host(text, variable="ALLOWED_HOSTS")


@pytest.mark.parametrize("text", ["a.example", "ftp://a", "https://a?b", "https://u@a"])
def test_a_public_url_has_a_scheme_and_a_host(text: str) -> None:
    with pytest.raises(InvalidInputError, match="PUBLIC_URL"):
        configured_url(text, variable="PUBLIC_URL")


def test_only_this_machines_own_addresses_are_loopback() -> None:
    for name in ("localhost", "127.0.0.1", "127.8.8.8", "::1"):
        assert is_loopback(name)
    for name in ("0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.evil"):  # noqa: S104
        assert not is_loopback(name)
    assert is_wildcard("0.0.0.0")  # noqa: S104
    assert is_wildcard("::")
    assert not is_wildcard("localhost")
