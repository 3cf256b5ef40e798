"""The auth service as a process: key look-ups, and who may manage keys."""

from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.common.limits import parse_limit, parse_limits
from services.common.rpc.limits import limit_to_proto, limits_from_proto
from stack.auth.v1 import accounts_pb2, auth_pb2, keys_pb2, plans_pb2
from stack.common.v1 import limits_pb2
from tests.integration.auth_process import (
    ADMIN_TOKEN,
    PEPPER,
    AuthClient,
    AuthProcess,
    auth_client,
    running_auth,
    shown,
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthProcess]:
    """One service on SQLite for all tests of this module; each uses its own e-mail address."""
    settings = {"STACK_ADMIN_TOKEN": ADMIN_TOKEN, "AUTH_KEY_PEPPER": PEPPER}
    with running_auth(tmp_path_factory.mktemp("auth"), settings) as service:
        yield service


@pytest.fixture
async def client(service: AuthProcess) -> AsyncIterator[AuthClient]:
    async with auth_client(service.target) as client:
        yield client


async def test_a_new_key_is_valid_at_once_and_has_the_limit_of_its_plan(client: AuthClient) -> None:
    created = await client.new_key("new@example.com")

    answer = await client.authenticate(created.secret)

    assert answer.principal.key_id == created.key.id
    assert answer.principal.account_id == created.key.account_id
    assert answer.principal.daily_limit == 1000
    assert not answer.principal.HasField("expires_at")
    assert answer.revision >= 1


async def test_a_limit_of_zero_is_a_limit(client: AuthClient) -> None:
    created = await client.new_key("zero@example.com", daily_limit=0)

    answer = await client.authenticate(created.secret)

    assert answer.principal.key_id == created.key.id
    assert answer.principal.daily_limit == 0


async def test_a_revoked_key_is_denied_as_soon_as_the_revocation_is_answered(client: AuthClient) -> None:
    created = await client.new_key("revoked@example.com")
    before = (await client.authenticate(created.secret)).revision
    revoked = await client.revoke(created.key.id)
    assert revoked.HasField("revoked_at")

    answer = await client.authenticate(created.secret)

    assert answer.denial.reason == auth_pb2.DENIAL_REASON_REVOKED
    assert (answer.denial.key_id, answer.denial.quota_account_id) == (created.key.id, created.key.account_id)
    assert answer.revision > before
    assert await client.revoke(created.key.id) == revoked


@pytest.mark.parametrize("secret", ["", "nonsense", "sk_stk_" + "0" * 40])
async def test_text_that_is_no_key_is_unknown(client: AuthClient, secret: str) -> None:
    answer = await client.authenticate(secret)

    assert answer.denial == auth_pb2.Denial(reason=auth_pb2.DENIAL_REASON_UNKNOWN), "there is no key to name"


async def test_a_keys_limit_can_be_set_and_reset_to_the_plans(client: AuthClient) -> None:
    created = await client.new_key("limit@example.com")

    request = keys_pb2.SetKeyLimitRequest(key_id=created.key.id, daily_limit=5)
    assert (await client.keys.SetKeyLimit(request, metadata=shown())).key.daily_limit == 5
    assert (await client.authenticate(created.secret)).principal.daily_limit == 5

    request = keys_pb2.SetKeyLimitRequest(key_id=created.key.id)
    assert (await client.keys.SetKeyLimit(request, metadata=shown())).key.daily_limit == 1000


