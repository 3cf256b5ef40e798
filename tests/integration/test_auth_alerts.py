"""Alerts on both databases: each is recorded once, with its e-mail, if its owner wants it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import update

from services.auth.accounts.former_accounts import FormerAccounts
from services.auth.accounts.model import Account, NewAccount, Proof, open_account
from services.auth.accounts.store import SQLAccountStore
from services.auth.alerts import store
from services.auth.alerts.model import Alert, AlertKind, AlertSettings
from services.auth.alerts.rpc import AlertService
from services.auth.alerts.store import ALERTS_PER_DAY_MAX, SQLAlertStore
from services.auth.alerts.texts import alert_text
from services.auth.db.records import unavailable
from services.auth.db.tables import accounts
from services.auth.keys.model import Key
from services.auth.keys.store import SQLKeyStore
from services.auth.mail.mailer import Mailer
from services.auth.mail.store import SQLMailQueue
from services.auth.server import MIGRATIONS, VERSION_TABLE
from services.common.db import database
from services.common.db.transactions import Transactions
from services.common.errors import InvalidRequest
from services.common.ids import Kind, new_id
from services.common.limits import parse_limit
from services.common.rpc.limits import limit_to_proto
from services.common.runtime.clock import SystemClock
from stack.auth.v1 import alerts_pb2
from tests.contracts.key_store import NOW, OPERATOR, PEPPER, new_key

_ALL = frozenset(AlertKind)
_SECOND, _DAY = timedelta(seconds=1), timedelta(days=1)
_CONCURRENT = limit_to_proto(parse_limit("account:concurrent_requests=20"))


@dataclass(frozen=True)
class World:
    """The stores of one database."""

    transactions: Transactions
    accounts: SQLAccountStore
    keys: SQLKeyStore
    mail: SQLMailQueue
    alerts: SQLAlertStore

    async def owner(
        self, email: str = "ada@example.com", *, expires_in: timedelta | None = None
    ) -> tuple[Account, Key]:
        """Create an account with a verified address and a key."""
        account = open_account(email, now=NOW)
        await self.accounts.add(NewAccount(account), by=OPERATOR)
        async with self.transactions.writing() as connection:
            is_mine = accounts.c.id == account.id
            await connection.execute(update(accounts).where(is_mine).values(email_verified_at=NOW))
        minted = replace(new_key().key, expires_at=NOW + expires_in if expires_in else None)
        return account, await self.keys.add(account.id, minted, by=OPERATOR)

    async def choose(self, account: Account, *, mail: frozenset[AlertKind], webhook: frozenset[AlertKind]) -> None:
        """Set the owner's settings."""
        await self.alerts.set_settings(AlertSettings(mail, webhook), by=OPERATOR, at=NOW, proof=Proof(account.id))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/auth.db" if is_sqlite else request.getfixturevalue("postgres_url")
    await database.migrate(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    async with database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
        transactions = Transactions(engine, unavailable=unavailable)
        keys = SQLKeyStore(transactions)
        yield World(
            transactions,
            SQLAccountStore(transactions, FormerAccounts(PEPPER)),
            keys,
            SQLMailQueue(transactions),
            SQLAlertStore(transactions, keys, has_mail=True),
        )


def _alert(key: Key, kind: AlertKind = AlertKind.LIMIT_80, period: str = "2026-08-01") -> Alert:
    limit = parse_limit("key:requests:day=10") if kind in (AlertKind.LIMIT_80, AlertKind.LIMIT_100) else None
    return Alert(new_id(Kind.ALERT), key.account_id, key.id, kind, period, NOW, limit=limit, used=8)


async def test_an_alert_is_recorded_once_whoever_finds_it(world: World) -> None:
    account, key = await world.owner()
    await world.choose(account, mail=_ALL, webhook=_ALL)

    counts = await asyncio.gather(*(world.alerts.record([_alert(key)]) for _ in range(4)))

    assert sorted(counts) == [0, 0, 0, 1]
    assert await world.mail.waiting() == 1
    (unsent,) = await world.alerts.unsent(limit=10)
    assert (unsent.kind, str(unsent.limit), unsent.used, unsent.key_name) == (
        AlertKind.LIMIT_80,
        "key:requests:day=10",
        8,
        key.name,
    )
    assert await world.alerts.record([_alert(key, AlertKind.LIMIT_100), _alert(key, period="2026-08-02")]) == 2
    await world.alerts.confirm([unsent.id])
    assert len(await world.alerts.unsent(limit=10)) == 2


async def test_owners_get_what_they_want_by_the_way_they_want(world: World) -> None:
    account, key = await world.owner()
    assert await world.alerts.settings(account.id) == AlertSettings(_ALL, frozenset())
    assert await world.alerts.record([_alert(key)]) == 1
    assert (await world.mail.waiting(), await world.alerts.unsent(limit=10)) == (1, [])

    await world.choose(account, mail=frozenset(), webhook=frozenset({AlertKind.IDLE}))
    assert await world.alerts.record([_alert(key, AlertKind.LIMIT_100)]) == 0
    assert await world.alerts.record([_alert(key, AlertKind.IDLE)]) == 1
    assert (await world.mail.waiting(), len(await world.alerts.unsent(limit=10))) == (1, 1)
    (queued,) = await world.mail.claim(count=5, now=NOW, until=NOW + _DAY)
    assert queued.alert_id
    assert await world.alerts.to_mail(queued.alert_id) is None, "the owner no longer wants the e-mail that waits"

    await world.choose(account, mail=frozenset(), webhook=frozenset())
    assert await world.alerts.subjects([key.id], now=NOW) == []


async def test_an_account_gets_a_bounded_number_of_alerts_a_day(world: World) -> None:
    _, key = await world.owner()
    many = [_alert(key, period=f"day {number}") for number in range(ALERTS_PER_DAY_MAX + 5)]

    assert await world.alerts.record(many) == ALERTS_PER_DAY_MAX
    assert await world.alerts.record([replace(_alert(key), created_at=NOW + 2 * _DAY)]) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": alerts_pb2.ALERT_KIND_EXPIRY, "period": "soon"},
        {"kind": alerts_pb2.ALERT_KIND_EXPIRY, "period": "2026-08-01T00:00:00+00:00/7"},
        {"kind": alerts_pb2.ALERT_KIND_LIMIT_80},
        {"kind": alerts_pb2.ALERT_KIND_IDLE, "limit": limit_to_proto(parse_limit("key:requests:day=10"))},
        {"kind": alerts_pb2.ALERT_KIND_LIMIT_80, "limit": _CONCURRENT},
    ],
)
async def test_an_alert_that_cannot_be_told_is_not_recorded(world: World, changes: dict[str, Any]) -> None:
    """It would be first among the unsent ones, and fail each run."""
    account, key = await world.owner()
    await world.choose(account, mail=_ALL, webhook=_ALL)
    service = AlertService(world.alerts, cast(Mailer, SimpleNamespace(notify=lambda: None)), SystemClock())
    alert = alerts_pb2.Alert(**{"account_id": account.id, "key_id": key.id, "period": "2026-08-01", **changes})

    with pytest.raises(InvalidRequest):
        await service.RecordAlerts(alerts_pb2.RecordAlertsRequest(alerts=[alert]), cast(Any, None))

    assert await world.alerts.unsent(limit=10) == []


