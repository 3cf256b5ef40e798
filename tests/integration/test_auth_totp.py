"""The second factor: enrolment, codes, recovery codes and their limits, in the real auth service."""

import asyncio
import base64
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from grpc import StatusCode, aio

from services.auth.totp.codes import Secret
from services.common.rpc.channel import open_channel
from stack.auth.v1 import accounts_pb2, audit_pb2, owner_pb2, sessions_pb2, totp_pb2
from stack.auth.v1.totp_pb2_grpc import TOTPServiceStub
from tests.integration.auth_api import ADDRESS, PASSWORD, AuthAPI, auth_api_of, bearer, from_address, refusal
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, AuthProcess, running_auth

pytestmark = pytest.mark.xdist_group("auth-totp")


@dataclass
class App:
    """An authenticator app. Each code works once, so it uses the steps that auth accepts one after another."""

    secret: Secret
    recovery_codes: list[str] = field(default_factory=list)
    used: int = 0

    def code(self) -> str:
        """Return the next code that was not used. Two are accepted at any time, even if a step ends in ten seconds."""
        self.used = max(self.used + 1, int(time.time() + 10) // 30 - 1)
        return self.secret.code(self.used).decode()

    def code_of(self, offset: int) -> str:
        """Return the code of another step than the current one."""
        return self.secret.code(int(time.time()) // 30 + offset).decode()


@dataclass(frozen=True)
class World:
    """A running auth service."""

    auth_api: AuthAPI
    totp: TOTPServiceStub
    database: Path

    async def enabled(self, email: str) -> tuple[str, App]:
        """Sign up, enable TOTP, and return the session and the app."""
        token = await self.auth_api.sign_up(email)
        app = await self.enrolled(token)
        answer = await self.enable(token, app.code())
        app.recovery_codes = list(answer.recovery_codes)
        return token, app

    async def enrolled(self, token: str, *, password: str = PASSWORD) -> App:
        """Return an app with a new secret."""
        request = totp_pb2.EnrolOwnTOTPRequest(password=password)
        enrolled = await self.totp.EnrolOwnTOTP(request, metadata=bearer(token))
        return App(Secret(base64.b32decode(enrolled.secret)))

    async def enable(self, token: str, code: str) -> totp_pb2.EnableOwnTOTPResponse:
        """Enable TOTP with a code."""
        return await self.totp.EnableOwnTOTP(totp_pb2.EnableOwnTOTPRequest(code=code), metadata=bearer(token))

    async def pending(self, email: str, *, password: str = PASSWORD, address: str = ADDRESS) -> str:
        """Log in with the password, and return the token of the pending log-in."""
        request = sessions_pb2.LogInRequest(email=email, password=password)
        answer = await self.auth_api.sessions.LogIn(request, metadata=from_address(address))
        assert not answer.HasField("session")
        return answer.pending_token

    async def complete(
        self, pending: str, code: str, *, device: str = "", address: str = ADDRESS
    ) -> sessions_pb2.OpenSession:
        """Complete a pending log-in with a code."""
        request = totp_pb2.CompleteLogInRequest(pending_token=pending, code=code, device_token=device)
        return (await self.totp.CompleteLogIn(request, metadata=from_address(address))).session

    async def state(self, token: str) -> totp_pb2.GetOwnTOTPResponse:
        """Return whether the account of a session has TOTP."""
        return await self.totp.GetOwnTOTP(totp_pb2.GetOwnTOTPRequest(), metadata=bearer(token))

    async def disable(self, token: str, code: str, *, password: str = PASSWORD) -> None:
        """Disable TOTP."""
        request = totp_pb2.DisableOwnTOTPRequest(password=password, code=code)
        await self.totp.DisableOwnTOTP(request, metadata=bearer(token))

    async def replace_codes(self, token: str, code: str) -> list[str]:
        """Return new recovery codes."""
        request = totp_pb2.ReplaceRecoveryCodesRequest(password=PASSWORD, code=code)
        return list((await self.totp.ReplaceRecoveryCodes(request, metadata=bearer(token))).recovery_codes)

    async def reset_password(self, email: str, password: str) -> str:
        """Choose a password with an operator's link, and return the device token."""
        request = accounts_pb2.CreatePasswordResetRequest(account=email)
        token = (await self.auth_api.accounts.CreatePasswordReset(request, metadata=bearer())).token
        reset = sessions_pb2.ResetPasswordRequest(token=token, password=password)
        return (await self.auth_api.sessions.ResetPassword(reset)).device_token

    async def actions(self, email: str) -> list[str]:
        """Return the audit events of an account other than those of sessions, oldest first."""
        request = audit_pb2.ListAuditEventsRequest(account=email)
        events = (await self.auth_api.audit.ListAuditEvents(request, metadata=bearer())).events
        return [event.action for event in reversed(events) if not event.action.startswith("session.")]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AuthProcess, Path]]:
    folder = tmp_path_factory.mktemp("auth")
    with running_auth(folder, _settings()) as process:
        yield process, folder / "auth.db"


