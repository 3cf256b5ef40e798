"""The first account of a new installation, as the startup message shows it.

A process that ends creates it (`account_setup.py`), so that the supervisor does not hold gRPC.
"""

import json
from asyncio.subprocess import Process
from dataclasses import dataclass

from services.common.errors import StartError
from services.common.runtime import secret_file
from services.local.configuration import Configuration

EMAIL = "you@example.com"
"""E-mail address of the first account."""

FILE = "first-api-key"
"""Name of the file of its first key in DATA_DIR."""


@dataclass(frozen=True, slots=True)
class FirstKey:
    """The API key to show at startup."""

    secret: str
    denial: str
    """Reason why the key is denied: `revoked`, `expired`, or `unknown` with another database. Empty if it is active."""


@dataclass(frozen=True, slots=True)
class FirstAccount:
    """The account to show at startup."""

    key: FirstKey
    log_in_link: str
    """Link to choose the account's password; empty if there is none."""


async def first_account(setup: Process, settings: Configuration) -> FirstAccount:
    """Return the first account, which is created on the first start. Waits up to 30 seconds for auth.

    Args:
        setup: A running `services.local.account_setup`.
        settings: Settings of the stack.

    Raises:
        StartError: It cannot be created, or its key's file cannot be written.
    """
    token = settings.admin_token or secret_file.read_or_create(settings.data_dir / "admin-token")
    request = {
        "data_dir": str(settings.data_dir),
        "auth_target": settings.targets["auth"],
        "admin_token": token,
        "wants_log_in_link": settings.console,
    }
    output, _ = await setup.communicate(json.dumps(request).encode())
    answer = json.loads(output or "{}")
    if "secret" not in answer:
        raise StartError(answer.get("error") or "The first account and key cannot be created.")
    return FirstAccount(FirstKey(answer["secret"], answer["denial"]), answer["log_in_link"])
