"""SQL store for alerts."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from ulid import ULID

from services.auth.accounts.model import AccountId, Proof
from services.auth.alerts.expiries import unrecorded_expiries
from services.auth.alerts.model import Alert, AlertKind, AlertRun, AlertSettings
from services.auth.audit import Actor
from services.auth.db.records import READ_SECONDS_MAX, WRITE_SECONDS_MAX, record, unavailable
from services.auth.db.tables import accounts, alert_runs, alerts, api_keys
from services.auth.keys.model import Key, KeyId
from services.auth.keys.store import SQLKeyStore
from services.auth.mail.queue import QueuedEmail, Topic
from services.auth.mail.store import enqueue
from services.auth.sessions.proofs import check_proof
from services.common.db.dialects import insert_into
from services.common.db.transactions import Transactions, deadline
from services.common.ids import Kind, new_id
from services.common.limits import parse_limit

ALERTS_PER_DAY_MAX = 20
"""Maximum alerts of an account in any 24 hours, and so of its e-mails and events."""
_AUTH = Actor("auth")
_ALL = frozenset(AlertKind)
_DAY = timedelta(days=1)
_LEASE = timedelta(minutes=2)
"""Time for a run. A gateway that dies leaves it to another one after that."""
_FIRST_SINCE, _SINCE_MAX = timedelta(hours=1), timedelta(days=31)
_EXPIRING_MAX = 500
"""Maximum alerts about expiries in one run, whose transaction locks others out."""
_RUN_SECONDS_MAX = 10.0
_KEPT = timedelta(days=62)
"""Longer than any period, so that no alert is repeated."""


class SQLAlertStore:
    """SQL implementation of `AlertStore`."""

    def __init__(self, transactions: Transactions, keys: SQLKeyStore, *, has_mail: bool) -> None:
        """Read keys from `keys`. Without mail, no e-mail is queued."""
        self._transactions = transactions
        self._keys = keys
        self._has_mail = has_mail

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def settings(self, account_id: AccountId) -> AlertSettings:
        """Return the settings of an account. See `AlertStore.settings`."""
        async with self._transactions.reading() as connection:
            return _settings((await connection.execute(_ACCOUNT.where(accounts.c.id == account_id))).one())

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def set_settings(self, settings: AlertSettings, *, by: Actor, at: datetime, proof: Proof) -> None:
        """Replace the settings of the proof's account. See `AlertStore.set_settings`."""
        account_id = proof.account_id
        chosen = {"alert_mail": _text(settings.mail), "alert_webhook": _text(settings.webhook)}
        details = {"mail": chosen["alert_mail"] or "none", "webhook": chosen["alert_webhook"] or "none"}
        async with self._transactions.writing() as connection:
            await check_proof(connection, proof)
            await connection.execute(update(accounts).where(accounts.c.id == account_id).values(chosen))
            await record(
                connection, "alerts.set", by=by, at=at, account_id=account_id, target=account_id, details=details
            )

    @deadline(_RUN_SECONDS_MAX, unavailable=unavailable)
    async def begin_run(self, *, interval_seconds: float, at: datetime) -> AlertRun | None:
        """Take the next run. See `AlertStore.begin_run`."""
        row, run_id = alert_runs.c, f"{Kind.ALERT}_{ULID.from_datetime(at)}"
        # A time in the future is from before the clock was set back.
        latest = at - timedelta(seconds=interval_seconds)
        is_due = or_(row.started_at <= latest, row.started_at > at) & or_(row.leased_until <= at, row.started_at > at)
        lease = {"run_id": run_id, "started_at": at, "leased_until": at + _LEASE}
        async with self._transactions.writing() as connection:
            first = {"id": 1, "run_id": "", "checked_until": at - _FIRST_SINCE, "started_at": at - _DAY}
            insert = insert_into(connection, alert_runs).values(first | {"leased_until": at - _DAY})
            await connection.execute(insert.on_conflict_do_nothing())
            taken = update(alert_runs).where(is_due).values(lease).returning(row.checked_until)
            since: datetime | None = await connection.scalar(taken)
            if since is None:
                return None
            await self._record_expiries(connection, at)
            await connection.execute(delete(alerts).where(alerts.c.created_at < at - _KEPT))
        return AlertRun(run_id, min(max(since, at - _SINCE_MAX), at))

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def end_run(self, run_id: str, *, is_complete: bool) -> None:
        """End a run. See `AlertStore.end_run`."""
        row = alert_runs.c
        values: dict[str, Any] = {"leased_until": row.started_at}
        if is_complete:
            values["checked_until"] = row.started_at
        async with self._transactions.writing() as connection:
            ended = await connection.execute(update(alert_runs).where(row.run_id == run_id).values(values))
            if is_complete and not ended.rowcount:
                await _count_late_run(connection, run_id)

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def subjects(self, key_ids: Collection[KeyId], *, now: datetime) -> Sequence[Key]:
        """Return keys about which alerts are wanted. See `AlertStore.subjects`."""
        keys = [key for key in await self._keys.of_ids(key_ids) if key.is_active(now) and not key.is_suspended]
        async with self._transactions.reading() as connection:
            rows = await connection.execute(_ACCOUNT.where(accounts.c.id.in_({key.account_id for key in keys})))
            wanting = {row.id for row in rows if self._wanted(row) & {*AlertKind} - {AlertKind.EXPIRY}}
        return [key for key in keys if key.account_id in wanting]

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def record(self, alerts: Sequence[Alert]) -> int:
        """Record new alerts. See `AlertStore.record`."""
        async with self._transactions.writing() as connection:
            return sum([await self._add(connection, alert) for alert in alerts])

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def unsent(self, *, limit: int) -> Sequence[Alert]:
        """Return alerts to hand over for webhooks. See `AlertStore.unsent`."""
        async with self._transactions.reading() as connection:
            query = _ALERTS.where(alerts.c.is_unsent).order_by(alerts.c.id).limit(limit)
            return [_alert(row) for row in await connection.execute(query)]

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def confirm(self, ids: Collection[str]) -> None:
        """Record that alerts were handed over. See `AlertStore.confirm`."""
        async with self._transactions.writing() as connection:
            await connection.execute(update(alerts).where(alerts.c.id.in_(ids)).values(is_unsent=False))

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def to_mail(self, alert_id: str) -> Alert | None:
        """Return an alert that its owner still wants by mail. See `AlertStore.to_mail`."""
        async with self._transactions.reading() as connection:
            row = (await connection.execute(_ALERTS.where(alerts.c.id == alert_id))).one_or_none()
            if row is None:
                return None
            account = (await connection.execute(_ACCOUNT.where(accounts.c.id == row.account_id))).one_or_none()
        alert = _alert(row)
        return alert if account is not None and alert.kind in _settings(account).mail else None

    async def _record_expiries(self, connection: AsyncConnection, at: datetime) -> None:
        """Record the alerts about keys that expire within a day or a week, soonest first."""
        left, waiting = _EXPIRING_MAX, await unrecorded_expiries(connection, at, has_mail=self._has_mail)
        full = await _full_accounts(connection, at)
        for alert in waiting:
            if alert.account_id in full:
                continue
            if await self._add(connection, alert):
                left -= 1
            elif await _is_full(connection, alert):
                full.add(alert.account_id)
            if not left:
                return

    async def _add(self, connection: AsyncConnection, alert: Alert) -> bool:
        """Add an alert that is wanted and new, with its e-mail, and return whether it is."""
        account = (await connection.execute(_ACCOUNT.where(accounts.c.id == alert.account_id))).one_or_none()
        if account is None or alert.kind not in self._wanted(account) or await _is_full(connection, alert):
            return False
        values = {
            "id": alert.id,
            "account_id": alert.account_id,
            "key_id": alert.key_id,
            "kind": alert.kind.value,
            "limit_name": alert.limit.name if alert.limit else "",
            "period": alert.period,
            "created_at": alert.created_at,
            "limit_value": alert.limit.limit if alert.limit else 0,
            "used": alert.used,
            "is_unsent": alert.kind in _settings(account).webhook,
        }
        insert = insert_into(connection, alerts).values(values).on_conflict_do_nothing()
        is_new: bool = (await connection.execute(insert)).rowcount == 1
        if is_new and self._mails(account) and alert.kind in _settings(account).mail:
            await enqueue(connection, _email(alert, account.email))
        return is_new

    def _wanted(self, account: Row[Any]) -> frozenset[AlertKind]:
        settings = _settings(account)
        return settings.webhook | (settings.mail if self._mails(account) else frozenset())

    def _mails(self, account: Row[Any]) -> bool:
        return self._has_mail and account.email_verified_at is not None


