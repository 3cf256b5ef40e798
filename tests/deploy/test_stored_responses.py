"""The component `stored-responses`: a Redis that inference accepts, and that only inference can reach."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from services.common.runtime.clock import SystemClock
from services.common.url_credentials import with_credentials
from services.inference.responses.encryption import Cipher
from services.inference.responses.store import Limits, RedisResponseStore, connect
from services.inference.settings import InferenceSettings
from tests.valkey_backend import TCPValkey
from tools.manifests.checks.network import connections, deny_all
from tools.manifests.objects import Objects
from tools.manifests.render import render_combination

_PASSWORD = "a-password-of-the-tests"
_MIB = 1024 * 1024
_LIMITS = Limits(seconds=60, responses=10, size_bytes=_MIB, deleted_seconds=60)


@pytest.fixture(scope="module")
def rendered() -> Objects:
    return Objects.parse(render_combination(("network-policy", "external-redis", "stored-responses")))


def _container(rendered: Objects, kind: str, name: str) -> dict[str, Any]:
    (workload,) = (one for one in rendered.workloads() if (one.kind, one.name) == (kind, name))
    return workload.containers[0]


@pytest.fixture
def url(rendered: Objects, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a server with the manifest's arguments."""
    arguments = _container(rendered, "StatefulSet", "responses-redis")["args"]
    server = TCPValkey(tmp_path / "redis", *(_PASSWORD if "$(" in one else one for one in arguments))
    try:
        server.wait_until_listening()
        yield with_credentials(server.url, user="", password=_PASSWORD)
    finally:
        server.end()


async def test_inference_stores_responses_in_a_redis_with_the_manifests_arguments(url: str) -> None:
    client = connect(url)
    store = RedisResponseStore(client, Cipher(["a secret of the tests"]), _LIMITS, SystemClock())
    await store.check()
    await store.store("acc_1", "resp_1", b"{}")
    assert await store.get("acc_1", "resp_1") == b"{}"
    await client.aclose()


def test_the_pods_memory_exceeds_the_limit_at_which_redis_evicts(rendered: Objects, url: str) -> None:
    with Redis.from_url(url) as client:
        maxmemory = int(client.config_get("maxmemory")["maxmemory"])
    limit = _container(rendered, "StatefulSet", "responses-redis")["resources"]["limits"]["memory"]
    assert limit == "1Gi"
    # While Redis rewrites its file, a copy of the changed pages exists.
    assert 0 < maxmemory <= 1024 * _MIB // 2


def test_inference_has_the_address_and_the_secrets(rendered: Objects) -> None:
    environment = rendered.environment(_container(rendered, "Deployment", "inference"))
    responses = {name: value for name, value in environment.items() if name.startswith("INFERENCE_RESPONSES")}
    assert responses == {
        "INFERENCE_RESPONSES_REDIS_URL": "redis://responses-redis:6379/0",
        "INFERENCE_RESPONSES_REDIS_PASSWORD": "secret:stack-secrets/RESPONSES_REDIS_PASSWORD",
        "INFERENCE_RESPONSES_SECRETS": "secret:stack-secrets/INFERENCE_RESPONSES_SECRETS",
    }
    settings = InferenceSettings(responses_redis_url=responses["INFERENCE_RESPONSES_REDIS_URL"])
    assert settings.responses_redis == "redis://responses-redis:6379/0"


def test_only_inference_reaches_it(rendered: Objects) -> None:
    policy = rendered.find("NetworkPolicy", "responses-redis")
    assert policy
    assert policy["spec"]["ingress"] == [
        {
            "from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "inference"}}}],
            "ports": [{"port": 6379, "protocol": "TCP"}],
        }
    ]
    assert "egress" not in policy["spec"]


def test_its_policy_does_not_count_as_the_policies_of_network_policy(rendered: Objects) -> None:
    alone = Objects.parse(render_combination(("stored-responses",)))
    assert [*deny_all(alone), *connections(alone)] == []
    without_the_rest = [one for one in rendered.all if one["metadata"]["name"] != "deny-all"]
    assert list(deny_all(Objects(without_the_rest))) == ["there are NetworkPolicies, and none denies everything"]
