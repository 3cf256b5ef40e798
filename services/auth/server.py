"""Wiring and startup of the auth service."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncEngine

from services.auth import bootstrap_secrets
from services.auth.accounts.former_accounts import FormerAccounts
from services.auth.accounts.model import AccountStore
from services.auth.accounts.owner_rpc import OwnedStores, OwnerService
from services.auth.accounts.passwords import Passwords
from services.auth.accounts.plan_event_store import SQLPlanEventStore
from services.auth.accounts.plan_events import PlanEvents
from services.auth.accounts.plan_store import SQLPlanStore
from services.auth.accounts.registration import Registration, Stores
from services.auth.accounts.rpc import AccountService, AuditService, PlanEventService, PlanService
from services.auth.accounts.store import SQLAccountStore
from services.auth.accounts.webhook_signatures import WebhookVerifier
from services.auth.alerts.rpc import AlertService, OwnerAlertService
from services.auth.alerts.store import SQLAlertStore
from services.auth.callers import AdminToken, OperatorAuthenticator
from services.auth.db.records import SQLAuditLog, unavailable
from services.auth.housekeeping import purge_periodically
from services.auth.identities.authorization import Authorizations
from services.auth.identities.manager import IdentityManager
from services.auth.identities.provider import IdentityProvider
from services.auth.identities.rpc import IdentityService
from services.auth.identities.store import SQLIdentityStore
from services.auth.keys.manager import KeyManager
from services.auth.keys.pepper import Pepper
from services.auth.keys.rpc import KeyService
from services.auth.keys.store import SQLKeyStore
from services.auth.keys.verifier import KeyVerifier
from services.auth.mail.composer import MailComposer
from services.auth.mail.mailer import Mailer
from services.auth.mail.queue import MailQueue
from services.auth.mail.rpc import MailService
from services.auth.mail.smtp import SMTPTransport, parse_smtp_url
from services.auth.mail.store import SQLMailQueue
from services.auth.mail.templates import EmailTemplates
from services.auth.operators.directory_store import SQLAccountDirectory
from services.auth.operators.log_in import OperatorLogIn
from services.auth.operators.rpc import OperatorService, OperatorStores
from services.auth.operators.session_rpc import OperatorSessionService
from services.auth.operators.store import SQLOperatorStore
from services.auth.rpc import AuthService
from services.auth.sessions.account_sessions_rpc import AccountSessionService
from services.auth.sessions.devices import Devices
from services.auth.sessions.log_in import LogIn
from services.auth.sessions.manager import OPERATOR_TOKEN_PREFIX, SessionManager
from services.auth.sessions.rate_limiter import RateLimiter
from services.auth.sessions.rpc import SessionService
from services.auth.sessions.store import SQLExpiredRows, SQLRateLimitStore, SQLSessionStore
from services.auth.sessions.token_store import SQLOneTimeTokenStore
from services.auth.settings import AuthSettings
from services.auth.totp.manager import TOTPManager
from services.auth.totp.pending import OPERATOR_PREFIX, PendingLogIns
from services.auth.totp.rpc import TOTPService
from services.auth.totp.store import SQLTOTPStore
from services.auth.totp.vault import Vault
from services.auth.watch.feed import ChangeFeed
from services.common.concurrency.priority_lock import PriorityLock
from services.common.db import database
from services.common.db.transactions import Transactions
from services.common.rpc import status_rpc
from services.common.rpc.server import GrpcServer
from services.common.rpc.status_rpc import DependencyStatus, StatusService, database_status
from services.common.rpc.tls import identity
from services.common.runtime.clock import Clock, SystemClock, utc_now
from services.common.runtime.tasks import restarting, running
from services.common.telemetry import metrics
from stack.auth.v1 import (
    account_sessions_pb2,
    account_sessions_pb2_grpc,
    accounts_pb2,
    accounts_pb2_grpc,
    alerts_pb2,
    alerts_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    auth_pb2,
    auth_pb2_grpc,
    identities_pb2,
    identities_pb2_grpc,
    keys_pb2,
    keys_pb2_grpc,
    mail_pb2,
    mail_pb2_grpc,
    operators_pb2,
    operators_pb2_grpc,
    owner_pb2,
    owner_pb2_grpc,
    plans_pb2,
    plans_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
    totp_pb2,
    totp_pb2_grpc,
)
from stack.common.v1 import status_pb2_grpc

_CONNECTIONS, _USER_CONNECTIONS = 5, 5
"""Postgres connections (SQLite opens a few more): first for key lookups, WatchKeys and operators, then for users."""

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "auth_alembic_version"

_CONTRACTS = (
    auth_pb2,
    accounts_pb2,
    account_sessions_pb2,
    keys_pb2,
    plans_pb2,
    audit_pb2,
    mail_pb2,
    sessions_pb2,
    owner_pb2,
    identities_pb2,
    totp_pb2,
    alerts_pb2,
    operators_pb2,
)
_SERVICES = tuple(
    service.full_name for contract in _CONTRACTS for service in contract.DESCRIPTOR.services_by_name.values()
)
_GATEWAY_SERVICES = (
    "AuthService",
    "SessionService",
    "OwnerService",
    "IdentityService",
    "TOTPService",
    "PlanEventService",
    "AlertService",
    "OwnerAlertService",
)
_OPERATOR_CONSOLE_SERVICES = ("OperatorSessionService", "OperatorService")


def _caller_of(service: str) -> str:
    """Return the only caller of a service.

    A compromised gateway cannot call the operators' services, even with their token or session.
    """
    name = service.rpartition(".")[2]
    if name in _OPERATOR_CONSOLE_SERVICES:
        return "operator-console"
    return "gateway" if name in _GATEWAY_SERVICES else "stackctl"


CALLERS = {service: (identity(_caller_of(service)),) for service in _SERVICES} | {
    status_rpc.SERVICE_NAME: (identity("stackctl"),)
}
"""Which callers each service accepts (docs/internal-callers.md)."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The domain objects of auth."""

    transactions: Transactions
    """For key lookups, WatchKeys, key changes and operators. Load from users never delays them."""
    user_transactions: Transactions
    """For sessions, log-ins and sign-ups, on separate connections. Their writes have the lowest priority."""
    engine: AsyncEngine
    """Engine of `user_transactions`."""
    keys: SQLKeyStore
    key_verifier: KeyVerifier
    pepper: Pepper
    former_accounts: FormerAccounts
    feed: ChangeFeed
    clock: SystemClock
    mail: "_Mail"
    passwords: Passwords
    providers: Sequence[IdentityProvider]
    settings: AuthSettings


