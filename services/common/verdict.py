"""The verdict: whether a request counts against its key's daily limit."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a hold is closed; equal to the verdict in the request's ledger row."""

    CHARGED = "charged"
    """The request counts."""
    RELEASED = "released"
    """The request does not count: its slot is free again."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a charged request has used, as its ledger row says."""

    tokens: int
    """Tokens of the prompt and the answer."""
    cost: int
    """Microdollars."""


NOTHING_USED = Amounts(0, 0)


@dataclass(frozen=True, slots=True)
class RowVerdict:
    """The verdict of a ledger row, and what the request has used."""

    verdict: Verdict
    amounts: Amounts = NOTHING_USED


CHARGED = RowVerdict(Verdict.CHARGED)
"""The verdict on a charged request of which neither tokens nor cost are limited."""
RELEASED = RowVerdict(Verdict.RELEASED)
"""The verdict on a request that is not charged."""
