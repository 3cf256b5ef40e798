"""Accounts, keys and their changes in SQL, the same on SQLite and Postgres."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.accounts import Account, AccountId
from services.auth.changes import Change, Changes
from services.auth.keys import Found, Key, KeyId, NewKey
from services.auth.tables import accounts, api_keys, key_revision, plans
from services.common.errors import AlreadyExists, NotFound, Unavailable
from services.common.transactions import Transactions, deadline

_READ_SECONDS_MAX = 1.0
_WRITE_SECONDS_MAX = 3.0
_CHANGES_SECONDS_MAX = 0.3
"""Two such reads and the pause between them stay under the second within which a revocation must be known."""


def unavailable() -> Unavailable:
    """Return the error for an answer that the database did not give."""
    return Unavailable("auth cannot use its database just now; try again", reason="auth_unavailable")


_KEY_COLUMNS = (
    api_keys.c.id,
    api_keys.c.account_id,
    api_keys.c.name,
    api_keys.c.prefix,
    func.coalesce(api_keys.c.daily_limit, plans.c.daily_limit).label("daily_limit"),
    api_keys.c.created_at,
    api_keys.c.revoked_at,
    api_keys.c.expires_at,
)
_OWNER = accounts.c.id == api_keys.c.account_id
_PLAN = plans.c.name == accounts.c.plan

_KEYS = select(*_KEY_COLUMNS).select_from(api_keys.join(accounts, _OWNER).join(plans, _PLAN))

# One statement, so that the key and the revision are of one moment; the revision comes even when there is no such key.
_FIND = select(key_revision.c.revision, *_KEY_COLUMNS).select_from(
    key_revision.outerjoin(api_keys, api_keys.c.digest == bindparam("digest"))
    .outerjoin(accounts, _OWNER)
    .outerjoin(plans, _PLAN)
)

_CHANGES = (
    select(api_keys.c.id, api_keys.c.revision)
    .where(api_keys.c.revision > bindparam("after"))
    .order_by(api_keys.c.revision)
)


class SQLAccountStore:
    """Keeps accounts; an `AccountStore`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    @deadline(_WRITE_SECONDS_MAX, unavailable=unavailable)
    async def add(self, account: Account) -> None:
        """Keep a new account; see `AccountStore.add`."""
        values = {"id": account.id, "email": account.email, "plan": account.plan, "created_at": account.created_at}
        async with self._transactions.writing() as connection:
            try:
                await connection.execute(insert(accounts).values(values))
            except IntegrityError as exc:
                raise AlreadyExists(f"{account.email} has an account already", reason="account_exists") from exc


