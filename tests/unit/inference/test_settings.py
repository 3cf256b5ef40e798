"""Settings with which the inference service refuses to start."""

import os
from pathlib import Path

import pytest

from tests.forked import run_module


@pytest.mark.parametrize("name", ["GROQ_API_KEY", "GROQ_API_KEYS"])
@pytest.mark.parametrize("key", ["gsk_…", "gsk_one,gsk_zwö", "gsk_one\nX-Header: 1"])
def test_a_groq_key_that_is_no_valid_header_value_stops_the_start_with_one_sentence(
    name: str, key: str, tmp_path: Path
) -> None:
    """Otherwise the service starts, and every request fails with a 500 and keeps its slot for minutes."""
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path), name: key}
    done = run_module("services.inference", environment=environment)
    assert done.returncode == 1
    assert done.stderr.startswith(f"inference: Setting {name}: ")
    assert len(done.stderr.splitlines()) == 1
    assert "printable ASCII" in done.stderr
    assert "gsk_" not in done.stderr, "a secret does not belong in a log"
