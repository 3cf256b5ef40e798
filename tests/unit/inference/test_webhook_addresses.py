"""Which URLs and addresses webhooks may reach."""

import ipaddress
from collections.abc import Sequence

import httpx
import pytest

from services.common.errors import InvalidRequest
from services.inference.http.origin import Origin, origin_of
from services.inference.webhooks.addresses import AddressPolicy, Refused

_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))
_PRIVATE = [
    "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.2.1", "198.18.0.1",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::",
    "2001:0:7f00:1::", "100::1",
]  # fmt: skip
_PUBLIC = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"]


def _policy(*addresses: str, allowed: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()) -> AddressPolicy:
    async def lookup(host: str, port: int) -> Sequence[str]:
        return addresses

    return AddressPolicy(allowed, lookup=lookup)


def _origin(url: str) -> Origin:
    return origin_of(httpx.URL(url))


@pytest.mark.parametrize("address", _PRIVATE)
async def test_a_name_with_a_private_address_is_refused_alone_and_next_to_a_public_one(address: str) -> None:
    for addresses in ((address,), ("1.1.1.1", address), (address, "1.1.1.1")):
        with pytest.raises(Refused, match="not public"):
            await _policy(*addresses).resolve(_origin("https://example.com/"))


@pytest.mark.parametrize("address", _PRIVATE)
def test_a_private_address_in_a_url_is_refused_at_once(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    for url in (f"https://{host}/", f"https://{host}:8443/usage"):
        with pytest.raises(InvalidRequest):
            AddressPolicy().check_url(url)


@pytest.mark.parametrize("address", _PUBLIC)
async def test_public_addresses_are_permitted(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    AddressPolicy().check_url(f"https://{host}/")
    assert await _policy(address).resolve(_origin("https://example.com/")) == (address,)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/",
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "https://",
        "https:///path",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://:password@example.com/",
        "https://example.com/#part",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://example.com\\@127.0.0.1/",
        "https://example.com/a b",
        "https://example.com/\r\nhost: other",
        "https://ex\u00e4mple.com/",
        "https://127.1/",
        "https://2130706433/",
        "https://1.1.1/",
        "https://[::1/",
        "https://example.com/" + "x" * 2_000,
        "https://exa\0mple.com/",
        "https://xn--/",
        "https://example.com:0/",
    ],
)
def test_anything_but_an_https_url_without_credentials_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="Invalid `url`") as raised:
        AddressPolicy().check_url(url)
    assert raised.value.details.param == "url"
    assert "password" not in raised.value.message or "user name, password" in raised.value.message


@pytest.mark.parametrize(
    "url", ["https://example.com", "https://example.com:8443/a?b=c", "https://xn--exmple-cua.com/"]
)
def test_https_urls_are_accepted(url: str) -> None:
    AddressPolicy().check_url(url)


async def test_exceptions_are_permitted_also_without_tls_and_nothing_else_is() -> None:
    for url, address in (("http://127.0.0.1:80/", "127.0.0.1"), ("https://[::1]/", "::1")):
        policy = _policy(address, allowed=_LOOPBACK)
        policy.check_url(url)
        assert await policy.resolve(_origin(url)) == (address,)
    for url, address in (("http://name/", "1.1.1.1"), ("https://name/", "10.0.0.1"), ("http://name/", "10.0.0.1")):
        with pytest.raises(Refused):
            await _policy(address, allowed=_LOOPBACK).resolve(_origin(url))
    with pytest.raises(InvalidRequest):
        AddressPolicy(_LOOPBACK).check_url("http://1.1.1.1/")


async def test_a_name_without_an_address_is_refused() -> None:
    with pytest.raises(Refused):
        await _policy().resolve(_origin("https://example.com/"))
    with pytest.raises(Refused, match="cannot be resolved"):
        await AddressPolicy().resolve(_origin("https://name.invalid/"))


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f.1", "0177.0.0.1"])
async def test_other_ways_to_write_a_loopback_address_are_refused_by_the_real_resolver(host: str) -> None:
    with pytest.raises(Refused):
        await AddressPolicy().resolve(Origin(host, 443, is_tls=True))
