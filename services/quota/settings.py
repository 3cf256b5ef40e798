"""What the quota service can be told."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.runtime.address import HostAndPort, Listen
from services.common.runtime.settings import ServiceSettings
from services.quota.redis.connections import RedisTarget, check_redis_url

_HOLD_BEYOND_REQUEST_SECONDS = 60.0


class QuotaSettings(ServiceSettings):
    """Settings of the quota service, `QUOTA_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="QUOTA_")

    listen: Listen = "127.0.0.1:50052"
    """Address of the gRPC server: `host:port`, `[::]:port` or `unix:/path`."""

    metrics_listen: HostAndPort = "127.0.0.1:50252"
    """Address of `GET /metrics`; empty serves none."""

    redis_url: Annotated[str, AfterValidator(check_redis_url)] = "redis://127.0.0.1:6379/0"
    """Redis or Valkey: `redis://user:password@host:port/db`, `rediss://…` or `unix:///path`."""

    redis_user: str = ""
    """User of Redis, in place of the URL's."""

    redis_password: SecretStr = SecretStr("")
    """Password of Redis, in place of the URL's, as it is: nothing is to be encoded."""

    redis_cluster: bool = False
    """Whether `QUOTA_REDIS_URL` names a node of a Redis Cluster."""

    redis_sentinels: list[HostAndPort] = Field(default=[])
    """JSON array of the addresses of Redis Sentinels, which know where the primary is; the URL's host is not used
    then."""

    redis_sentinel_service: str = "mymaster"
    """Name under which the Sentinels know the primary."""

    redis_sentinel_password: SecretStr = SecretStr("")
    """Password of the Sentinels themselves; empty when they want none."""

    @field_validator("redis_sentinels")
    @classmethod
    def _go_with_the_rest(cls, value: list[str], info: ValidationInfo) -> list[str]:
        """Refuse Sentinels beside a cluster or a Unix socket: one of the two would silently not count."""
        if value and (info.data.get("redis_cluster") or str(info.data.get("redis_url")).startswith("unix:")):
            raise ValueError("Sentinels go with neither QUOTA_REDIS_CLUSTER nor a Unix socket in QUOTA_REDIS_URL")
        return value

    @property
    def redis(self) -> RedisTarget:
        """Where Redis is and how to connect to it."""
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
