"""The contract of the stores of identities and of the second factor; implementations provide a `world` fixture."""

import asyncio
from dataclasses import replace

import pytest

from services.auth.accounts.model import Account, NewAccount, Proof, open_account
from services.auth.identities.model import IDENTITIES_MAX
from services.auth.identities.provider import ProviderIdentity
from services.auth.sessions.one_time_tokens import Purpose, mint_token
from services.auth.totp.model import Enrolment
from services.common.errors import AlreadyExists, FailedPrecondition, PermissionDenied, ServiceError, Unauthenticated
from services.common.ids import Kind, new_id
from tests.contracts.user_stores import BY, EMAIL, PEPPER, World

_ISSUER = "https://id.example.com"


def _stated(subject: str = "1001", email: str = EMAIL) -> ProviderIdentity:
    return ProviderIdentity("oidc", _ISSUER, subject, email, is_email_verified=True)


async def _verified(world: World, email: str = EMAIL) -> Account:
    """Store an account, and verify its address with a reset."""
    account = await world.account(email)
    await _reset_password(world, account)
    return await world.accounts.get(account.id)


async def _reset_password(world: World, account: Account) -> None:
    minted = mint_token(Purpose.RESET_PASSWORD, account_id=account.id, pepper=PEPPER, clock=world.clock)
    await world.tokens.add(minted.kept, by=BY, at=world.at)
    await world.accounts.reset_password(minted.kept.digest, "a new hash", by=BY, at=world.at)


async def _enabled(
    world: World, account: Account, *, step: int = 5, digests: tuple[str, ...] = ("a" * 64,)
) -> Enrolment:
    """Enable TOTP in a session of the account."""
    opened = await world.session_manager().open(Proof(account.id), by=BY)
    enrolment = Enrolment(new_id(Kind.TOTP), account.id, "sealed", world.at, is_enabled=False)
    await world.totp.enrol(opened.session.proof, enrolment)
    await world.totp.enable(opened.session.proof, enrolment, step, digests, by=BY, at=world.at)
    return replace(enrolment, is_enabled=True)


