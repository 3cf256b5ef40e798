"""Two concurrent operations on one account: a write never relies on a proof that is no longer valid.

Every test starts both operations together, many times, against a real auth service on SQLite and on Postgres.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import asyncpg
import pytest
from grpc import StatusCode, aio

from stack.auth.v1 import accounts_pb2, owner_pb2, sessions_pb2
from tests.backends import fresh_database
from tests.integration.auth_api import PASSWORD, AuthAPI, auth_api_of, bearer, refusal
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, run_auth, running_auth

pytestmark = pytest.mark.xdist_group("auth-races")

T = TypeVar("T")

ROUNDS = 5
"""Before proofs were checked again, at least six of ten rounds failed in each of these tests."""
NEW, THIEFS = "the owner's new one", "the thief's own one"


@dataclass(frozen=True, slots=True)
class World:
    """A running auth service and its database."""

    auth_api: AuthAPI
    file: Path
    url: str
    """Empty on SQLite."""

    async def rows(self, query: str) -> list[tuple[object, ...]]:
        """Return rows from the database itself."""
        if not self.url:
            with closing(sqlite3.connect(f"file:{self.file}?mode=ro", uri=True)) as connection:
                return connection.execute(query).fetchall()
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    async def hashes(self) -> int:
        """Return how many values in all tables hold a password hash."""
        names = "pg_tables WHERE schemaname = 'public'" if self.url else "sqlite_master WHERE type = 'table'"
        column = "tablename" if self.url else "name"
        count = 0
        for (table,) in await self.rows(f"SELECT {column} FROM {names}"):
            rows = await self.rows(f'SELECT * FROM "{table}"')
            count += sum("$argon2" in str(value) for row in rows for value in row)
        return count

    async def reset_token(self, email: str) -> str:
        """Make a token for a new password, as an operator."""
        request = accounts_pb2.CreatePasswordResetRequest(account=email)
        return (await self.auth_api.accounts.CreatePasswordReset(request, metadata=bearer())).token


@pytest.fixture(scope="module", params=[pytest.param("sqlite", marks=pytest.mark.long), "postgres"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, str]]:
    folder = tmp_path_factory.mktemp("auth")
    settings = {
        "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
        "AUTH_KEY_PEPPER": PEPPER,
        "AUTH_SIGN_UPS_PER_ADDRESS_MAX": "100000",
        "AUTH_LOG_INS_PER_ADDRESS_MAX": "100000",
    }
    if request.param == "sqlite":
        with running_auth(folder, settings) as process:
            yield process.target, folder / "auth.db", ""
        return
    with fresh_database(request.getfixturevalue("postgres_server")) as url:
        settings["AUTH_DATABASE_URL"] = url
        assert run_auth(folder, settings, "migrate").returncode == 0
        with running_auth(folder, settings) as process:
            yield process.target, folder, url


@pytest.fixture
async def world(service: tuple[str, Path, str]) -> AsyncIterator[World]:
    target, file, url = service
    async with auth_api_of(target) as auth_api:
        yield World(auth_api, file, url)


async def _both(one: Awaitable[T], other: Awaitable[object]) -> T | None:
    """Run two calls together; return the answer of the first, None when it was refused."""
    first, second = await asyncio.gather(one, other, return_exceptions=True)
    for answer in (first, second):
        assert not isinstance(answer, BaseException) or isinstance(answer, aio.AioRpcError), answer
        # A refusal is correct; an unexpected answer is not.
        assert not isinstance(answer, aio.AioRpcError) or answer.code() in _REFUSALS, answer
    return None if isinstance(first, BaseException) else first


_REFUSALS = (
    StatusCode.UNAUTHENTICATED,
    StatusCode.PERMISSION_DENIED,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
)


def _change(world: World, token: str, new: str) -> Awaitable[object]:
    request = owner_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password=new)
    return world.auth_api.owner.ChangePassword(request, metadata=bearer(token))


def _reset(world: World, token: str) -> Awaitable[object]:
    return world.auth_api.sessions.ResetPassword(sessions_pb2.ResetPasswordRequest(token=token, password=NEW))


def _delete(world: World, token: str) -> Awaitable[object]:
    request = owner_pb2.DeleteOwnAccountRequest(password=PASSWORD)
    return world.auth_api.owner.DeleteOwnAccount(request, metadata=bearer(token))


async def _is_alive(world: World, token: str) -> bool:
    try:
        await world.auth_api.session(token)
    except aio.AioRpcError:
        return False
    return True


async def _opens(world: World, email: str, password: str) -> bool:
    try:
        await world.auth_api.log_in(email, password=password, address="198.51.100.9")
    except aio.AioRpcError as exc:
        if exc.code() is not StatusCode.UNAUTHENTICATED:
            raise
        return False
    return True


@pytest.mark.long
async def test_no_session_of_the_old_password_outlives_a_reset(world: World) -> None:
    alive = 0
    for number in range(ROUNDS):
        email = f"a{number}@example.com"
        await world.auth_api.sign_up(email)
        token = await world.reset_token(email)
        opened = await _both(world.auth_api.log_in(email), _reset(world, token))
        alive += opened is not None and await _is_alive(world, opened)
    assert alive == 0, f"{alive} of {ROUNDS} sessions that were opened with the old password are still alive"


async def test_no_session_of_the_old_password_outlives_its_change(world: World) -> None:
    alive = 0
    for number in range(ROUNDS):
        email = f"b{number}@example.com"
        session = await world.auth_api.sign_up(email)
        opened = await _both(world.auth_api.log_in(email), _change(world, session, NEW))
        alive += opened is not None and await _is_alive(world, opened)
    assert alive == 0, f"{alive} of {ROUNDS} sessions that were opened with the old password are still alive"


@pytest.mark.long
async def test_a_change_by_the_old_password_never_overwrites_a_reset(world: World) -> None:
    """A change that came first has invalidated the link, and the reset is refused; then nothing was confirmed."""
    overwritten = 0
    for number in range(ROUNDS):
        email = f"c{number}@example.com"
        thief = await world.auth_api.sign_up(email)
        token = await world.reset_token(email)
        changing, resetting = _change(world, thief, THIEFS), _reset(world, token)
        _, reset = await asyncio.gather(changing, resetting, return_exceptions=True)
        if isinstance(reset, aio.AioRpcError):
            assert reset.code() is StatusCode.INVALID_ARGUMENT
            assert await _opens(world, email, THIEFS)
            continue
        assert not await _is_alive(world, thief)
        overwritten += await _opens(world, email, THIEFS) or not await _opens(world, email, NEW)
    assert overwritten == 0, f"{overwritten} of {ROUNDS} resets were overwritten"


@pytest.mark.long
async def test_of_two_concurrent_changes_one_is_made_and_the_other_is_refused(world: World) -> None:
    for number in range(ROUNDS):
        email = f"d{number}@example.com"
        session = await world.auth_api.sign_up(email)
        changes = [_change(world, session, password) for password in (NEW, THIEFS)]
        answers = await asyncio.gather(*changes, return_exceptions=True)
        refused = [isinstance(answer, aio.AioRpcError) for answer in answers]
        assert sorted(refused) == [False, True], "both report that theirs is the password now"
        assert [await _opens(world, email, one) for one in (NEW, THIEFS)] == [not one for one in refused]


async def test_the_old_password_deletes_nothing_that_was_reset(world: World) -> None:
    """Either the deletion came first and the reset finds no account, or the reset did and the account stays."""
    for number in range(ROUNDS):
        email = f"e{number}@example.com"
        thief = await world.auth_api.sign_up(email)
        token = await world.reset_token(email)
        deleted, reset = await asyncio.gather(_delete(world, thief), _reset(world, token), return_exceptions=True)
        refused = [isinstance(answer, aio.AioRpcError) for answer in (deleted, reset)]
        assert sorted(refused) == [False, True], (deleted, reset)
        assert await _opens(world, email, NEW) == refused[0]


@pytest.mark.long
async def test_no_password_hash_or_session_remains_after_a_deletion(world: World) -> None:
    before = await world.hashes()
    for number in range(ROUNDS):
        email = f"f{number}@example.com"
        session = await world.auth_api.sign_up(email)
        token = await world.reset_token(email)
        account = (await world.auth_api.session(session)).account
        operators = accounts_pb2.DeleteAccountRequest(account=account.id)
        calls: list[Callable[[], Awaitable[object]]] = [
            partial(world.auth_api.log_in, email),
            partial(_change, world, session, NEW),
            partial(_reset, world, token),
            partial(world.reset_token, account.id),
        ]
        await _both(calls[number % 4](), world.auth_api.accounts.DeleteAccount(operators, metadata=bearer()))
        for table in ("sessions", "one_time_tokens"):
            left = await world.rows(f"SELECT 1 FROM {table} WHERE account_id = '{account.id}'")
            assert not left, f"a deleted account has {table}"
    assert await world.hashes() == before, "a deleted account has a password hash"


async def test_a_session_that_was_ended_creates_no_key_afterwards(world: World) -> None:
    """The page says that all sessions are ended; a call in progress with one must not finish after that."""
    for number in range(ROUNDS):
        email = f"g{number}@example.com"
        thief = await world.auth_api.sign_up(email)
        token = await world.reset_token(email)
        resetting = asyncio.ensure_future(_reset(world, token))
        while not resetting.done():
            await asyncio.gather(*(world.auth_api.create_key(thief) for _ in range(3)), return_exceptions=True)
        await resetting
        refused = await refusal(world.auth_api.create_key(thief))
        assert refused.code is StatusCode.UNAUTHENTICATED
        if not world.url:  # The order of SQLite's rows is that of its transactions.
            rows = await world.rows("SELECT action FROM audit_events ORDER BY rowid")
            last = len(rows) - 1 - [action for (action,) in reversed(rows)].index("account.password_reset")
            assert ("key.created",) not in rows[last:]


async def test_an_invitation_admits_exactly_one_of_many(world: World) -> None:
    for number in range(ROUNDS // 4):
        invite = await world.auth_api.accounts.CreateInvite(accounts_pb2.CreateInviteRequest(), metadata=bearer())
        requests = [
            sessions_pb2.SignUpRequest(email=f"h{number}.{one}@example.com", password=PASSWORD, invite=invite.token)
            for one in range(6)
        ]
        answers = await asyncio.gather(*map(world.auth_api.sessions.SignUp, requests), return_exceptions=True)
        assert sum(not isinstance(answer, aio.AioRpcError) for answer in answers) == 1
