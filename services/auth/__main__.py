"""Entry points: `python -m services.auth` runs the server, `python -m services.auth migrate` upgrades the schema."""

import sys

from services.auth import server
from services.auth.settings import AuthSettings
from services.common.runtime import process

if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            process.run("auth", AuthSettings, server.serve)
        case ["migrate"]:
            process.run("auth", AuthSettings, server.migrate)
        case _:
            sys.exit("usage: python -m services.auth [migrate]")
