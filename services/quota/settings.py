"""What the quota service can be told."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.address import HostAndPort, Listen
from services.common.settings import ServiceSettings


class QuotaSettings(ServiceSettings):
    """Settings of the quota service, `QUOTA_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="QUOTA_")

    listen: Listen = "127.0.0.1:50052"
    """Address of the gRPC server: `host:port`, `[::]:port` or `unix:/path`."""

    metrics_listen: HostAndPort = "127.0.0.1:50252"
    """Address of `GET /metrics`; empty serves none."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    """Redis or Valkey: `redis://host:port/db`, `rediss://…` or `unix:///path`."""

    redis_cluster: bool = False
    """Whether `QUOTA_REDIS_URL` names a node of a Redis Cluster."""

    redis_timeout_seconds: float = Field(default=1.0, gt=0)
    """Longest wait for Redis, to connect and to answer."""

    inference_target: str = Field(default="127.0.0.1:50053", validation_alias="INFERENCE_TARGET")
    """gRPC target of inference, whose ledger grounds the counters."""

    ledger_timeout_seconds: float = Field(default=1.0, gt=0)
    """Longest wait for a count from the ledger."""

    hold_seconds: float = Field(default=180.0, gt=0)
    """Age at which a hold is overdue and the sweeper's; must outlive a request's total deadline."""

    sweep_seconds: float = Field(default=1.0, gt=0)
    """Pause between two looks for overdue holds."""

    reconcile_seconds: float = Field(default=30.0, gt=0)
    """Pause between two comparisons of all counters with the ledger."""

    clock_offset_seconds: int = 0
    """Added to Redis' clock when the day is decided; for tests of midnight only."""
