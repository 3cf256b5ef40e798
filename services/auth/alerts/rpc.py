"""gRPC services AlertService, for gateways, and OwnerAlertService, for owners."""

from collections.abc import Iterable, Sequence
from typing import Any

from services.auth import messages
from services.auth.accounts.model import AccountId
from services.auth.alerts.model import Alert, AlertKind, AlertSettings, AlertStore
from services.auth.callers import SessionAuthenticator, user_actor
from services.auth.mail.mailer import Mailer
from services.auth.sessions.manager import SessionManager
from services.common.errors import InvalidRequest
from services.common.ids import Kind, is_id, new_id
from services.common.limits import Limit
from services.common.rpc.limits import limit_to_proto
from services.common.rpc.types import Context
from services.common.runtime.clock import Clock, utc_now
from stack.auth.v1 import alerts_pb2, alerts_pb2_grpc

_KINDS = {
    AlertKind.LIMIT_80: alerts_pb2.ALERT_KIND_LIMIT_80,
    AlertKind.LIMIT_100: alerts_pb2.ALERT_KIND_LIMIT_100,
    AlertKind.EXPIRY: alerts_pb2.ALERT_KIND_EXPIRY,
    AlertKind.IDLE: alerts_pb2.ALERT_KIND_IDLE,
}
_KIND_OF: dict[int, AlertKind] = {value: kind for kind, value in _KINDS.items()}
_OF_LIMITS = (AlertKind.LIMIT_80, AlertKind.LIMIT_100)
_ITEMS_MAX, _IDS_MAX, _PERIOD_CHARACTERS_MAX = 100, 1_000, 40


class AlertService(alerts_pb2_grpc.AlertServiceServicer):
    """Records alerts for gateways."""

    def __init__(self, store: AlertStore, mailer: Mailer, clock: Clock) -> None:
        self._store = store
        self._mailer = mailer
        self._clock = clock

    async def BeginAlertRun(
        self, request: alerts_pb2.BeginAlertRunRequest, context: Context
    ) -> alerts_pb2.BeginAlertRunResponse:
        """Give the caller the next run, if it is due."""
        seconds = max(1, request.interval_seconds)
        run = await self._store.begin_run(interval_seconds=seconds, at=utc_now(self._clock))
        if run is None:
            return alerts_pb2.BeginAlertRunResponse()
        self._mailer.notify()
        return alerts_pb2.BeginAlertRunResponse(run_id=run.id, since=messages.timestamp(run.since))

    async def EndAlertRun(
        self, request: alerts_pb2.EndAlertRunRequest, context: Context
    ) -> alerts_pb2.EndAlertRunResponse:
        """End a run."""
        await self._store.end_run(_alert_id(request.run_id), is_complete=request.complete)
        return alerts_pb2.EndAlertRunResponse()

    async def ListAlertSubjects(
        self, request: alerts_pb2.ListAlertSubjectsRequest, context: Context
    ) -> alerts_pb2.ListAlertSubjectsResponse:
        """Return the keys about which alerts are wanted."""
        _check_size("key_ids", len(request.key_ids), _ITEMS_MAX)
        key_ids = {messages.key_id(key_id) for key_id in request.key_ids}
        subjects = [
            alerts_pb2.AlertSubject(principal=messages.principal(key), created_at=messages.timestamp(key.created_at))
            for key in await self._store.subjects(key_ids, now=utc_now(self._clock))
        ]
        return alerts_pb2.ListAlertSubjectsResponse(subjects=subjects)

    async def RecordAlerts(
        self, request: alerts_pb2.RecordAlertsRequest, context: Context
    ) -> alerts_pb2.RecordAlertsResponse:
        """Record alerts."""
        _check_size("alerts", len(request.alerts), _ITEMS_MAX)
        count = await self._store.record([self._alert(alert) for alert in request.alerts])
        if count:
            self._mailer.notify()
        return alerts_pb2.RecordAlertsResponse(count=count)

    async def ListUnsentAlerts(
        self, request: alerts_pb2.ListUnsentAlertsRequest, context: Context
    ) -> alerts_pb2.ListUnsentAlertsResponse:
        """Return alerts to hand over for webhooks."""
        unsent = await self._store.unsent(limit=messages.page_size(request.page_size))
        return alerts_pb2.ListUnsentAlertsResponse(alerts=[_message(alert) for alert in unsent])

    async def ConfirmAlerts(
        self, request: alerts_pb2.ConfirmAlertsRequest, context: Context
    ) -> alerts_pb2.ConfirmAlertsResponse:
        """Record that alerts were handed over."""
        _check_size("ids", len(request.ids), _IDS_MAX)
        await self._store.confirm({_alert_id(one) for one in request.ids})
        return alerts_pb2.ConfirmAlertsResponse()

    def _alert(self, message: alerts_pb2.Alert) -> Alert:
        """Return a new alert. Only gateways send them, so a wrong one is a bug of theirs, but must not be stored.

        Alerts about expiries are auth's own.
        """
        is_sound = is_id(message.account_id, Kind.ACCOUNT) and message.period.isprintable()
        is_sound &= not message.key_id or is_id(message.key_id, Kind.KEY)
        kind, limits = _KIND_OF.get(message.kind), messages.limits([message.limit] if message.HasField("limit") else [])
        is_sound &= _has_its_limit(kind, limits)
        if kind is None or not is_sound or not 1 <= len(message.period) <= _PERIOD_CHARACTERS_MAX:
            raise InvalidRequest("The alert needs an account, a kind, its limit and a period.", reason="invalid_alert")
        return Alert(
            new_id(Kind.ALERT),
            AccountId(message.account_id),
            message.key_id,
            kind,
            message.period,
            utc_now(self._clock),
            limit=limits[0] if limits else None,
            used=message.used,
        )


