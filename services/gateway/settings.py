"""What the gateway can be told."""

import ipaddress
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """Settings of the gateway, `GATEWAY_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` or `::` for all."""

    port: int = Field(default=8080, ge=0, le=65_535)
    """Port to listen on; 0 picks a free one, which the log names."""

    metrics_listen: str = "127.0.0.1:8280"
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

    body_bytes_max: int = Field(default=4 * 1024 * 1024, ge=1)
    """The largest request body; a larger one is refused with 413."""

    auth_timeout_seconds: float = Field(default=2.0, gt=0)
    """Longest wait for auth."""

    quota_timeout_seconds: float = Field(default=2.0, gt=0)
    """Longest wait for quota, for each of at most two tries."""

    total_timeout_seconds: float = Field(default=125.0, gt=0)
    """Longest wait for inference; a little over inference's own total deadline, so that its verdict arrives."""

    heartbeat_seconds: float = Field(default=10.0, gt=0)
    """Silence of a stream after which a comment is sent, so that nothing on the way takes it for dead."""

    cors_origins: list[str] = Field(default=["*"])
    """JSON array of the origins whose pages may call the API; `["*"]` is all, `[]` none. No cookie is ever accepted."""

    leavers_max: int = Field(default=1_000, ge=0)
    """Most requests that are followed to their end after their client left; more are left to inference's own bound."""

    principals_max: int = Field(default=100_000, ge=1)
    """Keys whose principal is remembered; beyond it the longest unused is forgotten."""

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

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, value: list[str]) -> list[str]:
        """Refuse what is no address: it would silently trust nobody."""
        for one in value:
            ipaddress.ip_network(one)
        return value
