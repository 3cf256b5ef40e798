"""Settings of the auth service."""

from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from services.auth.accounts.addresses import domain_of, normalized_email
from services.auth.accounts.registration import Admission, SignUpPolicy
from services.auth.accounts.webhook_signatures import parse_secrets
from services.auth.keys.model import Bounds
from services.common.db.database import DatabaseURL, is_sqlite
from services.common.errors import InvalidRequest
from services.common.runtime.address_settings import HTTPURL, HostAndPort, Listen, SecureURL, SecureURLOrNone
from services.common.runtime.settings import ServiceSettings
from services.common.url_credentials import with_credentials


class AuthSettings(ServiceSettings):
    """Settings of the auth service, read from `AUTH_*` environment variables."""

    model_config = SettingsConfigDict(env_prefix="AUTH_")

    listen: Listen = "127.0.0.1:50051"
    """Address of the gRPC server: `host:port`, `[::]:port` or `unix:/path`."""

    metrics_listen: HostAndPort = "127.0.0.1:50251"
    """Address of `GET /metrics`; empty disables it."""

    database_url: DatabaseURL | None = None
    """`sqlite:///path` or `postgresql://user:password@host/name`; defaults to `auth.db` in DATA_DIR."""

    database_user: str = ""
    """Postgres user. Overrides the one in the URL."""

    database_password: SecretStr = SecretStr("")
    """Postgres password. Overrides the one in the URL. Do not percent-encode it."""

    key_pepper: SecretStr | None = None
    """Secret for the HMAC of stored keys, at least 16 characters. If it is lost, all keys are lost. Required on
    Postgres; on SQLite it defaults to the contents of `DATA_DIR/key-pepper`, created on first start."""

    key_peppers_accepted: SecretStr | None = None
    """Comma-separated previous peppers to accept during a rotation. A key is rehashed with `AUTH_KEY_PEPPER` when it is
    used."""

    admin_token: SecretStr | None = Field(default=None, max_length=1_024, validation_alias="STACK_ADMIN_TOKEN")
    """Bearer token for the management API, at least 16 characters. Required on Postgres; on SQLite it defaults to the
    contents of `DATA_DIR/admin-token`, created on first start."""

    sign_up: SignUpPolicy = SignUpPolicy.OPEN
    """Sign-up policy: `open` to everyone, `invite` with an invitation only, or `closed`, where operators create
    accounts."""

    sign_up_domains: str = Field(default="", max_length=65_536)
    """Comma-separated e-mail domains that may sign up without an invitation. Empty allows every domain."""

    sign_up_fold_aliases: bool = True
    """Whether to allow one account per mailbox while `AUTH_SIGN_UP` is `open`. Addresses that differ only by `+tag`, or
    by dots that the provider ignores, count as the same mailbox. An invitation allows another account."""

    console_url: HTTPURL = "http://127.0.0.1:8080"
    """Public URL of the console, used for links in e-mails and invitations."""

    smtp_url: SecretStr | None = None
    """Mail server, `smtp://user:password@host:587` or `smtps://…`. If absent, no e-mail is sent: addresses are not
    verified, and only operators can reset a password."""

    smtp_ca_file: str = ""
    """PEM file of the CA certificates for the mail server. Empty uses the system's; `none` disables verification and
    cannot be combined with a password."""

    mail_from: str = "stack@localhost.localdomain"
    """Sender address of e-mails."""

    active_keys_max: int = Field(default=5, ge=0)
    """Maximum active keys per account, unless its plan sets one. Operators are not limited. Rotated keys in their grace
    period do not count, but with them an account has at most twice as many."""

    new_keys_per_day_max: int = Field(default=10, ge=0)
    """Maximum keys that an owner may create in 24 hours, unless the plan sets one. It keeps owners from getting around
    the daily limit with new keys."""

    plan_webhook_secrets: SecretStr | None = None
    """Comma-separated secrets `whsec_…` of the payment provider that sends plan events to `/api/v1/webhooks/plan`. If
    absent, that path does not exist."""

    session_idle_seconds: int = Field(default=7 * 86_400, ge=60)
    """Idle time after which a session ends."""

    session_seconds: int = Field(default=30 * 86_400, ge=60)
    """Maximum lifetime of a session, regardless of use."""

    operator_session_idle_seconds: int = Field(default=30 * 60, ge=60)
    """Idle time after which a session of the operators' console ends."""

    operator_session_seconds: int = Field(default=12 * 3_600, ge=60)
    """Maximum lifetime of a session of the operators' console, regardless of use."""

    log_ins_per_address_max: int = Field(default=100, ge=1)
    """Maximum log-in attempts from one network address (/64 for IPv6) in 15 minutes. Devices that have logged in to the
    account before have their own limit."""

    sign_ups_per_address_max: int = Field(default=20, ge=1)
    """Maximum sign-ups and e-mail requests from one network address (/64 for IPv6) in an hour."""

    oidc_issuer: SecureURLOrNone = ""
    """Issuer of the OpenID Connect provider with which users may log in, such as `https://accounts.google.com`. Empty
    offers none."""

    oidc_client_id: str = ""
    """Id under which this service is registered at the OpenID Connect provider."""

    oidc_client_secret: SecretStr | None = None
    """Secret of this service at the OpenID Connect provider."""

    oidc_label: str = Field(default="", max_length=40)
    """Name of the OpenID Connect provider to show to users. Empty shows a well-known name, or its host."""

    github_client_id: str = ""
    """Client id of the OAuth app at GitHub with which users may log in. Empty does not offer GitHub."""

    github_client_secret: SecretStr | None = None
    """Client secret of the OAuth app at GitHub."""

    github_url: SecureURL = "https://github.com"
    """URL of GitHub, or of a GitHub Enterprise Server."""

    github_api_url: SecureURL = "https://api.github.com"
    """URL of GitHub's API. That of a GitHub Enterprise Server is `https://host/api/v3`."""

    @field_validator(
        "database_url",
        "key_pepper",
        "key_peppers_accepted",
        "admin_token",
        "smtp_url",
        "plan_webhook_secrets",
        "oidc_client_secret",
        "github_client_secret",
        mode="before",
    )
    @classmethod
    def _empty_is_absent(cls, value: object) -> object:
        """Treat an empty variable as absent, because an empty secret protects nothing."""
        return None if value == "" else value

    @field_validator("plan_webhook_secrets")
    @classmethod
    def _check_webhook_secrets(cls, value: SecretStr | None) -> SecretStr | None:
        """Reject secrets that cannot be used."""
        parse_secrets(value.get_secret_value() if value else "")
        return value

    @property
    def plan_webhook_keys(self) -> tuple[bytes, ...]:
        """Keys for the signatures of plan events; empty disables them."""
        return parse_secrets(self.plan_webhook_secrets.get_secret_value()) if self.plan_webhook_secrets else ()

    @model_validator(mode="after")
    def _require_credentials(self) -> Self:
        """Reject an identity provider without the credentials of this service."""
        if self.oidc_issuer and not (self.oidc_client_id and self.oidc_client_secret):
            raise ValueError("AUTH_OIDC_ISSUER is set; set AUTH_OIDC_CLIENT_ID and AUTH_OIDC_CLIENT_SECRET too")
        if self.github_client_id and not self.github_client_secret:
            raise ValueError("AUTH_GITHUB_CLIENT_ID is set; set AUTH_GITHUB_CLIENT_SECRET too")
        return self

    @field_validator("sign_up_domains")
    @classmethod
    def _normalize_domains(cls, value: str) -> str:
        """Normalize domains the same way as e-mail addresses, and reject invalid ones."""
        names = (name.strip().removeprefix("@") for name in value.split(","))
        try:
            return ",".join(domain_of(normalized_email(f"a@{name}")) for name in names if name)
        except InvalidRequest as exc:
            raise ValueError("must be a list of domains such as example.com,example.org") from exc

    @property
    def has_identity_providers(self) -> bool:
        """Whether users may log in with an identity provider."""
        return bool(self.oidc_issuer or self.github_client_id)

    @property
    def admission(self) -> Admission:
        """Rules for sign-up."""
        domains = frozenset(filter(None, self.sign_up_domains.split(",")))
        return Admission(self.sign_up, domains, self.sign_up_fold_aliases)

    @property
    def bounds(self) -> Bounds:
        """Default limits on the number of keys per account."""
        return Bounds(self.active_keys_max, self.new_keys_per_day_max)

    @property
    def database(self) -> str:
        """Database URL with the user and password of the settings."""
        url = self.database_url or f"sqlite:///{self.data_dir / 'auth.db'}"
        if is_sqlite(url):
            return url
        return with_credentials(url, user=self.database_user, password=self.database_password.get_secret_value())
