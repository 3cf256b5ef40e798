"""Settings of the operators' console."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.runtime.address_settings import Host, HTTPURLOrNone
from services.common.runtime.settings import ServiceSettings


class OperatorConsoleSettings(ServiceSettings):
    """Settings of the operators' console, read from `OPERATOR_CONSOLE_*` environment variables."""

    model_config = SettingsConfigDict(env_prefix="OPERATOR_CONSOLE_")

    host: Host = "127.0.0.1"
    """Address or name to listen on. Keep it private: reach it over a tunnel, or behind a proxy with HTTPS."""

    port: int = Field(default=8090, ge=0, le=65_535)
    """Port to listen on; 0 picks a free port, which is logged."""

    auth_target: str = Field(default="127.0.0.1:50051", validation_alias="AUTH_TARGET")
    """gRPC target of auth."""

    quota_target: str = Field(default="127.0.0.1:50052", validation_alias="QUOTA_TARGET")
    """gRPC target of quota, of which only the health is read."""

    inference_target: str = Field(default="127.0.0.1:50053", validation_alias="INFERENCE_TARGET")
    """gRPC target of inference."""

    gateway_url: HTTPURLOrNone = "http://127.0.0.1:8080"
    """URL of a gateway, whose `/readyz` the page Health shows. Empty shows none."""

    public_url: HTTPURLOrNone = ""
    """URL under which browsers reach this console, `https://host`. Forms from this origin are accepted even if a proxy
    changes the `Host` header. Empty uses the URL of each request."""

    trusted_proxies: list[str] = Field(default=[])
    """JSON array of the addresses and networks (CIDR) of proxies whose `x-forwarded-for`, `-proto` and `-host` headers
    are used. The audit log then has the operator's address instead of the proxy's."""

    hsts_seconds: int = Field(default=0, ge=0)
    """`max-age` of `Strict-Transport-Security` in seconds; 0 omits the header."""

    @property
    def targets(self) -> tuple[tuple[str, str], ...]:
        """Names and gRPC targets of auth, quota and inference."""
        return (("auth", self.auth_target), ("quota", self.quota_target), ("inference", self.inference_target))
