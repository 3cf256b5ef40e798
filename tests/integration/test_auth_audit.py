"""The audit log and other lists can be paged completely, and every end of a session is recorded."""

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from grpc import StatusCode

from stack.auth.v1 import accounts_pb2, audit_pb2, owner_pb2, sessions_pb2
from tests.integration.auth_api import PASSWORD, AuthAPI, auth_api_of, bearer, from_address, refusal
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, AuthProcess, running_auth

pytestmark = pytest.mark.xdist_group("auth-audit")

_SETTINGS = {
    "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
    "AUTH_KEY_PEPPER": PEPPER,
    "AUTH_SIGN_UPS_PER_ADDRESS_MAX": "1000",
    "AUTH_LOG_INS_PER_ADDRESS_MAX": "1000",
}


@pytest.fixture(scope="module")
def auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthProcess]:
    with running_auth(tmp_path_factory.mktemp("auth"), _SETTINGS) as process:
        yield process


@pytest.fixture
async def auth_api(auth: AuthProcess) -> AsyncIterator[AuthAPI]:
    async with auth_api_of(auth.target) as auth_api:
        yield auth_api


@pytest.mark.long
async def test_every_list_can_be_paged_to_its_end_without_gaps(auth_api: AuthAPI) -> None:
    for number in range(7):
        await auth_api.sign_up(f"page{number}@example.com")
    token = await auth_api.log_in("page0@example.com")
    for _ in range(3):
        await auth_api.log_in("page0@example.com", address="198.51.100.1")

    async def accounts(after: str, size: int) -> list[str]:
        request = accounts_pb2.ListAccountsRequest(after=after, page_size=size)
        return [one.id for one in (await auth_api.accounts.ListAccounts(request, metadata=bearer())).accounts]

    async def events(before: str, size: int) -> list[str]:
        request = audit_pb2.ListAuditEventsRequest(before=before, page_size=size)
        return [one.id for one in (await auth_api.audit.ListAuditEvents(request, metadata=bearer())).events]

    async def own_events(before: str, size: int) -> list[str]:
        request = owner_pb2.ListOwnAuditEventsRequest(before=before, page_size=size)
        return [one.id for one in (await auth_api.owner.ListOwnAuditEvents(request, metadata=bearer(token))).events]

    for read in (accounts, events, own_events):
        whole, paged, cursor = await read("", 1_000), [], ""
        while page := await read(cursor, 2):
            paged += page
            cursor = page[-1]
        assert paged == whole, read
        assert len(whole) >= 5, read


@pytest.mark.parametrize("cursor", ["evt_01ARZ3NDEKTSV4RRFFQ69G5FAV", "acc_01ARZ3NDEKTSV4RRFFQ69G5FAV", "aud_", "1"])
async def test_a_cursor_of_another_kind_is_refused_and_not_treated_as_the_first_page(
    auth_api: AuthAPI, cursor: str
) -> None:
    request = audit_pb2.ListAuditEventsRequest(before=cursor)
    refused = await refusal(auth_api.audit.ListAuditEvents(request, metadata=bearer()))
    assert (refused.code, "aud_" in refused.message) == (StatusCode.INVALID_ARGUMENT, True)


async def _ended(auth_api: AuthAPI, email: str) -> list[tuple[str, str]]:
    """Return the sessions of an account that ended, and why, oldest first."""
    request = audit_pb2.ListAuditEventsRequest(account=email, page_size=1_000)
    events = (await auth_api.audit.ListAuditEvents(request, metadata=bearer())).events
    return [(one.target, one.details["reason"]) for one in reversed(events) if one.action == "session.ended"]


async def test_every_session_that_ends_has_an_event_with_the_reason(auth_api: AuthAPI) -> None:
    email = "ended@example.com"
    first = await auth_api.sign_up(email)
    replaced = (await auth_api.session(first)).id
    second = await auth_api.log_in(email, replaced=first)
    logged_out = (await auth_api.session(second)).id
    await auth_api.sessions.LogOut(sessions_pb2.LogOutRequest(token=second))
    other, keeping = await auth_api.log_in(email), await auth_api.log_in(email)
    changed = (await auth_api.session(other)).id
    change = owner_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password="another good password")
    await auth_api.owner.ChangePassword(change, metadata=bearer(keeping))
    reset_ended = (await auth_api.session(keeping)).id
    token = (
        await auth_api.accounts.CreatePasswordReset(
            accounts_pb2.CreatePasswordResetRequest(account=email), metadata=bearer()
        )
    ).token
    await auth_api.sessions.ResetPassword(sessions_pb2.ResetPasswordRequest(token=token, password=PASSWORD))

    assert await _ended(auth_api, email) == [
        (replaced, "replaced"),
        (logged_out, "ended"),
        (changed, "password_set"),
        (reset_ended, "password_reset"),
    ]


async def test_a_session_of_another_account_replaced_by_a_log_in_ends_in_that_accounts_log(auth_api: AuthAPI) -> None:
    planted = await auth_api.sign_up("mallory@example.com")
    session_id = (await auth_api.session(planted)).id
    await auth_api.sign_up("victim@example.com")
    await auth_api.log_in("victim@example.com", replaced=planted, address="198.51.100.5")

    assert await _ended(auth_api, "mallory@example.com") == [(session_id, "replaced")]
    assert await _ended(auth_api, "victim@example.com") == []


async def test_an_ipv6_caller_is_audited_by_its_address(tmp_path: Path) -> None:
    """gRPC formats it as `%5B::1%5D`."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
            port = probe.getsockname()[1]
    except OSError as exc:
        pytest.skip(f"this machine has no IPv6 loopback address: {exc}")
    settings = {**_SETTINGS, "AUTH_LISTEN": f"[::1]:{port}"}
    with running_auth(tmp_path, settings):
        async with auth_api_of(f"[::1]:{port}") as auth_api:
            await auth_api.open_account("six@example.com")
            metadata = from_address("2001:db8::7")
            sign_up = sessions_pb2.SignUpRequest(email="seven@example.com", password=PASSWORD)
            await auth_api.sessions.SignUp(sign_up, metadata=metadata)
            listing = audit_pb2.ListAuditEventsRequest(page_size=1_000)
            events = (await auth_api.audit.ListAuditEvents(listing, metadata=bearer())).events
    assert {event.address for event in events} == {"::1", "2001:db8::7"}
