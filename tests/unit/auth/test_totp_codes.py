"""Codes of authenticator apps, recovery codes, and the lifetime of pending log-ins."""

import pytest

from services.auth.accounts.model import AccountId, Proof
from services.auth.keys.pepper import Pepper
from services.auth.totp.codes import Secret, is_recovery_code, new_recovery_codes, new_secret, normalized
from services.auth.totp.pending import PendingLogIns
from services.auth.totp.vault import Vault
from services.common.errors import FailedPrecondition, Unauthenticated
from services.common.ids import Kind, new_id
from tests.contracts.user_stores import ManualClock

# RFC 6238, appendix B, for SHA-1: the last six of its eight digits.
_VECTORS = [
    (59, "287082"),
    (1_111_111_109, "081804"),
    (1_111_111_111, "050471"),
    (1_234_567_890, "005924"),
    (2_000_000_000, "279037"),
    (20_000_000_000, "353130"),
]


@pytest.mark.parametrize(("seconds", "code"), _VECTORS)
def test_codes_are_those_of_the_rfc(seconds: int, code: str) -> None:
    assert Secret(b"12345678901234567890").step_of(code, now=seconds) == seconds // 30


@pytest.mark.parametrize(
    ("offset", "is_right"), [(-60, False), (-30, True), (0, True), (29, True), (59, True), (60, False)]
)
def test_the_clock_of_an_app_may_differ_by_one_step(offset: int, is_right: bool) -> None:
    secret, now = new_secret(), 1_800_000_000
    code = secret.code((now + offset) // 30).decode()

    found = secret.step_of(code, now=now)

    # One code in 333,333 is that of another step, too.
    assert found == ((now + offset) // 30 if is_right else None) or code in _codes_near(secret, now)


def _codes_near(secret: Secret, now: int) -> list[str]:
    return [secret.code(now // 30 + offset).decode() for offset in (-1, 0, 1)]


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        (" 123 456 ", "123456"),
        ("abcd-efgh-ijkl", "ABCDEFGHIJKL"),
        ("abcd efgh 1jk0", "ABCDEFGHIJKO"),
        ("12345", ""),
        ("1234567", ""),
        ("١٢٣٤٥٦", ""),
        ("9BCDEFGHIJKL", ""),
        ("A" * 1_000_000, ""),
        ("", ""),
    ],
)
def test_codes_are_read_as_they_are_typed(typed: str, code: str) -> None:
    assert normalized(typed) == code


def test_recovery_codes_are_different_and_recognised() -> None:
    codes = new_recovery_codes()

    assert len(set(codes)) == 10
    assert all(is_recovery_code(normalized(code)) and len(code) == 14 for code in codes)
    assert not is_recovery_code("123456")


def test_a_sealed_secret_opens_for_its_account_and_pepper_only() -> None:
    old, new = Pepper(b"old"), Pepper(b"new")
    secret = new_secret()
    sealed = Vault(old).seal(secret, "acc_1")

    assert Vault(old).open(sealed, "acc_1") == secret
    assert Vault(new, accepted=[old]).open(sealed, "acc_1") == secret
    assert Vault(old).seal(secret, "acc_1") != sealed
    for vault, text, account in (
        (Vault(new), sealed, "acc_1"),
        (Vault(old), sealed, "acc_2"),
        (Vault(old), "", "acc_1"),
        (Vault(old), "not base64!", "acc_1"),
        (Vault(old), sealed[:-8], "acc_1"),
    ):
        with pytest.raises(FailedPrecondition):
            vault.open(text, account)


@pytest.mark.parametrize(("seconds", "is_accepted"), [(0, True), (299, True), (301, False), (-60, False)])
def test_a_pending_log_in_is_valid_for_five_minutes(seconds: int, is_accepted: bool) -> None:
    clock = ManualClock()
    pending = PendingLogIns(Pepper(b"secret"), clock)
    proof = Proof(AccountId(new_id(Kind.ACCOUNT)), identity_id=new_id(Kind.IDENTITY))
    started = pending.start(proof, None)
    clock.seconds += seconds

    if is_accepted:
        assert pending.proof(started.token, None) == proof
    else:
        with pytest.raises(Unauthenticated):
            pending.proof(started.token, None)


def test_a_pending_log_in_ends_with_its_password_and_belongs_to_the_pepper() -> None:
    clock, account_id = ManualClock(), AccountId(new_id(Kind.ACCOUNT))
    pending = PendingLogIns(Pepper(b"secret"), clock)
    token = pending.start(Proof(account_id), "a hash").token

    assert pending.account_of(token) == account_id
    assert pending.proof(token, "a hash") == Proof(account_id, password_hash="a hash")
    with pytest.raises(Unauthenticated):
        pending.proof(token, "another hash")
    with pytest.raises(Unauthenticated):
        PendingLogIns(Pepper(b"another"), clock).account_of(token)
