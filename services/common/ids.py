"""Public ids: a word for the kind, an underscore and a ULID, such as `key_01KBC…`; ids of a kind sort by time.

The one place where they are made and recognised. An id of another kind is none, and neither is any other text: a
database does not take every text, and an id from an address or a form is whatever somebody typed.
"""

import re
from enum import StrEnum

from ulid import ULID

_ULID = re.compile(r"[0-9A-Z]{26}")


class Kind(StrEnum):
    """What an id names, by the word that it begins with."""

    ACCOUNT = "acc"
    AUDIT_EVENT = "aud"
    EMAIL = "eml"
    KEY = "key"
    REQUEST = "req"
    SESSION = "ses"


def new_id(kind: Kind) -> str:
    """Return an id that was never used."""
    return f"{kind}_{ULID()}"


def is_id(text: str, kind: Kind) -> bool:
    """Whether a text can be an id of this kind."""
    word, separator, rest = text.partition("_")
    return word == kind and bool(separator) and _ULID.fullmatch(rest) is not None
