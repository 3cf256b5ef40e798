"""Creating keys and verifying presented ones."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.accounts.model import AccountId
from services.auth.keys.minting import checked_limit, checked_name, mint
from services.auth.keys.model import SECRET_PREFIX, Denial, Key, KeyId, KeyLookup, MintedKey
from services.auth.keys.pepper import Pepper
from services.auth.keys.verifier import KeyVerifier
from services.common import checksummed_token
from services.common.errors import InvalidRequest, Unavailable

NOW = 1_800_000_000.0
PEPPER = Pepper(b"pepper")


class FixedClock:
    """A clock that stands still."""

    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return 0.0


class OneKey:
    """The part of a `KeyStore` that the verifier uses, holding one key; counts look-ups."""

    def __init__(
        self, minted: MintedKey, *, revoked_at: datetime | None = None, expires_at: datetime | None = None
    ) -> None:
        new = minted.key
        self.digest = new.digest
        self.key = Key(new.id, AccountId("acc_1"), new.name, new.prefix, 1000, new.created_at, revoked_at, expires_at)
        self.pepper_id = new.pepper_id
        self.lookups = 0
        self.is_read_only = False

    async def find(self, *digests: str) -> KeyLookup:
        self.lookups += 1
        if self.digest not in digests:
            return KeyLookup(None, revision=9)
        return KeyLookup(self.key, revision=9, pepper_id=self.pepper_id)

    async def move(self, key_id: KeyId, *, digest: str, pepper_id: str) -> None:
        if self.is_read_only:
            raise Unavailable("the database cannot be written")
        assert key_id == self.key.id
        self.digest, self.pepper_id = digest, pepper_id


def fresh() -> MintedKey:
    return mint("laptop", daily_limit=None, pepper=PEPPER, clock=FixedClock())


def key_verifier(store: OneKey, pepper: Pepper = PEPPER) -> KeyVerifier:
    return KeyVerifier(store, pepper=pepper, clock=FixedClock())  # type: ignore[arg-type]


async def test_a_valid_key_has_the_fields_of_its_stored_record() -> None:
    minted = fresh()
    store = OneKey(minted)

    verdict = await key_verifier(store).authenticate(minted.secret)

    assert (verdict.outcome, verdict.revision) == (store.key, 9)


async def test_a_revoked_key_is_refused_even_when_it_also_expired() -> None:
    minted = fresh()
    store = OneKey(minted, revoked_at=datetime.fromtimestamp(NOW, UTC), expires_at=datetime.fromtimestamp(NOW, UTC))

    assert (await key_verifier(store).authenticate(minted.secret)).outcome is Denial.REVOKED


@pytest.mark.parametrize(("seconds_left", "is_good"), [(-1, False), (0, False), (0.001, True)])
async def test_a_key_is_valid_until_the_moment_of_its_expiry(seconds_left: float, is_good: bool) -> None:
    minted = fresh()
    store = OneKey(minted, expires_at=datetime.fromtimestamp(NOW + seconds_left, UTC))

    outcome = (await key_verifier(store).authenticate(minted.secret)).outcome

    assert outcome == (store.key if is_good else Denial.EXPIRED)


async def test_a_key_under_another_pepper_is_unknown() -> None:
    minted = fresh()

    verdict = await key_verifier(OneKey(minted), Pepper(b"another")).authenticate(minted.secret)

    assert verdict.outcome is Denial.UNKNOWN


@given(text=st.one_of(st.text(), st.text().map(lambda tail: SECRET_PREFIX + tail)))
async def test_a_malformed_key_is_unknown_without_a_look_up(text: str) -> None:
    store = OneKey(fresh())

    verdict = await key_verifier(store).authenticate(text)

    assert (verdict.outcome, verdict.revision, store.lookups) == (Denial.UNKNOWN, 0, 0)


@given(place=st.integers(0, 46), character=st.characters(codec="ascii"))
async def test_one_mistyped_character_is_detected_without_a_look_up(place: int, character: str) -> None:
    minted = fresh()
    mistyped = minted.secret[:place] + character + minted.secret[place + 1 :]
    store = OneKey(minted)

    verdict = await key_verifier(store).authenticate(mistyped)

    assert mistyped == minted.secret or (verdict.outcome, store.lookups) == (Denial.UNKNOWN, 0)


def test_a_created_key_is_well_formed_and_unique() -> None:
    minted = [fresh() for _ in range(100)]

    assert all(checksummed_token.is_well_formed(one.secret, SECRET_PREFIX) for one in minted)
    assert len({one.secret for one in minted}) == len({one.key.id for one in minted}) == 100
    assert all(one.key.id.startswith("key_") and len(one.key.id) == 30 for one in minted)


def test_the_stored_record_of_a_key_does_not_hold_its_secret() -> None:
    minted = fresh()

    assert minted.secret not in repr(minted)
    assert minted.key.prefix == minted.secret[:12]
    assert minted.key.digest == PEPPER.digest(minted.secret)


def test_the_repr_of_a_pepper_shows_only_its_id() -> None:
    assert len(PEPPER.id) == 12
    assert PEPPER.id != Pepper(b"another").id
    assert "pepper'" not in repr(PEPPER)


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "two\nlines", "nul\0"])
def test_a_name_that_cannot_be_displayed_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"(The key's name is invalid. Choose one of 1 to 100|cannot contain)"):
        checked_name(name)


def test_surrounding_space_is_removed_from_a_name() -> None:
    assert checked_name("  ada's laptop ") == "ada's laptop"


@pytest.mark.parametrize(
    "name",
    ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f469\u200d\U0001f4bb", "clé\u00a0: été", "a\u3000b"],
)
def test_a_name_may_contain_joiners_of_scripts_and_emoji_and_any_blank(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a\u202eb", "U+202E (RIGHT-TO-LEFT OVERRIDE)"),
        ("a\u200bb", "U+200B (ZERO WIDTH SPACE)"),
        ("a\x07b", "the character U+0007. Remove it."),
        ("a\u200d", "U+200D (ZERO WIDTH JOINER)"),
        ("\u200ca", "U+200C (ZERO WIDTH NON-JOINER)"),
        ("a\u200d b", "U+200D (ZERO WIDTH JOINER)"),
        ("a\u200d\u200db", "U+200D (ZERO WIDTH JOINER)"),
    ],
)
def test_the_refusal_of_a_name_names_the_invalid_character(name: str, expected: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        checked_name(name)
    assert expected in refused.value.message


@pytest.mark.parametrize("limit", [-1, 10**9 + 1])
def test_a_limit_out_of_range_is_refused_with_its_value(limit: int) -> None:
    with pytest.raises(InvalidRequest, match=str(limit)):
        checked_limit(limit)


@pytest.mark.parametrize("limit", [None, 0, 10**9])
def test_a_limit_in_range_or_none_is_stored(limit: int | None) -> None:
    assert checked_limit(limit) == limit


async def test_a_key_under_an_accepted_pepper_is_valid_and_rehashed_on_use_in_one_look_up() -> None:
    minted = fresh()
    store, new = OneKey(minted), Pepper(b"new")
    verifier = KeyVerifier(store, pepper=new, clock=FixedClock(), accepted=(PEPPER,))  # type: ignore[arg-type]

    assert (await verifier.authenticate(minted.secret)).outcome == store.key
    assert (store.digest, store.pepper_id) == (new.digest(minted.secret), new.id)
    assert (await key_verifier(store, new).authenticate(minted.secret)).outcome == store.key
    assert (await key_verifier(store).authenticate(minted.secret)).outcome is Denial.UNKNOWN
    assert store.lookups == 3


async def test_a_key_that_cannot_be_rehashed_is_still_valid() -> None:
    minted = fresh()
    store = OneKey(minted)
    store.is_read_only = True
    verifier = KeyVerifier(store, pepper=Pepper(b"new"), clock=FixedClock(), accepted=(PEPPER,))  # type: ignore[arg-type]

    assert (await verifier.authenticate(minted.secret)).outcome == store.key
    assert store.pepper_id == PEPPER.id