async def _count_late_run(connection: AsyncConnection, run_id: str) -> None:
    """Record that a run is complete whose lease ended before, so that runs that take longer make progress."""
    row, started_at = alert_runs.c, ULID.from_str(run_id.rpartition("_")[2]).datetime
    is_progress = (row.checked_until < started_at) & (row.started_at > started_at)
    await connection.execute(update(alert_runs).where(is_progress).values(checked_until=started_at))


_ACCOUNT = select(
    accounts.c.id, accounts.c.email, accounts.c.email_verified_at, accounts.c.alert_mail, accounts.c.alert_webhook
).where(accounts.c.deleted_at.is_(None), accounts.c.suspended_at.is_(None))
_ALERTS = select(alerts, api_keys.c.name.label("key_name")).join(
    api_keys, (api_keys.c.id == alerts.c.key_id) & (api_keys.c.account_id == alerts.c.account_id), isouter=True
)


def _settings(account: Row[Any]) -> AlertSettings:
    mail = _ALL if account.alert_mail is None else _kinds(account.alert_mail)
    return AlertSettings(mail, _kinds(account.alert_webhook or ""))


def _kinds(text: str) -> frozenset[AlertKind]:
    return frozenset(AlertKind(name) for name in text.split(",") if name in set(AlertKind))


def _text(kinds: Collection[AlertKind]) -> str:
    return ",".join(kind for kind in AlertKind if kind in kinds)


async def _full_accounts(connection: AsyncConnection, at: datetime) -> set[str]:
    """Return the accounts that get no further alerts for now."""
    counts = select(alerts.c.account_id).where(alerts.c.created_at > at - _DAY).group_by(alerts.c.account_id)
    return set(await connection.scalars(counts.having(func.count() >= ALERTS_PER_DAY_MAX)))


async def _is_full(connection: AsyncConnection, alert: Alert) -> bool:
    recent = (alerts.c.account_id == alert.account_id) & (alerts.c.created_at > alert.created_at - _DAY)
    count = await connection.scalar(select(func.count()).select_from(alerts).where(recent)) or 0
    return count >= ALERTS_PER_DAY_MAX


def _email(alert: Alert, address: str) -> QueuedEmail:
    return QueuedEmail(new_id(Kind.EMAIL), Topic.ALERT, address, None, _AUTH, alert.created_at, alert_id=alert.id)


def _alert(row: Row[Any]) -> Alert:
    return Alert(
        id=row.id,
        account_id=row.account_id,
        key_id=row.key_id,
        kind=AlertKind(row.kind),
        period=row.period,
        created_at=row.created_at,
        limit=parse_limit(f"{row.limit_name}={row.limit_value}") if row.limit_name else None,
        used=row.used,
        key_name=row.key_name or "",
    )