def _settings(**changes: str) -> dict[str, str]:
    return {
        "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
        "AUTH_KEY_PEPPER": PEPPER,
        "AUTH_SIGN_UPS_PER_ADDRESS_MAX": "10000",
        "AUTH_LOG_INS_PER_ADDRESS_MAX": "10000",
        "AUTH_CONSOLE_URL": "https://console.example.com",
        **changes,
    }


@asynccontextmanager
async def _world(process: AuthProcess, database: Path) -> AsyncIterator[World]:
    async with auth_api_of(process.target) as auth_api, open_channel(process.target) as channel:
        yield World(auth_api, TOTPServiceStub(channel), database)


@pytest.fixture
async def world(service: tuple[AuthProcess, Path]) -> AsyncIterator[World]:
    async with _world(*service) as opened:
        yield opened


@pytest.fixture
def email() -> str:
    return f"{secrets.token_hex(6)}@example.com"


async def test_a_log_in_needs_a_code_once_the_owner_has_enabled_it(world: World, email: str) -> None:
    token = await world.auth_api.sign_up(email)
    app = await world.enrolled(token)
    assert await world.auth_api.log_in(email), "a secret that is not confirmed has no effect"

    codes = (await world.enable(token, app.code())).recovery_codes

    assert len(set(codes)) == 10
    assert (await world.state(token)).enabled
    opened = await world.complete(await world.pending(email), app.code())
    assert (await world.auth_api.session(opened.token)).account.email == email
    assert opened.device_token
    assert await world.actions(email) == ["account.created", "totp.enabled"]


async def test_a_pending_log_in_is_no_session(world: World, email: str) -> None:
    await world.enabled(email)
    pending = await world.pending(email)

    assert (await refusal(world.auth_api.session(pending))).code is StatusCode.UNAUTHENTICATED
    listed = world.auth_api.owner.ListOwnKeys(owner_pb2.ListOwnKeysRequest(), metadata=bearer(pending))
    assert (await refusal(listed)).code is StatusCode.UNAUTHENTICATED
    assert (await refusal(world.enrolled(pending))).code is StatusCode.UNAUTHENTICATED


async def test_the_secret_is_shown_as_text_and_url_and_stored_encrypted(world: World, email: str) -> None:
    token = await world.auth_api.sign_up(email)
    request = totp_pb2.EnrolOwnTOTPRequest(password=PASSWORD)
    enrolled = await world.totp.EnrolOwnTOTP(request, metadata=bearer(token))
    codes = (await world.enable(token, App(Secret(base64.b32decode(enrolled.secret))).code())).recovery_codes

    assert len(enrolled.secret) == 32
    assert enrolled.url.startswith("otpauth://totp/console.example.com:")
    assert f"secret={enrolled.secret}" in enrolled.url
    with closing(sqlite3.connect(world.database)) as connection:
        stored = "\n".join(connection.iterdump())
    raw = base64.b32decode(enrolled.secret)
    for form in (enrolled.secret, raw.hex(), base64.b64encode(raw).decode().rstrip("="), *codes):
        assert form not in stored
        assert form.replace("-", "") not in stored


