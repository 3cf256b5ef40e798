"""Kubelet probes of containers, and waiting for their results."""

import time
from collections.abc import Callable
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

_WAIT_SECONDS = 90.0


def until(
    holds: Callable[[], bool], otherwise: str, reported: Callable[[], str] = str, seconds: float = _WAIT_SECONDS
) -> float:
    """Return how long it took until `holds` was true; fail with `otherwise` and the result of `reported` when it never
    is.
    """
    started = time.monotonic()
    while not holds():
        assert time.monotonic() < started + seconds, f"{otherwise} after {seconds:.0f} s: {reported()[-3000:]}"
        time.sleep(0.2)
    return time.monotonic() - started


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def serves(target: str, service: str) -> bool:
    with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            return bool(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=2).status == 1)
        except grpc.RpcError:
            return False
