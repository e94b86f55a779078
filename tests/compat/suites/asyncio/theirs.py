import asyncio

import pytest


@pytest.mark.asyncio
async def test_async():
    await asyncio.sleep(0)
