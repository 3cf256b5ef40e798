"""SQL store for API keys and their changes."""

import json
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.accounts.model import AccountId, Proof
from services.auth.accounts.store import account_id_of, change_keys
from services.auth.audit import Actor
from services.auth.db.records import READ_SECONDS_MAX, WRITE_SECONDS_MAX, record, take_revisions, unavailable
from services.auth.db.tables import accounts, api_keys, key_revision, plans
from services.auth.keys import owner_settings
from services.auth.keys.model import SECRET_PREFIX, Bounds, Key, KeyId, KeyLookup, KeyUpdate, NewKey
from services.auth.limits import WEIGHT_DEFAULT, LimitChanges, from_json, lowered, to_json
from services.auth.sessions.proofs import check_proof
from services.auth.watch.feed import Change, Changes
from services.common.db.transactions import Transactions, deadline
from services.common.errors import FailedPrecondition, NotFound
from services.common.limits import Limit, effective_limits

_CHANGES_SECONDS_MAX = 0.3
"""Two reads and the pause between them must take less than the second in which a revocation takes effect."""
_CHANGES_MAX = 1_000
"""With more changes, the result is a single change of all keys. Reading 10,000 rows took 0.2 to 0.8 s on a busy machine
(measured), more than the deadline above: watchers would get nothing until the load went down."""
_MOVE_SECONDS_MAX = 0.3
"""A lookup waits for the rehash, and gateways wait 2 s for both. If it fails, the next lookup tries again."""
_SEARCH_SECONDS_MAX = 4.0
"""A search by a part of the name reads all keys; operators make few."""
_DAY = timedelta(days=1)

_KEY_COLUMNS = (
    api_keys.c.id,
    api_keys.c.account_id,
    api_keys.c.name,
    api_keys.c.prefix,
    func.coalesce(api_keys.c.daily_limit, plans.c.daily_limit).label("granted_daily_limit"),
    api_keys.c.created_at,
    api_keys.c.revoked_at,
    api_keys.c.expires_at,
    api_keys.c.models,
    api_keys.c.replaced_by,
    api_keys.c.limits.label("own_limits"),
    api_keys.c.deduplicate_retries,
    api_keys.c.paused_at,
    api_keys.c.owner_daily_limit,
    api_keys.c.owner_limits,
    plans.c.limits.label("plan_limits"),
    plans.c.weight,
    accounts.c.quota_account_id,
    accounts.c.plan,
    accounts.c.suspended_at,
)
_sibling = api_keys.alias("sibling")
_HIGHEST_OWN_LIMIT = (
    select(func.max(_sibling.c.daily_limit))
    .where(
        _sibling.c.account_id == api_keys.c.account_id,
        _sibling.c.daily_limit.is_not(None),
        _sibling.c.revoked_at.is_(None),
    )
    .correlate(api_keys)
    .scalar_subquery()
)
# The limit of the key's account. Not read for lists of keys, each of which would read all keys.
_ACCOUNT_COLUMNS = (
    plans.c.daily_limit.label("plan_daily_limit"),
    plans.c.account_daily_limit,
    _HIGHEST_OWN_LIMIT.label("highest_own_limit"),
)
_PEPPER_ID = api_keys.c.pepper_id
_OWNER = accounts.c.id == api_keys.c.account_id
_PLAN = plans.c.name == accounts.c.plan

_KEYS = select(*_KEY_COLUMNS).select_from(api_keys.join(accounts, _OWNER).join(plans, _PLAN))
_ONE_KEY = select(*_KEY_COLUMNS, *_ACCOUNT_COLUMNS).select_from(api_keys.join(accounts, _OWNER).join(plans, _PLAN))

# One statement, so that the key and the revision are consistent. It returns the revision even without a matching key.
_FIND = select(key_revision.c.revision, _PEPPER_ID, *_KEY_COLUMNS, *_ACCOUNT_COLUMNS).select_from(
    key_revision.outerjoin(api_keys, api_keys.c.digest.in_(bindparam("digests", expanding=True)))
    .outerjoin(accounts, _OWNER)
    .outerjoin(plans, _PLAN)
)

_CHANGES = (
    select(api_keys.c.id, api_keys.c.revision, api_keys.c.revoked_at, accounts.c.suspended_at)
    .join(accounts, _OWNER)
    .where(api_keys.c.revision > bindparam("after"))
    .order_by(api_keys.c.revision)
    .limit(bindparam("limit"))
)


