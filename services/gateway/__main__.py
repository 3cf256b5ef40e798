"""Run the gateway: `python -m services.gateway`."""

import gc

if __name__ == "__main__":
    gc.disable()  # Imports create what lives until the end. Collections would take a tenth of their time.

    from services.common.runtime import process
    from services.gateway.server import serve
    from services.gateway.settings import GatewaySettings

    process.run("gateway", GatewaySettings, serve)
