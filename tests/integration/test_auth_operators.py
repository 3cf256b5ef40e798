"""Operators: their role, their log-ins, and what they may do, in the real auth service on both databases."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode

from services.auth.totp.codes import Secret
from services.common.rpc.channel import open_channel
from stack.auth.v1 import (
    accounts_pb2,
    audit_pb2,
    auth_pb2,
    operators_pb2,
    owner_pb2,
    plans_pb2,
    sessions_pb2,
    totp_pb2,
)
from stack.auth.v1.operators_pb2_grpc import OperatorServiceStub, OperatorSessionServiceStub
from stack.auth.v1.totp_pb2_grpc import TOTPServiceStub
from tests.backends import fresh_database
from tests.integration.auth_api import ADDRESS, PASSWORD, AuthAPI, auth_api_of, bearer, from_address, refusal
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, AuthProcess, Metadata, run_auth, running_auth
from tests.integration.test_auth_totp import App

pytestmark = pytest.mark.xdist_group("auth-operators")

_OPERATORS_ADDRESS = "192.0.2.99"


@dataclass
class Operator:
    """An operator with an authenticator app and a session."""

    account: accounts_pb2.Account
    app: App
    token: str

    @property
    def metadata(self) -> Metadata:
        """Metadata of the calls of the operators' console."""
        return (*bearer(self.token), *from_address(_OPERATORS_ADDRESS))


@dataclass(frozen=True)
class World:
    """A running auth service."""

    auth_api: AuthAPI
    totp: TOTPServiceStub
    sessions: OperatorSessionServiceStub
    operators: OperatorServiceStub

    async def add(self, email: str) -> accounts_pb2.Account:
        """Give an account the role."""
        request = accounts_pb2.AddOperatorRequest(account=email)
        return (await self.auth_api.accounts.AddOperator(request, metadata=bearer())).account

    async def remove(self, email: str) -> accounts_pb2.Account:
        """Take the role away."""
        request = accounts_pb2.RemoveOperatorRequest(account=email)
        return (await self.auth_api.accounts.RemoveOperator(request, metadata=bearer())).account

    async def with_totp(self, email: str) -> tuple[str, App]:
        """Sign up, enable TOTP, and return the session and the app."""
        token = await self.auth_api.sign_up(email)
        request = totp_pb2.EnrolOwnTOTPRequest(password=PASSWORD)
        enrolled = await self.totp.EnrolOwnTOTP(request, metadata=bearer(token))
        app = App(Secret(base64.b32decode(enrolled.secret)))
        await self.totp.EnableOwnTOTP(totp_pb2.EnableOwnTOTPRequest(code=app.code()), metadata=bearer(token))
        return token, app

    async def pending(self, email: str, *, password: str = PASSWORD) -> str:
        """Enter the password, and return the token of the pending log-in."""
        request = operators_pb2.LogInOperatorRequest(email=email, password=password)
        metadata = from_address(_OPERATORS_ADDRESS)
        return (await self.sessions.LogInOperator(request, metadata=metadata)).pending_token

    async def complete(self, pending: str, code: str) -> sessions_pb2.OpenSession:
        """Enter a code."""
        request = operators_pb2.CompleteOperatorLogInRequest(pending_token=pending, code=code)
        answer = await self.sessions.CompleteOperatorLogIn(request, metadata=from_address(_OPERATORS_ADDRESS))
        return answer.session

    async def operator(self, email: str) -> Operator:
        """Return an operator who has logged in."""
        _, app = await self.with_totp(email)
        account = await self.add(email)
        opened = await self.complete(await self.pending(email), app.code())
        return Operator(account, app, opened.token)

    async def events(self, account: str) -> list[audit_pb2.AuditEvent]:
        """Return the audit events of an account, newest first."""
        request = audit_pb2.ListAuditEventsRequest(account=account)
        return list((await self.auth_api.audit.ListAuditEvents(request, metadata=bearer())).events)

    async def denial(self, secret: str) -> auth_pb2.DenialReason.ValueType:
        """Return why a key is denied; unspecified if it is not."""
        answer = await self.auth_api.auth.Authenticate(auth_pb2.AuthenticateRequest(api_key=secret))
        return answer.denial.reason


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthProcess]:
    folder = tmp_path_factory.mktemp("auth")
    settings = {
        "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
        "AUTH_KEY_PEPPER": PEPPER,
        "AUTH_SIGN_UPS_PER_ADDRESS_MAX": "10000",
        "AUTH_LOG_INS_PER_ADDRESS_MAX": "10000",
        "AUTH_CONSOLE_URL": "https://console.example.com",
    }
    with ExitStack() as stack:
        if request.param == "postgres":
            server = request.getfixturevalue("postgres_server")
            settings["AUTH_DATABASE_URL"] = stack.enter_context(fresh_database(server))
            migrated = run_auth(folder, settings, "migrate")
            assert migrated.returncode == 0, migrated.stderr
        yield stack.enter_context(running_auth(folder, settings))


