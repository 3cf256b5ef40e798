"""Notices: what the page after a form shows once, such as a confirmation or a new key.

A form answers with a redirect, so that a reload or the back button repeats nothing. The notice travels in a cookie that
is encrypted and signed with a key derived from the browser's token. Replicas therefore share no state, and a cookie
that somebody else has set is ignored.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping

import msgspec
from cryptography.fernet import Fernet, InvalidToken

SECONDS_MAX = 900
"""Time after which a notice is ignored. Its cookie usually expires sooner."""
_decode = msgspec.json.Decoder(dict[str, str]).decode


def seal_notice(values: Mapping[str, str], token: str, *, now: float) -> str:
    """Return the cookie of a notice for the browser with this session or visitor token."""
    return _cipher(token).encrypt_at_time(msgspec.json.encode(values), int(now)).decode()


def open_notice(text: str, *tokens: str, now: float) -> Mapping[str, str]:
    """Return the notice in a cookie, sealed with one of the tokens; empty if there is none or it has expired."""
    for token in filter(None, tokens):
        try:
            return _decode(_cipher(token).decrypt_at_time(text, SECONDS_MAX, int(now)))
        except InvalidToken:
            continue
    return {}


def _cipher(token: str) -> Fernet:
    key = hmac.new(token.encode(), b"stack console notice", hashlib.sha256).digest()
    return Fernet(base64.urlsafe_b64encode(key))
