"""Usage webhooks on both databases: each day arrives at least once, whatever fails, and one replica sends it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.common.db import database
from services.common.errors import InvalidRequest, NotFound
from services.inference.ledger.store import SQLLedgerStore
from services.inference.ledger.writer import UsageSummary
from services.inference.server import MIGRATIONS, VERSION_TABLE
from services.inference.webhooks.addresses import AddressPolicy
from services.inference.webhooks.delivery import Deliveries, usage_of_day
from services.inference.webhooks.events import Event, NotDelivered
from services.inference.webhooks.secrets import WebhookSecrets
from services.inference.webhooks.service import Webhooks
from services.inference.webhooks.store import SQLWebhookStore
from tests.contracts.ledger_store import DAY, ROW, rows

_NOON = datetime(2026, 8, 2, 12, tzinfo=UTC).timestamp()
_NEXT_DAY = datetime(2026, 8, 3, tzinfo=UTC).timestamp()
_URL = "https://example.com/usage"
_KEYS = ["0f" * 32]


@dataclass
class Clock:
    """Time that the test advances."""

    seconds: float = _NOON
    ahead: float = 0.0
    """How far the machine's clock is ahead."""

    def now(self) -> float:
        return self.seconds + self.ahead

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Receiver:
    """Records events, and fails as the test wants."""

    error: NotDelivered | None = None
    events: list[tuple[str, Event, bytes]] = field(default_factory=list)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    async def send(self, url: str, event: Event, secret: bytes) -> None:
        self.events.append((url, event, secret))
        await self.may_answer.wait()
        if self.error:
            raise self.error

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(event.body) for _, event, _ in self.events]


@dataclass
class World:
    """One database, and what works on it."""

    ledger: SQLLedgerStore
    store: SQLWebhookStore
    clock: Clock = field(default_factory=Clock)
    receiver: Receiver = field(default_factory=Receiver)

    def webhooks(self, keys: list[str] | None = None) -> Webhooks:
        secrets = WebhookSecrets(keys or _KEYS)
        return Webhooks(self.store, secrets, AddressPolicy().check_url, self.clock)

    def replica(self, keys: list[str] | None = None) -> Deliveries:
        return Deliveries(self.store, self.ledger, WebhookSecrets(keys or _KEYS), self.receiver, self.clock)


