"""What the inference service can be told."""

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.db.database import DatabaseURL, is_sqlite
from services.common.rpc.channel import MESSAGE_BYTES_MAX
from services.common.runtime.address import HTTPURL, HostAndPort, Listen
from services.common.runtime.settings import ServiceSettings
from services.common.url_credentials import with_credentials

_GROQ_PATH = "/openai/v1"
_RETIRED = {
    # Groq retired these for ordinary keys in August 2026; the documented default is one of them.
    "llama-3.1-8b-instant": "openai/gpt-oss-20b",
    "llama-3.3-70b-versatile": "openai/gpt-oss-120b",
}


class InferenceSettings(ServiceSettings):
    """Settings of the inference service, `INFERENCE_*` and `GROQ_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="INFERENCE_")

    listen: Listen = "127.0.0.1:50053"
    """Address of the gRPC server: `host:port`, `[::]:port` or `unix:/path`."""

    metrics_listen: HostAndPort = "127.0.0.1:50253"
    """Address of `GET /metrics`; empty serves none."""

    database_url: DatabaseURL = ""
    """The ledger's database: `postgresql://…` or `sqlite:///path`. Empty: a SQLite file in DATA_DIR."""

    database_user: str = ""
    """User of Postgres, in place of the URL's."""

    database_password: SecretStr = SecretStr("")
    """Password of Postgres, in place of the URL's, as it is: nothing is to be encoded."""

    groq_api_key: SecretStr = Field(default=SecretStr(""), validation_alias="GROQ_API_KEY")
    """The operator's Groq key."""

    groq_api_keys: SecretStr = Field(default=SecretStr(""), validation_alias="GROQ_API_KEYS")
    """Several Groq keys, separated by commas, used in turn; goes before GROQ_API_KEY."""

    groq_base_url: HTTPURL = Field(default="https://api.groq.com", validation_alias="GROQ_BASE_URL")
    """Where Groq is, without a path: the `groq` package appends `/openai/v1`."""

    default_model: str = Field(default="llama-3.1-8b-instant", max_length=256)
    """Model of a request that names none."""

    model_aliases: dict[str, str] = Field(default=_RETIRED)
    """JSON object of model names and what to ask Groq for instead; applies only to names that Groq does not list."""

    model_fallbacks: dict[str, list[str]] = Field(default={})
    """JSON object of model names and lists of what to ask for, in order, when a model cannot be had before output."""

    models_allowed: list[str] = Field(default=[])
    """JSON array of the models that may be asked for, `*` standing for anything; `[]` allows all. An alias counts by
    its own name or its model's."""

    attempts_max: int = Field(default=3, ge=1)
    """Maximum calls for one model of a request that Groq fails; calls are repeated only before output. Keys that are
    limited or refused do not count."""

    supply_wait_seconds: float = Field(default=5.0, ge=0)
    """Longest time that a request waits in total because Groq asks for it; then 503 with `retry-after`."""

    key_rest_seconds_max: float = Field(default=3600.0, ge=0)
    """Longest cool-down of a Groq key after a rate limit or failures; 0 remembers nothing, every request asks Groq."""

    breaker_failures: int = Field(default=10, ge=0)
    """Failures in a row that open the circuit breaker of a Groq key and model; 0 never opens it. One account
    contributes at most a third of them while others use the model."""

    concurrency_max: int = Field(default=1_000, ge=1)
    """Maximum calls to Groq at once, and connections."""

    concurrency_per_account_max: int = Field(default=0, ge=0)
    """Maximum calls of one account at once, where several accounts use the service; 0 is a quarter of
    INFERENCE_CONCURRENCY_MAX."""

    queue_seconds: float = Field(default=1.0, ge=0)
    """Longest wait when one of these limits is reached; then 503, or 429 for the account's own limit."""

    connect_timeout_seconds: float = Field(default=5.0, gt=0)
    """Longest wait for a connection to Groq."""

    first_byte_timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest wait of a stream's client for the beginning of an answer; then 504. Groq is read on, and the request is
    charged if it answers. An answer in one piece may take REQUEST_TIMEOUT_SECONDS."""

    idle_timeout_seconds: float = Field(default=30.0, gt=0)
    """Longest wait of a stream's client in the middle of an answer; then the stream ends with an error."""

    answer_bytes_max: int = Field(default=8 * 1024 * 1024, ge=1024, le=12 * 1024 * 1024)
    """Largest answer in one piece, and largest event of a stream; a larger one is 502 `upstream_invalid`, uncharged."""

    request_bytes_max: int = Field(default=128 * 1024 * 1024, ge=2 * MESSAGE_BYTES_MAX)
    """Maximum bytes of all requests under way together; one account may have half of them. A request holds about four
    times its bytes in memory."""

    ledger_wait_seconds: float = Field(default=2.0, ge=0)
    """Longest wait for a row's commit before the answer leaves without a verdict."""

    ledger_rows_max: int = Field(default=10_000, ge=1)
    """Rows that may wait for the database before new requests are refused."""

    @field_validator("groq_api_key", "groq_api_keys")
    @classmethod
    def _fits_a_header(cls, value: SecretStr) -> SecretStr:
        """Refuse a key that no HTTP header can carry: with one, each request would fail in its own time."""
        text = value.get_secret_value()
        if not (text.isascii() and text.isprintable()):
            raise ValueError("expected printable ASCII characters alone; was the key pasted whole, without `…`?")
        return value

    @field_validator("groq_base_url")
    @classmethod
    def _without_path(cls, value: str) -> str:
        """Accept the address that OpenAI clients use for Groq, a common mistake."""
        return value.rstrip("/").removesuffix(_GROQ_PATH)

    @property
    def keys(self) -> tuple[str, ...]:
        """The Groq keys in the order given; empty when there is none."""
        listed = self.groq_api_keys.get_secret_value() or self.groq_api_key.get_secret_value()
        return tuple(key.strip() for key in listed.split(",") if key.strip())

    @property
    def calls_per_account_max(self) -> int:
        """Maximum calls of one account at once, the default filled in."""
        return self.concurrency_per_account_max or max(1, self.concurrency_max // 4)

    @property
    def ledger_url(self) -> str:
        """The ledger's database, the default filled in."""
        url = self.database_url or f"sqlite:///{self.data_dir / 'inference.db'}"
        if is_sqlite(url):
            return url
        return with_credentials(url, user=self.database_user, password=self.database_password.get_secret_value())
