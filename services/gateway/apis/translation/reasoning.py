"""Reasoning text in an opaque string, which clients return with the next request.

Responses calls it `encrypted_content`, Messages calls it `signature`. It is compressed, not encrypted: the client has
seen the text, and no answer depends on where it came from.
"""

import binascii
import zlib
from base64 import b64decode, b64encode

_PREFIX = "stkReas1"
"""Marks values of this service. Its length is a multiple of 4, so that the whole value has the form of base64."""
_RATIO_MAX = 1_032
"""Maximum ratio by which zlib expands data."""
REASONING_BYTES_MAX = 4 * 1024 * 1024


def encode_reasoning(text: str) -> str:
    """Return `text` as an opaque string of ASCII characters, never empty."""
    return _PREFIX + b64encode(zlib.compress(text.encode("utf-8", "surrogatepass"))).decode()


class ReasoningDecoder:
    """Decodes the opaque strings of one request, up to a total size, since a small string can expand 1,000 times."""

    def __init__(self, bytes_max: int = REASONING_BYTES_MAX) -> None:
        self._bytes_left = bytes_max

    def decode(self, value: object) -> str | None:
        """Return the text, or None if the value is foreign or damaged, or exceeds the total size."""
        if not isinstance(value, str) or not value.startswith(_PREFIX) or self._bytes_left <= 0:
            return None
        try:
            data = b64decode(value[len(_PREFIX) :], validate=True)
        except (binascii.Error, ValueError):
            return None
        return self._decompress(data)

    def _decompress(self, data: bytes) -> str | None:
        stream = zlib.decompressobj()
        try:
            text = stream.decompress(data, self._bytes_left)
        except zlib.error:
            # How much was decompressed before the error is not known.
            self._bytes_left -= _RATIO_MAX * len(data)
            return None
        self._bytes_left -= len(text)
        if not stream.eof:
            return None
        try:
            return text.decode()
        except UnicodeDecodeError:
            return None
