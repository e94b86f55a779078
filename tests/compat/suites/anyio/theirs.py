import anyio
import pytest


@pytest.mark.anyio
async def test_async():
    await anyio.sleep(0)