@pytest.fixture
async def world(service: AuthProcess) -> AsyncIterator[World]:
    async with auth_api_of(service.target) as auth_api, open_channel(service.target) as channel:
        stubs = TOTPServiceStub(channel), OperatorSessionServiceStub(channel), OperatorServiceStub(channel)
        yield World(auth_api, *stubs)


@pytest.fixture
async def ada(world: World) -> AsyncIterator[Operator]:
    """One operator for a test; the role is taken away at its end."""
    operator = await world.operator(f"ada{time.time_ns()}@example.com")
    yield operator
    await world.remove(operator.account.id)


async def test_the_role_is_given_and_taken_away_once_each_and_both_are_audited(world: World) -> None:
    await world.auth_api.sign_up("role@example.com")

    added = await world.add("role@example.com")
    assert added.HasField("operator_since")
    assert (await world.add("role@example.com")).operator_since == added.operator_since
    listed = await world.auth_api.accounts.ListOperators(accounts_pb2.ListOperatorsRequest(), metadata=bearer())
    assert [(one.account.email, one.has_totp) for one in listed.operators] == [("role@example.com", False)]
    for _ in range(2):
        assert not (await world.remove("role@example.com")).HasField("operator_since")

    actions = [event.action for event in await world.events("role@example.com")]
    assert (actions.count("operator.added"), actions.count("operator.removed")) == (1, 1)


async def test_a_log_in_needs_the_password_the_role_and_the_second_factor(world: World) -> None:
    _, app = await world.with_totp("steps@example.com")
    await world.auth_api.sign_up("plain@example.com")

    wrong = await refusal(world.pending("steps@example.com", password="another password"))
    assert wrong.code is StatusCode.UNAUTHENTICATED
    without_role = await refusal(world.pending("steps@example.com"))
    assert without_role.code is StatusCode.PERMISSION_DENIED
    assert "stackctl operators add" in without_role.message
    await world.add("plain@example.com")
    without_totp = await refusal(world.pending("plain@example.com"))
    assert without_totp.code is StatusCode.FAILED_PRECONDITION
    assert "turn it on under Account" in without_totp.message

    await world.add("steps@example.com")
    pending = await world.pending("steps@example.com")
    assert (await refusal(world.complete(pending, "000000"))).code is StatusCode.PERMISSION_DENIED
    code = app.code()
    opened = await world.complete(pending, code)
    assert opened.token.startswith("ops_stk_")
    assert (await refusal(world.complete(pending, code))).code is StatusCode.PERMISSION_DENIED, "a code works once"
    (event, *_) = (one for one in await world.events("steps@example.com") if one.action == "operator_session.opened")
    assert (event.actor, event.address) == ("owner", _OPERATORS_ADDRESS)
    for email in ("steps@example.com", "plain@example.com"):
        await world.remove(email)


async def test_a_session_of_one_console_is_none_of_the_other(world: World, ada: Operator) -> None:
    own = owner_pb2.ListOwnKeysRequest()
    as_owner = await refusal(world.auth_api.owner.ListOwnKeys(own, metadata=bearer(ada.token)))
    assert as_owner.code is StatusCode.UNAUTHENTICATED
    user_token = await world.auth_api.sign_up("user@example.com")
    for token in (user_token, "", ADMIN_TOKEN, "ops_stk_nonsense"):
        call = world.operators.GetOwnOperator(operators_pb2.GetOwnOperatorRequest(), metadata=bearer(token))
        assert (await refusal(call)).code is StatusCode.UNAUTHENTICATED


async def test_a_log_in_is_completed_at_the_console_that_started_it(world: World) -> None:
    email = f"start{time.time_ns()}@example.com"
    _, app = await world.with_totp(email)
    await world.add(email)
    # One of the users' console may have begun with an identity provider, without the password.
    answer = await world.auth_api.sessions.LogIn(
        sessions_pb2.LogInRequest(email=email, password=PASSWORD), metadata=from_address(ADDRESS)
    )
    code, pending = app.code(), await world.pending(email)
    assert (await refusal(world.complete(answer.pending_token, code))).code is StatusCode.UNAUTHENTICATED
    as_user = totp_pb2.CompleteLogInRequest(pending_token=pending, code=code)
    assert (await refusal(world.totp.CompleteLogIn(as_user))).code is StatusCode.UNAUTHENTICATED
    assert (await world.complete(pending, code)).token.startswith("ops_stk_"), "the code was not used up"
    await world.remove(email)


