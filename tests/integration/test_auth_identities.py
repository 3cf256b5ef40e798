"""Log-in with identity providers: the real auth service with stand-ins of OpenID Connect and GitHub on sockets."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from grpc import StatusCode, aio
from joserfc.jwk import RSAKey

from services.common.rpc.channel import open_channel
from stack.auth.v1 import accounts_pb2, audit_pb2, identities_pb2, owner_pb2, sessions_pb2
from stack.auth.v1.identities_pb2_grpc import IdentityServiceStub
from tests.identity_providers import CLIENT_ID, GitHubStandIn, OIDCStandIn, parameters, serving, settings_of
from tests.integration.auth_api import (
    ADDRESS,
    PASSWORD,
    AuthAPI,
    Refusal,
    auth_api_of,
    bearer,
    from_address,
    refusal,
)
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, AuthProcess, running_auth

pytestmark = pytest.mark.xdist_group("auth-identities")

_CONSOLE = "https://console.example.com"
_REJECTED = Refusal(
    StatusCode.PERMISSION_DENIED,
    "The log-in was not completed: it was not started in this browser, took longer than ten minutes, or was already "
    "used. Start it again.",
)


@dataclass(frozen=True)
class World:
    """A running auth service, its providers and its stubs."""

    auth_api: AuthAPI
    identities: IdentityServiceStub
    oidc: OIDCStandIn
    github: GitHubStandIn
    process: AuthProcess

    async def answer(self, provider: str = "oidc") -> identities_pb2.AuthorizationAnswer:
        """Log in at a provider, and return its answer with the browser's cookie."""
        asked = await self.identities.AuthorizeLogIn(identities_pb2.AuthorizeLogInRequest(provider=provider))
        return await self.answer_to(provider, asked.url, asked.state_token)

    async def answer_to(self, provider: str, url: str, state_token: str) -> identities_pb2.AuthorizationAnswer:
        """Open the URL of an authorization request, and return the provider's answer."""
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.get(url)
        assert response.status_code == 302, response.text
        answer = parameters(response.headers["location"])
        return identities_pb2.AuthorizationAnswer(
            provider=provider, state_token=state_token, state=answer["state"], code=answer["code"]
        )

    async def log_in(
        self, answer: identities_pb2.AuthorizationAnswer | None = None, *, provider: str = "oidc", invite: str = ""
    ) -> sessions_pb2.Session:
        """Log in with an identity, and return the session."""
        return (await self.opened(answer, provider=provider, invite=invite)).session

    async def opened(
        self, answer: identities_pb2.AuthorizationAnswer | None = None, *, provider: str = "oidc", invite: str = ""
    ) -> sessions_pb2.OpenSession:
        """Log in with an identity, and return the session with its token."""
        request = identities_pb2.LogInWithIdentityRequest(answer=answer or await self.answer(provider), invite=invite)
        return (await self.identities.LogInWithIdentity(request, metadata=from_address(ADDRESS))).session

    async def link(self, token: str, provider: str = "oidc", *, password: str = PASSWORD) -> identities_pb2.Identity:
        """Link an identity to the account of a session."""
        asked = await self.authorize_link(token, provider, password=password)
        answer = await self.answer_to(provider, asked.url, asked.state_token)
        request = identities_pb2.LinkOwnIdentityRequest(answer=answer)
        return (await self.identities.LinkOwnIdentity(request, metadata=bearer(token))).identity

    async def authorize_link(
        self, token: str, provider: str = "oidc", *, password: str = PASSWORD
    ) -> identities_pb2.AuthorizeLinkResponse:
        """Ask for the URL that links an identity."""
        request = identities_pb2.AuthorizeLinkRequest(provider=provider, password=password)
        return await self.identities.AuthorizeLink(request, metadata=bearer(token))

    async def unlink(self, token: str, identity_id: str, *, password: str = PASSWORD) -> None:
        """Unlink an identity from the account of a session."""
        request = identities_pb2.UnlinkOwnIdentityRequest(identity_id=identity_id, password=password)
        await self.identities.UnlinkOwnIdentity(request, metadata=bearer(token))

    async def linked(self, token: str) -> identities_pb2.ListOwnIdentitiesResponse:
        """Return the identities of the account of a session."""
        return await self.identities.ListOwnIdentities(
            identities_pb2.ListOwnIdentitiesRequest(), metadata=bearer(token)
        )

    async def verify(self, email: str) -> None:
        """Verify the address of an account, as the owner does with a link of an operator."""
        request = accounts_pb2.CreatePasswordResetRequest(account=email)
        token = (await self.auth_api.accounts.CreatePasswordReset(request, metadata=bearer())).token
        await self.auth_api.sessions.ResetPassword(sessions_pb2.ResetPasswordRequest(token=token, password=PASSWORD))

    async def actions(self, email: str) -> list[str]:
        """Return the audit events of an account, oldest first."""
        request = audit_pb2.ListAuditEventsRequest(account=email)
        events = (await self.auth_api.audit.ListAuditEvents(request, metadata=bearer())).events
        return [event.action for event in reversed(events)]