class IdentityStoreContract:
    """Contract of `IdentityStore` and `TOTPStore`, and of what sessions and accounts have to do with them."""

    async def test_an_account_is_stored_together_with_its_identity_or_not_at_all(self, world: World) -> None:
        account = open_account(EMAIL, now=world.at)
        await world.accounts.add(NewAccount(account, identity=_stated()), by=BY)
        other = open_account("other@example.com", now=world.at)

        with pytest.raises(AlreadyExists):
            await world.accounts.add(NewAccount(other, identity=_stated()), by=BY)

        found = await world.identities.find(_ISSUER, "1001")
        assert found is not None
        assert (found.account_id, found.provider, found.email, found.created_at) == (
            account.id,
            "oidc",
            EMAIL,
            world.at,
        )
        assert await world.accounts.credentials("other@example.com") is None
        assert await world.actions() == ["identity.linked", "account.created"]

    async def test_an_identity_belongs_to_one_account_also_if_two_link_it_at_once(self, world: World) -> None:
        accounts = [await world.account(f"ada{number}@example.com") for number in range(4)]

        results = await asyncio.gather(
            *(world.identities.link(Proof(one.id), _stated(), by=BY, at=world.at) for one in accounts),
            return_exceptions=True,
        )

        assert [type(one) for one in results].count(AlreadyExists) == 3
        listed = [await world.identities.of_account(one.id) for one in accounts]
        assert sorted(map(len, listed)) == [0, 0, 0, 1]

    async def test_linking_again_changes_nothing(self, world: World) -> None:
        account = await world.account()
        first = await world.identities.link(Proof(account.id), _stated(), by=BY, at=world.at)

        again = await world.identities.link(Proof(account.id), _stated(email="new@example.com"), by=BY, at=world.at)

        assert again == first
        assert (await world.actions()).count("identity.linked") == 1

    async def test_the_identities_of_an_account_are_bounded(self, world: World) -> None:
        account = await world.account()
        for number in range(IDENTITIES_MAX):
            await world.identities.link(Proof(account.id), _stated(str(number)), by=BY, at=world.at)

        with pytest.raises(FailedPrecondition):
            await world.identities.link(Proof(account.id), _stated("one more"), by=BY, at=world.at)
        assert [one.id for one in await world.identities.of_account(account.id)] == sorted(
            one.id for one in await world.identities.of_account(account.id)
        )

    async def test_an_identity_is_linked_by_an_address_only_if_it_is_that_of_the_account_and_verified(
        self, world: World
    ) -> None:
        unverified, verified = await world.account(), await _verified(world, "verified@example.com")

        for account, email in ((unverified, EMAIL), (verified, "another@example.com")):
            with pytest.raises(FailedPrecondition):
                await world.identities.link_by_email(account.id, email, _stated(), by=BY, at=world.at)
        linked = await world.identities.link_by_email(verified.id, verified.email, _stated(), by=BY, at=world.at)
        assert linked.account_id == verified.id

    async def test_an_account_with_a_second_factor_is_not_linked_by_its_address(self, world: World) -> None:
        account = await _verified(world)
        await _enabled(world, account)

        with pytest.raises(FailedPrecondition):
            await world.identities.link_by_email(account.id, EMAIL, _stated(), by=BY, at=world.at)

    async def test_the_first_verification_of_an_address_unlinks_identities_and_later_resets_do_not(
        self, world: World
    ) -> None:
        account = await world.account()
        await world.identities.link(Proof(account.id), _stated(), by=BY, at=world.at)
        await _reset_password(world, account)
        assert await world.identities.of_account(account.id) == []

        await world.identities.link(Proof(account.id), _stated(), by=BY, at=world.at)
        await _reset_password(world, account)
        assert len(await world.identities.of_account(account.id)) == 1

    async def test_a_session_needs_the_identity_that_was_proved(self, world: World) -> None:
        account = await world.account(password_hash="a hash")
        identity = await world.identities.link(Proof(account.id), _stated(), by=BY, at=world.at)
        proof, sessions = Proof(account.id, identity_id=identity.id), world.session_manager()
        assert await sessions.open(proof, by=BY)

        owner = Proof(account.id, password_hash="a hash")
        await world.identities.unlink(owner, identity.id, by=BY, at=world.at)

        with pytest.raises(PermissionDenied):
            await sessions.open(proof, by=BY)

    async def test_the_last_identity_of_an_account_without_a_password_cannot_be_removed_by_two_calls_at_once(
        self, world: World
    ) -> None:
        account = await world.account()
        linked = [
            await world.identities.link(Proof(account.id), _stated(str(number)), by=BY, at=world.at)
            for number in range(2)
        ]

        results = await asyncio.gather(
            *(world.identities.unlink(Proof(account.id), one.id, by=BY, at=world.at) for one in linked),
            return_exceptions=True,
        )

        assert [type(one) for one in results].count(FailedPrecondition) == 1
        assert len(await world.identities.of_account(account.id)) == 1

    async def test_a_session_of_an_account_with_a_second_factor_needs_a_proof_of_it(self, world: World) -> None:
        account, sessions = await world.account(), world.session_manager()
        assert await sessions.open(Proof(account.id), by=BY)
        enrolment = await _enabled(world, account)

        for totp_id in ("", new_id(Kind.TOTP)):
            with pytest.raises(Unauthenticated):
                await sessions.open(Proof(account.id, totp_id=totp_id), by=BY)
        assert await sessions.open(Proof(account.id, totp_id=enrolment.id), by=BY)

        await world.totp.reset(account.id, by=BY, at=world.at)
        with pytest.raises(Unauthenticated):
            await sessions.open(Proof(account.id, totp_id=enrolment.id), by=BY)
        assert await sessions.open(Proof(account.id), by=BY)

    async def test_a_secret_that_is_not_enabled_has_no_effect(self, world: World) -> None:
        account = await world.account()
        opened = await world.session_manager().open(Proof(account.id), by=BY)
        enrolment = Enrolment(new_id(Kind.TOTP), account.id, "sealed", world.at, is_enabled=False)
        await world.totp.enrol(opened.session.proof, enrolment)

        assert await world.totp.find(account.id) == enrolment
        assert await world.session_manager().open(Proof(account.id), by=BY)

    async def test_a_step_is_used_once_and_earlier_ones_with_it(self, world: World) -> None:
        account = await world.account()
        enrolment = await _enabled(world, account, step=5)

        used = [await world.totp.use_step(enrolment, step, sealed=f"sealed {step}") for step in (5, 4, 7, 6, 7)]
        at_once = await asyncio.gather(*(world.totp.use_step(enrolment, 8, sealed="sealed 8") for _ in range(5)))

        assert used == [False, False, True, False, False]
        assert at_once.count(True) == 1
        found = await world.totp.find(account.id)
        assert found is not None
        assert found.sealed == "sealed 8"

    async def test_a_recovery_code_is_used_once_and_by_its_account_only(self, world: World) -> None:
        account, other = await world.account(), await world.account("other@example.com")
        await _enabled(world, account, digests=("a" * 64, "b" * 64))

        assert not await world.totp.use_recovery_code(other.id, ["a" * 64], by=BY, at=world.at)
        used = await asyncio.gather(
            *(world.totp.use_recovery_code(account.id, ["c" * 64, "a" * 64], by=BY, at=world.at) for _ in range(5))
        )
        assert (used.count(True), await world.totp.recovery_codes(account.id)) == (1, 1)
        assert (await world.actions()).count("recovery_code.used") == 1

    async def test_two_enrolments_at_once_enable_one(self, world: World) -> None:
        account = await world.account()
        opened = await world.session_manager().open(Proof(account.id), by=BY)
        enrolments = [Enrolment(new_id(Kind.TOTP), account.id, "sealed", world.at, is_enabled=False) for _ in range(2)]
        for one in enrolments:
            await world.totp.enrol(opened.session.proof, one)

        async def enable(one: Enrolment, digest: str) -> None:
            await world.totp.enable(opened.session.proof, one, 5, [digest], by=BY, at=world.at)

        results = await asyncio.gather(
            *(enable(one, digest * 64) for one, digest in zip(enrolments, "ab", strict=True)), return_exceptions=True
        )
        assert [type(one) for one in results] == [FailedPrecondition, type(None)]
        with pytest.raises(FailedPrecondition):
            await world.totp.enrol(opened.session.proof, enrolments[0])

    async def test_enabling_in_a_session_that_has_ended_is_refused(self, world: World) -> None:
        account = await world.account()
        opened = await world.session_manager().open(Proof(account.id), by=BY)
        enrolment = Enrolment(new_id(Kind.TOTP), account.id, "sealed", world.at, is_enabled=False)
        await world.totp.enrol(opened.session.proof, enrolment)
        await world.sessions.end(opened.session.id, owner=account.id, by=BY, at=world.at)

        with pytest.raises(ServiceError):
            await world.totp.enable(opened.session.proof, enrolment, 5, ["a" * 64], by=BY, at=world.at)
        assert await world.session_manager().open(Proof(account.id), by=BY)

    async def test_a_deleted_account_keeps_no_identity_secret_or_recovery_code(self, world: World) -> None:
        account = await world.account()
        await world.identities.link(Proof(account.id), _stated(), by=BY, at=world.at)
        await _enabled(world, account)

        await world.accounts.delete(account.id, by=BY, at=world.at)

        assert await world.identities.find(_ISSUER, "1001") is None
        assert (await world.totp.find(account.id), await world.totp.recovery_codes(account.id)) == (None, 0)
