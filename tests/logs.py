"""Log records of the services."""

import logging

import pytest


def service_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the captured records of the services, without those of libraries.

    gRPC's poller logs an error with asyncio's logger if the event loop of an earlier test has been closed.
    """
    return [record for record in caplog.records if record.name.startswith("services.")]
