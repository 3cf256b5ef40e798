"""Settings of the inference service."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.db.database import DatabaseURL, is_sqlite
from services.common.redis_url import check_redis_url
from services.common.rpc.sizes import MESSAGE_BYTES_MAX
from services.common.runtime.address_settings import HTTPURL, HostAndPort, Listen
from services.common.runtime.settings import ServiceSettings
from services.common.url_credentials import with_credentials
from services.inference.allowance.model import Window
from services.inference.chat import TOKENS_MAX
from services.inference.ledger.retention import DAYS_MIN
from services.inference.ledger.users import SECRET_CHARACTERS_MIN
from services.inference.receipts.keys import parse_public_key

_GROQ_PATH = "/openai/v1"
_DEFAULT_ALIASES = {
    # Groq retired these models for ordinary keys in August 2026. One of them is the default of DEFAULT_MODEL.
    "llama-3.1-8b-instant": "openai/gpt-oss-20b",
    "llama-3.3-70b-versatile": "openai/gpt-oss-120b",
}


def _check_optional_redis_url(url: str) -> str:
    return check_redis_url(url) if url else ""


class InferenceSettings(ServiceSettings):
    """Settings of the inference service, read from `INFERENCE_*` and `GROQ_*` environment variables."""

    model_config = SettingsConfigDict(env_prefix="INFERENCE_")

    listen: Listen = "127.0.0.1:50053"
    """Address of the gRPC server: `host:port`, `[::]:port` or `unix:/path`."""

    metrics_listen: HostAndPort = "127.0.0.1:50253"
    """Address of `GET /metrics`; empty disables it."""

    database_url: DatabaseURL = ""
    """URL of the ledger's database: `postgresql://…` or `sqlite:///path`; empty means a SQLite file in DATA_DIR."""

    database_user: str = ""
    """Postgres user; overrides the URL's."""

    database_password: SecretStr = SecretStr("")
    """Postgres password; overrides the URL's. Not percent-encoded."""

    groq_api_key: SecretStr = Field(default=SecretStr(""), validation_alias="GROQ_API_KEY")
    """The operator's Groq key."""

    groq_api_keys: SecretStr = Field(default=SecretStr(""), validation_alias="GROQ_API_KEYS")
    """Comma-separated Groq keys, used in rotation; takes precedence over GROQ_API_KEY."""

    groq_base_url: HTTPURL = Field(default="https://api.groq.com", validation_alias="GROQ_BASE_URL")
    """Base URL of Groq, without the path `/openai/v1`, which the `groq` package appends."""

    default_model: str = Field(default="llama-3.1-8b-instant", max_length=256)
    """Model of a request without a `model`."""

    model_aliases: dict[str, str] = Field(default=_DEFAULT_ALIASES)
    """JSON object from model name to the Groq model to use instead; applies only to names that Groq does not list."""

    model_fallbacks: dict[str, list[str]] = Field(default={})
    """JSON object from model name to a list of models to try, in order, if the model fails before its first output."""

    prices_file: str = Field(default="", validation_alias="PRICES_FILE")
    """TOML file with prices of models, which completes or replaces the built-in ones; empty uses only those. Must be
    the same for all services."""

    models_allowed: list[str] = Field(default=[])
    """JSON array of permitted models, with `*` as a wildcard; `[]` permits all. An alias matches by its own name or by
    its model's."""

    attempts_max: int = Field(default=3, ge=1)
    """Maximum failed calls per model of a request. Calls are retried only before the first output. Calls that fail
    because the key is rate limited or rejected do not count."""

    key_cooldown_seconds_max: float = Field(default=3600.0, ge=0)
    """Maximum cool-down of a Groq key after a rate limit or failures; 0 disables cool-downs and circuit breakers."""

    breaker_failures: int = Field(default=10, ge=0)
    """Consecutive failures that open the circuit breaker of a Groq key and model; 0 disables it. While several accounts
    use the model, one account contributes at most a third of them, or half with two accounts."""

    concurrency_max: int = Field(default=1_000, ge=1)
    """Maximum concurrent calls and connections to Groq."""

    concurrency_per_account_max: int = Field(default=0, ge=0)
    """Maximum concurrent calls of one account, if several accounts use the service; 0 means a quarter of
    INFERENCE_CONCURRENCY_MAX."""

    queue_seconds: float = Field(default=10.0, ge=0)
    """Maximum total time that a request waits for its account's share of Groq's rate limits, for a concurrent call and
    for Groq's `retry-after`; then 503 `upstream_busy` with `retry-after`."""

    queue_requests_max: int = Field(default=2_000, ge=1)
    """Maximum requests in the queue for Groq. Beyond it, the account with the most per weight loses its newest."""

    upstream_limits: dict[str, dict[Window, Annotated[int, Field(ge=1, le=TOKENS_MAX)]]] = Field(default={})
    """JSON object from Groq's model name, or a pattern with `*`, to the limits of each Groq key, which replace those
    that Groq reports: an object with `requests_per_minute`, `requests_per_day`, `tokens_per_minute` and
    `tokens_per_day`, each optional. The first pattern that matches counts."""

    redis_url: Annotated[str, AfterValidator(_check_optional_redis_url)] = ""
    """URL of the Redis or Valkey in which replicas share their view of Groq's rate limits and the accounts' shares;
    empty means that each replica has its own view."""

    redis_user: str = ""
    """User of that Redis; overrides the URL's."""

    redis_password: SecretStr = SecretStr("")
    """Password of that Redis; overrides the URL's. Not percent-encoded."""

    connect_timeout_seconds: float = Field(default=5.0, gt=0)
    """Time-out of connecting to Groq."""

    first_byte_timeout_seconds: float = Field(default=60.0, gt=0)
    """Maximum time until a stream's first byte from Groq; then the client gets 504. Groq's answer is still read, and
    the request is charged if Groq answers. Requests without streaming may take REQUEST_TIMEOUT_SECONDS."""

    idle_timeout_seconds: float = Field(default=30.0, gt=0)
    """Maximum time between two parts of a stream; then the stream ends with an error."""

    answer_bytes_max: int = Field(default=8 * 1024 * 1024, ge=1024, le=12 * 1024 * 1024)
    """Maximum size of an answer without streaming, and of one stream event. Larger ones fail with 502
    `upstream_invalid` and are not charged."""

    request_bytes_max: int = Field(default=128 * 1024 * 1024, ge=2 * MESSAGE_BYTES_MAX)
    """Maximum total size of the requests in flight; one account may use half of it. A request takes about four times
    its size in memory."""

    ledger_wait_seconds: float = Field(default=2.0, ge=0)
    """Maximum wait for a row's commit. After it, the answer is returned without a verdict."""

    ledger_rows_max: int = Field(default=10_000, ge=1)
    """Maximum rows waiting for the database. At this number, new requests are refused."""

    ledger_retention_days: int = Field(default=90, ge=0)
    """Age in days from which ledger rows are removed, at least 35; 0 keeps all. Their sums stay."""

    user_secret: SecretStr = SecretStr("")
    """Secret of at least 16 characters for the digests of the clients' `user`, by which usage is summed. On SQLite it
    defaults to the contents of `DATA_DIR/user-secret`, created on first start; on Postgres, empty records no users."""

    responses_redis_url: Annotated[str, AfterValidator(_check_optional_redis_url)] = ""
    """URL of the Redis or Valkey that stores responses of `/v1/responses`; empty stores none. It needs a memory limit
    and eviction, and must not be quota's."""

    responses_redis_user: str = ""
    """User of that Redis; overrides the URL's."""

    responses_redis_password: SecretStr = SecretStr("")
    """Password of that Redis; overrides the URL's. Not percent-encoded."""

    responses_secrets: SecretStr = SecretStr("")
    """Comma-separated secrets of at least 16 characters. Stored responses are encrypted with the first one and
    decrypted with all of them. Required on Postgres; on SQLite it defaults to the contents of
    `DATA_DIR/responses-secret`, created on first start."""

    responses_seconds: int = Field(default=30 * 86_400, ge=60)
    """Lifetime of a stored response."""

    responses_per_account_max: int = Field(default=10_000, ge=1, le=100_000)
    """Maximum stored responses of an account. The oldest ones are dropped."""

    responses_bytes_per_account_max: int = Field(default=64 * 1024 * 1024, ge=MESSAGE_BYTES_MAX)
    """Maximum bytes of an account's stored responses, compressed. The oldest ones are dropped."""

    idempotency_seconds: int = Field(default=86_400, ge=0, le=30 * 86_400)
    """How long the key and the answer of a request with `Idempotency-Key` are kept in the Redis of stored responses; 0
    ignores the header."""

    idempotency_keys_per_account_max: int = Field(default=10_000, ge=1, le=100_000)
    """Maximum idempotency keys of an account. Requests with further keys get 429."""

    idempotency_bytes_per_account_max: int = Field(default=64 * 1024 * 1024, ge=MESSAGE_BYTES_MAX)
    """Maximum bytes of an account's answers to requests with `Idempotency-Key`, compressed. The oldest ones are
    dropped, and repeats of their requests get 410."""

    deduplication_seconds: int = Field(default=600, ge=0, le=86_400)
    """How long answers are kept for automatic retries of SDKs, whose API keys deduplicate them, after
    `REQUEST_TIMEOUT_SECONDS`; 0 keeps none. At most `idempotency_keys_per_account_max` of an account."""

    receipt_keys: SecretStr = SecretStr("")
    """Comma-separated Ed25519 private keys, each 64 hexadecimal digits. Receipts are signed with the first one; the
    public keys of all are published. Empty means no signed receipts with Postgres; with SQLite it means the contents of
    `DATA_DIR/receipt-key`, created on first start."""

    receipt_keys_removed: str = ""
    """Comma-separated public keys, the member `x` of their entries in `/.well-known/jwks.json`, of earlier private
    keys. They are still published, so that receipts that were signed with them can be verified."""

    webhook_addresses_allowed: list[str] = Field(default=[])
    """JSON array of addresses and networks (CIDR) that are not public and to which usage webhooks may be sent anyway,
    also without TLS."""

    @property
    def webhook_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks of `webhook_addresses_allowed`."""
        return tuple(ip_network(text) for text in self.webhook_addresses_allowed)

    @field_validator("webhook_addresses_allowed")
    @classmethod
    def _check_networks(cls, value: list[str]) -> list[str]:
        try:
            for text in value:
                ip_network(text)
        except ValueError:
            raise ValueError("expected IP addresses and networks, such as 10.0.0.0/8") from None
        return value

    @field_validator("receipt_keys_removed")
    @classmethod
    def _check_public_keys(cls, value: str) -> str:
        for text in value.split(","):
            if text.strip():
                parse_public_key(text.strip())
        return value

    @field_validator("groq_api_key", "groq_api_keys")
    @classmethod
    def _check_key(cls, value: SecretStr) -> SecretStr:
        """Reject a key that is not a valid HTTP header value, with which every request would fail."""
        text = value.get_secret_value()
        if not (text.isascii() and text.isprintable()):
            raise ValueError("expected printable ASCII characters only; paste the full key, not one shortened with `…`")
        return value

    @field_validator("ledger_retention_days")
    @classmethod
    def _check_days(cls, value: int) -> int:
        if 0 < value < DAYS_MIN:
            raise ValueError(f"expected 0 or at least {DAYS_MIN}: limits of a month are corrected by its rows")
        return value

    @field_validator("user_secret")
    @classmethod
    def _check_user_secret(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < SECRET_CHARACTERS_MIN:
            raise ValueError(f"expected at least {SECRET_CHARACTERS_MIN} characters")
        return value

    @field_validator("groq_base_url")
    @classmethod
    def _strip_path(cls, value: str) -> str:
        """Remove `/openai/v1`, since the base URL of OpenAI clients includes it."""
        return value.rstrip("/").removesuffix(_GROQ_PATH)

    @property
    def keys(self) -> tuple[str, ...]:
        """Groq keys in the configured order; empty if none is set."""
        text = self.groq_api_keys.get_secret_value() or self.groq_api_key.get_secret_value()
        return tuple(key.strip() for key in text.split(",") if key.strip())

    @property
    def calls_per_account_max(self) -> int:
        """Maximum concurrent calls of one account, with the default applied."""
        return self.concurrency_per_account_max or max(1, self.concurrency_max // 4)

    @property
    def ledger_url(self) -> str:
        """URL of the ledger's database, with the default and credentials applied."""
        url = self.database_url or f"sqlite:///{self.data_dir / 'inference.db'}"
        if is_sqlite(url):
            return url
        return with_credentials(url, user=self.database_user, password=self.database_password.get_secret_value())

    @property
    def allowance_redis(self) -> str:
        """URL of the Redis of Groq's rate limits with credentials applied; empty without one."""
        if not self.redis_url:
            return ""
        return with_credentials(self.redis_url, user=self.redis_user, password=self.redis_password.get_secret_value())

    @property
    def responses_redis(self) -> str:
        """URL of the Redis of stored responses with credentials applied; empty if none are stored."""
        if not self.responses_redis_url:
            return ""
        return with_credentials(
            self.responses_redis_url,
            user=self.responses_redis_user,
            password=self.responses_redis_password.get_secret_value(),
        )
