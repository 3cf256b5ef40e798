"""A quota replica of the previous version beside a new one: no key gets more than its limit, and no charge is lost.

The previous version's scripts are in `previous_layout`, as they were released.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from services.common.verdict import Verdict
from services.quota.holds import Counter, DayStatus, Denied, Held, Holds, KeyRef, Reservation, Settlement
from services.quota.redis.store import RedisHoldStore, connect
from tests.properties.hold_world import HoldWorld, opened_world
from tests.valkey_backend import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]

SCRIPTS = Path(__file__).parent / "previous_layout"
KEY, ACCOUNT, LIMIT = "key_world", "acc_world", 6


@dataclass
class PreviousQuota:
    """The store of a replica of the previous version."""

    client: Any
    offset: int
    hold_ms: int = 60_000

    async def reserve(self, request_id: str, *, day: int, initial_count: int = 0, limit: int = LIMIT) -> bool | None:
        """Hold a slot; returns whether it is held, or None if the key's entries cannot be used."""
        keys = (self._name, self._deadlines)
        arguments = (self.offset, 0, 1_000_000, self.hold_ms, KEY, ACCOUNT, limit, day, initial_count, request_id)
        answer = await self._run("reserve", keys, arguments)
        return None if answer is None else bool(answer[3])

    async def settle(self, request_id: str, *, day: int, verdict: Verdict = Verdict.CHARGED) -> bool | None:
        """Close a hold; None if the key's entries cannot be used."""
        answer = await self._run("settle", (f"{self._name}:{day}", self._deadlines), (KEY, day, request_id, verdict))
        return None if answer is None else bool(answer[0])

    async def _run(self, script: str, keys: tuple[str, ...], arguments: tuple[Any, ...]) -> Any:
        text = (SCRIPTS / f"{script}.lua").read_text(encoding="utf-8")
        try:
            return await self.client.eval(text, len(keys), *keys, *arguments)
        except ResponseError as exc:
            if "WRONGTYPE" in str(exc):
                return None
            raise

    @property
    def _name(self) -> str:
        return f"quota:{{{zlib.crc32(KEY.encode()) % 256}}}:{KEY}"

    @property
    def _deadlines(self) -> str:
        return f"quota:{{{zlib.crc32(KEY.encode()) % 256}}}:deadlines"


