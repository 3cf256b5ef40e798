"""All evidence of a seed's run."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from stack.quota.v1 import quota_pb2
from tests.e2e.stack import Key
from tests.faults.clients import Result
from tests.faults.kinds import Kind
from tests.faults.schedule import Plan
from tests.faults.valkey import Entries, KeyDay
from tests.faults.world import Row

_DAY_SECONDS = 86_400


@dataclass(slots=True)
class Evidence:
    """All evidence of a seed's run."""

    plan: Plan
    keys: list[Key] = field(default_factory=list)
    started_at: float = field(default_factory=time.time)
    results: list[Result] = field(default_factory=list)
    probes: list[tuple[Result, int, int]] = field(default_factory=list)
    """A request on a settled key: its client's record, the key's limit, and the day's charged rows before it."""
    journal: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The stand-in's entries by x_groq id."""
    lost: dict[KeyDay, int] = field(default_factory=dict)
    """The most holds and charges that Redis lost."""
    redis_lost: bool = False
    rows: list[Row] = field(default_factory=list)
    entries: dict[KeyDay, Entries] = field(default_factory=dict)
    peaks: dict[KeyDay, int] = field(default_factory=dict)
    """The highest observed sum of charged and held slots."""
    token_peaks: dict[KeyDay, int] = field(default_factory=dict)
    """The highest observed sum of charged and held tokens."""
    discrepancies: list[quota_pb2.Discrepancy] = field(default_factory=list)
    stalled_seconds: float = 0.0
    """The longest stall of the machine."""
    problems: list[str] = field(default_factory=list)
    """Errors during the run."""

    @property
    def tag(self) -> str:
        """The prefix of each message of this run."""
        return f"faults-{self.plan.seed}-{self.keys[0].id}"

    def limit(self, key_id: str) -> int:
        """Return a key's limit."""
        return next(limit for key, limit in zip(self.keys, self.plan.limits, strict=True) if key.id == key_id)

    def token_limit(self, key_id: str) -> int:
        """Return a key's limit in tokens per day."""
        limits = zip(self.keys, self.plan.token_limits, strict=True)
        return next(limit for key, limit in limits if key.id == key_id)

    # Which exchange with the upstream, row and request belong together.

    def number_of(self, entry: Mapping[str, Any]) -> int:
        """Return the number of the request that an exchange belongs to."""
        return int(str(entry["last_user_message"]).split(" ")[0].removeprefix(f"{self.tag}-"))

    def kind_of(self, number: int) -> Kind:
        """Return the kind of a request."""
        return next(result.request.kind for result in self.results if result.request.number == number)

    def request_id_of(self, number: int) -> str:
        """Return the id that a request's client received; empty when it received none."""
        return next(result.request_id for result in self.results if result.request.number == number)

    @property
    def exchanges(self) -> dict[int, list[dict[str, Any]]]:
        """The exchanges by the request's number."""
        found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for entry in self.journal.values():
            found[self.number_of(entry)].append(entry)
        return dict(found)

    def exchanges_of(self, row: Row) -> list[dict[str, Any]]:
        """Return a row's exchange: by the upstream's id, or else those of the request with the client's id."""
        if row.upstream_id in self.journal:
            return [self.journal[row.upstream_id]]
        requests = [result.request for result in self.results if result.request_id == row.request_id]
        return self.exchanges.get(requests[0].number, []) if requests else []

    def row_of(self, entry: Mapping[str, Any]) -> Row | None:
        """Return the row of an exchange: by the upstream's id, or else by the id that its client received."""
        reported = self.request_id_of(self.number_of(entry))
        by_exchange = (row for row in self.rows if row.upstream_id == entry["x_groq_id"])
        by_request = (row for row in self.rows if reported and row.request_id == reported)
        return next(by_exchange, None) or next(by_request, None)


def charged_rows(rows: Sequence[Row], key_id: str, day: int) -> int:
    """Count the charged rows of a key's day."""
    return sum(row.charged for row in rows if row.key_id == key_id and day_number(row.day) == day)


def charged_tokens(rows: Sequence[Row], key_id: str, day: int) -> int:
    """Sum the tokens of the charged rows of a key's day, as they count against limits."""
    own = (row for row in rows if row.charged and row.key_id == key_id and day_number(row.day) == day)
    return sum(row.total_tokens if row.charged_tokens is None else row.charged_tokens for row in own)


def day_number(text: str) -> int:
    """Return the day of a date."""
    return (date.fromisoformat(text) - date(1970, 1, 1)).days


def days() -> tuple[int, int]:
    """Return yesterday and today."""
    today = day_at(time.time())
    return today - 1, today


def day_at(seconds: float) -> int:
    """Return the day of a time."""
    return int(seconds // _DAY_SECONDS)
