"""What the auth service can be told, read from the environment once."""

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.auth.accounts.addresses import domain_of, normalised_email
from services.auth.accounts.registration import Admission, SignUpPolicy
from services.auth.keys.model import Bounds
from services.common.db.database import DatabaseURL, is_sqlite
from services.common.errors import InvalidRequest
from services.common.runtime.address import HTTPURL, HostAndPort, Listen
from services.common.runtime.settings import ServiceSettings
from services.common.url_credentials import with_credentials


class AuthSettings(ServiceSettings):
    """Settings of the auth service, `AUTH_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="AUTH_")

    listen: Listen = "127.0.0.1:50051"
    """Where to listen: `host:port`, `[::]:port` or `unix:/path`."""

    metrics_listen: HostAndPort = "127.0.0.1:50251"
    """Address of `GET /metrics`; empty serves none."""

    database_url: DatabaseURL | None = None
    """`sqlite:///path` or `postgresql://user:password@host/name`; absent means `auth.db` in DATA_DIR."""

    database_user: str = ""
    """User of Postgres, in place of the URL's."""

    database_password: SecretStr = SecretStr("")
    """Password of Postgres, in place of the URL's, as it is: nothing is to be encoded."""

    key_pepper: SecretStr | None = None
    """Secret under which keys are stored, 16 characters at least; whoever loses it loses all keys. Absent on SQLite:
    `DATA_DIR/key-pepper`, made once. Postgres demands it."""

    key_peppers_accepted: SecretStr | None = None
    """Further peppers, separated by commas, under which keys are recognised while the pepper is rotated; a key moves
    under `AUTH_KEY_PEPPER` when it is used."""

    admin_token: SecretStr | None = Field(default=None, max_length=1_024, validation_alias="STACK_ADMIN_TOKEN")
    """What callers of the management API show, 16 characters at least. Absent on SQLite: `DATA_DIR/admin-token`, made
    once. Postgres demands it."""

    sign_up: SignUpPolicy = SignUpPolicy.OPEN
    """Who may sign up: `open` everybody, `invite` who has an invitation, `closed` nobody: operators create accounts."""

    sign_up_domains: str = Field(default="", max_length=65_536)
    """Domains, separated by commas, whose e-mail addresses may sign up without an invitation. Empty allows every
    domain."""

    sign_up_fold_aliases: bool = True
    """Whether addresses of one mailbox, that differ only by `+tag` or by dots that a provider ignores, open one account
    while `AUTH_SIGN_UP` is `open`; an invitation opens another."""

    console_url: HTTPURL = "http://127.0.0.1:8080"
    """Where people find the console; mails and invitations point there."""

    smtp_url: SecretStr | None = None
    """Mail server, `smtp://user:password@host:587` or `smtps://…`. Absent means no mail: e-mails are not verified, and
    only operators can reset a password."""

    smtp_ca_file: str = ""
    """PEM file of the authorities that vouch for the mail server. Absent trusts the system's; `none` takes any
    certificate, and no password with it."""

    mail_from: str = "stack@localhost.localdomain"
    """E-mail address that mails come from."""

    active_keys_max: int = Field(default=5, ge=0)
    """Most keys that an owner may have working at the same time, where the plan does not say; operators make more. Keys
    in the grace period of a rotation do not count, but are never more than as many again."""

    new_keys_per_day_max: int = Field(default=10, ge=0)
    """Most keys that an owner may make in 24 hours, where the plan does not say, so that new keys are no way around the
    daily limit."""

    session_idle_seconds: int = Field(default=7 * 86_400, ge=60)
    """A session ends after so long without use."""

    session_seconds: int = Field(default=30 * 86_400, ge=60)
    """A session ends so long after it began, however much it is used."""

    log_ins_per_address_max: int = Field(default=100, ge=1)
    """Most log-ins tried from one network address (64 bits of IPv6) in 15 minutes; a device that logged in to the
    account before is counted apart."""

    sign_ups_per_address_max: int = Field(default=20, ge=1)
    """Most sign-ups and requested e-mails from one network address (64 bits of IPv6) in an hour."""

    @field_validator("database_url", "key_pepper", "key_peppers_accepted", "admin_token", "smtp_url", mode="before")
    @classmethod
    def _empty_is_absent(cls, value: object) -> object:
        """Take an empty variable for an absent one: an empty secret protects nothing."""
        return None if value == "" else value

    @field_validator("sign_up_domains")
    @classmethod
    def _names_domains(cls, value: str) -> str:
        """Write domains as those of addresses are written, and refuse what is none."""
        names = (name.strip().removeprefix("@") for name in value.split(","))
        try:
            return ",".join(domain_of(normalised_email(f"a@{name}")) for name in names if name)
        except InvalidRequest as exc:
            raise ValueError("write domains such as example.com,example.org") from exc

    @property
    def admission(self) -> Admission:
        """Who may sign up."""
        domains = frozenset(filter(None, self.sign_up_domains.split(",")))
        return Admission(self.sign_up, domains, self.sign_up_fold_aliases)

    @property
    def bounds(self) -> Bounds:
        """How many keys an owner may have."""
        return Bounds(self.active_keys_max, self.new_keys_per_day_max)

    @property
    def database(self) -> str:
        """URL of the database in use."""
        url = self.database_url or f"sqlite:///{self.data_dir / 'auth.db'}"
        if is_sqlite(url):
            return url
        return with_credentials(url, user=self.database_user, password=self.database_password.get_secret_value())
