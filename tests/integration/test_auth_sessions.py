"""Accounts and sessions over gRPC, as the console uses them: what users can and cannot do."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError

from stack.auth.v1 import account_sessions_pb2, accounts_pb2, audit_pb2, auth_pb2, keys_pb2, owner_pb2, sessions_pb2
from tests.integration.auth_api import PASSWORD, AuthAPI, auth_api_of, bearer, from_address, refusal
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, AuthProcess, running_auth

pytestmark = pytest.mark.xdist_group("auth-people")


@pytest.fixture(scope="module")
def auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthProcess]:
    settings = {
        "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
        "AUTH_KEY_PEPPER": PEPPER,
        "AUTH_SIGN_UPS_PER_ADDRESS_MAX": "1000",
        "AUTH_LOG_INS_PER_ADDRESS_MAX": "40",
    }
    with running_auth(tmp_path_factory.mktemp("auth"), settings) as process:
        yield process


@pytest.fixture
async def auth_api(auth: AuthProcess) -> AsyncIterator[AuthAPI]:
    async with auth_api_of(auth.target) as auth_api:
        yield auth_api


async def test_without_mail_sign_up_logs_in_and_log_out_ends_the_session(auth_api: AuthAPI) -> None:
    token = await auth_api.sign_up("Ada@Example.com")
    assert (await auth_api.session(token)).account.email == "ada@example.com"

    await auth_api.sessions.LogOut(sessions_pb2.LogOutRequest(token=token))

    assert (await refusal(auth_api.session(token))).code is StatusCode.UNAUTHENTICATED
    await auth_api.sessions.LogOut(sessions_pb2.LogOutRequest(token=token))


async def test_a_log_in_ends_the_session_that_it_replaces(auth_api: AuthAPI) -> None:
    """A token that was planted before the log-in is worthless after it."""
    planted = await auth_api.sign_up("replace@example.com")

    token = await auth_api.log_in("replace@example.com", replaced=planted)

    assert token != planted
    assert (await auth_api.session(token)).account.email == "replace@example.com"
    assert (await refusal(auth_api.session(planted))).code is StatusCode.UNAUTHENTICATED


async def test_a_wrong_password_and_an_unknown_email_get_the_same_answer_after_the_same_work(
    auth: AuthProcess, auth_api: AuthAPI
) -> None:
    """Compares the CPU time of auth; wall-clock time would include other work of the machine."""
    process = psutil.Process(auth.process.pid)
    await auth_api.sign_up("known@example.com")

    async def worked(email: str, address: str) -> tuple[object, float]:
        before = process.cpu_times()
        answer = await refusal(auth_api.log_in(email, password="not the password", address=address))
        after = process.cpu_times()
        return answer, after.user + after.system - before.user - before.system

    known, unknown = [], []
    for number in range(8):
        known.append(await worked("known@example.com", f"198.51.100.{number}"))
        unknown.append(await worked(f"nobody{number}@example.com", "198.51.100.99"))

    assert {answer for answer, _ in known} == {answer for answer, _ in unknown}
    seconds = [sum(took for _, took in answers) for answers in (known, unknown)]
    assert 0.4 < seconds[0] / seconds[1] < 2.5, f"the amount of work reveals whether an account exists: {seconds}"


async def test_guesses_at_one_account_from_one_address_end_and_the_owner_elsewhere_can_still_log_in(
    auth_api: AuthAPI,
) -> None:
    await auth_api.sign_up("guessed@example.com")

    answers = [
        await refusal(auth_api.log_in("guessed@example.com", password=f"guess number {number}", address="203.0.113.1"))
        for number in range(12)
    ]

    assert [answer.code for answer in answers[:10]] == [StatusCode.UNAUTHENTICATED] * 10
    assert {answer.code for answer in answers[10:]} == {StatusCode.RESOURCE_EXHAUSTED}
    right = await refusal(auth_api.log_in("guessed@example.com", address="203.0.113.1"))
    assert right.code is StatusCode.RESOURCE_EXHAUSTED, "the right guess would succeed among the wrong ones"
    assert await auth_api.log_in("guessed@example.com", address="203.0.113.2")


@pytest.mark.long
async def test_guesses_at_many_accounts_from_one_address_end(auth_api: AuthAPI) -> None:
    async def guess(number: int) -> StatusCode:
        call = auth_api.log_in(f"someone{number}@example.com", password="a password of many", address="203.0.113.9")
        return (await refusal(call)).code

    codes = [await guess(number) for number in range(42)]

    assert codes.count(StatusCode.UNAUTHENTICATED) == 40
    assert codes[-1] is StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.long
async def test_guesses_from_one_ipv6_network_count_as_one_clients(auth_api: AuthAPI) -> None:
    answers = [
        await refusal(
            auth_api.log_in(f"v6x{number}@example.com", password="a guess", address=f"2001:db8:5:6:{number:x}::1")
        )
        for number in range(42)
    ]

    assert [answer.code for answer in answers[39:]] == [
        StatusCode.UNAUTHENTICATED,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.RESOURCE_EXHAUSTED,
    ]
    elsewhere = await refusal(auth_api.log_in("v6@example.com", password="a guess", address="2001:db8:5:7::1"))
    assert elsewhere.code is StatusCode.UNAUTHENTICATED


async def test_a_new_password_ends_all_other_sessions_and_the_old_password(auth_api: AuthAPI) -> None:
    here = await auth_api.sign_up("change@example.com")
    there = await auth_api.log_in("change@example.com")
    request = owner_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password="another good password")

    await auth_api.owner.ChangePassword(request, metadata=bearer(here))

    assert (await auth_api.session(here)).account.email == "change@example.com"
    assert (await refusal(auth_api.session(there))).code is StatusCode.UNAUTHENTICATED
    assert (await refusal(auth_api.log_in("change@example.com"))).code is StatusCode.UNAUTHENTICATED
    assert await auth_api.log_in("change@example.com", password="another good password")


async def test_a_wrong_current_password_changes_and_deletes_nothing(auth_api: AuthAPI) -> None:
    token = await auth_api.sign_up("careful@example.com")
    change = owner_pb2.ChangePasswordRequest(current_password="wrong password", new_password="another good password")
    delete = owner_pb2.DeleteOwnAccountRequest(password="wrong password")

    codes = [
        (await refusal(auth_api.owner.ChangePassword(change, metadata=bearer(token)))).code,
        (await refusal(auth_api.owner.DeleteOwnAccount(delete, metadata=bearer(token)))).code,
    ]

    assert codes == [StatusCode.PERMISSION_DENIED] * 2
    assert await auth_api.log_in("careful@example.com")


async def test_a_deleted_account_has_no_keys_or_sessions_and_its_email_can_be_used_again(auth_api: AuthAPI) -> None:
    token = await auth_api.sign_up("leaver@example.com")
    created = await auth_api.create_key(token)

    await auth_api.owner.DeleteOwnAccount(owner_pb2.DeleteOwnAccountRequest(password=PASSWORD), metadata=bearer(token))

    answer = await auth_api.auth.Authenticate(auth_pb2.AuthenticateRequest(api_key=created.secret))
    assert answer.denial.reason == auth_pb2.DENIAL_REASON_REVOKED
    assert (await refusal(auth_api.session(token))).code is StatusCode.UNAUTHENTICATED
    assert (await refusal(auth_api.log_in("leaver@example.com"))).code is StatusCode.UNAUTHENTICATED
    events = await auth_api.audit.ListAuditEvents(audit_pb2.ListAuditEventsRequest(page_size=1000), metadata=bearer())
    assert "leaver@example.com" not in str(events), "the audit log still names the deleted user"
    again = await auth_api.sign_up("leaver@example.com")
    assert list((await auth_api.owner.ListOwnKeys(owner_pb2.ListOwnKeysRequest(), metadata=bearer(again))).keys) == []


async def test_a_deleted_account_gets_no_new_password(auth_api: AuthAPI) -> None:
    gone = (await auth_api.session(await auth_api.sign_up("nopassword@example.com"))).account
    await auth_api.accounts.DeleteAccount(accounts_pb2.DeleteAccountRequest(account=gone.id), metadata=bearer())

    request = accounts_pb2.CreatePasswordResetRequest(account=gone.id)
    refused = await refusal(auth_api.accounts.CreatePasswordReset(request, metadata=bearer()))

    assert (refused.code, "was deleted" in refused.message) == (StatusCode.FAILED_PRECONDITION, True)


async def test_an_owner_sees_and_changes_nothing_of_another_owner(auth_api: AuthAPI) -> None:
    ada, bob = await auth_api.sign_up("ada1@example.com"), await auth_api.sign_up("bob1@example.com")
    key = (await auth_api.create_key(ada)).key
    session = await auth_api.session(ada)
    by_bob = bearer(bob)

    refusals = [
        await refusal(call)
        for call in (
            auth_api.owner.RevokeOwnKey(owner_pb2.RevokeOwnKeyRequest(key_id=key.id), metadata=by_bob),
            auth_api.owner.RotateOwnKey(owner_pb2.RotateOwnKeyRequest(key_id=key.id), metadata=by_bob),
            auth_api.owner.GetOwnPrincipal(owner_pb2.GetOwnPrincipalRequest(key_id=key.id), metadata=by_bob),
        )
    ]

    assert {one.code for one in refusals} == {StatusCode.NOT_FOUND}
    never = owner_pb2.RevokeOwnKeyRequest(key_id="key_01ARZ3NDEKTSV4RRFFQ69G5FAV")
    of_none = await refusal(auth_api.owner.RevokeOwnKey(never, metadata=by_bob))
    assert of_none.message.replace(never.key_id, key.id) == refusals[0].message, "reveals that another's key exists"
    await auth_api.owner.EndOwnSession(owner_pb2.EndOwnSessionRequest(session_id=session.id), metadata=by_bob)
    assert (await auth_api.session(ada)).id == session.id
    events = await auth_api.owner.ListOwnAuditEvents(owner_pb2.ListOwnAuditEventsRequest(), metadata=by_bob)
    assert key.id not in str(events)


async def test_admin_calls_refuse_a_session_and_owners_calls_refuse_the_admin_token(auth_api: AuthAPI) -> None:
    token = await auth_api.sign_up("either@example.com")
    listing = accounts_pb2.ListAccountsRequest()

    assert (await refusal(auth_api.accounts.ListAccounts(listing))).code is StatusCode.UNAUTHENTICATED
    with_session = await refusal(auth_api.accounts.ListAccounts(listing, metadata=bearer(token)))
    with_admin = await refusal(auth_api.owner.ListOwnKeys(owner_pb2.ListOwnKeysRequest(), metadata=bearer()))

    assert with_session.code is StatusCode.PERMISSION_DENIED
    assert with_admin.code is StatusCode.UNAUTHENTICATED


async def test_concurrent_key_creation_never_exceeds_five_active_keys_per_owner(auth_api: AuthAPI) -> None:
    token = await auth_api.sign_up("many@example.com")

    asked = (auth_api.create_key(token, f"key {number}") for number in range(20))
    answers = await asyncio.gather(*asked, return_exceptions=True)

    refusals = [answer for answer in answers if isinstance(answer, AioRpcError)]
    assert (len(answers), len(refusals)) == (20, 15)
    assert all("5 active keys" in str(refused.details()) for refused in refusals)


async def test_revoking_and_creating_cannot_bypass_the_limit_and_operators_are_exempt(auth_api: AuthAPI) -> None:
    token = await auth_api.sign_up("rotating@example.com")
    for number in range(10):
        created = await auth_api.create_key(token, f"key {number}")
        await auth_api.owner.RevokeOwnKey(owner_pb2.RevokeOwnKeyRequest(key_id=created.key.id), metadata=bearer(token))

    refused = await refusal(auth_api.create_key(token))

    assert (refused.code, "10 keys in the last 24 hours" in refused.message) == (StatusCode.FAILED_PRECONDITION, True)
    assert (await auth_api.create_key_for("rotating@example.com", name="by an operator")).secret


async def test_a_rotated_key_works_for_its_grace_and_the_new_one_at_once(auth_api: AuthAPI) -> None:
    token = await auth_api.sign_up("rotate@example.com")
    old = await auth_api.create_key(token)
    request = owner_pb2.RotateOwnKeyRequest(key_id=old.key.id, grace_seconds=3600)

    new = await auth_api.owner.RotateOwnKey(request, metadata=bearer(token))

    async def limit(secret: str) -> int:
        answer = await auth_api.auth.Authenticate(auth_pb2.AuthenticateRequest(api_key=secret))
        return answer.principal.daily_limit

    assert [await limit(old.secret), await limit(new.secret)] == [1000, 1000]
    assert 3500 < new.replaced.expires_at.ToSeconds() - time.time() <= 3600
    again = await refusal(auth_api.owner.RotateOwnKey(request, metadata=bearer(token)))
    assert again.code is StatusCode.FAILED_PRECONDITION, "a replaced key would be replaced twice"


async def test_a_key_without_grace_ends_with_its_rotation(auth_api: AuthAPI) -> None:
    token = await auth_api.sign_up("rotate0@example.com")
    old = await auth_api.create_key(token)

    await auth_api.owner.RotateOwnKey(owner_pb2.RotateOwnKeyRequest(key_id=old.key.id), metadata=bearer(token))

    answer = await auth_api.auth.Authenticate(auth_pb2.AuthenticateRequest(api_key=old.secret))
    assert not answer.HasField("principal")


async def test_every_change_records_who_when_and_from_where(auth_api: AuthAPI) -> None:
    before = time.time()
    token = await auth_api.sign_up("audited@example.com", address="198.51.100.77")
    metadata = (*bearer(token), *from_address("198.51.100.78"))
    created = await auth_api.owner.CreateOwnKey(owner_pb2.CreateOwnKeyRequest(name="laptop"), metadata=metadata)
    revoke = keys_pb2.RevokeKeyRequest(key_id=created.key.id)
    await auth_api.keys.RevokeKey(revoke, metadata=(*bearer(), ("stack-operator", "grace")))

    answer = await auth_api.owner.ListOwnAuditEvents(owner_pb2.ListOwnAuditEventsRequest(), metadata=bearer(token))

    events = [(event.action, event.actor, event.address) for event in answer.events]
    assert events[:2] == [("key.revoked", "operator:grace", ""), ("key.created", "owner", "198.51.100.78")]
    assert ("account.created", "owner", "198.51.100.77") in events
    assert all(before - 1 <= event.at.ToSeconds() <= time.time() + 1 for event in answer.events)


async def test_without_mail_a_reset_says_so_and_an_operator_can_help(auth_api: AuthAPI) -> None:
    await auth_api.sign_up("forgot@example.com")
    sent = await refusal(
        auth_api.sessions.SendPasswordReset(sessions_pb2.SendPasswordResetRequest(email="forgot@example.com"))
    )
    assert sent.code is StatusCode.FAILED_PRECONDITION
    assert "Mail is not configured" in sent.message

    request = accounts_pb2.CreatePasswordResetRequest(account="forgot@example.com")
    made = await auth_api.accounts.CreatePasswordReset(request, metadata=bearer())
    assert made.token in made.url
    reset = sessions_pb2.ResetPasswordRequest(token=made.token, password="a new good password")
    await auth_api.sessions.ResetPassword(reset)

    assert await auth_api.log_in("forgot@example.com", password="a new good password")
    assert (await refusal(auth_api.sessions.ResetPassword(reset))).code is StatusCode.INVALID_ARGUMENT, "used twice"


@pytest.mark.long
async def test_a_flood_of_log_ins_does_not_delay_key_look_ups(auth_api: AuthAPI) -> None:
    secret = (await auth_api.create_key(await auth_api.sign_up("flood@example.com"))).secret

    async def look_up() -> float:
        started = time.perf_counter()
        await auth_api.auth.Authenticate(auth_pb2.AuthenticateRequest(api_key=secret))
        return time.perf_counter() - started

    load = [
        asyncio.ensure_future(
            refusal(auth_api.log_in(f"c{number}@example.com", password="wrong word", address=f"10.1.1.{number}"))
        )
        for number in range(60)
    ]
    took = [await look_up() for _ in range(30)]
    answers = await asyncio.gather(*load)

    assert statistics.median(took) < 0.05, f"key look-ups wait for password hashing: {statistics.median(took):.3f} s"
    assert {answer.code for answer in answers} <= {StatusCode.UNAUTHENTICATED, StatusCode.RESOURCE_EXHAUSTED}


@pytest.mark.parametrize("policy", ["invite", "closed"])
async def test_sign_up_can_be_closed_or_by_invitation(tmp_path: Path, policy: str) -> None:
    settings = {"STACK_ADMIN_TOKEN": ADMIN_TOKEN, "AUTH_KEY_PEPPER": PEPPER, "AUTH_SIGN_UP": policy}
    with running_auth(tmp_path, settings) as process:
        async with auth_api_of(process.target) as auth_api:
            assert (await refusal(auth_api.sign_up("ada@example.com"))).code is StatusCode.PERMISSION_DENIED
            invite = await auth_api.accounts.CreateInvite(accounts_pb2.CreateInviteRequest(), metadata=bearer())
            request = sessions_pb2.SignUpRequest(email="ada@example.com", password=PASSWORD, invite=invite.token)
            if policy == "closed":
                assert (await refusal(auth_api.sessions.SignUp(request))).code is StatusCode.PERMISSION_DENIED
                return
            assert (await auth_api.sessions.SignUp(request)).session.token
            other = sessions_pb2.SignUpRequest(email="bob@example.com", password=PASSWORD, invite=invite.token)
            assert (await refusal(auth_api.sessions.SignUp(other))).code is StatusCode.INVALID_ARGUMENT, "used twice"


async def test_a_password_is_the_same_however_its_accents_are_typed(auth_api: AuthAPI) -> None:
    """A Mac may send an accent as a separate character; the owner could not log in elsewhere."""
    await auth_api.sign_up("accents@example.com", password="cafe\u0301 au lait, s'il te plai\u0302t")
    assert await auth_api.log_in("accents@example.com", password="caf\u00e9 au lait, s'il te pla\u00eet")
    short = await refusal(auth_api.sign_up("short@example.com", password="e\u0301" * 9))
    assert short.code is StatusCode.INVALID_ARGUMENT, "nine characters were counted as eighteen"


async def test_a_suspended_owner_cannot_log_in_and_is_told_why(auth_api: AuthAPI) -> None:
    email = "suspended@example.com"
    token = await auth_api.sign_up(email)
    secret = (await auth_api.create_key(token)).secret
    request = accounts_pb2.SuspendAccountRequest(account=email)

    suspended = await auth_api.accounts.SuspendAccount(request, metadata=bearer())

    assert suspended.account.HasField("suspended_at")
    answer = await auth_api.auth.Authenticate(auth_pb2.AuthenticateRequest(api_key=secret))
    assert answer.denial.reason == auth_pb2.DENIAL_REASON_SUSPENDED
    assert (await refusal(auth_api.session(token))).code is StatusCode.UNAUTHENTICATED
    refused = await refusal(auth_api.log_in(email))
    assert refused.code is StatusCode.FAILED_PRECONDITION
    assert refused.message.startswith("Your account is suspended")
    wrong = await refusal(auth_api.log_in(email, password="not the password"))
    assert wrong.code is StatusCode.UNAUTHENTICATED, "only its owner learns that an account is suspended"
    await auth_api.accounts.ResumeAccount(accounts_pb2.ResumeAccountRequest(account=email), metadata=bearer())
    assert (await auth_api.session(await auth_api.log_in(email))).account.email == email
    answer = await auth_api.auth.Authenticate(auth_pb2.AuthenticateRequest(api_key=secret))
    assert answer.HasField("principal")


async def test_an_operator_lists_and_ends_sessions_of_an_account(auth_api: AuthAPI) -> None:
    email = "two-sessions@example.com"
    tokens = [await auth_api.sign_up(email), await auth_api.log_in(email)]
    listing = account_sessions_pb2.ListSessionsRequest(account=email)
    listed = (await auth_api.account_sessions.ListSessions(listing, metadata=bearer())).sessions
    assert len(listed) == 2
    one = account_sessions_pb2.EndSessionsRequest(account=email, session_id=listed[0].id)
    rest = account_sessions_pb2.EndSessionsRequest(account=email)
    bad = account_sessions_pb2.EndSessionsRequest(account=email, session_id="ses_x")

    assert [(await auth_api.account_sessions.EndSessions(r, metadata=bearer())).count for r in (one, rest)] == [1, 1]

    assert [(await refusal(auth_api.session(token))).code for token in tokens] == [StatusCode.UNAUTHENTICATED] * 2
    refused = await refusal(auth_api.account_sessions.EndSessions(bad, metadata=bearer()))
    assert refused.code is StatusCode.INVALID_ARGUMENT
    denied = await refusal(auth_api.account_sessions.ListSessions(listing, metadata=bearer("wrong")))
    assert denied.code is StatusCode.PERMISSION_DENIED
