"""The contract of every store of accounts and keys; each implementation subclasses this and provides a `stores`
fixture.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.auth.accounts.model import Account, AccountStore, NewAccount, Proof, open_account
from services.auth.audit import Actor
from services.auth.keys.minting import mint
from services.auth.keys.model import Key, KeyId, KeyStore, KeyUpdate, MintedKey
from services.auth.keys.pepper import Pepper
from services.auth.limits import LimitChanges
from services.auth.watch.feed import ChangeStore
from services.common.errors import AlreadyExists, FailedPrecondition, InvalidRequest, NotFound
from services.common.limits import parse_limits
from services.common.runtime.clock import SystemClock
from tests.contracts.deadlines import LongDeadlines

PEPPER = Pepper(b"contract")
NOW = datetime(2026, 8, 1, 12, 30, 15, 250_000, tzinfo=UTC)
EMAIL = "ada@example.com"
OPERATOR = Actor("operator:test", "10.0.0.1")


@dataclass(frozen=True, slots=True)
class Stores:
    """The ports over one empty database."""

    accounts: AccountStore
    keys: KeyStore
    changes: ChangeStore

    async def account(self, email: str = EMAIL) -> Account:
        """Store a new account."""
        account = open_account(email, now=NOW)
        await self.accounts.add(NewAccount(account), by=OPERATOR)
        return account

    async def key(self, email: str = EMAIL, *, name: str = "laptop", daily_limit: int | None = None) -> MintedKey:
        """Store a new key."""
        minted = new_key(name, daily_limit=daily_limit)
        await self.keys.add(email, minted.key, by=OPERATOR)
        return minted


def new_key(name: str = "laptop", *, daily_limit: int | None = None, limits: tuple[str, ...] = ()) -> MintedKey:
    """Return a key that is not stored."""
    return mint(name, daily_limit=daily_limit, pepper=PEPPER, clock=SystemClock(), limits=parse_limits(limits))


class KeyStoreContract(LongDeadlines):
    """The contract of `AccountStore`, `KeyStore` and `ChangeStore`."""

    async def test_a_stored_key_is_found_by_its_digest_and_its_account(self, stores: Stores) -> None:
        account = await stores.account()
        minted = await stores.key()

        found = await stores.keys.find(minted.key.digest)

        assert found.key is not None
        assert (found.key.id, found.key.account_id, found.key.name) == (minted.key.id, account.id, "laptop")
        assert found.key.prefix == minted.secret[:12]
        assert found.revision == 1

    async def test_an_unknown_digest_is_not_found_and_the_revision_is_returned(self, stores: Stores) -> None:
        await stores.account()
        assert (await stores.keys.find("0" * 64)).revision == 0
        await stores.key()

        found = await stores.keys.find("0" * 64)

        assert (found.key, found.revision) == (None, 1)

    async def test_a_key_without_its_own_limit_has_its_plans(self, stores: Stores) -> None:
        await stores.account()
        minted = await stores.key()

        assert (await stores.keys.get(minted.key.id)).daily_limit == 1000

    @pytest.mark.parametrize("limit", [0, 1, 10**9])
    async def test_a_keys_own_limit_overrides_the_plans_until_it_is_removed(self, stores: Stores, limit: int) -> None:
        await stores.account()
        minted = await stores.key(daily_limit=7)
        assert (await stores.keys.get(minted.key.id)).daily_limit == 7

        assert (await stores.keys.set_limit(minted.key.id, limit, by=OPERATOR, at=NOW)).daily_limit == limit
        assert (await stores.keys.set_limit(minted.key.id, None, by=OPERATOR, at=NOW)).daily_limit == 1000

    async def test_a_keys_own_limits_override_the_plans_and_move_to_its_successor(self, stores: Stores) -> None:
        await stores.account()
        own = ("key:cost:month=5", "key:tokens:minute=100")
        minted = new_key(limits=own)
        await stores.keys.add(EMAIL, minted.key, by=OPERATOR)
        await stores.keys.change_limits(
            minted.key.id,
            LimitChanges(parse_limits(["key:tokens:minute=7"]), frozenset({"key:cost:month"})),
            by=OPERATOR,
            at=NOW,
        )
        successor = new_key()
        await stores.keys.rotate(minted.key.id, successor.key, ends_at=NOW, by=OPERATOR)

        for key in (minted.key, successor.key):
            found = (await stores.keys.find(key.digest)).key
            assert found is not None
            assert found == await stores.keys.get(key.id)
            assert [str(limit) for limit in found.limits] == ["key:tokens:minute=7"]
            assert found.weight == 1
        listed = await stores.keys.of_account(EMAIL)
        assert [key.limits for key in listed] == [parse_limits(["key:tokens:minute=7"])] * 2

    async def test_a_keys_deduplication_is_off_by_default_can_be_changed_and_moves_to_its_successor(
        self, stores: Stores
    ) -> None:
        await stores.account()
        minted = await stores.key()
        other = await stores.key(name="other")
        assert (await stores.keys.get(minted.key.id)).deduplicate_retries is False

        changed = await stores.keys.set_deduplication(minted.key.id, deduplicate_retries=True, by=OPERATOR, at=NOW)
        assert changed.deduplicate_retries is True
        changes = (await stores.changes.changes_after(2)).changes
        assert [(change.key_id, change.revision) for change in changes] == [(minted.key.id, 3)]

        successor = new_key()
        await stores.keys.rotate(minted.key.id, successor.key, ends_at=NOW, by=OPERATOR)
        found = (await stores.keys.find(successor.key.digest)).key
        assert found == await stores.keys.get(successor.key.id)
        listed = {key.id: key.deduplicate_retries for key in await stores.keys.of_account(EMAIL)}
        assert listed == {minted.key.id: True, other.key.id: False, successor.key.id: True}
        off = await stores.keys.set_deduplication(successor.key.id, deduplicate_retries=False, by=OPERATOR, at=NOW)
        assert off.deduplicate_retries is False

    async def test_a_key_is_created_with_its_deduplication(self, stores: Stores) -> None:
        await stores.account()
        minted = mint("a", daily_limit=None, pepper=PEPPER, clock=SystemClock(), deduplicate_retries=True)

        key = await stores.keys.add(EMAIL, minted.key, by=OPERATOR)

        assert key.deduplicate_retries is True
        assert key == await stores.keys.get(minted.key.id)

    async def test_a_change_of_a_keys_limits_is_a_change_of_the_key_and_a_refused_one_is_not(
        self, stores: Stores
    ) -> None:
        await stores.account()
        minted = await stores.key()
        await stores.key(name="other")

        changes = LimitChanges(parse_limits(["key:tokens:minute=7"]))
        await stores.keys.change_limits(minted.key.id, changes, by=OPERATOR, at=NOW)
        removed = LimitChanges(to_remove=frozenset({"key:cost:day"}))
        with pytest.raises(
            InvalidRequest, match=r"no limit key:cost:day to remove\. The limits are: key:tokens:minute"
        ):
            await stores.keys.change_limits(minted.key.id, removed, by=OPERATOR, at=NOW)

        changed = (await stores.changes.changes_after(2)).changes
        assert [(change.key_id, change.revision) for change in changed] == [(minted.key.id, 3)]

    async def test_of_concurrent_changes_of_a_keys_limits_none_is_lost(self, stores: Stores) -> None:
        await stores.account()
        minted = await stores.key()
        names = ("key:requests:minute", "key:tokens:minute", "key:tokens:day", "key:cost:day", "key:cost:month")

        changes = [LimitChanges(parse_limits([f"{name}=1"])) for name in names]
        await asyncio.gather(
            *(stores.keys.change_limits(minted.key.id, change, by=OPERATOR, at=NOW) for change in changes)
        )

        assert [limit.name for limit in (await stores.keys.get(minted.key.id)).limits] == sorted(names)

    async def test_an_accounts_limit_is_its_plans_or_the_highest_of_its_keys(self, stores: Stores) -> None:
        await stores.account()
        minted, other = await stores.key(), await stores.key()

        async def limit() -> int | None:
            found = await stores.keys.find(minted.key.digest)
            assert found.key is not None
            assert found.key == await stores.keys.get(minted.key.id)
            return found.key.account_daily_limit

        assert await limit() == 5_000
        await stores.keys.set_limit(other.key.id, 20_000, by=OPERATOR, at=NOW)
        assert await limit() == 20_000
        await stores.keys.set_limit(other.key.id, 7, by=OPERATOR, at=NOW)
        assert await limit() == 5_000
        await stores.keys.set_limit(other.key.id, 20_000, by=OPERATOR, at=NOW)
        await stores.keys.revoke(other.key.id, by=OPERATOR, at=NOW)
        assert await limit() == 5_000

    async def test_a_change_of_an_accounts_limit_is_a_change_of_all_its_keys(self, stores: Stores) -> None:
        await stores.account()
        minted, other = await stores.key(), await stores.key()

        async def changed(step: Any) -> set[str | None]:
            before = (await stores.changes.changes_after(None)).revision
            await step
            return {change.key_id for change in (await stores.changes.changes_after(before)).changes}

        both = {minted.key.id, other.key.id}
        assert await changed(stores.keys.set_limit(other.key.id, 20_000, by=OPERATOR, at=NOW)) == both
        assert await changed(stores.keys.revoke(other.key.id, by=OPERATOR, at=NOW)) == both
        assert minted.key.id in await changed(stores.key(daily_limit=9_000))

    async def test_a_revoked_key_keeps_the_time_of_its_first_revocation(self, stores: Stores) -> None:
        await stores.account()
        minted = await stores.key()
        await stores.keys.revoke(minted.key.id, by=OPERATOR, at=NOW)

        again = await stores.keys.revoke(minted.key.id, by=OPERATOR, at=NOW + timedelta(hours=1))

        assert again.revoked_at == NOW
        found = await stores.keys.find(minted.key.digest)
        assert found.key == again
        assert found.revision == 2, "a revocation that changes nothing must not be a change"

    async def test_a_revoked_key_stays_revoked_when_its_limit_changes(self, stores: Stores) -> None:
        await stores.account()
        minted = await stores.key()
        await stores.keys.revoke(minted.key.id, by=OPERATOR, at=NOW)

        assert (await stores.keys.set_limit(minted.key.id, 5, by=OPERATOR, at=NOW)).revoked_at == NOW

    async def test_deleting_an_account_reports_each_of_its_keys_except_those_revoked_before(
        self, stores: Stores
    ) -> None:
        account = await stores.account()
        early, *others = [await stores.key() for _ in range(4)]
        await stores.keys.revoke(early.key.id, by=OPERATOR, at=NOW)
        before = (await stores.changes.changes_after(None)).revision

        await stores.accounts.delete(account.id, by=OPERATOR, at=NOW + timedelta(days=1))

        listed = {key.id: key.revoked_at for key in await stores.keys.of_account(account.id)}
        assert listed.pop(early.key.id) == NOW, "the time of the first revocation is lost"
        assert listed == {one.key.id: NOW + timedelta(days=1) for one in others}
        reported = (await stores.changes.changes_after(before)).changes
        assert {change.key_id for change in reported if change.is_revoked} == set(listed)
        assert len({change.revision for change in reported}) == 3

    async def test_times_are_returned_in_utc_with_microseconds(self, stores: Stores) -> None:
        await stores.account()
        minted = await stores.key()

        key = await stores.keys.revoke(minted.key.id, by=OPERATOR, at=NOW)

        assert key.created_at == minted.key.created_at
        assert key.created_at.utcoffset() == timedelta(0)
        assert key.revoked_at == NOW

    async def test_an_account_lists_its_own_keys_oldest_first_with_revoked_ones(self, stores: Stores) -> None:
        await stores.account()
        await stores.account("eve@example.com")
        first, second = await stores.key(name="first"), await stores.key(name="second")
        await stores.key("eve@example.com")
        await stores.keys.revoke(first.key.id, by=OPERATOR, at=NOW)

        listed = await stores.keys.of_account(EMAIL)

        assert [key.id for key in listed] == [first.key.id, second.key.id]

    async def test_pages_contain_each_key_of_the_account_once(self, stores: Stores) -> None:
        await stores.account()
        await stores.account("eve@example.com")
        await stores.key("eve@example.com")
        kept = [(await stores.key(name=f"key {number}")).key.id for number in range(5)]

        pages, after = [], ""
        while page := [key.id for key in await stores.keys.of_account(EMAIL, after=after, limit=2)]:
            pages.append(page)
            after = page[-1]

        assert [len(page) for page in pages] == [2, 2, 1]
        assert [key_id for page in pages for key_id in page] == sorted(kept)

    async def test_an_email_address_has_one_account(self, stores: Stores) -> None:
        await stores.account()

        with pytest.raises(AlreadyExists, match=EMAIL):
            await stores.account()

    async def test_a_missing_object_is_named(self, stores: Stores) -> None:
        for attempt in (
            stores.keys.get(KeyId("key_none")),
            stores.keys.revoke(KeyId("key_none"), by=OPERATOR, at=NOW),
            stores.keys.set_limit(KeyId("key_none"), 1, by=OPERATOR, at=NOW),
            stores.keys.change_limits(KeyId("key_none"), LimitChanges(), by=OPERATOR, at=NOW),
            stores.keys.set_deduplication(KeyId("key_none"), deduplicate_retries=True, by=OPERATOR, at=NOW),
        ):
            with pytest.raises(NotFound, match="key_none"):
                await attempt
        for other in (stores.keys.of_account(EMAIL), stores.keys.add(EMAIL, new_key().key, by=OPERATOR)):
            with pytest.raises(NotFound, match=f"No account {EMAIL}"):
                await other
        assert (await stores.changes.changes_after(0)).revision == 0, "a refused change must not be a change"

    async def test_a_key_under_an_unknown_pepper_is_detected_at_any_position(self, stores: Stores) -> None:
        assert await stores.keys.unknown_pepper(frozenset(), now=NOW) is None
        await stores.account()
        await stores.key()
        low, high = "0" * 12, "f" * 12
        for others in (set(), {low}, {high}, {low, high}):
            assert await stores.keys.unknown_pepper(frozenset(others), now=NOW) == PEPPER.id
            assert await stores.keys.unknown_pepper(frozenset({PEPPER.id} | others), now=NOW) is None

    async def test_a_pepper_of_invalid_keys_only_is_not_needed(self, stores: Stores) -> None:
        """A revoked key is never used, so it is never rehashed: it must not require an old pepper for ever."""
        await stores.account()
        minted = await stores.key()
        assert await stores.keys.count_with_peppers(frozenset({PEPPER.id}), now=NOW) == 1
        await stores.keys.revoke(minted.key.id, by=OPERATOR, at=NOW)

        assert await stores.keys.unknown_pepper(frozenset(), now=NOW) is None
        assert await stores.keys.count_with_peppers(frozenset({PEPPER.id}), now=NOW) == 0

    async def test_a_rehashed_key_is_the_same_key_under_its_new_digest_only(self, stores: Stores) -> None:
        await stores.account()
        minted = await stores.key()
        before = await stores.keys.find("0" * 64, minted.key.digest)
        await stores.keys.move(minted.key.id, digest="a" * 64, pepper_id="another")

        after = await stores.keys.find("a" * 64, minted.key.digest)
        assert (before.pepper_id, after.pepper_id) == (PEPPER.id, "another")
        assert (after.key, after.revision) == (before.key, before.revision)
        assert (await stores.keys.find(minted.key.digest)).key is None

    async def test_changes_come_in_order_and_only_those_after_the_revision(self, stores: Stores) -> None:
        await stores.account()
        first, second = await stores.key(), await stores.key()
        await stores.keys.set_limit(first.key.id, 3, by=OPERATOR, at=NOW)

        read = await stores.changes.changes_after(1)

        # The limit of a key can be the limit of its account, so it is a change of the other key too.
        assert read.revision == 4
        assert [(change.key_id, change.revision) for change in read.changes] == [
            (first.key.id, 3),
            (second.key.id, 4),
        ]
        assert not (await stores.changes.changes_after(4)).changes

    async def test_the_current_revision_is_read_without_earlier_changes(self, stores: Stores) -> None:
        await stores.account()
        await stores.key()

        read = await stores.changes.changes_after(None)

        assert (read.revision, list(read.changes)) == (1, [])

    async def test_concurrent_changes_each_have_a_revision_and_none_is_missed(self, stores: Stores) -> None:
        await stores.account()

        minted = await asyncio.gather(*(stores.key(name=f"key {number}") for number in range(20)))

        read = await stores.changes.changes_after(0)
        assert [change.revision for change in read.changes] == list(range(1, 21))
        assert {change.key_id for change in read.changes} == {key.key.id for key in minted}

    async def test_an_owner_changes_the_settings_of_a_key_and_each_change_is_logged_once(self, stores: Stores) -> None:
        account = await stores.account()
        minted = await stores.key(daily_limit=500)
        proof, owner = Proof(account.id), Actor("owner", "192.0.2.1")
        limits = parse_limits(["key:tokens:day=1000"])
        changes = KeyUpdate(
            frozenset({"name", "expires_at", "models", "owner_daily_limit", "owner_limits", "paused"}),
            name="renamed",
            expires_at=NOW + timedelta(days=1),
            models=("openai/*",),
            owner_daily_limit=100,
            owner_limits=limits,
            paused=True,
        )

        for _ in range(2):
            key = await stores.keys.update(minted.key.id, changes, by=owner, at=NOW, proof=proof)

        assert (key.name, key.expires_at, key.models) == ("renamed", NOW + timedelta(days=1), ("openai/*",))
        assert (key.daily_limit, key.owner_daily_limit, key.limits, key.paused_at) == (100, 100, limits, NOW)
        only_resumed = KeyUpdate(frozenset({"paused"}))
        key = await stores.keys.update(minted.key.id, only_resumed, by=owner, at=NOW, proof=proof)
        assert (key.name, key.paused_at, key.daily_limit) == ("renamed", None, 100)
        found = (await stores.keys.find(minted.key.digest)).key
        assert found is not None
        assert (found.name, found.daily_limit) == ("renamed", 100)
        assert (await stores.changes.changes_after(1)).revision == 4

    async def test_an_owners_limit_applies_only_below_that_of_the_plan(self, stores: Stores) -> None:
        account = await stores.account()
        minted = await stores.key(daily_limit=500)
        await stores.keys.change_limits(
            minted.key.id, LimitChanges(parse_limits(["key:tokens:minute=600"])), by=OPERATOR, at=NOW
        )

        async def update(**fields: Any) -> Key:
            changes = KeyUpdate(frozenset(fields), **fields)
            return await stores.keys.update(minted.key.id, changes, by=OPERATOR, at=NOW, proof=Proof(account.id))

        with pytest.raises(InvalidRequest, match="at most 500 requests a day"):
            await update(owner_daily_limit=501)
        with pytest.raises(InvalidRequest, match="key:tokens:minute may be at most 600"):
            await update(owner_limits=parse_limits(["key:tokens:minute=601"]))
        await update(owner_daily_limit=400, owner_limits=parse_limits(["key:tokens:minute=500", "key:tokens:day=9"]))
        key = await stores.keys.set_limit(minted.key.id, 300, by=OPERATOR, at=NOW)
        assert key.daily_limit == 300, "the operator's limit is lower"
        assert list(map(str, key.limits)) == ["key:tokens:day=9", "key:tokens:minute=500"]
        key = await update(owner_daily_limit=None, owner_limits=())
        assert (key.daily_limit, list(map(str, key.limits))) == (300, ["key:tokens:minute=600"])

    async def test_a_rotated_key_keeps_its_owners_limits_and_neither_key_gets_a_longer_life(
        self, stores: Stores
    ) -> None:
        account = await stores.account()
        minted, successor = await stores.key(), new_key()
        proof = Proof(account.id)
        limited = KeyUpdate(frozenset({"owner_daily_limit"}), owner_daily_limit=7)
        await stores.keys.update(minted.key.id, limited, by=OPERATOR, at=NOW, proof=proof)
        ends_at = NOW + timedelta(hours=1)
        new, _ = await stores.keys.rotate(minted.key.id, successor.key, ends_at=ends_at, by=OPERATOR, proof=proof)
        assert new.daily_limit == 7

        later = KeyUpdate(frozenset({"expires_at"}), expires_at=NOW + timedelta(days=9))
        with pytest.raises(FailedPrecondition, match="was rotated"):
            await stores.keys.update(minted.key.id, later, by=OPERATOR, at=NOW, proof=proof)
        with pytest.raises(FailedPrecondition, match="has expired"):
            await stores.keys.update(minted.key.id, limited, by=OPERATOR, at=ends_at, proof=proof)

    async def test_a_suspension_stops_all_keys_of_an_account_until_it_is_resumed(self, stores: Stores) -> None:
        account = await stores.account()
        first, second = await stores.key(), await stores.key()
        await stores.keys.revoke(second.key.id, by=OPERATOR, at=NOW)
        before = (await stores.changes.changes_after(None)).revision

        for at in (NOW, NOW + timedelta(hours=1)):
            suspended = await stores.accounts.suspend(account.email, by=OPERATOR, at=at)
        assert suspended.suspended_at == NOW
        found = (await stores.keys.find(first.key.digest)).key
        assert found is not None
        assert found.is_suspended
        changes = (await stores.changes.changes_after(before)).changes
        assert [(change.key_id, change.is_revoked) for change in changes] == [(first.key.id, True)]

        before = (await stores.changes.changes_after(None)).revision
        for _ in range(2):
            assert (await stores.accounts.resume(account.id, by=OPERATOR, at=NOW)).suspended_at is None
        found = (await stores.keys.find(first.key.digest)).key
        assert found is not None
        assert not found.is_suspended
        changes = (await stores.changes.changes_after(before)).changes
        assert [(change.key_id, change.is_revoked) for change in changes] == [(first.key.id, False)]
        with pytest.raises(NotFound):
            await stores.accounts.suspend("nobody@example.com", by=OPERATOR, at=NOW)

    async def test_a_key_of_another_account_cannot_be_changed(self, stores: Stores) -> None:
        await stores.account()
        minted = await stores.key()
        other = await stores.account("bob@example.com")

        with pytest.raises(NotFound):
            await stores.keys.update(
                minted.key.id,
                KeyUpdate(frozenset({"paused"}), paused=True),
                by=OPERATOR,
                at=NOW,
                proof=Proof(other.id),
            )
        assert (await stores.keys.get(minted.key.id)).paused_at is None

    async def test_concurrent_revocations_of_a_key_revoke_it_once(self, stores: Stores) -> None:
        await stores.account()
        minted = await stores.key()
        times = [NOW + timedelta(seconds=number) for number in range(5)]

        keys = await asyncio.gather(*(stores.keys.revoke(minted.key.id, by=OPERATOR, at=time) for time in times))

        assert len({key.revoked_at for key in keys}) == 1
        assert (await stores.changes.changes_after(0)).revision == 2