@asynccontextmanager
async def _world(url: str) -> AsyncIterator[World]:
    if not database.is_sqlite(url):
        await database.migrate(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    async with database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
        ledger = SQLLedgerStore(engine)
        yield World(ledger, SQLWebhookStore(ledger.transactions))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def world(url: str) -> AsyncIterator[World]:
    """Yield a database of each kind."""
    async with _world(url) as world:
        yield world


async def test_the_usage_of_a_day_is_sent_once_the_day_is_over(world: World) -> None:
    _, secret = await world.webhooks().set("acc_1", _URL)
    await world.ledger.insert([*rows(3), *rows(1, start=10, model="other", charged=False, cost=None)])
    await world.ledger.insert(rows(1, start=20, account_id="acc_2"))
    replica = world.replica()

    world.clock.seconds = _NEXT_DAY + 899
    assert await replica.deliver_due() == 0
    world.clock.seconds = _NEXT_DAY + 900
    assert [await replica.deliver_due(), await replica.deliver_due()] == [1, 0]

    ((url, event, key),) = world.receiver.events
    webhook = await world.webhooks().get("acc_1")
    assert (url, event.id, event.timestamp) == (_URL, f"{webhook.id}-{DAY}", int(world.clock.seconds))
    assert secret.startswith("whsec_")
    assert key not in webhook.secret
    tokens = {
        "cached_tokens": 4,
        "completion_tokens": 20,
        "prompt_tokens": 10,
        "reasoning_tokens": 5,
        "total_tokens": 30,
    }
    (body,) = world.receiver.bodies
    assert (body["type"], body["timestamp"]) == ("usage.day", "2026-08-03T00:15:00Z")
    assert body["data"]["day"] == DAY
    assert body["data"]["total"] == {
        "requests": 3,
        "released_requests": 1,
        **{name: 4 * count for name, count in tokens.items()},
        "cost_microdollars": 3_702,
        "cost_usd": "0.003702",
    }
    assert [(one["model"], one["requests"], one["total_tokens"]) for one in body["data"]["models"]] == [
        (ROW.model, 3, 90),
        ("other", 0, 30),
    ]
    assert (webhook.next_day, webhook.next_attempt_at) == ("2026-08-03", _NEXT_DAY + 86_400 + 900)


async def test_days_without_requests_and_missed_days_are_sent_in_order(world: World) -> None:
    await world.webhooks().set("acc_1", _URL)
    world.clock.seconds = _NEXT_DAY + 3 * 86_400 + 1_000
    replica = world.replica()

    while await replica.deliver_due():
        pass

    assert [body["data"]["day"] for body in world.receiver.bodies] == [f"2026-08-0{day}" for day in (2, 3, 4, 5)]
    assert world.receiver.bodies[1]["data"]["total"]["requests"] == 0


async def test_a_failed_event_is_sent_again_with_the_same_id_after_growing_pauses(world: World) -> None:
    await world.webhooks().set("acc_1", _URL)
    world.clock.seconds = _NEXT_DAY + 900
    world.receiver.error = NotDelivered("The receiver answered with status 500.")
    replica, pauses = world.replica(), []
    for _ in range(12):
        assert await replica.deliver_due() == 1
        webhook = await world.webhooks().get("acc_1")
        assert webhook.next_attempt_at is not None
        pauses.append(webhook.next_attempt_at - world.clock.seconds)
        world.clock.seconds = webhook.next_attempt_at - 1
        assert await replica.deliver_due() == 0
        world.clock.seconds += 1
    assert pauses[:4] == [60, 120, 240, 480]
    assert pauses[-2:] == [21_600, 21_600]
    assert (webhook.failures, webhook.last_error) == (12, "The receiver answered with status 500.")

    world.receiver.error = None
    await replica.deliver_due()
    assert len({event.id for _, event, _ in world.receiver.events}) == 1
    assert len({event.timestamp for _, event, _ in world.receiver.events}) == 13
    webhook = await world.webhooks().get("acc_1")
    assert (webhook.failures, webhook.last_error, webhook.next_day) == (0, "", "2026-08-03")


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_webhook_is_disabled_after_a_week_or_if_gone_and_continues_when_it_is_set_again(
    world: World, is_gone: bool
) -> None:
    await world.webhooks().set("acc_1", _URL)
    world.clock.seconds = _NEXT_DAY + 900
    world.receiver.error = NotDelivered("The receiver answered with status 410.", is_gone=is_gone)
    replica = world.replica()
    if not is_gone:
        await _fail_until(world, replica, _NEXT_DAY + 900 + 7 * 86_400)
    assert [await replica.deliver_due(), await replica.deliver_due()] == [1, 0]
    assert (await world.webhooks().get("acc_1")).next_attempt_at is None
    world.clock.seconds += 86_400
    assert await replica.deliver_due() == 0

    world.receiver.error = None
    _, secret = await world.webhooks().set("acc_1", _URL + "2")
    assert await replica.deliver_due() == 1
    assert secret == "", "the secret stays"
    assert (world.receiver.events[-1][0], world.receiver.bodies[-1]["data"]["day"]) == (_URL + "2", DAY)


async def _fail_until(world: World, replica: Deliveries, end: float) -> None:
    while world.clock.seconds < end:
        assert await replica.deliver_due() == 1
        at = (await world.webhooks().get("acc_1")).next_attempt_at
        assert at is not None, "it is active for a week"
        world.clock.seconds = at


async def test_a_day_that_is_sent_late_is_tried_for_a_week_like_any_other(world: World) -> None:
    await world.webhooks().set("acc_1", _URL)
    world.clock.seconds = _NEXT_DAY + 30 * 86_400  # Inference, or the webhook, was away.
    world.receiver.error = NotDelivered("The receiver answered with status 500.")
    replica = world.replica()

    await _fail_until(world, replica, _NEXT_DAY + 37 * 86_400)
    await replica.deliver_due()

    assert (await world.webhooks().get("acc_1")).next_attempt_at is None


async def test_a_clock_that_steps_ahead_and_back_sends_no_day_that_is_not_over(world: World) -> None:
    await world.webhooks().set("acc_1", _URL)
    replica = world.replica()

    world.clock.ahead = 365 * 86_400
    assert await replica.deliver_due() == 0
    world.clock.seconds += 600
    assert await replica.deliver_due() == 0
    world.clock.ahead = 0
    assert await replica.deliver_due() == 0

    world.clock.seconds = _NEXT_DAY + 900
    assert await replica.deliver_due() == 1
    assert [body["data"]["day"] for body in world.receiver.bodies] == [DAY]


async def test_one_of_several_replicas_sends_an_event(world: World) -> None:
    for number in range(5):
        await world.webhooks().set(f"acc_{number}", _URL)
    world.clock.seconds = _NEXT_DAY + 900

    counts = await asyncio.gather(*(world.replica().deliver_due() for _ in range(4)))

    assert sum(counts) == 5
    assert len({event.id for _, event, _ in world.receiver.events}) == len(world.receiver.events) == 5


async def test_the_event_of_a_replica_that_died_is_sent_by_another_one(world: World) -> None:
    await world.webhooks().set("acc_1", _URL)
    world.clock.seconds = _NEXT_DAY + 900
    world.receiver.may_answer.clear()
    dying = asyncio.create_task(world.replica().deliver_due())
    while not world.receiver.events:
        await asyncio.sleep(0.01)
    dying.cancel()
    await asyncio.wait([dying])
    world.receiver.may_answer.set()

    assert await world.replica().deliver_due() == 0, "the attempt may still be in progress"
    world.clock.seconds += 120
    assert await world.replica().deliver_due() == 1
    assert world.receiver.events[0][1].id == world.receiver.events[1][1].id


async def test_a_webhook_that_is_changed_during_an_attempt_gets_the_event_again(world: World) -> None:
    await world.webhooks().set("acc_1", _URL)
    world.clock.seconds = _NEXT_DAY + 900
    world.receiver.may_answer.clear()
    attempt = asyncio.create_task(world.replica().deliver_due())
    while not world.receiver.events:
        await asyncio.sleep(0.01)
    await world.webhooks().set("acc_1", _URL + "2")
    world.receiver.may_answer.set()
    await attempt
    world.clock.seconds += 120
    await world.replica().deliver_due()

    assert [(url, event.id) for url, event, _ in world.receiver.events] == [
        (_URL, world.receiver.events[0][1].id),
        (_URL + "2", world.receiver.events[0][1].id),
    ]


async def test_one_slow_receiver_does_not_delay_others(world: World) -> None:
    class OneSlow(Receiver):
        async def send(self, url: str, event: Event, secret: bytes) -> None:
            if url.endswith("slow"):
                await asyncio.Event().wait()
            await super().send(url, event, secret)

    world.receiver = OneSlow()
    for number in range(10):
        await world.webhooks().set(f"acc_{number}", f"{_URL}{number}" if number else f"{_URL}slow")
    world.clock.seconds = _NEXT_DAY + 900
    sending = asyncio.create_task(world.replica().deliver_due())
    async with asyncio.timeout(10):
        while len(world.receiver.events) < 9:
            await asyncio.sleep(0.01)
    sending.cancel()
    await asyncio.wait([sending])


async def test_after_a_rotation_of_receipt_keys_the_secret_stays_and_is_encrypted_under_the_new_key(
    world: World,
) -> None:
    _, secret = await world.webhooks().set("acc_1", _URL)
    new, both = ["aa" * 32], ["aa" * 32, *_KEYS]
    world.clock.seconds = _NEXT_DAY + 900
    await world.replica(both).deliver_due()
    world.clock.seconds += 86_400
    await world.replica(new).deliver_due()

    assert len(world.receiver.events) == 2
    assert len({key for _, _, key in world.receiver.events}) == 1
    assert len(secret) == len("whsec_") + 44


async def test_a_secret_whose_key_was_removed_disables_the_webhook_with_an_explanation(world: World) -> None:
    await world.webhooks().set("acc_1", _URL)
    world.clock.seconds = _NEXT_DAY + 900
    await world.replica(["aa" * 32]).deliver_due()

    webhook = await world.webhooks().get("acc_1")
    assert world.receiver.events == []
    assert webhook.next_attempt_at is None
    assert "Delete the webhook and set it again." in webhook.last_error


async def test_each_account_has_one_webhook_which_it_can_delete(world: World) -> None:
    webhooks = world.webhooks()
    results = await asyncio.gather(*(webhooks.set("acc_1", f"{_URL}{number}") for number in range(4)))
    await webhooks.set("acc_2", _URL)

    assert len({webhook.id for webhook, _ in results}) == 1
    assert len([secret for _, secret in results if secret]) == 1
    assert [await webhooks.delete("acc_1"), await webhooks.delete("acc_1")] == [True, False]
    with pytest.raises(NotFound):
        await webhooks.get("acc_1")
    assert (await webhooks.get("acc_2")).url == _URL


async def test_a_url_that_is_not_permitted_is_not_stored(world: World) -> None:
    with pytest.raises(InvalidRequest):
        await world.webhooks().set("acc_1", "https://127.0.0.1/")
    with pytest.raises(NotFound):
        await world.webhooks().get("acc_1")


async def test_without_a_receipt_key_webhooks_are_disabled_and_can_be_deleted(world: World) -> None:
    webhooks = Webhooks(world.store, None, AddressPolicy().check_url, world.clock)
    for call in (webhooks.set("acc_1", _URL), webhooks.get("acc_1")):
        with pytest.raises(NotFound) as raised:
            await call
        assert raised.value.reason == "webhooks_disabled"
    assert await webhooks.delete("acc_1") is False


def test_an_event_has_at_most_a_thousand_models_and_the_total_of_all() -> None:
    one = UsageSummary(DAY, "m", 1, 0, 1, 1, 2, 0, 0, cost=5)
    sums = [replace(one, model=f"m{number}", total_tokens=number) for number in range(1_500)]
    found = usage_of_day(DAY, sums)
    assert (len(found["models"]), found["models_omitted"], found["models"][0]["model"]) == (1_000, 500, "m1499")
    assert (found["total"]["requests"], found["total"]["total_tokens"]) == (1_500, sum(range(1_500)))
