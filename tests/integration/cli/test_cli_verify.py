"""`stackctl verify` reports whether the two records agree, as text and by its exit code."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from grpc import aio

from services.common.errors import Unavailable
from services.common.rpc.interceptors import ServiceInterceptor
from services.common.rpc.types import Context
from stack.common.v1 import limits_pb2
from stack.quota.v1 import quota_pb2, quota_pb2_grpc
from tests.e2e.stack import Stack, running_stack, say
from tests.forked import run_module
from tests.integration.auth_process import environment


@dataclass
class Quota(quota_pb2_grpc.QuotaServiceServicer):
    """Answers with a report set by the test."""

    report: quota_pb2.VerifyResponse = field(default_factory=lambda: quota_pb2.VerifyResponse(key_days=12, held=2))
    is_down: bool = False

    async def Verify(self, request: quota_pb2.VerifyRequest, context: Context) -> quota_pb2.VerifyResponse:
        if self.is_down:
            raise Unavailable("quota cannot use Redis just now; try again")
        return self.report

    def found(
        self, kind: "quota_pb2.DiscrepancyKind.ValueType", *, charged: int, held: int, ledger_charged: int
    ) -> None:
        """Add a discrepancy to the report."""
        self.report.discrepancies_count += 1
        self.report.discrepancies.add(
            key_id="key_1", day="2026-11-22", kind=kind, charged=charged, held=held, ledger_charged=ledger_charged
        )


@dataclass(frozen=True, slots=True)
class Service:
    """A scripted quota service on a socket."""

    target: str
    quota: Quota


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    with tempfile.TemporaryDirectory(prefix="cli-", dir="/tmp") as folder:
        # The stubs are abstract in type only; a missing RPC answers UNIMPLEMENTED.
        service = Service(f"unix:{folder}/quota.sock", Quota())  # type: ignore[abstract]
        server = aio.server(interceptors=[ServiceInterceptor()])
        quota_pb2_grpc.add_QuotaServiceServicer_to_server(service.quota, server)
        server.add_insecure_port(service.target)
        await server.start()
        yield service
        await server.stop(0)


async def verify(target: str, *arguments: str) -> tuple[int, str, str]:
    """Run the command; return its exit code, standard output and standard error. It needs no admin token."""
    given = environment(Path("/nowhere"), {"QUOTA_TARGET": target})
    done = await asyncio.to_thread(run_module, "services.cli", "verify", *arguments, environment=given)
    return done.returncode, done.stdout, done.stderr


async def test_agreement_is_one_line_and_exits_with_0(service: Service) -> None:
    assert await verify(service.target) == (0, "12 counters agree; 2 requests in flight\n", "")


async def test_agreement_as_json_is_one_object_and_exits_with_0(service: Service) -> None:
    code, printed, said = await verify(service.target, "--json")

    assert (code, said) == (0, "")
    assert json.loads(printed) == {"ok": True, "key_days": 12, "held": 2, "discrepancies_count": 0, "disagreements": []}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("COUNTER_ABOVE_LEDGER", ["the ledger 3 charged rows:", "charged for requests that are not in the ledger"]),
        ("COUNTER_BELOW_LEDGER", ["the ledger 3 charged rows older than", "has requests that are not counted"]),
        ("HOLD_OVERDUE", ["in flight for too long"]),
        ("OVER_LIMIT", ["exceed the highest limit of the key on that day"]),
    ],
)
async def test_a_discrepancy_is_one_line_with_both_records_and_its_meaning_and_exits_with_1(
    service: Service, kind: str, words: list[str]
) -> None:
    value = quota_pb2.DiscrepancyKind.Value(f"DISCREPANCY_KIND_{kind}")
    service.quota.found(value, charged=5, held=1, ledger_charged=3)

    code, printed, said = await verify(service.target)

    assert (code, said) == (1, "")
    (line,) = printed.splitlines()
    assert line.startswith("key_1 on 2026-11-22: Redis has 5 charged and 1 in flight, the ledger 3 charged rows")
    assert all(one in line for one in words), line


async def test_a_discrepancy_of_another_unit_names_it_and_its_window(service: Service) -> None:
    kind = quota_pb2.DISCREPANCY_KIND_COUNTER_ABOVE_LEDGER
    service.quota.found(kind, charged=5, held=1, ledger_charged=3)
    (discrepancy,) = service.quota.report.discrepancies
    discrepancy.unit, discrepancy.window = limits_pb2.UNIT_COST, limits_pb2.WINDOW_MONTH

    _, printed, _ = await verify(service.target)

    assert printed.startswith("key_1, cost of the month from 2026-11-22: Redis has 5 charged and 1 in flight,")
    assert "the ledger 3 cost of charged rows" in printed


async def test_discrepancies_as_json_are_listed_and_exit_with_1(service: Service) -> None:
    service.quota.found(quota_pb2.DISCREPANCY_KIND_OVER_LIMIT, charged=5, held=1, ledger_charged=3)
    service.quota.found(99, charged=0, held=0, ledger_charged=0)  # type: ignore[arg-type]

    code, printed, _ = await verify(service.target, "--json")

    first = {
        "account_id": "",
        "key_id": "key_1",
        "day": "2026-11-22",
        "kind": "over_limit",
        "charged": 5,
        "held": 1,
        "ledger_charged": 3,
        "unit": "requests",
        "window": "day",
    }
    second = {**first, "kind": "unknown_99", "charged": 0, "held": 0, "ledger_charged": 0}
    assert code == 1
    assert json.loads(printed) == {
        "ok": False,
        "key_days": 12,
        "held": 2,
        "discrepancies_count": 2,
        "disagreements": [first, second],
    }


async def test_discrepancies_beyond_the_report_are_counted(service: Service) -> None:
    service.quota.found(quota_pb2.DISCREPANCY_KIND_OVER_LIMIT, charged=5, held=1, ledger_charged=3)
    service.quota.report.discrepancies_count = 1_235

    _, printed, _ = await verify(service.target)

    assert printed.splitlines()[-1] == "and 1,234 more"


async def test_an_unknown_kind_from_a_newer_quota_is_still_a_discrepancy(service: Service) -> None:
    service.quota.found(99, charged=5, held=1, ledger_charged=3)  # type: ignore[arg-type]

    code, printed, _ = await verify(service.target)

    assert code == 1
    assert "key_1 on 2026-11-22" in printed
    assert "does not support" in printed


async def test_a_failing_quota_exits_with_1_and_an_unavailable_one_with_3(service: Service) -> None:
    service.quota.is_down = True
    assert await verify(service.target) == (1, "", "stackctl: quota cannot use Redis just now; try again\n")

    code, printed, said = await verify("127.0.0.1:1")
    assert (code, printed) == (3, "")
    assert "The quota service does not respond at 127.0.0.1:1. Start it, or set QUOTA_TARGET" in said


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """Yield a running stack that this test may damage."""
    with running_stack(workers=1) as stack:
        yield stack


async def test_a_real_stack_agrees_until_a_counter_is_tampered_with(own_stack: Stack) -> None:
    key = await own_stack.create_key()
    async with httpx.AsyncClient(base_url=own_stack.base_url, trust_env=False, timeout=20) as http:
        for _ in range(3):
            assert (await http.post("/api/v1/chat", headers=key.headers, json=say("hi"))).status_code == 200
    await own_stack.until_settled(key)
    target = own_stack.settings.quota_listen
    assert await verify(target) == (0, "2 counters agree; 0 requests in flight\n", "")

    redis = own_stack.redis()
    (name,) = redis.scan_iter(match=f"quota:*:account:{key.account_id}:*")
    redis.hincrby(name, f"{key.id}:requests", 2)
    redis.close()

    code, printed, _ = await verify(target)
    assert code == 1
    assert f"{key.id} on " in printed
    assert "Redis has 5 charged and 0 in flight, the ledger 3 charged rows" in printed
