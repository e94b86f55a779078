import time

import pytest


@pytest.mark.timeout(0.2)
def test_slow():
    time.sleep(9)
