"""What e-mails say about alerts."""

from datetime import datetime

from services.auth.alerts.model import Alert, AlertKind
from services.common.limits import Limit, Scope, Unit, Window
from services.common.prices import dollars

_RESETS = {Window.DAY: "at 00:00 UTC", Window.MONTH: "at the beginning of next month, 00:00 UTC"}


def alert_text(alert: Alert) -> tuple[str, str]:
    """Return the subject and the first sentences of an alert's e-mail."""
    key = f'API key "{alert.key_name}"'
    if alert.limit is not None:
        return _limit_text(alert, alert.limit, "Your account" if alert.limit.scope is Scope.ACCOUNT else f"The {key}")
    if alert.kind is AlertKind.EXPIRY:
        expires_at, _, days = alert.period.rpartition("/")
        when = "in less than a day" if days == "1" else f"in less than {days} days"
        moment = f"{datetime.fromisoformat(expires_at):%Y-%m-%d %H:%M} UTC"
        return f"Your {key} expires {when}", f"The {key} expires on {moment}. Requests with it are then rejected."
    return (
        f"Your {key} was used again",
        f"The {key} was used on {alert.period}, after 30 days without a request. If that was not you, revoke it.",
    )


def _limit_text(alert: Alert, limit: Limit, subject: str) -> tuple[str, str]:
    used, most = _amount(alert.used, limit), _amount(limit.limit, limit)
    what = f"{most} per {limit.window}"
    assert limit.window is not None, "concurrent requests have no alerts"
    resets = f"It resets {_RESETS[limit.window]}."
    if alert.kind is AlertKind.LIMIT_100:
        return f"{subject} has used up a limit", (
            f"{subject} has used {used} of {what}. Further requests are rejected until the limit resets. {resets}"
        )
    return f"{subject} has used 80 % of a limit", f"{subject} has used {used} of {what}. {resets}"


def _amount(value: int, limit: Limit) -> str:
    return f"${dollars(value)}" if limit.unit is Unit.COST else f"{value:,} {limit.unit}"
