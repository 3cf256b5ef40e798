"""Compares a key's charges with what the Groq stand-in served, and saves all records when they differ.

The number of requests sent is no measure: on a slow machine a request may reach its time-out, be answered with 504 and
cost nothing.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.e2e.stack import Key, Stack

_SHOWN = 5
"""How many problems a failure shows; the file has all records."""
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass(frozen=True, repr=False)
class Account:
    """All records of one key.

    Attributes:
        statuses: How many clients received each status.
        charged: What Redis has charged.
        held: What Redis still holds.
        rows: The key's rows in the ledger.
        exchanges: The stand-in's journal of the key's requests.
    """

    statuses: Mapping[Any, int]
    charged: int
    held: int
    rows: list[dict[str, Any]]
    exchanges: list[dict[str, Any]]

    @property
    def served(self) -> dict[str, dict[str, Any]]:
        """The exchanges that the stand-in answered to their end, by id."""
        return {one["x_groq_id"]: one for one in self.exchanges if one["status"] == 200 and one["completed"]}

    def assert_exact(self) -> None:
        """Check that Redis, the ledger and the stand-in agree on every request and token."""
        self._assert_none([*self._wrong_charges(), *self._missing_charges()])

    def assert_charges(self) -> None:
        """Check that every charge is for an answer of Groq, where inference was killed and may have lost what it had
        read.
        """
        self._assert_none([*self._wrong_charges()])

    def keep(self) -> Path:
        """Write all records to a file and return its path."""
        with tempfile.NamedTemporaryFile("w", prefix="accounting-", suffix=".json", delete=False) as file:
            json.dump(asdict(self), file, default=str, indent=1)
        return Path(file.name)

    def __repr__(self) -> str:
        members = ("outcome", "charged", "usage_source", "refund_reason")
        ends = Counter(tuple(row[name] for name in members) for row in self.rows)
        return (
            f"statuses {dict(self.statuses)}; {self.charged} charged and {self.held} held in Redis; "
            f"{len(self.served)} of {len(self.exchanges)} exchanges completed; rows {dict(ends)}"
        )

    def _assert_none(self, problems: list[str]) -> None:
        if problems:
            shown = "; ".join(problems[:_SHOWN])
            raise AssertionError(f"{len(problems)} problems: {shown}\n{self}\nall records: {self.keep()}")

    def _wrong_charges(self) -> Iterator[str]:
        rows = [row for row in self.rows if row["charged"]]
        if (self.charged, self.held) != (len(rows), 0):
            yield f"Redis has {self.charged} charged and {self.held} held, the ledger {len(rows)} charged rows"
        if len({row["upstream_id"] for row in rows}) != len(rows):
            yield "two charges for one exchange"
        exchanges = {one["x_groq_id"]: one for one in self.exchanges}
        for row in rows:
            yield from _wrong(row, exchanges.get(row["upstream_id"]))

    def _missing_charges(self) -> Iterator[str]:
        charged = {row["upstream_id"] for row in self.rows if row["charged"]}
        free = [name for name in self.served if name not in charged]
        # A request that reached its time-out before its answer arrived is not charged, and names no exchange.
        if len(free) > sum(row["outcome"] == "timed_out" and not row["charged"] for row in self.rows):
            yield f"{len(free)} answers were not charged: {free[:_SHOWN]}"


async def account_of(stack: Stack, key: Key, statuses: Mapping[Any, int]) -> Account:
    """Return the records of a key once nothing is held; each of its requests must name the key's id in its message."""
    charged, held = await stack.until_settled(key)
    exchanges = [one for one in await stack.journal() if key.id in (one["last_user_message"] or "")]
    return Account(dict(statuses), charged, held, stack.ledger(key), exchanges)


def _wrong(row: Mapping[str, Any], exchange: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the faults of a charged row, given its exchange."""
    if exchange is None or exchange["status"] != 200:
        yield f"charged without an answer of Groq: {dict(row)}"
    elif row["usage_source"] == "reported":
        if _counts(row) != _counts(exchange["usage"]) or bool(row["stream"]) != exchange["stream"]:
            yield f"Groq counted {exchange['usage']}: {dict(row)}"
    elif exchange["completed"] and row["outcome"] != "timed_out":
        yield f"Groq reported {exchange['usage']}, and the row has an estimate: {dict(row)}"


def _counts(counts: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(counts[name] for name in _COUNTS)
