"""Assembly of the identity providers from the settings."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

from pydantic import SecretStr

from services.auth.identities import github, oidc
from services.auth.identities.http import ProviderHTTP, open_http
from services.auth.identities.oauth2 import OAuth2Client
from services.auth.identities.provider import IdentityProvider
from services.auth.settings import AuthSettings
from services.common.runtime.clock import Clock

_LABELS = {"accounts.google.com": "Google", "login.microsoftonline.com": "Microsoft", "gitlab.com": "GitLab"}


async def open_providers(settings: AuthSettings, clock: Clock, stack: AsyncExitStack) -> Sequence[IdentityProvider]:
    """Return the configured providers, with an HTTP client that lives as long as `stack`."""
    http, providers = await stack.enter_async_context(open_http()), list[IdentityProvider]()
    if settings.oidc_issuer:
        label = settings.oidc_label or _label(settings.oidc_issuer)
        client = _client(settings, oidc.NAME, settings.oidc_client_id, settings.oidc_client_secret)
        providers.append(oidc.OIDCProvider(settings.oidc_issuer, label, client, ProviderHTTP(http, label), clock))
    if settings.github_client_id:
        client = _client(settings, github.NAME, settings.github_client_id, settings.github_client_secret)
        site = ProviderHTTP(http, github.GitHubProvider.label)
        providers.append(github.GitHubProvider(settings.github_url, settings.github_api_url, client, site))
    return providers


def _client(settings: AuthSettings, provider: str, client_id: str, secret: SecretStr | None) -> OAuth2Client:
    redirect_uri = f"{settings.console_url.rstrip('/')}/login/{provider}/callback"
    return OAuth2Client(client_id, secret.get_secret_value() if secret else "", redirect_uri)


def _label(issuer: str) -> str:
    host = urlsplit(issuer).hostname or issuer
    return _LABELS.get(host, host)
