"""A service whose standard error is a pipe that is not read."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from services.local.supervisor import ready
from tests.e2e.stack import bare_environment
from tests.ports import free_port

_REQUESTS = 1_000
"""Four times as many log lines as a pipe holds."""
_FLOOD = 6_000
"""More than the buffer in memory, too."""


@pytest.fixture
def gateway() -> Iterator[tuple[subprocess.Popen[bytes], str, str]]:
    """Yield a single gateway, its address and that of its metrics."""
    port, metrics = free_port(), free_port()
    addresses = {"GATEWAY_PORT": str(port), "GATEWAY_METRICS_LISTEN": f"127.0.0.1:{metrics}"}
    targets = {f"{name}_TARGET": f"127.0.0.1:{free_port()}" for name in ("AUTH", "QUOTA", "INFERENCE")}
    stopping = {"DRAIN_SECONDS": "0", "GRACE_SECONDS": "1"}
    command = [sys.executable, "-m", "services.gateway"]
    environment = bare_environment() | addresses | targets | stopping
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        try:
            yield process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics}/metrics"
        finally:
            process.kill()


@pytest.mark.long
async def test_requests_continue_and_every_log_record_is_written_or_counted(
    gateway: tuple[subprocess.Popen[bytes], str, str],
) -> None:
    process, url, metrics = gateway
    await ready.until(lambda: ready.http_answers(f"{url}/healthz"))
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:

        async def ask(requests: int) -> None:
            for _ in range(requests):
                assert (await client.get(f"{url}/api/v1/nothing")).status_code == 404

        async def dropped() -> int:
            text = (await client.get(metrics)).text
            return int(float(re.findall(r"^stack_log_records_dropped_total (\S+)$", text, re.MULTILINE)[0]))

        await ask(_REQUESTS)
        assert await dropped() == 0
        await ask(_FLOOD)
        lost = await dropped()
        assert lost > 0
        process.terminate()
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr]
    requests = [line for line in lines if line["message"] == "request"]
    reported = sum(line["records"] for line in lines if line["message"].startswith("Log records dropped"))
    assert len(requests) + lost >= _REQUESTS + _FLOOD
    assert reported >= lost
    assert process.wait(timeout=10) == 0


@pytest.mark.long
def test_a_service_whose_output_is_never_read_still_exits(
    gateway: tuple[subprocess.Popen[bytes], str, str],
) -> None:
    process, url, _ = gateway
    assert process.stderr is not None
    with httpx.Client(trust_env=False, timeout=10, transport=httpx.HTTPTransport(retries=50)) as client:
        for _ in range(_REQUESTS):
            client.get(f"{url}/api/v1/nothing")
    process.terminate()
    assert process.wait(timeout=20) == 0
    assert os.read(process.stderr.fileno(), 1)
