"""Discovery of an OpenID Connect provider's endpoints, from the operator's issuer only."""

import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from services.auth.identities.http import ProviderHTTP
from services.auth.identities.provider import provider_unavailable
from services.common.runtime.address import is_loopback_url

_PATH = "/.well-known/openid-configuration"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Metadata:
    """The part of the discovery document that is used."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str
    """Empty if there is none."""
    token_auth_method: str
    """`client_secret_basic` or `client_secret_post`."""


async def discover(http: ProviderHTTP, issuer: str, label: str) -> Metadata:
    """Return the metadata of a provider.

    Raises:
        Unavailable: The document cannot be fetched, is of another issuer, or has endpoints without HTTPS.
    """
    document = (await http.get(issuer.rstrip("/") + _PATH)).members
    if document.get("issuer") != issuer:
        _log.error(
            "The discovery document has another issuer than AUTH_OIDC_ISSUER.",
            extra={"issuer": issuer, "found": str(document.get("issuer"))[:200]},
        )
        raise provider_unavailable(label)
    methods, userinfo = document.get("token_endpoint_auth_methods_supported"), document.get("userinfo_endpoint")
    has_post = isinstance(methods, list) and "client_secret_post" in methods
    try:
        return Metadata(
            _endpoint(document["authorization_endpoint"], issuer),
            _endpoint(document["token_endpoint"], issuer),
            _endpoint(document["jwks_uri"], issuer),
            userinfo_endpoint=_endpoint(userinfo, issuer) if userinfo else "",
            token_auth_method="client_secret_post" if has_post else "client_secret_basic",
        )
    except (KeyError, ValueError) as exc:
        _log.error("The discovery document has no usable endpoints.", extra={"issuer": issuer, "reason": str(exc)})
        raise provider_unavailable(label) from exc


def _endpoint(url: Any, issuer: str) -> str:
    """Return the URL of an endpoint. Only for an issuer on this machine, for tests, may it be without HTTPS."""
    parts = urlsplit(url if isinstance(url, str) else "")
    is_local = is_loopback_url(issuer) and is_loopback_url(url)
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and is_local)):
        raise ValueError(f"not an HTTPS URL: {str(url)[:200]}")
    return str(url)
