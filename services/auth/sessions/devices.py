"""Devices: a browser that logged in to an account before, known again by a token that it keeps.

Strangers' guesses are counted for each network address, and can use up an address that an owner shares with them. A
device that has proved the password once is counted apart from them, so it keeps a way in. The token opens nothing: the
password is asked for all the same.
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
    """A device, and the account that it logged in to."""

    account_id: AccountId
    id: str


class Devices:
    """Makes tokens of devices and reads them. Nothing is stored: a token carries a MAC under the pepper."""

    def __init__(self, pepper: Pepper) -> None:
        """Make and check MACs with `pepper`."""
        self._pepper = pepper

    def mint(self, account_id: AccountId) -> str:
        """Return a token for a device that has just proved the password of an account."""
        device = Device(account_id, secrets.token_hex(16))
        return f"dev_stk_{device.account_id}.{device.id}.{self._mac(device)}"

    def read(self, token: str) -> Device | None:
        """Return whose device a token is; None when it is no token of ours."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        device = Device(AccountId(match[1]), match[2])
        return device if hmac.compare_digest(self._mac(device), match[3]) else None

    def _mac(self, device: Device) -> str:
        return self._pepper.digest(f"device {device.account_id} {device.id}")