class SQLKeyStore:
    """SQL implementation of `KeyStore` and `ChangeStore`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def find(self, *digests: str) -> KeyLookup:
        """Look up a key by its digests. See `KeyStore.find`."""
        async with self._transactions.reading() as connection:
            row = (await connection.execute(_FIND, {"digests": digests})).one()
        key = None if row.id is None else _key(row, _account_daily_limit(row))
        return KeyLookup(key, row.revision, row.pepper_id or "")

    @deadline(_MOVE_SECONDS_MAX, unavailable=unavailable)
    async def move(self, key_id: KeyId, *, digest: str, pepper_id: str) -> None:
        """Replace a key's digest. See `KeyStore.move`."""
        async with self._transactions.writing() as connection:
            moved = update(api_keys).where(api_keys.c.id == key_id).values(digest=digest, pepper_id=pepper_id)
            await connection.execute(moved)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def add(
        self, account: str, key: NewKey, *, by: Actor, bounds: Bounds | None = None, proof: Proof | None = None
    ) -> Key:
        """Store a new key. See `KeyStore.add`."""
        async with self._transactions.writing() as connection:
            # Take the revision first: it blocks other transactions that count the account's keys or delete it.
            revision = await take_revisions(connection)
            await _checked_owner(connection, proof)
            account_id = await account_id_of(connection, account)
            if bounds is not None:
                await _check_key_limits(connection, account_id, bounds, now=key.created_at)
            await _insert(connection, account_id, key, revision=revision, by=by)
            if key.daily_limit is not None:
                await change_keys(connection, account_id, except_id=key.id)
            return await _read(connection, key.id)

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def get(self, key_id: KeyId, *, owner: AccountId | None = None) -> Key:
        """Return a key. See `KeyStore.get`."""
        async with self._transactions.reading() as connection:
            return await _read(connection, key_id, owner)

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def of_ids(self, key_ids: Collection[KeyId]) -> list[Key]:
        """Return those of the keys that exist, with the limits of their accounts."""
        async with self._transactions.reading() as connection:
            rows = await connection.execute(_ONE_KEY.where(api_keys.c.id.in_(key_ids)))
            return [_key(row, _account_daily_limit(row)) for row in rows]

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def of_account(self, account: str, *, after: str = "", limit: int = 1_000) -> list[Key]:
        """Return a page of an account's keys. See `KeyStore.of_account`."""
        async with self._transactions.reading() as connection:
            account_id = await account_id_of(connection, account, or_deleted=True)
            owned = _KEYS.where(api_keys.c.account_id == account_id, api_keys.c.id > after)
            page = await connection.execute(owned.order_by(api_keys.c.id).limit(limit))
            return [_key(row) for row in page]

    @deadline(_SEARCH_SECONDS_MAX, unavailable=unavailable)
    async def search(self, text: str, *, limit: int) -> list[Key]:
        """Search keys of all accounts. See `KeyStore.search`."""
        row = api_keys.c
        is_found = or_(row.id == text, row.prefix.startswith(text, autoescape=True))
        if not text.startswith(SECRET_PREFIX):
            is_found = or_(row.id == text, row.name.icontains(text, autoescape=True))
        async with self._transactions.reading() as connection:
            found = await connection.execute(_KEYS.where(is_found).order_by(row.id.desc()).limit(limit))
            return [_key(one) for one in found]

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def rename(self, key_id: KeyId, name: str, *, by: Actor, at: datetime) -> Key:
        """Rename a key. See `KeyStore.rename`."""
        async with self._transactions.writing() as connection:
            revision = await take_revisions(connection)
            key = await _read(connection, key_id)
            if key.name == name:
                await connection.rollback()
                return key
            details = {"name": name}
            await record(
                connection, "key.renamed", by=by, at=at, account_id=key.account_id, target=key_id, details=details
            )
            return await _change(connection, key_id, name=name, revision=revision)

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def newest_of_account(self, account_id: AccountId, *, limit: int) -> list[Key]:
        """Return the newest keys of an account. See `KeyStore.newest_of_account`."""
        owned = _KEYS.where(api_keys.c.account_id == account_id).order_by(api_keys.c.id.desc()).limit(limit)
        async with self._transactions.reading() as connection:
            return [_key(row) for row in await connection.execute(owned)][::-1]

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def bounds_of(self, account_id: AccountId, bounds: Bounds) -> Bounds:
        """Return the account's limits. See `KeyStore.bounds_of`."""
        async with self._transactions.reading() as connection:
            return await _bounds_of(connection, account_id, bounds)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def revoke(self, key_id: KeyId, *, by: Actor, at: datetime, proof: Proof | None = None) -> Key:
        """Revoke a key. See `KeyStore.revoke`."""
        async with self._transactions.writing() as connection:
            # Take the revision first: it serializes concurrent revocations, so the second one sees the first.
            revision = await take_revisions(connection)
            owner = await _checked_owner(connection, proof)
            key = await _read(connection, key_id, owner)
            if key.revoked_at is not None:
                await connection.rollback()
                return key
            await record(connection, "key.revoked", by=by, at=at, account_id=key.account_id, target=key_id)
            own_limit = await connection.scalar(select(api_keys.c.daily_limit).where(api_keys.c.id == key_id))
            revoked = await _change(connection, key_id, revoked_at=at, revision=revision)
            if own_limit is not None:
                await change_keys(connection, key.account_id, except_id=key_id)
            return revoked

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def set_limit(self, key_id: KeyId, daily_limit: int | None, *, by: Actor, at: datetime) -> Key:
        """Set a key's own limit. See `KeyStore.set_limit`."""
        async with self._transactions.writing() as connection:
            revision = await take_revisions(connection)
            key = await _read(connection, key_id)
            details = {"daily_limit": "the plan's" if daily_limit is None else daily_limit}
            await record(
                connection, "key.limit_set", by=by, at=at, account_id=key.account_id, target=key_id, details=details
            )
            changed = await _change(connection, key_id, daily_limit=daily_limit, revision=revision)
            # The account's limit, which all its keys have, depends on the highest limit of its keys.
            await change_keys(connection, key.account_id, except_id=key_id)
            return changed

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def change_limits(self, key_id: KeyId, changes: LimitChanges, *, by: Actor, at: datetime) -> Key:
        """Change a key's own limits. See `KeyStore.change_limits`."""
        async with self._transactions.writing() as connection:
            # Take the revision first: it serializes changes of the same key, so that none is lost.
            revision = await take_revisions(connection)
            key = await _read(connection, key_id)
            before = await connection.scalar(select(api_keys.c.limits).where(api_keys.c.id == key_id))
            limits = changes.apply(from_json(before))
            details = {"limits": ", ".join(map(str, limits)) or "the plan's"}
            await record(
                connection, "key.limit_set", by=by, at=at, account_id=key.account_id, target=key_id, details=details
            )
            return await _change(connection, key_id, limits=to_json(limits), revision=revision)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def set_deduplication(self, key_id: KeyId, *, deduplicate_retries: bool, by: Actor, at: datetime) -> Key:
        """Set whether retries are deduplicated. See `KeyStore.set_deduplication`."""
        async with self._transactions.writing() as connection:
            revision = await take_revisions(connection)
            key = await _read(connection, key_id)
            details = {"deduplicate_retries": str(deduplicate_retries).lower()}
            await record(
                connection,
                "key.deduplication_set",
                by=by,
                at=at,
                account_id=key.account_id,
                target=key_id,
                details=details,
            )
            return await _change(connection, key_id, deduplicate_retries=deduplicate_retries, revision=revision)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def update(self, key_id: KeyId, changes: KeyUpdate, *, by: Actor, at: datetime, proof: Proof) -> Key:
        """Change settings of a key for its owner. See `KeyStore.update`."""
        async with self._transactions.writing() as connection:
            # Take the revision first: it serializes changes of the same key, so that none is lost.
            revision = await take_revisions(connection)
            key = await _read(connection, key_id, await _checked_owner(connection, proof))
            owner_settings.check_update(key, changes, at=at)
            row = (await connection.execute(_KEYS.where(api_keys.c.id == key_id))).one()
            owner_settings.check_limits(changes, row.granted_daily_limit, _granted_limits(row))
            for action, details in owner_settings.events_of(key, changes):
                await record(
                    connection, action, by=by, at=at, account_id=key.account_id, target=key_id, details=details
                )
            return await _change(
                connection, key_id, **owner_settings.columns_of(key, changes, at=at), revision=revision
            )

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def rotate(
        self,
        key_id: KeyId,
        key: NewKey,
        *,
        ends_at: datetime,
        by: Actor,
        bounds: Bounds | None = None,
        proof: Proof | None = None,
    ) -> tuple[Key, Key]:
        """Replace a key. See `KeyStore.rotate`."""
        async with self._transactions.writing() as connection:
            revision = await take_revisions(connection, 2)
            owner = await _checked_owner(connection, proof)
            old = await _read(connection, key_id, owner)
            if old.replaced_by is not None or old.revoked_at is not None:
                raise FailedPrecondition(
                    f"Key {key_id} was already replaced or revoked. Create a new one.", reason="key_not_active"
                )
            successor = await _with_settings_of(connection, old.id, key)
            replaced = await _change(connection, key_id, expires_at=ends_at, replaced_by=key.id, revision=revision - 1)
            if bounds is not None:
                await _check_key_limits(connection, old.account_id, bounds, now=key.created_at)
            await _insert(connection, old.account_id, successor, revision=revision, by=by)
            details = {"replaced_by": key.id, "ends_at": ends_at.isoformat(timespec="seconds")}
            await record(
                connection,
                "key.rotated",
                by=by,
                at=key.created_at,
                account_id=old.account_id,
                target=key_id,
                details=details,
            )
            return await _read(connection, key.id), replaced

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def unknown_pepper(self, known: frozenset[str], *, now: datetime) -> str | None:
        """Return the id of an unknown pepper in use. See `KeyStore.unknown_pepper`."""
        # Search the index in the gaps between the known ids, so that keys with a known pepper are never read.
        bounds = [None, *sorted(known), None]
        async with self._transactions.reading() as connection:
            for above, below in pairwise(bounds):
                unknown = select(_PEPPER_ID).where(_is_active(now)).limit(1)
                unknown = unknown if above is None else unknown.where(above < _PEPPER_ID)
                unknown = unknown if below is None else unknown.where(below > _PEPPER_ID)
                found: str | None = await connection.scalar(unknown)
                if found is not None:
                    return found
        return None

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def count_with_peppers(self, pepper_ids: frozenset[str], *, now: datetime) -> int:
        """Count the active keys with these peppers. See `KeyStore.count_with_peppers`."""
        under = select(func.count()).select_from(api_keys).where(_PEPPER_ID.in_(pepper_ids), _is_active(now))
        async with self._transactions.reading() as connection:
            return await connection.scalar(under) or 0

    @deadline(_CHANGES_SECONDS_MAX, unavailable=unavailable)
    async def changes_after(self, revision: int | None) -> Changes:
        """Return the changes after a revision. See `ChangeStore.changes_after`."""
        async with self._transactions.reading() as connection:
            # Read the revision first: the keys are read later, so they include at least every change up to it.
            present = (await connection.execute(select(key_revision))).one()
            if revision is None or revision >= present.revision:
                return Changes(present.revision, [])
            rows = (await connection.execute(_CHANGES, {"after": revision, "limit": _CHANGES_MAX + 1})).all()
            # Read this last: the rows may include changes made since, and all earlier changes must be included too.
            all_keys_revision = await connection.scalar(select(key_revision.c.all_keys_revision)) or 0
        if len(rows) > _CHANGES_MAX:
            return Changes(present.revision, [Change(None, present.revision)])
        changes = [Change(KeyId(row.id), row.revision, bool(row.revoked_at or row.suspended_at)) for row in rows]
        if all_keys_revision > revision:
            changes.append(Change(None, all_keys_revision))
        changes.sort(key=lambda change: change.revision)
        return Changes(max([present.revision, *(change.revision for change in changes)]), changes)


