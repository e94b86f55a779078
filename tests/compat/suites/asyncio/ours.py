import asyncio

import mlflow
import pytest


@pytest.mark.asyncio
async def test_ours_async(mlflow_traces):
    @mlflow.trace
    async def agent():
        await asyncio.sleep(0)

    await asyncio.gather(agent(), agent())
    assert len(mlflow_traces) == 2
