"""A stolen database is useless: no column holds a working key, password or token."""

import sqlite3
from collections.abc import Awaitable, Iterator
from pathlib import Path

import asyncpg
import pytest
from grpc import aio

from stack.auth.v1 import accounts_pb2, auth_pb2, keys_pb2, owner_pb2, sessions_pb2
from tests.backends import fresh_database
from tests.integration.auth_api import PASSWORD, AuthAPI, auth_api_of, bearer
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, run_auth, running_auth

EMAIL = "ada@example.com"


def _sqlite_texts(path: Path) -> set[str]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    texts = {str(value) for table in tables for row in connection.execute(f"SELECT * FROM {table}") for value in row}
    connection.close()
    return texts


async def _postgres_texts(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows = [row for table in tables for row in await connection.fetch(f'SELECT * FROM "{table[0]}"')]
    await connection.close()
    return {str(value) for row in rows for value in row.values()}


async def _live(auth_api: AuthAPI) -> list[str]:
    """Use everything that creates secrets, and return those that work in the end."""
    session = await auth_api.sign_up(EMAIL)
    key = await auth_api.create_key(session)
    rotate = owner_pb2.RotateOwnKeyRequest(key_id=key.key.id, grace_seconds=3600)
    rotated = await auth_api.owner.RotateOwnKey(rotate, metadata=bearer(session))
    by_operator = await auth_api.create_key_for(EMAIL, name="by an operator")
    reset = await auth_api.accounts.CreatePasswordReset(
        accounts_pb2.CreatePasswordResetRequest(account=EMAIL), metadata=bearer()
    )
    invite = await auth_api.accounts.CreateInvite(accounts_pb2.CreateInviteRequest(), metadata=bearer())
    return [session, key.secret, rotated.secret, by_operator.secret, reset.token, invite.token, PASSWORD]


async def _works(auth_api: AuthAPI, text: str, number: int) -> list[str]:
    """Try a text as each kind of secret, and return the kinds as which it works."""
    # Guesses at one account end after a hundred, so passwords are tried on accounts with the same password.
    email = f"ada{number // 50}@example.com"
    calls: dict[str, Awaitable[object]] = {
        "API key": auth_api.auth.Authenticate(auth_pb2.AuthenticateRequest(api_key=text)),
        "session": auth_api.session(text),
        "admin token": auth_api.keys.ListKeys(keys_pb2.ListKeysRequest(email=EMAIL), metadata=bearer(_ascii(text))),
        "password": auth_api.log_in(email, password=text, address=f"2001:db8:{number:x}::1"),
        "verification": auth_api.sessions.VerifyEmail(sessions_pb2.VerifyEmailRequest(token=text)),
        "password reset": auth_api.sessions.ResetPassword(
            sessions_pb2.ResetPasswordRequest(token=text, password="chosen by a thief")
        ),
    }
    works = []
    for kind, call in calls.items():
        try:
            answer = await call
        except (aio.AioRpcError, UnicodeEncodeError):
            continue
        if not isinstance(answer, auth_pb2.AuthenticateResponse) or answer.HasField("principal"):
            works.append(kind)
    return works


def _ascii(text: str) -> str:
    return "".join(character for character in text if " " < character < "\x7f")


@pytest.fixture(params=[pytest.param("sqlite", marks=pytest.mark.long), "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "sqlite":
        yield ""
        return
    with fresh_database(request.getfixturevalue("postgres_server")) as url:
        yield url


@pytest.mark.long
async def test_no_column_of_a_stolen_database_works_as_a_secret_or_contains_one(tmp_path: Path, database: str) -> None:
    settings = {
        "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
        "AUTH_KEY_PEPPER": PEPPER,
        "AUTH_LOG_INS_PER_ADDRESS_MAX": "100000",
        "LOG_LEVEL": "DEBUG",
    } | ({"AUTH_DATABASE_URL": database} if database else {})
    if database:
        assert run_auth(tmp_path, settings, "migrate").returncode == 0
    with running_auth(tmp_path, settings) as process:
        async with auth_api_of(process.target) as auth_api:
            secrets = [*await _live(auth_api), ADMIN_TOKEN, PEPPER]
            texts = await _postgres_texts(database) if database else _sqlite_texts(tmp_path / "auth.db")
            assert len(texts) > 50, "the dump is empty: this shows nothing"
            found = {secret[:8] for secret in secrets for text in texts if secret in text}
            assert not found, f"the database holds plain secrets: {found}…"
            tried = sorted(text for text in texts if len(text) >= 10)
            for number in range(len(tried) // 50 + 1):
                await auth_api.sign_up(f"ada{number}@example.com")
            working = {
                text: kinds for number, text in enumerate(tried) if (kinds := await _works(auth_api, text, number))
            }
            assert not working, f"a value in the database works as a secret: {working}"
            tried_on = secrets[1:3] + secrets[-3:-1]
            found_out = [await _works(auth_api, secret, 0) for secret in tried_on]
            assert found_out == [["API key"], ["API key"], ["password"], ["admin token"]], (
                "the checks themselves do not work"
            )
            log = "".join(process.log)
    reported = [secret[:8] for secret in (*secrets, "$argon2id$") if secret in log]
    assert not reported, f"the log contains secrets: {reported}"