async def _checked_owner(connection: AsyncConnection, proof: Proof | None) -> AccountId | None:
    """Check a proof and return the account whose keys may be changed; without a proof, None for all accounts."""
    if proof is None:
        return None
    await check_proof(connection, proof)
    return proof.account_id


async def _insert(
    connection: AsyncConnection,
    account_id: AccountId,
    key: NewKey,
    *,
    revision: int,
    by: Actor,
) -> None:
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
        "models": json.dumps(key.models) if key.models else None,
        "limits": to_json(key.limits),
        "deduplicate_retries": key.deduplicate_retries,
        "owner_daily_limit": key.owner_daily_limit,
        "owner_limits": to_json(key.owner_limits),
        "revision": revision,
    }
    await connection.execute(insert(api_keys).values(values))
    details: dict[str, object] = {"prefix": key.prefix}
    if key.daily_limit is not None:
        details["daily_limit"] = key.daily_limit
    if key.limits:
        details["limits"] = ", ".join(map(str, key.limits))
    if key.deduplicate_retries:
        details["deduplicate_retries"] = "true"
    await record(
        connection, "key.created", by=by, at=key.created_at, account_id=account_id, target=key.id, details=details
    )


async def _with_settings_of(connection: AsyncConnection, key_id: KeyId, key: NewKey) -> NewKey:
    """Return `key` with the limits that the key `key_id` has of its own, and its deduplication of retries."""
    own = (api_keys.c.daily_limit, api_keys.c.limits, api_keys.c.deduplicate_retries)
    columns = (*own, api_keys.c.owner_daily_limit, api_keys.c.owner_limits)
    row = (await connection.execute(select(*columns).where(api_keys.c.id == key_id))).one()
    return replace(
        key,
        daily_limit=row.daily_limit,
        limits=from_json(row.limits),
        deduplicate_retries=row.deduplicate_retries,
        owner_daily_limit=row.owner_daily_limit,
        owner_limits=from_json(row.owner_limits),
    )


