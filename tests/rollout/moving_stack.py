"""A stack whose services are found by name, and whose replicas get a new address at each start, as pods do."""

import itertools
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.e2e.stack import Stack
from tests.ports import free_port

SERVICES = ("auth", "quota", "inference")


class Names:
    """A DNS server for the services' names, on a separate thread.

    Attributes:
        addresses: The IPv4 addresses of each name.
    """

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {service: [] for service in SERVICES}
        self.port = free_port()
        """The port that every replica listens on: a `dns:` target contains only one."""
        self._server = socketserver.ThreadingUDPServer(("127.0.0.1", 0), self._handler())

    def target(self, service: str) -> str:
        """Return the gRPC target of a service: its name, and this server as the one to ask."""
        host, port = self._server.server_address[:2]
        return f"dns://{host!s}:{port}/{service}:{self.port + SERVICES.index(service)}"

    def response(self, query: bytes) -> bytes:
        """Return the addresses for a query of an A record, and no record for other types."""
        end = query.index(0, 12) + 5
        question, name = query[12:end], query[13 : 13 + query[12]].decode()
        addresses = list(self.addresses.get(name, ())) if question.endswith(b"\0\1\0\1") else []
        records = [b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address) for address in addresses]
        return query[:2] + b"\x84\0" + bytes([0, 1, 0, len(records), 0, 0, 0, 0]) + question + b"".join(records)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Answer for the block."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _handler(self) -> type[socketserver.BaseRequestHandler]:
        names = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, sock = self.request
                sock.sendto(names.response(data), self.client_address)

        return Handler


class MovingStack(Stack):
    """Two replicas of each service; those of auth, quota and inference move to another address at each start.

    A replica's name resolves to its address from when it is ready until it is stopped.
    """

    def __init__(self, folder: Path, names: Names, *, environment: Mapping[str, str]) -> None:
        self._names = names
        self._addresses: dict[str, str] = {}
        self._numbers = itertools.count(1)
        targets = {f"{service.upper()}_TARGET": names.target(service) for service in SERVICES}
        super().__init__(folder, gateways=2, auths=2, quotas=2, inferences=2, environment={**environment, **targets})
        listens: dict[str, Any] = {f"{service}_listen": names.target(service) for service in SERVICES}
        self.settings = replace(self.settings, **listens)

    def socket(self, name: str) -> str:
        """Return where a replica listens now."""
        service = name.partition("-")[0]
        return f"{self._addresses.get(name, '127.0.0.1')}:{self._names.port + SERVICES.index(service)}"

    def start(self, name: str, **environment: str) -> None:
        """Start one program; a replica at an address that was never used before."""
        service = name.partition("-")[0]
        if service in SERVICES:
            self._addresses[name] = f"127.0.1.{next(self._numbers)}"
            environment |= {f"{service.upper()}_LISTEN": self.socket(name)}
        super().start(name, **environment)

    def stop(self, name: str, *, within_seconds: float = 6) -> int:
        """End one program in order; its name stops resolving to it first."""
        service = name.partition("-")[0]
        if service in SERVICES:
            self._names.addresses[service].remove(self._addresses[name])
        return super().stop(name, within_seconds=within_seconds)

    async def until_ready(self, *names: str) -> None:
        """Return when these programs answer, and can be found."""
        for name in names:  # Services first: a gateway is ready when it has reached all of them.
            await super().until_ready(name)
            service = name.partition("-")[0]
            if service in SERVICES and self._addresses[name] not in self._names.addresses[service]:
                self._names.addresses[service].append(self._addresses[name])
