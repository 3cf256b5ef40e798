"""A journal of chat requests and answers, with which tests compare the ledger."""

import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from tools.groq_standin.usage import Usage

_QUOTE_CHARACTERS = 200


@dataclass(slots=True)
class Entry:
    """The record of one chat request, filled in while it is served."""

    sequence: int
    """Position in order of arrival, from 1. `DELETE /journal` does not reset it."""
    x_groq_id: str
    received_at: float
    completion_id: str | None = None
    model: str | None = None
    is_stream: bool = False
    mode: str | None = None
    status: int | None = None
    """None if no headers were sent."""
    usage: Usage | None = None
    """Tokens generated so far; None for a refusal."""
    usage_sent: dict[str, object] | None = None
    """The `usage` object that was sent; None if there was none."""
    finish_reason: str | None = None
    """The finish reason that was sent; None if the answer was incomplete."""
    events_sent: int = 0
    is_completed: bool = False
    is_aborted: bool = False
    ended_at: float | None = None
    last_user_message: str | None = None
    """Truncated to 200 characters when the request body is dropped."""
    request: object = None
    key_tail: str = ""

    def as_wire(self) -> dict[str, object]:
        """Return the element of `GET /journal`."""
        return {
            "sequence": self.sequence,
            "x_groq_id": self.x_groq_id,
            "completion_id": self.completion_id,
            "model": self.model,
            "stream": self.is_stream,
            "mode": self.mode,
            "status": self.status,
            "usage": self.usage.as_wire() if self.usage else None,
            "usage_sent": self.usage_sent,
            "finish_reason": self.finish_reason,
            "events_sent": self.events_sent,
            "completed": self.is_completed,
            "aborted": self.is_aborted,
            "received_at": self.received_at,
            "ended_at": self.ended_at,
            "last_user_message": self.last_user_message,
            "request": self.request,
            "key_tail": self.key_tail,
        }


@dataclass(slots=True)
class _Totals:
    """Sums since the last `clear`, including evicted entries."""

    counts: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    by: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in ("status", "mode", "model", "finish_reason")}
    )


class Journal:
    """A bounded list of entries, and sums that include evicted entries."""

    def __init__(self, size: int = 200_000, bodies: int = 1_000) -> None:
        """Keep at most `size` entries, and the request bodies of the last `bodies` of them."""
        self._size = size
        self._bodies = bodies
        self._sequence = 0
        self._in_flight: set[int] = set()
        self.clear()

    def open(self, x_groq_id: str) -> Entry:
        """Add an entry for a new request."""
        self._sequence += 1
        entry = Entry(self._sequence, x_groq_id, time.time())
        self._entries.append(entry)
        self._with_body.append(entry)
        if len(self._with_body) > self._bodies:
            oldest = self._with_body.popleft()
            oldest.request = None
            oldest.last_user_message = (oldest.last_user_message or "")[:_QUOTE_CHARACTERS] or None
        self._in_flight.add(entry.sequence)
        self._totals.counts["requests"] += 1
        return entry

    def keep_request(self, entry: Entry, request: object) -> None:
        """Store the body, unless the entry is already too old to keep it."""
        if self._with_body and entry.sequence >= self._with_body[0].sequence:
            entry.request = request

    def close(self, entry: Entry, *, is_completed: bool = False, is_aborted: bool = False) -> None:
        """Record the end of a request, once. Entries from before `clear` are not added to the sums."""
        if entry.sequence not in self._in_flight:
            return
        self._in_flight.discard(entry.sequence)
        entry.ended_at = time.time()
        entry.is_completed, entry.is_aborted = is_completed, is_aborted
        if entry.sequence >= self._first:
            self._add(entry)

    def clear(self) -> None:
        """Remove all entries and reset the sums. Requests in flight continue without an entry."""
        self._entries: deque[Entry] = deque(maxlen=self._size)
        self._with_body: deque[Entry] = deque()
        self._totals = _Totals()
        self._first = self._sequence + 1

    def entries(self, after: int = 0) -> Iterator[dict[str, object]]:
        """Yield the entries with a sequence greater than `after`, in order of arrival."""
        return (entry.as_wire() for entry in self._entries if entry.sequence > after)

    @property
    def in_flight(self) -> int:
        """Number of requests in flight."""
        return len(self._in_flight)

    def summary(self) -> dict[str, object]:
        """Return counts and sums since the last `clear`."""
        counted = ("requests", "streams", "completed", "aborted", "events_sent", "with_usage")
        summed = ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens", "total_tokens")
        return {
            **{name: self._totals.counts[name] for name in counted},
            "listed": len(self._entries),
            "in_flight": self.in_flight,
            **{f"by_{name}": dict(counter) for name, counter in self._totals.by.items()},
            "usage": {name: self._totals.tokens[name] for name in summed},
        }

    def _add(self, entry: Entry) -> None:
        counts, by = self._totals.counts, self._totals.by
        counts["streams"] += entry.is_stream
        counts["completed"] += entry.is_completed
        counts["aborted"] += entry.is_aborted
        counts["events_sent"] += entry.events_sent
        for name, value in (("status", entry.status), ("mode", entry.mode), ("model", entry.model)):
            by[name][str(value)] += 1
        by["finish_reason"][str(entry.finish_reason)] += 1
        if entry.usage:
            counts["with_usage"] += 1
            self._add_tokens(entry.usage)

    def _add_tokens(self, usage: Usage) -> None:
        tokens = self._totals.tokens
        tokens["prompt_tokens"] += usage.prompt_tokens
        tokens["completion_tokens"] += usage.completion_tokens
        tokens["reasoning_tokens"] += usage.reasoning_tokens or 0
        tokens["cached_tokens"] += usage.cached_tokens
        tokens["total_tokens"] += usage.total_tokens
