"""`stackctl usage` combines data of three services."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from services.common.errors import NotFound, Unavailable
from services.common.rpc.interceptors import ServiceInterceptor
from services.common.rpc.types import Context
from stack.auth.v1 import keys_pb2, keys_pb2_grpc
from stack.common.v1 import surface_pb2
from stack.inference.v1 import usage_pb2, usage_pb2_grpc
from stack.quota.v1 import quota_pb2, quota_pb2_grpc
from tests.forked import run_module
from tests.integration.auth_process import environment

MIDNIGHT = Timestamp()
MIDNIGHT.FromJsonString("2026-08-08T00:00:00Z")
TOKENS: dict[str, Any] = {
    "prompt_tokens": 10,
    "completion_tokens": 20,
    "total_tokens": 30,
    "cached_tokens": 4,
    "reasoning_tokens": 5,
}

_KEY = "key_01KBC000000000000000000000"


class Keys(keys_pb2_grpc.KeyServiceServicer):
    """Holds one key."""

    async def GetKey(self, request: keys_pb2.GetKeyRequest, context: Context) -> keys_pb2.GetKeyResponse:
        if request.key_id != _KEY:
            raise NotFound(f"no key {request.key_id}")
        return keys_pb2.GetKeyResponse(key=keys_pb2.Key(id=_KEY, daily_limit=10))


@dataclass
class Quota(quota_pb2_grpc.QuotaServiceServicer):
    """Answers with a counter set by the test."""

    charged: int = 3
    is_down: bool = False

    async def GetStatus(self, request: quota_pb2.GetStatusRequest, context: Context) -> quota_pb2.GetStatusResponse:
        if self.is_down:
            raise Unavailable("quota cannot use Redis just now; try again")
        status = quota_pb2.DayStatus(day="2026-08-07", charged=self.charged, held=2, reset_at=MIDNIGHT)
        return quota_pb2.GetStatusResponse(statuses=[status])


class Usage(usage_pb2_grpc.UsageServiceServicer):
    """Answers with one day and records the request."""

    def __init__(self) -> None:
        self.asked = usage_pb2.SummarizeUsageRequest()

    async def SummarizeUsage(
        self, request: usage_pb2.SummarizeUsageRequest, context: Context
    ) -> usage_pb2.SummarizeUsageResponse:
        self.asked = request
        facts = {"day": "2026-08-07", "model": "llama", "released_requests": 1, **TOKENS}
        surfaces = (surface_pb2.SURFACE_RESPONSES, surface_pb2.SURFACE_UNSPECIFIED)
        return usage_pb2.SummarizeUsageResponse(
            summaries=[
                usage_pb2.UsageSummary(**facts, charged_requests=3, surface=surface, cost=cost)
                for surface, cost in zip(surfaces, (1_234, None), strict=True)
            ]
        )


@dataclass(frozen=True, slots=True)
class Services:
    """The three services, scripted on one socket."""

    target: str
    quota: Quota
    usage: Usage
    data_dir: Path

    async def stackctl(self, *arguments: str, **settings: str) -> tuple[int, str, str]:
        """Run a command and return its exit code, standard output and standard error."""
        targets = dict.fromkeys(("AUTH_TARGET", "QUOTA_TARGET", "INFERENCE_TARGET"), self.target)
        given = environment(self.data_dir, {"STACK_ADMIN_TOKEN": "any", **targets, **settings})
        done = await asyncio.to_thread(run_module, "services.cli", *arguments, environment=given)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    with tempfile.TemporaryDirectory(prefix="cli-", dir="/tmp") as folder:
        # The stubs are abstract in type only; a missing RPC answers UNIMPLEMENTED.
        keys, quota, usage = Keys(), Quota(), Usage()  # type: ignore[abstract]
        services = Services(f"unix:{folder}/all.sock", quota, usage, tmp_path)
        server = aio.server(interceptors=[ServiceInterceptor()])
        keys_pb2_grpc.add_KeyServiceServicer_to_server(keys, server)
        quota_pb2_grpc.add_QuotaServiceServicer_to_server(services.quota, server)
        usage_pb2_grpc.add_UsageServiceServicer_to_server(services.usage, server)
        server.add_insecure_port(services.target)
        await server.start()
        yield services
        await server.stop(0)


async def test_usage_as_json_has_today_and_the_days(services: Services) -> None:
    code, printed, said = await services.stackctl("usage", _KEY, "--json")

    assert (code, said) == (0, "")
    assert json.loads(printed) == {
        "key_id": _KEY,
        "today": {
            "day": "2026-08-07",
            "charged": 3,
            "held": 2,
            "limit": 10,
            "remaining": 5,
            "reset_at": "2026-08-08T00:00:00Z",
        },
        "days": [
            {
                "day": "2026-08-07",
                "model": "llama",
                "surface": surface,
                "charged_requests": 3,
                "released_requests": 1,
                **TOKENS,
                "cost_microdollars": cost,
                "cost_usd": shown,
            }
            for surface, cost, shown in (("responses", 1_234, "0.001234"), (None, None, None))
        ],
    }


async def test_usage_requests_the_number_of_days_that_was_given(services: Services) -> None:
    await services.stackctl("usage", _KEY, "--days", "7")

    assert (services.usage.asked.from_day, services.usage.asked.to_day) == ("2026-08-01", "2026-08-07")
    assert services.usage.asked.by_surface


async def test_a_limit_lowered_below_use_leaves_zero_remaining(services: Services) -> None:
    services.quota.charged = 50

    _, printed, _ = await services.stackctl("usage", _KEY, "--json")

    assert json.loads(printed)["today"]["remaining"] == 0


async def test_usage_as_text_is_aligned(services: Services) -> None:
    _, printed, _ = await services.stackctl("usage", _KEY)

    *_, heading, row, row_without_surface = printed.splitlines()
    assert "remaining  5" in printed
    assert heading.index("model") == row.index("llama") == row_without_surface.index("llama")
    assert heading.index("surface") == row.index("responses")
    assert "None" not in printed
    assert heading.split()[-2:] == ["reasoning_tokens", "cost_usd"]
    assert heading.index("reasoning_tokens") + len("reasoning_tokens") == row.index(" 5 ") + 2, "right-aligned"
    assert row.rstrip().endswith("0.001234")


async def test_a_failing_service_exits_with_1_and_an_unavailable_one_with_3(services: Services) -> None:
    code, printed, said = await services.stackctl("usage", _KEY, INFERENCE_TARGET="127.0.0.1:1")
    assert (code, printed) == (3, "")
    assert "The inference service does not respond at 127.0.0.1:1. Start it, or set INFERENCE_TARGET" in said

    services.quota.is_down = True
    assert await services.stackctl("usage", _KEY) == (
        1,
        "",
        "stackctl: quota cannot use Redis just now; try again\n",
    )
