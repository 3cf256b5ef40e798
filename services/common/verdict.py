"""The verdict: whether a request counts against its key's daily limit."""

from enum import StrEnum


class Verdict(StrEnum):
    """How a hold is closed; equal to the verdict in the request's ledger row."""

    CHARGED = "charged"
    """The request counts."""
    RELEASED = "released"
    """The request does not count: its slot is free again."""