async def test_one_caller_has_the_run_and_another_one_gets_it_when_it_dies(world: World) -> None:
    first = await world.alerts.begin_run(interval_seconds=30, at=NOW)
    assert first is not None
    assert first.since == NOW - timedelta(hours=1)
    later = NOW + timedelta(seconds=40)
    assert await world.alerts.begin_run(interval_seconds=30, at=later) is None, "its lease lasts two minutes"

    second = await world.alerts.begin_run(interval_seconds=30, at=NOW + timedelta(minutes=3))
    assert second is not None
    assert second.since == first.since, "the first run did not end"
    await world.alerts.end_run(first.id, is_complete=True)
    assert await world.alerts.begin_run(interval_seconds=30, at=NOW + timedelta(minutes=4)) is None
    await world.alerts.end_run(second.id, is_complete=True)
    third = await world.alerts.begin_run(interval_seconds=30, at=NOW + timedelta(minutes=4))
    assert third is not None
    assert third.since == NOW + timedelta(minutes=3)
    await world.alerts.end_run(third.id, is_complete=False)
    assert await world.alerts.begin_run(interval_seconds=30, at=NOW) is not None, "the clock was set back"


async def test_a_run_that_outlasts_its_lease_counts_when_it_ends(world: World) -> None:
    minute = timedelta(minutes=1)
    first = await world.alerts.begin_run(interval_seconds=30, at=NOW)
    second = await world.alerts.begin_run(interval_seconds=30, at=NOW + 3 * minute)
    assert first is not None
    assert second is not None
    await world.alerts.end_run(first.id, is_complete=True)

    third = await world.alerts.begin_run(interval_seconds=30, at=NOW + 6 * minute)
    assert third is not None
    assert third.since == NOW, "each run takes longer than its lease, and yet there is progress"
    await world.alerts.end_run(third.id, is_complete=True)
    await world.alerts.end_run(second.id, is_complete=True)
    fourth = await world.alerts.begin_run(interval_seconds=30, at=NOW + 7 * minute)
    assert fourth is not None
    assert fourth.since == NOW + 6 * minute, "an earlier run that ends later takes nothing back"