@pytest.mark.parametrize("loss", ["role", "totp", "password", "log out"])
async def test_a_session_ends_with_what_it_stands_for(world: World, loss: str) -> None:
    email = f"loss{loss.replace(' ', '')}{time.time_ns()}@example.com"
    operator = await world.operator(email)
    request = operators_pb2.GetOwnOperatorRequest()
    answer = await world.operators.GetOwnOperator(request, metadata=operator.metadata)
    assert answer.session.account.email == email

    match loss:
        case "role":
            await world.remove(email)
            await world.add(email)  # The session does not come back with it.
        case "totp":
            await world.auth_api.accounts.ResetTOTP(accounts_pb2.ResetTOTPRequest(account=email), metadata=bearer())
        case "password":
            reset = accounts_pb2.CreatePasswordResetRequest(account=email)
            token = (await world.auth_api.accounts.CreatePasswordReset(reset, metadata=bearer())).token
            chosen = sessions_pb2.ResetPasswordRequest(token=token, password="a new passphrase")
            await world.auth_api.sessions.ResetPassword(chosen)
        case _:
            await world.sessions.LogOutOperator(operators_pb2.LogOutOperatorRequest(token=operator.token))

    ended = await refusal(world.operators.GetOwnOperator(request, metadata=operator.metadata))
    assert ended.code is StatusCode.UNAUTHENTICATED
    await world.remove(email)


async def test_a_suspended_account_has_no_key_no_session_and_no_log_in_until_it_is_resumed(
    world: World, ada: Operator
) -> None:
    email = f"abuser{time.time_ns()}@example.com"
    token = await world.auth_api.sign_up(email)
    secret = (await world.auth_api.create_key(token)).secret
    assert await world.denial(secret) == auth_pb2.DENIAL_REASON_UNSPECIFIED

    request = operators_pb2.SuspendAccountAsOperatorRequest(account=email, reason="sends spam")
    for _ in range(2):
        answer = await world.operators.SuspendAccountAsOperator(request, metadata=ada.metadata)
        assert answer.account.HasField("suspended_at")
    assert await world.denial(secret) == auth_pb2.DENIAL_REASON_SUSPENDED
    ended = await refusal(world.auth_api.owner.ListOwnKeys(owner_pb2.ListOwnKeysRequest(), metadata=bearer(token)))
    assert ended.code is StatusCode.UNAUTHENTICATED
    refused = await refusal(world.auth_api.log_in(email))
    assert (refused.code, "suspended" in refused.message) == (StatusCode.FAILED_PRECONDITION, True)
    assert (await refusal(world.auth_api.log_in(email, password="a wrong one"))).code is StatusCode.UNAUTHENTICATED

    resumed = operators_pb2.ResumeAccountAsOperatorRequest(account=email)
    for _ in range(2):
        await world.operators.ResumeAccountAsOperator(resumed, metadata=ada.metadata)
    assert await world.denial(secret) == auth_pb2.DENIAL_REASON_UNSPECIFIED
    await world.auth_api.log_in(email)
    events = [(one.action, one.actor, one.address, dict(one.details)) for one in await world.events(email)]
    by = f"operator:{ada.account.id}", _OPERATORS_ADDRESS
    assert events.count(("account.suspended", *by, {"reason": "sends spam"})) == 1
    assert events.count(("account.resumed", *by, {})) == 1


async def test_a_watch_ends_the_streams_of_a_suspended_account(world: World, ada: Operator) -> None:
    email = f"streams{time.time_ns()}@example.com"
    created = await world.auth_api.create_key(await world.auth_api.sign_up(email))
    watch = world.auth_api.auth.WatchKeys(auth_pb2.WatchKeysRequest())
    events = aiter(watch)
    await anext(events)
    request = operators_pb2.SuspendAccountAsOperatorRequest(account=email)
    await world.operators.SuspendAccountAsOperator(request, metadata=ada.metadata)

    async with asyncio.timeout(1):
        # The creation of the key may come first.
        while not ((event := await anext(events)).changed_key_id == created.key.id and event.is_revoked):
            pass
    watch.cancel()


