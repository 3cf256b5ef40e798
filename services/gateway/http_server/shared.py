"""State shared by the connections of one server, and the addresses of a connection."""

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from services.gateway.http_server.connections import Connections
from services.gateway.http_server.limits import Limits
from services.gateway.http_server.rejections import Rejections


@dataclass(frozen=True, slots=True)
class Shared:
    """State shared by all connections of one server."""

    limits: Limits
    connections: Connections
    rejections: Rejections


class SocketAddresses:
    """The client's and server's addresses of a connection.

    Attributes:
        host: The client's address; empty for a socket without host and port.
    """

    __slots__ = ("_client", "_server", "host")

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._client = _host_and_port(transport.get_extra_info("peername"))
        self._server = _host_and_port(transport.get_extra_info("sockname"))
        self.host = self._client[0] if self._client else ""

    def scope(self, app_state: dict[str, Any]) -> Scope:
        """Return a new ASGI scope with the values common to all requests of this connection."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "root_path": "",
            "state": app_state.copy(),
        }


def _host_and_port(info: Any) -> tuple[str, int] | None:
    return (str(info[0]), int(info[1])) if isinstance(info, list | tuple) and len(info) >= 2 else None
