"""gRPC service OperatorUsageService: what the operators' console reads of the ledger and of Groq's keys."""

from datetime import date, timedelta
from typing import Protocol

from services.common.errors import InvalidRequest
from services.common.limits import Unit
from services.common.rpc.types import Context
from services.common.runtime.clock import Clock
from services.common.timestamps import timestamp
from services.inference import translate
from services.inference.ledger.checks import check_day, check_required_id
from services.inference.ledger.writer import AccountUsage, UsageSummary
from services.inference.operators.groq_keys import GroqKey, GroqKeys
from stack.inference.v1 import operators_pb2, operators_pb2_grpc

_DAYS_MAX = 31
_ACCOUNTS_DEFAULT, _ACCOUNTS_MAX = 20, 100
_ORDERS = {
    operators_pb2.USAGE_ORDER_UNSPECIFIED: Unit.REQUESTS,
    operators_pb2.USAGE_ORDER_REQUESTS: Unit.REQUESTS,
    operators_pb2.USAGE_ORDER_TOKENS: Unit.TOKENS,
    operators_pb2.USAGE_ORDER_COST: Unit.COST,
}


class AccountLedger(Protocol):
    """Port to the ledger's sums. Methods raise `Unavailable` when it cannot be reached."""

    async def top_accounts(self, from_day: str, to_day: str, order: Unit, *, limit: int) -> list[AccountUsage]:
        """Return the accounts with the most usage."""

    async def summarize(self, key_id: str, *, account_id: str, from_day: str, to_day: str) -> list[UsageSummary]:
        """Return sums by day and model, newest day first."""


class OperatorUsageService(operators_pb2_grpc.OperatorUsageServiceServicer):
    """Serves the operators' console, which authenticates operators with auth."""

    def __init__(self, ledger: AccountLedger, groq_keys: GroqKeys, clock: Clock) -> None:
        self._ledger = ledger
        self._groq_keys = groq_keys
        self._clock = clock

    async def ListTopAccounts(
        self, request: operators_pb2.ListTopAccountsRequest, context: Context
    ) -> operators_pb2.ListTopAccountsResponse:
        """Return the accounts with the most usage."""
        _check_days(request.from_day, request.to_day)
        if not 0 <= request.page_size <= _ACCOUNTS_MAX:
            raise InvalidRequest(f"page_size: expected 1 to {_ACCOUNTS_MAX}, or 0 for {_ACCOUNTS_DEFAULT}")
        order = _ORDERS.get(request.order)
        if order is None:
            raise InvalidRequest("order: expected a value that this version of inference knows")
        limit = request.page_size or _ACCOUNTS_DEFAULT
        found = await self._ledger.top_accounts(request.from_day, request.to_day, order, limit=limit)
        return operators_pb2.ListTopAccountsResponse(accounts=map(_account_usage, found))

    async def SummarizeAccountUsage(
        self, request: operators_pb2.SummarizeAccountUsageRequest, context: Context
    ) -> operators_pb2.SummarizeAccountUsageResponse:
        """Return the sums of an account by day and model."""
        check_required_id("account_id", request.account_id)
        _check_days(request.from_day, request.to_day)
        found = await self._ledger.summarize(
            "", account_id=request.account_id, from_day=request.from_day, to_day=request.to_day
        )
        return operators_pb2.SummarizeAccountUsageResponse(summaries=map(translate.usage_summary, found))

    async def ListGroqKeys(
        self, request: operators_pb2.ListGroqKeysRequest, context: Context
    ) -> operators_pb2.ListGroqKeysResponse:
        """Return the state of each Groq key."""
        return operators_pb2.ListGroqKeysResponse(
            keys=map(_groq_key, self._groq_keys.read()),
            is_shared=self._groq_keys.is_shared,
            at=timestamp(self._clock.now()),
        )


def _check_days(from_day: str, to_day: str) -> None:
    """Validate a range of days.

    Raises:
        InvalidRequest: One is not a date, or the range is empty or too long.
    """
    check_day("from_day", from_day)
    check_day("to_day", to_day)
    days = date.fromisoformat(to_day) - date.fromisoformat(from_day)
    if not timedelta() <= days < timedelta(days=_DAYS_MAX):
        raise InvalidRequest(f"from_day, to_day: expected 1 to {_DAYS_MAX} days, in order")


def _account_usage(usage: AccountUsage) -> operators_pb2.AccountUsage:
    return operators_pb2.AccountUsage(
        account_id=usage.account_id,
        charged_requests=usage.charged_requests,
        released_requests=usage.released_requests,
        total_tokens=usage.total_tokens,
        cost=usage.cost,
    )


def _groq_key(key: GroqKey) -> operators_pb2.GroqKey:
    return operators_pb2.GroqKey(
        number=key.number,
        state=translate.dependency_state(key.state),
        is_usable=key.is_usable,
        cooldowns=key.cooldowns,
        allowances=[
            operators_pb2.Allowance(model=one.model, window=one.window, limit=one.limit, left=one.left)
            for one in key.allowances
        ],
    )