async def test_keys_of_one_owner_do_not_keep_others_from_being_alerted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_EXPIRING_MAX", ALERTS_PER_DAY_MAX + 5)
    first, _ = await world.owner(expires_in=timedelta(hours=1))
    for _ in range(ALERTS_PER_DAY_MAX + 20):
        minted = replace(new_key().key, expires_at=NOW + timedelta(hours=1))
        await world.keys.add(first.id, minted, by=OPERATOR)
    await world.owner("bob@example.com", expires_in=timedelta(hours=2))

    await world.alerts.begin_run(interval_seconds=1, at=NOW)

    queued = await world.mail.claim(count=50, now=NOW, until=NOW + _DAY)
    assert Counter(email.to for email in queued) == {"ada@example.com": ALERTS_PER_DAY_MAX, "bob@example.com": 1}


async def test_keys_that_were_alerted_do_not_keep_others_from_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_EXPIRING_MAX", 1)
    for number in range(3):
        await world.owner(f"user{number}@example.com", expires_in=timedelta(hours=2 + number))
    for number in range(3):
        await world.alerts.begin_run(interval_seconds=1, at=NOW + number * timedelta(minutes=3))
    assert await world.mail.waiting() == 3


async def test_a_key_that_expires_is_alerted_a_week_and_a_day_before(world: World) -> None:
    _, key = await world.owner(expires_in=7 * _DAY)
    _, rotated = await world.owner("bob@example.com", expires_in=3 * _DAY)
    ends_at = NOW + timedelta(hours=1)
    await world.keys.rotate(rotated.id, new_key().key, ends_at=ends_at, by=OPERATOR)

    found = []
    for at in (NOW - _SECOND, NOW, NOW + _DAY, NOW + 6 * _DAY, NOW + 6 * _DAY + timedelta(minutes=5), NOW + 7 * _DAY):
        run = await world.alerts.begin_run(interval_seconds=1, at=at)
        assert run is not None
        await world.alerts.end_run(run.id, is_complete=True)
        found.append(await world.mail.waiting())

    assert found == [0, 1, 1, 2, 2, 2]
    queued = await world.mail.claim(count=5, now=NOW + 8 * _DAY, until=NOW + 9 * _DAY)
    subjects = set()
    for email in queued:
        alert = await world.alerts.to_mail(email.alert_id or "")
        assert alert is not None
        subjects.add(alert_text(alert)[0])
    assert subjects == {f'Your API key "{key.name}" expires in less than {when}' for when in ("7 days", "a day")}


async def test_nothing_is_sent_about_deleted_and_suspended_accounts_and_revoked_keys(world: World) -> None:
    account, key = await world.owner()
    await world.accounts.suspend(account.id, by=OPERATOR, at=NOW)
    assert await world.alerts.subjects([key.id], now=NOW) == []
    assert await world.alerts.record([_alert(key)]) == 0
    await world.accounts.resume(account.id, by=OPERATOR, at=NOW)
    assert [one.id for one in await world.alerts.subjects([key.id], now=NOW)] == [key.id]
    assert await world.alerts.record([_alert(key)]) == 1

    (queued,) = await world.mail.claim(count=5, now=NOW, until=NOW + _SECOND)
    await world.accounts.suspend(account.id, by=OPERATOR, at=NOW)
    assert await world.alerts.to_mail(queued.alert_id or "") is None, (
        "the e-mail waited until the account was suspended"
    )
    await world.accounts.resume(account.id, by=OPERATOR, at=NOW)

    await world.keys.revoke(key.id, by=OPERATOR, at=NOW)
    assert await world.alerts.subjects([key.id], now=NOW) == []
    await world.accounts.delete(account.id, by=OPERATOR, at=NOW)
    assert await world.alerts.record([_alert(key, AlertKind.LIMIT_100)]) == 0
    assert await world.mail.waiting() == 0
