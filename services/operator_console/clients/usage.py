"""gRPC client of inference's OperatorUsageService."""

from collections.abc import Sequence
from datetime import date

from grpc import aio

from services.common.rpc.status import rpc_errors
from services.common.timestamps import unix_seconds
from services.operator_console.model import AccountUsage, Allowance, GroqKey, GroqKeys, ModelUsage, Usage
from stack.inference.v1 import inference_pb2, operators_pb2, operators_pb2_grpc, usage_pb2

ORDERS = {
    "requests": operators_pb2.USAGE_ORDER_REQUESTS,
    "tokens": operators_pb2.USAGE_ORDER_TOKENS,
    "cost": operators_pb2.USAGE_ORDER_COST,
}
_STATES = {
    inference_pb2.DEPENDENCY_STATE_OK: "ok",
    inference_pb2.DEPENDENCY_STATE_REJECTED: "rejected",
    inference_pb2.DEPENDENCY_STATE_UNREACHABLE: "unreachable",
}


class UsageClient:
    """Reads usage and the state of Groq's keys."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Call over `channel`, with a timeout of `timeout_seconds` per call."""
        self._stub = operators_pb2_grpc.OperatorUsageServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def top_accounts(self, first: date, last: date, order: str, *, limit: int) -> Sequence[AccountUsage]:
        """Return the accounts with the most requests, tokens or cost."""
        request = operators_pb2.ListTopAccountsRequest(
            from_day=first.isoformat(), to_day=last.isoformat(), order=ORDERS[order], page_size=limit
        )
        with rpc_errors(unavailable_reason="inference_unavailable"):
            answer = await self._stub.ListTopAccounts(request, timeout=self._timeout_seconds)
        return [AccountUsage(one.account_id, _usage(one)) for one in answer.accounts]

    async def of_account(self, account_id: str, first: date, last: date) -> Sequence[ModelUsage]:
        """Return the usage of an account by day and model, newest day first."""
        request = operators_pb2.SummarizeAccountUsageRequest(
            account_id=account_id, from_day=first.isoformat(), to_day=last.isoformat()
        )
        with rpc_errors(unavailable_reason="inference_unavailable"):
            answer = await self._stub.SummarizeAccountUsage(request, timeout=self._timeout_seconds)
        return [ModelUsage(one.day, one.model, _usage(one)) for one in answer.summaries]

    async def groq_keys(self) -> GroqKeys:
        """Return the state of Groq's keys, as the replica that answers knows it."""
        request = operators_pb2.ListGroqKeysRequest()
        with rpc_errors(unavailable_reason="inference_unavailable"):
            answer = await self._stub.ListGroqKeys(request, timeout=self._timeout_seconds)
        return GroqKeys([_groq_key(one) for one in answer.keys], answer.is_shared, unix_seconds(answer.at))


def _usage(message: operators_pb2.AccountUsage | usage_pb2.UsageSummary) -> Usage:
    cost = message.cost if message.HasField("cost") else None
    return Usage(message.charged_requests, message.released_requests, message.total_tokens, cost)


def _groq_key(message: operators_pb2.GroqKey) -> GroqKey:
    return GroqKey(
        number=message.number,
        state=_STATES.get(message.state, "unchecked"),
        is_usable=message.is_usable,
        cooldowns=message.cooldowns,
        allowances=[Allowance(one.model, one.window, one.limit, one.left) for one in message.allowances],
    )