@pytest.fixture
async def world(valkey_url: str, tmp_path: Path) -> AsyncIterator[HoldWorld]:
    """An empty server and an empty ledger."""
    async with opened_world(valkey_url, tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture
def previous(world: HoldWorld) -> PreviousQuota:
    """A replica of the previous version on the same server."""
    return PreviousQuota(world.client, world.holds._offset)


@pytest.fixture
def holds(world: HoldWorld) -> Holds:
    """A new replica."""
    return Holds(world.holds, world.ledger)


def reservation(request_id: str, limit: int = LIMIT) -> Reservation:
    """Return a reserve request for one slot."""
    return Reservation(request_id, KEY, ACCOUNT, limit, 100)


async def counts(world: HoldWorld, key_id: str = KEY) -> tuple[int, int]:
    """Return what is charged to and held by a key, or by the account."""
    (status,) = await world.holds.status([KeyRef(ACCOUNT, key_id)])
    assert isinstance(status, DayStatus)
    return status.charged, status.held


async def test_a_running_counter_and_its_holds_move_without_a_gap(
    world: HoldWorld, previous: PreviousQuota, holds: Holds
) -> None:
    for number in range(4):
        assert await previous.reserve(f"req_{number}", day=world.day)
    await previous.settle("req_0", day=world.day)
    await previous.settle("req_1", day=world.day)

    outcomes = await holds.reserve([reservation(f"req_new_{number}") for number in range(3)])

    assert [type(outcome) for outcome in outcomes] == [Held, Held, Denied]
    assert await counts(world) == (2, 4)
    closed = await holds.settle([Settlement("req_2", ACCOUNT, world.day, Verdict.CHARGED)])
    assert closed == [True], "a hold of the previous version is settled by a new one"
    assert await counts(world) == (3, 3)


async def test_the_previous_version_holds_nothing_more_of_a_key_that_moved(
    world: HoldWorld, previous: PreviousQuota, holds: Holds
) -> None:
    await previous.reserve("req_old", day=world.day)
    await holds.reserve([reservation("req_new")])

    assert await previous.reserve("req_1", day=world.day) is None
    assert await previous.settle("req_old", day=world.day) is None
    assert await counts(world) == (0, 2)


async def test_a_key_without_a_counter_is_fenced_before_the_ledger_is_read(
    world: HoldWorld, previous: PreviousQuota, holds: Holds
) -> None:
    """Otherwise a slow previous replica could start a second counter from the same count."""
    await holds.reserve([reservation("req_new")])

    assert await previous.reserve("req_1", day=world.day) is None


async def test_overdue_holds_that_moved_are_swept(world: HoldWorld, previous: PreviousQuota, holds: Holds) -> None:
    await previous.reserve("req_lost", day=world.day)
    await holds.reserve([reservation("req_new")])
    await world.grow_older()

    assert await world.sweeper.sweep() == 2

    assert await counts(world) == (0, 0)


async def test_a_row_of_a_hold_that_moved_is_charged_once_to_key_and_account(
    world: HoldWorld, previous: PreviousQuota, holds: Holds
) -> None:
    """The account's count in the ledger includes the row, and the hold is settled later."""
    await previous.reserve("req_old", day=world.day)
    world.reserved_at["req_old"] = (await world.store.now()) - 1
    await world.commit_row("req_old")

    await holds.reserve([reservation("req_new")])
    await holds.settle([Settlement("req_old", ACCOUNT, world.day, Verdict.CHARGED)])
    await holds.settle([Settlement("req_new", ACCOUNT, world.day, Verdict.RELEASED)])

    assert (await counts(world), await counts(world, "")) == ((1, 0), (1, 0))


async def test_a_row_of_the_previous_version_that_came_later_is_charged_to_the_account_by_reconciliation(
    world: HoldWorld, previous: PreviousQuota, holds: Holds
) -> None:
    await previous.reserve("req_old", day=world.day)
    world.reserved_at["req_old"] = (await world.store.now()) - 1
    await holds.reserve([reservation("req_new")])
    await world.commit_row("req_old")
    await holds.settle([Settlement("req_old", ACCOUNT, world.day, Verdict.CHARGED)])
    await holds.settle([Settlement("req_new", ACCOUNT, world.day, Verdict.RELEASED)])
    assert (await counts(world), await counts(world, "")) == ((1, 0), (0, 0))
    await world.grow_older()

    assert await world.sweeper.reconcile() == 1

    assert await counts(world, "") == (1, 0)


async def test_a_repeated_or_interrupted_move_changes_nothing_more(
    world: HoldWorld, previous: PreviousQuota, holds: Holds
) -> None:
    await previous.reserve("req_old", day=world.day)
    counter = Counter(ACCOUNT, KEY, world.day)
    await world.holds.take_over([counter])
    await holds.reserve([reservation("req_new")])

    await asyncio.gather(*(RedisHoldStore(world.client, hold_seconds=60).take_over([counter]) for _ in range(3)))

    assert await counts(world) == (0, 2)
    assert not [name for name in await world.client.keys("*") if name.endswith(b":moved")]


@pytest.mark.parametrize(
    "fields", [{"charged": "garbage"}, {"limit": "3"}, {"charged": "1", "limit": "x", "a b": "1 x"}]
)
async def test_entries_that_the_previous_version_did_not_write_block_nothing(
    world: HoldWorld, previous: PreviousQuota, holds: Holds, fields: dict[str, str]
) -> None:
    await world.client.hset(f"{previous._name}:{world.day}", mapping=fields)

    (outcome,) = await holds.reserve([reservation("req_new")])

    assert isinstance(outcome, Held)
    assert await counts(world) == (1 if fields.get("charged") == "1" else 0, 1)


@pytest.mark.parametrize("seed", range(5))
async def test_both_versions_at_once_never_exceed_the_limit(
    world: HoldWorld, previous: PreviousQuota, holds: Holds, valkey_url: str, seed: int
) -> None:
    """Requests arrive at both versions at the same time, over separate connections, until the limit is reached."""
    client: Any = connect(valkey_url, timeout_seconds=10)
    other = PreviousQuota(client, previous.offset)

    async def by_previous(number: int) -> bool:
        held = await other.reserve(f"req_previous_{number}", day=world.day)
        if held and number % 2 == seed % 2:
            await other.settle(f"req_previous_{number}", day=world.day)
        return bool(held)

    async def by_new(number: int) -> bool:
        await asyncio.sleep(0.001 * seed)
        (outcome,) = await holds.reserve([reservation(f"req_new_{number}")])
        if isinstance(outcome, Held) and number % 2:
            await holds.settle([Settlement(f"req_new_{number}", ACCOUNT, world.day, Verdict.CHARGED)])
        return isinstance(outcome, Held)

    try:
        granted = await asyncio.gather(*(step(number) for number in range(8) for step in (by_previous, by_new)))
    finally:
        await client.aclose()

    assert sum(granted) == LIMIT
    charged, held = await counts(world)
    assert charged + held == LIMIT


async def test_a_status_of_a_key_that_did_not_move_yet_is_the_ledgers(
    world: HoldWorld, previous: PreviousQuota
) -> None:
    await previous.reserve("req_old", day=world.day)

    (status,) = await Holds(world.holds, world.ledger).status([KeyRef(ACCOUNT, KEY)])

    assert (status.charged, status.held) == (0, 0)
