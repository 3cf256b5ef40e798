"""Log-in with GitHub, which has OAuth 2 and an API for users, but no OpenID Connect."""

from collections.abc import Mapping
from typing import Any

from services.auth.identities.authorization import Authorization, identity_rejected
from services.auth.identities.http import JSONResponse, ProviderHTTP
from services.auth.identities.oauth2 import OAuth2Client
from services.auth.identities.provider import ProviderIdentity, provider_unavailable

NAME = "github"
_SCOPE = "user:email"


class GitHubProvider:
    """GitHub, or a GitHub Enterprise Server; an `IdentityProvider`."""

    name = NAME
    label = "GitHub"

    def __init__(self, url: str, api_url: str, client: OAuth2Client, http: ProviderHTTP) -> None:
        """Log in at `url`, and read the user from `api_url`."""
        self._url = url.rstrip("/")
        self._api_url = api_url.rstrip("/")
        self._client = client
        self._http = http

    async def authorization_url(self, authorization: Authorization) -> str:
        """Return the URL of an authorization request. See `IdentityProvider.authorization_url`."""
        return self._client.authorization_url(f"{self._url}/login/oauth/authorize", authorization, scope=_SCOPE)

    async def identity(self, authorization: Authorization, *, code: str, issuer: str) -> ProviderIdentity:
        """Exchange a code and return the user. See `IdentityProvider.identity`."""
        token = await self._client.exchange(
            self._http,
            f"{self._url}/login/oauth/access_token",
            authorization,
            code=code,
            label=self.label,
            method="client_secret_post",
        )
        user = (await self._get("/user", token)).members
        number = user.get("id")
        if type(number) is not int:  # Names can be changed and taken over by others, numbers cannot.
            raise provider_unavailable(self.label)
        email, is_verified = _primary_email((await self._get("/user/emails", token)).body)
        return ProviderIdentity(NAME, self._url, str(number), email, is_verified)

    async def _get(self, path: str, token: Mapping[str, Any]) -> JSONResponse:
        headers = {"Accept": "application/vnd.github+json", "Authorization": f"Bearer {token['access_token']}"}
        response = await self._http.get(f"{self._api_url}{path}", headers=headers)
        if response.status == 401:
            raise identity_rejected()
        if response.status != 200:
            raise provider_unavailable(self.label)
        return response


def _primary_email(listed: object) -> tuple[str, bool]:
    """Return the primary address and whether it is verified; an empty one if there is none."""
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict) and one.get("primary") is True and isinstance(one.get("email"), str):
            return one["email"], one.get("verified") is True
    return "", False
