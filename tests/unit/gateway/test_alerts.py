"""Which alerts a run finds, and what a run does when a service fails."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from services.common.errors import Unavailable
from services.common.limits import Scope, Unit, Window
from services.gateway.alerts.checks import alerts_of
from services.gateway.alerts.model import ActiveKey, Alert, AlertKind, AlertRun, Subject
from services.gateway.alerts.runs import AlertRuns
from services.gateway.requests.types import Principal, RateLimit

_SINCE = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
_MIDNIGHT = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
_CREATED = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
_YESTERDAY = ActiveKey("key_1", "2026-11-29")


def _subject(key_id: str = "key_1", created_at: float = _CREATED) -> Subject:
    return Subject(Principal(key_id, "acc_1", 1_000, None), created_at)


def _limit(charged: int, limit: int = 1_000, *, unit: Unit = Unit.REQUESTS, window: Window = Window.DAY) -> RateLimit:
    return RateLimit(limit, charged, 0, _MIDNIGHT, Scope.KEY, unit, window)


def _found(*limits: RateLimit) -> list[tuple[AlertKind, str]]:
    return [(one.kind, one.period) for one in alerts_of(_subject(), _YESTERDAY, limits, since=_SINCE)]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (_limit(799), []),
        (_limit(800), [(AlertKind.LIMIT_80, "2026-11-30")]),
        (_limit(999), [(AlertKind.LIMIT_80, "2026-11-30")]),
        (_limit(1_000), [(AlertKind.LIMIT_100, "2026-11-30")]),
        (_limit(5_000), [(AlertKind.LIMIT_100, "2026-11-30")]),
        (_limit(989, unit=Unit.TOKENS), [(AlertKind.LIMIT_80, "2026-11-30")]),
        (_limit(990, unit=Unit.TOKENS), [(AlertKind.LIMIT_100, "2026-11-30")]),
        (_limit(990, unit=Unit.COST, window=Window.MONTH), [(AlertKind.LIMIT_100, "2026-11")]),
        (_limit(1_000, window=Window.MINUTE), []),
        (_limit(0, 0), []),
        (_limit(2**53, 1), [(AlertKind.LIMIT_100, "2026-11-30")]),
    ],
)
def test_an_alert_has_the_highest_threshold_that_is_reached(
    limit: RateLimit, expected: list[tuple[AlertKind, str]]
) -> None:
    assert _found(limit) == expected


def test_a_limit_of_the_account_is_alerted_for_the_account() -> None:
    limit = RateLimit(10, 9, 0, _MIDNIGHT, Scope.ACCOUNT)
    (alert,) = alerts_of(_subject(), _YESTERDAY, [limit], since=_SINCE)
    assert (alert.account_id, alert.key_id) == ("acc_1", "")


@pytest.mark.parametrize(
    ("previous_day", "created", "is_alerted"),
    [
        ("2026-10-31", "2026-01-01", True),
        ("2026-11-01", "2026-01-01", False),
        ("", "2026-10-31", True),
        ("", "2026-11-29", False),
    ],
)
def test_a_key_that_was_idle_for_thirty_days_is_alerted(previous_day: str, created: str, *, is_alerted: bool) -> None:
    subject = _subject(created_at=datetime.fromisoformat(f"{created}T12:00:00+00:00").timestamp())
    found = alerts_of(subject, ActiveKey("key_1", previous_day), [], since=_SINCE)
    assert [(one.kind, one.period) for one in found] == ([(AlertKind.IDLE, "2026-11-30")] if is_alerted else [])


def test_runs_before_and_after_midnight_find_the_same_alert_about_an_idle_key() -> None:
    used = ActiveKey("key_1", "2026-10-01", "2026-12-01")
    found = [alerts_of(_subject(created_at=0), used, [], since=_MIDNIGHT + seconds)[0] for seconds in (-60, 60)]
    assert [(one.kind, one.period) for one in found] == [(AlertKind.IDLE, "2026-12-01")] * 2


@dataclass
class Services:
    """Auth, quota and inference, as the run needs them."""

    keys: list[str] = field(default_factory=lambda: ["key_1"])
    failing: str = ""
    calls: list[str] = field(default_factory=list)
    recorded: list[Alert] = field(default_factory=list)
    waiting: list[Alert] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.failing:
            raise Unavailable("down")

    async def begin_run(self, interval_seconds: int) -> AlertRun | None:
        return AlertRun("alr_1", _SINCE) if self.keys else None

    async def end_run(self, run_id: str, *, is_complete: bool) -> None:
        self.ended.append(is_complete)

    async def subjects(self, key_ids: Sequence[str]) -> Sequence[Subject]:
        self._call("subjects")
        return [_subject(key_id) for key_id in key_ids]

    async def record(self, alerts: Sequence[Alert]) -> None:
        self._call("record")
        self.recorded += alerts

    async def unsent(self) -> Sequence[Alert]:
        return list(self.waiting)

    async def confirm(self, ids: Collection[str]) -> None:
        self._call("confirm")
        self.waiting = [alert for alert in self.waiting if alert.id not in ids]

    async def active_keys(self, since: float, *, after: str, count: int) -> Sequence[ActiveKey]:
        later = sorted(key_id for key_id in self.keys if key_id > after)
        return [ActiveKey(key_id, "2026-11-29") for key_id in later[:count]]

    async def send(self, account_id: str, alert_id: str, body: bytes) -> None:
        self._call("send")
        self.sent.append(alert_id)

    async def limits(self, principal: Principal) -> Sequence[RateLimit]:
        self._call("limits")
        return [_limit(900)]


def _runs(services: Services) -> AlertRuns:
    return AlertRuns(services, services, services, interval_seconds=30)


async def test_a_run_reads_all_pages_of_keys() -> None:
    services = Services(keys=[f"key_{number:04}" for number in range(250)])
    await _runs(services).run_once()
    assert (len(services.recorded), services.ended) == (250, [True])


async def test_without_a_run_nothing_is_read() -> None:
    services = Services(keys=[])
    await _runs(services).run_once()
    assert (services.calls, services.ended) == ([], [])


@pytest.mark.parametrize("failing", ["subjects", "limits", "record", "send", "confirm"])
async def test_a_run_in_which_a_service_fails_is_not_complete(failing: str) -> None:
    unsent = Alert("acc_1", "key_1", AlertKind.IDLE, "2026-11-30", id="alr_2", created_at=_SINCE)
    services = Services(failing=failing, waiting=[unsent])
    with pytest.raises(Unavailable):
        await _runs(services).run_once()
    assert services.ended == [False]
    assert services.waiting == [unsent], "it is sent again"

    services.failing = ""
    await _runs(services).run_once()
    assert (services.ended, services.waiting, set(services.sent)) == ([False, True], [], {"alr_2"})
