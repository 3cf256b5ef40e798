"""Settings of the gateway."""

import ipaddress
import re
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from services.common.rpc.sizes import MESSAGE_BYTES_MAX
from services.common.runtime.address_settings import Host, HostAndPort
from services.common.runtime.settings import ServiceSettings
from services.gateway.apis.chat_completions.limits import ChatLimits
from services.gateway.apis.model_aliases import model_aliases
from services.gateway.apis.tokenizers import FAMILIES
from services.gateway.console.site import LOGO_SUFFIXES

_LOGO_BYTES_MAX = 256 * 1024


class GatewaySettings(ServiceSettings):
    """Settings of the gateway, read from `GATEWAY_*` environment variables."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    host: Host = "127.0.0.1"
    """Address or name to listen on; `0.0.0.0` is all IPv4 addresses, `::` all IPv6 and IPv4 addresses."""

    port: int = Field(default=8080, ge=0, le=65_535)
    """Port to listen on; 0 picks a free port, which is logged."""

    metrics_listen: HostAndPort = "127.0.0.1:8280"
    """Address of `GET /metrics`; empty disables metrics."""

    alert_seconds: int = Field(default=30, ge=0, le=3_600)
    """Seconds between two runs over the keys that were used, for alerts to owners; 0 turns them off."""

    auth_target: str = Field(default="127.0.0.1:50051", validation_alias="AUTH_TARGET")
    """gRPC target of auth."""

    quota_target: str = Field(default="127.0.0.1:50052", validation_alias="QUOTA_TARGET")
    """gRPC target of quota."""

    inference_target: str = Field(default="127.0.0.1:50053", validation_alias="INFERENCE_TARGET")
    """gRPC target of inference."""

    @property
    def targets(self) -> tuple[tuple[str, str], ...]:
        """Names and gRPC targets of auth, quota and inference."""
        return (("auth", self.auth_target), ("quota", self.quota_target), ("inference", self.inference_target))

    @property
    def call_seconds_max(self) -> float:
        """Timeout of a call to inference; longer than the request timeout, so that the verdict still arrives."""
        return self.request_timeout_seconds + min(5.0, self.request_timeout_seconds / 4)

    body_bytes_max: int = Field(default=4 * 1024 * 1024, ge=1)
    """Maximum size of a request body; a larger one gets 413. At most 16 MiB, the limit of gRPC messages."""

    receiving_bytes_max: int = Field(default=256 * 1024 * 1024, ge=1)
    """Maximum bytes of request bodies being received at the same time; beyond it, requests get 503."""

    receiving_bytes_per_client_max: int = Field(default=64 * 1024 * 1024, ge=1)
    """Maximum of these bytes for one API key or network address (64 bits of IPv6); beyond it, requests get 429."""

    idempotent_answer_bytes_max: int = Field(default=4 * 1024 * 1024, ge=1, le=MESSAGE_BYTES_MAX - 65_536)
    """Maximum size of an answer that is kept for repeats with the same `Idempotency-Key`. Repeats of requests with a
    larger one get 410."""

    recording_bytes_max: int = Field(default=64 * 1024 * 1024, ge=1)
    """Maximum bytes of answers that are being recorded for repeats at the same time; half of it for one account. Beyond
    it, answers are sent but not kept."""

    messages_max: int = Field(default=2_048, ge=1)
    """Maximum messages of a request."""

    content_parts_max: int = Field(default=4_096, ge=1)
    """Maximum content parts of a request, in all messages together."""

    tool_calls_max: int = Field(default=4_096, ge=1)
    """Maximum tool calls of a request, in all messages together."""

    tools_max: int = Field(default=128, ge=1, le=128)
    """Maximum tools of a request; Groq accepts at most 128."""

    nesting_max: int = Field(default=100, ge=10, le=500)
    """Maximum levels of arrays and objects in one parameter of a request."""

    values_max: int = Field(default=100_000, ge=1_000)
    """Maximum JSON values of a request: object members and array elements, plus one for each array and object."""

    name_characters_max: int = Field(default=256, ge=64, le=256)
    """Maximum length of model, participant, function and schema names; the ledger stores at most 256 characters."""

    @property
    def chat_limits(self) -> ChatLimits:
        """Limits of a chat request."""
        return ChatLimits(
            messages_max=self.messages_max,
            content_parts_max=self.content_parts_max,
            tool_calls_max=self.tool_calls_max,
            tools_max=self.tools_max,
            nesting_max=self.nesting_max,
            values_max=self.values_max,
            name_characters_max=self.name_characters_max,
        )

    invalid_requests_per_second: float = Field(default=5.0, ge=0)
    """Invalid requests per second of one API key, beyond which it gets 429. A network address may send four times as
    many. Bursts of up to 20 seconds' worth are allowed, and each 64 KiB of a body counts as one more request. 0 means
    unlimited."""

    default_output_tokens: int = Field(default=4_096, ge=1)
    """Tokens of output of requests that do not limit them, if tokens or cost of their key or account are limited."""

    tokenizers: list[str] = Field(default=list(FAMILIES))
    """JSON array of the families of models whose tokens are counted with their tokenizers, if the package extra
    `tokenizers` is installed. Each takes 60 MB, and 0.4 s at the start. Tokens of other models are estimated."""

    prices_file: str = Field(default="", validation_alias="PRICES_FILE")
    """TOML file with prices of models, which completes or replaces the built-in ones; empty uses only those. Must be
    the same for all services."""

    auth_timeout_seconds: float = Field(default=2.0, gt=0)
    """Timeout of calls to auth."""

    quota_timeout_seconds: float = Field(default=2.0, gt=0)
    """Timeout of calls to quota, for each of at most two attempts."""

    heartbeat_seconds: float = Field(default=10.0, gt=0)
    """Idle time of a stream after which a keep-alive comment is sent, so that proxies do not close the connection."""

    cors_origins: list[str] = Field(default=["*"])
    """JSON array of the origins that may call the API from a browser; `["*"]` allows all, `[]` none. The API accepts no
    cookies."""

    model_aliases: dict[str, str] = Field(
        default={"claude-haiku-*": "openai/gpt-oss-20b", "claude-*": "openai/gpt-oss-120b"}
    )
    """JSON object from names that clients of `/v1/messages` ask for, with at most one `*` each, to the models that
    answer. The first match counts. Aliases of all other requests are in `INFERENCE_MODEL_ALIASES`."""

    auth_cache_max: int = Field(default=100_000, ge=1)
    """Maximum keys in the authentication cache; the least recently used is evicted."""

    connections_max: int = Field(default=10_000, ge=0)
    """Maximum open connections; further ones get 503 and are closed. 0 means unlimited."""

    connections_per_address_max: int = Field(default=2_500, ge=0)
    """Maximum open connections of one network address (64 bits of IPv6), except trusted proxies; further ones get 429
    and are closed. 0 means unlimited."""

    head_bytes_max: int = Field(default=65_536, ge=1_024)
    """Maximum size of the request line and header fields; beyond it, the request gets 431, or 414 if the URL is too
    long."""

    head_timeout_seconds: float = Field(default=10.0, gt=0)
    """Timeout from the first byte of a request to the end of its header fields; after it, the request gets 408."""

    stall_timeout_seconds: float = Field(default=30.0, gt=0)
    """Time after which the connection of a client that reads nothing of its response is closed. A client that reads
    slowly gets the whole response."""

    console: bool = True
    """Whether to serve the console: sign-up, keys, usage, playground and docs."""

    console_name: str = Field(default="Stack 3.0", min_length=1, max_length=40)
    """Name of the service on the console's pages."""

    console_logo: str = ""
    """Path of an SVG, PNG or WebP file, at most 256 KiB, that the console shows as logo and icon; empty shows the
    built-in one."""

    console_contact: str = Field(default="", max_length=2_000)
    """Where the console's pages tell users to ask for help: an e-mail address, or a URL. Empty names no address."""

    console_terms: str = Field(default="", max_length=2_000)
    """URL of the terms of use, to which the sign-up and the footer of the console's pages link. Empty hides it."""

    upgrade: str = Field(default="", max_length=2_000)
    """Where "Upgrade to Pro" on the console's plan page leads for accounts on the plan `free`: an e-mail address, or an
    `https://` URL of a checkout, in which `{account_id}` and `{email}` are replaced by those of the account. Empty
    hides it."""

    public_url: str = Field(default="", validation_alias="AUTH_CONSOLE_URL")
    """Public URL of the console, `https://host`. Pages show it, and forms from this origin are accepted even if a proxy
    changes the `Host` header. Empty uses the URL of each request."""

    hsts_seconds: int = Field(default=0, ge=0)
    """`max-age` of `Strict-Transport-Security` in seconds, for the console only; 0 omits the header."""

    trusted_proxies: list[str] = Field(default=[])
    """JSON array of the addresses and networks (CIDR) of proxies whose `x-forwarded-for`, `-proto` and `-host` headers
    are used. All clients of any other proxy count as one address."""

    @field_validator("public_url")
    @classmethod
    def _require_origin(cls, value: str) -> str:
        """Require an origin: the console cannot be served under a path."""
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/")):
            raise ValueError("expected an address without a path, such as https://console.example.com")
        return value

    @field_validator("console_name")
    @classmethod
    def _require_text(cls, value: str) -> str:
        """Require text that a page can show."""
        if not value.strip() or not value.isprintable():
            raise ValueError("expected a name of 1 to 40 printable characters")
        return value.strip()

    @field_validator("console_logo")
    @classmethod
    def _require_image(cls, value: str) -> str:
        """Require a small image file, by its suffix."""
        path = Path(value)
        if value and path.suffix not in LOGO_SUFFIXES:
            raise ValueError(f"expected the path of an image file, {', '.join(LOGO_SUFFIXES)}")
        if value and not (path.is_file() and path.stat().st_size <= _LOGO_BYTES_MAX):
            raise ValueError(f"{value} is not a file of at most {_LOGO_BYTES_MAX} bytes")
        return value

    @field_validator("console_terms")
    @classmethod
    def _require_url(cls, value: str) -> str:
        """Require the URL of a page."""
        parts = urlsplit(value)
        if value and not (value.isprintable() and parts.scheme in ("http", "https") and parts.hostname):
            raise ValueError("expected a URL such as https://example.com/terms")
        return value

    @field_validator("upgrade", "console_contact")
    @classmethod
    def _require_address(cls, value: str) -> str:
        """Require an e-mail address or the URL of a page."""
        parts = urlsplit(value)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_email = re.fullmatch(r"[^@\s:/]+@[^@\s:/]+", value) is not None
        if value and not (value.isprintable() and (is_url or is_email)):
            raise ValueError(
                "expected an e-mail address, or a URL such as https://pay.example.com/pro?ref={account_id}"
            )
        return value

    @field_validator("tokenizers")
    @classmethod
    def _require_families(cls, value: list[str]) -> list[str]:
        """Reject families without a tokenizer."""
        if unknown := set(value) - set(FAMILIES):
            raise ValueError(f"{', '.join(sorted(unknown))}: expected families of models among {', '.join(FAMILIES)}")
        return value

    @field_validator("model_aliases")
    @classmethod
    def _check_aliases(cls, models: dict[str, str]) -> dict[str, str]:
        model_aliases(models)
        return models

    @field_validator("body_bytes_max")
    @classmethod
    def _fits_a_message(cls, value: int) -> int:
        """Reject a body limit above the limit of gRPC messages."""
        if value > MESSAGE_BYTES_MAX:
            raise ValueError(f"must be at most {MESSAGE_BYTES_MAX} bytes, the limit of messages to inference")
        return value

    @model_validator(mode="after")
    def _fit_one_body(self) -> Self:
        """Reject budgets that are smaller than one body."""
        if self.receiving_bytes_per_client_max < self.body_bytes_max:
            raise ValueError(
                "GATEWAY_RECEIVING_BYTES_PER_CLIENT_MAX is smaller than GATEWAY_BODY_BYTES_MAX; "
                "raise the former or lower the latter"
            )
        if self.receiving_bytes_max < self.receiving_bytes_per_client_max:
            raise ValueError(
                "GATEWAY_RECEIVING_BYTES_MAX is smaller than GATEWAY_RECEIVING_BYTES_PER_CLIENT_MAX; "
                "raise the former or lower the latter"
            )
        return self

    @field_validator("trusted_proxies")
    @classmethod
    def _require_networks(cls, value: list[str]) -> list[str]:
        """Reject invalid addresses, which would otherwise be ignored."""
        try:
            for one in value:
                ipaddress.ip_network(one)
        except ValueError:
            raise ValueError("expected IP addresses and networks, such as 10.0.0.0/8") from None
        return value
