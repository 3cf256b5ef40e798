"""SQL queries of operators over the accounts of everyone."""

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import ColumnElement, and_, func, or_, select

from services.auth.accounts.model import Account
from services.auth.accounts.store import ACCOUNT_COLUMNS, account_of_row
from services.auth.db.records import READ_SECONDS_MAX, unavailable
from services.auth.db.tables import accounts
from services.auth.operators.directory import AccountSearch, AccountState
from services.common.db.transactions import Transactions, deadline

_STATES: Mapping[AccountState, ColumnElement[bool]] = {
    AccountState.ACTIVE: and_(accounts.c.deleted_at.is_(None), accounts.c.suspended_at.is_(None)),
    AccountState.SUSPENDED: and_(accounts.c.deleted_at.is_(None), accounts.c.suspended_at.is_not(None)),
    AccountState.DELETED: accounts.c.deleted_at.is_not(None),
}


class SQLAccountDirectory:
    """SQL implementation of `AccountDirectory`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def search(self, wanted: AccountSearch, *, limit: int) -> Sequence[Account]:
        """Return accounts. See `AccountDirectory.search`."""
        query = select(*ACCOUNT_COLUMNS).where(*_conditions(wanted)).order_by(accounts.c.id.desc()).limit(limit)
        async with self._transactions.reading() as connection:
            return [account_of_row(row) for row in await connection.execute(query)]

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def accounts_by_plan(self) -> Mapping[str, int]:
        """Count accounts. See `AccountDirectory.accounts_by_plan`."""
        query = (
            select(accounts.c.plan, func.count().label("accounts"))
            .where(accounts.c.deleted_at.is_(None))
            .group_by(accounts.c.plan)
        )
        async with self._transactions.reading() as connection:
            return {row.plan: row.accounts for row in await connection.execute(query)}


def _conditions(wanted: AccountSearch) -> Iterator[ColumnElement[bool]]:
    if wanted.text:
        contains = accounts.c.email.contains(wanted.text.lower(), autoescape=True) & accounts.c.deleted_at.is_(None)
        yield or_(accounts.c.id == wanted.text, contains)
    if wanted.plan:
        yield accounts.c.plan == wanted.plan
    if wanted.state is not None:
        yield _STATES[wanted.state]
    if wanted.ids:
        yield accounts.c.id.in_(wanted.ids)
    if wanted.before:
        yield accounts.c.id < wanted.before