def _is_active(now: datetime) -> ColumnElement[bool]:
    not_expired = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now)
    return and_(api_keys.c.revoked_at.is_(None), not_expired)


async def _check_key_limits(
    connection: AsyncConnection, account_id: AccountId, bounds: Bounds, *, now: datetime
) -> None:
    """Raise `FailedPrecondition` if an account has reached a limit of keys.

    The count is exact, because every key change takes the revision first.
    """
    bounds = await _bounds_of(connection, account_id, bounds)
    owned = select(func.count()).select_from(api_keys).where(api_keys.c.account_id == account_id)
    active = owned.where(_is_active(now))
    if (await connection.scalar(active.where(api_keys.c.replaced_by.is_(None))) or 0) >= bounds.active_max:
        raise FailedPrecondition(
            f"This account has {bounds.active_max} active keys, which is the maximum. Revoke one first.",
            reason="too_many_keys",
        )
    # Each key has its own daily limit: rotating every day with a long grace period would multiply the plan's limit.
    if (await connection.scalar(active) or 0) >= 2 * bounds.active_max:
        raise FailedPrecondition(
            f"This account has {2 * bounds.active_max} active keys including those in their grace period, which is the "
            "maximum. Revoke one first.",
            reason="too_many_keys",
        )
    if (await connection.scalar(owned.where(api_keys.c.created_at > now - _DAY)) or 0) >= bounds.new_per_day_max:
        raise FailedPrecondition(
            f"This account created {bounds.new_per_day_max} keys in the last 24 hours, which is the maximum. Try again "
            "tomorrow.",
            reason="too_many_new_keys",
        )