async def test_limits_of_a_plan_and_of_a_key_are_authenticated(client: AuthClient) -> None:
    limits = parse_limits(["account:concurrent_requests=20", "key:tokens:minute=6000"])
    request = plans_pb2.Plan(name="limited", daily_limit=10, limits=map(limit_to_proto, limits), weight=4)
    await client.plans.SetPlan(plans_pb2.SetPlanRequest(plan=request), metadata=shown())
    created = await client.new_key("limits@example.com")
    moved = accounts_pb2.SetAccountPlanRequest(account="limits@example.com", plan="limited")
    await client.accounts.SetAccountPlan(moved, metadata=shown())

    principal = (await client.authenticate(created.secret)).principal
    assert (limits_from_proto(principal.limits), principal.weight) == (limits, 4)

    own = limit_to_proto(parse_limit("key:tokens:minute=7"))
    change = keys_pb2.ChangeKeyLimitsRequest(key_id=created.key.id, limits=[own])
    await client.keys.ChangeKeyLimits(change, metadata=shown())
    principal = (await client.authenticate(created.secret)).principal
    assert limits_from_proto(principal.limits) == parse_limits(
        ["account:concurrent_requests=20", "key:tokens:minute=7"]
    )

    change = keys_pb2.ChangeKeyLimitsRequest(key_id=created.key.id, removed_limits=[own])
    assert limits_from_proto((await client.keys.ChangeKeyLimits(change, metadata=shown())).key.limits) == limits


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (limits_pb2.Limit(), "A limit has an unknown scope, unit or window."),
        (
            limits_pb2.Limit(scope=limits_pb2.SCOPE_KEY, unit=limits_pb2.UNIT_TOKENS, window=limits_pb2.WINDOW_MONTH),
            "Limits of tokens are per minute or day.",
        ),
        (limit_to_proto(parse_limit("key:requests:day=5")), "Set daily_limit instead."),
        (limit_to_proto(parse_limit("account:requests:day=5")), "Set account_daily_limit instead."),
    ],
)
async def test_a_limit_that_plans_cannot_have_is_refused(
    client: AuthClient, limit: limits_pb2.Limit, message: str
) -> None:
    plan = plans_pb2.Plan(name="free", daily_limit=1000)
    requests = [
        plans_pb2.SetPlanRequest(plan=plans_pb2.Plan(name="free", daily_limit=1000, limits=[limit])),
        plans_pb2.SetPlanRequest(plan=plan, update_mask=FieldMask(), changed_limits=[limit]),
    ]
    for request in requests:
        with pytest.raises(grpc.aio.AioRpcError, match=message) as refusal:
            await client.plans.SetPlan(request, metadata=shown())
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_key_cannot_have_a_limit_of_its_account(client: AuthClient) -> None:
    created = await client.new_key("key-limits@example.com")
    limit = limit_to_proto(parse_limit("account:tokens:day=5"))
    change = keys_pb2.ChangeKeyLimitsRequest(key_id=created.key.id, limits=[limit])
    with pytest.raises(grpc.aio.AioRpcError, match="account:tokens:day is a limit of the account") as refusal:
        await client.keys.ChangeKeyLimits(change, metadata=shown())
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_listed_key_does_not_hold_its_secret(client: AuthClient) -> None:
    created = await client.new_key("list@example.com")

    listed = await client.keys.ListKeys(keys_pb2.ListKeysRequest(email="LIST@example.com"), metadata=shown())

    assert list(listed.keys) == [created.key]
    assert created.secret not in str(listed)
    assert created.secret.startswith(created.key.prefix)


async def test_keys_are_listed_page_by_page(client: AuthClient) -> None:
    first = (await client.new_key("pages@example.com")).key
    request = keys_pb2.CreateKeyRequest(email="pages@example.com", name="second")
    second = (await client.keys.CreateKey(request, metadata=shown())).key

    async def page(size: int, after: str = "") -> list[str]:
        request = keys_pb2.ListKeysRequest(email="pages@example.com", page_size=size, after=after)
        return [key.id for key in (await client.keys.ListKeys(request, metadata=shown())).keys]

    ids = sorted((first.id, second.id))
    assert [await page(1), await page(1, ids[0]), await page(1, ids[1])] == [[ids[0]], [ids[1]], []]
    for size, after, reason in ((1_001, "", "It must be 1 to 1000"), (-1, "", "page_size"), (1, "acc_1", "after")):
        with pytest.raises(grpc.aio.AioRpcError, match=reason) as refusal:
            await page(size, after)
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_second_account_of_an_address_is_refused_by_name(client: AuthClient) -> None:
    await client.new_key("twice@example.com")

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await client.new_key("Twice@Example.com")

    assert refusal.value.code() is grpc.StatusCode.ALREADY_EXISTS
    details = "twice@example.com already has an account. Log in, or use another e-mail address."
    assert refusal.value.details() == details


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ((), grpc.StatusCode.UNAUTHENTICATED),
        ((("authorization", ADMIN_TOKEN),), grpc.StatusCode.UNAUTHENTICATED),
        (shown("wrong"), grpc.StatusCode.PERMISSION_DENIED),
        (shown(""), grpc.StatusCode.PERMISSION_DENIED),
    ],
)
async def test_calls_without_the_admin_token_manage_nothing(
    client: AuthClient, metadata: tuple[tuple[str, str], ...], code: grpc.StatusCode
) -> None:
    attempts = (
        lambda: client.accounts.CreateAccount(accounts_pb2.CreateAccountRequest(), metadata=metadata),
        lambda: client.keys.CreateKey(keys_pb2.CreateKeyRequest(), metadata=metadata),
        lambda: client.keys.GetKey(keys_pb2.GetKeyRequest(), metadata=metadata),
        lambda: client.keys.ListKeys(keys_pb2.ListKeysRequest(), metadata=metadata),
        lambda: client.keys.RevokeKey(keys_pb2.RevokeKeyRequest(), metadata=metadata),
        lambda: client.keys.SetKeyLimit(keys_pb2.SetKeyLimitRequest(), metadata=metadata),
    )
    for attempt in attempts:
        with pytest.raises(grpc.aio.AioRpcError, match="STACK_ADMIN_TOKEN") as refusal:
            await attempt()
        assert refusal.value.code() is code


async def test_a_missing_object_is_named(client: AuthClient) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await client.keys.ListKeys(keys_pb2.ListKeysRequest(email="nobody@example.com"), metadata=shown())

    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    assert "No account nobody@example.com" in (refusal.value.details() or "")
