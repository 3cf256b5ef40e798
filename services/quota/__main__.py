"""Run the quota service: `python -m services.quota`."""

import gc

if __name__ == "__main__":
    gc.disable()  # Imports create what lives until the end. Collections would take a tenth of their time.

    from services.common.runtime import process
    from services.quota.server import serve
    from services.quota.settings import QuotaSettings

    process.run("quota", QuotaSettings, serve)
