"""Log-in with any OpenID Connect provider, by discovery (OpenID Connect Core 1.0 and Discovery 1.0)."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from services.auth.identities.authorization import Authorization, identity_rejected
from services.auth.identities.cached import Cached
from services.auth.identities.discovery import Metadata, discover
from services.auth.identities.http import ProviderHTTP
from services.auth.identities.oauth2 import OAuth2Client
from services.auth.identities.provider import ProviderIdentity, provider_unavailable
from services.common.runtime.clock import Clock

NAME = "oidc"
_SCOPE = "openid email"
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")
"""Signatures with a public key only: with `none` or HMAC, others than the provider could sign."""
_KEYS_MAX = 100
_SKEW_SECONDS = 60
_SUBJECT_CHARACTERS_MAX = 255  # OpenID Connect Core, 2.
_log = logging.getLogger(__name__)


class OIDCProvider:
    """An OpenID Connect provider; an `IdentityProvider`."""

    name = NAME

    def __init__(self, issuer: str, label: str, client: OAuth2Client, http: ProviderHTTP, clock: Clock) -> None:
        """Use the provider with the URL `issuer`, whose discovery document is fetched at the first log-in."""
        self.label = label
        self._issuer = issuer
        self._client = client
        self._http = http
        self._clock = clock
        self._metadata = Cached(partial(discover, http, issuer, label), clock)
        self._keys = Cached(self._fetch_keys, clock)

    async def authorization_url(self, authorization: Authorization) -> str:
        """Return the URL of an authentication request. See `IdentityProvider.authorization_url`."""
        metadata = await self._metadata.get()
        return self._client.authorization_url(
            metadata.authorization_endpoint, authorization, scope=_SCOPE, nonce=authorization.nonce
        )

    async def identity(self, authorization: Authorization, *, code: str, issuer: str) -> ProviderIdentity:
        """Exchange a code and return the subject of the ID token. See `IdentityProvider.identity`."""
        if issuer and issuer != self._issuer:
            raise self._rejected("the answer has another issuer")
        metadata = await self._metadata.get()
        token = await self._client.exchange(
            self._http,
            metadata.token_endpoint,
            authorization,
            code=code,
            label=self.label,
            method=metadata.token_auth_method,
        )
        claims = await self._claims(token, authorization)
        if "email" not in claims and metadata.userinfo_endpoint:
            claims = {**claims, **await self._user_info(metadata, token, claims["sub"])}
        email = claims.get("email")
        return ProviderIdentity(
            NAME,
            self._issuer,
            claims["sub"],
            email if isinstance(email, str) else "",
            is_email_verified=claims.get("email_verified") is True,
        )

    async def _claims(self, token: Mapping[str, Any], authorization: Authorization) -> Mapping[str, Any]:
        """Return the claims of the ID token, with its signature and all claims checked."""
        try:
            decoded = await self._decoded(str(token.get("id_token", "")))
            claims: dict[str, Any] = CodeIDToken(
                decoded.claims,
                decoded.header,
                options={
                    "iss": {"essential": True, "value": self._issuer},
                    "aud": {"essential": True, "value": self._client.client_id},
                },
                params={
                    "client_id": self._client.client_id,
                    "nonce": authorization.nonce,
                    "access_token": token["access_token"],
                },
            )
            claims.validate(int(self._clock.now()), _SKEW_SECONDS)  # type: ignore[attr-defined]
        except (JoseError, ValueError) as exc:
            raise self._rejected(f"{type(exc).__name__}: {exc}") from exc
        if not 0 < len(claims["sub"]) <= _SUBJECT_CHARACTERS_MAX or not claims["sub"].isprintable():
            raise self._rejected("invalid subject")
        return claims

    async def _decoded(self, id_token: str) -> jwt.Token:
        keys = await self._keys.get()
        try:
            return jwt.decode(id_token, keys, algorithms=_ALGORITHMS)
        except JoseError:
            # The provider may have rotated its keys.
            newer = await self._keys.newer()
            if newer is keys:
                raise
            return jwt.decode(id_token, newer, algorithms=_ALGORITHMS)

    async def _user_info(self, metadata: Metadata, token: Mapping[str, Any], subject: str) -> dict[str, Any]:
        """Return the e-mail of the user info endpoint, where some providers state it instead of in the ID token."""
        headers = {"Authorization": f"Bearer {token['access_token']}"}
        stated = (await self._http.get(metadata.userinfo_endpoint, headers=headers)).members
        if stated.get("sub") != subject:
            raise self._rejected("the user info has another subject")
        return {name: stated.get(name) for name in ("email", "email_verified")}

    async def _fetch_keys(self) -> KeySet:
        metadata = await self._metadata.get()
        listed = (await self._http.get(metadata.jwks_uri)).members.get("keys")
        try:
            if not isinstance(listed, list) or not all(isinstance(key, dict) for key in listed):
                raise ValueError("not a list of keys")
            return KeySet.import_key_set({"keys": listed[:_KEYS_MAX]})
        except (JoseError, ValueError, TypeError) as exc:
            _log.warning("The keys of an identity provider cannot be read.", extra={"reason": str(exc)})
            raise provider_unavailable(self.label) from exc

    def _rejected(self, reason: str) -> Exception:
        _log.warning("The answer of an identity provider was rejected.", extra={"reason": reason[:200]})
        return identity_rejected()
