"""Wiring of the auth service."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from services.auth import bootstrap_secrets
from services.auth.accounts.owner_rpc import OwnedStores, OwnerService
from services.auth.accounts.passwords import Passwords
from services.auth.accounts.plan_store import SQLPlanStore
from services.auth.accounts.registration import Registration, Stores
from services.auth.accounts.rpc import AccountService, AuditService, PlanService
from services.auth.accounts.store import SQLAccountStore
from services.auth.callers import AdminToken
from services.auth.db.records import SQLAuditLog, unavailable
from services.auth.housekeeping import purge_periodically
from services.auth.keys.manager import KeyManager
from services.auth.keys.model import KeyVerifier
from services.auth.keys.pepper import Pepper
from services.auth.keys.rpc import KeyService
from services.auth.keys.store import SQLKeyStore
from services.auth.mail.composer import MailComposer
from services.auth.mail.mailer import Mailer
from services.auth.mail.queue import MailQueue
from services.auth.mail.rpc import MailService
from services.auth.mail.smtp import SMTPTransport, parse_smtp_url
from services.auth.mail.store import SQLMailQueue
from services.auth.mail.templates import EmailTemplates
from services.auth.rpc import AuthService
from services.auth.sessions.devices import Devices
from services.auth.sessions.log_in import LogIn
from services.auth.sessions.model import Sessions
from services.auth.sessions.rate_limiter import RateLimiter
from services.auth.sessions.rpc import SessionService
from services.auth.sessions.store import SQLExpiredRows, SQLRateLimitStore, SQLSessionStore
from services.auth.sessions.token_store import SQLOneTimeTokenStore
from services.auth.settings import AuthSettings
from services.auth.watch.feed import ChangeFeed
from services.common.concurrency.priority_lock import PriorityLock
from services.common.db import database
from services.common.db.transactions import Transactions
from services.common.rpc.server import GrpcServer
from services.common.rpc.tls import identity
from services.common.runtime.clock import Clock, SystemClock, utc_now
from services.common.runtime.tasks import restarting, running
from services.common.telemetry import metrics
from stack.auth.v1 import (
    accounts_pb2,
    accounts_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    auth_pb2,
    auth_pb2_grpc,
    keys_pb2,
    keys_pb2_grpc,
    mail_pb2,
    mail_pb2_grpc,
    owner_pb2,
    owner_pb2_grpc,
    plans_pb2,
    plans_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)

_CONNECTIONS, _PEOPLES_CONNECTIONS = 5, 5
"""Connections to Postgres, of SQLite a few more: for key look-ups, the watch and operators; and for people."""

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "auth_alembic_version"

_CONTRACTS = (auth_pb2, accounts_pb2, keys_pb2, plans_pb2, audit_pb2, mail_pb2, sessions_pb2, owner_pb2)
_SERVICES = tuple(
    service.full_name for contract in _CONTRACTS for service in contract.DESCRIPTOR.services_by_name.values()
)
_FOR_GATEWAYS = ("AuthService", "SessionService", "OwnerService")
_CALLERS = {
    # Whoever takes over a gateway still cannot call what operators call, even with their token.
    service: (identity("gateway" if service.rpartition(".")[2] in _FOR_GATEWAYS else "stackctl"),)
    for service in _SERVICES
}


@dataclass(frozen=True, slots=True)
class Parts:
    """The domain objects of auth."""

    transactions: Transactions
    """For key look-ups, the watch, changes of keys and operators: people's crowds never make them wait."""
    peoples: Transactions
    """For sessions, log-ins and sign-ups, on connections of their own; their writes come after all others."""
    engine: AsyncEngine
    """Of `peoples`."""
    keys: SQLKeyStore
    key_verifier: KeyVerifier
    pepper: Pepper
    feed: ChangeFeed
    clock: SystemClock
    mail: "_Mail"
    passwords: Passwords
    settings: AuthSettings


@dataclass(frozen=True, slots=True)
class _Mail:
    """The parts that send e-mail."""

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
        server = await stack.enter_async_context(GrpcServer(settings.listen, settings, callers=_CALLERS))
        if parts is None:
            parts = await build(settings, stack)
        auth_pb2_grpc.add_AuthServiceServicer_to_server(AuthService(parts.key_verifier, parts.feed), server.grpc)
        _add_for_operators(server, parts, admin_token)
        _add_mail(server, parts, admin_token)
        _add_for_people(server, parts)
        # Watches never end by themselves; they would hold the drain for its whole grace.
        await server.run(_SERVICES, on_drain=parts.feed.close)


