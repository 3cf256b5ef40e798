"""Every replica of every service is replaced under load, as pods are, without an error for any client.

Two replicas of each as containers behind one DNS name, like a headless Service. A replica is stopped, and only when its
callers have dropped it, its successor is started, at another address: draining nodes one after the other does the same
to pods. It is harder than a roll-out, which starts the successor first: when the second replica drains, its callers
have no other.
"""

import asyncio
import json
import os
import time
from collections.abc import Iterator

import pytest

from tests.containers.cluster import GROQ_URL, Cluster, running_network
from tests.containers.mixture import LIMIT, Mixture, mixture
from tests.containers.stores import entries, rows_of
from tests.containers.unknown_callers import unknown_callers
from tests.e2e.stack import Key
from tests.faults import checks
from tests.faults.evidence import charged_rows, day_number
from tests.rollout.traffic import traffic
from tools.manifests.objects import Objects
from tools.manifests.render import render_combination

pytestmark = pytest.mark.timeout(600)

_SERVICES = ("auth", "quota", "inference", "gateway")
_REPLICAS = (1, 2)
_RATE, _STREAMS = int(os.environ.get("ROLLOUT_RATE") or 30), int(os.environ.get("ROLLOUT_STREAMS") or 20)
"""Requests a second and concurrent streams, in addition to the mixture: the capacity of two cores with twelve
containers."""
_ENVIRONMENT = {
    # Longer than calls wait: callers that find no other replica fail.
    "DRAIN_SECONDS": "4",
    "GRACE_SECONDS": "20",
    "GROQ_BASE_URL": GROQ_URL,
    # More than the steady streams take, less than the endless ones.
    "REQUEST_TIMEOUT_SECONDS": "6",
    # The failures that the mixture requests of Groq must not cool down the one shared key.
    "INFERENCE_KEY_COOLDOWN_SECONDS_MAX": "0",
}
_STOP_SECONDS = 30
_TOKENS = 30
"""Length of a steady stream: three seconds."""
_AWAY_SECONDS = 2.0
"""From a replica's end to its successor's start. Callers resolve every half second, and then have only the other one.
"""
_AGAIN_SECONDS = 1.0
"""From the readiness of a successor to the next replica's end."""
_SETTLED_SECONDS_MAX = 20


@pytest.fixture(scope="module")
def replicated(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The pods of the manifests with mTLS, two of each service, migrated and ready."""
    with running_network() as network:
        objects = Objects.parse(render_combination(("network-policy", "mtls")))
        cluster = Cluster(objects, tmp_path_factory.mktemp("replicated"), network)
        try:
            _start(cluster)
            yield cluster
        finally:
            cluster.stop()


def _start(cluster: Cluster) -> None:
    cluster.start_groq()
    for name in ("redis", "postgres", "stackctl"):
        cluster.start(name)
    cluster.until_ready("redis", "postgres")
    for part in cluster.migrate():
        assert part.docker.wait(timeout=60)["StatusCode"] == 0, part.logs()
    for service in _SERVICES:
        for replica in _REPLICAS:
            cluster.start(service, _ENVIRONMENT, replica=replica)
    cluster.until_ready(*(f"{service}-{replica}" for service in _SERVICES for replica in _REPLICAS))


def _key(cluster: Cluster, name: str) -> Key:
    """Create an API key as an operator does."""
    arguments = ("--email", "ada@example.com", "--name", name, "--daily-limit", str(LIMIT), "--json")
    made = json.loads(cluster.stackctl("keys", "create", *arguments))
    return Key(made["id"], made["key"], made["account_id"])


def _url(cluster: Cluster, name: str) -> str:
    return f"http://{cluster.parts[name].address}:8080"


def _replace(cluster: Cluster, service: str, replica: int, gateways: list[str]) -> float:
    """Stop a replica gracefully and start another in its place; return how long it took to stop."""
    name = f"{service}-{replica}"
    began, url, address = time.monotonic(), _url(cluster, name), cluster.parts[name].address
    code = cluster.parts[name].stop(within_seconds=_STOP_SECONDS)
    stopped = time.monotonic() - began
    assert code == 0, f"{name} ended with {code}: {cluster.parts[name].logs()[-2000:]}"
    cluster.remove(name)
    cluster.start_idler(f"idler-{name}")  # A container engine reuses a freed address for the next container.
    time.sleep(_AWAY_SECONDS)
    cluster.start(service, _ENVIRONMENT, replica=replica)
    cluster.until_ready(name)
    assert cluster.parts[name].address != address
    if url in gateways:
        gateways[gateways.index(url)] = _url(cluster, name)
    return stopped


async def test_replacing_every_replica_under_load_drops_no_request(replicated: Cluster) -> None:
    replicated.stackctl("accounts", "create", "--email", "ada@example.com")
    steady, mixed = _key(replicated, "steady"), _key(replicated, "mixed")
    gateways = [_url(replicated, f"gateway-{replica}") for replica in _REPLICAS]

    async with (
        traffic(gateways, steady, rate=_RATE, streams=_STREAMS, stream_tokens=_TOKENS) as running,
        mixture(running.balancer, mixed) as others,
        unknown_callers(running.balancer) as unknown,
    ):
        for service in _SERVICES:
            for replica in _REPLICAS:
                seconds = await asyncio.to_thread(_replace, replicated, service, replica, gateways)
                reported = (
                    f"{dict(running.answers)}, {len(others.results)} of the mixture, {unknown.refused} unknown callers"
                )
                print(f"{service}-{replica} stopped in {seconds:.1f} s; {reported}")
                failures = [*running.failures, *others.unexpected, *unknown.failures]
                print(len(failures), "FAILURES", *failures[-5:], sep="\n  ")
                await asyncio.sleep(_AGAIN_SECONDS)
    print(others.summary())

    assert _ended(replicated) == []
    assert running.failures == []
    assert others.unexpected == []
    assert unknown.failures == []
    assert await _settled(replicated, steady) == running.answers.total()
    await _settled(replicated, mixed)
    assert await _problems(replicated, others) == []
    print(replicated.stackctl("verify"))


def _ended(cluster: Cluster) -> list[str]:
    """Return which replicas exited by themselves, and how."""
    replicas = [cluster.parts[f"{service}-{replica}"] for service in _SERVICES for replica in _REPLICAS]
    ended = [one for one in replicas if one.docker.status != "running"]
    return [f"{one.name}: {one.docker.attrs['State']['ExitCode']}, {one.logs()[-2000:]}" for one in ended]


async def _settled(cluster: Cluster, key: Key) -> int:
    """Return how many requests are charged, once no hold is left: as many in Redis as in the ledger."""
    async with asyncio.timeout(_SETTLED_SECONDS_MAX):
        while any(day.held for day in entries(cluster, key).values()):
            await asyncio.sleep(0.1)
    counted = {day: one.charged for (_, day), one in entries(cluster, key).items()}
    rows = await rows_of(cluster, key)
    assert counted == {day: charged_rows(rows, key.id, day) for day in {day_number(row.day) for row in rows}}
    return sum(row.charged for row in rows)


async def _problems(cluster: Cluster, others: Mixture) -> list[str]:
    """Return the findings of the fault suite's checks: every request charged once or not at all, tokens as Groq
    counted.
    """
    evidence = others.evidence
    evidence.rows = await rows_of(cluster, others.key)
    evidence.entries = entries(cluster, others.key)
    for entry in await cluster.journal():
        if str(entry["last_user_message"] or "").startswith(evidence.tag):
            evidence.journal[entry["x_groq_id"]] = entry
    return checks.problems(evidence)