@pytest.mark.parametrize("offset", [-3, 3])
async def test_codes_of_more_than_one_step_before_or_after_are_wrong(world: World, email: str, offset: int) -> None:
    _, app = await world.enabled(email)

    wrong = await refusal(world.complete(await world.pending(email), app.code_of(offset)))
    assert (wrong.code, wrong.message[:15]) == (StatusCode.PERMISSION_DENIED, "Incorrect code,")


async def test_a_code_works_once_also_for_two_log_ins_at_once(world: World, email: str) -> None:
    _, app = await world.enabled(email)
    code, pending = app.code(), [await world.pending(email) for _ in range(4)]

    results = await asyncio.gather(*(world.complete(one, code) for one in pending), return_exceptions=True)

    assert [type(one) for one in results].count(sessions_pb2.OpenSession) == 1
    refused = {one.code() for one in results if isinstance(one, aio.AioRpcError)}
    assert refused == {StatusCode.PERMISSION_DENIED}
    assert (await refusal(world.complete(pending[0], code))).code is StatusCode.PERMISSION_DENIED


async def test_wrong_codes_are_limited_for_the_account_from_all_addresses_but_not_for_a_known_device(
    world: World, email: str
) -> None:
    """A guesser has the password already, and may have many addresses."""
    _, app = await world.enabled(email)
    device = (await world.complete(await world.pending(email), app.code())).device_token
    codes = []
    for number in range(9):
        address = f"198.51.100.{number}"
        pending = await world.pending(email, address=address)
        codes.append((await refusal(world.complete(pending, "000000", address=address))).code)

    assert set(codes) == {StatusCode.PERMISSION_DENIED}
    pending = await world.pending(email, address="203.0.113.9")
    limited = await refusal(world.complete(pending, app.recovery_codes[0], address="203.0.113.9"))
    assert limited.code is StatusCode.RESOURCE_EXHAUSTED
    assert await world.complete(pending, app.recovery_codes[0], device=device)


async def test_guesses_at_once_are_limited_too(world: World, email: str) -> None:
    await world.enabled(email)
    pending = await world.pending(email)

    results = await asyncio.gather(
        *(world.complete(pending, f"{number:06}") for number in range(40)), return_exceptions=True
    )

    codes = [one.code() for one in results if isinstance(one, aio.AioRpcError)]
    assert codes.count(StatusCode.PERMISSION_DENIED) <= 10
    assert set(codes) == {StatusCode.PERMISSION_DENIED, StatusCode.RESOURCE_EXHAUSTED}


async def test_a_password_reset_starts_a_new_count_and_keeps_the_second_factor(world: World, email: str) -> None:
    _, app = await world.enabled(email)
    old = await world.pending(email)
    for _ in range(11):
        await refusal(world.complete(old, "000000"))
    new_password = f"{PASSWORD} again"

    await world.reset_password(email, new_password)

    expired = await refusal(world.complete(old, app.recovery_codes[0]))
    assert (expired.code, expired.message) == (
        StatusCode.UNAUTHENTICATED,
        "This log-in took longer than five minutes. Log in again.",
    )
    assert await world.complete(await world.pending(email, password=new_password), app.code())


@pytest.mark.long
async def test_new_passwords_and_devices_give_no_endless_guesses(world: World, email: str) -> None:
    """An attacker who reads the owner's e-mails can set any number of passwords, each with a known device."""
    await world.enabled(email)  # With a code, which counts.
    tried, limited = 0, None
    for number in range(31):
        password = f"{PASSWORD} {number}"
        device = await world.reset_password(email, password)
        pending = await world.pending(email, password=password, address=f"198.51.{number}.1")
        for _ in range(10):
            limited = await refusal(world.complete(pending, "000000", device=device))
            tried += limited.code is StatusCode.PERMISSION_DENIED

    assert limited is not None
    assert (tried, limited.code) == (299, StatusCode.RESOURCE_EXHAUSTED)