@pytest.fixture(scope="module")
def providers() -> Iterator[tuple[OIDCStandIn, GitHubStandIn]]:
    oidc, github = OIDCStandIn(), GitHubStandIn()
    with serving(oidc.app()) as oidc_url, serving(github.app()) as github_url:
        oidc.url, github.url = oidc_url, github_url
        oidc.redirect_uri, github.redirect_uri = f"{_CONSOLE}/login/oidc/callback", f"{_CONSOLE}/login/github/callback"
        yield oidc, github


@pytest.fixture(scope="module")
def service(
    providers: tuple[OIDCStandIn, GitHubStandIn], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AuthProcess]:
    with running_auth(tmp_path_factory.mktemp("auth"), _settings(providers)) as process:
        yield process


def _settings(providers: tuple[OIDCStandIn, GitHubStandIn]) -> dict[str, str]:
    return settings_of(*providers) | {
        "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
        "AUTH_KEY_PEPPER": PEPPER,
        "AUTH_SIGN_UPS_PER_ADDRESS_MAX": "10000",
        "AUTH_LOG_INS_PER_ADDRESS_MAX": "10000",
        "AUTH_CONSOLE_URL": f"{_CONSOLE}/",
    }


@pytest.fixture
async def world(service: AuthProcess, providers: tuple[OIDCStandIn, GitHubStandIn]) -> AsyncIterator[World]:
    oidc, github = providers
    _reset(oidc, github)
    async with _world(service, oidc, github) as opened:
        yield opened


def _reset(oidc: OIDCStandIn, github: GitHubStandIn) -> None:
    """Give the providers a new user each, without misbehaviour."""
    name = secrets.token_hex(6)
    for one in (oidc, github):
        one.is_down, one.requests = False, []
        one.codes.clear()
    oidc.subject, oidc.email, oidc.is_email_verified = f"subject-{name}", f"{name}@example.com", True
    oidc.claims, oidc.user_info, oidc.signs_with, oidc.forged_with, oidc.padding = {}, {}, None, None, 0
    github.user_id = secrets.randbelow(2**40)
    github.emails = [
        {"email": f"other-{name}@example.com", "primary": False, "verified": True},
        {"email": oidc.email, "primary": True, "verified": True},
    ]


class _world:  # noqa: N801
    """Context manager of a `World`."""

    def __init__(self, service: AuthProcess, oidc: OIDCStandIn, github: GitHubStandIn) -> None:
        self._service, self._oidc, self._github = service, oidc, github
        self._api = auth_api_of(service.target)
        self._channel = open_channel(service.target)

    async def __aenter__(self) -> World:
        api = await self._api.__aenter__()
        stub = IdentityServiceStub(await self._channel.__aenter__())
        return World(api, stub, self._oidc, self._github, self._service)

    async def __aexit__(self, *_: object) -> None:
        await self._channel.__aexit__(None, None, None)
        await self._api.__aexit__(None, None, None)


@pytest.mark.long
async def test_the_configured_providers_are_listed_by_their_labels(world: World) -> None:
    listed = await world.identities.ListIdentityProviders(identities_pb2.ListIdentityProvidersRequest())

    assert [(one.name, one.label) for one in listed.providers] == [("oidc", "Example ID"), ("github", "GitHub")]


@pytest.mark.parametrize("provider", ["oidc", "github"])
async def test_a_new_user_gets_an_account_and_the_same_account_at_the_next_log_in(world: World, provider: str) -> None:
    first = await world.opened(provider=provider)
    again = await world.log_in(provider=provider)

    assert first.session.account.email == world.oidc.email
    assert first.session.account.plan == "free"
    assert again.account.id == first.session.account.id
    assert (await world.auth_api.create_key(first.token)).secret.startswith("sk_stk_")
    linked = await world.linked(first.token)
    assert ([(one.provider, one.email) for one in linked.identities], linked.has_password) == (
        [(provider, world.oidc.email)],
        False,
    )
    assert await world.actions(world.oidc.email) == [
        *("account.created", "identity.linked", "session.opened", "session.opened", "key.created")
    ]


