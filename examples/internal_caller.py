"""An internal program that calls auth, quota and inference directly over gRPC, without the gateway.

    python examples/internal_caller.py sk_stk_…

looks up the account of that key, reserves one of its slots, streams an answer, settles the slot by inference's verdict,
and shows what an error looks like. With three certificate files it uses mTLS. It needs `grpcio`,
`grpcio-health-checking`, `grpcio-status` and the stubs in `gen/`; nothing of `services/`. docs/internal-callers.md
explains it.
"""

import argparse
import asyncio
import json
import sys
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from stack.auth.v1 import auth_pb2, auth_pb2_grpc
from stack.common.v1 import error_details_pb2, limits_pb2, verdict_pb2
from stack.inference.v1 import chat_pb2, inference_pb2, inference_pb2_grpc
from stack.quota.v1 import quota_pb2, quota_pb2_grpc

Verdict: TypeAlias = "verdict_pb2.Verdict.ValueType"

SERVICES = ("auth", "quota", "inference")
CALL_SECONDS = 2.0
CHAT_SECONDS = 305.0
"""A little more than REQUEST_TIMEOUT_SECONDS, so that inference's verdict arrives."""
METADATA_BYTES_MAX = 64 * 1024
"""Errors travel in metadata. gRPC's defaults, 8 and 16 KiB, are too small for some of them."""

# Calls that may be retried. Do not add chats: Groq would be called, and paid, twice.
IDEMPOTENT = (
    ("stack.auth.v1.AuthService", "Authenticate"),
    ("stack.quota.v1.QuotaService", "Reserve"),
    ("stack.quota.v1.QuotaService", "Settle"),
    ("stack.quota.v1.QuotaService", "GetStatus"),
    ("stack.inference.v1.InferenceService", "ListModels"),
    ("grpc.health.v1.Health", "Check"),
)
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": service, "method": method} for service, method in IDEMPOTENT],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}


def connect(target: str, service: str, arguments: argparse.Namespace) -> aio.Channel:
    """Return a channel to a service: over mTLS if there are certificate files, otherwise in plaintext."""
    options = [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    ]
    if arguments.certificate is None:
        return aio.insecure_channel(target, options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=arguments.authorities.read_bytes(),
        private_key=arguments.key.read_bytes(),
        certificate_chain=arguments.certificate.read_bytes(),
    )
    # The certificate has the service's own name, whatever address was dialled.
    named = ("grpc.ssl_target_name_override", f"{service}.stack.internal")
    return aio.secure_channel(target, credentials, [*options, named])


def error_details(error: aio.AioRpcError) -> error_details_pb2.ErrorDetails:
    """Return the details of a failed call: its reason, and the verdict of a chat. Empty if no service sent the error.

    Without a verdict, it is unknown whether the chat is charged.
    """
    details = error_details_pb2.ErrorDetails()
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for packed in status.details if status else ():
        if packed.Unpack(details):
            break
    return details


async def check_health(name: str, channel: aio.Channel) -> None:
    """Print whether a service accepts calls."""
    health = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)  # type: ignore[attr-defined]
    print(f"{name}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")


async def authenticate(channel: aio.Channel, secret: str) -> auth_pb2.Principal:
    """Return the principal of a key; a bad key is a response, not an error."""
    request = auth_pb2.AuthenticateRequest(api_key=secret)
    answer = await auth_pb2_grpc.AuthServiceStub(channel).Authenticate(request, timeout=CALL_SECONDS)
    if answer.HasField("denial"):
        sys.exit(f"key refused: {auth_pb2.DenialReason.Name(answer.denial.reason)}")
    print(f"key: {answer.principal.key_id} of {answer.principal.account_id}")
    return answer.principal


async def reserve(channel: aio.Channel, principal: auth_pb2.Principal) -> inference_pb2.RequestContext:
    """Reserve a slot of the key and its account; return the context that connects the request with it."""
    reservation = quota_pb2.Reservation(
        request_id=f"req_{uuid.uuid4().hex}",
        key_id=principal.key_id,
        account_id=principal.account_id,
        limit=principal.daily_limit,
    )
    if principal.HasField("account_daily_limit"):
        reservation.limits.add(
            scope=limits_pb2.SCOPE_ACCOUNT,
            unit=limits_pb2.UNIT_REQUESTS,
            window=limits_pb2.WINDOW_DAY,
            limit=principal.account_daily_limit,
        )
    reservation.limits.extend(principal.limits)
    request = quota_pb2.ReserveRequest(reservations=[reservation])
    answer = await quota_pb2_grpc.QuotaServiceStub(channel).Reserve(request, timeout=CALL_SECONDS)
    (result,) = answer.results
    if result.outcome != quota_pb2.RESERVE_OUTCOME_HELD:
        sys.exit(f"no slot: {quota_pb2.ReserveOutcome.Name(result.outcome)}, {result.status.charged} used today")
    return inference_pb2.RequestContext(
        request_id=reservation.request_id,
        account_id=reservation.account_id,
        key_id=reservation.key_id,
        day=result.status.day,
        reserved_at=result.reserved_at,
        models=principal.models,
    )


