"""A real browser on a running stack. Only `make test-browser` runs these: they need Debian's chromium."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.e2e.stack import Stack, running_stack

if not os.environ.get("BROWSER"):
    collect_ignore_glob = ["test_*.py"]
else:
    from playwright.async_api import Browser, async_playwright

    @pytest.fixture(scope="session")
    def stack() -> Iterator[Stack]:
        """Yield a running stack."""
        with running_stack(INFERENCE_KEY_COOLDOWN_SECONDS_MAX="0", AUTH_SIGN_UPS_PER_ADDRESS_MAX="100000") as running:
            yield running

    @pytest.fixture
    async def chromium() -> AsyncIterator[Browser]:
        """Yield Debian's chromium in headless mode."""
        path = shutil.which("chromium")
        assert path, "no chromium; `make test-browser` installs it where apt may"
        options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=path, args=options)
            yield browser
            await browser.close()
