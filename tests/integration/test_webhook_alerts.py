"""Alerts to webhooks on both databases: stored once, sent at least once, by one replica; and keys that were used."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.common.errors import Unavailable
from services.inference.ledger.store import SQLLedgerStore
from services.inference.webhooks.addresses import AddressPolicy
from services.inference.webhooks.alert_store import SQLWebhookAlertStore
from services.inference.webhooks.alerts import WebhookAlerts
from services.inference.webhooks.delivery import EventSender
from services.inference.webhooks.events import NotDelivered
from services.inference.webhooks.secrets import WebhookSecrets
from services.inference.webhooks.sender import Sender
from tests.contracts.ledger_store import rows
from tests.integration.test_usage_webhooks import World, url, world

__all__ = ["url", "world"]
_KEYS = ["0f" * 32]
_BODY = b'{"type": "alert.idle"}'


def _replica(
    world: World, sender: EventSender | None = None, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> WebhookAlerts:
    store, secrets = SQLWebhookAlertStore(world.ledger.transactions), WebhookSecrets(_KEYS)
    return WebhookAlerts(store, world.store, secrets, sender or world.receiver, world.clock, sleep=sleep)


async def test_an_alert_is_sent_once_by_one_of_the_replicas(world: World) -> None:
    await world.webhooks().set("acc_1", "https://example.com/usage")
    replicas = [_replica(world) for _ in range(3)]
    assert await asyncio.gather(*(one.add("acc_1", "alr_1", _BODY) for one in replicas)) == [True] * 3

    counts = await asyncio.gather(*(one.send_due() for one in replicas))

    assert sum(counts) == 1
    ((_, event, _),) = world.receiver.events
    assert (event.id, event.body) == ("alr_1", _BODY)
    assert await replicas[0].add("acc_1", "alr_1", _BODY), "a repeated alert is known"
    assert await replicas[1].send_due() == 0


async def test_a_replica_that_dies_leaves_its_alert_to_another_one(world: World) -> None:
    await world.webhooks().set("acc_1", "https://example.com/usage")
    first = _replica(world)
    await first.add("acc_1", "alr_1", _BODY)
    world.receiver.may_answer.clear()
    dying = asyncio.ensure_future(first.send_due())
    async with asyncio.timeout(10):
        while not world.receiver.events:
            await asyncio.sleep(0.01)
    dying.cancel()
    await asyncio.wait({dying})
    world.receiver.may_answer.set()

    assert await _replica(world).send_due() == 0, "the lease lasts two minutes"
    world.clock.seconds += 121
    assert await _replica(world).send_due() == 1
    assert [event.id for _, event, _ in world.receiver.events] == ["alr_1", "alr_1"]


async def test_a_failed_alert_is_sent_again_with_the_same_id_and_given_up_after_a_day(world: World) -> None:
    await world.webhooks().set("acc_1", "https://example.com/usage")
    replica = _replica(world)
    await replica.add("acc_1", "alr_1", _BODY)
    world.receiver.error = NotDelivered("The receiver answered with status 500.")

    for _ in range(60):
        await replica.send_due()
        world.clock.seconds += 1_800

    attempts = len(world.receiver.events)
    assert {event.id for _, event, _ in world.receiver.events} == {"alr_1"}
    assert 5 <= attempts <= 15
    world.clock.seconds += 86_400
    assert [await replica.send_due() for _ in range(2)] == [1, 0], "the attempt after a day is the last one"


async def test_a_database_that_takes_no_writes_is_tried_again_after_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.webhooks().set("acc_1", "https://example.com/usage")
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(3_600)

    replica = _replica(world, sleep=sleep)
    await replica.add("acc_1", "alr_1", _BODY)

    async def full(*_: object, **__: object) -> bool:
        raise Unavailable("The disk is full.")

    monkeypatch.setattr(SQLWebhookAlertStore, "lease", full)
    running = asyncio.ensure_future(replica.run())
    await asyncio.wait({running}, timeout=0.5)
    running.cancel()
    assert len(pauses) == 1
    assert world.receiver.events == []


async def test_without_an_active_webhook_no_alert_is_accepted(world: World) -> None:
    assert not await _replica(world).add("acc_1", "alr_1", _BODY)
    await world.webhooks().set("acc_1", "https://example.com/usage")
    stored = await world.webhooks().get("acc_1")
    await world.store.update(replace(stored, next_attempt_at=None), expected=stored)
    assert not await _replica(world).add("acc_1", "alr_1", _BODY)


async def test_the_alerts_of_an_account_in_a_day_are_bounded(world: World) -> None:
    await world.webhooks().set("acc_1", "https://example.com/usage")
    replica = _replica(world)
    accepted = [await replica.add("acc_1", f"alr_{number}", _BODY) for number in range(52)]
    assert accepted == [True] * 50 + [False] * 2
    world.clock.seconds += 86_401
    assert await replica.add("acc_1", "alr_next", _BODY)


@pytest.mark.parametrize("private", ["https://10.0.0.1/", "http://192.168.1.1/", "https://[fd00::1]/"])
async def test_an_alert_is_never_sent_to_a_private_address(world: World, private: str) -> None:
    """Also if the address got into the database some other way."""
    await world.webhooks().set("acc_1", "https://example.com/usage")
    stored = await world.webhooks().get("acc_1")
    await world.store.update(replace(stored, url=private), expected=stored)
    replica = _replica(world, Sender(AddressPolicy(), seconds_max=1))

    await replica.add("acc_1", "alr_1", _BODY)

    assert await replica.send_due() == 1
    (waiting,) = await SQLWebhookAlertStore(world.ledger.transactions).due(world.clock.seconds + 61, count=5)
    assert waiting.failures == 1


async def test_used_keys_are_listed_with_the_last_day_before(world: World) -> None:
    noon = datetime(2026, 8, 2, 12, tzinfo=UTC)
    for number, (key_id, day, hour) in enumerate(
        [
            ("key_a", "2026-08-02", 12),
            ("key_a", "2026-06-01", 5),
            ("key_b", "2026-08-02", 13),
            ("key_c", "2026-08-02", 3),
        ]
    ):
        at = datetime.fromisoformat(f"{day}T{hour:02}:30:00+00:00").timestamp()
        await world.ledger.insert(rows(1, start=100 * number, key_id=key_id, day=day, reserved_at=at))

    a, b = ("key_a", "2026-06-01", "2026-08-02"), ("key_b", "", "2026-08-02")
    assert await _active(world.ledger, noon) == [a, b]
    assert await _active(world.ledger, noon, after="key_a") == [b]
    assert await _active(world.ledger, noon, keys_max=1) == [a]
    assert ("key_b", "", "2026-08-02") in await _active(world.ledger, noon - timedelta(days=1)), "the day of the use"


async def _active(
    ledger: SQLLedgerStore, at: datetime, *, after: str = "", keys_max: int = 10
) -> list[tuple[str, str, str]]:
    hour = int(at.timestamp() // 3600)
    return await ledger.active_keys(hour, at.date().isoformat(), after=after, keys_max=keys_max)
