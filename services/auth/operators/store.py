"""SQL store for the role of operators."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.accounts.model import Account, AccountId
from services.auth.accounts.store import ACCOUNT_COLUMNS, account_id_of, account_of_row, read_account
from services.auth.audit import Actor
from services.auth.db.records import READ_SECONDS_MAX, WRITE_SECONDS_MAX, record, unavailable
from services.auth.db.tables import accounts, sessions, totp_secrets
from services.auth.operators.model import Operator
from services.auth.sessions.proofs import lock_existing
from services.auth.sessions.store import end_sessions
from services.common.db.transactions import Transactions, deadline
from services.common.errors import FailedPrecondition


class SQLOperatorStore:
    """SQL implementation of `OperatorStore`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def add(self, reference: str, *, by: Actor, at: datetime) -> Account:
        """Give an account the role. See `OperatorStore.add`."""
        async with self._transactions.writing() as connection:
            account = await _locked(connection, reference)
            if account.suspended_at is not None:
                raise FailedPrecondition(
                    f"Account {account.id} is suspended. Resume it first: stackctl accounts resume {account.id}",
                    reason="account_suspended",
                )
            if account.operator_since is None:
                await _set_role(connection, account.id, at, "operator.added", by=by, at=at)
            return await read_account(connection, account.id)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def remove(self, reference: str, *, by: Actor, at: datetime) -> Account:
        """Take the role away. See `OperatorStore.remove`."""
        async with self._transactions.writing() as connection:
            account = await _locked(connection, reference)
            if account.operator_since is not None:
                await _set_role(connection, account.id, None, "operator.removed", by=by, at=at)
                of_console = sessions.c.operator_totp_id.is_not(None)
                await end_sessions(connection, account.id, of_console, reason="operator_removed", by=by, at=at)
            return await read_account(connection, account.id)

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def operators(self) -> Sequence[Operator]:
        """Return all operators. See `OperatorStore.operators`."""
        enabled = (totp_secrets.c.account_id == accounts.c.id) & totp_secrets.c.enabled_at.is_not(None)
        query = (
            select(*ACCOUNT_COLUMNS, totp_secrets.c.id.label("totp_id"))
            .select_from(accounts.outerjoin(totp_secrets, enabled))
            .where(accounts.c.operator_since.is_not(None))
            .order_by(accounts.c.id)
        )
        async with self._transactions.reading() as connection:
            rows = await connection.execute(query)
            return [Operator(account_of_row(row), row.totp_id is not None) for row in rows]


async def _locked(connection: AsyncConnection, reference: str) -> Account:
    account_id = await account_id_of(connection, reference)
    await lock_existing(connection, account_id)
    return await read_account(connection, account_id)


async def _set_role(
    connection: AsyncConnection, account_id: AccountId, since: datetime | None, action: str, *, by: Actor, at: datetime
) -> None:
    await connection.execute(update(accounts).where(accounts.c.id == account_id).values(operator_since=since))
    await record(connection, action, by=by, at=at, account_id=account_id, target=account_id)
