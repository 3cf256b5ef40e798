"""The authorization code grant of OAuth 2 with PKCE (RFC 6749, RFC 7636), for all providers."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from services.auth.identities.authorization import Authorization, identity_rejected
from services.auth.identities.http import ProviderHTTP
from services.auth.identities.provider import provider_misconfigured

_FORM = "application/x-www-form-urlencoded"
_CODE_CHARACTERS_MAX = 2_048
_INVALID_CODES = ("invalid_grant", "bad_verification_code")
"""Errors of RFC 6749 and of GitHub for a code that is invalid, expired or used. All others are the operator's."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OAuth2Client:
    """This service as a client of a provider."""

    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str
    """From the settings, so that a forged `Host` header cannot direct codes elsewhere."""

    def authorization_url(self, endpoint: str, authorization: Authorization, *, scope: str, **parameters: str) -> str:
        """Return the URL of an authorization request."""
        url: str = prepare_grant_uri(
            endpoint,
            client_id=self.client_id,
            response_type="code",
            redirect_uri=self.redirect_uri,
            scope=scope,
            state=authorization.state,
            code_challenge=create_s256_code_challenge(authorization.code_verifier),
            code_challenge_method="S256",
            **parameters,
        )
        return url

    async def exchange(
        self, http: ProviderHTTP, endpoint: str, authorization: Authorization, *, code: str, label: str, method: str
    ) -> Mapping[str, Any]:
        """Exchange a code, and return the token response.

        Args:
            http: Sends the request.
            endpoint: URL of the token endpoint.
            authorization: The request that the code belongs to.
            code: The code.
            label: Name of the provider for errors.
            method: How the client authenticates: `client_secret_basic` or `client_secret_post`.

        Raises:
            PermissionDenied: The code is invalid, expired or was used, or belongs to another request.
            FailedPrecondition: The provider does not accept the client id, secret or redirect URI.
            Unavailable: The provider cannot be reached.
        """
        if not 0 < len(code) <= _CODE_CHARACTERS_MAX:
            raise identity_rejected()
        body = prepare_token_request(
            "authorization_code",
            code=code,
            redirect_uri=self.redirect_uri,
            code_verifier=authorization.code_verifier,
        )
        auth = ClientAuth(self.client_id, self.client_secret, method)
        _, headers, body = auth.prepare("POST", endpoint, {"Content-Type": _FORM}, body)
        token = (await http.post(endpoint, headers=headers, body=body)).members
        if isinstance(token.get("access_token"), str):
            return token
        error = str(token.get("error", ""))[:100]
        _log.warning("An identity provider rejected a code.", extra={"provider": label, "reason": error})
        raise identity_rejected() if error in _INVALID_CODES else provider_misconfigured(label)
