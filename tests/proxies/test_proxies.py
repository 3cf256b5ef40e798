"""Sign-up, log-in, forms and streams behind nginx and Caddy with the documented files, and behind nginx' defaults."""

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.console.browser import PASSWORD, Browser, secret_of
from tests.e2e.stack import Stack, running_stack, say
from tests.proxies.proxies import DEFAULT_NGINX, HOST, ROOT, SETTINGS, Proxy, Resolved, caddy, nginx

_KINDS = ("nginx", "caddy", "nginx by default", "nginx by default, trusted")


@contextmanager
def _proxied(kind: str, folder: Path) -> Iterator[tuple[Stack, Proxy]]:
    settings = dict(SETTINGS)
    if kind == "nginx by default":
        del settings["GATEWAY_TRUSTED_PROXIES"]
    with running_stack(**settings) as stack:  # type: ignore[arg-type]
        file = "Caddyfile" if kind == "caddy" else "nginx.conf"
        text = DEFAULT_NGINX if "default" in kind else (ROOT / "deploy" / "proxies" / file).read_text()
        with (caddy if kind == "caddy" else nginx)(folder, stack.base_url, text) as proxy:
            yield stack, proxy


@pytest.fixture(params=_KINDS)
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Stack, Proxy]]:
    with _proxied(request.param, tmp_path) as (stack, proxy):
        yield request.param, stack, proxy


async def test_sign_up_log_in_every_form_and_streams_work(proxied: tuple[str, Stack, Proxy]) -> None:
    kind, stack, proxy = proxied
    browser, email = Browser(stack), f"{secrets.token_hex(6)}@example.com"
    browser.origin = f"https://{HOST}"
    browser.client = httpx.AsyncClient(
        base_url=browser.origin, transport=Resolved(proxy), timeout=20, headers={"accept": "text/html"}
    )
    async with browser:
        assert "Three steps" in (await browser.sign_up(email)).text
        made = await browser.submit("/keys", "/keys", {"name": "laptop"})
        secret = secret_of(made.text)
        assert f"curl https://{HOST}/api/v1/chat" in made.text, "the page shows an address that users cannot reach"
        await browser.submit("/account", "/logout", {})
        assert "API keys" in (await browser.submit("/login", "/login", {"email": email, "password": PASSWORD})).text
        forged = await browser.client.post(
            "/logout", data={"csrf_token": "x"}, headers={"origin": "https://evil.example"}
        )
        assert forged.status_code == 403
        assert f"this console is https://{HOST}" in forged.text
        names = {cookie.name for cookie in browser.client.cookies.jar}
        if kind != "nginx by default":  # With this file the gateway cannot detect that its users come over HTTPS.
            assert names == {"__Host-stack_session", "__Host-stack_visitor", "__Host-stack_device"}
            assert all(cookie.secure for cookie in browser.client.cookies.jar)
        bearer = {"authorization": f"Bearer {secret}"}
        if "default" not in kind:
            body = say("[[standin:slow token_ms=100]] [[standin:tokens count=20]]", stream=True)
            began, first = time.monotonic(), 0.0
            async with browser.client.stream("POST", "/api/v1/chat", headers=bearer, json=body) as answer:
                async for line in answer.aiter_lines():
                    first = first or (time.monotonic() - began if re.match("data: .*content", line) else 0.0)
            assert first < (time.monotonic() - began) / 2, "the stream is buffered on its way"
        assert (await browser.client.post("/api/v1/chat", headers=bearer, json=say("hi"))).status_code == 200


def test_the_files_for_traefik_configure_the_same_as_the_others() -> None:
    """Traefik cannot be installed here; its files are parsed, and its headers are those of test_origins.py."""
    import yaml

    static = yaml.safe_load((ROOT / "deploy" / "proxies" / "traefik.yaml").read_text())
    routes = yaml.safe_load((ROOT / "deploy" / "proxies" / "traefik-routes.yaml").read_text())["http"]
    router, service = routes["routers"]["stack"], routes["services"]["stack"]["loadBalancer"]
    assert router["rule"] == f"Host(`{HOST}`)"
    assert set(router["entryPoints"]) <= set(static["entryPoints"])
    assert router["tls"]["certResolver"] in static["certificatesResolvers"]
    assert static["providers"]["file"]["filename"].endswith("traefik-routes.yaml")
    assert service["servers"] == [{"url": "http://127.0.0.1:8080"}]
    assert service["passHostHeader"] is True
