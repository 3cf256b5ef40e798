"""Network prefixes that identify a client for rate limiting."""

import ipaddress
from functools import lru_cache

_CHARACTERS_MAX = 64


@lru_cache(maxsize=4096)
def address_prefix(address: str) -> str:
    """Return an IPv4 address unchanged, the /64 network of an IPv6 address, or other text truncated to 64 characters.

    A provider usually assigns a /64 to each customer, who can then use any of its 2**64 addresses.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:_CHARACTERS_MAX]
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed) >> 64 << 64))