async def test_a_device_of_another_account_has_the_limits_of_the_account(world: World, email: str) -> None:
    await world.enabled(email)
    await world.auth_api.sign_up(f"other-{email}")
    device = await world.auth_api.device(f"other-{email}")
    pending = await world.pending(email)

    codes = [(await refusal(world.complete(pending, "000000", device=device))).code for _ in range(11)]
    assert codes[-1] is StatusCode.RESOURCE_EXHAUSTED


async def test_a_recovery_code_works_once_however_it_is_typed(world: World, email: str) -> None:
    token, app = await world.enabled(email)
    first, second = app.recovery_codes[:2]

    assert await world.complete(await world.pending(email), first)
    assert (await refusal(world.complete(await world.pending(email), first))).code is StatusCode.PERMISSION_DENIED
    assert await world.complete(await world.pending(email), f" {second.lower().replace('-', ' ')} ")
    assert (await world.state(token)).recovery_codes == 8
    assert await world.actions(email) == [
        *("account.created", "totp.enabled", "recovery_code.used", "recovery_code.used")
    ]


async def test_a_recovery_code_of_another_account_is_wrong(world: World, email: str) -> None:
    _, theirs = await world.enabled(f"other-{email}")
    await world.enabled(email)

    wrong = await refusal(world.complete(await world.pending(email), theirs.recovery_codes[0]))
    assert wrong.code is StatusCode.PERMISSION_DENIED


async def test_new_recovery_codes_replace_the_old_ones(world: World, email: str) -> None:
    token, app = await world.enabled(email)

    new = await world.replace_codes(token, app.code())

    wrong = await refusal(world.complete(await world.pending(email), app.recovery_codes[0]))
    assert wrong.code is StatusCode.PERMISSION_DENIED
    assert await world.complete(await world.pending(email), new[0])
    assert (await world.actions(email))[-2:] == ["recovery_codes.replaced", "recovery_code.used"]


async def test_enabling_ends_other_sessions_which_had_no_second_factor(world: World, email: str) -> None:
    token = await world.auth_api.sign_up(email)
    other = await world.auth_api.log_in(email)
    app = await world.enrolled(token)

    await world.enable(token, app.code())

    assert (await world.auth_api.session(token)).account.email == email
    assert (await refusal(world.auth_api.session(other))).code is StatusCode.UNAUTHENTICATED


async def test_enabling_needs_a_right_code_of_the_newest_secret_and_limits_guesses(world: World, email: str) -> None:
    token = await world.auth_api.sign_up(email)
    assert (await refusal(world.enable(token, "123456"))).code is StatusCode.FAILED_PRECONDITION
    replaced, app = await world.enrolled(token), await world.enrolled(token)

    assert (await refusal(world.enable(token, replaced.code()))).code is StatusCode.PERMISSION_DENIED
    guesses = [(await refusal(world.enable(token, text))).code for text in ("", "é", "1" * 1_000_000, "12345٦")]
    assert set(guesses) == {StatusCode.PERMISSION_DENIED}
    await world.enable(token, f"{app.code()} ")
    assert (await refusal(world.enrolled(token))).code is StatusCode.FAILED_PRECONDITION
    assert (await refusal(world.enable(token, app.code()))).code is StatusCode.FAILED_PRECONDITION


async def test_changes_need_the_password_and_a_code(world: World, email: str) -> None:
    token, app = await world.enabled(email)

    assert (await refusal(world.disable(token, app.code(), password="a wrong guess"))).code is (
        StatusCode.PERMISSION_DENIED
    )
    assert (await refusal(world.disable(token, "000000"))).code is StatusCode.PERMISSION_DENIED
    assert (await world.state(token)).enabled
    await world.disable(token, app.recovery_codes[0])
    assert await world.auth_api.log_in(email)
    state = await world.state(token)
    assert (state.enabled, state.recovery_codes) == (False, 0)
    assert (await world.actions(email))[-2:] == ["recovery_code.used", "totp.disabled"]

    other = await world.auth_api.sign_up(f"other-{email}")
    assert (await refusal(world.enrolled(other, password="a wrong guess"))).code is StatusCode.PERMISSION_DENIED


