"""SQL store for accounts."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, insert, or_, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.accounts.addresses import identity_of
from services.auth.accounts.former_accounts import FormerAccounts
from services.auth.accounts.model import Account, AccountId, Credentials, NewAccount, Proof
from services.auth.accounts.plan_store import require_plan
from services.auth.audit import Actor
from services.auth.db.records import (
    READ_SECONDS_MAX,
    WRITE_SECONDS_MAX,
    record,
    take_revisions,
    unavailable,
)
from services.auth.db.tables import accounts, alerts, api_keys, one_time_tokens, sessions
from services.auth.identities.rows import add_identity, remove_identities
from services.auth.mail.store import enqueue, forget_emails
from services.auth.sessions.one_time_tokens import Purpose
from services.auth.sessions.proofs import check_proof, lock_account
from services.auth.sessions.store import end_sessions
from services.auth.sessions.token_store import redeem
from services.auth.totp.rows import remove_totp
from services.common.db.transactions import Transactions, deadline
from services.common.errors import AlreadyExists, FailedPrecondition, NotFound

ACCOUNT_COLUMNS = (
    accounts.c.id,
    accounts.c.email,
    accounts.c.plan,
    accounts.c.created_at,
    accounts.c.email_verified_at,
    accounts.c.deleted_at,
    accounts.c.quota_account_id,
    accounts.c.suspended_at,
    accounts.c.operator_since,
)


class SQLAccountStore:
    """SQL implementation of `AccountStore`."""

    def __init__(self, transactions: Transactions, former_accounts: FormerAccounts) -> None:
        self._transactions = transactions
        self._former_accounts = former_accounts

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def add(self, new: NewAccount, *, by: Actor) -> Account:
        """Store a new account. See `AccountStore.add`."""
        account, plan = new.account, new.account.plan
        async with self._transactions.writing() as connection:
            if new.invite is not None:
                token = await redeem(connection, new.invite, Purpose.INVITE, now=account.created_at)
                plan = token.plan
            await require_plan(connection, plan)
            if new.is_one_per_mailbox:
                await _check_mailbox(connection, account.email)
            values = {
                "id": account.id,
                "email": account.email,
                "identity": identity_of(account.email),
                "plan": plan,
                "created_at": account.created_at,
                "password_hash": new.password_hash,
                "quota_account_id": await self._former_accounts.take(connection, account.email, at=account.created_at),
            }
            try:
                await connection.execute(insert(accounts).values(values))
            except IntegrityError as exc:
                raise AlreadyExists(
                    f"{account.email} already has an account. Log in, or use another e-mail address.",
                    reason="account_exists",
                ) from exc
            await record(
                connection,
                "account.created",
                by=by,
                at=account.created_at,
                account_id=account.id,
                target=account.id,
                details={"plan": plan},
            )
            if new.identity is not None:
                await add_identity(connection, account.id, new.identity, by=by, at=account.created_at)
            if new.queued_email is not None:
                await enqueue(connection, new.queued_email)
            return await read_account(connection, account.id)

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def find_by_mailbox(self, address: str) -> Account | None:
        """Return an account by address or mailbox. See `AccountStore.find_by_mailbox`."""
        same = or_(accounts.c.email == address, accounts.c.identity == identity_of(address))
        query = (
            select(*ACCOUNT_COLUMNS).where(same, accounts.c.deleted_at.is_(None)).order_by(accounts.c.email != address)
        )
        async with self._transactions.reading() as connection:
            row = (await connection.execute(query.order_by(accounts.c.id).limit(1))).one_or_none()
        return None if row is None else account_of_row(row)

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def get(self, reference: str) -> Account:
        """Return an account. See `AccountStore.get`."""
        async with self._transactions.reading() as connection:
            return await read_account(connection, reference)

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def page(self, *, after: str, limit: int) -> Sequence[Account]:
        """Return a page of accounts. See `AccountStore.page`."""
        query = select(*ACCOUNT_COLUMNS).where(accounts.c.id > after).order_by(accounts.c.id).limit(limit)
        async with self._transactions.reading() as connection:
            return [account_of_row(row) for row in await connection.execute(query)]

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def credentials(self, reference: str) -> Credentials | None:
        """Return an account with its password hash. See `AccountStore.credentials`."""
        query = select(*ACCOUNT_COLUMNS, accounts.c.password_hash).where(
            _matches(reference), accounts.c.deleted_at.is_(None)
        )
        async with self._transactions.reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else Credentials(account_of_row(row), row.password_hash)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def set_plan(self, reference: str, plan: str, *, by: Actor, at: datetime) -> Account:
        """Move an account to another plan. See `AccountStore.set_plan`."""
        async with self._transactions.writing() as connection:
            await take_revisions(connection)  # Blocks other key changes until the commit.
            account_id = await account_id_of(connection, reference)
            await require_plan(connection, plan)
            await move_to_plan(connection, account_id, plan, set_at=at, by=by, at=at)
            return await read_account(connection, account_id)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def set_password(self, proof: Proof, password_hash: str, *, by: Actor, at: datetime) -> None:
        """Replace the password. See `AccountStore.set_password`."""
        account_id = proof.account_id
        async with self._transactions.writing() as connection:
            await check_proof(connection, proof)
            await _replace_password(connection, account_id, password_hash)
            others = sessions.c.id != proof.session_id
            await end_sessions(connection, account_id, others, reason="password_set", by=by, at=at)
            await record(connection, "account.password_set", by=by, at=at, account_id=account_id, target=account_id)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def note_failed_log_ins(self, account_id: AccountId, count: int, *, by: Actor, at: datetime) -> None:
        """Record failed log-ins. See `AccountStore.note_failed_log_ins`."""
        async with self._transactions.writing() as connection:
            await record(
                connection,
                "account.log_ins_failed",
                by=by,
                at=at,
                account_id=account_id,
                target=account_id,
                details={"count": count},
            )

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def verify_email(self, digest: str, *, by: Actor, at: datetime) -> str:
        """Redeem a token and mark the e-mail as verified. See `AccountStore.verify_email`."""
        async with self._transactions.writing() as connection:
            token = await redeem(connection, digest, Purpose.VERIFY_EMAIL, now=at)
            return await _mark_verified(connection, token.account_id, "account.email_verified", by, at)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def reset_password(self, digest: str, password_hash: str, *, by: Actor, at: datetime) -> Account:
        """Redeem a token and replace the password. See `AccountStore.reset_password`."""
        async with self._transactions.writing() as connection:
            token = await redeem(connection, digest, Purpose.RESET_PASSWORD, now=at)
            if (await read_account(connection, token.account_id)).email_verified_at is None:
                await remove_identities(connection, token.account_id, by=by, at=at)
            await _replace_password(connection, token.account_id, password_hash)
            await end_sessions(connection, token.account_id, true(), reason="password_reset", by=by, at=at)
            await _mark_verified(connection, token.account_id, "account.password_reset", by, at)
            return await read_account(connection, token.account_id)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def suspend(self, reference: str, *, reason: str = "", by: Actor, at: datetime) -> Account:
        """Suspend an account. See `AccountStore.suspend`."""
        async with self._transactions.writing() as connection:
            account = await _locked_with_keys(connection, reference)
            if account.operator_since is not None:
                raise _is_operator(account)
            if account.suspended_at is None:
                await end_sessions(connection, account.id, true(), reason="account_suspended", by=by, at=at)
                details = {"reason": reason} if reason else None
                await _set_suspension(connection, account.id, at, "account.suspended", by=by, at=at, details=details)
            return await read_account(connection, account.id)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def resume(self, reference: str, *, by: Actor, at: datetime) -> Account:
        """End a suspension. See `AccountStore.resume`."""
        async with self._transactions.writing() as connection:
            account = await _locked_with_keys(connection, reference)
            if account.suspended_at is not None:
                await _set_suspension(connection, account.id, None, "account.resumed", by=by, at=at)
            return await read_account(connection, account.id)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def delete(self, reference: str, *, by: Actor, at: datetime, proof: Proof | None = None) -> Account:
        """Delete an account. See `AccountStore.delete`."""
        async with self._transactions.writing() as connection:
            await take_revisions(connection)  # Blocks other key changes until the commit.
            if proof is not None:
                await check_proof(connection, proof)
            account_id = await account_id_of(connection, reference, or_deleted=True)
            account = await read_account(connection, account_id)
            if await lock_account(connection, account_id) is None:
                await connection.rollback()
                return account
            await end_sessions(connection, account_id, true(), reason="account_deleted", by=by, at=at)
            await remove_identities(connection, account_id, by=by, at=at)
            await remove_totp(connection, account_id, "totp.disabled", by=by, at=at)
            await forget_emails(connection, account_id, account.email)
            await connection.execute(delete(alerts).where(alerts.c.account_id == account_id))
            await self._former_accounts.add(connection, account.email, account.quota_account_id or account.id, at=at)
            await _erase(connection, account_id, at)
            await change_keys(connection, account_id, revoked_at=at)
            await record(connection, "account.deleted", by=by, at=at, account_id=account_id, target=account_id)
            return await read_account(connection, account_id)


async def account_id_of(connection: AsyncConnection, reference: str, *, or_deleted: bool = False) -> AccountId:
    """Return the id of the account with this e-mail address or id.

    Raises:
        NotFound: There is no such account, or it was deleted and `or_deleted` is False.
    """
    query = select(accounts.c.id).where(_matches(reference))
    account_id = await connection.scalar(query if or_deleted else query.where(accounts.c.deleted_at.is_(None)))
    if account_id is None:
        raise _account_not_found(reference)
    return AccountId(account_id)


async def _locked_with_keys(connection: AsyncConnection, reference: str) -> Account:
    """Block other changes of keys and of the account's sessions until the commit, and return the account."""
    await take_revisions(connection)
    account_id = await account_id_of(connection, reference)
    await lock_account(connection, account_id)
    return await read_account(connection, account_id)


