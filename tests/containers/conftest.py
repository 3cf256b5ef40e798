"""Skips without a container engine; one cluster for all tests."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest

os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")

from tests.containers.cluster import GROQ_URL, IMAGE, Cluster, running_network
from tests.containers.probes import until
from tools.manifests.objects import Objects
from tools.manifests.render import render_combination

_COMPONENTS = ("network-policy", "mtls")
_GROQ = {
    "GROQ_BASE_URL": GROQ_URL,
    # A disconnected Groq does not answer, and the default time-out is longer than a test should last.
    "INFERENCE_FIRST_BYTE_TIMEOUT_SECONDS": "2",
    "INFERENCE_CONNECT_TIMEOUT_SECONDS": "2",
}


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Skip, with the reason, where these tests were not requested or cannot run."""
    if not os.environ.get("CONTAINERS"):
        pytest.skip("these tests need a container engine and the image: make test-containers")
    if not shutil.which("docker"):
        pytest.skip("there is no `docker` command here")
    asked = subprocess.run(
        ["docker", "image", "inspect", IMAGE], capture_output=True, text=True, timeout=60, check=False
    )
    if asked.returncode:
        pytest.skip(f"no engine with the image {IMAGE} answers (make image): {asked.stderr.strip()}")


@pytest.fixture(scope="session")
def cluster(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The pods of the manifests with mTLS, migrated and ready."""
    folder = tmp_path_factory.mktemp("cluster")
    with running_network() as network:
        cluster = Cluster(Objects.parse(render_combination(_COMPONENTS)), folder, network)
        try:
            _start(cluster)
            yield cluster
        finally:
            cluster.stop()


def _start(cluster: Cluster) -> None:
    """Start everything in the order that is worst in a cluster: the services before their databases have a schema."""
    cluster.start_groq()
    for name in ("redis", "postgres", "stackctl"):
        cluster.start(name)
    for name in ("auth", "quota", "gateway"):
        cluster.start(name)
    cluster.start("inference", _GROQ)
    cluster.until_ready("redis", "postgres")
    for name in ("auth", "inference"):
        until(partial(cluster.probe, name, "livenessProbe"), f"{name} is not alive")
        assert not cluster.probe(name), f"{name} is ready without a schema"
    for part in cluster.migrate():
        assert part.docker.wait(timeout=60)["StatusCode"] == 0, part.logs()
    cluster.until_ready("auth", "quota", "inference", "gateway")
