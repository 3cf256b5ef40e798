"""Settings of the quota service."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.redis_url import check_redis_url
from services.common.runtime.address_settings import HostAndPort, Listen
from services.common.runtime.settings import ServiceSettings
from services.quota.redis.connections import RedisTarget

_HOLD_MARGIN_SECONDS = 60.0


class QuotaSettings(ServiceSettings):
    """Settings of the quota service, read from `QUOTA_*` environment variables."""

    model_config = SettingsConfigDict(env_prefix="QUOTA_")

    listen: Listen = "127.0.0.1:50052"
    """Address of the gRPC server: `host:port`, `[::]:port` or `unix:/path`."""

    metrics_listen: HostAndPort = "127.0.0.1:50252"
    """Address of `GET /metrics`; empty disables it."""

    redis_url: Annotated[str, AfterValidator(check_redis_url)] = "redis://127.0.0.1:6379/0"
    """URL of Redis or Valkey: `redis://user:password@host:port/db`, `rediss://…` or `unix:///path`."""

    redis_user: str = ""
    """Redis user; overrides the URL's."""

    redis_password: SecretStr = SecretStr("")
    """Redis password; overrides the URL's. Not percent-encoded."""

    redis_cluster: bool = False
    """Whether `QUOTA_REDIS_URL` names a node of a Redis Cluster."""

    redis_sentinels: list[HostAndPort] = Field(default=[])
    """JSON array of Redis Sentinel addresses, through which the primary is found. The URL's host is then ignored."""

    redis_sentinel_service: str = "mymaster"
    """Name of the primary in the Sentinels' configuration."""

    redis_sentinel_password: SecretStr = SecretStr("")
    """Password of the Sentinels; empty when they require none."""

    @field_validator("redis_sentinels")
    @classmethod
    def _check_sentinels(cls, value: list[str], info: ValidationInfo) -> list[str]:
        """Reject Sentinels together with a cluster or a Unix socket, since one of the two would be ignored."""
        if value and (info.data.get("redis_cluster") or str(info.data.get("redis_url")).startswith("unix:")):
            raise ValueError(
                "Sentinels cannot be combined with QUOTA_REDIS_CLUSTER or a Unix socket in QUOTA_REDIS_URL"
            )
        return value

    @property
    def redis(self) -> RedisTarget:
        """Connection parameters of Redis."""
        return RedisTarget(
            url=self.redis_url,
            user=self.redis_user,
            password=self.redis_password.get_secret_value(),
            is_cluster=self.redis_cluster,
            sentinels=tuple(self.redis_sentinels),
            sentinel_service=self.redis_sentinel_service,
            sentinel_password=self.redis_sentinel_password.get_secret_value(),
        )

    redis_timeout_seconds: float = Field(default=1.0, gt=0)
    """Time-out of connecting to Redis, and of a command."""

    inference_target: str = Field(default="127.0.0.1:50053", validation_alias="INFERENCE_TARGET")
    """gRPC target of the inference service. Counters are initialised from its ledger."""

    ledger_timeout_seconds: float = Field(default=1.0, gt=0)
    """Time-out of a ledger query."""

    hold_seconds: float = Field(
        default_factory=lambda data: data.get("request_timeout_seconds", 0.0) + _HOLD_MARGIN_SECONDS, gt=0
    )
    """Age at which the sweeper closes a hold without a verdict. Defaults to REQUEST_TIMEOUT_SECONDS plus 60 s; must be
    longer than REQUEST_TIMEOUT_SECONDS."""

    sweep_seconds: float = Field(default=1.0, gt=0)
    """Pause between sweeps for overdue holds."""

    reconcile_seconds: float = Field(default=30.0, gt=0)
    """Pause between comparisons of all counters with the ledger."""

    clock_offset_seconds: int = 0
    """Offset added to Redis' clock to determine the day; only for tests around midnight."""

    @field_validator("hold_seconds")
    @classmethod
    def _check_hold_seconds(cls, value: float, info: ValidationInfo) -> float:
        """Reject a hold shorter than a request, whose slot would be granted again while the request is running."""
        if value <= info.data.get("request_timeout_seconds", 0.0):
            raise ValueError(
                "must be longer than REQUEST_TIMEOUT_SECONDS; raise this value or lower REQUEST_TIMEOUT_SECONDS"
            )
        return value