class SQLKeyStore:
    """Keeps keys; a `KeyStore` and a `ChangeStore`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    @deadline(_READ_SECONDS_MAX, unavailable=unavailable)
    async def find(self, digest: str) -> Found:
        """Look a key up by its digest; see `KeyStore.find`."""
        async with self._transactions.reading() as connection:
            row = (await connection.execute(_FIND, {"digest": digest})).one()
        return Found(None if row.id is None else _key(row), row.revision)

    @deadline(_WRITE_SECONDS_MAX, unavailable=unavailable)
    async def add(self, email: str, key: NewKey) -> Key:
        """Keep a new key; see `KeyStore.add`."""
        async with self._transactions.writing() as connection:
            account_id = await _account_id(connection, email)
            values = {
                "id": key.id,
                "account_id": account_id,
                "name": key.name,
                "prefix": key.prefix,
                "digest": key.digest,
                "pepper_id": key.pepper_id,
                "daily_limit": key.daily_limit,
                "created_at": key.created_at,
                "expires_at": key.expires_at,
                "revision": await _next_revision(connection),
            }
            await connection.execute(insert(api_keys).values(values))
            return await _read(connection, key.id)

    @deadline(_READ_SECONDS_MAX, unavailable=unavailable)
    async def get(self, key_id: KeyId) -> Key:
        """Read a key; see `KeyStore.get`."""
        async with self._transactions.reading() as connection:
            return await _read(connection, key_id)

    @deadline(_READ_SECONDS_MAX, unavailable=unavailable)
    async def of_account(self, email: str) -> list[Key]:
        """Read an account's keys; see `KeyStore.of_account`."""
        async with self._transactions.reading() as connection:
            account_id = await _account_id(connection, email)
            mine = _KEYS.where(api_keys.c.account_id == account_id).order_by(api_keys.c.created_at, api_keys.c.id)
            return [_key(row) for row in await connection.execute(mine)]

    @deadline(_WRITE_SECONDS_MAX, unavailable=unavailable)
    async def revoke(self, key_id: KeyId, *, at: datetime) -> Key:
        """End a key for good; see `KeyStore.revoke`."""
        async with self._transactions.writing() as connection:
            # The revision's row is the lock: what is read after it stays true until the commit.
            revision = await _next_revision(connection)
            key = await _read(connection, key_id)
            if key.revoked_at is not None:
                await connection.rollback()
                return key
            return await _change(connection, key_id, revoked_at=at, revision=revision)

    @deadline(_WRITE_SECONDS_MAX, unavailable=unavailable)
    async def set_limit(self, key_id: KeyId, daily_limit: int | None) -> Key:
        """Give a key its own limit or its plan's; see `KeyStore.set_limit`."""
        async with self._transactions.writing() as connection:
            revision = await _next_revision(connection)
            return await _change(connection, key_id, daily_limit=daily_limit, revision=revision)

    @deadline(_READ_SECONDS_MAX, unavailable=unavailable)
    async def pepper_ids(self) -> frozenset[str]:
        """Return the ids of the peppers in use; see `KeyStore.pepper_ids`."""
        async with self._transactions.reading() as connection:
            return frozenset(await connection.scalars(select(api_keys.c.pepper_id).distinct()))

    @deadline(_CHANGES_SECONDS_MAX, unavailable=unavailable)
    async def changes_after(self, revision: int | None) -> Changes:
        """Read what happened after a revision; see `ChangeStore.changes_after`."""
        async with self._transactions.reading() as connection:
            # The revision first: the keys are read later, so they hold at least every change up to it.
            present = (await connection.scalars(select(key_revision.c.revision))).one()
            if revision is None or revision >= present:
                return Changes(present, [])
            rows = (await connection.execute(_CHANGES, {"after": revision})).all()
        changes = [Change(KeyId(row.id), row.revision) for row in rows]
        return Changes(max([present, *(change.revision for change in changes)]), changes)


async def _next_revision(connection: AsyncConnection) -> int:
    """Take the next revision; until the commit nobody else gets one, so revision order is commit order."""
    take = update(key_revision).values(revision=key_revision.c.revision + 1).returning(key_revision.c.revision)
    revision: int = (await connection.scalars(take)).one()
    return revision


async def _change(connection: AsyncConnection, key_id: KeyId, **values: Any) -> Key:
    await connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(values))
    return await _read(connection, key_id)


async def _read(connection: AsyncConnection, key_id: KeyId) -> Key:
    row = (await connection.execute(_KEYS.where(api_keys.c.id == key_id))).one_or_none()
    if row is None:
        raise NotFound(f"no key {key_id}; `stackctl keys list` shows an account's keys", reason="key_not_found")
    return _key(row)


async def _account_id(connection: AsyncConnection, email: str) -> AccountId:
    account_id = await connection.scalar(select(accounts.c.id).where(accounts.c.email == email))
    if account_id is None:
        raise NotFound(f"no account with e-mail {email}; create it first", reason="account_not_found")
    return AccountId(account_id)


def _key(row: Row[Any]) -> Key:
    return Key(
        id=KeyId(row.id),
        account_id=AccountId(row.account_id),
        name=row.name,
        prefix=row.prefix,
        daily_limit=row.daily_limit,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        expires_at=row.expires_at,
    )
