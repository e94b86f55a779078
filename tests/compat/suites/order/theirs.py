import pytest

ran = []


@pytest.mark.order(2)
def test_second():
    assert ran == [1]


@pytest.mark.order(1)
def test_first():
    ran.append(1)
