"""Create, rotate, limit and revoke API keys."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from services.auth.accounts.model import Proof
from services.auth.audit import Actor
from services.auth.keys import minting
from services.auth.keys.model import Bounds, Key, KeyId, KeyStore, KeyUpdate, MintedKey
from services.auth.keys.pepper import Pepper
from services.auth.limits import LimitChanges, checked_key_limits
from services.auth.watch.feed import ChangeFeed
from services.common.errors import FailedPrecondition
from services.common.limits import Limit
from services.common.runtime.clock import Clock, utc_now


class KeyManager:
    """Changes keys in the store and notifies the feed, so that watchers of this process see the change immediately."""

    def __init__(self, store: KeyStore, *, feed: ChangeFeed, pepper: Pepper, clock: Clock) -> None:
        """Store keys in `store`, with digests under `pepper`."""
        self.store = store
        self._feed = feed
        self._pepper = pepper
        self._clock = clock

    async def create(
        self,
        account: str,
        name: str,
        *,
        by: Actor,
        daily_limit: int | None = None,
        expires_at: datetime | None = None,
        models: Sequence[str] = (),
        limits: Iterable[Limit] = (),
        deduplicate_retries: bool = False,
        bounds: Bounds | None = None,
        proof: Proof | None = None,
    ) -> tuple[Key, str]:
        """Create a key for an account and return it with its secret.

        Raises the exceptions of `minting.mint` and `KeyStore.add`.
        """
        minted = minting.mint(
            name,
            daily_limit=daily_limit,
            pepper=self._pepper,
            clock=self._clock,
            expires_at=expires_at,
            models=models,
            limits=limits,
            deduplicate_retries=deduplicate_retries,
        )
        key = await self.store.add(account, minted.key, by=by, bounds=bounds, proof=proof)
        self._feed.notify()
        return key, minted.secret

    async def rotate(
        self,
        key_id: KeyId,
        grace_seconds: int,
        *,
        by: Actor,
        bounds: Bounds | None = None,
        proof: Proof | None = None,
    ) -> tuple[Key, str, Key]:
        """Replace a key, and return the new key, its secret, and the old key.

        Raises:
            NotFound: There is no such key, or it does not belong to the account of the proof.
            Unauthenticated: The session of the proof has ended.
            FailedPrecondition: The key is no longer active, or the account has reached its limit of keys.
            InvalidRequest: The grace period is out of range.
        """
        old = await self.store.get(key_id, owner=proof.account_id if proof else None)
        minted: MintedKey = minting.mint_successor(old, pepper=self._pepper, clock=self._clock)
        ends_at = minting.end_of_grace(old, grace_seconds, now=minted.key.created_at)
        new, replaced = await self.store.rotate(old.id, minted.key, ends_at=ends_at, by=by, bounds=bounds, proof=proof)
        self._feed.notify()
        return new, minted.secret, replaced

    async def revoke(self, key_id: KeyId, *, by: Actor, proof: Proof | None = None) -> Key:
        """Revoke a key permanently. Raises the exceptions of `KeyStore.revoke`."""
        key = await self.store.revoke(key_id, by=by, at=utc_now(self._clock), proof=proof)
        self._feed.notify()
        return key

    async def rename(self, key_id: KeyId, name: str, *, by: Actor) -> Key:
        """Rename a key. Raises the exceptions of `KeyStore.rename`, and `InvalidRequest` if the name is invalid."""
        key = await self.store.rename(key_id, minting.checked_name(name), by=by, at=utc_now(self._clock))
        self._feed.notify()
        return key

    async def set_limit(self, key_id: KeyId, daily_limit: int | None, *, by: Actor) -> Key:
        """Set a key's own daily limit; None restores its plan's.

        Raises the exceptions of `KeyStore.set_limit`, and `InvalidRequest` if the limit is out of range.
        """
        checked = minting.checked_limit(daily_limit)
        key = await self.store.set_limit(key_id, checked, by=by, at=utc_now(self._clock))
        self._feed.notify()
        return key

    async def change_limits(self, key_id: KeyId, changes: LimitChanges, *, by: Actor) -> Key:
        """Change a key's own limits, which override its plan's.

        Raises the exceptions of `KeyStore.change_limits`, and `InvalidRequest` if a limit is not one of keys.
        """
        checked_key_limits(changes.to_set)
        key = await self.store.change_limits(key_id, changes, by=by, at=utc_now(self._clock))
        self._feed.notify()
        return key

    async def set_deduplication(self, key_id: KeyId, *, deduplicate_retries: bool, by: Actor) -> Key:
        """Set whether automatic retries of SDKs are deduplicated. Raises the exceptions of the store's method."""
        at = utc_now(self._clock)
        key = await self.store.set_deduplication(key_id, deduplicate_retries=deduplicate_retries, by=by, at=at)
        self._feed.notify()
        return key

    async def update(self, key_id: KeyId, changes: KeyUpdate, *, by: Actor, proof: Proof) -> Key:
        """Change settings of a key for its owner.

        Raises the exceptions of `KeyStore.update`, and `InvalidRequest` if a setting is invalid.
        """
        now = utc_now(self._clock)
        checked = minting.checked_update(changes, now=now)
        key = await self.store.update(key_id, checked, by=by, at=now, proof=proof)
        self._feed.notify()
        return key

    def require_active(self, key: Key) -> None:
        """Raise `FailedPrecondition` if the key is revoked, expired or paused."""
        if key.is_active(utc_now(self._clock)):
            if key.paused_at is not None:
                raise FailedPrecondition(f"Key {key.id} is paused. Resume it first.", reason="key_paused")
            return
        if key.revoked_at is not None:
            raise FailedPrecondition(f"Key {key.id} was revoked. Choose another.", reason="key_revoked")
        raise FailedPrecondition(f"Key {key.id} has expired. Choose another.", reason="key_expired")
