"""Alerts: types and ports."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.gateway.requests.types import Principal, RateLimit


class AlertKind(StrEnum):
    """What an alert is about."""

    LIMIT_80 = "limit_80"
    LIMIT_100 = "limit_100"
    EXPIRY = "expiry"
    IDLE = "idle"
    """A key was used after 30 idle days."""


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert to an owner."""

    account_id: str
    key_id: str
    """Empty for a limit of the account."""
    kind: AlertKind
    period: str
    """The day, month or expiry time for which there is one alert of this kind."""
    limit: RateLimit | None = None
    """The limit and what is used of it; None for other kinds."""
    id: str = ""
    """Empty until auth has recorded the alert."""
    key_name: str = ""
    created_at: float = 0.0
    """Unix seconds of the recording."""


@dataclass(frozen=True, slots=True)
class AlertRun:
    """A run over all keys that were used since a time."""

    id: str
    since: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A key about which its owner wants alerts."""

    principal: Principal
    created_at: float


@dataclass(frozen=True, slots=True)
class ActiveKey:
    """A key that was used since the time of the run."""

    key_id: str
    previous_day: str
    """Last UTC date before that of the time on which it was used; empty if there is none."""
    first_day: str = ""
    """First UTC date from the time on, on which it was used; empty if inference does not say."""


class AlertRecords(Protocol):
    """Port to auth. Methods raise `ServiceError`."""

    async def begin_run(self, interval_seconds: int) -> AlertRun | None:
        """Return the next run, or None if none is due or another gateway has it."""

    async def end_run(self, run_id: str, *, is_complete: bool) -> None:
        """End a run. If it was not complete, the next one begins with the same time."""

    async def subjects(self, key_ids: Sequence[str]) -> Sequence[Subject]:
        """Return those of at most 100 keys about which alerts are wanted."""

    async def record(self, alerts: Sequence[Alert]) -> None:
        """Record those of at most 100 alerts that are wanted and new."""

    async def unsent(self) -> Sequence[Alert]:
        """Return some alerts that must still be sent to webhooks."""

    async def confirm(self, ids: Collection[str]) -> None:
        """Record that inference has alerts."""


class AlertUsage(Protocol):
    """Port to inference. Methods raise `ServiceError`."""

    async def active_keys(self, since: float, *, after: str, count: int) -> Sequence[ActiveKey]:
        """Return a page of the keys that were used since a time, by id."""

    async def send(self, account_id: str, alert_id: str, body: bytes) -> None:
        """Hand over an alert for the account's webhook, if there is one."""


class LimitCounts(Protocol):
    """Port to quota. Methods raise `ServiceError`."""

    async def limits(self, principal: Principal) -> Sequence[RateLimit]:
        """Return the limits of a key and its account with what is used of them."""
