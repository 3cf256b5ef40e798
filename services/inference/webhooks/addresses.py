"""The addresses to which webhooks may be sent: public ones, and the exceptions that the operator allows.

URLs come from users. A URL must not reach the operator's own network, whatever its name resolves to, so the name is
resolved once, and the connection is made to the addresses that were checked.
"""

import ipaddress
from collections.abc import Awaitable, Callable, Sequence

import httpx

from services.common.errors import ErrorDetails, InvalidRequest
from services.inference.http.origin import Origin
from services.inference.webhooks.lookups import Lookups

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_URL_CHARACTERS_MAX = 2_000
_PORT_MAX = 65_535
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""NAT64: IPv6 addresses that stand for IPv4 addresses."""


class Refused(Exception):
    """A URL leads to an address to which webhooks may not be sent, or to none."""


class AddressPolicy:
    """Decides which addresses webhooks may reach."""

    def __init__(self, allowed: Sequence[Network] = (), *, lookup: Lookup | None = None) -> None:
        """Permit public addresses, and those of the networks `allowed`, also without TLS.

        Args:
            allowed: The exceptions.
            lookup: Returns the addresses of a host and port; None asks the operating system.
        """
        self._allowed = allowed
        self._lookup = lookup or Lookups().addresses

    def check_url(self, url: str) -> None:
        """Validate a URL before it is stored.

        Raises:
            InvalidRequest: It is not an `https://` URL, or contains a user name or an address that is not permitted.
        """
        if len(url) > _URL_CHARACTERS_MAX or not (url.isascii() and url.isprintable()) or " " in url or "\\" in url:
            raise _invalid(f"expected at most {_URL_CHARACTERS_MAX:,} characters of ASCII, without spaces")
        try:
            parsed = httpx.URL(url)
            host = parsed.host  # Decodes international names.
        except (httpx.InvalidURL, ValueError) as exc:
            raise _invalid("it is not a URL") from exc
        schemes = ("http", "https") if self._allowed else ("https",)
        is_port = parsed.port is None or 1 <= parsed.port <= _PORT_MAX
        if not host or parsed.scheme not in schemes or not is_port:
            raise _invalid("expected a URL like https://example.com/usage")
        if parsed.userinfo or parsed.fragment:
            raise _invalid("it must have no user name, password or fragment")
        literal = _literal(host)
        is_permitted = literal is None or self._permits(literal, is_encrypted=parsed.scheme == "https")
        if not is_permitted or (literal is None and _is_number(host)):
            raise _invalid("the address is not public")

    async def resolve(self, origin: Origin) -> Sequence[str]:
        """Return the addresses of a host, all of which are permitted.

        Raises:
            Refused: The host has no address, or one that is not permitted.
        """
        try:
            addresses = await self._lookup(origin.host, origin.port)
        except (OSError, UnicodeError) as exc:
            raise Refused("The host's name cannot be resolved.") from exc
        if not addresses or not all(self._permits(_literal(one), is_encrypted=origin.is_tls) for one in addresses):
            raise Refused("The host's address is not public.")
        return addresses

    def _permits(self, address: _Address | None, *, is_encrypted: bool) -> bool:
        if address is None:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        if any(address.version == network.version and address in network for network in self._allowed):
            return True
        return is_encrypted and _is_public(address)


def _is_public(address: _Address) -> bool:
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return True
    # Addresses that stand for others, which may be private.
    stands_for_another = address.sixtofour or address.teredo or address in _TRANSLATED or address.scope_id
    return not (address.is_site_local or stands_for_another)


def _literal(host: str) -> _Address | None:
    """Return the address that a host is; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_number(host: str) -> bool:
    """Return whether a host is a number, such as `127.1`, which HTTP clients do not resolve but connect to."""
    return host.replace(".", "").isdigit()


def _invalid(problem: str) -> InvalidRequest:
    details = ErrorDetails(param="url", code="invalid_webhook_url")
    return InvalidRequest(f"Invalid `url`: {problem}.", details=details)