async def test_an_authorization_request_has_pkce_state_nonce_and_the_redirect_uri_of_the_settings(world: World) -> None:
    asked = await world.identities.AuthorizeLogIn(identities_pb2.AuthorizeLogInRequest(provider="oidc"))
    sent = parameters(asked.url)

    assert asked.url.startswith(f"{world.oidc.url}/authorize?")
    assert sent["redirect_uri"] == f"{_CONSOLE}/login/oidc/callback"
    assert (sent["client_id"], sent["response_type"], sent["scope"]) == (CLIENT_ID, "code", "openid email")
    assert (sent["code_challenge_method"], len(sent["code_challenge"])) == ("S256", 43)
    assert {len(sent["state"]), len(sent["nonce"])} == {64}
    assert len({sent["state"], sent["nonce"], asked.state_token}) == 3
    assert sent["state"] not in asked.state_token


# What binds an answer to the browser.


@pytest.mark.parametrize(
    "change",
    [
        {"state": "0" * 64},
        {"state": ""},
        {"state": "é"},
        {"state_token": ""},
        {"state_token": "oas_stk_login.oidc.9999999999." + "0" * 32 + "." + "0" * 64},
        {"provider": "github"},
        {"code": ""},
        {"code": "x" * 100_000},
        {"code": "unknown"},
        {"issuer": "https://attacker.example.com"},
    ],
    ids=str,
)
async def test_an_answer_of_another_browser_or_with_another_code_is_refused(
    world: World, change: dict[str, str]
) -> None:
    answer = await world.answer()
    changed = identities_pb2.AuthorizationAnswer()
    changed.CopyFrom(answer)
    for name, value in change.items():
        setattr(changed, name, value)

    assert await refusal(world.log_in(changed)) == _REJECTED
    assert not await _has_account(world)


async def test_a_code_that_was_injected_into_another_log_in_is_refused_for_its_pkce_and_nonce(world: World) -> None:
    """An attacker who has a victim's code starts a log-in, and puts the code into the answer to it."""
    victims, attackers = await world.answer(), await world.answer()
    attackers.code = victims.code

    assert await refusal(world.log_in(attackers)) == _REJECTED
    assert not await _has_account(world)


async def test_an_answer_works_once(world: World) -> None:
    answer = await world.answer()
    await world.log_in(answer)

    assert await refusal(world.log_in(answer)) == _REJECTED


async def test_a_log_in_cannot_be_completed_as_a_link_nor_a_link_as_a_log_in_or_in_another_session(
    world: World,
) -> None:
    token = await world.auth_api.sign_up(f"owner-{world.oidc.email}")
    other = await world.auth_api.log_in(f"owner-{world.oidc.email}")
    asked = await world.authorize_link(token)
    link = await world.answer_to("oidc", asked.url, asked.state_token)
    log_in = identities_pb2.LinkOwnIdentityRequest(answer=await world.answer())

    assert await refusal(world.identities.LinkOwnIdentity(log_in, metadata=bearer(token))) == _REJECTED
    assert await refusal(world.log_in(link)) == _REJECTED
    in_other_session = world.identities.LinkOwnIdentity(
        identities_pb2.LinkOwnIdentityRequest(answer=link), metadata=bearer(other)
    )
    assert await refusal(in_other_session) == _REJECTED
    assert not (await world.linked(token)).identities


# What the ID token must state.


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "0" * 64},
        {"nonce": None},
        {"iss": "https://attacker.example.com"},
        {"iss": None},
        {"aud": "another-client"},
        {"aud": [CLIENT_ID, "another-client"]},
        {"aud": [CLIENT_ID, "another-client"], "azp": "another-client"},
        {"aud": None},
        {"azp": "another-client"},
        {"exp": 1_700_000_000},
        {"exp": None},
        {"exp": "tomorrow"},
        {"nbf": 4_000_000_000},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": 7},
        {"at_hash": "of-another-token"},
    ],
    ids=str,
)
async def test_an_id_token_with_other_claims_is_refused(world: World, claims: dict[str, object]) -> None:
    world.oidc.claims = claims

    assert await refusal(world.log_in()) == _REJECTED
    assert not await _has_account(world)


