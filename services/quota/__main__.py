"""Run the quota service: `python -m services.quota`."""

from services.common.runtime import process
from services.quota.server import serve
from services.quota.settings import QuotaSettings

if __name__ == "__main__":
    process.run("quota", QuotaSettings, serve)
