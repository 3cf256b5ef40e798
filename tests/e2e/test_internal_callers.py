"""Internal programs call auth, quota and inference directly: the documented example, and reflection."""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from examples import internal_caller
from services.common.errors import ErrorDetails, InvalidRequest
from services.common.rpc.status import to_status
from services.common.verdict import Verdict
from stack.common.v1.verdict_pb2 import VERDICT_RELEASED
from stack.inference.v1 import inference_pb2, inference_pb2_grpc
from stack.quota.v1 import quota_pb2, quota_pb2_grpc
from tests.certificates import Issued
from tests.e2e.stack import EMAIL, Key, Stack, stack_folder
from tests.integration.test_mtls import Secured

_EXAMPLE = Path(internal_caller.__file__)
_CALLED = ("stack.auth.v1.AuthService", "stack.quota.v1.QuotaService", "stack.inference.v1.InferenceService")


def _run(targets: dict[str, str], secret: str, *options: object) -> subprocess.CompletedProcess[str]:
    where = [word for name, target in targets.items() for word in (f"--{name}", target)]
    command = [sys.executable, str(_EXAMPLE), secret, *where, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def _assert_answered(done: subprocess.CompletedProcess[str], prompt: str) -> None:
    assert done.returncode == 0, done.stderr
    for reported in (
        *("auth: SERVING", "quota: SERVING", "inference: SERVING", prompt),
        "verdict: VERDICT_CHARGED; used today: 1, held: 0",
        "tokens of llama-3.1-8b-instant",
        "refused: INVALID_ARGUMENT, reason ",
    ):
        assert reported in done.stdout, done.stdout


def _targets(stack: Stack) -> dict[str, str]:
    return {name: stack.socket(name) for name in ("auth", "quota", "inference")}


def test_the_example_is_answered_counted_and_settled(stack: Stack, key: Key) -> None:
    done = _run(_targets(stack), key.secret, "--prompt", "Who calls?")
    _assert_answered(done, "Who calls?")
    assert stack.counters(key) == (1, 0)
    (row,) = stack.ledger(key)
    assert (row["outcome"], row["charged"]) == ("answered", 1)


def test_a_chat_that_fails_is_settled_by_the_verdict_of_its_error(stack: Stack, key: Key) -> None:
    done = _run(_targets(stack), key.secret, "--prompt", "[[standin:400]]")
    assert "verdict: VERDICT_RELEASED; used today: 0, held: 0" in done.stdout, done.stdout


def test_an_invalid_key_is_an_answer(stack: Stack) -> None:
    done = _run(_targets(stack), "sk_stk_none")
    assert (done.returncode, done.stderr) == (1, "key refused: DENIAL_REASON_UNKNOWN\n")


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    """Yield a stack over mTLS that accepts the identity `billing` in addition to its own."""
    with stack_folder() as folder:
        stack = Secured(folder)
        stack.environment["TLS_CALLERS"] = json.dumps({service: ["billing.stack.internal"] for service in _CALLED})
        try:
            stack.start_all()
            stack.stackctl("accounts", "create", "--email", EMAIL)
            yield stack
        finally:
            stack.stop_all()


@pytest.fixture(scope="module")
def secret(secured: Secured) -> str:
    """Return a key of the secured stack."""
    made = json.loads(secured.stackctl("keys", "create", "--email", EMAIL, "--name", "internal", "--json"))
    return str(made["key"])


def _files(issued: Issued) -> list[object]:
    files = issued.files
    return ["--certificate", files.certificate, "--key", files.key, "--authorities", files.authorities]


@pytest.mark.xdist_group("mtls")
def test_the_example_works_over_mtls(secured: Secured, secret: str) -> None:
    _assert_answered(_run(secured.targets, secret, *_files(secured.callers["billing"])), "Say hello")


@pytest.mark.xdist_group("mtls")
def test_the_example_is_refused_without_a_certificate_and_with_an_unexpected_one(
    secured: Secured, secret: str, tmp_path: Path
) -> None:
    other = Issued(tmp_path, "unexpected").issue(secured.authority)
    assert "UNAVAILABLE" in _run(secured.targets, secret).stderr
    refused = _run(secured.targets, secret, *_files(other)).stderr
    assert "does not accept calls from unexpected.stack.internal" in refused


class _Shaky:
    """Quota and inference that are unavailable at each first attempt."""

    def __init__(self) -> None:
        self.tries: list[str] = []
        self.server = aio.server()
        for service, method in (("quota.v1.Quota", "GetStatus"), ("inference.v1.Inference", "CreateChatCompletion")):
            handler: Any = grpc.unary_unary_rpc_method_handler(partial(self._answer, method))
            handlers = grpc.method_handlers_generic_handler(f"stack.{service}Service", {method: handler})
            self.server.add_generic_rpc_handlers((handlers,))
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    async def _answer(self, method: str, request: bytes, context: Any) -> bytes:
        self.tries.append(method)
        if self.tries.count(method) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away for a moment")
        return b""


async def test_the_example_retries_idempotent_calls_and_never_a_chat() -> None:
    shaky = _Shaky()
    await shaky.server.start()
    async with internal_caller.connect(shaky.target, "quota", Namespace(certificate=None)) as channel:
        await quota_pb2_grpc.QuotaServiceStub(channel).GetStatus(quota_pb2.GetStatusRequest(), timeout=5)
        chat = inference_pb2.CreateChatCompletionRequest()
        with pytest.raises(aio.AioRpcError, match="away for a moment"):
            await inference_pb2_grpc.InferenceServiceStub(channel).CreateChatCompletion(chat, timeout=5)
    await shaky.server.stop(None)
    assert shaky.tries == ["GetStatus", "GetStatus", "CreateChatCompletion"]


async def test_the_example_reads_the_verdict_of_an_error_of_any_length() -> None:
    """By default a gRPC client refuses more than 8 KB of metadata, at random up to 16 KB."""

    async def fail(request: bytes, context: Any) -> bytes:
        long = "🎉" * 300_000
        details = ErrorDetails(param=long, code=long, failed_generation=long, verdict=Verdict.RELEASED)
        await context.abort_with_status(to_status(InvalidRequest(long, reason=long, details=details)))
        return b""

    server = aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(fail)
    name = "stack.inference.v1.InferenceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"CreateChatCompletion": handler}),))
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with internal_caller.connect(target, "inference", Namespace(certificate=None)) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for _ in range(20):
            with pytest.raises(aio.AioRpcError) as failed:
                await stub.CreateChatCompletion(inference_pb2.CreateChatCompletionRequest(), timeout=5)
            details = internal_caller.error_details(failed.value)
            assert (failed.value.code(), details.verdict) == (grpc.StatusCode.INVALID_ARGUMENT, VERDICT_RELEASED)
    await server.stop(None)


@pytest.mark.parametrize(
    ("server", "services"),
    [
        (
            "auth",
            [
                "AccountService",
                "AccountSessionService",
                "AlertService",
                "AuditService",
                "AuthService",
                "IdentityService",
                "KeyService",
                "MailService",
                "OperatorService",
                "OperatorSessionService",
                "OwnerAlertService",
                "OwnerService",
                "PlanEventService",
                "PlanService",
                "SessionService",
                "TOTPService",
            ],
        ),
        ("quota", ["QuotaService"]),
        (
            "inference",
            [
                "IdempotencyService",
                "InferenceService",
                "OperatorUsageService",
                "ReceiptService",
                "StoredResponseService",
                "UsageAlertService",
                "UsageExportService",
                "UsageService",
                "UsageWebhookService",
            ],
        ),
    ],
)
def test_reflection_lists_every_service(stack: Stack, server: str, services: list[str]) -> None:
    with grpc.insecure_channel(stack.socket(server)) as channel:
        listed = ProtoReflectionDescriptorDatabase(channel).get_services()
    ours = sorted(name for name in listed if name.startswith("stack."))
    own = [f"stack.{server}.v1.{service}" for service in services]
    assert ours == sorted([*own, "stack.common.v1.StatusService"])
    assert set(listed) - set(ours) == {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


def test_a_caller_without_stubs_can_call_by_reflection(stack: Stack, key: Key) -> None:
    """Call like grpcurl: descriptors from the server, JSON in, JSON out."""
    with grpc.insecure_channel(stack.socket("quota")) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName("stack.quota.v1.QuotaService").FindMethodByName("GetStatus")
        request = json_format.ParseDict({"key_ids": [key.id]}, GetMessageClass(method.input_type)())
        answered = GetMessageClass(method.output_type).FromString
        call = channel.unary_unary("/stack.quota.v1.QuotaService/GetStatus", type(request).SerializeToString, answered)
        (status,) = json_format.MessageToDict(call(request, timeout=5))["statuses"]
    assert status["resetAt"].endswith("T00:00:00Z")


def test_a_caller_without_stubs_reads_the_details_of_an_error(stack: Stack) -> None:
    """What grpcurl prints: the details' type comes from the server too."""
    with grpc.insecure_channel(stack.socket("quota")) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        call: Any = channel.unary_unary("/stack.quota.v1.QuotaService/GetStatus")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=5)
        (packed,) = rpc_status.from_call(refused.value).details  # type: ignore[arg-type]
        details = GetMessageClass(pool.FindMessageTypeByName(packed.TypeName()))()
    assert packed.Unpack(details)
    assert json_format.MessageToDict(details) == {"reason": "invalid_request"}
