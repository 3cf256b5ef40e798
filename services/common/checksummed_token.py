"""Random tokens that carry their own checksum, so that a mistyped or made-up one is recognised without a look-up.

A token is a prefix, random base62 characters, and the CRC-32 of all before as six base62 characters. The checksum keeps
typing errors and guesses away from the database; it is no secret and proves nothing.
"""

import secrets
import string
import zlib

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_CHECKSUM_CHARACTERS = 6  # 62**6 > 2**32
_BODY_CHARACTERS_MIN = 32
_CHARACTERS_MAX = 256


def mint(prefix: str, *, random_characters: int = 34) -> str:
    """Return a new token; 34 random characters hold 202 bits."""
    head = prefix + "".join(secrets.choice(_ALPHABET) for _ in range(random_characters))
    return head + _checksum(head)


def is_well_formed(token: str, prefix: str) -> bool:
    """Whether `token` could have come from `mint` with this prefix: by shape and checksum alone."""
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