class OwnerAlertService(alerts_pb2_grpc.OwnerAlertServiceServicer):
    """Reads and sets the alerts that owners want."""

    def __init__(self, store: AlertStore, sessions: SessionManager, mailer: Mailer, clock: Clock) -> None:
        self._store = store
        self._authenticator = SessionAuthenticator(sessions)
        self._mailer = mailer
        self._clock = clock

    async def GetOwnAlertSettings(
        self, request: alerts_pb2.GetOwnAlertSettingsRequest, context: Context
    ) -> alerts_pb2.GetOwnAlertSettingsResponse:
        """Return the settings."""
        session = await self._authenticator.require(context)
        settings = await self._store.settings(session.account.id)
        message = alerts_pb2.AlertSettings(mail=_values(settings.mail), webhook=_values(settings.webhook))
        return alerts_pb2.GetOwnAlertSettingsResponse(settings=message, has_mail=self._mailer.has_mail)

    async def SetOwnAlertSettings(
        self, request: alerts_pb2.SetOwnAlertSettingsRequest, context: Context
    ) -> alerts_pb2.SetOwnAlertSettingsResponse:
        """Replace the settings."""
        session = await self._authenticator.require(context)
        settings = AlertSettings(_kinds(request.settings.mail), _kinds(request.settings.webhook))
        by, at = user_actor(context), utc_now(self._clock)
        await self._store.set_settings(settings, by=by, at=at, proof=session.proof)
        return alerts_pb2.SetOwnAlertSettingsResponse()


def _has_its_limit(kind: AlertKind | None, limits: Sequence[Limit]) -> bool:
    if kind in _OF_LIMITS:
        return bool(limits) and limits[0].window is not None
    return kind is AlertKind.IDLE and not limits


def _message(alert: Alert) -> alerts_pb2.Alert:
    return alerts_pb2.Alert(
        id=alert.id,
        account_id=alert.account_id,
        key_id=alert.key_id,
        kind=_KINDS[alert.kind],
        period=alert.period,
        limit=limit_to_proto(alert.limit) if alert.limit else None,
        used=alert.used,
        key_name=alert.key_name,
        created_at=messages.timestamp(alert.created_at),
    )


def _values(kinds: Iterable[AlertKind]) -> list[Any]:
    return sorted(_KINDS[kind] for kind in kinds)


def _kinds(values: Iterable[int]) -> frozenset[AlertKind]:
    found = frozenset(_KIND_OF[value] for value in values if value in _KIND_OF)
    if len(found) != len(set(values)):
        raise InvalidRequest("There is an unknown kind of alert. Choose kinds that exist.", reason="invalid_alert")
    return found


def _alert_id(text: str) -> str:
    if not is_id(text, Kind.ALERT):
        raise InvalidRequest("Not the id of an alert. Such ids look like alr_01J….", reason="invalid_alert")
    return text


def _check_size(field: str, count: int, count_max: int) -> None:
    if not 1 <= count <= count_max:
        raise InvalidRequest(f"{field}: expected 1 to {count_max:,} items, got {count:,}.", reason="invalid_alert")
