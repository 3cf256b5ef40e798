"""Real reverse proxies in front of a stack, with the documented files and certificates of a test authority."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import trustme

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
HOST = "console.example.com"
SETTINGS = {"AUTH_CONSOLE_URL": f"https://{HOST}", "GATEWAY_TRUSTED_PROXIES": '["127.0.0.1"]'}
"""The settings that the documented files prescribe for the gateway."""
_START_SECONDS = 10

DEFAULT_NGINX = """
server {
    listen 443 ssl;
    server_name console.example.com;
    ssl_certificate /etc/ssl/console.example.com/fullchain.pem;
    ssl_certificate_key /etc/ssl/console.example.com/privkey.pem;
    location / { proxy_pass http://127.0.0.1:8080; }
}
"""
"""nginx with its defaults: Host is rewritten, and no header is added."""


class Proxy:
    """A running proxy.

    Attributes:
        port: Where it listens for HTTPS.
        context: Trusts its certificate.
    """

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.port = port
        self.context = context


class Resolved(httpx.AsyncHTTPTransport):
    """Connects to the proxy's port for the one host, like a browser with an entry in its hosts file."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(verify=proxy.context)
        self._port = proxy.port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        sent = httpx.Request(
            request.method,
            request.url.copy_with(host="127.0.0.1", port=self._port),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": HOST},
        )
        return await super().handle_async_request(sent)


@contextmanager
def nginx(folder: Path, gateway: str, text: str) -> Iterator[Proxy]:
    """Run nginx with one of our files for the block, with names and ports of the test."""
    proxy, certificate, key = _certificates(folder)
    text = text.replace("/etc/ssl/console.example.com/fullchain.pem", str(certificate))
    text = text.replace("/etc/ssl/console.example.com/privkey.pem", str(key))
    text = text.replace("127.0.0.1:8080", gateway.removeprefix("http://"))
    text = text.replace("listen 443", f"listen 127.0.0.1:{proxy.port}").replace(
        "listen 80;", f"listen 127.0.0.1:{free_port()};"
    )
    (folder / "site.conf").write_text(text)
    paths = " ".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = f"error_log {folder}/error.log; pid {folder}/nginx.pid; daemon off; events {{}}\n"
    main += f"http {{ access_log off; {paths} include {folder}/site.conf; }}\n"
    (folder / "nginx.conf").write_text(main)
    with _running(("nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")), folder, proxy):
        yield proxy


@contextmanager
def caddy(folder: Path, gateway: str, text: str) -> Iterator[Proxy]:
    """Run Caddy with one of our files for the block, with the test's certificate, since no public authority is
    reachable.
    """
    proxy, certificate, key = _certificates(folder)
    text = text.replace("127.0.0.1:8080", gateway.removeprefix("http://"))
    text = text.replace(f"{HOST} {{", f"{HOST}:{proxy.port} {{\n\tbind 127.0.0.1\n\ttls {certificate} {key}")
    options = f"{{\n\tadmin off\n\tauto_https disable_redirects\n\thttp_port {free_port()}\n}}\n"
    (folder / "Caddyfile").write_text(options + text)
    command = ("caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile")
    with _running(command, folder, proxy):
        yield proxy


def _certificates(folder: Path) -> tuple[Proxy, Path, Path]:
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    certificate, key = folder / "fullchain.pem", folder / "privkey.pem"
    certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return Proxy(free_port(), context), certificate, key


@contextmanager
def _running(command: Sequence[str], folder: Path, proxy: Proxy) -> Iterator[None]:
    assert shutil.which(command[0]), f"no {command[0]}; `make test-proxies` installs it where apt may"
    environment = {"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_DATA_HOME": str(folder)}
    with (folder / "proxy.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        until = time.monotonic() + _START_SECONDS
        while not _listens(proxy.port):
            assert process.poll() is None, (folder / "proxy.log").read_text()
            assert time.monotonic() < until, f"{command[0]} does not listen"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=_START_SECONDS)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