async def test_an_operator_resets_the_second_factor_of_an_owner_who_lost_it(world: World, email: str) -> None:
    await world.enabled(email)
    pending = await world.pending(email)

    await world.auth_api.accounts.ResetTOTP(accounts_pb2.ResetTOTPRequest(account=email), metadata=bearer())

    assert await world.auth_api.log_in(email)
    assert (await refusal(world.complete(pending, "000000"))).code is StatusCode.PERMISSION_DENIED
    assert (await world.actions(email))[-1] == "totp.reset"
    without_token = world.auth_api.accounts.ResetTOTP(accounts_pb2.ResetTOTPRequest(account=email))
    assert (await refusal(without_token)).code is StatusCode.UNAUTHENTICATED


async def test_twenty_wrong_codes_are_reported_in_the_audit_log(world: World, email: str) -> None:
    _, app = await world.enabled(email)
    devices = [
        (await world.complete(await world.pending(email), code)).device_token
        for code in (app.recovery_codes[0], app.recovery_codes[1])
    ]
    pending = await world.pending(email)
    for device in devices:
        for _ in range(10):
            await refusal(world.complete(pending, "000000", device=device))

    assert (await world.actions(email))[-1] == "account.log_ins_failed"


@pytest.mark.parametrize("change", ["", "x", "of another account", "cut", "longer"])
async def test_a_token_that_is_not_of_a_pending_log_in_is_refused(world: World, email: str, change: str) -> None:
    _, app = await world.enabled(email)
    _, _ = await world.enabled(f"other-{email}")
    pending, theirs = await world.pending(email), await world.pending(f"other-{email}")
    account, rest = pending.split(".", 1)[0], theirs.split(".", 1)[1]
    forged = {"of another account": f"{account}.{rest}", "cut": pending[:-1], "longer": f"{pending}0"}

    refused = await refusal(world.complete(forged.get(change, change), app.code()))
    assert refused.code is StatusCode.UNAUTHENTICATED


async def test_a_deleted_account_keeps_no_secret_and_its_pending_log_ins_end(world: World, email: str) -> None:
    token, app = await world.enabled(email)
    pending = await world.pending(email)
    request = owner_pb2.DeleteOwnAccountRequest(password=PASSWORD)
    await world.auth_api.owner.DeleteOwnAccount(request, metadata=bearer(token))

    assert (await refusal(world.complete(pending, app.code()))).code is StatusCode.UNAUTHENTICATED
    with closing(sqlite3.connect(world.database)) as connection:
        left = connection.execute(
            "SELECT count(*) FROM totp_secrets t JOIN accounts a ON a.id = t.account_id WHERE a.deleted_at IS NOT NULL"
        ).fetchone()
    assert left == (0,)


async def test_a_second_factor_survives_a_rotation_of_the_pepper_and_moves_under_the_new_one(tmp_path: Path) -> None:
    email, new = "ada@example.com", "another pepper for tests"
    with running_auth(tmp_path, _settings()) as process:
        async with _world(process, tmp_path / "auth.db") as world:
            _, app = await world.enabled(email)
    with running_auth(tmp_path, _settings(AUTH_KEY_PEPPER=new, AUTH_KEY_PEPPERS_ACCEPTED=PEPPER)) as process:
        async with _world(process, tmp_path / "auth.db") as world:
            assert await world.complete(await world.pending(email), app.recovery_codes[0])
            assert await world.complete(await world.pending(email), app.code())
    with running_auth(tmp_path, _settings(AUTH_KEY_PEPPER=new)) as process:
        async with _world(process, tmp_path / "auth.db") as world:
            readable = await refusal(world.complete(await world.pending(email), "000000"))
    with running_auth(tmp_path, _settings(AUTH_KEY_PEPPER="a third pepper for tests")) as process:
        async with _world(process, tmp_path / "auth.db") as world:
            refused = await refusal(world.complete(await world.pending(email), "000000"))
    assert (readable.code, refused.code) == (StatusCode.PERMISSION_DENIED, StatusCode.FAILED_PRECONDITION)
    assert refused.message.startswith("Your second factor cannot be checked")
