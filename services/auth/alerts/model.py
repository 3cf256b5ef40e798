"""Alerts to owners: data model and storage interface."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from services.auth.accounts.model import AccountId, Proof
from services.auth.audit import Actor
from services.auth.keys.model import Key, KeyId
from services.common.limits import Limit


class AlertKind(StrEnum):
    """What an alert is about."""

    LIMIT_80 = "limit_80"
    LIMIT_100 = "limit_100"
    EXPIRY = "expiry"
    """A key expires within seven days, or within one."""
    IDLE = "idle"
    """A key was used after 30 idle days."""


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert to an owner. There is one for each account, key, kind, limit and period."""

    id: str
    """`alr_` and a ULID."""
    account_id: AccountId
    key_id: str
    """Empty for a limit of the account."""
    kind: AlertKind
    period: str
    """The day, month or expiry time for which there is one alert of this kind."""
    created_at: datetime
    limit: Limit | None = None
    used: int = 0
    """What is charged of the limit."""
    key_name: str = ""


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """The alerts that an owner wants."""

    mail: frozenset[AlertKind]
    webhook: frozenset[AlertKind]


@dataclass(frozen=True, slots=True)
class AlertRun:
    """A run over all keys that were used since a time."""

    id: str
    since: datetime


class AlertStore(Protocol):
    """Interface for storing alerts. Methods raise `Unavailable` if the store cannot be reached."""

    async def settings(self, account_id: AccountId) -> AlertSettings:
        """Return the settings of an account. By default, owners get all alerts by mail, and none to a webhook."""

    async def set_settings(self, settings: AlertSettings, *, by: Actor, at: datetime, proof: Proof) -> None:
        """Replace the settings of the proof's account."""

    async def begin_run(self, *, interval_seconds: float, at: datetime) -> AlertRun | None:
        """Return a run if one is due and no other caller has it. Also record the alerts about expiring keys."""

    async def end_run(self, run_id: str, *, is_complete: bool) -> None:
        """End a run. One that another caller has taken over only counts as progress if it is complete."""

    async def subjects(self, key_ids: Collection[KeyId], *, now: datetime) -> Sequence[Key]:
        """Return those of the keys that work and whose owners want alerts about limits or idle keys."""

    async def record(self, alerts: Sequence[Alert]) -> int:
        """Record the alerts that their owners want and that are new, queue their e-mails, and return their number."""

    async def unsent(self, *, limit: int) -> Sequence[Alert]:
        """Return alerts that must still be sent to webhooks, oldest first."""

    async def confirm(self, ids: Collection[str]) -> None:
        """Record that alerts were handed over for their webhooks."""

    async def to_mail(self, alert_id: str) -> Alert | None:
        """Return an alert of an active account whose owner still wants it by mail; otherwise None."""
