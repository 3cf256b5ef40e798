"""Sends events to URLs of users, over connections to checked addresses only."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from functools import cached_property

import aiohappyeyeballs
import httpx

from services.inference.http.connection import Connection
from services.inference.http.errors import HTTPClientError
from services.inference.http.origin import Origin, origin_of
from services.inference.webhooks.addresses import AddressPolicy, Refused
from services.inference.webhooks.events import Event, NotDelivered

_SECONDS_MAX = 10.0
_NEXT_ADDRESS_SECONDS = 0.25


class Sender:
    """Sends events to URLs that users chose.

    Redirects are not followed, and no proxy is used, which would resolve the name again.
    """

    def __init__(self, policy: AddressPolicy, *, seconds_max: float = _SECONDS_MAX) -> None:
        """Send to addresses that `policy` permits; an attempt takes `seconds_max` at most."""
        self._policy = policy
        self._seconds_max = seconds_max

    async def send(self, url: str, event: Event, secret: bytes) -> None:
        """Send an event and wait for the status. The body of the answer is not read.

        Raises:
            NotDelivered: The receiver cannot be reached, may not be, or does not answer 2xx in time.
        """
        try:
            async with asyncio.timeout(self._seconds_max):
                status = await self._post(httpx.URL(url), event, secret)
        except Refused as exc:
            raise NotDelivered(str(exc)) from exc
        except TimeoutError as exc:
            raise NotDelivered("The receiver did not answer in time.") from exc
        except ssl.SSLCertVerificationError as exc:
            raise NotDelivered("The receiver's certificate is not valid for its name.") from exc
        except (HTTPClientError, httpx.InvalidURL, OSError, UnicodeError) as exc:
            raise NotDelivered(f"The receiver cannot be reached: {type(exc).__name__}.") from exc
        if not 200 <= status < 300:
            raise NotDelivered(f"The receiver answered with status {status}.", is_gone=status == 410)

    async def _post(self, url: httpx.URL, event: Event, secret: bytes) -> int:
        origin = origin_of(url)
        connection = await self._connect(origin, await self._policy.resolve(origin))
        try:
            await connection.send(_head(url, event, secret), event.body)
            return connection.status
        finally:
            connection.close()

    async def _connect(self, origin: Origin, addresses: Sequence[str]) -> Connection:
        sock = await aiohappyeyeballs.start_connection(
            [_address_info(address, origin.port) for address in addresses],
            happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS,
        )
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(lambda _: None),
                sock=sock,
                ssl=self._tls if origin.is_tls else None,
                server_hostname=origin.server_hostname if origin.is_tls else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()


def _address_info(address: str, port: int) -> aiohappyeyeballs.AddrInfoType:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)


def _head(url: httpx.URL, event: Event, secret: bytes) -> bytes:
    lines = [
        b"POST " + url.raw_path + b" HTTP/1.1",
        b"host: " + url.netloc,
        *(f"{name}: {value}".encode() for name, value in event.headers(secret).items()),
        f"content-length: {len(event.body)}".encode(),
        b"connection: close",
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"
