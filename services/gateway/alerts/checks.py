"""Which alerts a key and its account need."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta

from services.common.limits import Unit, Window
from services.gateway.alerts.model import ActiveKey, Alert, AlertKind, Subject
from services.gateway.requests.types import RateLimit

IDLE_DAYS = 30
_WINDOWS = (Window.DAY, Window.MONTH)
_USED_UP_PERCENT = {Unit.REQUESTS: 100}
_OTHERS_USED_UP_PERCENT = 99
"""Of tokens and cost: requests hold what they may need, so that the last percent is hardly ever used."""
_WARNING_PERCENT = 80


def alerts_of(subject: Subject, active: ActiveKey, limits: Iterable[RateLimit], *, since: float) -> Sequence[Alert]:
    """Return the alerts that a key and its account need, whether or not they are recorded already."""
    found = [_limit_alert(subject, limit) for limit in limits]
    # A run that begins before midnight also finds keys that were used after it. Their day is the same in all runs.
    found.append(
        _idle_alert(subject, active, date.fromisoformat(active.first_day) if active.first_day else _day(since))
    )
    return [alert for alert in found if alert is not None]


def _limit_alert(subject: Subject, limit: RateLimit) -> Alert | None:
    """Return the alert of the highest threshold that is reached."""
    if limit.window not in _WINDOWS or limit.limit <= 0:
        return None
    percent = limit.charged * 100 / limit.limit
    if percent < _WARNING_PERCENT:
        return None
    is_used_up = percent >= _USED_UP_PERCENT.get(limit.unit, _OTHERS_USED_UP_PERCENT)
    kind = AlertKind.LIMIT_100 if is_used_up else AlertKind.LIMIT_80
    key_id = "" if limit.is_of_account else subject.principal.key_id
    return Alert(subject.principal.account_id, key_id, kind, _period(limit), limit)


def _period(limit: RateLimit) -> str:
    """Return the day or the month of a limit's window."""
    last_day = _day(limit.reset_at - 1)
    return last_day.isoformat() if limit.window is Window.DAY else f"{last_day:%Y-%m}"


def _idle_alert(subject: Subject, active: ActiveKey, day: date) -> Alert | None:
    """Return the alert about a key that was used on a day, after idle days."""
    last_day = date.fromisoformat(active.previous_day) if active.previous_day else _day(subject.created_at)
    if day - last_day < timedelta(days=IDLE_DAYS):
        return None
    return Alert(subject.principal.account_id, subject.principal.key_id, AlertKind.IDLE, day.isoformat())


def _day(seconds: float) -> date:
    return datetime.fromtimestamp(seconds, UTC).date()