async def test_an_id_token_for_several_audiences_is_accepted_if_it_was_issued_to_this_client(world: World) -> None:
    world.oidc.claims = {"aud": [CLIENT_ID, "another-client"], "azp": CLIENT_ID}

    assert (await world.log_in()).account.email == world.oidc.email


@pytest.mark.parametrize("algorithm", ["RS256", "HS256", "none"])
async def test_an_id_token_with_a_forged_signature_is_refused(world: World, algorithm: str) -> None:
    """HMAC with the published key as the secret, and `none`, are the classic forgeries."""
    if algorithm == "RS256":
        world.oidc.signs_with = RSAKey.generate_key(2048, {"kid": "first"})
    else:
        secret = world.oidc.key.as_pem(private=False) if algorithm == "HS256" else b""
        world.oidc.forged_with = (algorithm, secret)

    assert await refusal(world.log_in()) == _REJECTED
    assert not await _has_account(world)


async def test_the_email_is_read_from_the_user_info_if_the_id_token_has_none(world: World) -> None:
    world.oidc.claims = {"email": None, "email_verified": None}
    world.oidc.user_info = {"email": world.oidc.email, "email_verified": True}

    assert (await world.log_in()).account.email == world.oidc.email


async def test_user_info_of_another_subject_is_refused(world: World) -> None:
    world.oidc.claims = {"email": None, "email_verified": None}
    world.oidc.user_info = {"sub": "another", "email": world.oidc.email, "email_verified": True}

    assert await refusal(world.log_in()) == _REJECTED


# Which account an identity belongs to.


async def test_an_unverified_address_opens_and_links_no_account(world: World) -> None:
    await world.auth_api.sign_up(world.oidc.email)
    await world.verify(world.oidc.email)
    world.oidc.is_email_verified = False
    world.github.emails[1]["verified"] = False

    for provider, label in (("oidc", "Example ID"), ("github", "GitHub")):
        refused = await refusal(world.log_in(provider=provider))
        assert refused.code is StatusCode.FAILED_PRECONDITION
        assert refused.message.startswith(f"{label} states no verified e-mail address for you.")
    assert "identity.linked" not in await world.actions(world.oidc.email)


@pytest.mark.parametrize("stated", ["true", 1, None])
async def test_only_the_json_value_true_states_that_an_address_is_verified(world: World, stated: object) -> None:
    world.oidc.claims = {"email_verified": stated}

    assert (await refusal(world.log_in())).code is StatusCode.FAILED_PRECONDITION


async def test_an_account_whose_address_we_verified_is_linked_by_it(world: World) -> None:
    await world.auth_api.sign_up(world.oidc.email)
    await world.verify(world.oidc.email)
    account = await world.auth_api.session(await world.auth_api.log_in(world.oidc.email))
    world.oidc.email = world.oidc.email.upper()

    session = await world.log_in()

    assert session.account.id == account.account.id
    assert (await world.actions(account.account.email))[-2:] == ["identity.linked", "session.opened"]
    assert (await world.log_in()).account.id == account.account.id


async def test_an_account_whose_address_we_did_not_verify_is_not_linked_by_it(world: World) -> None:
    """Otherwise someone could sign up with another person's address, and wait for the owner to log in."""
    token = await world.auth_api.sign_up(world.oidc.email)

    for provider in ("oidc", "github"):
        refused = await refusal(world.log_in(provider=provider))
        assert refused.code is StatusCode.FAILED_PRECONDITION
        assert refused.message.startswith("This e-mail address already has an account")
    assert not (await world.linked(token)).identities


async def test_an_address_that_only_a_provider_verified_links_no_identity_of_another_provider(world: World) -> None:
    """The address at one provider may be an old one, of someone who has lost it since."""
    await world.log_in(provider="github")

    assert (await refusal(world.log_in(provider="oidc"))).code is StatusCode.FAILED_PRECONDITION


async def test_the_first_verification_of_an_address_unlinks_what_was_linked_before(world: World) -> None:
    """Someone else may have created the account with an old address at a provider, and linked more to it."""
    opened = await world.opened(provider="github")
    world.oidc.email, email = f"attacker-{world.oidc.email}", world.oidc.email
    await world.link(opened.token, password="")
    await world.verify(email)

    owner = await world.auth_api.log_in(email)
    assert not (await world.linked(owner)).identities
    attacker = await world.log_in(provider="oidc")
    assert attacker.account.id != opened.session.account.id


