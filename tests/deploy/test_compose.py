"""The example for Docker Compose: the workers of `make run` with Valkey in a container."""

import re
from pathlib import Path
from typing import Any

import yaml

from services.auth.settings import AuthSettings
from services.common.runtime.settings import ServiceSettings
from services.gateway.settings import GatewaySettings
from services.inference.settings import InferenceSettings
from services.local.settings import LocalSettings
from services.quota.settings import QuotaSettings

_ROOT = Path(__file__).parents[2]
_SETTINGS = (ServiceSettings, GatewaySettings, AuthSettings, QuotaSettings, InferenceSettings, LocalSettings)


def _stack() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((_ROOT / "deploy" / "compose" / "compose.yaml").read_text())
    service: dict[str, Any] = found["services"]["stack"]
    return service


def test_its_settings_exist_and_are_valid() -> None:
    known = {
        str(field.validation_alias or f"{settings.model_config.get('env_prefix', '')}{name}".upper())
        for settings in _SETTINGS
        for name, field in settings.model_fields.items()
    }
    environment = _stack()["environment"]
    assert set(environment) - known == set()
    default = re.fullmatch(r"\$\{STACK_WORKERS:-(\w+)\}", environment["STACK_WORKERS"])
    assert default
    assert LocalSettings.model_validate({"workers": default[1]}).workers == "auto"


def test_a_stop_has_more_time_than_the_requests_in_flight() -> None:
    stack = _stack()
    assert int(stack["stop_grace_period"].removesuffix("s")) > int(stack["environment"]["GRACE_SECONDS"]) + 5


def test_its_image_is_the_one_that_make_builds() -> None:
    version = re.search(r'^version = "(.+)"$', (_ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert _stack()["image"] == f"${{STACK_IMAGE:-stack:{version[1]}}}"
