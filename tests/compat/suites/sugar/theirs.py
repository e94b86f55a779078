import pytest


def test_a():
    pass


def test_fails():
    pytest.fail("as it should")