async def test_an_operator_is_not_suspended(world: World, ada: Operator) -> None:
    request = operators_pb2.SuspendAccountAsOperatorRequest(account=ada.account.id)
    refused = await refusal(world.operators.SuspendAccountAsOperator(request, metadata=ada.metadata))
    assert refused.code is StatusCode.FAILED_PRECONDITION
    assert f"stackctl operators remove {ada.account.id}" in refused.message


async def test_a_suspended_account_does_not_get_the_role(world: World, ada: Operator) -> None:
    email = f"both{time.time_ns()}@example.com"
    await world.auth_api.sign_up(email)
    suspended = accounts_pb2.SuspendAccountRequest(account=email)
    await world.auth_api.accounts.SuspendAccount(suspended, metadata=bearer())
    assert (await refusal(world.add(email))).code is StatusCode.FAILED_PRECONDITION


async def test_accounts_are_found_by_parts_of_addresses_ids_plans_and_states(world: World, ada: Operator) -> None:
    stamp = time.time_ns()
    emails = [f"find_{number}.{stamp}@example.com" for number in range(3)]
    accounts = [await world.auth_api.open_account(email) for email in emails]
    suspended = accounts_pb2.SuspendAccountRequest(account=emails[0])
    await world.auth_api.accounts.SuspendAccount(suspended, metadata=bearer())
    await world.auth_api.accounts.DeleteAccount(accounts_pb2.DeleteAccountRequest(account=emails[1]), metadata=bearer())

    async def found(**wanted: object) -> list[str]:
        request = operators_pb2.SearchAccountsRequest(**wanted)  # type: ignore[arg-type]
        return [one.id for one in (await world.operators.SearchAccounts(request, metadata=ada.metadata)).accounts]

    ids = [account.id for account in accounts]
    assert await found(text=f"{stamp}@EXAMPLE") == [ids[2], ids[0]]
    assert await found(text=ids[1]) == [ids[1]], "a deleted account is found by its id"
    assert await found(text="find%") == [], "no pattern of SQL"
    assert await found(text=f".{stamp}", state=operators_pb2.ACCOUNT_STATE_SUSPENDED) == [ids[0]]
    assert await found(text=f".{stamp}", state=operators_pb2.ACCOUNT_STATE_ACTIVE) == [ids[2]]
    assert await found(ids=ids, state=operators_pb2.ACCOUNT_STATE_DELETED) == [ids[1]]
    assert await found(ids=ids, plan="free", page_size=2) == [ids[2], ids[1]]
    assert await found(ids=ids, before=ids[2]) == [ids[1], ids[0]]
    for wrong in ({"text": "a\0b"}, {"text": "x" * 255}, {"ids": ["acc_1"]}, {"before": "1"}, {"plan": "A B"}):
        assert (await refusal(found(**wrong))).code is StatusCode.INVALID_ARGUMENT, wrong


async def test_an_account_is_described_with_its_keys_sessions_and_plan(world: World, ada: Operator) -> None:
    email = f"described{time.time_ns()}@example.com"
    token = await world.auth_api.sign_up(email)
    names = ["first", "second"]
    for name in names:
        await world.auth_api.create_key(token, name)

    request = operators_pb2.DescribeAccountRequest(account=email)
    described = await world.operators.DescribeAccount(request, metadata=ada.metadata)

    assert (described.account.email, described.plan.name, described.has_totp) == (email, "free", False)
    assert [key.name for key in described.keys] == names
    assert [session.address for session in described.sessions] == [ADDRESS]
    ending = operators_pb2.EndAccountSessionsRequest(account=email, session_id=described.sessions[0].id)
    assert (await world.operators.EndAccountSessions(ending, metadata=ada.metadata)).ended == 1
    assert (await world.operators.EndAccountSessions(ending, metadata=ada.metadata)).ended == 0
    for _ in range(2):
        await world.auth_api.log_in(email)
    ending = operators_pb2.EndAccountSessionsRequest(account=email)
    assert (await world.operators.EndAccountSessions(ending, metadata=ada.metadata)).ended == 2
    unknown = operators_pb2.DescribeAccountRequest(account="nobody@example.com")
    refused = await refusal(world.operators.DescribeAccount(unknown, metadata=ada.metadata))
    assert refused.code is StatusCode.NOT_FOUND


