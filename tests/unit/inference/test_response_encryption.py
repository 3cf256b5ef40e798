"""Stored responses are encrypted for one account and id."""

import pytest

from services.inference.responses.encryption import Cipher, Undecryptable

OLD, NEW = "the old secret of the operator", "the new secret of the operator"
TEXT = b'{"input":[{"role":"user","content":"My name is Ada."}]}' * 20
OWNER = {"account_id": "acc_1", "response_id": "resp_1"}


def test_a_sealed_text_is_unreadable_different_each_time_and_opens_again() -> None:
    cipher = Cipher([NEW])
    sealed = cipher.seal(TEXT, **OWNER)
    assert b"Ada" not in sealed
    assert sealed != cipher.seal(TEXT, **OWNER)
    assert len(sealed) < len(TEXT) / 3
    assert cipher.open(sealed, **OWNER) == TEXT


@pytest.mark.parametrize("other", [{"account_id": "acc_2"}, {"response_id": "resp_2"}])
def test_it_does_not_open_for_another_account_or_id(other: dict[str, str]) -> None:
    cipher = Cipher([NEW])
    with pytest.raises(Undecryptable):
        cipher.open(cipher.seal(TEXT, **OWNER), **(OWNER | other))


def test_any_changed_byte_is_noticed() -> None:
    cipher = Cipher([NEW])
    sealed = cipher.seal(b"hi", **OWNER)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(Undecryptable):
            cipher.open(bytes(changed), **OWNER)
    for size in range(len(sealed)):
        with pytest.raises(Undecryptable):
            cipher.open(sealed[:size], **OWNER)


def test_a_rotation_keeps_previous_texts_readable_until_their_secret_is_removed() -> None:
    old = Cipher([OLD]).seal(TEXT, **OWNER)
    both = Cipher([NEW, OLD])
    assert both.open(old, **OWNER) == TEXT
    assert Cipher([NEW]).open(both.seal(TEXT, **OWNER), **OWNER) == TEXT
    with pytest.raises(Undecryptable):
        Cipher([NEW]).open(old, **OWNER)