async def _set_suspension(
    connection: AsyncConnection,
    account_id: AccountId,
    suspended_at: datetime | None,
    action: str,
    *,
    by: Actor,
    at: datetime,
    details: Mapping[str, object] | None = None,
) -> None:
    """Set the time of a suspension, or None, change the account's keys and write an audit event."""
    await connection.execute(update(accounts).where(accounts.c.id == account_id).values(suspended_at=suspended_at))
    await change_keys(connection, account_id)
    await record(connection, action, by=by, at=at, account_id=account_id, target=account_id, details=details)


async def move_to_plan(
    connection: AsyncConnection,
    account_id: AccountId,
    plan: str,
    *,
    set_at: datetime,
    by: Actor,
    at: datetime,
    details: Mapping[str, object] | None = None,
) -> None:
    """Set an account's plan, change its keys, and write an audit event.

    Args:
        connection: The transaction, which has taken a revision.
        account_id: The account.
        plan: Name of an existing plan.
        set_at: Time from which the account has the plan; plan events of earlier times do not override it.
        by: The caller.
        at: The current time.
        details: Details of the audit event, in addition to the plan.
    """
    account = accounts.c.id == account_id
    await connection.execute(update(accounts).where(account).values(plan=plan, plan_set_at=set_at))
    await change_keys(connection, account_id)
    await record(
        connection,
        "account.plan_set",
        by=by,
        at=at,
        account_id=account_id,
        target=account_id,
        details={"plan": plan, **(details or {})},
    )


