"""What the gateway can be told."""

import ipaddress
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from services.common.rpc.sizes import MESSAGE_BYTES_MAX
from services.common.runtime.address import Host, HostAndPort
from services.common.runtime.settings import ServiceSettings
from services.gateway.apis.chat_completions.limits import ChatLimits


class GatewaySettings(ServiceSettings):
    """Settings of the gateway, `GATEWAY_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    host: Host = "127.0.0.1"
    """Address or name to listen on; `0.0.0.0` is all IPv4 addresses, `::` all IPv6 and IPv4 addresses."""

    port: int = Field(default=8080, ge=0, le=65_535)
    """Port to listen on; 0 picks a free one, which the log names."""

    metrics_listen: HostAndPort = "127.0.0.1:8280"
    """Address of `GET /metrics`; empty serves none."""

    auth_target: str = Field(default="127.0.0.1:50051", validation_alias="AUTH_TARGET")
    """gRPC target of auth."""

    quota_target: str = Field(default="127.0.0.1:50052", validation_alias="QUOTA_TARGET")
    """gRPC target of quota."""

    inference_target: str = Field(default="127.0.0.1:50053", validation_alias="INFERENCE_TARGET")
    """gRPC target of inference."""

    @property
    def targets(self) -> tuple[tuple[str, str], ...]:
        """The three services' names and targets: auth, quota, inference."""
        return (("auth", self.auth_target), ("quota", self.quota_target), ("inference", self.inference_target))

    @property
    def call_seconds_max(self) -> float:
        """Maximum duration of a call to inference: longer than a request may take, so that its verdict arrives."""
        return self.request_timeout_seconds + min(5.0, self.request_timeout_seconds / 4)

    body_bytes_max: int = Field(default=4 * 1024 * 1024, ge=1)
    """The largest request body; a larger one is refused with 413. At most 16 MiB, which is what gRPC carries."""

    receiving_bytes_max: int = Field(default=256 * 1024 * 1024, ge=1)
    """Bytes of request bodies that are being received at the same time, in all; more is refused with 503."""

    receiving_bytes_per_client_max: int = Field(default=64 * 1024 * 1024, ge=1)
    """The part of it that one API key, or one network address (64 bits of IPv6), may take; more is refused with 429."""

    messages_max: int = Field(default=2_048, ge=1)
    """Messages of one request."""

    content_parts_max: int = Field(default=4_096, ge=1)
    """Content parts of one request, in all its messages together."""

    tool_calls_max: int = Field(default=4_096, ge=1)
    """Tool calls of one request, in all its messages together."""

    tools_max: int = Field(default=128, ge=1, le=128)
    """Tools of one request; Groq takes no more than 128."""

    nesting_max: int = Field(default=100, ge=10, le=500)
    """Levels of arrays and objects within one member of a request."""

    values_max: int = Field(default=100_000, ge=1_000)
    """JSON values of one request: members of objects and elements of arrays; each array and object counts as one
    more."""

    name_characters_max: int = Field(default=256, ge=64, le=256)
    """Characters of a model's name, and of the names of participants, functions and schemas; the ledger holds 256."""

    @property
    def chat_limits(self) -> ChatLimits:
        """The limits of one chat request."""
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
    """Requests of one API key that may be refused for their content each second, and of one network address four times
    as many, with 20 seconds' worth at once; each 64 KiB of a body count as one more. Beyond it clients get 429. 0
    limits nothing."""

    auth_timeout_seconds: float = Field(default=2.0, gt=0)
    """Longest wait for auth."""

    quota_timeout_seconds: float = Field(default=2.0, gt=0)
    """Longest wait for quota, for each of at most two tries."""

    heartbeat_seconds: float = Field(default=10.0, gt=0)
    """Silence of a stream after which a comment is sent, so that nothing on the way takes it for dead."""

    cors_origins: list[str] = Field(default=["*"])
    """JSON array of the origins whose pages may call the API; `["*"]` is all, `[]` none. No cookie is ever accepted."""

    abandoned_requests_max: int = Field(default=10_000, ge=0)
    """Maximum requests whose client left, or whose call to inference broke, that are settled by their ledger row. More
    are left to the sweeper."""

    auth_cache_max: int = Field(default=100_000, ge=1)
    """Keys whose principal is remembered; beyond it the longest unused is forgotten."""

    connections_max: int = Field(default=10_000, ge=0)
    """Open connections in all; one more gets 503 and is closed. 0 means unlimited."""

    connections_per_address_max: int = Field(default=2_500, ge=0)
    """Open connections of one network address (64 bits of IPv6) that is no trusted proxy; one more gets 429 and is
    closed. 0 means unlimited."""

    head_bytes_max: int = Field(default=65_536, ge=1_024)
    """Size of a request's line and header fields together; more gets 431, or 414 where the URL is too long."""

    head_timeout_seconds: float = Field(default=10.0, gt=0)
    """Time from a request's first byte to the end of its header fields; more gets 408."""

    stall_timeout_seconds: float = Field(default=30.0, gt=0)
    """Time without progress after which a client that reads nothing of its response is given up. However slowly a
    client reads, it gets all of it."""

    console: bool = True
    """Whether the console's pages are served: sign-up, keys, usage, playground and docs."""

    public_url: str = Field(default="", validation_alias="AUTH_CONSOLE_URL")
    """Where people find the console, `https://host`: forms that come from there are taken whatever a proxy makes of the
    `Host` header, and pages show it. Empty: wherever they come to."""

    hsts_seconds: int = Field(default=0, ge=0)
    """For how long browsers are told to use HTTPS alone (`Strict-Transport-Security`, console only); 0 says nothing."""

    trusted_proxies: list[str] = Field(default=[])
    """JSON array of the addresses and networks (CIDR) of proxies whose `x-forwarded-for`, `-proto` and `-host` are
    believed; behind one that is not named here all clients count as one address."""

    @field_validator("public_url")
    @classmethod
    def _is_an_origin(cls, value: str) -> str:
        """Refuse an address with a path, which the console cannot have, and what is none."""
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/")):
            raise ValueError("expected an address without a path, such as https://console.example.com")
        return value

    @field_validator("body_bytes_max")
    @classmethod
    def _can_be_passed_on(cls, value: int) -> int:
        """Refuse bodies that inference could never get."""
        if value > MESSAGE_BYTES_MAX:
            raise ValueError(f"at most {MESSAGE_BYTES_MAX} bytes can be passed on to inference; set it to that or less")
        return value

    @model_validator(mode="after")
    def _one_body_fits(self) -> Self:
        """Refuse budgets that not one body fits into."""
        if self.receiving_bytes_per_client_max < self.body_bytes_max:
            raise ValueError(
                "GATEWAY_RECEIVING_BYTES_PER_CLIENT_MAX is smaller than GATEWAY_BODY_BYTES_MAX; "
                "raise it, or lower the largest body"
            )
        if self.receiving_bytes_max < self.receiving_bytes_per_client_max:
            raise ValueError(
                "GATEWAY_RECEIVING_BYTES_MAX is smaller than GATEWAY_RECEIVING_BYTES_PER_CLIENT_MAX; "
                "raise it, or lower the part of one client"
            )
        return self

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, value: list[str]) -> list[str]:
        """Refuse what is no address: it would silently trust nobody."""
        try:
            for one in value:
                ipaddress.ip_network(one)
        except ValueError:
            raise ValueError("expected IP addresses and networks, such as 10.0.0.0/8") from None
        return value
