"""One log record is one line of JSON."""

import json
import logging
import os
import sys
from typing import Any

import pytest

from services.common.telemetry.log import JSONLine, QueueingHandler, failure


def _line(level: int = logging.INFO, message: str = "request", **members: Any) -> dict[str, Any]:
    record = logging.makeLogRecord({"name": "services.gateway", "levelno": level, "msg": message, **members})
    record.levelname = logging.getLevelName(level)
    text = JSONLine("gateway").format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_has_level_logger_message_service_extra_fields_and_time() -> None:
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


def test_an_exception_is_in_the_same_line_with_stack_and_causes_but_without_their_messages() -> None:
    secret = "".join(["can", "ary"])  # Stack frames contain lines of code.
    try:
        try:
            raise ConnectionRefusedError(111, secret)
        except OSError as exc:
            raise ValueError(secret) from exc
    except ValueError:
        line = _line(logging.ERROR, exc_info=sys.exc_info())
    assert "canary" not in json.dumps(line)
    assert "builtins.ConnectionRefusedError errno=111" in line["exc_info"]
    assert line["exc_info"].endswith("builtins.ValueError")
    assert "test_log.py" in line["exc_info"]


@pytest.mark.parametrize("where", ["message", "path"])
def test_the_length_of_a_line_is_bounded(where: str) -> None:
    members: dict[str, Any] = {where: "x" * 1_000_000}
    line = _line(**members)
    assert len(json.dumps(line)) < 2_000
    assert line[where].endswith("…")


def test_a_deeply_recursive_exception_with_many_causes_is_bounded() -> None:
    def fall(depth: int) -> None:
        try:
            if depth:
                fall(depth - 1)
            raise ValueError(depth)
        except ValueError as exc:
            raise KeyError(depth) from exc

    with pytest.raises(KeyError) as raised:
        fall(200)
    assert len(failure(raised.value)) < 64_000


def test_only_the_first_line_of_a_librarys_message_is_logged() -> None:
    """asyncio's messages contain exceptions, with their arguments, in the following lines."""
    record = logging.makeLogRecord({"name": "asyncio", "msg": "Exception in callback\nfuture: canary"})
    assert json.loads(JSONLine("gateway").format(record))["message"] == "Exception in callback"


def test_values_without_a_json_type_are_logged_as_text() -> None:
    assert _line(error=KeyError("x"))["error"] == "'x'"


@pytest.mark.parametrize("broken", [{"args": (1, 2, 3), "msg": "%d"}, {"msg": "\ud800"}, {"path": "\ud800"}])
def test_a_record_that_cannot_be_formatted_is_logged_without_its_message_and_raises_nothing(
    broken: dict[str, Any],
) -> None:
    reading, writing = os.pipe()
    handler = QueueingHandler(writing)
    handler.setFormatter(JSONLine("gateway"))
    handler.handle(logging.makeLogRecord({"name": "services.gateway", "msg": "request", **broken}))
    handler.handle(logging.makeLogRecord({"name": "services.gateway", "msg": "next"}))
    handler.flush()
    os.close(writing)
    with open(reading, encoding="utf-8") as lines:
        first, second = (json.loads(line) for line in lines)
    assert first["message"] == "Cannot format a log record"
    assert first["error"] in ("TypeError", "UnicodeEncodeError")
    assert second["message"] == "next"


def test_arguments_are_put_into_the_message() -> None:
    assert _line(message="%d rows", args=(3,))["message"] == "3 rows"
