"""What the auth service is made of."""

from contextlib import AsyncExitStack
from pathlib import Path

from services.auth import own_secrets
from services.auth.changes import ChangeFeed
from services.auth.keys import Gatekeeper
from services.auth.service import AuthService
from services.auth.service_management import AccountService, AdminToken, KeyService
from services.auth.settings import AuthSettings
from services.auth.store import SQLAccountStore, SQLKeyStore, unavailable
from services.common import database
from services.common.clock import SystemClock
from services.common.server import GrpcServer
from services.common.transactions import Transactions
from stack.auth.v1 import accounts_pb2, accounts_pb2_grpc, auth_pb2, auth_pb2_grpc, keys_pb2, keys_pb2_grpc

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "auth_alembic_version"

_SERVICES = (
    auth_pb2.DESCRIPTOR.services_by_name["AuthService"].full_name,
    accounts_pb2.DESCRIPTOR.services_by_name["AccountService"].full_name,
    keys_pb2.DESCRIPTOR.services_by_name["KeyService"].full_name,
)


async def serve(settings: AuthSettings) -> None:
    """Serve until told to stop.

    Raises:
        StartError: A secret, the database or the address cannot be used.
    """
    async with AsyncExitStack() as stack:
        admin_token = AdminToken(own_secrets.admin_token(settings))
        clock = SystemClock()
        engine = await stack.enter_async_context(
            database.open_database(settings.database, migrations=MIGRATIONS, version_table=VERSION_TABLE)
        )
        transactions = Transactions(engine, unavailable=unavailable)
        store = SQLKeyStore(transactions)
        pepper = await own_secrets.key_pepper(settings, store)
        feed = ChangeFeed(store, clock=clock)
        await stack.enter_async_context(feed.running())

        server = GrpcServer(settings.listen, settings)
        auth_pb2_grpc.add_AuthServiceServicer_to_server(
            AuthService(Gatekeeper(store, pepper=pepper, clock=clock), feed), server.grpc
        )
        accounts_pb2_grpc.add_AccountServiceServicer_to_server(
            AccountService(SQLAccountStore(transactions), admin_token=admin_token, clock=clock), server.grpc
        )
        keys_pb2_grpc.add_KeyServiceServicer_to_server(
            KeyService(store, feed=feed, pepper=pepper, admin_token=admin_token, clock=clock), server.grpc
        )
        # Watches never end by themselves; they would hold the drain for its whole grace.
        await server.run(_SERVICES, on_drain=feed.close)


async def migrate(settings: AuthSettings) -> None:
    """Bring the database's schema up to date and return."""
    await database.migrate(settings.database, migrations=MIGRATIONS, version_table=VERSION_TABLE)
