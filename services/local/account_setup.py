"""Creation of the first account: `python -m services.local.account_setup`, with JSON as its input and its output."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from services.common.errors import ServiceError, StartError
from services.local.first_account import EMAIL
from services.local.first_key import first_key
from services.local.log_in_link import log_in_link


async def _set_up(request: dict[str, Any]) -> dict[str, str]:
    auth = {"auth_target": request["auth_target"], "admin_token": request["admin_token"]}
    key = await first_key(Path(request["data_dir"]), **auth)
    link = await log_in_link(EMAIL, **auth) if request["wants_log_in_link"] else ""
    return {"secret": key.secret, "denial": key.denial, "log_in_link": link}


def main() -> None:
    """Read the request from standard input, and write the account, or an error, to standard output."""
    try:
        answer = asyncio.run(_set_up(json.load(sys.stdin)))
    except StartError as exc:
        answer = {"error": str(exc)}
    except ServiceError as exc:
        answer = {"error": f"The first account and key cannot be created: {exc.message}"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
