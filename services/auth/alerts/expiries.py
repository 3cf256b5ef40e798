"""Queries for keys that expire soon."""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.alerts.model import Alert, AlertKind
from services.auth.db.tables import accounts, alerts, api_keys
from services.common.ids import Kind, new_id

_DAY = timedelta(days=1)
_EXPIRY_STEPS = (timedelta(days=1), timedelta(days=7))
"""Times before a key's expiry, shortest first."""
_READ_MAX = 100_000


async def unrecorded_expiries(connection: AsyncConnection, at: datetime, *, has_mail: bool) -> list[Alert]:
    """Return the alerts about expiries that are not recorded, soonest first."""
    row, seen = api_keys.c, await _recent_expiries(connection, at)
    query = select(row.id, row.account_id, row.expires_at).join(accounts, accounts.c.id == row.account_id)
    # The end of the grace period of a rotation is no surprise.
    query = query.where(_wants_expiry(has_mail=has_mail), row.revoked_at.is_(None), row.replaced_by.is_(None))
    query = query.where(row.expires_at > at, row.expires_at <= at + _EXPIRY_STEPS[-1])
    keys = (await connection.execute(query.order_by(row.expires_at).limit(_READ_MAX))).all()
    found = ((key, _expiry_period(key.expires_at, at)) for key in keys)
    return [
        Alert(new_id(Kind.ALERT), key.account_id, key.id, AlertKind.EXPIRY, period, at)
        for key, period in found
        if (key.id, period) not in seen
    ]


def _wants_expiry(*, has_mail: bool) -> ColumnElement[bool]:
    row, name = accounts.c, f"%{AlertKind.EXPIRY}%"
    if not has_mail:
        return row.alert_webhook.like(name)
    by_mail = row.email_verified_at.is_not(None) & (row.alert_mail.is_(None) | row.alert_mail.like(name))
    return row.alert_webhook.like(name) | by_mail


def _expiry_period(expires_at: datetime, at: datetime) -> str:
    days = next(step.days for step in _EXPIRY_STEPS if expires_at <= at + step)
    return f"{expires_at.isoformat(timespec='seconds')}/{days}"


async def _recent_expiries(connection: AsyncConnection, at: datetime) -> set[tuple[str, str]]:
    """Return the keys and periods of the alerts about expiries that may still be ahead."""
    recent = (alerts.c.kind == AlertKind.EXPIRY.value) & (alerts.c.created_at > at - _EXPIRY_STEPS[-1] - _DAY)
    found = await connection.execute(select(alerts.c.key_id, alerts.c.period).where(recent))
    return {(row.key_id, row.period) for row in found}
