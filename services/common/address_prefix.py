"""What is taken for one client when its tries are counted."""

import ipaddress

_CHARACTERS_MAX = 64


def address_prefix(address: str) -> str:
    """Return an IPv4 address as it is, and of IPv6 the 64 bits that one customer is given; other text cut short.

    Whoever counted single IPv6 addresses would count nobody: one customer has 2**64 of them.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:_CHARACTERS_MAX]
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed) >> 64 << 64))
