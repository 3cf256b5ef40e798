"""A service that cannot start prints one sentence with the reason and exits with 1."""

import asyncio
import re
import signal
import time
from pathlib import Path

import pytest

from services.auth.settings import AuthSettings
from services.common.errors import StartError
from services.common.runtime import process
from services.common.runtime.settings import REMOVED, RENAMED, ServiceSettings
from services.common.telemetry import log
from services.gateway.settings import GatewaySettings
from services.inference.settings import InferenceSettings
from services.local.settings import LocalSettings
from services.quota.settings import QuotaSettings


@pytest.mark.parametrize("level", ["info", "Debug", "ERROR"])
def test_a_level_may_be_in_lower_case(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("LOG_LEVEL", level)
    assert process.read(ServiceSettings).log_level == level.upper()


async def _nothing(settings: ServiceSettings) -> None:
    """A service that ends at once."""


@pytest.fixture(autouse=True)
def logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` configures the process' logging, which belongs to pytest here."""
    monkeypatch.setattr(log, "set_up", lambda service, level: None)


@pytest.mark.parametrize(
    ("settings", "name", "value", "sentence"),
    [
        (QuotaSettings, "QUOTA_HOLD_SECONDS", "0", "Setting QUOTA_HOLD_SECONDS: Input should be greater than 0"),
        (QuotaSettings, "DRAIN_SECONDS", "soon", "Setting DRAIN_SECONDS: Input should be a valid number"),
        (InferenceSettings, "INFERENCE_LEDGER_ROWS_MAX", "0", "Setting INFERENCE_LEDGER_ROWS_MAX: Input should be"),
        (InferenceSettings, "GROQ_API_KEYS", "gsk_…", "Setting GROQ_API_KEYS: expected printable ASCII characters"),
        (
            GatewaySettings,
            "GATEWAY_TRUSTED_PROXIES",
            "10.0.0.1",
            "Setting GATEWAY_TRUSTED_PROXIES: expected a JSON array",
        ),
        (ServiceSettings, "LOG_LEVEL", "canary", "Setting LOG_LEVEL: expected one of DEBUG, INFO, WARNING, ERROR"),
        (
            ServiceSettings,
            "OTEL_TRACES_SAMPLER_ARG",
            "canary",
            "Setting OTEL_TRACES_SAMPLER_ARG: Input should be a valid number",
        ),
        (ServiceSettings, "HEALTH_LISTEN", "canary", "Setting HEALTH_LISTEN: expected host:port"),
        (ServiceSettings, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::canary", "Setting OTEL_EXPORTER_OTLP_ENDPOINT: "),
        (AuthSettings, "AUTH_LISTEN", "canary", "Setting AUTH_LISTEN: expected host:port"),
        (
            AuthSettings,
            "AUTH_DATABASE_URL",
            "canary",
            "Setting AUTH_DATABASE_URL: expected sqlite:///path or",
        ),
        (AuthSettings, "AUTH_DATABASE_URL", "postgresql://a:canary@h:port/x", "Setting AUTH_DATABASE_URL: expected"),
        (AuthSettings, "AUTH_CONSOLE_URL", "canary", "Setting AUTH_CONSOLE_URL: expected http://host or https://host"),
        (AuthSettings, "AUTH_SIGN_UP", "canary", "Setting AUTH_SIGN_UP: Input should be 'open', 'invite' or 'closed'"),
        (
            InferenceSettings,
            "INFERENCE_DATABASE_URL",
            "mysql://u:canary@h/x",
            "Setting INFERENCE_DATABASE_URL: ",
        ),
        (InferenceSettings, "GROQ_BASE_URL", "canary.groq.com", "Setting GROQ_BASE_URL: expected http://host"),
        (
            QuotaSettings,
            "QUOTA_REDIS_URL",
            "redis://:canary@h:port/0",
            "Setting QUOTA_REDIS_URL: expected redis://user",
        ),
        (QuotaSettings, "QUOTA_REDIS_URL", "canary", "Setting QUOTA_REDIS_URL: expected redis://user"),
        (QuotaSettings, "QUOTA_REDIS_SENTINELS", '["canary"]', "Setting QUOTA_REDIS_SENTINELS: expected host:port"),
        (GatewaySettings, "GATEWAY_HOST", "http://canary", "Setting GATEWAY_HOST: expected an IP address or a name"),
        (GatewaySettings, "GATEWAY_TRUSTED_PROXIES", '["canary"]', "Setting GATEWAY_TRUSTED_PROXIES: expected IP"),
        (ServiceSettings, "TLS_CALLERS", "billing", "Setting TLS_CALLERS: expected a JSON object"),
    ],
)
def test_an_invalid_setting_is_named_by_its_environment_variable(
    monkeypatch: pytest.MonkeyPatch, settings: type[ServiceSettings], name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit) as exited:
        process.run("service", settings, _nothing)

    assert str(exited.value.code).startswith(f"service: {sentence}")
    assert "canary" not in str(exited.value.code)
    assert "\n" not in str(exited.value.code)


_KINDS = (ServiceSettings, AuthSettings, QuotaSettings, InferenceSettings, GatewaySettings, LocalSettings)
_TEXTS = ("canary\udcff", "canary" * 12_000, " \t ", "[" * 5_000 + "canary" * 12_000)
_NUMBERS = ("Infinity", "-Infinity", "NaN", "1e400", "99999999999999999999", "9" * 5_000)


@pytest.mark.long
@pytest.mark.parametrize("settings", _KINDS)
def test_no_setting_accepts_a_value_that_would_fail_the_start_or_each_request(
    monkeypatch: pytest.MonkeyPatch, settings: type[ServiceSettings]
) -> None:
    prefix = settings.model_config.get("env_prefix", "")
    for field, known in settings.model_fields.items():
        name = str(known.validation_alias or f"{prefix}{field}".upper())
        for value in (*_TEXTS, *(_NUMBERS if known.annotation in (int, float) else ())):
            monkeypatch.setenv(name, value)
            with pytest.raises(StartError) as refused:
                process.read(settings)
            assert str(refused.value).startswith(f"Setting {name}: "), (name, value[:20])
            assert "canary" not in str(refused.value)
            assert len(str(refused.value)) < 300
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("settings", "name", "value", "sentence"),
    [
        (ServiceSettings, "TLS_CALLERS", "[" * 5_000, "Setting TLS_CALLERS: expected a JSON object"),
        (GatewaySettings, "GATEWAY_CORS_ORIGINS", "[" * 5_000, "Setting GATEWAY_CORS_ORIGINS: expected a JSON array"),
        (AuthSettings, "AUTH_LISTEN", "unix:", "Setting AUTH_LISTEN: expected unix:/path"),
        (AuthSettings, "AUTH_DATABASE_URL", "sqlite:///", "Setting AUTH_DATABASE_URL: expected sqlite:///path"),
        (AuthSettings, "AUTH_DATABASE_URL", "sqlite:///:memory:", "Setting AUTH_DATABASE_URL: expected sqlite:///path"),
        (InferenceSettings, "INFERENCE_DATABASE_URL", "sqlite://", "Setting INFERENCE_DATABASE_URL: expected sqlite:"),
        (InferenceSettings, "INFERENCE_DEFAULT_MODEL", "", "Setting INFERENCE_DEFAULT_MODEL: expected a value"),
        (InferenceSettings, "INFERENCE_DEFAULT_MODEL", "m" * 257, "Setting INFERENCE_DEFAULT_MODEL: "),
        (AuthSettings, "STACK_ADMIN_TOKEN", "a" * 12_000, "Setting STACK_ADMIN_TOKEN: "),
        (AuthSettings, "AUTH_SESSION_SECONDS", "315360001", "Setting AUTH_SESSION_SECONDS: expected at most 315360000"),
        (
            QuotaSettings,
            "QUOTA_CLOCK_OFFSET_SECONDS",
            "-315360001",
            "Setting QUOTA_CLOCK_OFFSET_SECONDS: expected at l",
        ),
        (AuthSettings, "AUTH_ACTIVE_KEYS_MAX", "2147483648", "Setting AUTH_ACTIVE_KEYS_MAX: expected at most 21474836"),
        (GatewaySettings, "GATEWAY_NAME_CHARACTERS_MAX", "257", "Setting GATEWAY_NAME_CHARACTERS_MAX: "),
        (QuotaSettings, "REQUEST_TIMEOUT_SECONDS", "Infinity", "Setting REQUEST_TIMEOUT_SECONDS: "),
        (LocalSettings, "DATA_DIR", "", "Setting DATA_DIR: expected a value"),
    ],
)
def test_the_error_of_each_setting_names_the_invalid_value(
    monkeypatch: pytest.MonkeyPatch, settings: type[ServiceSettings], name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError, match=re.escape(sentence)):
        process.read(settings)


def test_an_optional_setting_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUOTA_METRICS_LISTEN", "OTEL_EXPORTER_OTLP_ENDPOINT", "QUOTA_REDIS_PASSWORD", "HEALTH_LISTEN"):
        monkeypatch.setenv(name, "")
    assert process.read(QuotaSettings).metrics_listen == ""


def test_a_start_error_is_the_sentence_printed_at_exit() -> None:
    async def main(settings: ServiceSettings) -> None:
        raise StartError("cannot listen; choose another")

    with pytest.raises(SystemExit) as exited:
        process.run("auth", ServiceSettings, main)

    assert exited.value.code == "auth: cannot listen; choose another"


def test_a_service_that_returns_exits_with_0_and_received_its_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    seen: list[Path] = []

    async def main(settings: ServiceSettings) -> None:
        seen.append(settings.data_dir)

    process.run("auth", ServiceSettings, main)

    assert seen == [tmp_path]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_first_signal_requests_a_stop_and_a_second_an_immediate_one(number: signal.Signals) -> None:
    stopping = process.stop_signal()
    part = stopping.part()
    assert not stopping.is_set()

    signal.raise_signal(number)

    await asyncio.wait_for(stopping.wait(), 5)
    assert not stopping.is_urgent()
    assert not part.is_set()

    signal.raise_signal(signal.SIGTERM)

    await asyncio.wait_for(part.wait_for(seconds=60), 5)
    assert stopping.is_urgent()
    assert part.is_urgent()


async def test_an_ignored_signal_stays_ignored() -> None:
    """`nohup` starts programs with SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stopping = process.stop_signal()
        signal.raise_signal(signal.SIGHUP)
        await asyncio.sleep(0.05)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not stopping.is_set()


async def test_a_stop_waits_for_work_only_for_its_grace_period() -> None:
    stopping = process.StopSignal()
    endless = asyncio.ensure_future(asyncio.Event().wait())
    started = time.monotonic()

    await stopping.wait_for(endless, seconds=0.05)
    await stopping.wait_for(asyncio.ensure_future(asyncio.sleep(0)), seconds=60)

    assert 0.05 <= time.monotonic() - started < 5
    assert endless.cancel(), "the service continues"


def test_sigterm_ends_a_service_that_is_still_waiting() -> None:
    """PID 1 of a container has no default action for the signal: the runtime would wait for it and then kill it."""

    async def main(settings: ServiceSettings) -> None:
        signal.raise_signal(signal.SIGTERM)
        await asyncio.Event().wait()

    with pytest.raises(SystemExit) as exited:
        process.run("auth", ServiceSettings, main)

    assert exited.value.code == 143


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("HAS_SIBLINGS", "has been replaced. Set REUSE_PORT instead."),
        (
            "GATEWAY_ABANDONED_REQUESTS_MAX",
            "has been removed: The limit of abandoned requests is fixed. Unset it.",
        ),
        ("GATEWAY_LEAVERS_MAX", "has been removed: The limit of abandoned requests is fixed. Unset it."),
    ],
)
def test_a_setting_of_an_earlier_version_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(StartError) as refused:
        process.read(ServiceSettings)
    assert str(refused.value) == f"Setting {name} {sentence}"


def test_every_replacement_of_a_setting_exists() -> None:
    services = (AuthSettings, GatewaySettings, InferenceSettings, QuotaSettings)
    known = {
        str(field.validation_alias or f"{settings.model_config.get('env_prefix', '')}{name}".upper())
        for settings in services
        for name, field in settings.model_fields.items()
    }
    assert set(RENAMED.values()) <= known
    assert not known & {*RENAMED, *REMOVED}
