"""What the inference service can be told."""

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.address import HTTPURL, HostAndPort, Listen
from services.common.database import DatabaseURL, is_sqlite
from services.common.settings import ServiceSettings
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

    default_model: str = "llama-3.1-8b-instant"
    """Model of a request that names none."""

    model_aliases: dict[str, str] = Field(default=_RETIRED)
    """JSON object of model names and what to ask Groq for instead; applies only to names that Groq does not list."""

    model_fallbacks: dict[str, list[str]] = Field(default={})
    """JSON object of model names and lists of what to ask for, in order, when a model cannot be had before output."""

    models_allowed: list[str] = Field(default=[])
    """JSON array of the models that may be asked for, `*` standing for anything; `[]` allows all. An alias counts by
    its own name or its model's."""

    attempts_max: int = Field(default=3, ge=1)
    """Most calls to Groq for one model of a request; trouble is tried again only before output."""

    supply_wait_seconds: float = Field(default=5.0, ge=0)
    """Longest wait of a request for a Groq key that rests; beyond it the caller is told when to come back."""

    key_rest_seconds_max: float = Field(default=3600.0, ge=0)
    """Longest rest of a Groq key after a rate limit or failures; 0: nothing is remembered, every request asks Groq."""

    breaker_failures: int = Field(default=10, ge=0)
    """Failures in a row that break the circuit of a Groq key and model for a while; 0 never breaks it."""

    concurrency_max: int = Field(default=1_000, ge=1)
    """Most requests that are under way with Groq at the same time."""

    concurrency_per_key_max: int = Field(default=0, ge=0)
    """Most of them of one API key; 0 sets no bound."""

    queue_seconds: float = Field(default=1.0, ge=0)
    """Longest wait for a place when one of the two bounds is reached; then 503, or 429 for the key's own bound."""

    connections_max: int = Field(default=1_000, ge=1)
    """Most connections to Groq at the same time."""

    connect_timeout_seconds: float = Field(default=5.0, gt=0)
    """Longest wait for a connection to Groq."""

    first_byte_timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest wait for the first byte of an answer."""

    idle_timeout_seconds: float = Field(default=30.0, gt=0)
    """Longest silence in the middle of a stream."""

    total_timeout_seconds: float = Field(default=120.0, gt=0)
    """Longest life of a request, reading on after its caller left included; must be shorter than quota's hold."""

    leavers_max: int = Field(default=1_000, ge=0)
    """Most requests that are read on after their caller went away; more are given up, charged and estimated."""

    leaver_seconds: float = Field(default=120.0, ge=0)
    """Longest reading on after a caller went away; the total deadline holds too."""

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
    def ledger_url(self) -> str:
        """The ledger's database, the default filled in."""
        url = self.database_url or f"sqlite:///{self.data_dir / 'inference.db'}"
        if is_sqlite(url):
            return url
        return with_credentials(url, user=self.database_user, password=self.database_password.get_secret_value())
