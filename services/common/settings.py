"""What every service can be told; each service adds its own settings under its own prefix."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """Settings common to all services, read from the environment once, in `__main__`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, populate_by_name=True)

    log_level: str = Field(default="INFO", validation_alias="LOG_LEVEL")
    """Least severe log records that are written: DEBUG, INFO, WARNING or ERROR."""

    data_dir: Path = Field(default=Path("var"), validation_alias="DATA_DIR")
    """Folder of a single machine's databases and secrets; a cluster's services do not use it."""

    drain_seconds: float = Field(default=5.0, ge=0, validation_alias="DRAIN_SECONDS")
    """After SIGTERM: time to stay up, unready, while callers learn to go elsewhere."""

    grace_seconds: float = Field(default=130.0, ge=0, validation_alias="GRACE_SECONDS")
    """After that: time that calls in flight get to finish before they are cancelled."""
