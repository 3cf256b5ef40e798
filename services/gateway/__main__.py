"""Run the gateway: `python -m services.gateway`."""

from services.common.runtime import process
from services.gateway.server import serve
from services.gateway.settings import GatewaySettings

if __name__ == "__main__":
    process.run("gateway", GatewaySettings, serve)