async def test_the_owner_links_and_unlinks_an_identity_with_another_address(world: World) -> None:
    email = f"owner-{world.oidc.email}"
    token = await world.auth_api.sign_up(email)

    identity = await world.link(token)

    assert (identity.provider, identity.email) == ("oidc", world.oidc.email)
    assert (await world.log_in()).account.email == email
    await world.unlink(token, identity.id)
    assert (await world.actions(email))[-3:] == ["identity.linked", "session.opened", "identity.unlinked"]
    assert (await world.log_in()).account.email == world.oidc.email


async def test_linking_and_unlinking_require_the_password_and_limit_guesses(world: World) -> None:
    token = await world.auth_api.sign_up(f"owner-{world.oidc.email}")
    identity = await world.link(token)

    wrong = [await refusal(world.authorize_link(token, password="a wrong guess")) for _ in range(5)]
    wrong += [await refusal(world.unlink(token, identity.id, password="a wrong guess")) for _ in range(4)]
    assert {one.code for one in wrong} == {StatusCode.PERMISSION_DENIED}
    assert (await refusal(world.authorize_link(token))).code is StatusCode.RESOURCE_EXHAUSTED
    assert (await refusal(world.unlink(token, identity.id))).code is StatusCode.RESOURCE_EXHAUSTED
    assert len((await world.linked(token)).identities) == 1


async def test_an_identity_of_another_account_is_not_linked_and_not_unlinked(world: World) -> None:
    theirs = await world.opened()
    [identity] = (await world.linked(theirs.token)).identities
    token = await world.auth_api.sign_up(f"owner-{world.oidc.email}")

    assert (await refusal(world.link(token))).code is StatusCode.ALREADY_EXISTS
    await world.unlink(token, identity.id)
    assert len((await world.linked(theirs.token)).identities) == 1


async def test_the_last_way_to_log_in_cannot_be_removed(world: World) -> None:
    opened = await world.opened()
    [identity] = (await world.linked(opened.token)).identities

    refused = await refusal(world.unlink(opened.token, identity.id, password=""))
    assert refused.code is StatusCode.FAILED_PRECONDITION

    request = owner_pb2.ChangePasswordRequest(current_password="", new_password=PASSWORD)
    await world.auth_api.owner.ChangePassword(request, metadata=bearer(opened.token))
    await world.unlink(opened.token, identity.id)
    assert await world.auth_api.log_in(world.oidc.email)


async def test_a_deleted_account_keeps_no_identity(world: World) -> None:
    opened = await world.opened()
    await world.auth_api.owner.DeleteOwnAccount(owner_pb2.DeleteOwnAccountRequest(), metadata=bearer(opened.token))

    assert (await world.log_in()).account.id != opened.session.account.id


async def test_two_log_ins_of_a_new_user_at_once_open_one_account(world: World) -> None:
    answers = [await world.answer() for _ in range(4)]
    results = await asyncio.gather(*(world.log_in(answer) for answer in answers), return_exceptions=True)

    opened = {result.account.id for result in results if isinstance(result, sessions_pb2.Session)}
    refused = {result.code() for result in results if isinstance(result, aio.AioRpcError)}
    assert len(opened) == 1
    assert refused <= {StatusCode.ALREADY_EXISTS}


# Outages.


async def test_a_provider_that_is_down_is_reported_and_the_log_in_works_afterwards(world: World) -> None:
    for provider in (world.oidc, world.github):
        provider.is_down = True
    answers = [await world.answer("oidc"), await world.answer("github")]

    refused = [await refusal(world.log_in(answer)) for answer in answers]

    assert {one.code for one in refused} == {StatusCode.UNAVAILABLE}
    assert [one.message.split(" cannot be reached")[0] for one in refused] == ["Example ID", "GitHub"]
    world.oidc.is_down = False
    assert (await world.log_in()).account.email == world.oidc.email


async def test_a_huge_answer_is_not_read(world: World) -> None:
    world.oidc.padding = 10_000_000

    assert (await refusal(world.log_in())).code is StatusCode.UNAVAILABLE


async def test_keys_are_fetched_once_for_many_log_ins(world: World) -> None:
    for _ in range(5):
        await world.log_in()

    assert world.oidc.requests.count("/keys") + world.oidc.requests.count("/.well-known/openid-configuration") <= 2
    assert world.oidc.requests.count("/token") == 5


