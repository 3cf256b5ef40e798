"""Public ids: a prefix for the kind, an underscore and a ULID, such as `key_01KBC…`. Ids of a kind sort by time.

Check ids that come from clients with `is_id` before using them in a query: databases reject some texts.
"""

import re
from datetime import datetime
from enum import StrEnum

from ulid import ULID

_ULID = re.compile(r"[0-9A-Z]{26}")


class Kind(StrEnum):
    """The kind of object that an id identifies. The value is the id's prefix."""

    ACCOUNT = "acc"
    ALERT = "alr"
    AUDIT_EVENT = "aud"
    EMAIL = "eml"
    IDENTITY = "idn"
    KEY = "key"
    REQUEST = "req"
    SESSION = "ses"
    TOTP = "otp"
    WEBHOOK = "whk"


def new_id(kind: Kind) -> str:
    """Return a new unique id."""
    return f"{kind}_{ULID()}"


def first_id_prefix(kind: Kind, at: datetime) -> str:
    """Return the beginning of the ids that are created from a time on, to the millisecond; all earlier ids are less."""
    return f"{kind}_{str(ULID.from_datetime(at))[:10]}"


def is_id(text: str, kind: Kind) -> bool:
    """Return whether `text` has the form of an id of this kind."""
    prefix, separator, ulid = text.partition("_")
    return prefix == kind and bool(separator) and _ULID.fullmatch(ulid) is not None
