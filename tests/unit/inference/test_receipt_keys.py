"""Keys and signatures of receipts, against the examples of RFC 8037, and their settings."""

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr, ValidationError

from services.common.errors import StartError
from services.inference.receipts.keys import ReceiptKeys, key_id, parse_private_key, parse_public_key
from services.inference.receipts.wiring import receipt_keys
from services.inference.settings import InferenceSettings

# RFC 8037, appendix A.
_SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
_X = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
_THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
_OTHER_SEED = "0f" * 32


def _private(seed: str = _SEED) -> Ed25519PrivateKey:
    return parse_private_key(seed)


def _published(receipts: ReceiptKeys) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(receipts.key_set)["keys"]
    return found


def test_a_key_has_the_public_half_and_the_thumbprint_of_rfc_8037() -> None:
    (jwk,) = _published(ReceiptKeys([_private()]))

    assert jwk == {"kty": "OKP", "crv": "Ed25519", "x": jwk["x"], "kid": _THUMBPRINT, "alg": "EdDSA", "use": "sig"}
    assert jwk["x"] == _X
    assert key_id(parse_public_key(jwk["x"])) == _THUMBPRINT


def test_a_signature_verifies_with_another_library_and_not_if_a_character_changes() -> None:
    receipts = ReceiptKeys([_private()])
    token = receipts.sign(b'{"id":"req_1"}')

    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": _THUMBPRINT, "typ": "JWT"}
    public = jwt.PyJWK(_published(receipts)[0])
    assert jwt.decode(token, public, algorithms=["EdDSA"]) == {"id": "req_1"}
    header, payload, signature = token.split(".")
    other_payload = base64.urlsafe_b64encode(b'{"id":"req_2"}').rstrip(b"=").decode()
    forged = [
        f"{header}.{other_payload}.{signature}",
        f"{header}.{payload}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}",
        ReceiptKeys([_private(_OTHER_SEED)]).sign(b'{"id":"req_1"}'),
    ]
    for one in forged:
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(one, public, algorithms=["EdDSA"])


def test_after_a_rotation_the_new_key_signs_and_old_receipts_still_verify() -> None:
    old = ReceiptKeys([_private(_OTHER_SEED)])
    receipt = old.sign(b"{}")
    (published,) = _published(old)
    stages = [
        ReceiptKeys([_private(_OTHER_SEED), _private()]),
        ReceiptKeys([_private(), _private(_OTHER_SEED)]),
        ReceiptKeys([_private()], [parse_public_key(published["x"])]),
    ]

    signed_by = [jwt.get_unverified_header(stage.sign(b"{}"))["kid"] for stage in stages]
    assert signed_by == [published["kid"], _THUMBPRINT, _THUMBPRINT]
    for stage in stages:
        known = {jwk["kid"]: jwk for jwk in _published(stage)}
        assert set(known) == {published["kid"], _THUMBPRINT}
        key = jwt.PyJWK(known[jwt.get_unverified_header(receipt)["kid"]])
        assert jwt.decode(receipt, key, algorithms=["EdDSA"]) == {}


def test_a_key_in_both_settings_is_published_once() -> None:
    assert len(_published(ReceiptKeys([_private(), _private()], [_private().public_key()]))) == 1


@pytest.mark.parametrize("text", ["", "12", _SEED[:-1], _SEED + "0", "g" * 64, f" {_SEED}"])
def test_an_invalid_private_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits") as raised:
        parse_private_key(text)
    assert not text or text not in str(raised.value)


@pytest.mark.parametrize("text", ["", "x", _X[:-4], _X + "AAAA", _X[:-1] + "é", "+" * 43, f"{_X}="])
def test_an_invalid_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="public keys"):
        parse_public_key(text)


def _settings(folder: Path, **members: Any) -> InferenceSettings:
    return InferenceSettings(data_dir=folder, **members)


def _kids(settings: InferenceSettings) -> list[str]:
    found = receipt_keys(settings)
    assert found is not None
    return [jwk["kid"] for jwk in _published(found)]


def test_with_sqlite_a_key_is_generated_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    assert _kids(_settings(tmp_path)) == _kids(_settings(tmp_path))
    (path,) = tmp_path.iterdir()
    assert (path.name, path.stat().st_mode & 0o777) == ("receipt-key", 0o600)


def test_with_postgres_receipts_are_signed_once_a_key_is_set(tmp_path: Path) -> None:
    url = "postgresql://h/n"
    assert receipt_keys(_settings(tmp_path, database_url=url)) is None
    assert _kids(_settings(tmp_path, database_url=url, receipt_keys=SecretStr(f"{_SEED}, {_OTHER_SEED}"))) == [
        key_id(_private(seed).public_key()) for seed in (_SEED, _OTHER_SEED)
    ]
    assert list(tmp_path.iterdir()) == []


def test_removed_public_keys_are_published(tmp_path: Path) -> None:
    settings = _settings(tmp_path, receipt_keys=SecretStr(_OTHER_SEED), receipt_keys_removed=f"{_X},")
    assert _kids(settings)[1:] == [_THUMBPRINT]


def test_an_invalid_setting_stops_the_start_without_showing_the_key(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="INFERENCE_RECEIPT_KEYS: expected keys of 64") as raised:
        receipt_keys(_settings(tmp_path, receipt_keys=SecretStr("c0ffee")))
    assert "c0ffee" not in str(raised.value)
    with pytest.raises(ValidationError, match=r"jwks\.json"):
        _settings(tmp_path, receipt_keys_removed="nonsense")


def test_a_damaged_key_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "receipt-key").write_text("damaged")
    with pytest.raises(StartError, match=r"receipt-key: expected keys of 64"):
        receipt_keys(_settings(tmp_path))


def test_a_private_key_is_not_in_the_representation_of_its_objects(tmp_path: Path) -> None:
    settings = _settings(tmp_path, receipt_keys=SecretStr(_SEED))
    assert _SEED not in repr(settings)
    assert _SEED not in repr(vars(receipt_keys(settings)))
