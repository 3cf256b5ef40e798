"""Connections are limited, in total and per address; one beyond the limit is refused with a reason and harms no
other.
"""

import ipaddress
import resource
import subprocess
import sys

import pytest

from services.gateway.http_server.connections import Connections
from services.gateway.http_server.limits import Limits
from tests.integration.gateway_http.server import Client, Running, get, serving, until


def _fill(server: Running, count: int) -> list[Client]:
    clients = [server.connect() for _ in range(count)]
    until(lambda: server.open_connections == count)
    return clients


@pytest.mark.parametrize(
    ("limits", "status"),
    [(Limits(connections_max=3), 503), (Limits(connections_per_address_max=3), 429)],
    ids=["in all", "of one address"],
)
def test_one_connection_too_many_is_refused_with_a_reason_and_the_others_continue(limits: Limits, status: int) -> None:
    with serving(limits) as server:
        clients = _fill(server, 3)
        clients[0].send(get("/wait"))
        with server.connect() as refused:
            refused.send(get("/a"))
            response = refused.read()
            assert (response.status, response.json["error"]["code"]) == (status, "too_many_connections")
            assert response.headers["retry-after"] == "1"
            assert refused.is_closed()
        server.app.gate.set()
        assert clients[0].read().body == b"waited"
        clients.pop().leave()
        until(lambda: server.open_connections == 2)
        with server.connect() as client:
            client.send(get("/a"))
            assert client.read().status == 200
        for one in clients:
            one.leave()


def test_a_trusted_proxy_is_not_limited_by_its_address() -> None:
    with serving(Limits(connections_per_address_max=3, trusted_proxies=["127.0.0.0/8"])) as server:
        for client in _fill(server, 10):
            client.send(get("/a"))
            assert client.read().status == 200
            client.leave()


def test_refused_connections_do_not_accumulate() -> None:
    with serving(Limits(connections_max=1)) as server:
        kept = _fill(server, 1)
        refused = [server.connect() for _ in range(400)]
        until(lambda: server.open_connections <= 1 + 256)
        assert sum(one.is_closed() for one in refused[300:]) == 100
        for one in (*kept, *refused):
            one.leave()


class _Connection:
    deadline = float("inf")

    def on_deadline(self) -> None:
        raise AssertionError


async def test_one_ipv6_prefix_counts_as_one_address() -> None:
    connections = Connections(Limits(connections_per_address_max=2))
    network = ipaddress.ip_network("2001:db8:1:2::/64")
    opened = [(_Connection(), str(network[number])) for number in range(3)]
    assert [connections.admit(*one) is None for one in opened] == [True, True, False]
    other = (_Connection(), "2001:db8:1:3::1")
    assert connections.admit(*other) is None
    for connection, address in (*opened, other):
        connections.release(connection, address, was_refused=False)
    assert connections.admit(*opened[0]) is None
    connections.release(*opened[0], was_refused=False)


def test_the_limit_of_open_files_is_raised_to_the_number_of_connections() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    program = (
        "import resource; from services.gateway.http_server.listener import allow_connections;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}));"
        "allow_connections(2000); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) == 3000