async def migrate(settings: AuthSettings) -> None:
    """Bring the database's schema up to date and return."""
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
    peoples_engine = await stack.enter_async_context(database.open_beside(engine, connections=_PEOPLES_CONNECTIONS))
    turns = PriorityLock()
    transactions = Transactions(engine, unavailable=unavailable, turns=turns)
    peoples = Transactions(peoples_engine, unavailable=unavailable, turns=turns, is_urgent=False)
    keys = SQLKeyStore(transactions)
    pepper = await bootstrap_secrets.key_pepper(settings, keys, now=utc_now(clock))
    feed = ChangeFeed(keys, clock=clock)
    await stack.enter_async_context(feed.running())
    await stack.enter_async_context(running(restarting(partial(purge_periodically, SQLExpiredRows(peoples), clock))))
    mail = await _open_mail(settings, peoples, pepper, clock, stack)
    passwords = Passwords()
    stack.callback(passwords.close)
    key_verifier = KeyVerifier(keys, pepper=pepper, clock=clock, accepted=bootstrap_secrets.accepted_peppers(settings))
    return Parts(
        transactions, peoples, peoples_engine, keys, key_verifier, pepper, feed, clock, mail, passwords, settings
    )


async def _open_mail(
    settings: AuthSettings, transactions: Transactions, pepper: Pepper, clock: Clock, stack: AsyncExitStack
) -> _Mail:
    templates, queue = EmailTemplates(settings.console_url), SQLMailQueue(transactions)
    transport = None
    if settings.smtp_url is not None:
        server = parse_smtp_url(settings.smtp_url.get_secret_value())
        transport = SMTPTransport(server, sender=settings.mail_from, ca_file=settings.smtp_ca_file)
    mailer = Mailer(queue, transport, clock=clock)
    composer = MailComposer(
        SQLAccountStore(transactions), SQLOneTimeTokenStore(transactions), templates, pepper=pepper, clock=clock
    )
    await stack.enter_async_context(running(restarting(partial(mailer.run, composer.compose))))
    return _Mail(templates, queue, mailer)


def _add_for_operators(server: GrpcServer, parts: Parts, admin_token: AdminToken) -> None:
    accounts, transactions, clock = SQLAccountStore(parts.transactions), parts.transactions, parts.clock
    keys_pb2_grpc.add_KeyServiceServicer_to_server(
        KeyService(_key_manager(parts), admin_token=admin_token), server.grpc
    )
    accounts_pb2_grpc.add_AccountServiceServicer_to_server(
        AccountService(
            accounts,
            SQLOneTimeTokenStore(transactions),
            templates=parts.mail.templates,
            feed=parts.feed,
            pepper=parts.pepper,
            admin_token=admin_token,
            clock=clock,
        ),
        server.grpc,
    )
    plans_pb2_grpc.add_PlanServiceServicer_to_server(
        PlanService(SQLPlanStore(transactions), feed=parts.feed, admin_token=admin_token, clock=clock), server.grpc
    )
    audit_pb2_grpc.add_AuditServiceServicer_to_server(
        AuditService(SQLAuditLog(transactions), accounts, admin_token=admin_token), server.grpc
    )


def _add_mail(server: GrpcServer, parts: Parts, admin_token: AdminToken) -> None:
    mail = parts.mail
    service = MailService(mail.mailer, mail.queue, mail.templates, admin_token=admin_token)
    mail_pb2_grpc.add_MailServiceServicer_to_server(service, server.grpc)


def _add_for_people(server: GrpcServer, parts: Parts) -> None:
    settings, clock = parts.settings, parts.clock
    accounts = SQLAccountStore(parts.peoples)
    throttle = RateLimiter(SQLRateLimitStore(parts.engine, parts.peoples), pepper=parts.pepper, clock=clock)
    sessions = Sessions(
        SQLSessionStore(parts.peoples),
        pepper=parts.pepper,
        clock=clock,
        idle_seconds=settings.session_idle_seconds,
        total_seconds=settings.session_seconds,
    )
    registration = Registration(
        Stores(accounts, SQLOneTimeTokenStore(parts.peoples), SQLPlanStore(parts.peoples)),
        passwords=parts.passwords,
        throttle=throttle,
        mailer=parts.mail.mailer,
        pepper=parts.pepper,
        clock=clock,
        admission=settings.admission,
        sign_ups_per_address_max=settings.sign_ups_per_address_max,
    )
    log_in = LogIn(
        accounts,
        sessions,
        passwords=parts.passwords,
        throttle=throttle,
        devices=Devices(parts.pepper),
        mailer=parts.mail.mailer,
        clock=clock,
        log_ins_per_address_max=settings.log_ins_per_address_max,
    )
    stores = OwnedStores(_key_manager(parts), SQLKeyStore(parts.peoples), SQLAuditLog(parts.peoples), sessions)
    owner = OwnerService(stores, log_in, feed=parts.feed, clock=clock, bounds=settings.bounds)
    sessions_pb2_grpc.add_SessionServiceServicer_to_server(SessionService(registration, log_in, sessions), server.grpc)
    owner_pb2_grpc.add_OwnerServiceServicer_to_server(owner, server.grpc)


def _key_manager(parts: Parts) -> KeyManager:
    return KeyManager(parts.keys, feed=parts.feed, pepper=parts.pepper, clock=parts.clock)
