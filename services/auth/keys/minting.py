"""How an API key is made: its secret, its name, what it may do."""

import unicodedata
from collections.abc import Sequence
from datetime import datetime, timedelta

from services.auth.keys.model import SECRET_PREFIX, Key, KeyId, Minted, NewKey
from services.auth.keys.pepper import Pepper
from services.common import checksummed_token
from services.common.errors import FailedPrecondition, InvalidRequest
from services.common.ids import Kind, new_id
from services.common.runtime.clock import Clock, utc_now

DAILY_LIMIT_MAX = 10**9
_PREFIX_CHARACTERS = 12
_NAME_CHARACTERS_MAX = 100
_JOINERS = "\u200c\u200d"
"""ZERO WIDTH NON-JOINER and ZERO WIDTH JOINER."""
_MODELS_MAX = 50
_MODEL_CHARACTERS_MAX = 256
_GRACE_SECONDS_MAX = 7 * 86_400


def mint(
    name: str,
    *,
    daily_limit: int | None,
    pepper: Pepper,
    clock: Clock,
    expires_at: datetime | None = None,
    models: Sequence[str] = (),
) -> Minted:
    """Return a new key, not yet kept.

    Args:
        name: The owner's name for it, 1 to 100 characters.
        daily_limit: Requests a UTC day, 0 to `DAILY_LIMIT_MAX`; None leaves it to the plan.
        pepper: What to digest its secret with.
        clock: Where the time comes from.
        expires_at: When it is to stop working; None means never.
        models: Models that it may ask for, by name or with `*` in it; empty allows all.

    Raises:
        InvalidRequest: The name, the limit, the expiry or a model cannot be accepted.
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
    )
    return Minted(key, secret)


def mint_successor(key: Key, *, pepper: Pepper, clock: Clock) -> Minted:
    """Return a key like `key`, not yet kept; its own limit is the store's to copy.

    Raises:
        FailedPrecondition: The key does not work any more.
    """
    if not key.is_active(utc_now(clock)) or key.replaced_by is not None:
        raise FailedPrecondition(
            f"key {key.id} was revoked, replaced or has expired; create a new one", reason="key_not_active"
        )
    return mint(key.name, daily_limit=None, pepper=pepper, clock=clock, expires_at=key.expires_at, models=key.models)


def end_of_grace(key: Key, grace_seconds: int, *, now: datetime) -> datetime:
    """Return when a key that is being replaced stops working: after the grace, never beyond its own expiry.

    Raises:
        InvalidRequest: The grace cannot be accepted.
    """
    if not 0 <= grace_seconds <= _GRACE_SECONDS_MAX:
        raise InvalidRequest(
            f"a grace period is 0 to {_GRACE_SECONDS_MAX} seconds, not {grace_seconds}", reason="invalid_grace"
        )
    ends_at = now + timedelta(seconds=grace_seconds)
    return ends_at if key.expires_at is None else min(ends_at, key.expires_at)


def checked_name(text: str) -> str:
    """Return a key's name without surrounding space, or raise `InvalidRequest`."""
    name = text.strip()
    if not 1 <= len(name) <= _NAME_CHARACTERS_MAX:
        raise InvalidRequest(
            f"a key's name has 1 to {_NAME_CHARACTERS_MAX} characters; choose another", reason="invalid_name"
        )
    if (refused := _unshowable(name)) is not None:
        raise InvalidRequest(f"a key's name cannot hold {_described(name[refused])}", reason="invalid_name")
    return name


def checked_limit(daily_limit: int | None) -> int | None:
    """Return a limit that can be kept, or raise `InvalidRequest`."""
    if daily_limit is not None and not 0 <= daily_limit <= DAILY_LIMIT_MAX:
        raise InvalidRequest(
            f"a daily limit is 0 to {DAILY_LIMIT_MAX} requests, not {daily_limit}", reason="invalid_limit"
        )
    return daily_limit


def _checked_expiry(expires_at: datetime | None, now: datetime) -> datetime | None:
    if expires_at is not None and expires_at <= now:
        raise InvalidRequest("a key's expiry must lie in the future; choose a later time", reason="invalid_expiry")
    return expires_at


def _checked_models(models: Sequence[str]) -> tuple[str, ...]:
    if len(models) > _MODELS_MAX:
        raise InvalidRequest(f"a key names at most {_MODELS_MAX} models, not {len(models)}", reason="invalid_models")
    names = tuple(dict.fromkeys(name.strip() for name in models))
    for name in names:
        if not 1 <= len(name) <= _MODEL_CHARACTERS_MAX:
            raise InvalidRequest(
                f"a model's name has 1 to {_MODEL_CHARACTERS_MAX} characters; correct the list", reason="invalid_models"
            )
        if not name.isprintable():
            unprintable = next(character for character in name if not character.isprintable())
            raise InvalidRequest(f"a model's name cannot hold {_described(unprintable)}", reason="invalid_models")
    return names


def _unshowable(name: str) -> int | None:
    """Return the place of the first character that a name cannot hold; None when all can be shown.

    Scripts such as Persian and emoji join characters by invisible ones, which mean nothing beside a blank or an end.
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
    """Return a character that is not to be seen, by its code and its name, and what to do."""
    code, named = f"U+{ord(character):04X}", unicodedata.name(character, "")
    return f"the character {code}{f' ({named})' if named else ''}; remove it"