async def test_plans_are_changed_and_accounts_moved_to_them(world: World, ada: Operator) -> None:
    email, plan = f"moved{time.time_ns()}@example.com", f"plan{time.time_ns()}"
    await world.auth_api.sign_up(email)
    change = plans_pb2.SetPlanRequest(plan=plans_pb2.Plan(name=plan, daily_limit=7))
    await world.operators.SetPlanAsOperator(
        operators_pb2.SetPlanAsOperatorRequest(change=change), metadata=ada.metadata
    )
    moving = operators_pb2.SetAccountPlanAsOperatorRequest(account=email, plan=plan)
    moved = await world.operators.SetAccountPlanAsOperator(moving, metadata=ada.metadata)
    assert moved.account.plan == plan

    mask = FieldMask(paths=["daily_limit"])
    change = plans_pb2.SetPlanRequest(plan=plans_pb2.Plan(name=plan, daily_limit=9), update_mask=mask)
    await world.operators.SetPlanAsOperator(
        operators_pb2.SetPlanAsOperatorRequest(change=change), metadata=ada.metadata
    )
    listing = operators_pb2.ListPlansAsOperatorRequest()
    listed = (await world.operators.ListPlansAsOperator(listing, metadata=ada.metadata)).plans
    assert [(one.plan.daily_limit, one.accounts) for one in listed if one.plan.name == plan] == [(9, 1)]
    assert [one.actor for one in await world.events(email) if one.action == "account.plan_set"] == [
        f"operator:{ada.account.id}"
    ]


async def test_invitations_are_listed_without_their_token_and_revoked(world: World, ada: Operator) -> None:
    creating = operators_pb2.CreateInviteAsOperatorRequest(plan="free")
    created = await world.operators.CreateInviteAsOperator(creating, metadata=ada.metadata)
    kept = await world.operators.CreateInviteAsOperator(creating, metadata=ada.metadata)
    assert created.url.startswith("https://console.example.com/signup")
    assert created.token in created.url

    async def listed() -> list[str]:
        request = operators_pb2.ListInvitesRequest()
        answer = await world.operators.ListInvites(request, metadata=ada.metadata)
        assert created.token not in str(answer)
        return [one.id for one in answer.invites if one.expires_at in (created.expires_at, kept.expires_at)]

    first, second = await listed()
    await world.operators.RevokeInvite(operators_pb2.RevokeInviteRequest(id=first), metadata=ada.metadata)
    assert await listed() == [second]
    for missing in (first, "", second[:8], "%" * 16):
        request = operators_pb2.RevokeInviteRequest(id=missing)
        refused = await refusal(world.operators.RevokeInvite(request, metadata=ada.metadata))
        assert refused.code is StatusCode.NOT_FOUND
    signing_up = sessions_pb2.SignUpRequest(email="late@example.com", password=PASSWORD, invite=created.token)
    assert (await refusal(world.auth_api.sessions.SignUp(signing_up))).code is StatusCode.INVALID_ARGUMENT


async def test_the_audit_log_is_searched_by_account_actor_and_action(world: World, ada: Operator) -> None:
    email = f"audited{time.time_ns()}@example.com"
    token = await world.auth_api.sign_up(email)
    await world.auth_api.create_key(token)
    moving = operators_pb2.SetAccountPlanAsOperatorRequest(account=email, plan="free")
    await world.operators.SetAccountPlanAsOperator(moving, metadata=ada.metadata)

    async def found(**wanted: str) -> operators_pb2.SearchAuditEventsResponse:
        request = operators_pb2.SearchAuditEventsRequest(page_size=1_000, **wanted)
        return await world.operators.SearchAuditEvents(request, metadata=ada.metadata)

    own = await found(actor=f"operator:{ada.account.id}")
    assert [event.action for event in own.events] == ["account.plan_set"]
    assert [account.email for account in own.operators] == [ada.account.email]
    assert {event.action for event in (await found(account=email, action="key")).events} == {"key.created"}
    assert [event.action for event in (await found(account=email, actor="operator:")).events] == ["account.plan_set"]
    assert (await found(action="ke")).events == [], "a group is a whole word"
    everything = (await found(account=email)).events
    older = (await found(account=email, before=everything[0].id)).events
    assert list(older) == list(everything[1:])


@pytest.mark.parametrize(
    "shape",
    ["{}", "{} ", " {}", "\u00a0{}\u200b ", " {}" + " " * 60],
    ids=["bare", "after", "before", "hidden", "long"],
)
async def test_a_name_given_with_the_admin_token_is_not_that_of_a_verified_operator(world: World, shape: str) -> None:
    email = f"named{time.time_ns()}@example.com"
    account = await world.auth_api.open_account(email)
    request = accounts_pb2.SetAccountPlanRequest(account=email, plan="free")
    name = shape.format(account.id).encode()
    await world.auth_api.accounts.SetAccountPlan(request, metadata=(*bearer(), ("stack-operator-bin", name)))
    assert (await world.events(email))[0].actor == "operator:unnamed"
