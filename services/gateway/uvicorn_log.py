"""What uvicorn logs as an error and is none here."""

import logging

_INCOMPLETE = "ASGI callable returned without completing response."
"""An answer that was not sent to its end on purpose: its client reads nothing any more, or the gateway stops."""


def install() -> None:
    """Have answers that end early on purpose be logged as what they are; our own line of the request tells the rest."""
    logger = logging.getLogger("uvicorn.error")
    if not any(isinstance(one, _Demotion) for one in logger.filters):
        logger.addFilter(_Demotion())


class _Demotion(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.getMessage() == _INCOMPLETE:
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True
