"""Who may sign up: allowed domains, one account per mailbox, and invitations."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc import StatusCode, aio

from stack.auth.v1 import accounts_pb2, sessions_pb2
from tests.backends import fresh_database
from tests.integration.auth_api import PASSWORD, AuthAPI, auth_api_of, bearer, refusal
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, run_auth, running_auth


@asynccontextmanager
async def served(folder: Path, **settings: str) -> AsyncIterator[AuthAPI]:
    ours = {
        "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
        "AUTH_KEY_PEPPER": PEPPER,
        "AUTH_SIGN_UPS_PER_ADDRESS_MAX": "1000",
        **settings,
    }
    if "AUTH_DATABASE_URL" in settings:
        assert run_auth(folder, ours, "migrate").returncode == 0
    with running_auth(folder, ours) as process:
        async with auth_api_of(process.target) as auth_api:
            yield auth_api


async def _invitation(auth_api: AuthAPI) -> str:
    return (await auth_api.accounts.CreateInvite(accounts_pb2.CreateInviteRequest(), metadata=bearer())).token


async def _sign_up(auth_api: AuthAPI, email: str, invite: str = "") -> str:
    request = sessions_pb2.SignUpRequest(email=email, password=PASSWORD, invite=invite)
    return (await auth_api.sessions.SignUp(request)).session.token


@pytest.mark.long
async def test_addresses_of_one_mailbox_open_one_account(tmp_path: Path) -> None:
    """Otherwise each spelling of a mailbox would get its own daily limit, without end."""
    async with served(tmp_path) as auth_api:
        for first, others in {
            "ada@example.com": ["ada+2@example.com", "ADA+a+b@example.com"],
            "b.o.b@gmail.com": ["bob@gmail.com", "bo.b+x@googlemail.com"],
            "eve+1@example.com": ["eve@example.com", "eve+2@example.com"],
        }.items():
            assert await _sign_up(auth_api, first)
            for other in others:
                assert (await refusal(_sign_up(auth_api, other))).code is StatusCode.ALREADY_EXISTS

        assert await _sign_up(auth_api, "a.da@example.com"), "only some providers ignore dots"
        assert await _sign_up(auth_api, "ada+3@example.com", await _invitation(auth_api)), (
            "an operator invited this user"
        )


async def test_an_address_of_a_deleted_accounts_mailbox_opens_a_new_one(tmp_path: Path) -> None:
    async with served(tmp_path) as auth_api:
        await _sign_up(auth_api, "ada@example.com")
        await auth_api.accounts.DeleteAccount(
            accounts_pb2.DeleteAccountRequest(account="ada@example.com"), metadata=bearer()
        )
        assert await _sign_up(auth_api, "ada+new@example.com")


@pytest.mark.parametrize("settings", [{"AUTH_SIGN_UP_FOLD_ALIASES": "false"}, {"AUTH_SIGN_UP": "invite"}])
async def test_aliases_are_separate_accounts_if_an_operator_allows_it(tmp_path: Path, settings: dict[str, str]) -> None:
    async with served(tmp_path, **settings) as auth_api:
        for email in ("ada@example.com", "ada+2@example.com"):
            assert await _sign_up(auth_api, email, await _invitation(auth_api))


@pytest.mark.long
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_aliases_that_sign_up_concurrently_open_one_account(
    tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    async def race(auth_api: AuthAPI) -> None:
        for number in range(5):
            calls = (_sign_up(auth_api, f"ada{number}+{alias}@example.com") for alias in range(6))
            answers = await asyncio.gather(*calls, return_exceptions=True)
            opened = [answer for answer in answers if isinstance(answer, str)]
            refused = [answer.code() for answer in answers if isinstance(answer, aio.AioRpcError)]
            assert (len(opened), set(refused)) == (1, {StatusCode.ALREADY_EXISTS})

    if database == "sqlite":
        async with served(tmp_path) as auth_api:
            await race(auth_api)
        return
    with fresh_database(request.getfixturevalue("postgres_server")) as url:
        async with served(tmp_path, AUTH_DATABASE_URL=url) as auth_api:
            await race(auth_api)


async def test_only_addresses_of_allowed_domains_sign_up_without_an_invitation(tmp_path: Path) -> None:
    async with served(tmp_path, AUTH_SIGN_UP_DOMAINS="example.com, Bücher.example") as auth_api:
        assert await _sign_up(auth_api, "ada@EXAMPLE.com")
        assert await _sign_up(auth_api, "ada@bücher.example")
        for email in ("ada@example.org", "ada@sub.example.com", "ada@notexample.com", "ada@example.com.example.org"):
            refused = await refusal(_sign_up(auth_api, email))
            assert (refused.code, "certain e-mail domains" in refused.message) == (StatusCode.PERMISSION_DENIED, True)
        assert await _sign_up(auth_api, "ada@example.org", await _invitation(auth_api))


def test_an_invalid_domain_stops_the_start_with_a_remedy(tmp_path: Path) -> None:
    ended = run_auth(tmp_path, {"AUTH_SIGN_UP_DOMAINS": "example.com;example.org"})
    assert ended.returncode != 0
    assert "must be a list of domains such as example.com,example.org" in ended.stderr
