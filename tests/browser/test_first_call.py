"""A first-time user: from `make run` to a call with a key made in the console, in under two minutes."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, expect

from tests.browser.user import PASSWORD
from tests.e2e.make_run.runner import Runner, free_ports
from tests.e2e.stack import say

_SECONDS_MAX = 120
_KEY_PRESS_MS = 150
"""Pace of a slow typist."""
_READING_SECONDS = 2.0
"""Time to find one's way on a new page."""


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """Start what `make run` starts, with an empty data folder."""
    running = Runner(tmp_path / "var", free_ports(), output=subprocess.PIPE)
    yield running
    running.stop()
    assert running.process.stdout is not None
    running.process.stdout.close()


class Stopwatch:
    """Prints the time of each step."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self._began

    def step(self, name: str) -> None:
        """Print when a step ended."""
        print(f"{self.seconds:5.1f} s  {name}")


async def test_a_first_time_user_calls_the_api_within_two_minutes(chromium: Browser, runner: Runner) -> None:
    watch = Stopwatch()
    runner.read_until("is ready")
    watch.step("make run is ready")
    page = await chromium.new_page()
    await page.goto(f"http://127.0.0.1:{runner.port}/")
    await page.wait_for_timeout(_READING_SECONDS * 1000)
    await page.get_by_role("link", name="Sign up").first.click()
    watch.step("the start page is read, and the form of the sign-up is open")

    await page.get_by_label("E-mail").press_sequentially("ada@example.com", delay=_KEY_PRESS_MS)
    await page.get_by_label("Password").press_sequentially(PASSWORD, delay=_KEY_PRESS_MS)
    await page.get_by_role("main").get_by_role("button", name="Sign up").click()
    await page.wait_for_url("**/keys")
    watch.step("signed up")

    await page.wait_for_timeout(_READING_SECONDS * 1000)
    await page.get_by_label("Name", exact=True).press_sequentially("laptop", delay=_KEY_PRESS_MS)
    await page.get_by_role("button", name="Create key").click()
    secret = await page.get_by_label("The new API key").inner_text()
    watch.step("a key is created")

    await page.wait_for_timeout(_READING_SECONDS * 1000)
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        url = f"http://127.0.0.1:{runner.port}/api/v1/chat"
        answer = await client.post(url, headers={"authorization": f"Bearer {secret}"}, json=say("hi"))
    assert answer.status_code == 200
    watch.step("the first call is answered")

    await page.reload()
    await expect(page.get_by_role("row", name="laptop")).to_contain_text("1 of 1,000")
    watch.step("the console shows it")
    assert watch.seconds < _SECONDS_MAX
