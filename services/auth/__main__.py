"""Entry points: `python -m services.auth` runs the server, `python -m services.auth migrate` upgrades the schema."""

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # Imports create what lives until the end. Collections would take a tenth of their time.

    from services.auth import server
    from services.auth.settings import AuthSettings
    from services.common.runtime import process

    match sys.argv[1:]:
        case []:
            process.run("auth", AuthSettings, server.serve)
        case ["migrate"]:
            process.run("auth", AuthSettings, server.migrate)
        case _:
            sys.exit("usage: python -m services.auth [migrate]")
