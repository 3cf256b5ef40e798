"""What `make run` can be told; everything else in the environment reaches the services as it is."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.common.runtime.address import Address, Host, HostAndPort, Listen, parse_address, reachable
from services.common.runtime.settings import ServiceSettings

_GRACE_SECONDS = 5.0


class LocalSettings(ServiceSettings):
    """Settings of the runner for one machine."""

    model_config = SettingsConfigDict(env_prefix="STACK_")

    gateway_host: Host = Field(default="127.0.0.1", validation_alias="GATEWAY_HOST")
    """Address or name that the API listens on."""

    gateway_port: int = Field(default=8080, ge=1, le=65_535, validation_alias="GATEWAY_PORT")
    """Port of the API."""

    auth_listen: Listen = Field(default="127.0.0.1:50051", validation_alias="AUTH_LISTEN")
    """Address of auth's gRPC server: `host:port` or `unix:/path`. An address that is not set and whose port is taken
    gets a free one, ten or more higher; so it is for all that follow."""

    quota_listen: Listen = Field(default="127.0.0.1:50052", validation_alias="QUOTA_LISTEN")
    """Address of quota's gRPC server."""

    inference_listen: Listen = Field(default="127.0.0.1:50053", validation_alias="INFERENCE_LISTEN")
    """Address of inference's gRPC server."""

    console: bool = Field(default=True, validation_alias="GATEWAY_CONSOLE")
    """Whether the console's pages are served."""

    groq_api_key: SecretStr = Field(default=SecretStr(""), validation_alias="GROQ_API_KEY")
    """The operator's Groq key; without one a local stand-in answers."""

    groq_api_keys: SecretStr = Field(default=SecretStr(""), validation_alias="GROQ_API_KEYS")
    """Several Groq keys, separated by commas."""

    quota_redis_url: str = Field(default="", validation_alias="QUOTA_REDIS_URL")
    """A Redis to use in place of the embedded Valkey."""

    auth_metrics_listen: HostAndPort = Field(default="127.0.0.1:50251", validation_alias="AUTH_METRICS_LISTEN")
    """Address of auth's metrics; empty serves none."""

    quota_metrics_listen: HostAndPort = Field(default="127.0.0.1:50252", validation_alias="QUOTA_METRICS_LISTEN")
    """Address of quota's metrics; empty serves none."""

    inference_metrics_listen: HostAndPort = Field(
        default="127.0.0.1:50253", validation_alias="INFERENCE_METRICS_LISTEN"
    )
    """Address of inference's metrics; empty serves none."""

    gateway_metrics_listen: HostAndPort = Field(default="127.0.0.1:8280", validation_alias="GATEWAY_METRICS_LISTEN")
    """Address of the gateway's metrics; empty serves none."""

    workers: int = Field(default=1, ge=0, le=64)
    """Processes that each hold all four services and share the ports; one for each core serves the most. 0 runs each
    service as a process of its own, as a cluster does."""

    valkey_server: str = ""
    """Path of a valkey-server or redis-server; empty finds one."""

    admin_token: SecretStr = Field(default=SecretStr(""), max_length=1_024, validation_alias="STACK_ADMIN_TOKEN")
    """The operator's token; empty reads the one that auth keeps in DATA_DIR."""

    @property
    def url(self) -> str:
        """Where this machine reaches the API and the console."""
        return f"http://{Address(self.gateway_host, self.gateway_port).reachable}"

    @property
    def targets(self) -> dict[str, str]:
        """Where this machine reaches the gRPC services, by their names."""
        return {
            "auth": reachable(self.auth_listen),
            "quota": reachable(self.quota_listen),
            "inference": reachable(self.inference_listen),
        }

    @property
    def metrics(self) -> dict[str, str]:
        """Where this machine reaches each process' metrics, by its name; empty where it serves none."""
        return {name: listen and reachable(listen) for name, listen in self.metrics_listens.items()}

    @property
    def metrics_listens(self) -> dict[str, str]:
        """Where each process serves its metrics, by its name; several workers take the ports from the gateway's on."""
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
        """What the workers are called, in their logs' names too."""
        return ("stack", *(f"stack-{number}" for number in range(2, self.workers + 1)))

    @property
    def stop_seconds(self) -> float:
        """Time that requests in flight get to finish at a stop: GRACE_SECONDS where it is set, otherwise 5 s."""
        return self.grace_seconds if "grace_seconds" in self.model_fields_set else _GRACE_SECONDS

    @property
    def has_groq_key(self) -> bool:
        """Whether to talk to Groq itself."""
        return bool(self.groq_api_key.get_secret_value() or self.groq_api_keys.get_secret_value())


def _shifted(address: str, by: int) -> str:
    """Return an address with a later port; none stays none."""
    return str(parse_address(address).shifted(by)) if address else ""
