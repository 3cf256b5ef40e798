"""LiteLLM's proxy, from PyPI in a separate environment, with its master key and otherwise default settings.

One worker: the default, and the recommendation of its documentation for most deployments (docs/proxy/server_tuning).
"""

import json
import subprocess
from pathlib import Path

from bench.mock import MODEL
from bench.processes import DidNotStart, Process, plain_environment
from tests.ports import free_port

ENVIRONMENT = Path(".venv-bench/litellm").absolute()
_START_SECONDS = 90
_MASTER_KEY = "sk-bench"


class LiteLLM:
    """The proxy with one model, `groq/openai/gpt-oss-20b`."""

    name = "LiteLLM"
    model = "gpt-oss-20b"

    def __init__(self, folder: Path, *, groq_base_url: str) -> None:
        """Create it in front of the mock at `groq_base_url`."""
        self._folder = folder
        self._upstream = f"{groq_base_url}/openai/v1"
        self._port = free_port()
        self.headers = {"Authorization": f"Bearer {_MASTER_KEY}"}
        self.base_url = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.base_url}/v1/chat/completions"

    @property
    def version(self) -> str:
        """Version of the package."""
        code = "from importlib.metadata import version; print(version('litellm'))"
        command = (str(ENVIRONMENT / "bin/python"), "-c", code)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    @property
    def parts(self) -> dict[str, int]:
        """Its one process."""
        return {"litellm": self._process.pid}

    def start(self) -> None:
        """Start it and return when it answers.

        Raises:
            DidNotStart: It is not installed, or does not start.
        """
        program = ENVIRONMENT / "bin/litellm"
        if not program.exists():
            raise DidNotStart("it is not installed; the output of make says why")
        configuration = self._folder / "litellm.yaml"
        configuration.write_text(json.dumps(self._configuration()), encoding="utf-8")
        command = (str(program), "--config", str(configuration), "--host", "127.0.0.1", "--port", str(self._port))
        # Loopback only: without this setting it would fetch its price list from GitHub.
        environment = plain_environment(LITELLM_LOCAL_MODEL_COST_MAP="True", PATH=f"{ENVIRONMENT}/bin:/usr/bin:/bin")
        self._process = Process(command, log=self._folder / "litellm.log", environment=environment)
        self._process.until_answers(f"{self.base_url}/health/liveliness", seconds=_START_SECONDS)

    def stop(self) -> None:
        """Stop it."""
        self._process.stop()

    def charged(self) -> None:
        """Return None: without a database it does not count."""
        return

    def _configuration(self) -> dict[str, object]:
        parameters = {"model": f"groq/{MODEL}", "api_base": self._upstream, "api_key": "gsk_bench"}
        return {
            "model_list": [{"model_name": self.model, "litellm_params": parameters}],
            "general_settings": {"master_key": _MASTER_KEY},
            "litellm_settings": {"telemetry": False},
        }
