"""The verdict: whether a request counts against its key's daily limit."""

from enum import StrEnum


class Verdict(StrEnum):
    """How a hold is closed, and what the request's ledger row says."""

    CHARGED = "charged"
    """The request counts."""
    RELEASED = "released"
    """The request does not count: its slot is free again."""