async def test_a_client_secret_that_the_provider_does_not_accept_is_reported_to_the_operator(
    providers: tuple[OIDCStandIn, GitHubStandIn], tmp_path: Path
) -> None:
    oidc, github = providers
    _reset(oidc, github)
    settings = _settings(providers) | {"AUTH_OIDC_CLIENT_SECRET": "another", "AUTH_GITHUB_CLIENT_SECRET": "another"}
    with running_auth(tmp_path, settings) as process:
        async with _world(process, oidc, github) as world:
            refused = [await refusal(world.log_in(provider=provider)) for provider in ("oidc", "github")]
        assert {one.code for one in refused} == {StatusCode.FAILED_PRECONDITION}
        async with asyncio.timeout(5):
            while "incorrect_client_credentials" not in (log := "\n".join(process.log)):
                await asyncio.sleep(0.01)

    assert "invalid_client" in log
    assert "another" not in log


@pytest.mark.long
@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://attacker.example.com"},
        {"token_endpoint": "http://attacker.example.com/token"},
        {"jwks_uri": "file:///etc/passwd"},
        {"authorization_endpoint": None},
    ],
    ids=str,
)
async def test_a_discovery_document_with_another_issuer_or_unsafe_endpoints_is_not_used(
    tmp_path: Path, metadata: dict[str, object]
) -> None:
    oidc, github = OIDCStandIn(metadata=metadata), GitHubStandIn(url="http://127.0.0.1:9")
    with serving(oidc.app()) as oidc.url, running_auth(tmp_path, _settings((oidc, github))) as process:
        async with _world(process, oidc, github) as world:
            assert (await refusal(world.answer())).code is StatusCode.UNAVAILABLE


async def test_a_log_in_from_one_address_is_limited_before_the_provider_is_called(
    providers: tuple[OIDCStandIn, GitHubStandIn], tmp_path: Path
) -> None:
    oidc, github = providers
    _reset(oidc, github)
    with running_auth(tmp_path, _settings(providers) | {"AUTH_LOG_INS_PER_ADDRESS_MAX": "3"}) as process:
        async with _world(process, oidc, github) as world:
            for _ in range(3):
                await world.log_in()
            answer = await world.answer()
            oidc.requests = []
            refused = await refusal(world.log_in(answer))

    assert refused.code is StatusCode.RESOURCE_EXHAUSTED
    assert oidc.requests == []


@pytest.mark.parametrize(
    ("policy", "domains", "is_admitted"), [("open", "", True), ("closed", "", False), ("open", "example.org", False)]
)
async def test_the_sign_up_policy_applies_to_new_accounts(
    providers: tuple[OIDCStandIn, GitHubStandIn], tmp_path: Path, policy: str, domains: str, is_admitted: bool
) -> None:
    oidc, github = providers
    _reset(oidc, github)
    settings = _settings(providers) | {"AUTH_SIGN_UP": policy, "AUTH_SIGN_UP_DOMAINS": domains}
    with running_auth(tmp_path, settings) as process:
        async with _world(process, oidc, github) as world:
            if is_admitted:
                await world.log_in()
            else:
                assert (await refusal(world.log_in())).code is StatusCode.PERMISSION_DENIED
                await world.auth_api.open_account(oidc.email)
                await world.verify(oidc.email)
                await world.log_in()


async def test_an_invitation_admits_a_new_account_once(
    providers: tuple[OIDCStandIn, GitHubStandIn], tmp_path: Path
) -> None:
    oidc, github = providers
    _reset(oidc, github)
    with running_auth(tmp_path, _settings(providers) | {"AUTH_SIGN_UP": "invite"}) as process:
        async with _world(process, oidc, github) as world:
            assert (await refusal(world.log_in())).message.startswith("Sign-up requires an invitation.")
            request = accounts_pb2.CreateInviteRequest(plan="pro")
            invite = (await world.auth_api.accounts.CreateInvite(request, metadata=bearer())).token
            assert (await world.log_in(invite=invite)).account.plan == "pro"
            oidc.subject, oidc.email = f"second-{oidc.subject}", f"second-{oidc.email}"
            assert (await refusal(world.log_in(invite=invite))).code is StatusCode.INVALID_ARGUMENT


async def _has_account(world: World) -> bool:
    request = accounts_pb2.GetAccountRequest(account=world.oidc.email)
    try:
        await world.auth_api.accounts.GetAccount(request, metadata=bearer())
    except aio.AioRpcError as exc:
        if exc.code() is not StatusCode.NOT_FOUND:
            raise
        return False
    return True
