"""Revocation: a number, not a hope."""

import asyncio
import time

import httpx

from tests.e2e.stack import Stack, say


async def test_a_revoked_key_is_refused_within_one_second_on_every_gateway(stack: Stack) -> None:
    key = await stack.create_key()
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:

        async def status(gateway: str) -> int:
            response = await client.post(f"{gateway}/api/v1/chat", headers=key.headers, json=say("hi"))
            return response.status_code

        assert [await status(gateway) for gateway in stack.gateways] == [200] * len(stack.gateways)
        await stack.revoke_key(key)
        revoked_at = time.monotonic()
        for gateway in stack.gateways:
            while await status(gateway) != 401:
                assert time.monotonic() - revoked_at < 1, f"{gateway} still answers a revoked key"
                await asyncio.sleep(0.01)


async def test_a_key_works_at_once_after_its_creation(stack: Stack) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        for gateway in stack.gateways * 3:
            key = await stack.create_key()
            response = await client.post(f"{gateway}/api/v1/chat", headers=key.headers, json=say("hi"))
            assert response.status_code == 200, response.text
