"""What the quota service can be told."""

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings

_HOLD_BEYOND_REQUEST_SECONDS = 60.0


class QuotaSettings(ServiceSettings):
    """Settings of the quota service, `QUOTA_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="QUOTA_")

    listen: str = "127.0.0.1:50052"
    """Address of the gRPC server: `host:port`, `[::]:port` or `unix:/path`."""

    metrics_listen: str = "127.0.0.1:50252"
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

    hold_seconds: float = Field(
        default_factory=lambda data: data.get("request_timeout_seconds", 0.0) + _HOLD_BEYOND_REQUEST_SECONDS, gt=0
    )
    """Age at which a hold without a verdict is closed by the sweeper. By default REQUEST_TIMEOUT_SECONDS and 60 s more;
    must be longer than REQUEST_TIMEOUT_SECONDS."""

    sweep_seconds: float = Field(default=1.0, gt=0)
    """Pause between two looks for overdue holds."""

    reconcile_seconds: float = Field(default=30.0, gt=0)
    """Pause between two comparisons of all counters with the ledger."""

    clock_offset_seconds: int = 0
    """Added to Redis' clock when the day is decided; for tests of midnight only."""

    @field_validator("hold_seconds")
    @classmethod
    def _outlives_a_request(cls, value: float, info: ValidationInfo) -> float:
        """Refuse a hold that a request can outlive: its slot would be granted again while it is answered."""
        if value <= info.data.get("request_timeout_seconds", 0.0):
            raise ValueError("must be longer than REQUEST_TIMEOUT_SECONDS; raise the one or lower the other")
        return value
