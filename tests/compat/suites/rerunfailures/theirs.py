import pytest

tries = []


def test_flaky():
    tries.append(1)
    assert len(tries) > 1


def test_fails():
    pytest.fail("as it should")