@dataclass(frozen=True, slots=True)
class _Mail:
    """Objects that send e-mail."""

    templates: EmailTemplates
    queue: MailQueue
    mailer: Mailer


async def serve(settings: AuthSettings, parts: Parts | None = None) -> None:
    """Serve until stopped.

    Args:
        settings: The service's settings.
        parts: Domain objects that `build` made for this process; None builds them here.

    Raises:
        StartError: A secret, the database, the mail server's URL or the address cannot be used.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_listen))
        admin_token = AdminToken(bootstrap_secrets.admin_token(settings))
        server = await stack.enter_async_context(GrpcServer(settings.listen, settings, callers=CALLERS))
        if parts is None:
            parts = await build(settings, stack)
        auth_pb2_grpc.add_AuthServiceServicer_to_server(AuthService(parts.key_verifier, parts.feed), server.grpc)
        _add_operator_services(server, parts, admin_token)
        _add_mail_service(server, parts, admin_token)
        _add_user_services(server, parts)
        # WatchKeys streams never end by themselves and would keep the server draining for the whole grace period.
        status_pb2_grpc.add_StatusServiceServicer_to_server(
            StatusService(partial(_dependencies, parts), {"stack_emails_waiting": "emails"}), server.grpc
        )
        await server.run((*_SERVICES, status_rpc.SERVICE_NAME), on_drain=parts.feed.close)


async def migrate(settings: AuthSettings) -> None:
    """Upgrade the database schema to the latest version."""
    await database.migrate(settings.database, migrations=MIGRATIONS, version_table=VERSION_TABLE)


async def build(settings: AuthSettings, stack: AsyncExitStack) -> Parts:
    """Return the domain objects, which live as long as `stack`.

    Raises:
        StartError: A secret, the database or the mail server's URL cannot be used.
    """
    clock = SystemClock()
    engine = await stack.enter_async_context(
        database.open_database(
            settings.database,
            migrations=MIGRATIONS,
            version_table=VERSION_TABLE,
            reuse_port=settings.reuse_port,
            connections=_CONNECTIONS,
        )
    )
    user_engine = await stack.enter_async_context(database.open_second_engine(engine, connections=_USER_CONNECTIONS))
    turns = PriorityLock()
    transactions = Transactions(engine, unavailable=unavailable, turns=turns)
    user_transactions = Transactions(user_engine, unavailable=unavailable, turns=turns, is_urgent=False)
    keys = SQLKeyStore(transactions)
    pepper = await bootstrap_secrets.key_pepper(settings, keys, now=utc_now(clock))
    feed = ChangeFeed(keys, clock=clock)
    await stack.enter_async_context(feed.running())
    await stack.enter_async_context(
        running(restarting(partial(purge_periodically, SQLExpiredRows(user_transactions), clock)))
    )
    accepted = bootstrap_secrets.accepted_peppers(settings)
    former_accounts = FormerAccounts(pepper, accepted=accepted)
    accounts = SQLAccountStore(user_transactions, former_accounts)
    mail = await _open_mail(settings, user_transactions, accounts, pepper, clock, stack)
    passwords = Passwords()
    stack.callback(passwords.close)
    key_verifier = KeyVerifier(keys, pepper=pepper, clock=clock, accepted=accepted)
    return Parts(
        transactions,
        user_transactions,
        user_engine,
        keys,
        key_verifier,
        pepper,
        former_accounts,
        feed,
        clock,
        mail,
        passwords,
        await _open_providers(settings, clock, stack),
        settings,
    )


async def _open_providers(settings: AuthSettings, clock: Clock, stack: AsyncExitStack) -> Sequence[IdentityProvider]:
    if not settings.has_identity_providers:
        return ()
    # The HTTP client and the OAuth library take much of the memory and of the start of auth.
    from services.auth.identities.wiring import open_providers

    return await open_providers(settings, clock, stack)


async def _open_mail(
    settings: AuthSettings,
    transactions: Transactions,
    accounts: AccountStore,
    pepper: Pepper,
    clock: Clock,
    stack: AsyncExitStack,
) -> _Mail:
    templates, queue = EmailTemplates(settings.console_url), SQLMailQueue(transactions)
    transport = None
    if settings.smtp_url is not None:
        server = parse_smtp_url(settings.smtp_url.get_secret_value())
        transport = SMTPTransport(server, sender=settings.mail_from, ca_file=settings.smtp_ca_file)
    mailer = Mailer(queue, transport, clock=clock)
    alerts = SQLAlertStore(transactions, SQLKeyStore(transactions), has_mail=transport is not None)
    tokens = SQLOneTimeTokenStore(transactions)
    composer = MailComposer(accounts, tokens, templates, alerts, pepper=pepper, clock=clock)
    await stack.enter_async_context(running(restarting(partial(mailer.run, composer.compose))))
    return _Mail(templates, queue, mailer)


async def _dependencies(parts: Parts) -> Sequence[DependencyStatus]:
    return [await database_status(parts.mail.queue.waiting), DependencyStatus("mail", parts.mail.mailer.server_state)]


def _add_operator_services(server: GrpcServer, components: Parts, admin_token: AdminToken) -> None:
    transactions, clock = components.transactions, components.clock
    accounts = SQLAccountStore(transactions, components.former_accounts)
    keys_pb2_grpc.add_KeyServiceServicer_to_server(
        KeyService(_key_manager(components), components.key_verifier, admin_token=admin_token), server.grpc
    )
    accounts_pb2_grpc.add_AccountServiceServicer_to_server(
        AccountService(
            accounts,
            SQLOneTimeTokenStore(transactions),
            SQLTOTPStore(transactions),
            SQLOperatorStore(transactions),
            templates=components.mail.templates,
            feed=components.feed,
            pepper=components.pepper,
            admin_token=admin_token,
            clock=clock,
        ),
        server.grpc,
    )
    account_sessions_pb2_grpc.add_AccountSessionServiceServicer_to_server(
        AccountSessionService(accounts, _sessions(components, transactions), admin_token=admin_token), server.grpc
    )
    plans_pb2_grpc.add_PlanServiceServicer_to_server(
        PlanService(SQLPlanStore(transactions), feed=components.feed, admin_token=admin_token, clock=clock), server.grpc
    )
    plan_events = PlanEvents(
        SQLPlanEventStore(transactions),
        WebhookVerifier(components.settings.plan_webhook_keys),
        feed=components.feed,
        clock=clock,
    )
    plans_pb2_grpc.add_PlanEventServiceServicer_to_server(PlanEventService(plan_events), server.grpc)
    audit_pb2_grpc.add_AuditServiceServicer_to_server(
        AuditService(SQLAuditLog(transactions), accounts, admin_token=admin_token), server.grpc
    )


def _add_mail_service(server: GrpcServer, components: Parts, admin_token: AdminToken) -> None:
    mail = components.mail
    service = MailService(mail.mailer, mail.queue, mail.templates, admin_token=admin_token)
    mail_pb2_grpc.add_MailServiceServicer_to_server(service, server.grpc)


def _add_user_services(server: GrpcServer, components: Parts) -> None:
    settings, clock = components.settings, components.clock
    accounts = SQLAccountStore(components.user_transactions, components.former_accounts)
    rate_limiter = RateLimiter(
        SQLRateLimitStore(components.engine, components.user_transactions), pepper=components.pepper, clock=clock
    )
    sessions = _sessions(components, components.user_transactions)
    registration = Registration(
        Stores(
            accounts, SQLOneTimeTokenStore(components.user_transactions), SQLPlanStore(components.user_transactions)
        ),
        passwords=components.passwords,
        rate_limiter=rate_limiter,
        mailer=components.mail.mailer,
        pepper=components.pepper,
        clock=clock,
        admission=settings.admission,
        sign_ups_per_address_max=settings.sign_ups_per_address_max,
    )
    totp = TOTPManager(
        SQLTOTPStore(components.user_transactions),
        vault=Vault(components.pepper, accepted=bootstrap_secrets.accepted_peppers(settings)),
        rate_limiter=rate_limiter,
        clock=clock,
        issuer=urlsplit(settings.console_url).hostname or "console",
    )
    pending = PendingLogIns(components.pepper, clock)
    log_in = LogIn(
        accounts,
        sessions,
        passwords=components.passwords,
        rate_limiter=rate_limiter,
        devices=Devices(components.pepper),
        totp=totp,
        pending=pending,
        mailer=components.mail.mailer,
        clock=clock,
        log_ins_per_address_max=settings.log_ins_per_address_max,
    )
    stores = OwnedStores(
        _key_manager(components),
        SQLKeyStore(components.user_transactions),
        SQLAuditLog(components.user_transactions),
        sessions,
        SQLPlanStore(components.user_transactions),
    )
    owner = OwnerService(stores, log_in, components.key_verifier, feed=components.feed, bounds=settings.bounds)
    sessions_pb2_grpc.add_SessionServiceServicer_to_server(SessionService(registration, log_in, sessions), server.grpc)
    owner_pb2_grpc.add_OwnerServiceServicer_to_server(owner, server.grpc)
    identities = IdentityManager(
        components.providers,
        SQLIdentityStore(components.user_transactions),
        accounts,
        registration=registration,
        log_in=log_in,
        authorizations=Authorizations(components.pepper, clock),
        clock=clock,
    )
    totp_pb2_grpc.add_TOTPServiceServicer_to_server(TOTPService(totp, log_in, sessions), server.grpc)
    mailer, transactions = components.mail.mailer, components.user_transactions
    alerts = SQLAlertStore(transactions, SQLKeyStore(transactions), has_mail=mailer.has_mail)
    alerts_pb2_grpc.add_AlertServiceServicer_to_server(AlertService(alerts, mailer, clock), server.grpc)
    alerts_pb2_grpc.add_OwnerAlertServiceServicer_to_server(
        OwnerAlertService(alerts, sessions, mailer, clock), server.grpc
    )
    identities_pb2_grpc.add_IdentityServiceServicer_to_server(IdentityService(identities, sessions), server.grpc)
    operator_sessions = _operator_sessions(components)
    pending_operators = PendingLogIns(components.pepper, clock, prefix=OPERATOR_PREFIX)
    operator_log_in = OperatorLogIn(log_in, accounts, operator_sessions, totp=totp, pending=pending_operators)
    operators_pb2_grpc.add_OperatorSessionServiceServicer_to_server(
        OperatorSessionService(operator_log_in, operator_sessions), server.grpc
    )
    operators_pb2_grpc.add_OperatorServiceServicer_to_server(
        _operator_service(components, totp, operator_sessions), server.grpc
    )


def _operator_sessions(components: Parts) -> SessionManager:
    settings = components.settings
    return SessionManager(
        SQLSessionStore(components.user_transactions, is_for_operators=True),
        pepper=components.pepper,
        clock=components.clock,
        idle_seconds=settings.operator_session_idle_seconds,
        total_seconds=settings.operator_session_seconds,
        token_prefix=OPERATOR_TOKEN_PREFIX,
    )


def _operator_service(components: Parts, totp: TOTPManager, operator_sessions: SessionManager) -> OperatorService:
    transactions = components.transactions
    stores = OperatorStores(
        SQLAccountStore(transactions, components.former_accounts),
        SQLAccountDirectory(transactions),
        SQLKeyStore(transactions),
        _sessions(components, transactions),
        SQLPlanStore(transactions),
        SQLOneTimeTokenStore(transactions),
        SQLAuditLog(transactions),
    )
    return OperatorService(
        stores,
        OperatorAuthenticator(operator_sessions),
        totp,
        templates=components.mail.templates,
        feed=components.feed,
        pepper=components.pepper,
        clock=components.clock,
    )


def _sessions(components: Parts, transactions: Transactions) -> SessionManager:
    return SessionManager(
        SQLSessionStore(transactions),
        pepper=components.pepper,
        clock=components.clock,
        idle_seconds=components.settings.session_idle_seconds,
        total_seconds=components.settings.session_seconds,
    )


def _key_manager(components: Parts) -> KeyManager:
    return KeyManager(components.keys, feed=components.feed, pepper=components.pepper, clock=components.clock)
