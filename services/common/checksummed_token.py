"""Random tokens with a checksum, so that most invalid tokens are rejected without a database lookup.

A token is a prefix, random base62 characters, and the CRC-32 of both as six base62 characters. The checksum catches
typing errors and naive guesses. It is not a security measure: anyone can compute it.
"""

import secrets
import string
import zlib

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_CHECKSUM_CHARACTERS = 6  # 62**6 > 2**32
_BODY_CHARACTERS_MIN = 32
_CHARACTERS_MAX = 256


def mint(prefix: str, *, random_characters: int = 34) -> str:
    """Return a new token. 34 random characters carry 202 bits of entropy."""
    head = prefix + "".join(secrets.choice(_ALPHABET) for _ in range(random_characters))
    return head + _checksum(head)


def is_well_formed(token: str, prefix: str) -> bool:
    """Return whether the shape and checksum of `token` are those that `mint` produces with this prefix."""
    body = token[len(prefix) :]
    if not token.startswith(prefix) or not _BODY_CHARACTERS_MIN <= len(body) <= _CHARACTERS_MAX:
        return False
    if not (body.isascii() and body.isalnum()):
        return False
    return token[-_CHECKSUM_CHARACTERS:] == _checksum(token[:-_CHECKSUM_CHARACTERS])


def _checksum(head: str) -> str:
    number = zlib.crc32(head.encode("ascii"))
    characters = []
    for _ in range(_CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(_ALPHABET))
        characters.append(_ALPHABET[digit])
    return "".join(reversed(characters))
