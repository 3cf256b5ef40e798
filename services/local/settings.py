"""What `make run` can be told; everything else in the environment reaches the services as it is."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings


class LocalSettings(ServiceSettings):
    """Settings of the runner for one machine."""

    model_config = SettingsConfigDict(env_prefix="STACK_")

    gateway_port: int = Field(default=8080, ge=1, le=65_535, validation_alias="GATEWAY_PORT")
    """Port of the API."""

    auth_listen: str = Field(default="127.0.0.1:50051", validation_alias="AUTH_LISTEN")
    """Address of auth's gRPC server: `host:port` or `unix:/path`."""

    quota_listen: str = Field(default="127.0.0.1:50052", validation_alias="QUOTA_LISTEN")
    """Address of quota's gRPC server."""

    inference_listen: str = Field(default="127.0.0.1:50053", validation_alias="INFERENCE_LISTEN")
    """Address of inference's gRPC server."""

    groq_api_key: SecretStr = Field(default=SecretStr(""), validation_alias="GROQ_API_KEY")
    """The operator's Groq key; without one a local stand-in answers."""

    groq_api_keys: SecretStr = Field(default=SecretStr(""), validation_alias="GROQ_API_KEYS")
    """Several Groq keys, separated by commas."""

    quota_redis_url: str = Field(default="", validation_alias="QUOTA_REDIS_URL")
    """A Redis to use in place of the embedded Valkey."""

    auth_metrics_listen: str = Field(default="127.0.0.1:50251", validation_alias="AUTH_METRICS_LISTEN")
    """Address of auth's metrics; empty serves none."""

    quota_metrics_listen: str = Field(default="127.0.0.1:50252", validation_alias="QUOTA_METRICS_LISTEN")
    """Address of quota's metrics; empty serves none."""

    inference_metrics_listen: str = Field(default="127.0.0.1:50253", validation_alias="INFERENCE_METRICS_LISTEN")
    """Address of inference's metrics; empty serves none."""

    gateway_metrics_listen: str = Field(default="127.0.0.1:8280", validation_alias="GATEWAY_METRICS_LISTEN")
    """Address of the gateway's metrics; empty serves none."""

    valkey_server: str = ""
    """Path of a valkey-server or redis-server; empty finds one."""

    admin_token: SecretStr = Field(default=SecretStr(""), validation_alias="STACK_ADMIN_TOKEN")
    """The operator's token; empty reads the one that auth keeps in DATA_DIR."""

    @property
    def metrics(self) -> dict[str, str]:
        """Where each service serves its metrics, by the name of the setting."""
        return {
            "GATEWAY_METRICS_LISTEN": self.gateway_metrics_listen,
            "AUTH_METRICS_LISTEN": self.auth_metrics_listen,
            "QUOTA_METRICS_LISTEN": self.quota_metrics_listen,
            "INFERENCE_METRICS_LISTEN": self.inference_metrics_listen,
        }

    @property
    def has_groq_key(self) -> bool:
        """Whether to talk to Groq itself."""
        return bool(self.groq_api_key.get_secret_value() or self.groq_api_keys.get_secret_value())
