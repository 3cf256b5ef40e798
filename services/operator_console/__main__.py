"""Run the operators' console: `python -m services.operator_console`."""

import gc

if __name__ == "__main__":
    gc.disable()  # Imports create what lives until the end. Collections would take a tenth of their time.

    from services.common.runtime import process
    from services.operator_console.server import serve
    from services.operator_console.settings import OperatorConsoleSettings

    process.run("operator-console", OperatorConsoleSettings, serve)
