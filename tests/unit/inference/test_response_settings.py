"""Settings of stored responses, and their start errors."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from services.common.errors import StartError
from services.common.redis_url import redis_server
from services.inference.responses.wiring import open_stores
from services.inference.settings import InferenceSettings
from services.local.worker import server as worker

URL = "redis://127.0.0.1:6399/0"


def _settings(folder: Path, **members: Any) -> InferenceSettings:
    return InferenceSettings(data_dir=folder, **members)


def _files(folder: Path) -> list[tuple[str, int]]:
    """Return name and mode of each file."""
    return [(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()]


def test_nothing_is_stored_by_default(tmp_path: Path) -> None:
    assert not _settings(tmp_path).responses_redis
    assert _files(tmp_path) == []


async def test_with_sqlite_a_secret_is_generated_once(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(2):
            assert open_stores(_settings(tmp_path, responses_redis_url=URL), stack) is not None
    assert _files(tmp_path) == [("responses-secret", 0o600)]


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"database_url": "postgresql://h/n"}, "INFERENCE_RESPONSES_SECRETS is not set"),
        ({"responses_secrets": SecretStr("long enough to use,short")}, "less than 16 characters"),
    ],
)
async def test_a_missing_or_short_secret_stops_the_start(tmp_path: Path, members: dict[str, Any], problem: str) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(StartError, match=problem):
            open_stores(_settings(tmp_path, responses_redis_url=URL, **members), stack)


def test_credentials_replace_those_of_the_url(tmp_path: Path) -> None:
    settings = _settings(
        tmp_path,
        responses_redis_url="redis://a:b@h:1/2",
        responses_redis_user="u",
        responses_redis_password=SecretStr("p/@"),
    )
    assert settings.responses_redis == "redis://u:p%2F%40@h:1/2"


def test_an_invalid_url_is_refused_without_showing_it(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as raised:
        _settings(tmp_path, responses_redis_url="http://secret@h")
    assert "expected redis://" in str(raised.value)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("redis://h:1/2", "h:1"),
        ("redis://u:p@H:1/3", "h:1"),
        ("rediss://h", "h:6379"),
        ("redis://localhost:6379", "localhost:6379"),
        ("unix:///run/a.sock?db=1", "/run/a.sock"),
        ("unix://u:p@/run/a.sock", "/run/a.sock"),
    ],
)
def test_a_server_is_its_address(url: str, server: str) -> None:
    assert redis_server(url) == server


async def test_a_worker_does_not_store_responses_in_the_redis_of_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("GROQ_API_KEY", "gsk_test")
    monkeypatch.setenv("QUOTA_REDIS_URL", "redis://a:b@127.0.0.1:6399/0")
    monkeypatch.setenv("INFERENCE_RESPONSES_REDIS_URL", "redis://127.0.0.1:6399/1")
    with pytest.raises(StartError, match="are the same Redis"):
        await worker.serve(worker.WorkerSettings())
    assert _files(tmp_path) == []