async def _bounds_of(connection: AsyncConnection, account_id: AccountId, bounds: Bounds) -> Bounds:
    plan_limits = (
        select(plans.c.active_keys_max, plans.c.new_keys_per_day_max)
        .select_from(accounts.join(plans, _PLAN))
        .where(accounts.c.id == account_id)
    )
    row = (await connection.execute(plan_limits)).one()
    return Bounds(
        bounds.active_max if row.active_keys_max is None else row.active_keys_max,
        bounds.new_per_day_max if row.new_keys_per_day_max is None else row.new_keys_per_day_max,
    )


async def _change(connection: AsyncConnection, key_id: KeyId, **values: Any) -> Key:
    await connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(values))
    return await _read(connection, key_id)


async def _read(connection: AsyncConnection, key_id: KeyId, owner: AccountId | None = None) -> Key:
    query = _ONE_KEY.where(api_keys.c.id == key_id)
    row = (
        await connection.execute(query if owner is None else query.where(api_keys.c.account_id == owner))
    ).one_or_none()
    if row is None:
        raise NotFound(f"No key {key_id} was found. List the account's keys to see their ids.", reason="key_not_found")

    return _key(row, _account_daily_limit(row))


def _key(row: Row[Any], account_daily_limit: int | None = None) -> Key:
    return Key(
        id=KeyId(row.id),
        account_id=AccountId(row.account_id),
        name=row.name,
        prefix=row.prefix,
        daily_limit=_lowest(row.granted_daily_limit, row.owner_daily_limit),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        expires_at=row.expires_at,
        models=tuple(json.loads(row.models)) if row.models else (),
        replaced_by=row.replaced_by,
        account_daily_limit=account_daily_limit,
        limits=lowered(_granted_limits(row), from_json(row.owner_limits)),
        weight=WEIGHT_DEFAULT if row.weight is None else row.weight,
        quota_account_id=row.quota_account_id,
        plan=row.plan,
        deduplicate_retries=row.deduplicate_retries,
        paused_at=row.paused_at,
        owner_daily_limit=row.owner_daily_limit,
        owner_limits=from_json(row.owner_limits),
        is_suspended=row.suspended_at is not None,
    )


def _lowest(granted: int, by_owner: int | None) -> int:
    return granted if by_owner is None else min(granted, by_owner)


def _granted_limits(row: Row[Any]) -> tuple[Limit, ...]:
    """Return the limits of the plan and the operator, other than requests per day."""
    return effective_limits(from_json(row.plan_limits), from_json(row.own_limits))


def _account_daily_limit(row: Row[Any]) -> int | None:
    if row.account_daily_limit is None:
        return None
    return int(max(row.account_daily_limit, row.plan_daily_limit, row.highest_own_limit or 0))
