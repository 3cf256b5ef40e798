"""`make run` reports what stops it in one readable sentence, however long the setting at fault is."""

from pathlib import Path

import pytest

from services.common.errors import StartError
from services.local import valkey
from services.local.data_dir import prepare_data_dir


def test_an_overlong_data_dir_that_cannot_be_written_is_shortened(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError) as refused:
        prepare_data_dir(tmp_path / "file" / "x" / Path(*["long"] * 180))
    assert len(str(refused.value)) < 300
    assert "Set DATA_DIR" in str(refused.value)


def test_a_server_that_cannot_be_run_is_named_by_its_setting_without_the_value() -> None:
    with pytest.raises(StartError) as refused:
        valkey.find_server("canary" * 100)
    assert str(refused.value).startswith("Setting STACK_VALKEY_SERVER: ")
    assert "canary" not in str(refused.value)
