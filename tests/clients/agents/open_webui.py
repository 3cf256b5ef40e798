"""Open WebUI, set up as in docs/clients.md; its tests use the API that its pages use."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.stack import Key
from tests.ports import free_port

_BIN = Path(__file__).parents[3] / ".venv-clients" / "open-webui" / "bin"
_START_SECONDS = 120


class OpenWebUI:
    """A running Open WebUI, with a session of its only user."""

    def __init__(self, client: httpx.Client, base_url: str) -> None:
        """Take a client of its API, and the address of the gateway."""
        self._client = client
        self._base_url = base_url

    def connect(self, key: Key) -> None:
        """Set the key of the connection, as under Admin Settings, Connections."""
        settings = {
            "ENABLE_OPENAI_API": True,
            "OPENAI_API_BASE_URLS": [f"{self._base_url}/v1"],
            "OPENAI_API_KEYS": [key.secret],
            "OPENAI_API_CONFIGS": {},
        }
        self._client.post("/openai/config/update", json=settings).raise_for_status()

    def models(self) -> list[str]:
        """Return the models that it offers."""
        return [model["id"] for model in self._client.get("/api/models").json()["data"]]

    def chat(self, model: str, messages: list[Any], **members: Any) -> httpx.Response:
        """Send a chat."""
        body = {"model": model, "messages": messages, **members}
        return self._client.post("/api/chat/completions", json=body)


@contextlib.contextmanager
def running_open_webui(base_url: str, key: Key, folder: Path) -> Iterator[OpenWebUI]:
    """Run Open WebUI without a login for the block."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "DATA_DIR": str(folder),
        "WEBUI_AUTH": "False",
        "WEBUI_SECRET_KEY": "secret",
        "OPENAI_API_BASE_URL": f"{base_url}/v1",
        "OPENAI_API_KEY": key.secret,
        # Its own embeddings need a model from the Internet.
        "RAG_EMBEDDING_ENGINE": "openai",
        "OFFLINE_MODE": "true",
    }
    command = [str(_BIN / "open-webui"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "open-webui.log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
    ):
        try:
            token = _signed_in(client, process, log)
            client.headers["authorization"] = f"Bearer {token}"
            yield OpenWebUI(client, base_url)
        finally:
            process.kill()


def _signed_in(client: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            # Without a login, any credentials are those of the only user.
            answer = client.post("/api/v1/auths/signin", json={"email": "", "password": ""})
            if answer.is_success:
                token: str = answer.json()["token"]
                return token
        time.sleep(0.2)
    raise AssertionError(log.read_text())
