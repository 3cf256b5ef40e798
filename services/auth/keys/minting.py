"""Generation of API keys and validation of their attributes."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from services.auth.keys.model import SECRET_PREFIX, Key, KeyId, KeyUpdate, MintedKey, NewKey
from services.auth.keys.pepper import Pepper
from services.auth.limits import checked_key_limits
from services.common import checksummed_token
from services.common.errors import FailedPrecondition, InvalidRequest
from services.common.ids import Kind, new_id
from services.common.limits import Limit
from services.common.runtime.clock import Clock, utc_now

DAILY_LIMIT_MAX = 10**9
_PREFIX_CHARACTERS = 12
_NAME_CHARACTERS_MAX = 100
_JOINERS = "\u200c\u200d"
"""ZERO WIDTH NON-JOINER and ZERO WIDTH JOINER."""
_MODELS_MAX = 50
_MODEL_CHARACTERS_MAX = 256
_OWNER_FIELDS = frozenset({"name", "expires_at", "models", "owner_daily_limit", "owner_limits", "paused"})
"""Settings of a key that its owner can change."""
_GRACE_SECONDS_MAX = 7 * 86_400


def mint(
    name: str,
    *,
    daily_limit: int | None,
    pepper: Pepper,
    clock: Clock,
    expires_at: datetime | None = None,
    models: Sequence[str] = (),
    limits: Iterable[Limit] = (),
    deduplicate_retries: bool = False,
) -> MintedKey:
    """Return a new key that is not stored yet.

    Args:
        name: Display name, 1 to 100 characters.
        daily_limit: Requests per UTC day, 0 to `DAILY_LIMIT_MAX`; None uses the plan's limit.
        pepper: Pepper for the digest of the secret.
        clock: Source of the creation time.
        expires_at: Expiry time; None means never.
        models: Allowed models, by name or as patterns with `*`; empty allows all.
        limits: Limits that override the plan's.
        deduplicate_retries: Whether automatic retries of SDKs are deduplicated.

    Raises:
        InvalidRequest: The name, a limit, the expiry or a model is invalid.
    """
    secret = checksummed_token.mint(SECRET_PREFIX)
    now = utc_now(clock)
    key = NewKey(
        id=KeyId(new_id(Kind.KEY)),
        name=checked_name(name),
        prefix=secret[:_PREFIX_CHARACTERS],
        digest=pepper.digest(secret),
        pepper_id=pepper.id,
        daily_limit=checked_limit(daily_limit),
        created_at=now,
        expires_at=_checked_expiry(expires_at, now),
        models=_checked_models(models),
        limits=checked_key_limits(limits),
        deduplicate_retries=deduplicate_retries,
    )
    return MintedKey(key, secret)


def mint_successor(key: Key, *, pepper: Pepper, clock: Clock) -> MintedKey:
    """Return a replacement for `key` that is not stored yet.

    The store copies the key's own limits and its deduplication of retries.

    Raises:
        FailedPrecondition: The key is no longer active.
    """
    if not key.is_active(utc_now(clock)) or key.replaced_by is not None:
        raise FailedPrecondition(
            f"Key {key.id} was revoked or replaced, or has expired. Create a new one.", reason="key_not_active"
        )
    return mint(key.name, daily_limit=None, pepper=pepper, clock=clock, expires_at=key.expires_at, models=key.models)


def checked_update(changes: KeyUpdate, *, now: datetime) -> KeyUpdate:
    """Return the changes of a key with valid settings, or raise `InvalidRequest`."""
    if unknown := changes.fields - _OWNER_FIELDS:
        raise InvalidRequest(
            f"A key has no setting {min(unknown)!r}. Settings are: {', '.join(sorted(_OWNER_FIELDS))}.",
            reason="invalid_update_mask",
        )
    return replace(
        changes,
        name=checked_name(changes.name) if "name" in changes.fields else "",
        expires_at=_checked_expiry(changes.expires_at, now) if "expires_at" in changes.fields else None,
        models=_checked_models(changes.models),
        owner_daily_limit=checked_limit(changes.owner_daily_limit),
        owner_limits=checked_key_limits(changes.owner_limits),
    )


def end_of_grace(key: Key, grace_seconds: int, *, now: datetime) -> datetime:
    """Return when a replaced key stops working: after the grace period, but not later than its own expiry.

    Raises:
        InvalidRequest: The grace period is out of range.
    """
    if not 0 <= grace_seconds <= _GRACE_SECONDS_MAX:
        raise InvalidRequest(
            f"The grace period is {grace_seconds} seconds. It must be 0 to {_GRACE_SECONDS_MAX} seconds.",
            reason="invalid_grace",
        )
    ends_at = now + timedelta(seconds=grace_seconds)
    return ends_at if key.expires_at is None else min(ends_at, key.expires_at)


def checked_name(text: str) -> str:
    """Return a key's name without surrounding whitespace, or raise `InvalidRequest`."""
    name = text.strip()
    if not 1 <= len(name) <= _NAME_CHARACTERS_MAX:
        raise InvalidRequest(
            f"The key's name is invalid. Choose one of 1 to {_NAME_CHARACTERS_MAX} characters.", reason="invalid_name"
        )
    if (refused := _unshowable(name)) is not None:
        raise InvalidRequest(
            f"A key's name cannot contain {_described(name[refused])}. Remove it.", reason="invalid_name"
        )
    return name


