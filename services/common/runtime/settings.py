"""Settings common to all services. Each service adds its own under its own prefix."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from annotated_types import MaxLen
from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from services.common.runtime.address_settings import EMPTY_IS_NONE, ListenOrNone

if TYPE_CHECKING:
    from services.common.rpc.tls import Certificates

_GRACE_BEYOND_REQUEST_SECONDS = 10.0
RENAMED = {
    "INFERENCE_TOTAL_TIMEOUT_SECONDS": "REQUEST_TIMEOUT_SECONDS",
    "GATEWAY_TOTAL_TIMEOUT_SECONDS": "REQUEST_TIMEOUT_SECONDS",
    "INFERENCE_LEAVER_SECONDS": "REQUEST_TIMEOUT_SECONDS",
    "INFERENCE_LEAVERS_MAX": "INFERENCE_CONCURRENCY_MAX",
    "INFERENCE_CONNECTIONS_MAX": "INFERENCE_CONCURRENCY_MAX",
    "GATEWAY_PRINCIPALS_MAX": "GATEWAY_AUTH_CACHE_MAX",
    "HAS_SIBLINGS": "REUSE_PORT",
    "TRACE_RATIO": "OTEL_TRACES_SAMPLER_ARG",
    "INFERENCE_SUPPLY_WAIT_SECONDS": "INFERENCE_QUEUE_SECONDS",
    "INFERENCE_KEY_WAIT_SECONDS": "INFERENCE_QUEUE_SECONDS",
    "INFERENCE_KEY_REST_SECONDS_MAX": "INFERENCE_KEY_COOLDOWN_SECONDS_MAX",
    "INFERENCE_CONCURRENCY_PER_KEY_MAX": "INFERENCE_CONCURRENCY_PER_ACCOUNT_MAX",
}
"""Settings of earlier versions and their replacements."""
_ABANDONED_LIMIT = "The limit of abandoned requests is fixed"
REMOVED = {"GATEWAY_ABANDONED_REQUESTS_MAX": _ABANDONED_LIMIT, "GATEWAY_LEAVERS_MAX": _ABANDONED_LIMIT}
"""Settings of earlier versions without a replacement, and why there is none."""
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_TEXT_MAX, _LIST_MAX = 1_024, 65_536
"""Characters of a text; of an array, an object or a secret, which may be a list."""
_NUMBER_MAX = 2**31 - 1
"""Maximum of protobuf's int32."""
_SECONDS_MAX = 315_360_000
"""Ten years. Clocks, deadlines and dates do not overflow within it."""
_BYTES_MAX = 2**40