def _is_operator(account: Account) -> FailedPrecondition:
    return FailedPrecondition(
        f"Account {account.id} has the role of operators. Take it away first: stackctl operators remove {account.id}",
        reason="account_is_operator",
    )


async def _check_mailbox(connection: AsyncConnection, email: str) -> None:
    """Check that the mailbox has no account, and lock it until the transaction ends.

    Raises:
        AlreadyExists: The mailbox already has an account.
    """
    identity = identity_of(email)
    if connection.dialect.name == "postgresql":  # SQLite has one writer.
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"mailbox {identity}", 0))))
    if await connection.scalar(select(accounts.c.id).where(accounts.c.identity == identity).limit(1)) is not None:
        raise AlreadyExists(
            f"The mailbox of {email} already has an account. Log in, or use another e-mail address.",
            reason="account_exists",
        )


async def _replace_password(connection: AsyncConnection, account_id: str, password_hash: str) -> None:
    """Replace a password and invalidate outstanding reset tokens."""
    await connection.execute(update(accounts).where(accounts.c.id == account_id).values(password_hash=password_hash))
    await connection.execute(
        delete(one_time_tokens).where(
            one_time_tokens.c.account_id == account_id, one_time_tokens.c.purpose == Purpose.RESET_PASSWORD.value
        )
    )


