"""Device tokens, which identify browsers that have logged in to an account before.

Failed log-ins are limited per network address, so attackers can use up the limit of an address that they share with an
account owner. Devices that have proved the password once have their own limit, so their owners can still log in. A
device token grants no access: the password is still required.
"""

import hmac
import re
import secrets
from dataclasses import dataclass

from services.auth.accounts.model import AccountId
from services.auth.keys.pepper import Pepper

_TOKEN = re.compile(r"dev_stk_(acc_[0-9A-Z]{26})\.([0-9a-f]{32})\.([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Device:
    """A browser that has logged in to an account."""

    account_id: AccountId
    id: str


class Devices:
    """Creates and verifies device tokens. They are authenticated by a MAC under the pepper, not stored."""

    def __init__(self, pepper: Pepper) -> None:
        self._pepper = pepper

    def mint(self, account_id: AccountId) -> str:
        """Return a token for a new device of an account. The caller must have authenticated the owner."""
        device = Device(account_id, secrets.token_hex(16))
        return f"dev_stk_{device.account_id}.{device.id}.{self._mac(device)}"

    def read(self, token: str) -> Device | None:
        """Return the device of a token, or None if the token is invalid."""

        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        device = Device(AccountId(match[1]), match[2])
        return device if hmac.compare_digest(self._mac(device), match[3]) else None

    def _mac(self, device: Device) -> str:
        return self._pepper.digest(f"device {device.account_id} {device.id}")
