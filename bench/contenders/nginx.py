"""nginx `proxy_pass`: the lower bound for the cost of a proxy."""

from pathlib import Path

from bench.mock import MODEL, nginx_version, start_nginx
from tests.ports import free_port

_START_SECONDS = 5
_TEMPLATE = Path(__file__).with_name("nginx.conf")


class Nginx:
    """One nginx process."""

    name = "nginx"
    model = MODEL
    features = "none"
    surfaces: tuple[str, ...] = ()

    def __init__(self, folder: Path, *, upstream: str) -> None:
        """Create it in front of `upstream`, the mock's address without a path."""
        self._folder = folder
        self._upstream = upstream.removeprefix("http://")
        self._port = free_port()
        self.headers = {"Authorization": "Bearer anything"}
        self.base_url = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.base_url}/openai/v1/chat/completions"

    @property
    def version(self) -> str:
        """The version of nginx."""
        return nginx_version()

    @property
    def parts(self) -> dict[str, int]:
        """Its one process."""
        return {"nginx": self._process.pid}

    def start(self) -> None:
        """Start it and return when it answers."""
        template = _TEMPLATE.read_text(encoding="utf-8")
        text = template.format(folder=self._folder, port=self._port, upstream=self._upstream)
        self._process = start_nginx(text, folder=self._folder, name="nginx")
        self._process.until_answers(f"{self.base_url}/openai/v1/models", seconds=_START_SECONDS)

    def stop(self) -> None:
        """Stop it."""
        self._process.stop()

    def charged(self) -> None:
        """Return None: it does not count."""
        return
