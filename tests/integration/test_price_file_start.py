"""An invalid price file stops every program that reads it, with one sentence."""

from pathlib import Path

import pytest

from tests.forked import run_module
from tests.integration.auth_process import environment


@pytest.mark.parametrize(
    ("module", "name"),
    [("services.inference", "inference"), ("services.gateway", "gateway"), ("services.local.worker", "stack")],
)
def test_an_invalid_price_file_stops_the_start_with_one_sentence(tmp_path: Path, module: str, name: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('[models."openai/gpt-oss-20b"]\ninput = 0.1\n')
    settings = {
        "PRICES_FILE": str(file),
        "GROQ_API_KEY": "gsk_test",
        "INFERENCE_LISTEN": f"unix:{tmp_path}/i.sock",
        "INFERENCE_METRICS_LISTEN": "",
        "GATEWAY_METRICS_LISTEN": "",
        "GATEWAY_PORT": "0",
    }

    done = run_module(module, environment=environment(tmp_path, settings), timeout=20)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f'{name}: Setting PRICES_FILE: {file}: [models."openai/gpt-oss-20b"]: '
        "`input` and `output` belong together. Set both; 0 means free."
    )