class _Environment(EnvSettingsSource):
    """Reads the environment. JSON that is nested too deeply is an invalid value, not a `RecursionError`."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Return the array or object in a variable."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except RecursionError as exc:
            raise ValueError("nested too deeply") from exc


class CheckedSettings(BaseSettings):
    """Base class of settings: text is UTF-8 of limited length, numbers are finite and limited.

    Other values would stop the start with a traceback, or fail every request with a 500.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True, allow_inf_nan=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read only arguments and the environment."""
        return init_settings, _Environment(settings_cls)

    @field_validator("*", mode="before")
    @classmethod
    def _is_usable_text(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[str(info.field_name)]
        texts = list(_texts(value))
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:
            raise ValueError("expected UTF-8 text") from None
        is_long = isinstance(value, list | dict) or "SecretStr" in str(field.annotation)
        own = next((one.max_length for one in field.metadata if isinstance(one, MaxLen)), None)
        most = own or (_LIST_MAX if is_long else _TEXT_MAX)
        if sum(map(len, texts)) > most:
            raise ValueError(f"expected at most {most:,} characters")
        if isinstance(value, str):
            _check_not_blank(value, field)
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _is_usable_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, int | float):
            name = str(info.field_name)
            most = _SECONDS_MAX if "seconds" in name else _BYTES_MAX if "bytes" in name else _NUMBER_MAX
            if not -most <= value <= most:
                raise ValueError(f"expected at most {most}" if value > 0 else f"expected at least {-most}")
        return value


def _check_not_blank(text: str, field: FieldInfo) -> None:
    """Reject blank text, and empty text for a setting with a default."""
    if text and not text.strip():
        raise ValueError("expected text that is not blank")
    if not text and str(field.default or "") and EMPTY_IS_NONE not in field.metadata:
        raise ValueError("expected a value; unset it to use the default")


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a setting, at any depth."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str(text):
                yield text
            case SecretStr() as secret:
                yield secret.get_secret_value()
            case Path() as path:
                yield str(path)
            case list(items):
                waiting += items
            case dict(members):
                waiting += [*members, *members.values()]


class TLSSettings(CheckedSettings):
    """mTLS settings of clients and servers. Without them, connections are in plaintext."""

    tls_certificate_file: str = Field(default="", validation_alias="TLS_CERTIFICATE_FILE")
    """PEM file of the certificate to present to clients and servers. Read again when it changes."""

    tls_key_file: str = Field(default="", validation_alias="TLS_KEY_FILE")
    """PEM file of its private key."""

    tls_ca_file: str = Field(default="", validation_alias="TLS_CA_FILE", validate_default=True)
    """PEM file of the trusted certificate authorities."""

    @field_validator("tls_ca_file")
    @classmethod
    def _all_or_none(cls, value: str, info: ValidationInfo) -> str:
        """Reject a partial configuration, with which connections would be in plaintext."""
        files = [info.data.get("tls_certificate_file"), info.data.get("tls_key_file"), value]
        if any(files) and not all(files):
            raise ValueError(
                "TLS_CERTIFICATE_FILE, TLS_KEY_FILE and TLS_CA_FILE must be set together. Set all three or none."
            )
        return value

    def certificates(self) -> "Certificates | None":
        """Return the certificates in the configured files, or None if no files are configured.

        Raises:
            StartError: A file cannot be read, or key and certificate do not match.
        """
        if not self.tls_certificate_file:
            return None
        from services.common.rpc.tls import Certificates, TLSFiles  # Loads gRPC, which not every program uses.

        return Certificates(TLSFiles(Path(self.tls_certificate_file), Path(self.tls_key_file), Path(self.tls_ca_file)))


def _check_level(text: str) -> str:
    if text.upper() not in _LEVELS:
        raise ValueError(f"expected one of {', '.join(_LEVELS)}")
    return text.upper()


def _check_endpoint(text: str) -> str:
    with suppress(ValueError):
        if text.split() in ([], [text]) and urlsplit(text).port != 0:
            return text
    raise ValueError("expected a URL, such as http://127.0.0.1:4317")


Endpoint = Annotated[str, AfterValidator(_check_endpoint)]
"""A setting that is a URL or `host:port`. Empty means not set."""

LogLevel = Annotated[str, AfterValidator(_check_level)]
"""A setting that is the name of a log level, in upper or lower case."""


class ServiceSettings(TLSSettings):
    """Settings common to all services. Read from the environment once, in `__main__`."""

    log_level: LogLevel = Field(default="INFO", validation_alias="LOG_LEVEL")
    """Minimum level of log records: DEBUG, INFO, WARNING or ERROR."""

    otlp_endpoint: Endpoint = Field(default="", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    """OpenTelemetry collector to send traces to over gRPC, such as `http://127.0.0.1:4317`; empty turns tracing off.
    OpenTelemetry's other `OTEL_EXPORTER_OTLP_*` variables (headers, certificate, timeout) also apply."""

    trace_ratio: float = Field(default=1.0, ge=0, le=1, validation_alias="OTEL_TRACES_SAMPLER_ARG")
    """Fraction of requests to trace, from 0 to 1. The gateway decides for all services."""

    data_dir: Path = Field(default=Path("var"), validation_alias="DATA_DIR")
    """Folder of databases, logs and secrets on a single machine, readable by its owner only. Not used in a cluster."""

    request_timeout_seconds: float = Field(default=300.0, gt=0, validation_alias="REQUEST_TIMEOUT_SECONDS")
    """Maximum duration of a chat request, including reading Groq's answer after the client has disconnected: 65,536
    tokens at 400 per second take 164 s. Must be the same for all services, since GRACE_SECONDS and QUOTA_HOLD_SECONDS
    are derived from it."""

    drain_seconds: float = Field(default=5.0, ge=0, validation_alias="DRAIN_SECONDS")
    """Time after SIGTERM, SIGINT or SIGHUP during which a service still accepts calls but reports not ready, so that
    callers can switch to other replicas; at most half a second for gRPC servers, whose callers watch their health."""

    grace_seconds: float = Field(
        default_factory=lambda data: data.get("request_timeout_seconds", 0.0) + _GRACE_BEYOND_REQUEST_SECONDS,
        ge=0,
        validation_alias="GRACE_SECONDS",
    )
    """Time after DRAIN_SECONDS for calls in flight to finish. After it, or on a second signal, they are cancelled with
    an error and a ledger row. The default is REQUEST_TIMEOUT_SECONDS + 10; under `make run` it is 5."""

    health_listen: ListenOrNone = Field(default="", validation_alias="HEALTH_LISTEN")
    """Address of a gRPC service's plaintext health checks, for probes without TLS support. If empty, the service's port
    + 100 with TLS, and none without TLS."""

    reuse_port: bool = Field(default=False, validation_alias="REUSE_PORT")
    """Whether several processes of a service on this machine share its ports and SQLite files."""

    plaintext_allowed: bool = Field(default=False, validation_alias="PLAINTEXT_ALLOWED")
    """Whether a gRPC service may listen on addresses beyond this machine without TLS. For private networks only."""

    tls_callers: dict[str, list[str]] = Field(default={}, validation_alias="TLS_CALLERS")
    """JSON object that maps gRPC services to lists of additional certificate names that may call them, such as
    `{"stack.inference.v1.InferenceService": ["billing.stack.internal"]}`."""
