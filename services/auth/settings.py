"""What the auth service can be told, read from the environment once."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings


class AuthSettings(ServiceSettings):
    """Settings of the auth service; an empty variable counts as absent."""

    model_config = SettingsConfigDict(env_prefix="AUTH_", env_ignore_empty=True)

    listen: str = "127.0.0.1:50051"
    """Where to listen: `host:port`, `[::]:port` or `unix:/path`."""

    database_url: str | None = None
    """`sqlite:///path` or `postgresql://user:password@host/name`; absent means `auth.db` in DATA_DIR."""

    key_pepper: SecretStr | None = None
    """Secret under which keys are stored; whoever loses it loses all keys. Absent on SQLite: `DATA_DIR/key-pepper`,
    made once. Postgres demands it."""

    admin_token: SecretStr | None = Field(default=None, validation_alias="STACK_ADMIN_TOKEN")
    """What callers of the management API show. Absent on SQLite: `DATA_DIR/admin-token`, made once. Postgres demands
    it."""

    @property
    def database(self) -> str:
        """URL of the database in use."""
        return self.database_url or f"sqlite:///{self.data_dir / 'auth.db'}"
