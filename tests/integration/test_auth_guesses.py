"""Wrong passwords: guessing is limited, and cannot lock out other users."""

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from grpc import StatusCode, aio

from stack.auth.v1 import accounts_pb2, owner_pb2, sessions_pb2
from tests.integration.auth_api import PASSWORD, AuthAPI, auth_api_of, bearer, from_address, refusal
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, running_auth

pytestmark = pytest.mark.xdist_group("auth-guesses")

_PER_ADDRESS = 20
_FLOOD_SECONDS = 3.0
_AT_ONCE = 40


@dataclass(frozen=True, slots=True)
class World:
    """A running auth service and its database."""

    auth_api: AuthAPI
    database: Path

    def tries(self) -> list[int]:
        """Return the attempts counted in the database, most first."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return [row[0] for row in connection.execute("SELECT tries FROM throttles ORDER BY tries DESC")]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("auth")
    settings = {
        "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
        "AUTH_KEY_PEPPER": PEPPER,
        "AUTH_SIGN_UPS_PER_ADDRESS_MAX": "1000",
        "AUTH_LOG_INS_PER_ADDRESS_MAX": str(_PER_ADDRESS),
    }
    with running_auth(folder, settings) as process:
        yield process.target, folder / "auth.db"


@pytest.fixture
async def world(service: tuple[str, Path]) -> AsyncIterator[World]:
    async with auth_api_of(service[0]) as auth_api:
        yield World(auth_api, service[1])


async def _guess(auth_api: AuthAPI, email: str, address: str, count: int) -> Counter[StatusCode]:
    codes = [
        (await refusal(auth_api.log_in(email, password=f"guess number {number}", address=address))).code
        for number in range(count)
    ]
    return Counter(codes)


@pytest.mark.long
async def test_a_flood_of_guesses_from_one_address_locks_out_no_other_client(world: World) -> None:
    """526 tries a second once made every legitimate log-in a 429: each refused try cost a write and a global slot."""
    auth_api, answers, writes = world.auth_api, Counter[StatusCode](), world.tries()
    await auth_api.sign_up("normal@example.com")

    async def flood(number: int) -> None:
        until = time.monotonic() + _FLOOD_SECONDS
        while time.monotonic() < until:
            try:
                await auth_api.log_in(f"victim{number}@example.com", password="a wrong guess", address="203.0.113.50")
            except aio.AioRpcError as exc:
                answers[exc.code()] += 1

    flooding = [asyncio.create_task(flood(number)) for number in range(_AT_ONCE)]
    await asyncio.sleep(0.3)
    normal: Counter[object] = Counter()
    for number in range(12):
        try:
            await auth_api.log_in("normal@example.com", address=f"198.51.100.{number}")
            normal["logged in"] += 1
        except aio.AioRpcError as exc:
            normal[exc.code()] += 1
    signed_up = await auth_api.sign_up("late@example.com", address="198.51.100.99")
    await asyncio.gather(*flooding)
    print(f"\n{answers.total() / _FLOOD_SECONDS:,.0f} tries/s, {dict(answers)}; others: {dict(normal)}")
    assert normal == {"logged in": 12}
    assert signed_up
    assert answers[StatusCode.UNAUTHENTICATED] <= _PER_ADDRESS
    assert answers.total() > 300, "the load was too low"
    counted = Counter(world.tries())
    counted.subtract(Counter(writes))
    assert max(counted.elements()) <= _PER_ADDRESS + _AT_ONCE, "refused tries are still written down"


@pytest.mark.long
async def test_guesses_from_many_addresses_lock_out_no_owner(world: World) -> None:
    """Ten addresses once kept an owner out for ever, even while logged in."""
    auth_api = world.auth_api
    session = await auth_api.sign_up("locked@example.com")
    for number in range(11):
        assert set(await _guess(auth_api, "locked@example.com", f"203.0.113.{number}", 10)) == {
            StatusCode.UNAUTHENTICATED
        }

    assert await auth_api.log_in("locked@example.com", address="198.51.100.1")
    change = owner_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password="another good password")
    await auth_api.owner.ChangePassword(change, metadata=bearer(session))
    assert await auth_api.log_in("locked@example.com", password="another good password", address="198.51.100.2")


@pytest.mark.long
async def test_the_owner_is_notified_of_many_wrong_passwords_once(world: World) -> None:
    auth_api = world.auth_api
    session = await auth_api.sign_up("notified@example.com")
    for number in range(5):
        await _guess(auth_api, "notified@example.com", f"203.0.114.{number}", 9)

    events = await auth_api.owner.ListOwnAuditEvents(owner_pb2.ListOwnAuditEventsRequest(), metadata=bearer(session))
    reported = [event for event in events.events if event.action == "account.log_ins_failed"]
    assert [(event.actor, event.address, dict(event.details)) for event in reported] == [
        ("unknown", "203.0.114.2", {"count": "20"})
    ]


@pytest.mark.long
async def test_a_known_device_can_log_in_from_an_address_at_its_limit(world: World) -> None:
    auth_api, home = world.auth_api, "203.0.115.1"
    for email in ("device@example.com", "neighbour@example.com"):
        await auth_api.sign_up(email)
    device = await auth_api.device("device@example.com", address=home)
    await _guess(auth_api, "device@example.com", home, 10)
    for number in range(_PER_ADDRESS // 10 + 1):
        await _guess(auth_api, f"other{number}@example.com", home, 10)

    assert (await refusal(auth_api.log_in("device@example.com", address=home))).code is StatusCode.RESOURCE_EXHAUSTED
    assert await auth_api.log_in_with(device, "device@example.com", address=home)
    of_another = await refusal(auth_api.log_in_with(device, "neighbour@example.com", address=home))
    assert of_another.code is StatusCode.RESOURCE_EXHAUSTED, "a device of one account guesses at another"
    forged = f"{device[:-4]}{'0' if device[-4] != '0' else '1'}{device[-3:]}"
    made_up = await refusal(auth_api.log_in_with(forged, "device@example.com", address=home))
    assert made_up.code is StatusCode.RESOURCE_EXHAUSTED


async def test_a_device_has_its_own_limit(world: World) -> None:
    auth_api = world.auth_api
    await auth_api.sign_up("stolen@example.com")
    device = await auth_api.device("stolen@example.com", address="198.51.100.10")

    codes = [
        (
            await refusal(
                auth_api.log_in_with(device, "stolen@example.com", password="a wrong guess", address=f"203.0.116.{n}")
            )
        ).code
        for n in range(12)
    ]

    assert codes.count(StatusCode.UNAUTHENTICATED) == 10
    assert codes[-1] is StatusCode.RESOURCE_EXHAUSTED
    assert await auth_api.log_in("stolen@example.com", address="198.51.100.11"), "without the device it is as before"


async def test_wrong_passwords_in_one_session_lock_out_neither_another_session_nor_a_log_in(world: World) -> None:
    auth_api = world.auth_api
    thief = await auth_api.sign_up("sessions@example.com")
    owner = await auth_api.log_in("sessions@example.com")
    wrong = owner_pb2.ChangePasswordRequest(current_password="a wrong guess", new_password="another good password")
    codes = [(await refusal(auth_api.owner.ChangePassword(wrong, metadata=bearer(thief)))).code for _ in range(11)]
    right = owner_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password="another good password")
    still = await refusal(auth_api.owner.ChangePassword(right, metadata=bearer(thief)))

    assert codes == [StatusCode.PERMISSION_DENIED] * 10 + [StatusCode.RESOURCE_EXHAUSTED]
    assert still.code is StatusCode.RESOURCE_EXHAUSTED
    assert await auth_api.log_in("sessions@example.com")
    await auth_api.owner.ChangePassword(right, metadata=bearer(owner))


@pytest.mark.long
async def test_a_password_reset_ends_the_lock_of_its_owner(world: World) -> None:
    auth_api, home = world.auth_api, "203.0.117.1"
    await auth_api.sign_up("forgot@example.com")
    await _guess(auth_api, "forgot@example.com", home, 11)
    assert (await refusal(auth_api.log_in("forgot@example.com", address=home))).code is StatusCode.RESOURCE_EXHAUSTED
    request = accounts_pb2.CreatePasswordResetRequest(account="forgot@example.com")
    token = (await auth_api.accounts.CreatePasswordReset(request, metadata=bearer())).token
    reset = sessions_pb2.ResetPasswordRequest(token=token, password="a new good password")
    answer = await auth_api.sessions.ResetPassword(reset, metadata=from_address(home))

    assert await auth_api.log_in("forgot@example.com", password="a new good password", address=home)

    for number in range(_PER_ADDRESS // 10 + 1):
        await _guess(auth_api, f"other{number}@example.com", home, 10)
    used_up = await refusal(auth_api.log_in("forgot@example.com", password="a new good password", address=home))
    assert used_up.code is StatusCode.RESOURCE_EXHAUSTED
    known = answer.device_token
    assert await auth_api.log_in_with(known, "forgot@example.com", password="a new good password", address=home)
