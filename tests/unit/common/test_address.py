"""Addresses: parsing, listening, and how this machine reaches a listener."""

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from services.common.errors import StartError
from services.common.runtime.address import Address, bind, is_local, parse_address, parse_host, reachable
from services.common.telemetry import metrics


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("[::]:50051", "::", 50051),
        ("[::1]:0", "::1", 0),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("localhost:65535", "localhost", 65535),
        ("auth-1.stack.svc:50051", "auth-1.stack.svc", 50051),
    ],
)
def test_an_address_survives_parsing_and_formatting(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("50051", "", ":", ":50051", "here", "::1:50051", "[::1]", "[here]:1", "127.0.0.1:65536", "http://h:1"),
        *("h:1/x", "256.0.0.1:1", "a b:1", "user@host:1", "127.0.0.1:-1", "127.0.0.1:\N{FULLWIDTH DIGIT ONE}"),
    ],
)
def test_an_invalid_address_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected") as raised:
        parse_address(text)
    assert len(text) < 3 or text not in str(raised.value)


@pytest.mark.parametrize(("text", "host"), [("[::]", "::"), ("::1", "::1"), ("0.0.0.0", "0.0.0.0"), ("box", "box")])
def test_a_host_may_be_in_brackets(text: str, host: str) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize("text", ["", "http://127.0.0.1", "127.0.0.1:80", "300.1.1.1", "a b", "::1::"])
def test_an_invalid_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected an IP address or a name"):
        parse_host(text)


@pytest.mark.parametrize(
    ("listen", "target", "local"),
    [
        ("0.0.0.0:1", "127.0.0.1:1", False),
        ("[::]:1", "127.0.0.1:1", False),
        ("[::1]:1", "[::1]:1", True),
        ("127.0.0.2:1", "127.0.0.2:1", True),
        ("localhost:1", "localhost:1", True),
        ("192.0.2.1:1", "192.0.2.1:1", False),
        ("localhost.example:1", "localhost.example:1", False),
        ("unix:/run/a.sock", "unix:/run/a.sock", True),
    ],
)
def test_a_server_is_reached_at_its_listening_address_and_only_loopback_is_local(
    listen: str, target: str, local: bool
) -> None:
    assert reachable(listen) == target
    assert is_local(listen) is local


@contextlib.contextmanager
def listening(host: str, port: int = 0) -> Iterator[int]:
    """Listen at an address and return its port."""
    sockets = bind(Address(host, port))
    try:
        ports = {one.getsockname()[1] for one in sockets}
        assert len(ports) == 1
        yield ports.pop()
    finally:
        for one in sockets:
            one.close()


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


@pytest.mark.parametrize(
    ("host", "ipv4", "ipv6"),
    [
        ("::", True, True),
        ("0.0.0.0", True, False),
        ("127.0.0.1", True, False),
        ("::1", False, True),
        ("localhost", True, True),
    ],
)
def test_a_server_answers_at_the_host_it_was_given(host: str, ipv4: bool, ipv6: bool) -> None:
    names = {place[4][0] for place in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    with listening(host) as port:
        assert _answers("127.0.0.1", port) is ipv4
        assert _answers("::1", port) is (ipv6 and (host != "localhost" or "::1" in names))


def test_a_wildcard_address_serves_metrics_too() -> None:
    with listening("127.0.0.1") as port:
        pass
    with metrics.served(f"[::]:{port}"):
        assert _answers("127.0.0.1", port)
        assert _answers("::1", port)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("192.0.2.1", "this machine does not have that address"),
        ("nowhere.invalid", "the host cannot be resolved"),
        ("a" * 64, "the host cannot be resolved"),
    ],
)
def test_an_address_that_cannot_be_bound_is_reported_with_the_systems_reason(host: str, why: str) -> None:
    started = time.monotonic()
    with pytest.raises(StartError, match=why):
        bind(Address(host, 8080))
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("taken", ["127.0.0.1", "::1", "::"])
def test_a_port_in_use_at_one_of_the_addresses_is_in_use(taken: str) -> None:
    with listening(taken) as port, pytest.raises(StartError, match="the port is in use"):
        bind(Address("::", port))


def test_a_port_is_shared_only_by_servers_that_ask_for_it() -> None:
    (first,) = bind(Address("127.0.0.1", 0), reuse_port=True)
    with first:
        address = Address("127.0.0.1", first.getsockname()[1])
        (second,) = bind(address, reuse_port=True)
        second.close()
        with pytest.raises(StartError, match="the port is in use"):
            bind(address)
