"""The contract of the stores of sessions, tokens, rate limits and plans; implementations provide a `world` fixture."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from services.auth.accounts.model import Account, AccountStore, NewAccount, Proof, open_account
from services.auth.accounts.plan_events import PlanEvent, PlanEventStatus, PlanEventStore
from services.auth.accounts.plans import Plan, PlanStore
from services.auth.audit import Actor, AuditLog
from services.auth.identities.model import IdentityStore
from services.auth.keys.minting import mint
from services.auth.keys.model import Bounds, KeyId, KeyStore
from services.auth.keys.pepper import Pepper
from services.auth.limits import LimitChanges
from services.auth.mail.queue import MailQueue, Topic, new_email
from services.auth.sessions.manager import SessionManager
from services.auth.sessions.model import OpenSession, SessionStore
from services.auth.sessions.one_time_tokens import OneTimeTokenStore, Purpose, mint_token
from services.auth.sessions.rate_limiter import RateLimiter, RateLimitRule, RateLimitStore
from services.auth.totp.model import TOTPStore
from services.common.errors import (
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Throttled,
    Unauthenticated,
)
from services.common.limits import parse_limits
from services.common.runtime.clock import SystemClock
from tests.contracts.deadlines import LongDeadlines

PEPPER = Pepper(b"contract")
BY = Actor("owner", "192.0.2.1")
EMAIL = "ada@example.com"
IDLE, TOTAL = 600, 3_600


class ManualClock:
    """A clock controlled by the test."""

    def __init__(self) -> None:
        self.seconds = datetime(2026, 8, 1, 12, tzinfo=UTC).timestamp()

    def now(self) -> float:
        """Return the time."""
        return self.seconds

    def monotonic(self) -> float:
        """Return the time."""
        return self.seconds


@dataclass(frozen=True, slots=True)
class World:
    """The ports over one empty database; rate-limit stores of two replicas."""

    accounts: AccountStore
    keys: KeyStore
    sessions: SessionStore
    tokens: OneTimeTokenStore
    rate_limit_stores: tuple[RateLimitStore, RateLimitStore]
    plans: PlanStore
    plan_events: PlanEventStore
    mail: MailQueue
    audit: AuditLog
    identities: IdentityStore
    totp: TOTPStore
    clock: ManualClock

    @property
    def at(self) -> datetime:
        """Return the current time."""
        return datetime.fromtimestamp(self.clock.seconds, UTC)

    async def account(self, email: str = EMAIL, *, password_hash: str | None = None) -> Account:
        """Store a new account."""
        account = open_account(email, now=self.at)
        await self.accounts.add(NewAccount(account, password_hash), by=BY)
        return account

    def session_manager(self) -> SessionManager:
        """Return a session limit of ten minutes without use, and of an hour in total."""
        return SessionManager(self.sessions, pepper=PEPPER, clock=self.clock, idle_seconds=IDLE, total_seconds=TOTAL)

    async def actions(self) -> list[str]:
        """Return the actions in the audit log, newest first."""
        return [event.action for event in await self.audit.events(account_id="", before="", limit=1000)]


async def _ended(session_manager: SessionManager, opened: OpenSession) -> bool:
    try:
        await session_manager.get(opened.token)
    except Unauthenticated:
        return True
    return False


class UserStoreContract(LongDeadlines):
    """Contract of `SessionStore`, `OneTimeTokenStore`, `RateLimitStore`, `PlanStore`, `MailQueue` and `AuditLog`."""

    async def test_a_suspended_account_has_no_session_and_gets_none_until_it_is_resumed(self, world: World) -> None:
        account, manager = await world.account(password_hash="hash"), world.session_manager()
        proof = Proof(account.id, password_hash="hash")
        opened = [await manager.open(proof, by=BY) for _ in range(2)]

        for _ in range(2):
            await world.accounts.suspend(account.id, by=BY, at=world.at)

        assert all([await _ended(manager, session) for session in opened])
        with pytest.raises(FailedPrecondition, match="Your account is suspended"):
            await manager.open(proof, by=BY)
        with pytest.raises(Unauthenticated):
            await world.accounts.set_password(opened[0].session.proof, "new", by=BY, at=world.at)
        assert await world.actions() == [
            *("account.suspended", "session.ended", "session.ended"),
            *("session.opened", "session.opened", "account.created"),
        ]
        await world.accounts.resume(account.id, by=BY, at=world.at)
        assert not await _ended(manager, await manager.open(proof, by=BY))

    async def test_an_operator_ends_one_session_or_all(self, world: World) -> None:
        account, manager = await world.account(), world.session_manager()
        opened = [await manager.open(Proof(account.id), by=BY) for _ in range(3)]

        assert await manager.end(opened[0].session.id, owner=account.id, by=BY) == 1
        assert [await _ended(manager, session) for session in opened] == [True, False, False]
        assert await manager.end(None, owner=account.id, by=BY) == 2
        assert await manager.end(None, owner=account.id, by=BY) == 0
        assert await manager.of_account(account.id) == []

    async def test_each_email_is_claimed_by_one_sender_at_a_time(self, world: World) -> None:
        queued = [new_email(Topic.SIGN_UP, f"ada{n}@example.com", by=BY, clock=world.clock) for n in range(12)]
        for email in queued:
            await world.mail.add(email)
        until = world.at + timedelta(minutes=2)
        claims = await asyncio.gather(*(world.mail.claim(count=2, now=world.at, until=until) for _ in range(8)))
        claimed = [email for claim in claims for email in claim]
        while more := await world.mail.claim(count=2, now=world.at, until=until):  # A sender may skip another's.
            claimed += more
        assert sorted(email.id for email in claimed) == sorted(email.id for email in queued)
        assert {email.tries for email in claimed} == {1}
        assert not await world.mail.due(world.at)

    async def test_an_email_waits_until_its_next_attempt_and_one_whose_sender_was_killed_is_sent_by_another(
        self, world: World
    ) -> None:
        email = new_email(Topic.PASSWORD_RESET, EMAIL, by=BY, clock=world.clock)
        await world.mail.add(email)
        [first] = await world.mail.claim(count=9, now=world.at, until=world.at + timedelta(minutes=2))
        assert (first.to, first.topic, first.by, first.created_at) == (EMAIL, Topic.PASSWORD_RESET, BY, world.at)
        world.clock.seconds += 120
        [second] = await world.mail.claim(count=9, now=world.at, until=world.at + timedelta(minutes=2))
        assert second.tries == 2
        await world.mail.put_back(second, next_try_at=world.at + timedelta(seconds=30))
        assert not await world.mail.due(world.at)
        world.clock.seconds += 30
        assert await world.mail.due(world.at)
        assert await world.mail.waiting() == 1
        await world.mail.remove(second)
        assert not await world.mail.due(world.at)
        assert await world.mail.waiting() == 0

    async def test_a_session_in_use_ends_after_an_hour(self, world: World) -> None:
        session_manager = world.session_manager()
        opened = await session_manager.open(Proof((await world.account()).id), by=BY)
        for _ in range(7):
            world.clock.seconds += 500
            assert (await session_manager.get(opened.token)).id == opened.session.id
        world.clock.seconds += 100

        assert await _ended(session_manager, opened), "a session that is always used would never end"

    async def test_a_session_unused_for_ten_minutes_ends(self, world: World) -> None:
        session_manager = world.session_manager()
        opened = await session_manager.open(Proof((await world.account()).id), by=BY)
        world.clock.seconds += IDLE - 1
        assert not await _ended(session_manager, opened)
        world.clock.seconds += IDLE

        assert await _ended(session_manager, opened)
        assert await session_manager.of_account(opened.session.account.id) == []

    async def test_a_check_of_a_session_does_not_keep_it_from_ending(self, world: World) -> None:
        session_manager = world.session_manager()
        opened = await session_manager.open(Proof((await world.account()).id), by=BY)
        for _ in range(3):
            world.clock.seconds += (IDLE - 1) // 3
            assert (await session_manager.get(opened.token, is_check=True)).id == opened.session.id
        world.clock.seconds += 4

        assert await _ended(session_manager, opened), "an open page keeps its session forever"

    async def test_a_session_ends_when_its_account_is_deleted_and_none_is_opened_after_that(self, world: World) -> None:
        session_manager, account = world.session_manager(), await world.account()
        before = await session_manager.open(Proof(account.id), by=BY)
        await world.accounts.delete(account.id, by=BY, at=world.at)

        assert await _ended(session_manager, before)
        with pytest.raises(Unauthenticated):
            await session_manager.open(Proof(account.id), by=BY)

    async def test_a_password_replaced_since_its_verification_opens_changes_and_deletes_nothing(
        self, world: World
    ) -> None:
        account = await world.account(password_hash="old")
        stale = Proof(account.id, password_hash="old")
        await world.accounts.set_password(stale, "new", by=BY, at=world.at)
        reported = await world.actions()

        for work in (
            world.session_manager().open(stale, by=BY),
            world.accounts.set_password(stale, "a thief's", by=BY, at=world.at),
            world.accounts.delete(account.id, by=BY, at=world.at, proof=stale),
        ):
            with pytest.raises(PermissionDenied):
                await work

        kept = await world.accounts.credentials(EMAIL)
        assert kept is not None
        assert kept.password_hash == "new"
        assert await world.actions() == reported

    async def test_a_session_that_ended_since_its_look_up_changes_nothing(self, world: World) -> None:
        account = await world.account(password_hash="old")
        opened = await world.session_manager().open(Proof(account.id), by=BY)
        made = [mint("laptop", daily_limit=None, pepper=PEPPER, clock=world.clock).key for _ in range(3)]
        await world.keys.add(account.id, made[0], by=BY)
        await world.session_manager().log_out(opened.token, by=BY)
        proof, reported = opened.session.proof, await world.actions()

        for work in (
            world.accounts.set_password(proof, "new", by=BY, at=world.at),
            world.accounts.delete(account.id, by=BY, at=world.at, proof=proof),
            world.keys.add(account.id, made[1], by=BY, proof=proof),
            world.keys.rotate(made[0].id, made[2], ends_at=world.at, by=BY, proof=proof),
            world.keys.revoke(made[0].id, by=BY, at=world.at, proof=proof),
        ):
            with pytest.raises(Unauthenticated):
                await work

        assert await world.actions() == reported

    async def test_a_deleted_account_gets_no_token_and_uses_none(self, world: World) -> None:
        account = await world.account()
        token, late = (
            mint_token(Purpose.RESET_PASSWORD, account_id=account.id, pepper=PEPPER, clock=world.clock).kept
            for _ in range(2)
        )
        await world.tokens.add(token, by=BY, at=world.at)
        await world.accounts.delete(account.id, by=BY, at=world.at)

        with pytest.raises(NotFound):
            await world.tokens.add(late, by=BY, at=world.at)
        with pytest.raises(InvalidRequest):
            await world.accounts.reset_password(token.digest, "hash", by=BY, at=world.at)

    async def test_a_one_time_token_is_used_by_one_of_many_concurrent_callers(self, world: World) -> None:
        account = await world.account()
        token = mint_token(Purpose.RESET_PASSWORD, account_id=account.id, pepper=PEPPER, clock=world.clock)
        await world.tokens.add(token.kept, by=BY, at=world.at)

        tries = (world.accounts.reset_password(token.kept.digest, f"hash {n}", by=BY, at=world.at) for n in range(8))
        answers = await asyncio.gather(*tries, return_exceptions=True)

        reset = [one for one in answers if not isinstance(one, InvalidRequest)]
        assert [one.email for one in reset if isinstance(one, Account)] == [EMAIL]
        assert len(reset) == 1

    async def test_a_one_time_token_works_for_its_purpose_and_time_only_and_a_new_one_replaces_it(
        self, world: World
    ) -> None:
        account = await world.account()
        old, new = (
            mint_token(Purpose.RESET_PASSWORD, account_id=account.id, pepper=PEPPER, clock=world.clock)
            for _ in range(2)
        )
        await world.tokens.add(old.kept, by=BY, at=world.at)
        await world.tokens.add(new.kept, by=BY, at=world.at)
        late = new.kept.expires_at

        with pytest.raises(InvalidRequest):
            await world.accounts.reset_password(old.kept.digest, "hash", by=BY, at=world.at)
        with pytest.raises(InvalidRequest):
            await world.accounts.verify_email(new.kept.digest, by=BY, at=world.at)
        with pytest.raises(InvalidRequest):
            await world.accounts.reset_password(new.kept.digest, "hash", by=BY, at=late)
        assert await world.accounts.reset_password(new.kept.digest, "hash", by=BY, at=late - timedelta(seconds=1))

    async def test_attempts_at_two_replicas_are_counted_together_and_none_is_lost(self, world: World) -> None:
        rule = RateLimitRule("tries", tries_max=10, window_seconds=60)
        replicas = [RateLimiter(store, pepper=PEPPER, clock=world.clock) for store in world.rate_limit_stores]

        tries = (replicas[number % 2].check(rule, EMAIL, client=f"192.0.2.{number}") for number in range(30))
        answers = await asyncio.gather(*tries, return_exceptions=True)

        assert sum(answer is None for answer in answers) == 10
        assert sum(isinstance(answer, Throttled) for answer in answers) == 20
        await replicas[0].check(rule, "another", client="192.0.2.1")
        world.clock.seconds += 61
        await replicas[1].check(rule, EMAIL, client="192.0.2.1")

    async def test_a_clock_that_steps_back_locks_out_no_user_for_longer_than_the_window(self, world: World) -> None:
        rule = RateLimitRule("tries", tries_max=2, window_seconds=900)
        rate_limiter = RateLimiter(world.rate_limit_stores[0], pepper=PEPPER, clock=world.clock)
        for _ in range(2):
            await rate_limiter.check(rule, EMAIL, client="a")

        world.clock.seconds -= 3 * 86_400
        for _ in range(2):
            await rate_limiter.check(rule, EMAIL, client="a")
        with pytest.raises(Throttled, match="in 15 minutes"):
            await rate_limiter.check(rule, EMAIL, client="a")

        world.clock.seconds -= 30  # For example another replica's clock.
        with pytest.raises(Throttled):
            await rate_limiter.check(rule, EMAIL, client="a")

    async def test_the_limit_of_keys_is_exact_when_twenty_are_created_at_once(self, world: World) -> None:
        account = await world.account()
        bounds = Bounds(active_max=5, new_per_day_max=10)

        def add(number: int) -> object:
            minted = mint(f"key {number}", daily_limit=None, pepper=PEPPER, clock=SystemClock())
            return world.keys.add(account.id, minted.key, by=BY, bounds=bounds)

        answers = await asyncio.gather(*(add(number) for number in range(20)), return_exceptions=True)  # type: ignore[call-overload]

        assert sum(isinstance(answer, FailedPrecondition) for answer in answers) == 15
        assert len(await world.keys.of_account(account.id)) == 5

    async def test_rotating_with_a_grace_gives_at_most_twice_as_many_working_keys(self, world: World) -> None:
        """Each has its own daily limit, so repeated rotation must not add them up."""
        account, bounds = await world.account(), Bounds(active_max=2, new_per_day_max=100)

        async def rotate(key_id: KeyId) -> KeyId:
            new = mint("laptop", daily_limit=None, pepper=PEPPER, clock=world.clock).key
            ends_at = world.at + timedelta(days=7)
            await world.keys.rotate(key_id, new, ends_at=ends_at, by=BY, bounds=bounds)
            return new.id

        one, other = (mint("laptop", daily_limit=None, pepper=PEPPER, clock=world.clock).key for _ in range(2))
        for key in (one, other):
            await world.keys.add(account.id, key, by=BY, bounds=bounds)
        newest = await rotate(await rotate(one.id))
        with pytest.raises(FailedPrecondition, match="This account has 4 active keys"):
            await rotate(newest)
        assert (await world.keys.get(newest)).replaced_by is None, "a refused rotation left something behind"

        await world.keys.revoke(one.id, by=BY, at=world.at)
        await rotate(newest)
        world.clock.seconds += 7 * 86_400
        await rotate(other.id)

    async def test_a_plans_bounds_take_precedence_over_the_settings(self, world: World) -> None:
        account = await world.account()
        await world.plans.set(Plan("free", 1000, active_keys_max=1, new_keys_per_day_max=3), by=BY, at=world.at)

        assert await world.keys.bounds_of(account.id, Bounds(5, 10)) == Bounds(1, 3)

    async def test_a_plans_limits_and_weight_apply_to_its_keys_unless_they_have_their_own(self, world: World) -> None:
        account = await world.account()
        limits = parse_limits(["account:tokens:day=100", "key:cost:month=5", "key:tokens:minute=6000"])
        await world.plans.set(Plan("free", 1000, limits=limits, weight=3), by=BY, at=world.at)
        own = mint(
            "own",
            daily_limit=None,
            pepper=PEPPER,
            clock=SystemClock(),
            limits=parse_limits(["key:cost:day=1", "key:tokens:minute=7"]),
        )
        await world.keys.add(account.id, own.key, by=BY)

        key = (await world.keys.find(own.key.digest)).key
        assert key is not None
        assert list(map(str, key.limits)) == [
            "account:tokens:day=100",
            "key:cost:day=1",
            "key:cost:month=5",
            "key:tokens:minute=7",
        ]
        assert key.weight == 3

    async def test_single_limits_of_a_plan_change_without_the_others_and_a_refused_change_changes_nothing(
        self, world: World
    ) -> None:
        limits = parse_limits(["account:tokens:day=100", "key:cost:month=5"])
        await world.plans.set(Plan("team", 1000, limits=limits, weight=3), by=BY, at=world.at)
        changes = LimitChanges(parse_limits(["key:tokens:minute=6"]), frozenset({"key:cost:month"}))

        changed = await world.plans.set(Plan("team", 0), by=BY, at=world.at, only=frozenset(), limit_changes=changes)
        with pytest.raises(InvalidRequest, match="There is no limit key:cost:month to remove"):
            await world.plans.set(Plan("team", 0), by=BY, at=world.at, only=frozenset(), limit_changes=changes)

        assert changed == Plan(
            "team", 1000, limits=parse_limits(["account:tokens:day=100", "key:tokens:minute=6"]), weight=3
        )
        assert await world.plans.get("team") == changed

    async def test_the_plan_pro_exists(self, world: World) -> None:
        assert await world.plans.get("pro") == Plan("pro", 10_000, account_daily_limit=50_000, weight=4)

    async def test_an_account_that_is_created_again_on_the_day_of_its_deletion_continues_its_counts(
        self, world: World
    ) -> None:
        """Before, each deletion and sign-up started the day's requests over."""
        first = await world.account("ada@example.com")
        await world.accounts.delete(first.id, by=BY, at=world.at)
        other = await world.account("bob@example.com")
        second = await world.account("Ada+again@example.com".lower())
        await world.accounts.delete(second.id, by=BY, at=world.at)
        third = await world.account("ada@example.com")
        sibling = await world.account("ada+too@example.com")

        assert len({account.id for account in (first, second, third, other, sibling)}) == 5
        found = [await world.accounts.get(account.id) for account in (first, second, third, other, sibling)]
        assert [account.quota_account_id for account in found] == [None, first.id, first.id, None, None]
        minted = mint("laptop", daily_limit=None, pepper=PEPPER, clock=SystemClock())
        await world.keys.add(third.id, minted.key, by=BY)
        key = (await world.keys.find(minted.key.digest)).key
        assert key is not None
        assert (key.account_id, key.quota_account_id) == (third.id, first.id)
        opened = await world.session_manager().open(Proof(third.id), by=BY)
        assert (await world.session_manager().get(opened.token)).account.quota_account_id == first.id

    @pytest.mark.parametrize(("limits", "days"), [([], 1), (["account:cost:month=5"], 31)])
    async def test_a_deleted_account_is_recognized_until_the_windows_of_its_limits_have_ended(
        self, world: World, limits: list[str], days: int
    ) -> None:
        world.clock.seconds = datetime(2026, 8, 1, 12, tzinfo=UTC).timestamp()
        await world.plans.set(Plan("free", 1000, limits=parse_limits(limits)), by=BY, at=world.at)
        first, late = await world.account("ada@example.com"), await world.account("bob@example.com")
        await world.accounts.delete(first.id, by=BY, at=world.at)
        await world.accounts.delete(late.id, by=BY, at=world.at)

        end = datetime(2026, 8, 1, tzinfo=UTC) + timedelta(days=days)
        world.clock.seconds = end.timestamp() + 60  # Redis' clock may be behind.
        assert (await world.account("ada@example.com")).id != first.id
        again = await world.accounts.get("ada@example.com")
        world.clock.seconds = end.timestamp() + 3_660
        await world.account("bob@example.com")

        assert again.quota_account_id == first.id
        assert (await world.accounts.get("bob@example.com")).quota_account_id is None

    async def test_a_plan_event_is_applied_once_unless_the_plan_was_set_later(self, world: World) -> None:
        account = await world.account()
        minted = mint("laptop", daily_limit=None, pepper=PEPPER, clock=SystemClock())
        await world.keys.add(account.id, minted.key, by=BY)

        async def apply(event_id: str, seconds: int, plan: str, *, reference: str = EMAIL) -> PlanEventStatus:
            event = PlanEvent(event_id, world.at + timedelta(seconds=seconds), reference, plan)
            return await world.plan_events.apply(event, by=BY, at=world.at)

        async def plan() -> str:
            key = (await world.keys.find(minted.key.digest)).key
            assert key is not None
            assert (await world.accounts.get(account.id)).plan == key.plan
            return key.plan

        assert await apply("evt_1", -60, "pro") is PlanEventStatus.APPLIED
        assert await plan() == "pro"
        assert await apply("evt_1", 0, "free") is PlanEventStatus.DUPLICATE
        assert await apply("evt_0", -61, "free") is PlanEventStatus.STALE
        assert await plan() == "pro"
        await world.accounts.set_plan(account.id, "free", by=BY, at=world.at)
        assert await apply("evt_2", -1, "pro") is PlanEventStatus.STALE
        assert await plan() == "free"
        assert await apply("evt_3", 1, "pro", reference=account.id) is PlanEventStatus.APPLIED
        assert (await world.actions()).count("account.plan_set") == 3

    async def test_a_plan_event_without_its_account_or_plan_can_be_delivered_again(self, world: World) -> None:
        event = PlanEvent("evt_1", world.at, EMAIL, "pro")
        with pytest.raises(NotFound, match="No account"):
            await world.plan_events.apply(event, by=BY, at=world.at)
        account = await world.account()
        with pytest.raises(NotFound, match="No plan gold"):
            await world.plan_events.apply(PlanEvent("evt_2", world.at, EMAIL, "gold"), by=BY, at=world.at)

        assert await world.plan_events.apply(event, by=BY, at=world.at) is PlanEventStatus.APPLIED
        assert (await world.accounts.get(account.id)).plan == "pro"

    async def test_of_concurrent_deliveries_of_an_event_one_is_applied(self, world: World) -> None:
        await world.account()
        event = PlanEvent("evt_1", world.at, EMAIL, "pro")
        statuses = await asyncio.gather(*(world.plan_events.apply(event, by=BY, at=world.at) for _ in range(5)))
        assert sorted(statuses) == [PlanEventStatus.APPLIED, *[PlanEventStatus.DUPLICATE] * 4]

    async def test_every_change_is_in_the_audit_log_and_no_failed_one_is(self, world: World) -> None:
        account = await world.account()
        minted = mint("laptop", daily_limit=None, pepper=PEPPER, clock=SystemClock())
        await world.keys.add(account.id, minted.key, by=BY)
        await world.keys.revoke(minted.key.id, by=BY, at=world.at)
        reported = await world.actions()
        assert reported == ["key.revoked", "key.created", "account.created"]

        again = mint("laptop", daily_limit=None, pepper=PEPPER, clock=SystemClock())
        with pytest.raises(FailedPrecondition):
            await world.keys.add(account.id, again.key, by=BY, bounds=Bounds(0, 0))
        with pytest.raises(NotFound):
            await world.accounts.set_plan(account.id, "no-such-plan", by=BY, at=world.at)
        await world.keys.revoke(minted.key.id, by=BY, at=world.at)

        assert await world.actions() == reported, "the log contains changes that were never made"

    async def test_a_deleted_user_is_named_nowhere_and_the_keys_stay_revoked(self, world: World) -> None:
        account = await world.account()
        minted = mint("laptop", daily_limit=None, pepper=PEPPER, clock=SystemClock())
        await world.keys.add(account.id, minted.key, by=BY)

        await world.accounts.delete(account.id, by=BY, at=world.at)

        events = await world.audit.events(account_id=account.id, before="", limit=100)
        assert events[0].action == "account.deleted"
        assert EMAIL not in str(events)
        found = (await world.keys.find(minted.key.digest)).key
        assert found is not None
        assert found.revoked_at is not None
        assert (await world.account()).id != account.id