async def settle(channel: aio.Channel, context: inference_pb2.RequestContext, verdict: Verdict) -> None:
    """Close the hold with inference's verdict. Without a verdict leave it: quota's sweeper reads the ledger."""
    if verdict == verdict_pb2.VERDICT_UNSPECIFIED:
        return
    settlement = quota_pb2.Settlement(
        request_id=context.request_id,
        key_id=context.key_id,
        account_id=context.account_id,
        day=context.day,
        verdict=verdict,
    )
    quota = quota_pb2_grpc.QuotaServiceStub(channel)
    await quota.Settle(quota_pb2.SettleRequest(settlements=[settlement]), timeout=CALL_SECONDS)
    request = quota_pb2.GetStatusRequest(key_ids=[context.key_id], account_ids=[context.account_id])
    answer = await quota.GetStatus(request, timeout=CALL_SECONDS)
    (status,) = answer.statuses
    print(f"verdict: {verdict_pb2.Verdict.Name(verdict)}; used today: {status.charged}, held: {status.held}")


async def show_stream(
    channel: aio.Channel, context: inference_pb2.RequestContext, chat: chat_pb2.ChatRequest
) -> Verdict:
    """Print an answer as it is generated; return the verdict of its last message, or of the error.

    Stopping early is still charged: inference reads Groq to the end.
    """
    request = inference_pb2.StreamChatCompletionRequest(context=context, chat=chat)
    verdict: Verdict = verdict_pb2.VERDICT_UNSPECIFIED
    try:
        async for message in inference_pb2_grpc.InferenceServiceStub(channel).StreamChatCompletion(
            request, timeout=CHAT_SECONDS
        ):
            print(*texts(message), sep="", end="", flush=True)
            verdict = message.verdict
    except aio.AioRpcError as error:
        print(f"cut: {error_details(error).reason}: {error.details()}")
        return error_details(error).verdict
    print()
    return verdict


def texts(message: inference_pb2.StreamChatCompletionResponse) -> Iterator[str]:
    """Yield the pieces of text in a message of a stream."""
    for chunk in message.chunks:
        yield from (choice.delta.content_text for choice in chunk.choices)


async def answer_of_a_batch_job(channel: aio.Channel, chat: chat_pb2.ChatRequest) -> None:
    """Get an answer without a key: it has its own ledger row and counts against no limit."""
    request = inference_pb2.CreateChatCompletionRequest(chat=chat)
    answer = await inference_pb2_grpc.InferenceServiceStub(channel).CreateChatCompletion(request, timeout=CHAT_SECONDS)
    usage = answer.completion.usage
    print(f"without a key: {usage.prompt_tokens} + {usage.completion_tokens} tokens of {answer.completion.model}")


async def show_refusal(channel: aio.Channel) -> None:
    """Send an empty request, to get a typed error."""
    try:
        await answer_of_a_batch_job(channel, chat_pb2.ChatRequest())
    except aio.AioRpcError as error:
        print(f"refused: {error.code().name}, reason {error_details(error).reason}: {error.details()}")


async def main() -> None:
    """Run each step once."""
    arguments = parse()
    chat = chat_pb2.ChatRequest(messages=[chat_pb2.ChatMessage(role="user", content_text=arguments.prompt)])
    async with AsyncExitStack() as channels:
        auth, quota, inference = [
            await channels.enter_async_context(connect(getattr(arguments, name), name, arguments)) for name in SERVICES
        ]
        for name, channel in zip(SERVICES, (auth, quota, inference), strict=True):
            await check_health(name, channel)
        context = await reserve(quota, await authenticate(auth, arguments.api_key))
        await settle(quota, context, await show_stream(inference, context, chat))
        await answer_of_a_batch_job(inference, chat)
        await show_refusal(inference)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("api_key", help="an API key, sk_stk_…")
    parser.add_argument("--prompt", default="Say hello in one sentence.")
    parser.add_argument("--auth", default="127.0.0.1:50051", help="address of auth; default: %(default)s")
    parser.add_argument("--quota", default="127.0.0.1:50052", help="address of quota; default: %(default)s")
    parser.add_argument("--inference", default="127.0.0.1:50053", help="address of inference; default: %(default)s")
    parser.add_argument("--certificate", type=Path, help="PEM file of this program's certificate, for mTLS")
    parser.add_argument("--key", type=Path, help="PEM file of its private key")
    parser.add_argument("--authorities", type=Path, help="PEM file of the trusted authorities")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