def checked_limit(daily_limit: int | None) -> int | None:
    """Return a daily limit, or raise `InvalidRequest` if it is out of range. None is valid."""
    if daily_limit is not None and not 0 <= daily_limit <= DAILY_LIMIT_MAX:
        raise InvalidRequest(
            f"The daily limit is {daily_limit}. It must be 0 to {DAILY_LIMIT_MAX} requests.", reason="invalid_limit"
        )
    return daily_limit


def _checked_expiry(expires_at: datetime | None, now: datetime) -> datetime | None:
    if expires_at is not None and expires_at <= now:
        raise InvalidRequest("The key's expiry is not in the future. Choose a later time.", reason="invalid_expiry")
    return expires_at


def _checked_models(models: Sequence[str]) -> tuple[str, ...]:
    if len(models) > _MODELS_MAX:
        raise InvalidRequest(
            f"The key lists {len(models)} models. List at most {_MODELS_MAX}.", reason="invalid_models"
        )
    names = tuple(dict.fromkeys(name.strip() for name in models))
    for name in names:
        if not 1 <= len(name) <= _MODEL_CHARACTERS_MAX:
            raise InvalidRequest(
                f"A model name in the list is invalid. Use names of 1 to {_MODEL_CHARACTERS_MAX} characters.",
                reason="invalid_models",
            )
        if not name.isprintable():
            unprintable = next(character for character in name if not character.isprintable())
            raise InvalidRequest(
                f"A model's name cannot contain {_described(unprintable)}. Remove it.", reason="invalid_models"
            )
    return names


def _unshowable(name: str) -> int | None:
    """Return the index of the first character that a name cannot contain; None if there is none.

    Persian text and emoji sequences use invisible joiners between characters. A joiner at an end or next to a blank has
    no effect, so it is rejected.
    """
    for place, character in enumerate(name):
        if character in _JOINERS:
            around = name[max(0, place - 1) : place] + name[place + 1 : place + 2]
            if len(around) == 2 and not any(one.isspace() or one in _JOINERS for one in around):
                continue
        elif character.isprintable() or unicodedata.category(character) == "Zs":
            continue
        return place
    return None


def _described(character: str) -> str:
    """Describe a forbidden character by its code point and name."""
    code, named = f"U+{ord(character):04X}", unicodedata.name(character, "")
    return f"the character {code}{f' ({named})' if named else ''}"
