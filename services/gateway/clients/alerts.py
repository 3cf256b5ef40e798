"""gRPC clients of alerts: records in auth, active keys and webhooks in inference."""

from collections.abc import Collection, Sequence

from grpc import aio

from services.common.limits import Limit
from services.common.rpc.limits import limit_from_proto, limit_to_proto
from services.common.rpc.status import rpc_errors
from services.common.timestamps import timestamp, unix_seconds
from services.gateway.alerts.model import ActiveKey, Alert, AlertKind, AlertRun, Subject
from services.gateway.clients.auth import principal_of
from services.gateway.requests.types import RateLimit
from stack.auth.v1 import alerts_pb2, alerts_pb2_grpc
from stack.inference.v1 import alerts_pb2 as inference_pb2
from stack.inference.v1 import alerts_pb2_grpc as inference_pb2_grpc

ALERT_SECONDS_MAX = 5.0
KINDS = {
    AlertKind.LIMIT_80: alerts_pb2.ALERT_KIND_LIMIT_80,
    AlertKind.LIMIT_100: alerts_pb2.ALERT_KIND_LIMIT_100,
    AlertKind.EXPIRY: alerts_pb2.ALERT_KIND_EXPIRY,
    AlertKind.IDLE: alerts_pb2.ALERT_KIND_IDLE,
}
KIND_OF: dict[int, AlertKind] = {value: kind for kind, value in KINDS.items()}


class GrpcAlertRecords:
    """`AlertRecords` over gRPC."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Call auth over `channel`, with a timeout for each call."""
        self._stub = alerts_pb2_grpc.AlertServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def begin_run(self, interval_seconds: int) -> AlertRun | None:
        """Return the next run; see `AlertRecords.begin_run`."""
        request = alerts_pb2.BeginAlertRunRequest(interval_seconds=interval_seconds)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.BeginAlertRun(request, timeout=self._timeout_seconds)
        return AlertRun(answer.run_id, unix_seconds(answer.since)) if answer.run_id else None

    async def end_run(self, run_id: str, *, is_complete: bool) -> None:
        """End a run; see `AlertRecords.end_run`."""
        request = alerts_pb2.EndAlertRunRequest(run_id=run_id, complete=is_complete)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            await self._stub.EndAlertRun(request, timeout=self._timeout_seconds)

    async def subjects(self, key_ids: Sequence[str]) -> Sequence[Subject]:
        """Return the keys about which alerts are wanted."""
        request = alerts_pb2.ListAlertSubjectsRequest(key_ids=key_ids)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.ListAlertSubjects(request, timeout=self._timeout_seconds)
        return [Subject(principal_of(one.principal), unix_seconds(one.created_at)) for one in answer.subjects]

    async def record(self, alerts: Sequence[Alert]) -> None:
        """Record alerts that are wanted and new."""
        request = alerts_pb2.RecordAlertsRequest(alerts=map(_message, alerts))
        with rpc_errors(unavailable_reason="auth_unavailable"):
            await self._stub.RecordAlerts(request, timeout=self._timeout_seconds)

    async def unsent(self) -> Sequence[Alert]:
        """Return some alerts for webhooks."""
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.ListUnsentAlerts(
                alerts_pb2.ListUnsentAlertsRequest(), timeout=self._timeout_seconds
            )
        return [_alert(one) for one in answer.alerts if one.kind in KIND_OF]

    async def confirm(self, ids: Collection[str]) -> None:
        """Record that inference has alerts."""
        with rpc_errors(unavailable_reason="auth_unavailable"):
            await self._stub.ConfirmAlerts(alerts_pb2.ConfirmAlertsRequest(ids=ids), timeout=self._timeout_seconds)


class GrpcAlertUsage:
    """`AlertUsage` over gRPC."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Call inference over `channel`, with a timeout for each call."""
        self._stub = inference_pb2_grpc.UsageAlertServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def active_keys(self, since: float, *, after: str, count: int) -> Sequence[ActiveKey]:
        """Return a page of the keys that were used since a time, by id."""
        request = inference_pb2.ListActiveKeysRequest(since=timestamp(since), after=after, page_size=count)
        with rpc_errors(unavailable_reason="inference_unavailable"):
            answer = await self._stub.ListActiveKeys(request, timeout=self._timeout_seconds)
        return [ActiveKey(one.key_id, one.previous_day, one.first_day) for one in answer.keys]

    async def send(self, account_id: str, alert_id: str, body: bytes) -> None:
        """Hand over an alert for the account's webhook."""
        request = inference_pb2.SendAlertRequest(account_id=account_id, alert_id=alert_id, body_json=body)
        with rpc_errors(unavailable_reason="inference_unavailable"):
            await self._stub.SendAlert(request, timeout=self._timeout_seconds)


def _message(alert: Alert) -> alerts_pb2.Alert:
    limit = alert.limit
    return alerts_pb2.Alert(
        account_id=alert.account_id,
        key_id=alert.key_id,
        kind=KINDS[alert.kind],
        period=alert.period,
        limit=limit_to_proto(Limit(limit.scope, limit.unit, limit.window, limit.limit)) if limit else None,
        used=limit.charged if limit else 0,
    )


def _alert(message: alerts_pb2.Alert) -> Alert:
    limit = limit_from_proto(message.limit) if message.HasField("limit") else None
    counts = RateLimit(limit.limit, message.used, 0, 0.0, limit.scope, limit.unit, limit.window) if limit else None
    return Alert(
        message.account_id,
        message.key_id,
        KIND_OF[message.kind],
        message.period,
        counts,
        id=message.id,
        key_name=message.key_name,
        created_at=unix_seconds(message.created_at),
    )