async def _mark_verified(connection: AsyncConnection, account_id: str, action: str, by: Actor, at: datetime) -> str:
    """Mark the e-mail as verified, unless it already is, with an audit event; return the e-mail."""
    account = accounts.c.id == account_id
    first = account & accounts.c.email_verified_at.is_(None)
    await connection.execute(update(accounts).where(first).values(email_verified_at=at))
    await record(connection, action, by=by, at=at, account_id=account_id, target=account_id)
    email: str = (await connection.scalars(select(accounts.c.email).where(account))).one()
    return email


async def _erase(connection: AsyncConnection, account_id: AccountId, at: datetime) -> None:
    """Erase personal data and credentials of an account."""
    await connection.execute(delete(one_time_tokens).where(one_time_tokens.c.account_id == account_id))
    blank = {
        "email": f"deleted:{account_id}",
        "identity": None,
        "password_hash": None,
        "email_verified_at": None,
        "deleted_at": at,
        "operator_since": None,
    }
    await connection.execute(update(accounts).where(accounts.c.id == account_id).values(blank))
    await connection.execute(update(api_keys).where(api_keys.c.account_id == account_id).values(name="deleted"))


async def change_keys(
    connection: AsyncConnection, account_id: AccountId, *, revoked_at: datetime | None = None, except_id: str = ""
) -> None:
    """Give each of an account's unrevoked keys a new revision, and revoke it if `revoked_at` is not None.

    Args:
        connection: The transaction.
        account_id: The account.
        revoked_at: Time of the revocation; None revokes no key.
        except_id: A key that is not changed; empty for none.
    """
    active = (api_keys.c.account_id == account_id) & api_keys.c.revoked_at.is_(None) & (api_keys.c.id != except_id)
    ids = list(await connection.scalars(select(api_keys.c.id).where(active)))
    if not ids:
        return
    last_revision = await take_revisions(connection, len(ids))
    change = update(api_keys).where(api_keys.c.id == bindparam("key_id")).values(revision=bindparam("new_revision"))
    if revoked_at is not None:
        change = change.values(revoked_at=revoked_at)
    # One executemany: with single statements, an account of 10,000 keys exceeded the deadline and could not be deleted.
    parameters = [{"key_id": key_id, "new_revision": last_revision - offset} for offset, key_id in enumerate(ids)]
    await connection.execute(change, parameters)


async def read_account(connection: AsyncConnection, reference: str) -> Account:
    row = (await connection.execute(select(*ACCOUNT_COLUMNS).where(_matches(reference)))).one_or_none()
    if row is None:
        raise _account_not_found(reference)
    return account_of_row(row)


def _matches(reference: str) -> Any:
    return or_(accounts.c.id == reference, accounts.c.email == reference)


def _account_not_found(reference: str) -> NotFound:
    return NotFound(f"No account {reference} was found. Create it, or list the accounts.", reason="account_not_found")


def account_of_row(row: Row[Any]) -> Account:
    return Account(
        id=AccountId(row.id),
        email="" if row.deleted_at else row.email,
        plan=row.plan,
        created_at=row.created_at,
        email_verified_at=row.email_verified_at,
        deleted_at=row.deleted_at,
        quota_account_id=row.quota_account_id,
        suspended_at=row.suspended_at,
        operator_since=row.operator_since,
    )
