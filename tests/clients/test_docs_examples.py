"""The JavaScript examples of the users' docs, with the packages that they import."""

import asyncio
import os
import subprocess

import httpx
import pytest

from services.gateway.console.docs.outline import PAGES, markdown_path_of
from tests.clients.node import npm
from tests.docs_examples import Example, examples_in, source_of
from tests.e2e.stack import Stack

_SECONDS = 60
_EXAMPLES = [one for name in PAGES for one in examples_in(name, source_of(name)) if one.imports_package]


@pytest.mark.parametrize("example", _EXAMPLES, ids=str)
async def test_an_example_runs_as_shown(clients_stack: Stack, example: Example) -> None:
    if reason := npm.problem():
        pytest.skip(reason)
    key = await clients_stack.create_key()
    async with httpx.AsyncClient(base_url=clients_stack.base_url, trust_env=False) as http:
        served = examples_in(example.page, (await http.get(markdown_path_of(example.page))).text)
    [text] = [one.text for one in served if str(one) == str(example)]
    done = await asyncio.to_thread(
        subprocess.run,
        [npm.node(), "--input-type=module", "-"],
        input=text,
        cwd=npm.FOLDER,
        env={**os.environ, "STACK_API_KEY": key.secret},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "the example shows nothing"
