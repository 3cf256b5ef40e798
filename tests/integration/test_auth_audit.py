"""The audit log and other lists can be paged completely, and every end of a session is recorded."""

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from grpc import StatusCode

from stack.auth.v1 import accounts_pb2, audit_pb2, owner_pb2, sessions_pb2
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, AuthProcess, running_auth
from tests.integration.people import PASSWORD, People, bearer, from_address, people_of, refusal

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
async def people(auth: AuthProcess) -> AsyncIterator[People]:
    async with people_of(auth.target) as people:
        yield people


async def test_every_list_can_be_paged_to_its_end_without_gaps(people: People) -> None:
    for number in range(7):
        await people.sign_up(f"page{number}@example.com")
    token = await people.log_in("page0@example.com")
    for _ in range(3):
        await people.log_in("page0@example.com", address="198.51.100.1")

    async def accounts(after: str, size: int) -> list[str]:
        request = accounts_pb2.ListAccountsRequest(after=after, page_size=size)
        return [one.id for one in (await people.accounts.ListAccounts(request, metadata=bearer())).accounts]

    async def events(before: str, size: int) -> list[str]:
        request = audit_pb2.ListAuditEventsRequest(before=before, page_size=size)
        return [one.id for one in (await people.audit.ListAuditEvents(request, metadata=bearer())).events]

    async def own_events(before: str, size: int) -> list[str]:
        request = owner_pb2.ListOwnAuditEventsRequest(before=before, page_size=size)
        return [one.id for one in (await people.owner.ListOwnAuditEvents(request, metadata=bearer(token))).events]

    for read in (accounts, events, own_events):
        whole, paged, cursor = await read("", 1_000), [], ""
        while page := await read(cursor, 2):
            paged += page
            cursor = page[-1]
        assert paged == whole, read
        assert len(whole) >= 5, read


@pytest.mark.parametrize("cursor", ["evt_01ARZ3NDEKTSV4RRFFQ69G5FAV", "acc_01ARZ3NDEKTSV4RRFFQ69G5FAV", "aud_", "1"])
async def test_a_cursor_of_another_kind_is_refused_and_not_treated_as_the_first_page(
    people: People, cursor: str
) -> None:
    request = audit_pb2.ListAuditEventsRequest(before=cursor)
    refused = await refusal(people.audit.ListAuditEvents(request, metadata=bearer()))
    assert (refused.code, "aud_" in refused.message) == (StatusCode.INVALID_ARGUMENT, True)


async def _ended(people: People, email: str) -> list[tuple[str, str]]:
    """Return the sessions of an account that ended, and why, oldest first."""
    request = audit_pb2.ListAuditEventsRequest(account=email, page_size=1_000)
    events = (await people.audit.ListAuditEvents(request, metadata=bearer())).events
    return [(one.target, one.details["reason"]) for one in reversed(events) if one.action == "session.ended"]


async def test_every_session_that_ends_has_an_event_with_the_reason(people: People) -> None:
    email = "ended@example.com"
    first = await people.sign_up(email)
    replaced = (await people.session(first)).id
    second = await people.log_in(email, replaced=first)
    logged_out = (await people.session(second)).id
    await people.sessions.LogOut(sessions_pb2.LogOutRequest(token=second))
    other, keeping = await people.log_in(email), await people.log_in(email)
    changed = (await people.session(other)).id
    change = owner_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password="another good password")
    await people.owner.ChangePassword(change, metadata=bearer(keeping))
    reset_ended = (await people.session(keeping)).id
    token = (
        await people.accounts.CreatePasswordReset(
            accounts_pb2.CreatePasswordResetRequest(account=email), metadata=bearer()
        )
    ).token
    await people.sessions.ResetPassword(sessions_pb2.ResetPasswordRequest(token=token, password=PASSWORD))

    assert await _ended(people, email) == [
        (replaced, "replaced"),
        (logged_out, "ended"),
        (changed, "password_set"),
        (reset_ended, "password_reset"),
    ]


async def test_a_session_of_another_account_replaced_by_a_log_in_ends_in_that_accounts_log(people: People) -> None:
    planted = await people.sign_up("mallory@example.com")
    session_id = (await people.session(planted)).id
    await people.sign_up("victim@example.com")
    await people.log_in("victim@example.com", replaced=planted, address="198.51.100.5")

    assert await _ended(people, "mallory@example.com") == [(session_id, "replaced")]
    assert await _ended(people, "victim@example.com") == []


async def test_an_ipv6_caller_is_audited_by_its_address(tmp_path: Path) -> None:
    """gRPC formats it as `%5B::1%5D`."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
            port = probe.getsockname()[1]
    except OSError as exc:
        pytest.skip(f"this machine has no IPv6 loopback address: {exc}")
    settings = {**_SETTINGS, "AUTH_LISTEN": f"[::1]:{port}"}
    with running_auth(tmp_path, settings):
        async with people_of(f"[::1]:{port}") as people:
            await people.open_account("six@example.com")
            metadata = from_address("2001:db8::7")
            sign_up = sessions_pb2.SignUpRequest(email="seven@example.com", password=PASSWORD)
            await people.sessions.SignUp(sign_up, metadata=metadata)
            listing = audit_pb2.ListAuditEventsRequest(page_size=1_000)
            events = (await people.audit.ListAuditEvents(listing, metadata=bearer())).events
    assert {event.address for event in events} == {"::1", "2001:db8::7"}
