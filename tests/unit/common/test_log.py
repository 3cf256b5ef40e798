"""One record, one line of JSON."""

import json
import logging
import os
import sys
from typing import Any

import pytest

from services.common.log import JSONLine, QueueingHandler


def _line(level: int = logging.INFO, message: str = "request", **members: Any) -> dict[str, Any]:
    record = logging.makeLogRecord({"name": "services.gateway", "levelno": level, "msg": message, **members})
    record.levelname = logging.getLevelName(level)
    text = JSONLine("gateway").format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_tells_level_logger_message_service_what_was_given_and_the_time() -> None:
    line = _line(request_id="req_1", status=200, created=1_700_000_000.25)
    assert line == {
        "level": "INFO",
        "logger": "services.gateway",
        "message": "request",
        "service": "gateway",
        "request_id": "req_1",
        "status": 200,
        "time": "2023-11-14T22:13:20.250000Z",
    }


def test_a_failure_is_told_with_its_traceback_in_the_same_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        line = _line(logging.ERROR, exc_info=sys.exc_info())
    assert "ValueError: broken" in line["exc_info"]


def test_what_json_has_no_type_for_is_told_in_words() -> None:
    assert _line(error=KeyError("x"))["error"] == "'x'"


@pytest.mark.parametrize("broken", [{"args": (1, 2, 3), "msg": "%d"}, {"msg": "\ud800"}, {"path": "\ud800"}])
def test_a_record_that_cannot_be_formatted_is_told_without_its_words_and_stops_nothing(broken: dict[str, Any]) -> None:
    reading, writing = os.pipe()
    handler = QueueingHandler(writing)
    handler.setFormatter(JSONLine("gateway"))
    handler.handle(logging.makeLogRecord({"name": "services.gateway", "msg": "request", **broken}))
    handler.handle(logging.makeLogRecord({"name": "services.gateway", "msg": "next"}))
    handler.flush()
    os.close(writing)
    with open(reading, encoding="utf-8") as lines:
        first, second = (json.loads(line) for line in lines)
    assert first["message"] == "cannot format a log record"
    assert first["error"] in ("TypeError", "UnicodeEncodeError")
    assert second["message"] == "next"


def test_arguments_are_put_into_the_message() -> None:
    assert _line(message="%d rows", args=(3,))["message"] == "3 rows"
